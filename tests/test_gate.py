"""Weights that count only where CTC reads something near."""

from __future__ import annotations

import copy

import pytest
import torch

from espnet_hkd.errors import ConfigError
from espnet_hkd.nets.decoder import CIFDecoder
from espnet_hkd.nets.gate import speech_gate
from tests.small_models import (
    SIZE,
    make_decoder_with_ctc,
    speech_and_pause,
    write_experiment,
)

VOCAB = 7


def opened(gate):
    return ["".join("01"[int(each)] for each in row) for row in gate]


def test_what_is_near_a_likely_token_or_the_end_is_open():
    blank = torch.ones(3, 12)
    blank[0, 4] = 0.8
    blank[1, [0, 8]] = 0.5
    # Padding of the third, of two frames, says what it likes.
    blank[2, 2:] = 0.0
    gate = speech_gate(blank, torch.tensor([12, 9, 2]), threshold=0.1, reach=2)
    assert opened(gate) == ["001111100011", "111000111000", "110000000000"]


def test_the_threshold_is_what_all_tokens_together_must_exceed():
    blank = torch.tensor([[1.0, 0.96, 0.94, 1.0, 1.0, 1.0, 1.0]])
    gate = speech_gate(blank, torch.tensor([7]), threshold=0.05, reach=1)
    assert opened(gate) == ["0111001"]


def test_a_pause_fires_nothing_and_speech_keeps_its_weights():
    decoder, _ = make_decoder_with_ctc(ctc_gate=0.05, ctc_gate_reach=6)
    hidden, lengths = speech_and_pause()
    weights = decoder.predict_weights(hidden, lengths)[0]
    free = decoder.weight_predictor(hidden, lengths)[0]
    assert torch.equal(weights[4:33], free[4:33])
    assert not weights[33:-6].any()
    assert free[33:-6].sum() > 10
    # As much as a short recording: the pause's length is gone.
    short = decoder.fire(hidden[:, :50], torch.tensor([50]))
    assert decoder.fire(hidden, lengths).lengths == short.lengths


def test_a_gate_acts_in_decoding_alone():
    decoder, _ = make_decoder_with_ctc(ctc_gate=0.05, dropout_rate=0.0)
    hidden, lengths = speech_and_pause()
    free = decoder.weight_predictor(hidden, lengths)
    assert not torch.equal(decoder.predict_weights(hidden, lengths), free)
    assert torch.equal(decoder.train().predict_weights(hidden, lengths), free)


def test_the_ctc_stays_the_models_and_a_copy_asks_its_own():
    decoder, ctc = make_decoder_with_ctc(ctc_gate=0.05)
    names = set(decoder.state_dict())
    assert not any("ctc" in name for name in names)
    hidden, lengths = speech_and_pause()
    model = torch.nn.ModuleDict({"decoder": decoder, "ctc": ctc})
    other = copy.deepcopy(model)
    torch.nn.init.zeros_(other["ctc"].ctc_lo.weight)
    gated = other["decoder"].predict_weights(hidden, lengths)
    assert not gated[0, :-12].any()
    assert decoder.predict_weights(hidden, lengths)[0, :-12].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_any_precision_opens_the_same_frames(dtype):
    decoder, ctc = make_decoder_with_ctc(ctc_gate=0.05)
    hidden, lengths = speech_and_pause()
    wanted = decoder.predict_weights(hidden, lengths) > 0
    decoder, ctc = decoder.to(dtype), ctc.to(dtype)
    assert torch.equal(decoder.predict_weights(hidden.to(dtype), lengths) > 0, wanted)


def test_a_model_without_ctc_has_no_gate(tmp_path):
    changes = {
        "decoder_conf": {"attention_heads": 2, "linear_units": 32, "ctc_gate": 0.05},
        "model_conf": {"ctc_weight": 0.0},
    }
    with pytest.raises(ConfigError, match="or pauses are"):
        write_experiment(tmp_path, **changes)


@pytest.mark.parametrize("options", [{"ctc_gate": 1.0}, {"ctc_gate_reach": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        CIFDecoder(VOCAB, SIZE, attention_heads=2, linear_units=8, **options)
