"""A teacher store: what is written can be read, and nothing is lost on the way."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from espnet_hkd.errors import PLMError, StoreError
from espnet_hkd.teacher import parts as parts_module
from espnet_hkd.teacher import shard as shard_module
from espnet_hkd.teacher.build import build_store, merge_store
from espnet_hkd.teacher.shard import file_sha256 as digest
from espnet_hkd.teacher.store import TeacherStore, shard_of
from espnet_hkd.teacher.text import text_key
from tests.soak.stores import check
from tests.teacher_material import (
    SETTINGS,
    TEXTS,
    build_words,
    files,
    flip,
    read_words,
)

REPOSITORY = Path(__file__).resolve().parent.parent


def refuse_to_read(texts):
    raise AssertionError(f"these are in the store already: {texts}")


# Reading and writing


@pytest.mark.parametrize("shards", [1, 3, 40])
def test_every_text_comes_back_as_it_was_read(tmp_path, shards):
    built = build_words(TEXTS, tmp_path, shards=shards)
    assert (built.read, built.kept, built.shards) == (len(TEXTS), 0, shards)
    store = TeacherStore.open(tmp_path)
    store.verify()
    assert len(store) == len(TEXTS)
    for index, states, spans in read_words(TEXTS):
        assert TEXTS[index] in store
        entry = store[TEXTS[index]]
        assert entry.states.dtype == np.float16
        assert entry.spans.dtype == np.int32
        np.testing.assert_array_equal(entry.states, states.astype(np.float16))
        np.testing.assert_array_equal(entry.spans, spans)
        assert tuple(entry.spans[-1]) == (-1, -1)


def test_the_layout_is_format_1(tmp_path):
    build_words(TEXTS, tmp_path, shards=2)
    record = json.loads((tmp_path / "store.json").read_text())
    assert record["format"] == 1
    assert record["texts"] == len(TEXTS)
    assert record["plm"] == "words"
    assert [shard["file"] for shard in record["shards"]] == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    for index, shard in enumerate(record["shards"]):
        tensors = safetensors.numpy.load_file(tmp_path / shard["file"])
        keys = [row.tobytes() for row in tensors["keys"]]
        assert keys == sorted(keys)
        assert {int.from_bytes(key, "big") % 2 for key in keys} == {index}
        pieces = tensors["offsets"][-1]
        assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {
            "keys": (np.uint8, (len(keys), 16)),
            "offsets": (np.int64, (len(keys) + 1,)),
            "states": (np.float16, (pieces, 5)),
            "spans": (np.int32, (pieces, 2)),
        }


def test_a_shard_whose_tensors_stand_in_another_order_is_read(tmp_path):
    """As versions before the library wrote those of float32: spans before states."""
    settings = replace(SETTINGS, dtype="float32")
    build_words(TEXTS, tmp_path, shards=1, settings=settings)
    path = tmp_path / "shard-00000.safetensors"
    tensors = safetensors.numpy.load_file(path)
    fields, data = {}, b""
    kinds = {"offsets": "I64", "spans": "I32", "states": "F32", "keys": "U8"}
    for name, kind in kinds.items():
        begin, array = len(data), tensors[name]
        data += array.tobytes()
        offsets = [begin, len(data)]
        fields[name] = {"dtype": kind, "shape": array.shape, "data_offsets": offsets}
    header = json.dumps(fields).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    record = json.loads((tmp_path / "store.json").read_text())
    record["shards"][0] |= {"sha256": digest(path), "bytes": path.stat().st_size}
    (tmp_path / "store.json").write_text(json.dumps(record))
    assert build_words(TEXTS, tmp_path, settings=settings).read == 0
    assert check(tmp_path, TEXTS, dtype="float32") == ""


def test_states_can_be_kept_in_float32(tmp_path):
    build_words(TEXTS, tmp_path, settings=replace(SETTINGS, dtype="float32"))
    ((_, states, _),) = read_words(["A F"])
    entry = TeacherStore.open(tmp_path)["A F"]
    assert entry.states.dtype == np.float32
    np.testing.assert_array_equal(entry.states, states)


def test_white_space_is_not_told_apart_but_case_is(tmp_path):
    build_words(TEXTS, tmp_path)
    store = TeacherStore.open(tmp_path)
    assert " A \tF" in store
    assert "a f" not in store
    assert "" not in store
    assert 7 not in store


def test_entries_cannot_be_changed_by_mistake(tmp_path):
    build_words(TEXTS, tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        TeacherStore.open(tmp_path)["A F"].states[0, 0] = 1


def test_an_opened_store_may_be_pickled(tmp_path):
    build_words(TEXTS, tmp_path)
    store = TeacherStore.open(tmp_path)
    assert store["A F"].states.shape == (3, 5)
    pickled = pickle.dumps(store)
    assert len(pickled) < 2000
    np.testing.assert_array_equal(
        pickle.loads(pickled)["A F"].states, store["A F"].states
    )


def test_texts_without_any_piece_have_an_entry_without_rows(tmp_path):
    def read(texts):
        for index in range(len(texts)):
            yield index, np.zeros((0, 5), np.float32), np.zeros((0, 2), np.int32)

    build_store(["A", "B"], read, tmp_path, SETTINGS)
    assert TeacherStore.open(tmp_path)["B"].states.shape == (0, 5)


# Going on where one was


def test_two_runs_write_the_same_bytes_in_whatever_order(tmp_path):
    build_words(TEXTS, tmp_path / "one", shards=3)
    build_words(TEXTS[::-1], tmp_path / "two", shards=3)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_parts_by_several_processes_make_the_same_store(tmp_path):
    build_words(TEXTS, tmp_path / "one", shards=3)
    for index in (2, 0, 1):
        build_words(TEXTS, tmp_path / "parts", shards=3, only=index)
        assert (tmp_path / "parts" / f"part-{index}.json").exists()
    with pytest.raises(StoreError, match="not finished"):
        TeacherStore.open(tmp_path / "parts")
    merge_store(tmp_path / "parts")
    assert files(tmp_path / "parts") == files(tmp_path / "one")


def test_merging_names_the_part_that_is_missing(tmp_path):
    build_words(TEXTS, tmp_path, shards=3, only=1)
    with pytest.raises(StoreError, match=r"1 of 3 parts(.|\n)*--shard 0/3"):
        merge_store(tmp_path)


def test_merging_refuses_parts_of_different_plms(tmp_path):
    other = replace(SETTINGS, digest="e" * 64)
    build_words(TEXTS, tmp_path / "a", shards=2, only=0)
    build_words(TEXTS, tmp_path / "b", shards=2, only=1, settings=other)
    for path in (tmp_path / "b").iterdir():
        path.rename(tmp_path / "a" / path.name)
    with pytest.raises(StoreError, match="do not belong together"):
        merge_store(tmp_path / "a")


def test_a_second_call_reads_nothing_and_changes_nothing(tmp_path):
    build_words(TEXTS, tmp_path, shards=3)
    before = files(tmp_path)
    built = build_store(TEXTS[:4], refuse_to_read, tmp_path, SETTINGS)
    assert (built.read, built.kept) == (0, len(TEXTS))
    assert files(tmp_path) == before


def test_new_texts_are_added_and_the_others_kept(tmp_path):
    build_words(TEXTS[:10], tmp_path, shards=3)
    built = build_words(TEXTS[5:], tmp_path)
    assert (built.read, built.kept, built.shards) == (len(TEXTS) - 10, 10, 3)
    build_words(TEXTS, tmp_path.parent / "whole", shards=3)
    here, whole = files(tmp_path), files(tmp_path.parent / "whole")
    assert here == whole


def test_where_nothing_is_to_be_added_nothing_is_written(tmp_path, monkeypatch):
    build_words(TEXTS, tmp_path, shards=3)

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("replace", "link", "mkdir", "unlink", "fsync"):
        monkeypatch.setattr(os, name, refuse)
    assert build_words(TEXTS, tmp_path).read == 0
    with pytest.raises(StoreError, match=r"cannot be written(.|\n)*Read-only"):
        build_words(["NEW"], tmp_path)


def test_one_more_text_reads_and_writes_one_shard(tmp_path, monkeypatch):
    build_words(TEXTS, tmp_path, shards=5)
    later = os.stat(tmp_path / "store.json").st_mtime_ns + 10**9
    os.utime(tmp_path / "store.json", ns=(later, later))
    before = files(tmp_path)
    digested = []
    for module in (parts_module, shard_module):
        monkeypatch.setattr(
            module,
            "file_sha256",
            lambda path: digested.append(path.name) or digest(path),
        )
    build_words([*TEXTS, "NEW ONE"], tmp_path)
    changed = {
        name for name, content in files(tmp_path).items() if content != before[name]
    }
    assert len(changed) == 2
    assert "store.json" in changed
    # The new shard, as it was written and as it was recorded.
    assert len(digested) == 2
    assert all((changed - {"store.json"}).pop() in name for name in digested)


def test_a_shard_changed_after_it_was_recorded_is_read_again(tmp_path):
    build_words(TEXTS, tmp_path, shards=1)
    shard = tmp_path / "shard-00000.safetensors"
    flip(shard, 300)
    later = os.stat(tmp_path / "store.json").st_mtime_ns + 10**9
    os.utime(shard, ns=(later, later))
    assert build_words(TEXTS, tmp_path).read == len(TEXTS)
    TeacherStore.open(tmp_path).verify()


def test_a_shard_that_is_not_read_back_as_written_gets_no_name(tmp_path, monkeypatch):
    build_words(TEXTS[:10], tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(shard_module, "file_sha256", lambda path: "0" * 64)
    with pytest.raises(StoreError, match="was read back, not"):
        build_words(TEXTS, tmp_path)
    assert files(tmp_path) == before


KILLED = """
import os, signal, sys
from tests.teacher_material import SETTINGS, TEXTS, read_words
from espnet_hkd.teacher.build import build_store
def read(texts):
    read.shards += 1
    for item in read_words(texts):
        yield item
        if read.shards == 3:
            os.kill(os.getpid(), signal.SIGKILL)
read.shards = 0
build_store(TEXTS, read, sys.argv[1], SETTINGS, shards=4)
"""


def test_a_killed_process_resumes_with_the_shards_it_finished(tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "store")],
        cwd=REPOSITORY,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match=r"not finished(.|\n)*same .* command again"):
        TeacherStore.open(tmp_path / "store")
    built = build_words(TEXTS, tmp_path / "store")
    finished = [text for text in TEXTS if shard_of(text_key(text), 4) < 2]
    assert (built.kept, built.shards) == (len(finished), 4)
    build_words(TEXTS, tmp_path / "whole", shards=4)
    assert files(tmp_path / "store") == files(tmp_path / "whole")


@pytest.mark.parametrize("renames", [0, 1, 2], ids="killed before rename {}".format)
def test_a_process_killed_at_a_rename_loses_no_old_text(tmp_path, monkeypatch, renames):
    build_words(TEXTS[:10], tmp_path, shards=1)
    rename, done = os.replace, []

    def die(old, new):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(new)
        rename(old, new)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        build_words(TEXTS[10:12], tmp_path)
    monkeypatch.undo()
    build_words(TEXTS[12:], tmp_path)
    build_words(TEXTS[10:12], tmp_path)
    store = TeacherStore.open(tmp_path)
    assert all(text in store for text in TEXTS)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}


def test_a_full_disk_leaves_the_old_store_and_says_so(tmp_path, monkeypatch):
    build_words(TEXTS[:10], tmp_path)
    before = files(tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left(.|\n)*make room"):
        build_words(TEXTS, tmp_path)
    assert files(tmp_path) == before


def test_a_rename_that_fails_is_named_too(tmp_path, monkeypatch):
    build_words(TEXTS[:10], tmp_path)

    def refuse(*paths):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreError, match=r"Read-only file system"):
        build_words(TEXTS, tmp_path)
    assert len(TeacherStore.open(tmp_path)) == 10


def test_a_store_cannot_be_where_a_file_is(tmp_path):
    (tmp_path / "teacher").write_text("mine")
    with pytest.raises(StoreError, match=r"cannot be written(.|\n)*another --out"):
        build_words(TEXTS, tmp_path / "teacher")
    assert (tmp_path / "teacher").read_text() == "mine"


def test_states_beyond_float16_name_float32(tmp_path):
    def read(texts):
        for index, states, spans in read_words(texts):
            yield index, states * 1e6, spans

    with pytest.raises(PLMError, match=r"'A F'(.|\n)*--dtype float32"):
        build_store(["A F"], read, tmp_path, SETTINGS)
    assert not list(tmp_path.iterdir())
    build_store(["A F"], read, tmp_path, replace(SETTINGS, dtype="float32"))
    assert np.isfinite(TeacherStore.open(tmp_path)["A F"].states).all()


def test_states_that_are_no_numbers_are_refused(tmp_path):
    def read(texts):
        for index, states, spans in read_words(texts):
            yield index, states * np.nan, spans

    with pytest.raises(PLMError, match="another PLM or layer"):
        build_store(["A F"], read, tmp_path, replace(SETTINGS, dtype="float32"))
