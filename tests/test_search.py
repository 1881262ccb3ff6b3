"""The search of our own against ESPnet's, its steps, and calls from several threads."""

from __future__ import annotations

import argparse
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml
from espnet2.asr.ctc import CTC
from espnet2.bin.asr_inference import Speech2Text
from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer
from espnet2.lm.seq_rnn_lm import SequentialRNNLM

import espnet_hkd
from espnet_hkd.errors import SearchError
from espnet_hkd.recognize.search import SearchWeights, beam_search
from tests.small_models import SIZE, VOCAB, make_decoder, speech, write_experiment

EOS = len(VOCAB) - 1
LENGTHS = (31, 9, 20, 2)


def utterances():
    torch.manual_seed(3)
    hidden = [torch.randn(length, SIZE) for length in LENGTHS]
    return torch.nn.utils.rnn.pad_sequence(hidden, batch_first=True)


class Scores:
    """A decoder, a CTC and a language model of random weights, and their weights."""

    def __init__(self, *, ctc=0.3, lm=0.0, **conf):
        self.decoder = make_decoder(**conf)
        torch.manual_seed(1)
        self.ctc = CTC(len(VOCAB), SIZE)
        self.lm = SequentialRNNLM(len(VOCAB), unit=8, nlayers=1).eval()
        self.weights = SearchWeights(1 - ctc, ctc, {"lm": lm})

    def search(self, padded, lengths, beam):
        return beam_search(
            self.decoder,
            padded,
            torch.tensor(lengths),
            sos=EOS,
            beam=beam,
            options=self.decoder.options,
            weights=self.weights,
            ctc_logp=self.ctc.log_softmax(padded).detach(),
            others={"lm": self.lm},
        )

    def espnets(self, hidden, beam):
        search = BatchBeamSearch(
            beam_size=beam,
            weights={
                "decoder": self.weights.decoder,
                "ctc": self.weights.ctc,
                **self.weights.others,
            },
            scorers={
                "decoder": self.decoder,
                "ctc": CTCPrefixScorer(self.ctc, eos=EOS),
                "lm": self.lm,
            },
            sos=EOS,
            eos=EOS,
            vocab_size=len(VOCAB),
            pre_beam_score_key="full",
        )
        return search.eval()(hidden)


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 4, 20])
@pytest.mark.parametrize(
    "options",
    [
        {"ctc": 0.0},
        {"ctc": 0.3},
        {"ctc": 0.3, "count_search": 1, "count_penalty": 0.5},
        {"ctc": 0.6, "lm": 0.5, "early_eos": True},
    ],
    ids=["alone", "ctc", "counts", "everything"],
)
def test_finds_what_espnets_search_finds(options, beam):
    scores = Scores(**options)
    padded = utterances()
    together = scores.search(padded, LENGTHS, beam)
    # Utterances of two frames: see `test_utterances_of_a_frame_or_two_end_once`.
    for row, length in enumerate(LENGTHS[:3]):
        expected = scores.espnets(padded[row, :length], beam)
        possible = [h for h in expected if h.score > -1e8]
        (alone,) = scores.search(padded[row : row + 1, :length], [length], beam)
        for found in (alone, together[row]):
            assert len(found) >= min(beam, len(possible), 2)
            for ours, theirs in zip(found[:2], possible[:2], strict=False):
                assert ours.tokens == theirs.yseq[1:-1].tolist()
                assert ours.score == pytest.approx(float(theirs.score), abs=1e-4)


@pytest.mark.parametrize("count_search", [0, 1, 2])
@pytest.mark.parametrize("beam", [1, 10])
def test_stops_when_no_hypothesis_is_left(monkeypatch, count_search, beam):
    scores = Scores(count_search=count_search)
    padded = utterances()
    fired = scores.decoder.fire(padded, torch.tensor(LENGTHS)).lengths
    steps = []
    score_next = scores.decoder.score_next
    monkeypatch.setattr(
        scores.decoder,
        "score_next",
        lambda *args: steps.append(args[3]) or score_next(*args),
    )
    scores.search(padded, LENGTHS, beam)
    assert len(steps) <= int(fired.max()) + count_search + 1
    for row, length in enumerate(LENGTHS):
        steps.clear()
        scores.search(padded[row : row + 1, :length], [length], beam)
        assert len(steps) <= int(fired[row]) + count_search + 1


@torch.no_grad()
def test_a_count_that_cannot_be_any_more_is_not_computed():
    # So high a price that only the nearest count is left.
    scores = Scores(count_search=2, count_penalty=1e4)
    rows = []
    scores.decoder.output_layer.register_forward_hook(
        lambda module, inputs, output: rows.append(len(inputs[0]))
    )
    scores.search(utterances()[:1], LENGTHS[:1], 5)
    assert max(rows) <= 5


def test_padding_is_never_looked_at():
    scores = Scores(count_search=1)
    padded = utterances()
    clean = scores.search(padded, LENGTHS, 5)
    for row, length in enumerate(LENGTHS):
        padded[row, length:] = torch.nan
    assert scores.search(padded, LENGTHS, 5) == clean


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """An experiment, and a language model beside it as in a packed model."""
    folder = tmp_path_factory.mktemp("exp")
    conf = {"attention_heads": 2, "linear_units": 32, "initial_weight": 0.2}
    conf |= {"count_search": 1}
    inference = {"ctc_weight": 0.3, "lm_weight": 0.4}
    exp = write_experiment(folder, decoder_conf=conf, inference_conf=inference)
    from espnet2.tasks.lm import LMTask

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
    (exp / "lm.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), exp / "lm.pth")
    meta = {
        "files": {"asr_model_file": "train.total_count.ave.pth", "lm_file": "lm.pth"},
        "yaml_files": {"asr_train_config": "config.yaml", "lm_train_config": "lm.yaml"},
    }
    (exp / "meta.yaml").write_text(yaml.safe_dump(meta))
    return exp


@pytest.fixture(scope="module")
def recognizer(exp):
    return espnet_hkd.from_pretrained(exp)


@pytest.mark.parametrize("options", [{}, {"lm_weight": 1.0, "ctc_weight": 0.1}])
def test_packed_language_model_scores_as_in_espnets_decoding(exp, recognizer, options):
    used = {"ctc_weight": 0.3, "lm_weight": 0.4, **options}
    stock = Speech2Text(
        exp / "config.yaml",
        exp / "train.total_count.ave.pth",
        lm_train_config=exp / "lm.yaml",
        lm_file=exp / "lm.pth",
        beam_size=5,
        **used,
    )
    text, _, _, hypothesis = stock(speech(2.0))[0]
    (ours,) = recognizer(speech(2.0), sample_rate=16000, beam=5, **options)
    assert ours.text == text
    assert ours.score == pytest.approx(float(hypothesis.score), abs=1e-3)
    (without,) = recognizer(speech(2.0), sample_rate=16000, lm_weight=0.0)
    assert without.score != ours.score


def test_a_language_model_that_is_not_there_is_refused(recognizer):
    with pytest.raises(SearchError, match="n-gram"):
        recognizer(speech(1.0), sample_rate=16000, ngram_weight=0.5)


def test_eight_threads_of_mixed_options_hear_what_one_does(recognizer):
    audio = [speech(seconds, seed=i) for i, seconds in enumerate((0.7, 1.0))]
    mixed = [
        {"tail": tail, "early_eos": early, "ctc_weight": ctc, "lm_weight": lm}
        for tail, early, ctc, lm in itertools.product(
            (0.1, 1.0), (False, True), (0.0, 0.3), (0.0, 0.4)
        )
    ]
    calls = [(audio[i % 2], mixed[i % len(mixed)], 1 + i % 3) for i in range(200)]

    def call(each):
        samples, options, beam = each
        return recognizer(samples, sample_rate=16000, beam=beam, **options)

    once = {}
    for number, each in enumerate(calls):
        key = (number % 2, number % len(mixed), each[2])
        if key not in once:
            once[key] = call(each)
    assert len({result[0].text for result in once.values()}) > 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(call, calls))
    for number, (each, result) in enumerate(zip(calls, found, strict=True)):
        assert result == once[number % 2, number % len(mixed), each[2]]
    decoder = recognizer.model.decoder
    assert (decoder.tail, decoder.early_eos) == (0.5, False)
