"""ESPnet's Speech2Text with the scorers of stage 12: CTC, language model, n-gram."""

from __future__ import annotations

import itertools

import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet2.legacy.nets.scorer_interface import BatchScorerInterface

from espnet_hkd.errors import SearchError
from tests.small_models import VOCAB, speech, write_experiment

CHECKPOINT = "train.total_count.ave.pth"


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("exp"))


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """A small recurrent language model, as espnet2.bin.lm_train leaves it."""
    import argparse

    from espnet2.tasks.lm import LMTask

    folder = tmp_path_factory.mktemp("lm")
    config = LMTask.get_default_config()
    config.update(
        token_list=VOCAB,
        token_type="char",
        lm="seq_rnn",
        lm_conf={"unit": 16, "nlayers": 1},
    )
    torch.manual_seed(3)
    model = LMTask.build_model(argparse.Namespace(**config))
    torch.nn.init.normal_(model.lm.decoder.weight, std=1.0)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), folder / "lm.pth")
    return {"lm_train_config": folder / "config.yaml", "lm_file": folder / "lm.pth"}


def recognise(exp, *, seconds=2.0, **options):
    """The best hypothesis of one utterance, and the parts of its score."""
    options = {"beam_size": 5, "maxlenratio": 0.0, **options}
    speech2text = Speech2Text(exp / "config.yaml", exp / CHECKPOINT, **options)
    _, _, ids, hypothesis = speech2text(speech(seconds))[0]
    return ids, {name: float(value) for name, value in hypothesis.scores.items()}


def test_total_is_the_weighted_sum_of_decoder_ctc_and_language_model(exp, lm):
    speech2text = Speech2Text(
        exp / "config.yaml",
        exp / CHECKPOINT,
        **lm,
        beam_size=5,
        maxlenratio=0.0,
        ctc_weight=0.3,
        lm_weight=0.4,
        penalty=0.5,
    )
    _, _, ids, hypothesis = speech2text(speech(2.0))[0]
    scores = {name: float(value) for name, value in hypothesis.scores.items()}
    weights = {"decoder": 0.7, "ctc": 0.3, "lm": 0.4, "length_bonus": 0.5}
    assert set(scores) == set(weights)
    total = sum(weights[name] * scores[name] for name in weights)
    assert float(hypothesis.score) == pytest.approx(total, abs=1e-3)
    assert len(ids) > 2


def test_language_model_chooses_words_and_leaves_the_number_to_the_firings(exp, lm):
    alone, _ = recognise(exp, ctc_weight=0.0, lm_weight=0.0, **lm)
    texts = {tuple(alone)}
    for ctc_weight, lm_weight in itertools.product((0.0, 0.3), (0.5, 2.0)):
        ids, _ = recognise(exp, ctc_weight=ctc_weight, lm_weight=lm_weight, **lm)
        assert abs(len(ids) - len(alone)) <= 1
        texts.add(tuple(ids))
    assert len(texts) > 1


class Bigram(BatchScorerInterface):
    """Scores as ESPnet's n-gram does: one hypothesis at a time, opaque states."""

    class State:
        """What only the scorer understands, as kenlm's."""

    def __init__(self):
        torch.manual_seed(4)
        self.table = torch.randn(len(VOCAB), len(VOCAB)).log_softmax(-1)

    def init_state(self, x):
        return self.State()

    def score(self, y, state, x):
        assert isinstance(state, self.State)
        return self.table[y[-1]], self.State()


@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_ngram_of_opaque_states_is_fused(exp, monkeypatch, weight):
    import sys
    import types

    bigram = Bigram()
    # kenlm is not among ESPnet's requirements; its scorer is what is replaced.
    module = types.ModuleType("espnet2.legacy.nets.scorers.ngram")
    module.NgramFullScorer = lambda file, tokens: bigram
    monkeypatch.setitem(sys.modules, module.__name__, module)
    ids, scores = recognise(
        exp, ctc_weight=0.3, ngram_file="4gram", ngram_weight=weight
    )
    assert ("ngram" in scores) == (weight > 0)
    if weight:
        eos = len(VOCAB) - 1
        path = [eos, *ids, eos]
        expected = sum(float(bigram.table[a, b]) for a, b in itertools.pairwise(path))
        assert scores["ngram"] == pytest.approx(expected, abs=1e-3)


def test_quantized_model_fires_as_often(exp):
    exact, _ = recognise(exp, ctc_weight=0.0)
    quantized, _ = recognise(exp, ctc_weight=0.0, quantize_asr_model=True)
    assert abs(len(quantized) - len(exact)) <= 1


def test_espnets_own_ctc_weight_is_refused_where_there_is_no_ctc(tmp_path):
    exp = write_experiment(tmp_path, model_conf={"ctc_weight": 0.0})
    with pytest.raises(SearchError, match=r"ctc_weight: 0\.0"):
        recognise(exp)
    assert recognise(exp, ctc_weight=0.0)[0]
