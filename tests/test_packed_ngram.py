"""A packed n-gram model, scored by ESPnet's own scorer.

kenlm, which that scorer reads n-grams with, is not among ESPnet's requirements: a small
stand-in with its interface reads bigrams. With kenlm 0.3.0 itself and an ARPA file of
AN4's transcripts the same was seen by hand.
"""

from __future__ import annotations

import math
import sys
import types
import zipfile

import pytest
import yaml

import espnet_hkd
from espnet_hkd.errors import CheckpointError
from espnet_hkd.pretrained.packed import open_packed
from espnet_hkd.pretrained.slim import slim
from tests.small_models import VOCAB, pack, speech, write_experiment

SCORER = "espnet2.legacy.nets.scorers.ngram"
NGRAM = "exp/ngram/bigram.arpa"


class State:
    """As kenlm's: what it holds only the language model knows."""

    last = None


class LanguageModel:
    """Bigrams of a file with lines `LOG10 WORD WORD`; others have 1e-2."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as lines:
            fields = [line.split() for line in lines]
        self.table = {(a, b): float(score) for score, a, b in fields}

    def NullContextWrite(self, state):  # noqa: N802
        state.last = None

    def BaseScore(self, state, word, out):  # noqa: N802
        out.last = word
        return self.table.get((state.last, word), -2.0)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A packed model with an n-gram that its decoding configuration names."""
    folder = tmp_path_factory.mktemp("recipe")
    exp = write_experiment(folder / "exp" / "asr_hkd")
    decoding = {"beam_size": 4, "ctc_weight": 0.3}
    decoding |= {"ngram_file": NGRAM, "ngram_weight": 0.4}
    (folder / "decode.yaml").write_text(yaml.safe_dump(decoding))
    slim(exp, inference_config=folder / "decode.yaml")
    path = pack(folder)
    tokens = ["<s>", *VOCAB[2:-1]]
    lines = [f"{-0.1 * (i % 7)} {a} {b}" for a in tokens for i, b in enumerate(tokens)]
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(NGRAM, "\n".join(lines))
    return path


@pytest.fixture
def stand_in(monkeypatch):
    kenlm = types.ModuleType("kenlm")
    kenlm.State, kenlm.LanguageModel = State, LanguageModel
    monkeypatch.setitem(sys.modules, "kenlm", kenlm)
    monkeypatch.delitem(sys.modules, SCORER, raising=False)
    yield
    # Whoever imports it next finds what is really installed.
    sys.modules.pop(SCORER, None)


@pytest.mark.parametrize("weight", [None, 1.5])
def test_it_scores_as_in_espnets_own_search(archive, stand_in, weight):
    recognizer = espnet_hkd.from_pretrained(archive)
    audio = speech(2.0)
    (ours,) = recognizer(audio, sample_rate=16000, beam=4, ngram_weight=weight)

    from espnet2.bin.asr_inference import Speech2Text

    packed = open_packed(archive)
    stock = Speech2Text(
        str(packed.config),
        str(packed.weights),
        beam_size=4,
        ctc_weight=0.3,
        lm_weight=0.0,
        ngram_file=str(packed.root / NGRAM),
        ngram_weight=0.4 if weight is None else weight,
    )
    text, _, _, hypothesis = stock(audio)[0]
    assert ours.text == text
    assert ours.score == pytest.approx(float(hypothesis.score), abs=1e-3)
    (without,) = recognizer(audio, sample_rate=16000, beam=4, ngram_weight=0.0)
    assert not math.isclose(without.score, ours.score, abs_tol=0.1)


def test_without_kenlm_it_is_named_with_the_remedy(archive, monkeypatch):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    monkeypatch.delitem(sys.modules, SCORER, raising=False)
    with pytest.raises(CheckpointError, match="kenlm") as caught:
        espnet_hkd.from_pretrained(archive)
    assert "pip install kenlm" in str(caught.value.remedy)
