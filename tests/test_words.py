"""Words and formats of transcripts, whatever the units are."""

from __future__ import annotations

import json
import re

import pytest

from espnet_hkd.speech.formats import FORMATS, captions, distinct_names
from espnet_hkd.speech.records import TokenTime, Transcript, WordTime
from espnet_hkd.speech.words import group_words, join_words


def tokens_of(symbols, *, seconds=0.5, confidence=0.5):
    """Tokens that follow each other without pause."""
    return [
        TokenTime(symbol, place * seconds, (place + 1) * seconds, confidence)
        for place, symbol in enumerate(symbols)
    ]


@pytest.mark.parametrize(
    ("unit", "symbols", "expected"),
    [
        ("char", ["G", "O", "<space>", "O", "N"], ["GO", "ON"]),
        ("char", ["<space>", "A", "<space>", "<space>", "B"], ["A", "B"]),
        ("char", ["今", "天", "<space>", "好"], ["今", "天", "好"]),
        ("char", ["用", "P", "C", "写"], ["用", "PC", "写"]),
        ("char", ["A", "<noise>", "B"], ["A", "<noise>", "B"]),
        ("bpe", ["▁RUB", "OUT", "▁G", "▁", "M"], ["RUBOUT", "G", "M"]),
        ("bpe", ["RUB", "OUT", "▁G"], ["RUBOUT", "G"]),
        ("bpe", ["▁今天", "好", "▁OK"], ["今", "天", "好", "OK"]),
        ("bpe", ["▁<b>"], ["<b>"]),
        ("word", ["今天", "GO", "<unk>"], ["今天", "GO", "<unk>"]),
        (None, ["A", "B"], ["A", "B"]),
        ("char", [], []),
    ],
)
def test_tokens_become_words(unit, symbols, expected):
    words = group_words(tokens_of(symbols), unit)
    assert [word.word for word in words] == expected


def test_a_word_lasts_from_its_first_token_to_its_last_and_all_must_be_right():
    first, second = group_words(tokens_of(["A", "B", "<space>", "C"]), "char")
    assert first == WordTime("AB", 0.0, 1.0, 0.25)
    assert second == WordTime("C", 1.5, 2.0, 0.5)


def test_characters_of_one_piece_share_its_time():
    assert group_words(tokens_of(["▁今天X"], seconds=3.0), "bpe") == [
        WordTime("今", 0.0, 1.0, 0.5),
        WordTime("天", 1.0, 2.0, 0.5),
        WordTime("X", 2.0, 3.0, 0.5),
    ]


def test_words_are_joined_as_their_scripts_want_it():
    assert join_words(["GO", "ON"]) == "GO ON"
    assert join_words(["今", "天", "PC", "PC", "好"]) == "今天PC PC好"
    assert join_words([]) == ""


def transcript_of(words):
    words = [WordTime(*word) for word in words]
    tokens = [TokenTime(*word) for word in words]
    return Transcript(join_words(word.word for word in words), -1.5, tokens, words)


HI = transcript_of([("HI", 0.1, 0.5, 0.9), ("YOU", 0.5, 2.25, 0.8)])


def test_text_and_json():
    assert FORMATS["text"]("a/b.wav", HI) == "a/b.wav HI YOU"
    assert FORMATS["text"]("a", transcript_of([])) == "a"
    record = json.loads(FORMATS["json"]("a/b.wav", HI))
    assert record["audio"] == "a/b.wav"
    assert record["text"] == "HI YOU"
    assert record["score"] == -1.5
    assert record["tokens"][0]["symbol"] == "HI"
    assert record["words"][1] == {
        "word": "YOU",
        "start": 0.5,
        "end": 2.25,
        "confidence": 0.8,
    }


def test_ctm_has_a_line_for_each_word_and_no_overlap():
    assert FORMATS["ctm"]("b  c", HI).splitlines() == [
        "b_c 1 0.10 0.40 HI 0.90",
        "b_c 1 0.50 1.75 YOU 0.80",
    ]
    # Rounded apart, a duration of 0.005 to 0.015 would reach into the next word.
    close = transcript_of([("A", 0.014, 0.026, 1.0), ("B", 0.026, 0.034, 1.0)])
    rows = [line.split() for line in FORMATS["ctm"]("x", close).splitlines()]
    ends = [round(float(row[2]) + float(row[3]), 2) for row in rows]
    assert ends == [0.03, 0.03]
    assert float(rows[1][2]) >= ends[0]


def test_srt_and_vtt_count_hours_and_know_their_marks():
    late = transcript_of([("A&B", 3661.0015, 3662.5, 1.0)])
    assert FORMATS["srt"]("x", late) == "1\n01:01:01,002 --> 01:01:02,500\nA&B\n"
    assert FORMATS["vtt"]("x", late) == (
        "WEBVTT\n\n01:01:01.002 --> 01:01:02.500\nA&amp;B\n"
    )
    assert FORMATS["srt"]("x", transcript_of([])) == ""


@pytest.mark.parametrize("word", ["EIGHT", "今", "INTERNATIONALIZATION"])
def test_captions_fit_the_screen_and_last_seven_seconds_at_most(word):
    words = [WordTime(word, 0.3 * i, 0.3 * i + 0.25, 1.0) for i in range(200)]
    shown = FORMATS["srt"]("x", transcript_of(words))
    blocks = shown.strip().split("\n\n")
    assert len(blocks) > 5
    for block in blocks:
        _, clock, *lines = block.split("\n")
        begin, end = (
            60 * int(minute) + float(second.replace(",", "."))
            for minute, second in re.findall(r"00:(\d+):([\d,]+)", clock)
        )
        assert end - begin <= 7.0
        assert len(lines) <= 2
        assert max(map(len, lines)) <= 42
    said = [w.word for group in captions(words) for w in group]
    assert said == [word] * 200


def test_a_caption_ends_at_a_pause_and_a_word_too_long_stands_alone():
    words = [("A", 0.0, 0.5, 1.0), ("B", 0.6, 1.0, 1.0), ("C", 2.5, 3.0, 1.0)]
    words.append(("X" * 100, 3.1, 3.5, 1.0))
    groups = captions([WordTime(*word) for word in words])
    said = [[word.word for word in group] for group in groups]
    assert said == [["A", "B"], ["C", "X" * 100]]


def test_lines_break_between_words_and_a_word_of_minutes_is_not_shown_for_minutes():
    # Two words of 30 and one of 4 characters: the middle of the text is in a word.
    words = [("\u4eca" * 30, 0.0, 1.0, 1.0), ("\u5929" * 30, 1.0, 2.0, 1.0)]
    words.append(("\u597d" * 4, 2.0, 90.0, 1.0))
    shown = FORMATS["srt"]("x", transcript_of(words)).split("\n")
    assert shown[2:4] == ["\u4eca" * 30, "\u5929" * 30]
    assert shown[6:8] == ["00:00:02,000 --> 00:00:09,000", "\u597d" * 4]


def test_textgrid_names_every_moment():
    quoted = transcript_of([('"A"', 0.5, 1.0, 1.0), ("B", 1.25, 1.5, 1.0)])
    shown = FORMATS["textgrid"]("x", quoted)
    assert 'text = """A"""' in shown
    words = shown.split("item [1]:")[1].split("item [2]:")[0]
    begins = [float(x) for x in re.findall(r"^ {12}xmin = (.*)$", words, re.M)]
    ends = [float(x) for x in re.findall(r"^ {12}xmax = (.*)$", words, re.M)]
    assert begins == [0.0, 0.5, 1.0, 1.25]
    assert ends == [0.5, 1.0, 1.25, 1.5]
    assert re.findall(r'^ {12}text = "(.*)"$', words, re.M) == ["", '""A""', "", "B"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/one.wav", "b/two.flac"], ["one", "two"]),
        (["a/rec.wav", "b/rec.wav", "c.wav"], ["a/rec", "b/rec", "c"]),
        (["x/a/rec.wav", "y/a/rec.wav"], ["x/a/rec", "y/a/rec"]),
        (["rec.wav", "a/rec.wav"], ["rec", "a/rec"]),
        (["rec.wav", "rec.flac"], ["rec.wav", "rec.flac"]),
        (["rec.wav", "rec.wav"], ["rec.wav", "rec.wav#2"]),
        (["a/rec.wav", "b/rec.wav", "a_rec.wav"], ["a/rec", "b/rec", "a_rec#2"]),
        (["a b.wav", "a_b.wav", "a_b#2.wav"], ["a b", "a_b#2", "a_b#2#2"]),
        (["/rec.wav"], ["rec"]),
        (["you.are.here.wav"], ["you.are.here"]),
        ([], []),
    ],
)
def test_names_tell_recordings_apart(paths, names):
    assert distinct_names(paths) == names
