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
