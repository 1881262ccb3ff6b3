"""Odd values, and what cannot be: all implementations of integrate_and_fire alike."""

import pytest
import torch

from espnet_hkd import cif
from espnet_hkd.cif import MOST_TOKENS, integrate_and_fire
from espnet_hkd.errors import ConfigError

TARGETS = torch.tensor([2, 3, 1])
MODES = pytest.mark.parametrize(
    "targets", [TARGETS, None], ids=["to targets", "freely"]
)


@pytest.fixture(params=["reference", "torch", "compiled", "triton"], autouse=True)
def implementation(request, monkeypatch):
    """`integrate_and_fire` by each; Triton's kernels on a GPU if there is one."""
    monkeypatch.setenv("HKD_CIF", request.param)
    on_gpu = request.param == "triton" and torch.cuda.is_available()
    with torch.device("cuda" if on_gpu else "cpu"):
        yield request.param


def draw(lengths=(5, 7, 3), width=2, dtype=torch.float64):
    """Frames and weights, NaN on padding; lengths."""
    with torch.device("cpu"):
        torch.manual_seed(0)
        frames = max(lengths, default=0)
        hidden = torch.randn(len(lengths), frames, width, dtype=dtype)
        weights = torch.rand(len(lengths), frames, dtype=dtype)
        lengths = torch.tensor(lengths, dtype=torch.long)
        padding = torch.arange(frames) >= lengths[:, None]
    hidden[padding] = weights[padding] = torch.nan
    device = torch.get_default_device()
    hidden, weights, lengths = (x.to(device) for x in (hidden, weights, lengths))
    return hidden.requires_grad_(), weights.requires_grad_(), lengths


def fire(hidden, weights, lengths, targets=None, **options):
    """Tokens, and the gradients of their squares and of the squared mass."""
    targets = None if targets is None else targets.to(lengths.device)
    fired = integrate_and_fire(hidden, weights, lengths, targets=targets, **options)
    loss = fired.states.square().sum() + fired.mass.square().sum()
    if not loss.requires_grad:
        # Nothing depends on an empty batch.
        return fired, (torch.zeros_like(hidden), torch.zeros_like(weights))
    grads = torch.autograd.grad(
        loss, (hidden, weights), allow_unused=True, materialize_grads=True
    )
    return fired, grads


@MODES
def test_a_weight_negative_or_not_finite_counts_as_nothing(targets):
    bad = [torch.nan, torch.inf, -torch.inf, -0.5, -1e30, 1e39, 1e308]
    bad = torch.tensor(bad, dtype=torch.float64)
    rows = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    columns = torch.tensor([0, 2, 4, 0, 3, 5, 6])
    hidden, weights, lengths = draw((6, 8, 3))
    with_bad, without = weights.detach().clone(), weights.detach().clone()
    with_bad[rows, columns] = bad
    without[rows, columns] = 0.0
    wanted, wanted_grads = fire(hidden, without.requires_grad_(), lengths, targets)
    fired, grads = fire(hidden, with_bad.requires_grad_(), lengths, targets)
    assert fired.lengths.tolist() == wanted.lengths.tolist()
    assert torch.equal(fired.states, wanted.states)
    assert torch.equal(fired.ends, wanted.ends)
    assert torch.equal(fired.mass, wanted.mass)
    assert torch.equal(grads[0], wanted_grads[0])
    # What counts as nothing learns nothing.
    wanted_grads[1][rows, columns] = 0.0
    assert torch.equal(grads[1], wanted_grads[1])


def test_weights_of_which_none_counts_are_silence():
    hidden, weights, lengths = draw()
    weights = torch.tensor([torch.nan, torch.inf, -1.0])[:, None].expand(3, 7)
    weights = weights.double().requires_grad_()
    fired, grads = fire(hidden, weights, lengths)
    assert fired.lengths.tolist() == [0, 0, 0]
    assert fired.mass.tolist() == [0.0, 0.0, 0.0]
    assert not grads[1].any()
    fired, grads = fire(hidden, weights, lengths, TARGETS)
    assert fired.lengths.tolist() == TARGETS.tolist()
    torch.testing.assert_close(fired.states[2, 0], hidden[2, :3].mean(0))
    assert not grads[1].any()


@MODES
def test_an_utterance_of_no_frames_has_tokens_of_zeros(targets):
    hidden, weights, lengths = draw((5, 0, 3))
    fired, grads = fire(hidden, weights, lengths, targets)
    assert fired.lengths[1] == (0 if targets is None else 3)
    assert fired.mass[1] == 0
    assert not fired.states[1].any()
    assert not fired.ends[1].any()
    assert not grads[0][1].any()
    assert not grads[1][1].any()
    for b in (0, 2):
        alone = (x[b : b + 1, : lengths[b]].detach() for x in (hidden, weights))
        own = integrate_and_fire(
            *alone,
            lengths[b : b + 1],
            targets=None if targets is None else targets[b : b + 1].to(lengths.device),
        )
        torch.testing.assert_close(own.states[0], fired.states[b, : own.states.size(1)])


@pytest.mark.parametrize("max_tokens", [None, 2])
@pytest.mark.parametrize(
    ("batch", "frames", "width"), [(0, 4, 2), (2, 0, 2), (2, 4, 0), (0, 0, 0)]
)
@pytest.mark.parametrize("to_targets", [True, False], ids=["to targets", "freely"])
def test_nothing_in_one_direction(batch, frames, width, max_tokens, to_targets):
    hidden = torch.ones(batch, frames, width, requires_grad=True)
    weights = torch.ones(batch, frames, requires_grad=True)
    lengths = torch.full((batch,), frames)
    targets = torch.full((batch,), 3) if to_targets else None
    fired, grads = fire(hidden, weights, lengths, targets, max_tokens=max_tokens)
    each = 3 if to_targets else frames
    slots = (each if batch else 0) if max_tokens is None else max_tokens
    assert fired.states.shape == (batch, slots, width)
    assert fired.ends.shape == (batch, slots)
    assert fired.lengths.tolist() == [min(each, slots)] * batch
    assert fired.mass.tolist() == [frames] * batch
    assert grads[0].shape == hidden.shape
    assert (grads[1] == 2 * frames).all()


def test_negative_targets_count_as_none():
    hidden, weights, lengths = draw()
    fired, _ = fire(hidden, weights, lengths, torch.tensor([-1, 2, -(2**40)]))
    assert fired.lengths.tolist() == [0, 2, 0]
    assert fired.states.shape == (3, 2, 2)
    assert not fired.states[::2].any()


def test_a_huge_weight_fills_the_slots_and_no_more():
    hidden, weights, lengths = draw()
    weights = weights.detach().clone()
    weights[1, 2] = 1e30
    weights.requires_grad_()
    fired, grads = fire(hidden, weights, lengths, max_tokens=4)
    assert fired.lengths[1] == 4
    # All of a token but the first lies in that frame.
    torch.testing.assert_close(fired.states[1, 2:], hidden[1, 2].expand(2, -1))
    assert grads[0][1].isfinite().all()
    fired, grads = fire(hidden, weights, lengths, TARGETS)
    assert fired.lengths.tolist() == TARGETS.tolist()
    torch.testing.assert_close(fired.states[1], hidden[1, 2].expand(3, -1))


def test_more_tokens_than_speech_has_are_refused():
    hidden, weights, lengths = draw()
    weights = weights.detach().clone()
    weights[0, 2] = MOST_TOKENS + 1.0
    for weight in (MOST_TOKENS + 1.0, 1e30):
        weights[0, 2] = weight
        with pytest.raises(ConfigError, match="more tokens than speech") as error:
            integrate_and_fire(hidden, weights, lengths)
        assert str(MOST_TOKENS) in str(error.value.wanted)


@pytest.mark.parametrize("length", [8, -1])
@MODES
def test_lengths_out_of_range_are_refused(length, targets):
    hidden, weights, lengths = draw()
    lengths[1] = length
    with pytest.raises(ConfigError, match="lengths") as error:
        fire(hidden, weights, lengths, targets)
    assert error.value.got == f"{length} for utterance 1 of 3"
    assert "0 to 7" in str(error.value.wanted)


@pytest.mark.parametrize("length", [8, -1])
@MODES
def test_lengths_that_lie_on_a_gpu_are_checked_at_its_wait(
    length, targets, implementation
):
    """`integrate_and_fire` leaves those to the implementation: so ask that."""
    hidden, weights, lengths = draw()
    lengths[1] = length
    targets = None if targets is None else targets.to(lengths.device)
    integrate = cif._choose(hidden.device).integrate
    options = {"slack": 1e-9, "tail": 0.5}
    if implementation == "triton" or implementation == "torch":
        with pytest.raises(ConfigError, match="lengths"):
            integrate(hidden, weights, lengths, targets, None, **options)
    # Without a wait they count as the nearest that can be.
    nearest = lengths.clamp(0, 7)
    got = integrate(hidden, weights, lengths, targets, 3, **options)
    wanted = integrate(hidden, weights, nearest, targets, 3, **options)
    for ours, theirs in zip(got, wanted, strict=True):
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())


WRONG_INPUTS = {
    "hidden without width": ("hidden", lambda x: x[0][..., 0]),
    "whole hidden": ("hidden", lambda x: x[0].detach().nan_to_num().long()),
    "complex hidden": ("hidden", lambda x: x[0].detach() * 1j),
    "a frame of weights too few": ("weights", lambda x: x[1][:, 1:]),
    "weights with width": ("weights", lambda x: x[0]),
    "whole weights": ("weights", lambda x: x[1].detach().nan_to_num().long()),
    "a length too few": ("lengths", lambda x: x[2][1:]),
    "a single length": ("lengths", lambda x: x[2][0]),
    "fractional lengths": ("lengths", lambda x: x[2].double()),
    "a mask for lengths": ("lengths", lambda x: x[2] > 0),
    "a target too many": ("targets", lambda x: torch.ones(4, dtype=torch.long)),
    "fractional targets": ("targets", lambda x: torch.ones(3)),
    "weights elsewhere": ("weights", lambda x: x[1].to("meta")),
}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_inputs_that_do_not_fit_are_refused(case):
    name, make = WRONG_INPUTS[case]
    inputs = draw()
    arguments = dict(zip(("hidden", "weights", "lengths"), inputs, strict=True))
    arguments[name] = make(inputs)
    with pytest.raises(ConfigError, match=name) as error:
        integrate_and_fire(**arguments)
    assert error.value.got and error.value.wanted and error.value.remedy


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.5},
        {"threshold": 1.01},
        {"threshold": torch.nan},
        {"tail": -0.1},
        {"tail": 1.5},
        {"max_tokens": -1},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=name) as error:
        integrate_and_fire(*draw(), **options)
    assert error.value.got is options[name]
    assert error.value.wanted


@MODES
def test_what_is_returned_can_be_changed_in_place(targets):
    inputs = draw()
    _, wanted = fire(*inputs, targets)
    targets = None if targets is None else targets.to(inputs[2].device)
    fired = integrate_and_fire(*inputs, targets=targets)
    loss = fired.states.square().sum() + fired.mass.square().sum()
    fired.lengths.zero_()
    fired.ends.zero_()
    for ours, theirs in zip(torch.autograd.grad(loss, inputs[:2]), wanted, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("spoilt", [torch.inf, torch.nan], ids=str)
@MODES
def test_an_infinite_gradient_stays_with_its_utterance(spoilt, targets):
    """As a loss scale that is too large makes them, in half precision."""
    hidden, weights, lengths = draw()
    targets = None if targets is None else targets.to(lengths.device)
    fired = integrate_and_fire(hidden, weights, lengths, targets=targets)
    direction = torch.ones_like(fired.states)
    direction[1, 0] = spoilt
    grads = torch.autograd.grad(fired.states, (hidden, weights), direction)
    again = integrate_and_fire(hidden, weights, lengths, targets=targets)
    wanted = torch.autograd.grad(again.states.sum(), (hidden, weights))
    assert torch.equal(again.states, fired.states)
    for grad, right in zip(grads, wanted, strict=True):
        assert not grad[1].isfinite().all()
        for b in (0, 2):
            torch.testing.assert_close(grad[b], right[b])
