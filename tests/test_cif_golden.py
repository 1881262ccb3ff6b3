"""integrate_and_fire against numbers made by running the published code.

`golden/README.md` says how they were made and which of them are quirks: for those the
tests state our behaviour instead.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from espnet_hkd.cif import WeightPredictor, integrate_and_fire

GOLDEN = Path(__file__).with_name("golden")
THRESHOLD = 0.99

# File -> tail it was made with (None: scaled to the targets) and rows that agree.
FILES = {
    "infer_tail05": (0.5, [1, 2, 4]),
    "infer_tail04": (0.4, [1, 2, 3, 4]),
    "infer_neighbours": (0.5, [1, 2]),
    "infer_nofire": (0.5, [0, 2]),
    "train_basic": (None, [0, 1, 2, 3]),
    "train_neighbours": (None, [0, 1]),
    "train_noscale": (1.0, [0, 1]),
}


def load(name):
    with np.load(GOLDEN / f"cif_{name}.npz") as arrays:
        return {
            key: torch.from_numpy(value)
            for key, value in arrays.items()
            if value.dtype.kind != "U"
        }


def integrate(golden, tail, weights=None, hidden=None):
    return integrate_and_fire(
        golden["encoder_out"] if hidden is None else hidden,
        golden["alpha"] if weights is None else weights,
        golden["lengths"],
        targets=golden["target_lengths"] if tail is None else None,
        threshold=THRESHOLD,
        tail=0.5 if tail is None else tail,
    )


def assert_close(ours, golden):
    torch.testing.assert_close(ours, golden, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_values_and_gradients(name):
    tail, rows = FILES[name]
    golden = load(name)
    hidden = golden["encoder_out"].requires_grad_()
    weights = golden["alpha"].requires_grad_()
    fired = integrate(golden, tail, weights, hidden)
    slots = max(golden["cif_out_lens"][rows])
    assert_close(fired.states[rows, :slots], golden["cif_out"][rows, :slots])
    assert torch.equal(fired.lengths[rows], golden["cif_out_lens"][rows])
    assert_close(fired.mass, golden["quantity_out"])

    direction = golden["cot_cif_out"][rows, :slots]
    loss = (fired.states[rows, :slots] * direction).sum()
    grads = torch.autograd.grad(loss, (hidden, weights))
    assert_close(grads[0][rows], golden["grad_encoder_out"][rows])
    assert_close(grads[1][rows], golden["grad_alpha"][rows])


@pytest.mark.parametrize(
    ("name", "row"),
    [("infer_tail05", 0), ("infer_tail04", 0), ("infer_neighbours", 0)],
    ids=str,
)
def test_a_tail_needs_no_padding(name, row):
    golden = load(name)
    tail, _ = FILES[name]
    fired = integrate(golden, tail)
    published = int(golden["cif_out_lens"][row])
    assert golden["lengths"][row] == golden["alpha"].size(1)
    assert fired.lengths[row] == published + 1
    assert_close(fired.states[row, :published], golden["cif_out"][row, :published])
    assert fired.ends[row, published] == golden["lengths"][row]


def test_a_tail_needs_no_padding_in_a_batch_of_one():
    golden = load("infer_single")
    fired = integrate(golden, tail=0.4)
    assert golden["cif_out_lens"].tolist() == [2]
    assert fired.lengths.tolist() == [3]
    assert_close(fired.states[:, :2], golden["cif_out"])


def test_a_rest_at_the_tail_itself():
    golden = load("infer_tail05")
    row = 3
    mass = golden["alpha"][row, : golden["lengths"][row]].sum()
    assert abs(mass % 1 - 0.5) < 1e-9
    assert integrate(golden, tail=0.5 + 1e-6).lengths[row] == 2
    assert integrate(golden, tail=0.5 - 1e-6).lengths[row] == 3


def test_no_token_where_nothing_fires():
    golden = load("infer_nofire")
    assert golden["cif_out_lens"].tolist() == [3, 1, 1, 1]
    assert integrate(golden, tail=0.5).lengths.tolist() == [3, 0, 1, 0]
    silent = load("infer_nofire_all")
    assert silent["cif_out_lens"].tolist() == [1, 1]
    assert integrate(silent, tail=0.5).lengths.tolist() == [0, 0]


@pytest.mark.parametrize("name", ["train_overflow", "train_half_defect"])
def test_targets_are_reached_where_the_published_code_lost_tokens(name):
    golden = load(name)
    targets = golden["target_lengths"]
    assert (golden["cif_out_lens"] < targets).any()
    fired = integrate(golden, tail=None)
    assert torch.equal(fired.lengths, targets)
    ones = torch.ones_like(golden["encoder_out"])
    masses = integrate(golden, tail=None, hidden=ones).states[..., 0].float()
    wanted = torch.arange(masses.size(1)) < targets[:, None]
    torch.testing.assert_close(masses, wanted.float(), rtol=0, atol=1e-3)


def test_weight_predictor_and_integration():
    golden = load("train_conv")
    width, hidden_width = 6, 8
    predictor = WeightPredictor(width, dropout_rate=0.0).double()
    # The published estimator's convolution may widen; ours keeps the width.
    predictor.conv = nn.Conv1d(width, hidden_width, 3, padding=1)
    predictor.linear = nn.Linear(hidden_width, 1)
    predictor.load_state_dict(
        {
            "conv.weight": golden["conv_weight"],
            "conv.bias": golden["conv_bias"],
            "linear.weight": golden["proj_weight"],
            "linear.bias": golden["proj_bias"],
        },
        assign=True,
    )
    predictor.requires_grad_()
    hidden = golden["encoder_out"].requires_grad_()
    # The published convolution reads the first padded frame; so does ours if told that
    # it is a valid one.
    weights = predictor(hidden, golden["lengths"] + 1)
    valid = ~golden["padding_mask"]
    assert_close(weights[valid], golden["alpha"][valid])
    fired = integrate(golden, None, weights, hidden)
    assert_close(fired.states, golden["cif_out"])
    (fired.states * golden["cot_cif_out"]).sum().backward()
    assert_close(hidden.grad, golden["grad_encoder_out"])
    assert_close(predictor.conv.weight.grad, golden["grad_conv_weight"])
    assert_close(predictor.conv.bias.grad, golden["grad_conv_bias"])
    assert_close(predictor.linear.weight.grad, golden["grad_weight_proj_weight"])
    assert_close(predictor.linear.bias.grad, golden["grad_weight_proj_bias"])
