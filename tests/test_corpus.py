"""What stage 1 refuses in any corpus, the utterance named, and what it only says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_hkd.bin.check_sets import main
from espnet_hkd.errors import DataError
from espnet_hkd.files import read_table, write_table
from espnet_hkd.recipes import check_sets
from espnet_hkd.recipes.corpus import check_recording

RATE = 16000
NOISE = np.random.default_rng(0).normal(0.0, 0.1, RATE)


def write_set(folder: Path, **changes: dict[str, str]) -> Path:
    """A set of two utterances; `changes` by table, `wav_scp` for wav.scp."""
    folder.mkdir(parents=True)
    ids = ("ann-1", "bob-1")
    tables = {
        "text": {id: "GO HOME" for id in ids},
        "wav.scp": {id: str(folder / f"{id}.wav") for id in ids},
        "utt2spk": {id: id[:3] for id in ids},
    }
    for id in ids:
        soundfile.write(folder / f"{id}.wav", NOISE, RATE)
    for name, rows in changes.items():
        tables[name.replace("_", ".")] = rows
    for name, rows in tables.items():
        write_table(folder / name, rows)
    return folder


def rename(folder: Path, old: str, new: str, speaker: str | None = None) -> Path:
    """Give an utterance another id and another speaker in every table."""
    for name in ("text", "wav.scp", "utt2spk"):
        table = read_table(folder / name)
        table[new] = table.pop(old)
        if speaker and name == "utt2spk":
            table[new] = speaker
        write_table(folder / name, table)
    return folder


def check(folder: Path) -> list[str]:
    return check_sets.check([folder])


def test_sound_set_passes_without_a_word(tmp_path):
    assert check(write_set(tmp_path / "set")) == []


class TestTables:
    """One reader for all: bytes that are no text are no text to anybody."""

    @pytest.mark.parametrize(
        "content",
        [
            b"a GO HOME\nb  X\xc2\x85Y \n",
            b"\xef\xbb\xbfa GO HOME\nb  X\xc2\x85Y \n",
            b"a GO HOME\r\nb\tX\xc2\x85Y\r\n",
            b"\na GO HOME\n \n\nb X\xc2\x85Y",
        ],
        ids=["plain", "byte order mark", "CRLF", "blank lines, no last line feed"],
    )
    def test_form_makes_no_difference(self, tmp_path, content):
        (tmp_path / "text").write_bytes(content)
        assert read_table(tmp_path / "text") == {"a": "GO HOME", "b": "X\u0085Y"}

    def test_every_reader_reads_alike(self, tmp_path):
        from espnet_hkd.compare.read import read_eval_set
        from espnet_hkd.recipes.corpus import read_lines
        from espnet_hkd.recipes.lengths import read_shapes
        from espnet_hkd.recipes.units import read_sentences
        from espnet_hkd.teacher.text import read_transcripts

        text = tmp_path / "text"
        text.write_bytes(b"\xef\xbb\xbfa GO\xc2\x85ON\r\n\r\nb NO\r\n")
        (tmp_path / "speech_shape").write_bytes(b"a 16000\r\n\r\nb 8000\r\n")
        (tmp_path / "text_shape").write_bytes(b"\xef\xbb\xbfa 3\r\nb 2\r\n")
        assert read_transcripts([text]).texts == ["GO ON", "NO"]
        assert read_sentences(tmp_path) == ["GO\u0085ON", "NO"]
        assert read_lines(text) == ["a GO\u0085ON", "b NO"]
        read = read_eval_set({"x": tmp_path}, reference=text)
        assert read.references == [["go", "on"], ["no"]]
        utterances, _ = read_shapes(tmp_path)
        assert [(u.id, u.size, u.tokens) for u in utterances] == [
            ("a", 16000, 4),
            ("b", 8000, 3),
        ]

    def test_an_id_that_comes_twice_is_named_with_its_lines(self, tmp_path):
        (tmp_path / "text").write_text("a GO\n\nb NO\na ON\n")
        with pytest.raises(DataError, match=r"(?s)Utterance a .*twice.*lines 1 and 4"):
            read_table(tmp_path / "text")

    def test_rows_are_written_in_the_order_of_bytes(self, tmp_path):
        write_table(tmp_path / "t", {"b": 1, "é": 2, "B": "", "a-1": "x y"})
        written = (tmp_path / "t").read_bytes().decode()
        assert written == "B \na-1 x y\nb 1\né 2\n"


class TestSet:
    @pytest.mark.parametrize(
        ("id", "named"),
        [
            ("bob-(1)", r"U\+0028 LEFT PARENTHESIS"),
            ("bob/1", r"U\+002F SOLIDUS"),
        ],
    )
    def test_id_that_a_later_stage_takes_apart_is_refused(self, tmp_path, id, named):
        folder = rename(write_set(tmp_path / "set"), "bob-1", id)
        with pytest.raises(DataError, match=named) as caught:
            check(folder)
        assert repr(id) in caught.value.problem

    @pytest.mark.parametrize(
        ("renamed", "named"),
        [
            # Sorted by id: 13_x, 1_x; by speaker: 1, 13.
            ((("ann-1", "1_x", "1"), ("bob-1", "13_x", "13")), "13_x and 1_x"),
            # The speakers come the other way round.
            ((("ann-1", "a", "zoe"), ("bob-1", "b", "bob")), "a and b"),
        ],
        ids=["speakers 1 and 13", "speakers that are no prefix of the id"],
    )
    def test_speakers_out_of_order_are_refused(self, tmp_path, renamed, named):
        folder = write_set(tmp_path / "set")
        for old, new, speaker in renamed:
            rename(folder, old, new, speaker)
        with pytest.raises(DataError, match=f"speakers of {named} are not in order"):
            check(folder)

    @pytest.mark.parametrize(
        ("character", "name"),
        [
            ("\u00a0", r"U\+00A0 NO-BREAK SPACE"),
            ("\u2028", r"U\+2028 LINE SEPARATOR"),
            ("\u0085", r"U\+0085"),
            ("\u3000", r"U\+3000 IDEOGRAPHIC SPACE"),
        ],
        ids=["no-break space", "line separator", "next line", "ideographic space"],
    )
    def test_white_space_of_another_kind_is_named(self, tmp_path, character, name):
        text = {"ann-1": "GO HOME", "bob-1": f"GO{character}HOME"}
        with pytest.raises(DataError, match=rf"(?s)of bob-1.*{name}"):
            check(write_set(tmp_path / "set", text=text))

    @pytest.mark.parametrize("table", ["text", "wav.scp", "utt2spk"])
    @pytest.mark.parametrize(
        ("damage", "named"),
        [
            (lambda b: b"\xef\xbb\xbf" + b, "of ann-1, holds a byte order mark"),
            (lambda b: b.replace(b"\n", b"\r\n"), "of ann-1.*, holds a carriage"),
        ],
        ids=["byte order mark", "CRLF"],
    )
    def test_form_that_espnets_scripts_misread_is_refused(
        self, tmp_path, table, damage, named
    ):
        path = write_set(tmp_path / "set") / table
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(DataError, match=named) as caught:
            check(path.parent)
        assert "sed -i" in str(caught.value)

    def test_empty_transcript_is_named(self, tmp_path):
        with pytest.raises(DataError, match="transcript of bob-1 is empty"):
            check(write_set(tmp_path / "set", text={"ann-1": "GO", "bob-1": ""}))

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("CAFE\u0301", "letters and accents apart"),
            ("\uff27\uff2f", "full-width"),
            ("GO\u200b HOME", "characters without width"),
        ],
    )
    def test_forms_of_writing_are_said_and_left(self, tmp_path, text, kind, capsys):
        folder = write_set(tmp_path / "set", text={"ann-1": "GO", "bob-1": text})
        main([str(folder)])
        said = capsys.readouterr().out
        assert said.startswith(f"{folder}: 1 of 2 transcripts have {kind}")
        assert said.endswith("left as they are and make tokens of their own: bob-1\n")
        assert read_table(folder / "text")["bob-1"] == text


class TestAudio:
    def refused(self, path: Path | str, named: str) -> None:
        with pytest.raises(DataError, match=named) as caught:
            check_recording("bob-1", str(path), RATE)
        assert "bob-1" in caught.value.problem

    @pytest.mark.parametrize("kind", ["flac", "wav"])
    def test_half_a_file_is_refused(self, tmp_path, kind):
        path = tmp_path / f"a.{kind}"
        soundfile.write(path, NOISE, RATE)
        check_recording("bob-1", str(path), RATE)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        # The header is whole, and was all that was read once.
        assert soundfile.info(path).frames > 0
        self.refused(path, "cannot be read|ends too early")

    @pytest.mark.parametrize(
        ("samples", "named"),
        [
            (np.where(np.arange(RATE) == RATE - 1, np.nan, NOISE), "no numbers"),
            (np.where(np.arange(RATE) == 5, np.inf, NOISE), "no numbers"),
            (np.zeros(RATE), r"(?s)is silent.*1\.00 s"),
            (NOISE[: RATE // 20], r"(?s)is too short.*0\.050 s.*at least 0\.1 s"),
        ],
        ids=["NaN", "infinite", "silent", "0.05 s"],
    )
    def test_samples_that_teach_nothing_are_refused(self, tmp_path, samples, named):
        path = tmp_path / "a.wav"
        soundfile.write(path, samples, RATE, "FLOAT")
        self.refused(path, named)

    def test_quiet_recording_of_a_tenth_of_a_second_passes(self, tmp_path):
        path = tmp_path / "a.wav"
        soundfile.write(path, 0.01 * NOISE[: RATE // 10], RATE)
        check_recording("bob-1", str(path), RATE)

    def test_pipes_are_run_as_stage_3_runs_them(self, tmp_path, monkeypatch):
        soundfile.write(tmp_path / "a.wav", NOISE, RATE)
        check_recording("bob-1", f"cat {tmp_path}/a.wav |", RATE)
        self.refused("cat a.wav |", r"(?s)pipe .* fails.*No such file.*absolute paths")
        self.refused("exit 3 |", r"(?s)pipe .* fails.*exit status 3")
        self.refused("echo no audio |", "cannot be read")
        monkeypatch.chdir(tmp_path)
        check_recording("bob-1", "cat a.wav |", RATE)

    def test_a_recording_of_two_sets_is_read_once(self, tmp_path):
        folder = write_set(tmp_path / "one")
        other = write_set(tmp_path / "two")
        pipe = f"echo x >> {tmp_path}/runs; cat {folder}/ann-1.wav |"
        for each in (folder, other):
            write_table(each / "wav.scp", {"ann-1": pipe, "bob-1": pipe})
        check_sets.check([folder, other])
        assert (tmp_path / "runs").read_text() == "x\n"
