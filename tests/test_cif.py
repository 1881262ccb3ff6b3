"""integrate_and_fire against its definition, and at its edges."""

import itertools
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_hkd.cif import (
    FiredTokens,
    integrate_and_fire,
    integrate_and_fire_reference,
)

TRAINING, INFERENCE = "to targets", "freely"
MODES = pytest.mark.parametrize("mode", [TRAINING, INFERENCE])
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
# How `integrate_and_fire` calculates, by HKD_CIF, and where. What Triton's kernels do
# without a GPU, `test_cif_triton.py` asks at smaller shapes.
COMPILED, OPERATORS = ("compiled", "cpu"), ("torch", "cpu")
ON_GPU = [("torch", "cuda"), ("triton", "cuda")] * torch.cuda.is_available()


@pytest.fixture(params=[COMPILED, OPERATORS, *ON_GPU], ids=" on ".join, autouse=True)
def implementation(request, monkeypatch):
    """The implementation; new tensors lie on its device."""
    name, device = request.param
    monkeypatch.setenv("HKD_CIF", name)
    with torch.device(device):
        yield request.param


@pytest.fixture
def lengths(implementation):
    return torch.tensor([23, 1, 17, 2, 9, 13])


@pytest.fixture
def targets(implementation):
    return torch.tensor([7, 3, 0, 2, 4, 30])


def draw(lengths, width=3, scale=1.0, dtype=torch.float64):
    """Frames and weights, NaN on padding so that whatever reads it is found out.

    The same on every device.
    """
    with torch.device("cpu"):
        torch.manual_seed(len(lengths))
        frames = int(lengths.max())
        padding = torch.arange(frames) >= lengths.cpu()[:, None]
        hidden = torch.randn(len(lengths), frames, width, dtype=dtype)
        weights = torch.rand(len(lengths), frames, dtype=dtype) * scale
        hidden[padding] = weights[padding] = torch.nan
    hidden, weights = (x.to(lengths.device) for x in (hidden, weights))
    return hidden.requires_grad_(), weights.requires_grad_()


def gradients(fired: FiredTokens, hidden, weights):
    """Gradients of a random projection of all that carries one."""
    generator = torch.Generator("cpu").manual_seed(0)
    shape = fired.states.shape
    direction = torch.randn(shape, generator=generator, device="cpu")
    direction = direction.to(fired.states)
    loss = (fired.states * direction).sum() + fired.mass.square().sum()
    return torch.autograd.grad(loss, (hidden, weights))


def assert_same(ours, reference, dtype):
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 1e-2)
    for a, b in zip(ours, reference, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.cpu(), b, rtol=tolerance, atol=tolerance)


def fire_and_differentiate(function, lengths, targets, scale, dtype, **options):
    """Tokens and gradients for each of a few tails and numbers of slots."""
    hidden, weights = draw(lengths, scale=scale, dtype=dtype)
    tails = [0.0, 0.3, 0.5, 1.0] if targets is None else [0.5]
    for tail, max_tokens in itertools.product(tails, [None, 1, 4, 60]):
        options |= {"tail": tail, "max_tokens": max_tokens}
        fired = function(hidden, weights, lengths, targets=targets, **options)
        yield fired, gradients(fired, hidden, weights)


@cache
def by_reference(lengths, targets, scale, dtype, threshold):
    """What the plain loops say, on CPU; every implementation is compared with it."""
    targets = None if targets is None else torch.tensor(targets, device="cpu")
    lengths = torch.tensor(lengths, device="cpu")
    with torch.device("cpu"):
        runs = fire_and_differentiate(
            integrate_and_fire_reference,
            lengths,
            targets,
            scale,
            dtype,
            threshold=threshold,
        )
        return list(runs)


@DTYPES
@pytest.mark.parametrize("threshold", [1.0, 0.99, 0.75, 0.51])
@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0], ids="weights up to {}".format)
@MODES
def test_equals_the_reference(mode, scale, threshold, dtype, lengths, targets):
    targets = targets if mode == TRAINING else None
    runs = fire_and_differentiate(
        integrate_and_fire, lengths, targets, scale, dtype, threshold=threshold
    )
    wanted_runs = by_reference(
        tuple(lengths.tolist()),
        None if targets is None else tuple(targets.tolist()),
        scale,
        dtype,
        threshold,
    )
    for (ours, grads), (wanted, wanted_grads) in zip(runs, wanted_runs, strict=True):
        assert ours.lengths.tolist() == wanted.lengths.tolist()
        assert_same([ours.states, ours.mass], [wanted.states, wanted.mass], dtype)
        assert_same([ours.ends], [wanted.ends], torch.float32)
        assert_same(grads, wanted_grads, dtype)


@pytest.mark.parametrize("threshold", [1.0, 0.99, 0.6])
@MODES
def test_gradients_equal_finite_differences(mode, threshold):
    lengths, targets = torch.tensor([7, 4, 1]), torch.tensor([3, 6, 1])
    hidden, weights = draw(lengths, width=2)
    hidden, weights = (
        x.detach().nan_to_num().requires_grad_() for x in (hidden, weights)
    )

    def states_and_mass(hidden, weights):
        fired = integrate_and_fire(
            hidden,
            weights,
            lengths,
            targets=targets if mode == TRAINING else None,
            threshold=threshold,
            tail=0.2,
        )
        return fired.states, fired.mass

    assert torch.autograd.gradcheck(states_and_mass, (hidden, weights))


def test_a_second_derivative_is_refused(lengths, targets):
    hidden, weights = draw(lengths)
    states = integrate_and_fire(hidden, weights, lengths, targets=targets).states
    (grad,) = torch.autograd.grad(states.square().sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.nansum().backward()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("threshold", [1.0, 0.99])
def test_ten_thousand_utterances_get_their_targets(dtype, threshold):
    torch.manual_seed(0)
    for _ in range(50):
        targets = torch.randint(1, 401, (200,))
        lengths = torch.randint(1, 700, (200,))
        # From flat to as peaked as a trained model's, and some frames of no weight.
        sharpness = torch.rand(200, 1) * 8
        noise = torch.randn(200, int(lengths.max()))
        weights = (sharpness * (noise - 1)).sigmoid() * (noise > -1)
        # The mass of a token is the integral of ones.
        ones = torch.ones(*weights.shape, 1, dtype=dtype)
        fired = integrate_and_fire(
            ones, weights.to(dtype), lengths, targets=targets, threshold=threshold
        )
        wanted = torch.arange(fired.states.size(1)) < targets[:, None]
        assert fired.lengths.tolist() == targets.tolist()
        masses = fired.states.squeeze(2).float()
        torch.testing.assert_close(masses, wanted.float(), rtol=0, atol=1e-3)


@DTYPES
@MODES
def test_alone_equals_padded(mode, dtype, implementation, lengths, targets):
    # On a GPU the number of frames decides in which order their weights are added.
    rounding = {} if implementation in ON_GPU else {"rtol": 0, "atol": 0}
    hidden, weights = draw(lengths, scale=0.8, dtype=dtype)
    targets = targets if mode == TRAINING else None
    fired = integrate_and_fire(hidden, weights, lengths, targets=targets)
    assert fired.states.isfinite().all()
    grads = torch.autograd.grad(fired.states.sum(), (hidden, weights))
    for b, length in enumerate(lengths.tolist()):
        alone = [
            x[b : b + 1, :length].detach().requires_grad_() for x in (hidden, weights)
        ]
        own = integrate_and_fire(
            *alone,
            lengths[b : b + 1],
            targets=None if targets is None else targets[b : b + 1],
        )
        count = own.states.size(1)
        assert own.lengths[0] == fired.lengths[b] == count
        for ours, padded in ((own.states, fired.states), (own.ends, fired.ends)):
            torch.testing.assert_close(ours[0], padded[b, :count], **rounding)
        assert not fired.states[b, count:].any()
        assert not fired.ends[b, count:].any()
        own_grads = torch.autograd.grad(own.states.sum(), alone)
        for grad, own_grad in zip(grads, own_grads, strict=True):
            torch.testing.assert_close(grad[b, :length], own_grad[0])
            assert not grad[b, length:].any()


def test_several_tokens_fire_in_one_frame():
    weights = torch.tensor([[0.5, 2.75, 0.75, 0.5]])
    fired = integrate_and_fire(torch.eye(4)[None], weights, torch.tensor([4]), tail=0.4)
    wanted = torch.tensor(
        [[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0.25, 0.75, 0], [0, 0, 0, 1]]
    )
    torch.testing.assert_close(fired.states[0], wanted)
    ends = torch.tensor([[1 + 0.5 / 2.75, 1 + 1.5 / 2.75, 1 + 2.5 / 2.75, 3, 4]])
    torch.testing.assert_close(fired.ends, ends)


def test_a_threshold_below_one_carries_the_debt_on():
    weights = torch.tensor([[0.992, 0.5, 0.5]])
    fired = integrate_and_fire(
        torch.eye(3)[None], weights, torch.tensor([3]), threshold=0.99
    )
    wanted = torch.tensor([[1.0, 0, 0], [-0.008, 0.5, 0.508]])
    torch.testing.assert_close(fired.states[0], wanted)
    torch.testing.assert_close(fired.ends, torch.tensor([[1.0, 3.0]]))


def test_rounding_does_not_delay_a_firing():
    weights = torch.full((1, 10), 0.1, dtype=torch.float64)
    assert weights.cumsum(1)[0, -1] < 1
    fired = integrate_and_fire(weights[..., None], weights, torch.tensor([10]), tail=1)
    assert fired.lengths.tolist() == [1]


@pytest.mark.parametrize("rest", [0.3, 0.5, 0.7])
def test_the_rest_becomes_a_token_if_it_exceeds_the_tail(rest):
    weights = torch.tensor([[1.0, rest / 2, rest / 2]], dtype=torch.float64)
    hidden = torch.randn(1, 3, 2, dtype=torch.float64)

    def fire(tail):
        return integrate_and_fire(hidden, weights, torch.tensor([3]), tail=tail)

    assert fire(rest + 1e-6).lengths.tolist() == [1]
    assert fire(1.0).lengths.tolist() == [1]
    flushed = fire(rest - 1e-6)
    assert flushed.lengths.tolist() == [2]
    torch.testing.assert_close(flushed.states[0, 1], hidden[0, 1:].mean(0))
    assert flushed.ends.tolist() == [[1.0, 3.0]]


def test_nothing_fires(lengths):
    hidden, weights = draw(lengths, scale=1e-3)
    fired = integrate_and_fire(hidden, weights, lengths)
    assert fired.lengths.tolist() == [0] * len(lengths)
    assert fired.states.shape == (len(lengths), 0, 3)
    assert fired.ends.shape == (len(lengths), 0)
    for grad in torch.autograd.grad(fired.states.sum(), (hidden, weights)):
        assert not grad.any()


@pytest.mark.parametrize("target", [0, 1, 5])
def test_one_frame_is_every_token(target):
    hidden, weights = draw(torch.tensor([1]))
    fired = integrate_and_fire(
        hidden, weights, torch.tensor([1]), targets=torch.tensor([target])
    )
    assert torch.equal(fired.states[0], hidden[0].expand(target, -1))
    ends = torch.arange(1, target + 1) / max(target, 1)
    torch.testing.assert_close(fired.ends[0], ends)
    grad_hidden, grad_weights = torch.autograd.grad(
        fired.states.sum(), (hidden, weights)
    )
    assert grad_hidden.tolist() == [[[target] * 3]]
    torch.testing.assert_close(grad_weights, torch.zeros(1, 1, dtype=torch.float64))


@DTYPES
def test_silence_is_divided_evenly(dtype):
    hidden = torch.randn(2, 9, 4, dtype=dtype, requires_grad=True)
    weights = torch.zeros(2, 9, dtype=dtype, requires_grad=True)
    lengths, targets = torch.tensor([9, 6]), torch.tensor([3, 2])
    fired = integrate_and_fire(hidden, weights, lengths, targets=targets)
    thirds = hidden.float().unflatten(1, (3, 3)).mean(2).to(dtype)
    torch.testing.assert_close(fired.states[0], thirds[0])
    torch.testing.assert_close(fired.states[1, :2], thirds[1, :2])
    assert fired.ends.tolist() == [[3, 6, 9], [3, 6, 0]]
    grads = torch.autograd.grad(fired.states.sum(), (hidden, weights))
    assert grads[0].isfinite().all()
    assert not grads[1].any()


def test_frames_of_no_weight_after_the_last_token_are_not_its_end():
    weights = torch.tensor([[0.3, 0.4, 0.3, 0.0, 0.0]])
    fired = integrate_and_fire(
        torch.eye(5)[None], weights, torch.tensor([5]), targets=torch.tensor([1])
    )
    assert fired.ends.tolist() == [[3.0]]
    torch.testing.assert_close(fired.states[0], weights)


@MODES
@pytest.mark.parametrize("threshold", [1.0, 0.99, 0.6])
def test_ends_grow_and_stay_inside_the_utterance(mode, threshold):
    for scale in (0.2, 1.0, 4.0):
        hidden, weights = draw(torch.randint(1, 50, (40,)), scale=scale)
        lengths = weights.isfinite().sum(1)
        fired = integrate_and_fire(
            hidden,
            weights,
            lengths,
            targets=lengths // 2 if mode == TRAINING else None,
            threshold=threshold,
        )
        assert not fired.ends.requires_grad
        for ends, count, length in zip(fired.ends, fired.lengths, lengths, strict=True):
            own = ends[:count]
            assert (own.diff() >= 0).all()
            assert ((own > 0) & (own <= length)).all()


@MODES
def test_max_tokens_sets_the_slots(mode, lengths, targets):
    hidden, weights = draw(lengths)
    targets = targets if mode == TRAINING else None
    whole = integrate_and_fire(hidden, weights, lengths, targets=targets)
    longest = whole.states.size(1)
    for slots in (0, 1, longest - 1, longest, longest + 5):
        fired = integrate_and_fire(
            hidden, weights, lengths, targets=targets, max_tokens=slots
        )
        assert fired.states.shape == (len(lengths), slots, 3)
        assert fired.lengths.tolist() == whole.lengths.clamp(max=slots).tolist()
        assert torch.equal(fired.mass, whole.mass)
        both = min(slots, longest)
        torch.testing.assert_close(fired.states[:, :both], whole.states[:, :both])
        assert not fired.states[:, both:].any()


class Watch(TorchDispatchMode):
    """Notes the operations that wait for the device, and the largest result."""

    WAITING = (
        torch.ops.aten._local_scalar_dense,
        torch.ops.aten.item,
        torch.ops.aten.nonzero,
        torch.ops.aten.masked_select,
        torch.ops.aten.equal,
        torch.ops.aten._unique2,
        torch.ops.aten.unique_consecutive,
        torch.ops.aten.repeat_interleave,
        torch.ops.aten.bincount,
    )

    def __init__(self):
        super().__init__()
        self.waits, self.largest = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.waits += function.overloadpacket in self.WAITING
        # A mask as index is a nonzero in disguise.
        if function.overloadpacket is torch.ops.aten.index:
            self.waits += any(x is not None and x.dtype == torch.bool for x in args[1])
        for x in result if isinstance(result, tuple) else [result]:
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.numel())
        return result


@contextmanager
def no_waiting(refused: bool):
    """Let whatever waits for a GPU fail, if that is `refused`."""
    if refused:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if refused:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("implementation", [OPERATORS, *ON_GPU], indirect=True)
@MODES
def test_max_tokens_spares_waiting_for_the_device(
    mode, implementation, lengths, targets
):
    hidden, weights = draw(lengths)
    targets = targets if mode == TRAINING else None
    for max_tokens, waits in ((None, 1), (8, 0)):
        with Watch() as watch, no_waiting(implementation in ON_GPU and not waits):
            fired = integrate_and_fire(
                hidden, weights, lengths, targets=targets, max_tokens=max_tokens
            )
            torch.autograd.grad(fired.states.sum(), (hidden, weights))
        assert watch.waits == waits


def test_memory_grows_with_frames_not_with_frames_times_tokens():
    frames, tokens = 3000, 600
    hidden, weights = draw(torch.tensor([frames]), width=4)
    with Watch() as watch:
        fired = integrate_and_fire(
            hidden, weights, torch.tensor([frames]), targets=torch.tensor([tokens])
        )
        torch.autograd.grad(fired.states.sum(), (hidden, weights))
    assert watch.largest == hidden.numel()


def test_autocast_changes_nothing(lengths, targets):
    hidden, weights = draw(lengths, dtype=torch.float32)
    wanted = integrate_and_fire(hidden, weights, lengths, targets=targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fired = integrate_and_fire(hidden, weights, lengths, targets=targets)
    assert torch.equal(fired.states, wanted.states)


def test_frames_that_are_not_contiguous(lengths, targets):
    hidden, weights = draw(lengths)
    strided = hidden.detach().transpose(0, 1).contiguous().transpose(0, 1)
    wanted = integrate_and_fire(hidden, weights, lengths, targets=targets)
    strided.requires_grad_()
    fired = integrate_and_fire(strided, weights, lengths, targets=targets)
    assert torch.equal(fired.states, wanted.states)
    for x, y in ((strided, hidden), (weights, weights)):
        (got,) = torch.autograd.grad(fired.states.sum(), x, retain_graph=True)
        (expected,) = torch.autograd.grad(wanted.states.sum(), y, retain_graph=True)
        assert torch.equal(got, expected)


@pytest.mark.parametrize("needed", [0, 1], ids=["frames only", "weights only"])
def test_a_gradient_to_one_input_alone(needed, lengths, targets):
    inputs = draw(lengths)
    both = integrate_and_fire(*inputs, lengths, targets=targets).states.sum()
    wanted = torch.autograd.grad(both, inputs)[needed]
    inputs[1 - needed].requires_grad_(False)
    alone = integrate_and_fire(*inputs, lengths, targets=targets).states.sum()
    (grad,) = torch.autograd.grad(alone, inputs[needed])
    assert torch.equal(grad, wanted)
