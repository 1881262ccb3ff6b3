"""Units against subsampling: counts that a reader can make by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet_hkd.bin.units import main
from espnet_hkd.errors import ConfigError, DataError
from espnet_hkd.recipes import units as compare_units
from espnet_hkd.recipes.units import Sentence
from tests.recipe_material import write_audio

WORDS = ["ABA", "CAB", "BACCA", "ABACA", "CABAB"]


def make_set(folder: Path, texts: list[str], seconds: float) -> Path:
    """A Kaldi-style set, audio beside it."""
    folder.mkdir(parents=True)
    ids = [f"u{number}" for number in range(len(texts))]
    for id in ids:
        write_audio(folder.parent / "wav" / f"{id}.flac", seconds=seconds)
    for name, values in (
        ("text", texts),
        ("wav.scp", [f"wav/{id}.flac" for id in ids]),
    ):
        rows = [f"{id} {value}\n" for id, value in zip(ids, values, strict=True)]
        (folder / name).write_text("".join(rows))
    return folder


def test_lengths_come_from_headers_and_from_the_recipe_alike(tmp_path: Path):
    folder = make_set(tmp_path / "train", ["ABA", "CAB"], 0.5)
    read = compare_units.read_set(folder)
    assert read == [Sentence("u0", 8000, "ABA"), Sentence("u1", 8000, "CAB")]
    (folder / "wav.scp").unlink()
    (folder / "utt2num_samples").write_text("u0 8000\nu1 8000\n")
    assert compare_units.read_set(folder) == read


@pytest.mark.parametrize(
    ("letters", "too_long"),
    [
        # 16,000 samples, 101 feature frames: 24, 16, 11 encoder frames.
        (10, {"4x": 0, "6x": 0, "8x": 0}),
        (11, {"4x": 0, "6x": 0, "8x": 1}),
        (16, {"4x": 0, "6x": 1, "8x": 1}),
        (24, {"4x": 1, "6x": 1, "8x": 1}),
    ],
)
def test_end_of_sentence_needs_a_frame_too(letters: int, too_long: dict[str, int]):
    row = compare_units.count(
        [Sentence("u", 16000, "A" * letters)],
        "char",
        compare_units.cutter("char"),
        compare_units.layer_rates(160),
    )
    assert row.tokens == letters + 1
    assert row.too_long == too_long
    assert row.per_frame["4x"] == (letters + 1) / 24


def test_faster_speech_has_fewer_frames():
    def count(speed: float) -> int:
        return compare_units.count(
            [Sentence("u", 16000, "A" * 10)],
            "char",
            compare_units.cutter("char"),
            compare_units.layer_rates(160),
            speed,
        ).too_long["8x"]

    assert (count(1.0), count(1.1)) == (0, 1)


def test_table_has_a_row_for_each_unit(tmp_path: Path, capsys):
    folder = make_set(tmp_path / "train", WORDS, 1.0)
    more = tmp_path / "more.txt"
    more.write_text("\n".join(WORDS))
    command = [str(folder), "--units", "char", "word", "9", "--train", str(folder)]
    main([*command, str(more)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "5 utterances, 0.00 hours"
    assert [line.split("|")[1].strip() for line in shown[4:]] == [
        *("char", "word", "unigram9")
    ]
    # 21 letters and 5 ends, 5 words and 5 ends, in five seconds.
    assert [line.split("|")[2].strip() for line in shown[4:6]] == ["5.2", "2.0"]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("syllable", "syllable is no unit\n(.*\n)?  wanted: a sentencepiece model"),
        ("9", "9 pieces have to be trained\n.*\n  wanted: --train"),
    ],
)
def test_unknown_unit_is_named(tmp_path: Path, units: str, message: str):
    folder = make_set(tmp_path / "train", WORDS, 0.1)
    with pytest.raises(ConfigError, match=message):
        compare_units.compare([folder], [units])


def test_more_pieces_than_the_text_has_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="No 5000 pieces can be trained on 5") as e:
        compare_units.train_pieces(WORDS, 5000, "unigram", tmp_path / "m.model")
    assert "Vocabulary size too high" in str(e.value)


def test_audio_that_cannot_be_measured_is_named(tmp_path: Path):
    folder = make_set(tmp_path / "train", ["ABA"], 0.1)
    (folder / "wav.scp").write_text("u0 dump/data.ark:17\n")
    with pytest.raises(DataError, match=r"data\.ark:17(.|\n)*utt2num_samples"):
        compare_units.read_set(folder)
