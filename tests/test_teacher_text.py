"""Canonical text: what is hashed, and what spans refer to."""

from __future__ import annotations

import io
import random

import pytest

from espnet_hkd.errors import ConfigError, DataError
from espnet_hkd.teacher.text import (
    build_cleaner,
    canonical_positions,
    canonical_text,
    read_transcripts,
    text_key,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        pytest.param(" A  B\t\nC ", "A B C", id="runs of white space become one"),
        pytest.param("A\u3000B\xa0C", "A B C", id="wide and hard spaces are spaces"),
        pytest.param("Straße İZMİR", "Straße İZMİR", id="case stays"),
        pytest.param("\uff21 e\u0301 ﬁ", "\uff21 e\u0301 ﬁ", id="no NFKC and no NFC"),
        pytest.param(" \u3000 ", "", id="only spaces is empty"),
    ],
)
def test_canonical_text_is_white_space_only(text, canonical):
    assert canonical_text(text) == canonical
    assert canonical_text(canonical) == canonical


def test_positions_lead_every_character_to_itself():
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choices("AB你😀 \u3000\t", k=draw.randrange(12)))
        canonical, positions = canonical_text(text), canonical_positions(text)
        assert len(positions) == len(text) + 1
        assert positions[len(text)] == len(canonical)
        assert (positions[1:] >= positions[:-1]).all()
        for index, character in enumerate(text):
            if not character.isspace():
                assert canonical[positions[index]] == character


def test_the_key_is_blake2b_128_of_utf_8():
    # As coreutils say: printf HELLO | b2sum --length 128
    assert text_key("HELLO").hex() == "66db9bd5d29832377866a526b541540b"


def test_kaldi_text_loses_its_ids_and_repetitions(tmp_path):
    path = tmp_path / "text"
    path.write_text("u1 HELLO  YOU\nu2\nu3 HELLO YOU\n\nu4 你 好\r\n", encoding="utf-8")
    transcripts = read_transcripts([path])
    assert transcripts.texts == ["HELLO YOU", "你 好"]
    assert transcripts.lines == 4
    assert transcripts.empty == ["u2"]


def test_plain_text_has_no_ids(tmp_path):
    path = tmp_path / "text"
    path.write_text("\ufeffHELLO YOU\n  \nA\n", encoding="utf-8")
    transcripts = read_transcripts([path], plain=True)
    assert transcripts.texts == ["HELLO YOU", "A"]
    assert transcripts.empty == [f"{path}:2"]


def test_standard_input_is_a_dash(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("u1 A B\n"))
    assert read_transcripts(["-"]).texts == ["A B"]


def test_the_cleaner_comes_before_the_white_space(tmp_path):
    path = tmp_path / "text"
    path.write_text("u1 1  월\n", encoding="utf-8")
    assert read_transcripts([path], cleaner="korean_cleaner").texts == ["일 월"]


def test_an_unknown_cleaner_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'soap'.*\n.*\n.*tacotron"):
        build_cleaner("soap")


def test_a_missing_text_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"text file .*/none cannot be read"):
        read_transcripts([tmp_path / "none"])


def test_a_text_file_in_another_encoding_is_named_with_its_line(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"u1 A\nu2 \xb0\xa1\n")
    with pytest.raises(DataError, match=r"not UTF-8(.|\n)*iconv"):
        read_transcripts([path])


def test_foreign_bytes_on_standard_input_are_named(monkeypatch):
    # As Python reads standard input in the C locale, which recipes set.
    text = io.TextIOWrapper(io.BytesIO(b"u1 \xb0\xa1\n"), "utf-8", "surrogateescape")
    monkeypatch.setattr("sys.stdin", text)
    with pytest.raises(DataError, match=r"file - is not UTF-8"):
        read_transcripts(["-"])


def test_dos_line_ends_and_an_id_that_comes_twice_lose_no_text(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"u1 A B\r\nu1 C\r\nu2\r\n")
    transcripts = read_transcripts([path])
    assert transcripts.texts == ["A B", "C"]
    assert transcripts.empty == ["u2"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"], ids=repr)
def test_an_empty_file_is_an_error(tmp_path, content):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"no text in (.|\n)*0 utterances"):
        read_transcripts([path])


def test_files_without_any_text_are_an_error(tmp_path):
    path = tmp_path / "text"
    path.write_text("u1\nu2   \n")
    with pytest.raises(DataError, match=r"no text(.|\n)*2 utterances, 2 of them empty"):
        read_transcripts([path])
