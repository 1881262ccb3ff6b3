"""Triton's kernels of integrate_and_fire: on a GPU, else in the interpreter."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_hkd import cif
from espnet_hkd.cif import integrate_and_fire, integrate_and_fire_reference
from espnet_hkd.cif import triton as kernels
from espnet_hkd.errors import ConfigError

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def choose_triton(monkeypatch):
    monkeypatch.setenv("HKD_CIF", "triton")


def draw(lengths, width, scale=1.0, dtype=torch.float64):
    """Frames and weights, NaN on padding; the frames with gaps between them."""
    torch.manual_seed(0)
    frames = int(lengths.max())
    padding = torch.arange(frames) >= lengths[:, None]
    hidden = torch.randn(frames, len(lengths), width, dtype=dtype).transpose(0, 1)
    weights = torch.rand(len(lengths), frames, dtype=dtype) * scale
    hidden[padding] = weights[padding] = torch.nan
    return hidden, weights


def fire(function, hidden, weights, lengths, targets, device, **options):
    """Tokens and gradients, on the CPU."""
    inputs = [x.detach().to(device).requires_grad_() for x in (hidden, weights)]
    if targets is not None:
        targets = targets.to(device)
    fired = function(*inputs, lengths.to(device), targets=targets, **options)
    torch.manual_seed(1)
    direction = torch.randn(fired.states.shape).to(fired.states)
    loss = (fired.states * direction).sum() + fired.mass.square().sum()
    grads = torch.autograd.grad(loss, inputs, materialize_grads=True)
    return [x.detach().cpu() for x in (*vars(fired).values(), *grads)]


# Odd shapes: several steps of the scan, tiles cut off in both directions; weights up to
# 0.3 (few firings), 1, and 4 (several in a frame).
LENGTHS, TARGETS = torch.tensor([19, 1, 9]), torch.tensor([4, 2, 0])
CASES = {
    "to targets": {"targets": TARGETS, "scale": 1.0},
    "to more tokens than frames": {"targets": torch.tensor([3, 2, 12]), "scale": 0.3},
    "to targets, threshold 0.6": {"targets": TARGETS, "scale": 4.0, "threshold": 0.6},
    "to targets, of which two fit": {"targets": TARGETS, "scale": 1.0, "max_tokens": 2},
    "freely": {"scale": 1.0},
    "freely, few firings, a low tail": {"scale": 0.3, "tail": 0.0},
    "freely, several in a frame": {"scale": 4.0, "threshold": 0.99},
    "freely, room to spare": {"scale": 0.3, "max_tokens": 9},
    "freely, cut": {"scale": 1.0, "max_tokens": 3, "tail": 1.0},
}


DTYPES = [(torch.float32, 10), (torch.bfloat16, 3), (torch.float16, 1)]


@pytest.mark.parametrize(
    ("case", "dtype", "width"),
    [(case, torch.float64, 3) for case in CASES]
    + [("to targets", *dtype) for dtype in DTYPES]
    + [("freely, several in a frame", *dtype) for dtype in DTYPES],
)
def test_equals_the_reference(case, dtype, width):
    options = dict(CASES[case])
    targets = options.pop("targets", None)
    hidden, weights = draw(LENGTHS, width, options.pop("scale"), dtype)
    arguments = hidden, weights, LENGTHS, targets
    ours = fire(integrate_and_fire, *arguments, DEVICE, **options)
    wanted = fire(integrate_and_fire_reference, *arguments, "cpu", **options)
    tolerance = TOLERANCE.get(dtype, 1e-2)
    for got, right in zip(ours, wanted, strict=True):
        assert got.dtype == right.dtype
        torch.testing.assert_close(got, right, rtol=tolerance, atol=tolerance)


def test_silence_and_a_batch_of_one():
    hidden, _ = draw(torch.tensor([9]), 2)
    for targets in (torch.tensor([3]), None):
        arguments = hidden, torch.zeros(1, 9).double(), torch.tensor([9]), targets
        ours = fire(integrate_and_fire, *arguments, DEVICE)
        wanted = fire(integrate_and_fire_reference, *arguments, "cpu")
        for got, right in zip(ours, wanted, strict=True):
            torch.testing.assert_close(got, right)


@pytest.mark.parametrize("scale", [1.0, 4.0], ids="weights up to {}".format)
def test_targets_are_hit_in_half_precision(scale):
    """Sums of half precision would lose tokens."""
    torch.manual_seed(0)
    weights = (torch.rand(1, 90) * scale).half()
    targets = torch.tensor([31])
    ones = torch.ones(1, 90, 1).half()
    inputs = (x.to(DEVICE) for x in (ones, weights, torch.full((1,), 90)))
    fired = integrate_and_fire(*inputs, targets=targets.to(DEVICE))
    assert fired.lengths.tolist() == targets.tolist()
    wanted = torch.arange(31) < targets[:, None]
    torch.testing.assert_close(
        fired.states[..., 0].float().cpu(), wanted.float(), rtol=0, atol=1e-3
    )


def test_alone_equals_padded():
    hidden, weights = draw(LENGTHS, 3, dtype=torch.float32)
    padded = fire(integrate_and_fire, hidden, weights, LENGTHS, TARGETS, DEVICE)
    states, number, _, ends, grad_hidden, _ = padded
    alone = fire(
        integrate_and_fire,
        hidden[2:, :9],
        weights[2:, :9],
        LENGTHS[2:],
        torch.tensor([3]),
        DEVICE,
        max_tokens=4,
    )
    again = fire(
        integrate_and_fire, hidden, weights, LENGTHS, torch.tensor([4, 2, 3]), DEVICE
    )
    for got, right in zip(alone[:4], again[:4], strict=True):
        assert torch.equal(got[0], right[2])
    for got, right in zip(padded[:4], again[:4], strict=True):
        assert torch.equal(got[0], right[0])
    assert number.tolist() == TARGETS.tolist()
    assert not states[1, 2:].any() and not ends[1, 2:].any()
    assert not grad_hidden[1, 1:].any()


def test_autocast_changes_nothing():
    hidden, weights = draw(LENGTHS, 3, dtype=torch.float32)
    arguments = hidden, weights, LENGTHS, TARGETS, DEVICE
    wanted = fire(integrate_and_fire, *arguments)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        got = fire(integrate_and_fire, *arguments)
    for ours, theirs in zip(got, wanted, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("needed", [0, 1], ids=["frames only", "weights only"])
def test_a_gradient_to_one_input_alone(needed):
    inputs = [x.to(DEVICE) for x in draw(LENGTHS, 3)]
    arguments = *inputs, LENGTHS, TARGETS, DEVICE
    wanted = fire(integrate_and_fire, *arguments)[4 + needed]
    inputs[needed].requires_grad_()
    fired = integrate_and_fire(*inputs, LENGTHS.to(DEVICE), targets=TARGETS.to(DEVICE))
    torch.manual_seed(1)
    direction = torch.randn(fired.states.shape).to(fired.states)
    loss = (fired.states * direction).sum() + fired.mass.square().sum()
    (grad,) = torch.autograd.grad(loss, inputs[needed])
    assert torch.equal(grad.cpu(), wanted)


def test_the_mass_alone_has_a_gradient():
    hidden, weights = (x.to(DEVICE).requires_grad_() for x in draw(LENGTHS, 2))
    fired = integrate_and_fire(hidden, weights, LENGTHS.to(DEVICE))
    grads = torch.autograd.grad(fired.mass.sum(), (hidden, weights))
    assert not grads[0].any()
    assert torch.equal(grads[1].isfinite(), grads[1] == grads[1])
    assert torch.equal(grads[1], weights.isfinite().double())


class Launches(TorchDispatchMode):
    """Counts the operators that calculate: each is a launch, or waits."""

    FREE = (
        torch.ops.aten.empty,
        torch.ops.aten.new_empty,
        torch.ops.aten.empty_like,
        torch.ops.aten.detach,
        torch.ops.aten.select,
        torch.ops.aten.view,
        torch.ops.aten.expand,
        torch.ops.aten.promote_types,
    )

    def __init__(self, monkeypatch):
        super().__init__()
        self.launches, self.waits, self.inside = 0, 0, False
        for name in (
            "_lay_out",
            "_find_firings",
            "_sum_frames",
            "_spread_tokens",
            "_move_ends",
        ):
            monkeypatch.setattr(kernels, name, self.counting(getattr(kernels, name)))

    def counting(self, kernel):
        launches = self

        class Counting:
            def __getitem__(self, grid):
                def launch(*args, **options):
                    launches.launches += 1
                    # The interpreter calculates by operators that a GPU never sees.
                    launches.inside = True
                    try:
                        kernel[grid](*args, **options)
                    finally:
                        launches.inside = False

                return launch

        return Counting()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        if self.inside:
            pass
        elif packet is torch.ops.aten._local_scalar_dense:
            self.waits += 1
        elif packet not in self.FREE:
            self.launches += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("max_tokens", "most_launches", "waits"), [(8, 5, 0), (None, 6, 1)]
)
def test_six_launches_and_no_wait_that_can_be_spared(
    max_tokens, most_launches, waits, monkeypatch
):
    hidden, weights = (
        x.to(DEVICE).requires_grad_() for x in draw(torch.tensor([4, 3]), 2)
    )
    lengths, targets = torch.tensor([4, 3]), torch.tensor([2, 1])
    lengths, targets = lengths.to(DEVICE), targets.to(DEVICE)
    grad = torch.ones(2, max_tokens or 2, 2, dtype=torch.double, device=DEVICE)
    grad_mass = torch.ones(2, dtype=torch.double, device=DEVICE)
    with Launches(monkeypatch) as counted:
        fired = integrate_and_fire(
            hidden, weights, lengths, targets=targets, max_tokens=max_tokens
        )
        torch.autograd.grad(
            (fired.states, fired.mass), (hidden, weights), (grad, grad_mass)
        )
    assert counted.waits == waits
    assert counted.launches == most_launches


def test_where_triton_fails_the_operators_do_it(monkeypatch, caplog):
    def fail(*arguments, **options):
        raise RuntimeError("0 active drivers ([]). There should only be one.")

    monkeypatch.setattr(kernels, "integrate", fail)
    cif._triton_kernels.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="espnet_hkd.cif"):
            assert cif._triton_kernels(torch.device("cpu")) is None
            assert cif._triton_kernels(torch.device("cpu")) is None
    finally:
        cif._triton_kernels.cache_clear()
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "0 active drivers" in record.message


def test_triton_that_runs_is_chosen():
    device = torch.device(DEVICE)
    cif._triton_kernels.cache_clear()
    assert cif._triton_kernels(device) is kernels


def test_an_unknown_implementation_is_named(monkeypatch):
    monkeypatch.setenv("HKD_CIF", "fast")
    hidden, weights = draw(LENGTHS, 2)
    with pytest.raises(ConfigError, match="HKD_CIF") as error:
        integrate_and_fire(hidden, weights, LENGTHS)
    assert error.value.wanted == "triton, compiled, torch, reference"


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from espnet_hkd.cif import integrate_and_fire, triton as kernels
from espnet_hkd.errors import ConfigError

assert not kernels.INTERPRETED
H100 = GPUTarget("cuda", 90, 32)


def compile_all(dtype, wide, to_targets):
    sum_type = {kernels.tl.float32: "fp32", kernels.tl.float64: "fp64"}[wide]
    pointers = {
        **dict.fromkeys(("sums", "scales"), "fp64"),
        **dict.fromkeys(("fired", "counts", "fires"), "i32"),
        **dict.fromkeys(("lengths", "targets", "number"), "i64"),
        **dict.fromkeys(("hidden", "grad", "grad_hidden", "states"), dtype),
        **dict.fromkeys(("weights", "grad_weights"), dtype),
        **dict.fromkeys(("mass", "products", "grad_mass"), sum_type),
        "ends": "fp32",
    }
    tile = {"WIDE": wide, "BLOCK_T": 8, "BLOCK_D": kernels.TILE // 8}
    mode = {"TO_TARGETS": to_targets, "BLOCK": kernels.SCAN}
    for name, constants, warps in (
        ("_lay_out", {**mode, "CHECKED": not to_targets}, 4),
        ("_find_firings", {"BLOCK": 128}, 4),
        ("_sum_frames", tile, 4),
        ("_spread_tokens", {**tile, "TO_HIDDEN": True, "TO_WEIGHTS": True}, 8),
        ("_move_ends", {**mode, "WITH_MASS": True, "WIDE": wide}, 4),
    ):
        kernel = getattr(kernels, name)
        signature = {}
        for parameter in kernel.arg_names:
            if parameter in constants:
                signature[parameter] = "constexpr"
            elif parameter in pointers:
                signature[parameter] = "*" + pointers[parameter]
            else:
                real = parameter in ("slack", "tail")
                signature[parameter] = "fp64" if real else "i32"
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        options = {"num_warps": warps}
        assert triton.compile(source, target=H100, options=options).asm["cubin"]
        print(name, dtype, to_targets)


compile_all("bf16", kernels.tl.float32, to_targets=True)
compile_all("fp32", kernels.tl.float32, to_targets=False)
compile_all("fp64", kernels.tl.float64, to_targets=True)

one = torch.ones(1, 1, 1)
try:
    integrate_and_fire(one, one[0], torch.ones(1).long())
except ConfigError as error:
    print(error.remedy)
"""


def test_the_kernels_compile_for_a_gpu_that_is_not_there(tmp_path):
    """What the interpreter takes the compiler may refuse; CPU tensors are refused.

    As they are launched on an H100, in training and in decoding.
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    *compiled, remedy = run.stdout.splitlines()
    assert len(compiled) == 15
    assert "TRITON_INTERPRET=1" in remedy
