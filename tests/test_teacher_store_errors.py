"""Bad teacher stores: each is named, with what mends it, and nothing is lost."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from espnet_hkd.errors import MissingTeacherError, StoreError
from espnet_hkd.teacher.store import TeacherStore
from tests.teacher_material import SETTINGS, TEXTS, build_words, files, flip


def test_a_missing_store_says_how_to_make_one(tmp_path):
    with pytest.raises(StoreError, match=r"no teacher store(.|\n)*extract-teacher"):
        TeacherStore.open(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"{", "cannot be read", id="cut off"),
        pytest.param(b"\xff\xfe", "cannot be read", id="not text"),
        pytest.param(b"[]", "cannot be read", id="a list"),
        pytest.param(b"{}", "cannot be read", id="no format"),
        pytest.param(b"[" * 100_000, "RecursionError", id="deep"),
        pytest.param(b" " * (1 << 24) + b"{}", "at most 16,777,216 bytes", id="huge"),
        pytest.param(b'{"format": 1}', "not the record", id="no fields"),
        pytest.param(b'{"format": 2}', "format 2(.|\n)*update espnet_hkd", id="later"),
    ],
)
def test_an_unusable_store_json_is_named(tmp_path, content, said):
    build_words(TEXTS, tmp_path)
    (tmp_path / "store.json").write_bytes(content)
    with pytest.raises(StoreError, match=said):
        TeacherStore.open(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"width": None},
        {"width": float("inf")},
        {"dtype": "int8"},
        {"dtype": ["float16"]},
        {"cleaner": ["tacotron"]},
        {"texts": "many"},
        {"texts": float("nan")},
        {"example": 7},
        {"shards": None},
        {"shards": [1]},
        {"shards": "ab"},
    ],
    ids=str,
)
def test_a_record_with_values_of_another_kind_is_named(tmp_path, change):
    build_words(TEXTS, tmp_path)
    record = json.loads((tmp_path / "store.json").read_text()) | change
    (tmp_path / "store.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match="not the record of a teacher store"):
        TeacherStore.open(tmp_path)
    with pytest.raises(StoreError):
        build_words(["NEW"], tmp_path)


@pytest.mark.parametrize(
    "file", ["../shard-00000.safetensors", "/dev/zero", "shard-00001.safetensors", 3]
)
def test_a_shard_outside_the_folder_is_not_opened(tmp_path, file):
    build_words(TEXTS, tmp_path / "store")
    build_words(TEXTS, tmp_path)
    path = tmp_path / "store" / "store.json"
    record = json.loads(path.read_text())
    record["shards"][0]["file"] = file
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"not .shard-00000\.safetensors."):
        TeacherStore.open(tmp_path / "store")


@pytest.mark.parametrize(
    "change", [{"part": -1}, {"part": 2}, {"parts": 10**12}, {"parts": None}], ids=str
)
def test_a_part_that_cannot_be_is_named(tmp_path, change):
    build_words(TEXTS, tmp_path, shards=2, only=1)
    path = tmp_path / "part-1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match="not a record of a teacher store"):
        build_words(TEXTS, tmp_path, shards=2)


def test_a_later_format_is_not_overwritten(tmp_path):
    build_words(TEXTS, tmp_path)
    (tmp_path / "store.json").write_text('{"format": 2}')
    with pytest.raises(StoreError, match="format 2"):
        build_words(TEXTS, tmp_path)
    assert (tmp_path / "store.json").read_text() == '{"format": 2}'


@pytest.mark.parametrize(
    "asked",
    [{"plm": "another"}, {"layer": 1}, {"plm": "words", "layer": 0}],
    ids=str,
)
def test_a_store_of_another_plm_or_layer_is_refused_on_opening(tmp_path, asked):
    build_words(TEXTS, tmp_path)
    assert len(TeacherStore.open(tmp_path, plm="words", layer=2)) == len(TEXTS)
    assert len(TeacherStore.open(tmp_path, plm=SETTINGS.digest)) == len(TEXTS)
    with pytest.raises(StoreError, match=r"another PLM or layer(.|\n)*words, layer 2"):
        TeacherStore.open(tmp_path, **asked)


@pytest.mark.parametrize(
    "other",
    [
        {"digest": "e" * 64},
        {"layer": 1},
        {"width": 6},
        {"dtype": "float32"},
        {"lower": True},
        {"cleaner": "tacotron"},
    ],
    ids=str,
)
def test_a_store_is_not_continued_with_other_settings(tmp_path, other):
    build_words(TEXTS, tmp_path)
    before = files(tmp_path)
    with pytest.raises(StoreError, match=f"(?s)already holds.*{next(iter(other))}"):
        build_words(["Z"], tmp_path, settings=replace(SETTINGS, **other))
    assert files(tmp_path) == before


def test_a_store_is_not_continued_with_another_number_of_shards(tmp_path):
    build_words(TEXTS, tmp_path, shards=2)
    with pytest.raises(StoreError, match="another number of shards"):
        build_words(TEXTS, tmp_path, shards=3)


def test_a_moved_plm_is_the_same_plm(tmp_path):
    build_words(TEXTS, tmp_path)
    moved = replace(SETTINGS, plm="elsewhere/words")
    assert build_words(["Z"], tmp_path, settings=moved).read == 1


def test_a_missing_transcript_is_named_with_the_command_that_mends_it(tmp_path):
    build_words(TEXTS, tmp_path)
    with pytest.raises(MissingTeacherError) as caught:
        TeacherStore.open(tmp_path)["IT'S  GONE"]
    message = str(caught.value)
    assert 'lacks the transcript "IT\'S GONE"' in message
    assert "echo 'IT'\"'\"'S GONE' | espnet-hkd extract-teacher" in message
    assert f"--out {tmp_path} --plm words --layer 2 --dtype float16" in message


def test_an_empty_transcript_has_no_entry(tmp_path):
    build_words(TEXTS, tmp_path)
    with pytest.raises(MissingTeacherError, match="An empty transcript has no entry"):
        TeacherStore.open(tmp_path)["  "]


@pytest.mark.parametrize("left", [0, 5, 100, -1], ids="{} bytes left".format)
def test_a_truncated_shard_is_found_on_opening(tmp_path, left):
    build_words(TEXTS, tmp_path, shards=2)
    path = tmp_path / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(StoreError, match=r"shard-00001\.safetensors is damaged.*bytes"):
        TeacherStore.open(tmp_path)


def test_a_missing_shard_is_found_on_opening(tmp_path):
    build_words(TEXTS, tmp_path, shards=2)
    (tmp_path / "shard-00001.safetensors").unlink()
    with pytest.raises(StoreError, match=r"shard-00001\.safetensors"):
        TeacherStore.open(tmp_path)


def test_any_flipped_byte_is_found(tmp_path):
    build_words(TEXTS, tmp_path, shards=2)
    path = tmp_path / "shard-00001.safetensors"
    for position in range(0, path.stat().st_size, 37):
        flip(path, position)
        with pytest.raises(StoreError, match=r"shard-00001\.safetensors"):
            TeacherStore.open(tmp_path).verify()
        flip(path, position)
    TeacherStore.open(tmp_path).verify()


def test_a_record_that_does_not_fit_its_shards_is_found(tmp_path):
    build_words(TEXTS, tmp_path)
    record = json.loads((tmp_path / "store.json").read_text())
    for change in ({"width": 6}, {"dtype": "float32"}, {"texts": 3}, {"shards": []}):
        (tmp_path / "store.json").write_text(json.dumps(record | change))
        with pytest.raises(StoreError, match="damaged"):
            TeacherStore.open(tmp_path)


def test_damaged_shards_are_written_anew_and_the_others_kept(tmp_path, caplog):
    build_words(TEXTS, tmp_path, shards=3)
    before = files(tmp_path)
    flip(tmp_path / "shard-00001.safetensors", 300)
    (tmp_path / "shard-00002.safetensors").unlink()
    built = build_words(TEXTS, tmp_path)
    assert 0 < built.kept < built.read
    assert files(tmp_path) == before
    assert "shard-00001.safetensors is damaged" in caplog.text


def test_a_damaged_shard_is_not_replaced_by_fewer_texts(tmp_path):
    build_words(TEXTS, tmp_path, shards=1)
    flip(tmp_path / "shard-00000.safetensors", 300)
    with pytest.raises(StoreError, match=f"only 2 of its {len(TEXTS)} texts given"):
        build_words(TEXTS[:2], tmp_path)
