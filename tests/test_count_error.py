"""The count error that the results tables show."""

from __future__ import annotations

import pytest
import soundfile

import espnet_hkd
from espnet_hkd.bin import count_error as program
from espnet_hkd.recipes.count_error import count_differences
from tests.small_models import speech, write_experiment

TEXTS = {"u1": "abab", "u2": "a"}


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("exp"))


@pytest.fixture
def data(tmp_path):
    """A set of one and two seconds of noise."""
    audio = {}
    for seconds, id in enumerate(TEXTS, 1):
        audio[id] = tmp_path / f"{id}.wav"
        soundfile.write(audio[id], speech(seconds, seed=seconds), 16000)
    for name, table in (("text", TEXTS), ("wav.scp", audio)):
        lines = [f"{id} {value}\n" for id, value in table.items()]
        (tmp_path / name).write_text("".join(lines))
    return tmp_path


def test_tokens_fired_are_compared_with_those_of_the_transcript(exp, data, capsys):
    recognizer = espnet_hkd.from_pretrained(str(exp))
    fired = {id: len(recognizer.firing(data / f"{id}.wav").symbols) for id in TEXTS}
    # Characters, and the end of the sentence.
    wanted = {id: fired[id] - len(text) - 1 for id, text in TEXTS.items()}
    assert count_differences(str(exp), data) == wanted
    program.main([str(exp), str(data)])
    error = sum(map(abs, wanted.values())) / 2
    assert f"count error {error:.3f}" in capsys.readouterr().out


def test_what_the_search_decided_can_be_counted(exp, data, tmp_path):
    found = tmp_path / "found"
    found.write_text("u1 aba\nu2 \n")
    counted = count_differences(str(exp), data, found)
    assert counted == {"u1": -1, "u2": -1}
    found.write_text("u1 aba\n")
    with pytest.raises(SystemExit, match="such as u2"):
        program.main([str(exp), str(data), "--hypotheses", str(found)])


def test_a_set_that_is_not_whole_is_named(exp, data):
    (data / "wav.scp").write_text("")
    with pytest.raises(SystemExit, match="u1 of"):
        program.main([str(exp), str(data)])
    with pytest.raises(SystemExit, match="cannot be read"):
        program.main([str(exp), str(data / "nothing")])


def test_blank_lines_and_odd_line_ends_are_no_utterances_and_cut_none(exp, data):
    found = data / "found"
    found.write_text("u1 ab\u0085ab\n\n  \nu2 a\r\n", newline="")
    # The model knows no U+0085; it is one token that the transcript does not have.
    assert count_differences(str(exp), data, found) == {"u1": 1, "u2": 0}
