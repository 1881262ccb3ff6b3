"""WeightPredictor: how much of a token each frame carries."""

import pytest
import torch

from espnet_hkd.cif import WeightPredictor
from espnet_hkd.errors import ConfigError

LENGTHS = torch.tensor([31, 1, 14])


def draw(dtype=torch.float32):
    """A batch of frames, NaN on padding."""
    torch.manual_seed(0)
    hidden = torch.randn(len(LENGTHS), 31, 16, dtype=dtype)
    hidden[torch.arange(31) >= LENGTHS[:, None]] = torch.nan
    return hidden.requires_grad_()


def test_alone_equals_padded():
    predictor, hidden = WeightPredictor(16).eval(), draw()
    weights = predictor(hidden, LENGTHS)
    (grad,) = torch.autograd.grad(weights.square().sum(), hidden)
    for b, length in enumerate(LENGTHS.tolist()):
        alone = hidden[b : b + 1, :length].detach().requires_grad_()
        own = predictor(alone, LENGTHS[b : b + 1])
        torch.testing.assert_close(weights[b, :length], own[0])
        assert not weights[b, length:].any()
        (own_grad,) = torch.autograd.grad(own.square().sum(), alone)
        torch.testing.assert_close(grad[b, :length], own_grad[0])
        assert not grad[b, length:].any()


@pytest.mark.parametrize("initial_weight", [0.05, 0.25, 0.8])
@pytest.mark.parametrize("width", [16, 256])
def test_the_mean_weight_starts_where_it_should(width, initial_weight):
    for seed in range(5):
        torch.manual_seed(seed)
        predictor = WeightPredictor(width, initial_weight=initial_weight)
        weights = predictor(torch.randn(8, 100, width), torch.full((8,), 100))
        assert weights.mean().item() == pytest.approx(initial_weight, rel=0.05)


def test_weights_lie_between_zero_and_one():
    predictor = WeightPredictor(16)
    weights = predictor(draw().detach() * 1e4, LENGTHS)
    assert ((weights >= 0) & (weights <= 1)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_weights_are_never_coarser_than_float32(dtype):
    predictor = WeightPredictor(16).to(dtype).eval()
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert predictor(draw(dtype), LENGTHS).dtype == wanted


def test_weights_under_autocast_are_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = WeightPredictor(16)(draw(), LENGTHS)
    assert weights.dtype == torch.float32


def test_dropout_acts_in_training_alone():
    predictor, hidden = WeightPredictor(16, dropout_rate=0.5), draw()
    different = predictor(hidden, LENGTHS) != predictor(hidden, LENGTHS)
    assert different.any()
    predictor.eval()
    assert torch.equal(predictor(hidden, LENGTHS), predictor(hidden, LENGTHS))


@pytest.mark.parametrize("initial_weight", [0.0, 1.0, -0.2, 2.0])
def test_an_impossible_start_is_refused(initial_weight):
    with pytest.raises(ConfigError, match="initial_weight") as error:
        WeightPredictor(16, initial_weight=initial_weight)
    assert error.value.got == initial_weight
    assert "initial_weight" in error.value.remedy


@pytest.mark.parametrize("initial_weight", [0.05, 0.25])
def test_the_mean_weight_starts_where_it_should_above_a_floor(initial_weight):
    torch.manual_seed(0)
    predictor = WeightPredictor(64, initial_weight=initial_weight, floor=0.1)
    weights = predictor(torch.randn(8, 100, 64), torch.full((8,), 100))
    assert float(weights.detach().mean()) == pytest.approx(initial_weight, abs=0.02)


def test_a_floor_takes_all_weight_of_frames_below_it_and_stretches_the_rest():
    plain, hidden = WeightPredictor(16, initial_weight=0.3).eval(), draw()
    torch.nn.init.normal_(plain.linear.weight)
    floored = WeightPredictor(16, floor=0.4).eval()
    floored.load_state_dict(plain.state_dict())
    sigmoid, weights = plain(hidden, LENGTHS), floored(hidden, LENGTHS)
    below = sigmoid <= 0.4
    assert 5 < below.sum() < below.numel() - 5
    assert not weights[below].any()
    torch.testing.assert_close(weights[~below], (sigmoid[~below] - 0.4) / 0.6)
    # A weight of 1 stays 1, and padding stays 0.
    assert float(weights.detach().max()) <= 1
    assert not weights[1, 1:].any()


def test_a_minute_of_pause_fires_nothing_above_a_floor_and_tokens_without():
    from espnet_hkd.cif import integrate_and_fire

    pause, lengths = torch.randn(1, 1500, 16), torch.tensor([1500])
    fired = {}
    for floor in (0.0, 0.05):
        predictor = WeightPredictor(16, floor=floor).eval()
        torch.nn.init.zeros_(predictor.linear.weight)
        # What AN4's pauses carried: a frame little, a minute eight tokens.
        torch.nn.init.constant_(predictor.linear.bias, -5.2)
        weights = predictor(pause, lengths)
        fired[floor] = int(integrate_and_fire(pause, weights, lengths).lengths[0])
    assert fired == {0.0: 8, 0.05: 0}


@pytest.mark.parametrize("floor", [-0.1, 1.0])
def test_a_floor_out_of_range_is_refused(floor):
    with pytest.raises(ConfigError, match="floor"):
        WeightPredictor(16, floor=floor)
