"""How fast is integrate_and_fire, and how far from the limit of the machine?

Runs, in turns, so that what else the machine does slows all alike:

- ours: `espnet_hkd.cif.integrate_and_fire`,
- limit: `cif_limit.cpp`, compiled here, which reads every frame once,
- torch_cif: the parallel implementation on PyPI, by scattering,
- reference: `integrate_and_fire_reference`, by plain loops (small shapes only),

each scaling its weights to the target lengths, in float32, and prints Markdown tables
of medians, of peak memory, and of the time per frame as T grows.

    python benchmarks/cif.py                      # all shapes, all on one thread
    python benchmarks/cif.py --quick              # the two small shapes, few repeats

Needs `torch_cif`, `ninja` and a C++ compiler.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LIMIT, OURS, TORCH_CIF, REFERENCE = "limit", "ours", "torch_cif", "reference"


class Shape(NamedTuple):
    """B utterances, T frames, D width, U tokens."""

    batch: int
    frames: int
    width: int
    tokens: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        return cls(*(int(part) for part in text.split(",")))

    def __str__(self) -> str:
        return ",".join(str(part) for part in self)


SHAPES = [
    Shape(1, 250, 256, 20),
    Shape(16, 250, 256, 20),
    Shape(32, 400, 512, 50),
    Shape(8, 2000, 512, 200),
    Shape(1, 10000, 512, 1000),
]
LINEARITY = [Shape(1, t, 512, t // 10) for t in (2500, 5000, 10000, 20000, 40000)]
# A loop takes seconds beyond this many frames.
REFERENCE_FRAMES = 4000
# glibc keeps freed memory or hands it back by the order of earlier calls, and a tensor
# of fresh pages costs ten times one of old ones: so it is told to keep all. To measure
# memory it is told to keep nothing, or freed tensors would hide in the process' heap.
KEEP_MEMORY = dict.fromkeys(
    ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**40)
)
FREE_MEMORY = dict.fromkeys(KEEP_MEMORY, str(2**16))


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time integrate_and_fire against its limit, torch_cif and a loop.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1], help="of PyTorch; ours has one"
    )
    parser.add_argument(
        "--shapes", type=Shape.parse, nargs="+", default=SHAPES, help="B,T,D,U"
    )
    parser.add_argument("--repeats", type=int, default=31, help="timings per median")
    parser.add_argument(
        "--quick", action="store_true", help="two small shapes, 5 repeats, one thread"
    )
    # One contestant in a fresh process, so that its peak is its own.
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return parser


def load_contestants() -> dict:
    """Name -> function of (hidden, weights, lengths, targets, U) -> states."""
    import torch
    from torch.utils.cpp_extension import load
    from torch_cif import cif_function

    from espnet_hkd.cif import integrate_and_fire, integrate_and_fire_reference

    limit = load(
        "cif_limit",
        [str(Path(__file__).with_name("cif_limit.cpp"))],
        extra_cflags=["-O3", "-march=native", "-ffast-math", "-fopenmp"],
        extra_ldflags=["-fopenmp"],
    )

    class Limit(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, weights, targets, tokens):
            ctx.save_for_backward(hidden, weights, targets)
            return limit.forward(hidden, weights, targets, tokens)

        @staticmethod
        def backward(ctx, grad):
            return *limit.backward(grad, *ctx.saved_tensors), None, None

    def ours(hidden, weights, lengths, targets, tokens):
        return integrate_and_fire(hidden, weights, lengths, targets=targets).states

    def torch_cif(hidden, weights, lengths, targets, tokens):
        return cif_function(hidden, weights, target_lengths=targets)["cif_out"][0]

    def reference(hidden, weights, lengths, targets, tokens):
        fired = integrate_and_fire_reference(hidden, weights, lengths, targets=targets)
        return fired.states

    return {
        LIMIT: lambda h, w, lengths, targets, u: Limit.apply(h, w, targets, u),
        OURS: ours,
        TORCH_CIF: torch_cif,
        REFERENCE: reference,
    }


def draw(shape: Shape):
    """Random frames, weights that nearly sum to the targets, a gradient of states."""
    import torch

    torch.manual_seed(0)
    batch, frames, width, tokens = shape
    hidden = torch.randn(batch, frames, width, requires_grad=True)
    weights = torch.rand(batch, frames) * 2 * tokens / frames
    lengths = torch.full((batch,), frames)
    targets = torch.full((batch,), tokens)
    grad = torch.randn(batch, tokens, width)
    return (hidden, weights.requires_grad_(), lengths, targets, tokens), grad


def forward(contestant, inputs, grad):
    import torch

    with torch.no_grad():
        return contestant(*inputs)


def forward_backward(contestant, inputs, grad):
    import torch

    return torch.autograd.grad(contestant(*inputs), inputs[:2], grad)


def check(contestants: dict, shape: Shape) -> None:
    """Who computes something else has no place in a table of times."""
    inputs, grad = draw(shape)
    for run in (forward, forward_backward):
        wanted = run(contestants[OURS], inputs, grad)
        # torch_cif adds 1e-4 to the target, which moves cuts and gradients a little.
        for name, tolerance in ((LIMIT, 1e-4), (TORCH_CIF, 0.1)):
            got = run(contestants[name], inputs, grad)
            for ours, theirs in zip(wanted, got, strict=True):
                error = float((ours - theirs).norm() / ours.norm())
                assert error < tolerance, (name, shape, run.__name__, error)


def measure(contestants: dict, shape: Shape, run, repeats: int) -> dict[str, float]:
    """Median seconds of each contestant, timed in turns."""
    inputs, grad = draw(shape)
    times = {name: [] for name in contestants}
    order = list(contestants.items())
    for turn in range(repeats):
        # The one that comes last takes up to a quarter longer, whoever it is.
        order.append(order.pop(0))
        for name, contestant in order:
            if name == REFERENCE:
                if turn > 2:
                    continue
            else:
                # Once untimed, so that nobody pays for caches another has emptied.
                result = run(contestant, inputs, grad)
                del result
            start = time.perf_counter()
            result = run(contestant, inputs, grad)
            times[name].append(time.perf_counter() - start)
            del result
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(name: str, shape: Shape) -> float:
    """Peak MiB of forward and backward, inputs and gradients included."""
    environment = os.environ | FREE_MEMORY | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--peak-of", name, "--shapes", str(shape)]
    result = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    )
    return float(result.stdout)


def print_peak(name: str, shape: Shape) -> None:
    """The process' own peak above what it held before the inputs were made."""
    contestant = load_contestants()[name]
    # Code is loaded on first use.
    inputs, grad = draw(Shape(2, 50, 64, 5))
    forward_backward(contestant, inputs, grad)

    def resident(field: str) -> float:
        status = Path("/proc/self/status").read_text()
        line = next(x for x in status.splitlines() if x.startswith(field))
        return int(line.split()[1]) / 1024

    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    inputs, grad = draw(shape)
    result = forward_backward(contestant, inputs, grad)
    print(resident("VmHWM") - before)
    del result


def table(header: list[str], rows: list[list[str]]) -> None:
    print("\n| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def print_times(contestants: dict, shapes, threads, repeats: int) -> None:
    import torch

    for run in (forward, forward_backward):
        rows = []
        for number in threads:
            torch.set_num_threads(number)
            for shape in shapes:
                racing = dict(contestants)
                if shape.batch * shape.frames > REFERENCE_FRAMES:
                    del racing[REFERENCE]
                t = measure(racing, shape, run, repeats)
                loop = f"{t[REFERENCE] * 1e3:.0f}" if REFERENCE in t else "-"
                rows.append(
                    [str(shape), str(number)]
                    + [f"{t[name] * 1e3:.2f}" for name in (LIMIT, OURS, TORCH_CIF)]
                    + [loop]
                    + [f"{t[OURS] / t[LIMIT]:.2f}", f"{t[TORCH_CIF] / t[OURS]:.1f}"]
                )
        title = run.__name__.replace("_", " plus ")
        columns = ["B,T,D,U", "threads", "limit", "ours", "torch_cif", "reference"]
        print(f"\n{title.capitalize()}, median ms:")
        table([*columns, "ours / limit", "torch_cif / ours"], rows)


def print_memory(shapes) -> None:
    rows = []
    for shape in shapes:
        batch, frames, width, tokens = shape
        # Frames, weights and states, and a gradient of each.
        held = 2 * 4 * batch * (frames * width + frames + tokens * width) / 2**20
        peaks = [peak_memory(name, shape) for name in (LIMIT, OURS, TORCH_CIF)]
        rows.append(
            [str(shape), f"{held:.1f}"]
            + [f"{peak:.1f}" for peak in peaks]
            + [f"{peaks[1] / held:.2f}"]
        )
    print("\nPeak memory of forward plus backward, MiB:")
    columns = ["B,T,D,U", "inputs, outputs, gradients", "limit", "ours", "torch_cif"]
    table([*columns, "ours / first"], rows)


def print_linearity(contestants: dict, repeats: int) -> None:
    import torch

    torch.set_num_threads(1)
    rows = []
    for shape in LINEARITY:
        racing = {name: contestants[name] for name in (LIMIT, OURS)}
        t = measure(racing, shape, forward_backward, repeats)
        each = [f"{t[name] / shape.frames * 1e6:.3f}" for name in (LIMIT, OURS)]
        rows.append([str(shape.frames), *each])
    print("\nForward plus backward as T grows, B 1, D 512, U T / 10, µs per frame:")
    table(["T", "limit", "ours"], rows)


def machine() -> str:
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.split(":")[1].strip() for x in lines if x.startswith("model name")]
    model = names[0] if names else platform.processor()
    return f"{model}, {os.cpu_count()} cores, torch {torch.__version__}"


def main() -> None:
    args = get_parser().parse_args()
    if args.peak_of:
        print_peak(args.peak_of, args.shapes[0])
        return
    if not KEEP_MEMORY.items() <= os.environ.items():
        # Read once, when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    if args.quick:
        args.shapes, args.threads, args.repeats = SHAPES[:2], [1], 5
    contestants = load_contestants()
    print(f"{machine()}; {args.repeats} repeats in turns.")
    for shape in args.shapes:
        check(contestants, shape)
    print_times(contestants, args.shapes, args.threads, args.repeats)
    print_memory([s for s in args.shapes if s.batch * s.frames > REFERENCE_FRAMES])
    if not args.quick:
        print_linearity(contestants, args.repeats)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
