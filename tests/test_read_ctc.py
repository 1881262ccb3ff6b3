"""The model's own CTC, read greedily to compare CIF with."""

from __future__ import annotations

import pytest
import soundfile

import espnet_hkd
from espnet_hkd.bin import read_ctc
from espnet_hkd.errors import DataError, SearchError
from tests.small_models import speech, write_experiment


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("exp"))


def test_the_best_token_of_each_frame_without_repetitions_and_blanks(exp, monkeypatch):
    recognizer = espnet_hkd.from_pretrained(str(exp))
    names, blank = recognizer.model.token_list, recognizer.model.blank_id
    a, b = names.index("A"), names.index("B")
    frames = [blank, a, a, blank, a, b, b, blank]

    def argmax(hidden):
        return hidden.new_tensor([frames]).long()

    monkeypatch.setattr(recognizer.model.ctc, "argmax", argmax)
    assert recognizer.read_ctc(speech(1, seed=1), sample_rate=16000) == "AAB"


def test_a_set_is_written_as_text(exp, tmp_path):
    audio = {}
    for id in ("u1", "u2"):
        audio[id] = tmp_path / f"{id}.wav"
        soundfile.write(audio[id], speech(1, seed=len(audio)), 16000)
    (tmp_path / "wav.scp").write_text("".join(f"{i} {p}\n" for i, p in audio.items()))
    text = tmp_path / "ctc" / "text"
    read_ctc.main([str(exp), str(tmp_path), "--text", str(text)])
    recognizer = espnet_hkd.from_pretrained(str(exp))
    wanted = [f"{id} {recognizer.read_ctc(path)}\n" for id, path in audio.items()]
    assert text.read_text() == "".join(wanted)


def test_what_cannot_be_read_is_named(exp, tmp_path):
    text = tmp_path / "text"
    with pytest.raises(SystemExit, match=r"wav\.scp cannot be read"):
        read_ctc.main([str(exp), str(tmp_path), "--text", str(text)])
    assert not text.exists()
    recognizer = espnet_hkd.from_pretrained(str(exp))
    with pytest.raises(DataError, match="not one utterance"):
        recognizer.read_ctc(speech(31, seed=1), sample_rate=16000)


def test_without_ctc_there_is_nothing_to_read(tmp_path):
    recognizer = espnet_hkd.from_pretrained(
        str(write_experiment(tmp_path / "exp", model_conf={"ctc_weight": 0.0}))
    )
    with pytest.raises(SearchError, match=r"no CTC to read(.|\n)*ctc_weight above 0"):
        recognizer.read_ctc(speech(1, seed=1), sample_rate=16000)
