"""Weights of the CIF that start from what CTC reads."""

from __future__ import annotations

import pytest
import torch

from espnet_hkd.errors import ConfigError
from espnet_hkd.nets.emissions import expected_emissions
from tests.small_models import (
    SIZE,
    make_decoder_with_ctc,
    make_model,
    speech_and_pause,
    write_experiment,
)


def test_a_token_begins_once_however_long_its_spike_is():
    # Tokens 1, 1 again behind a blank, 2 directly behind it, over several frames.
    path = torch.tensor([[0, 1, 1, 1, 0, 1, 2, 2, 0, 0]])
    logits = 30.0 * torch.nn.functional.one_hot(path, 4).float()
    emissions = expected_emissions(logits, torch.tensor([10]))
    wanted = [0, 1, 0, 0, 0, 1, 1, 0, 0, 1]
    assert emissions[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_what_ctc_is_half_sure_of_counts_half_where_its_best_path_leaves_it_out():
    # 0.4 for token 1 and 0.6 for the blank in one frame.
    read = torch.tensor([[[1.0, 0.0], [0.6, 0.4], [1.0, 0.0], [1.0, 0.0]]])
    emissions = expected_emissions((read + 1e-9).log(), torch.tensor([4]))
    assert emissions[0].tolist() == pytest.approx([0, 0.4, 0, 1], abs=1e-6)


def test_the_end_of_sentence_begins_at_the_last_frame_of_each():
    emissions = expected_emissions(torch.zeros(3, 5, 4), torch.tensor([5, 2, 0]))
    assert (emissions == 1).int().tolist() == [
        [0, 0, 0, 0, 1],
        [0, 1, 0, 0, 0],
        [0] * 5,
    ]


def untrained(**conf):
    decoder, ctc = make_decoder_with_ctc(ctc_prior=True, **conf)
    # The correction says nothing yet.
    torch.nn.init.zeros_(decoder.weight_predictor.linear.weight)
    return decoder, ctc


def test_an_untrained_predictor_fires_what_ctc_reads_and_the_end():
    decoder, _ = untrained()
    hidden, lengths = speech_and_pause()
    fired = decoder.fire(hidden, lengths)
    # Five tokens and the end, whatever the pause adds: at most 0.001 a frame.
    assert fired.lengths.tolist() == [6]
    assert (fired.ends[0, :5] - torch.arange(10, 30, 4)).abs().max() <= 1


def test_the_correction_can_take_a_token_away_and_add_one():
    decoder, _ = untrained()
    hidden, lengths = speech_and_pause()
    with torch.no_grad():
        decoder.weight_predictor.linear.bias.fill_(-20.0)
    assert decoder.predict_weights(hidden, lengths).sum() < 0.01
    with torch.no_grad():
        decoder.weight_predictor.linear.bias.fill_(20.0)
    assert decoder.predict_weights(hidden, lengths).sum() > 399


def test_no_gradient_reaches_ctc_by_the_weights_and_padding_adds_none():
    decoder, ctc = untrained(dropout_rate=0.0)
    hidden, _ = speech_and_pause(60)
    padded = torch.cat([hidden, torch.full((1, 9, SIZE), torch.nan)], dim=1)
    padded.requires_grad_()
    weights = decoder.predict_weights(padded, torch.tensor([60]))
    alone = decoder.predict_weights(hidden, torch.tensor([60]))
    torch.testing.assert_close(weights[:, :60], alone)
    assert not weights[:, 60:].any()
    weights.sum().backward()
    assert padded.grad is not None
    assert padded.grad.isfinite().all()
    assert ctc.ctc_lo.weight.grad is None
    bias = decoder.weight_predictor.linear.bias.grad
    assert bias is not None
    assert bias.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_any_precision_fires_as_many(dtype):
    decoder, ctc = untrained()
    hidden, lengths = speech_and_pause()
    decoder, ctc = decoder.to(dtype), ctc.to(dtype)
    assert decoder.fire(hidden.to(dtype), lengths).lengths.tolist() == [6]


def test_a_model_learns_with_a_prior():
    model = make_model(decoder_conf={"ctc_prior": True}).train()
    torch.manual_seed(3)
    text = torch.tensor([[2, 3, 4, 5], [6, 7, -1, -1]])
    loss, _, _ = model(
        torch.randn(2, 120, 80),
        torch.tensor([120, 90]),
        text,
        torch.tensor([4, 2]),
    )
    loss.backward()
    assert loss.isfinite()
    grads = [p.grad for p in model.decoder.weight_predictor.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


def test_a_model_without_ctc_has_no_prior(tmp_path):
    changes = {
        "decoder_conf": {"attention_heads": 2, "linear_units": 32, "ctc_prior": True},
        "model_conf": {"ctc_weight": 0.0},
    }
    with pytest.raises(ConfigError, match="ctc_prior to false"):
        write_experiment(tmp_path, **changes)
