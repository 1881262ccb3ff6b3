"""What the contrastive loss costs, against gathering N x K x E negatives.

Forward plus backward of one batch of N tokens, both contestants in turns and with the
same draws, so that their values can be compared:

- ours: `espnet_hkd.losses.acoustic_contrastive_loss`, blocks of rows of the N x N
  cosines;
- gather: the published form, `teacher[ids]` and cosines of K negatives each.

Times are medians, memory is what the process grew by beyond its inputs. "With drawing"
is ours as in training, where it draws the negatives itself; ratios are to that.

    python benchmarks/contrastive.py                 # N = 500, 2000, 5000
    python benchmarks/contrastive.py --tokens 500
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTESTANTS = ("ours", "ours_drawing", "gather")
# The gather form holds the negatives, their normalised copy and a gradient at once.
GATHER_COPIES = 3


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time the contrastive loss and measure its memory.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[500, 2000, 5000])
    parser.add_argument("--negatives", type=int, default=700, help="K")
    parser.add_argument("--width", type=int, default=768, help="E")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5, help="timings per median")
    parser.add_argument("--memory_gib", type=float, default=16.0, help="most to use")
    parser.add_argument("--peak-of", choices=CONTESTANTS, help=argparse.SUPPRESS)
    return parser


def make_tokens(count, args):
    import torch

    torch.manual_seed(0)
    student = torch.randn(count, args.width, requires_grad=True)
    teacher = torch.randn(count, args.width)
    drawn = min(args.negatives, int(0.8 * count)) if count <= args.negatives else None
    ids = torch.rand(count, count).topk(drawn or args.negatives, dim=1).indices
    return student, teacher, ids


def gather(student, teacher, ids):
    """The published form."""
    import torch
    import torch.nn.functional as F

    teacher = F.normalize(teacher, dim=-1, eps=1e-6)
    student = F.normalize(student, dim=-1, eps=1e-6)
    negatives = F.normalize(teacher[ids], dim=-1, eps=1e-6)  # (N, K, E)
    positive = (student * teacher).sum(-1, keepdim=True)
    others = (student[:, None] * negatives).sum(-1)
    own = ids == torch.arange(len(student))[:, None]
    logits = torch.cat([positive, others.masked_fill(own, -1e9)], dim=1) / 0.02
    targets = torch.zeros(len(student), dtype=torch.long)
    return F.cross_entropy(logits, targets, reduction="sum")


def ours(student, teacher, ids):
    from espnet_hkd.losses import acoustic_contrastive_loss

    return acoustic_contrastive_loss(student, teacher, negative_ids=ids)


def ours_drawing(student, teacher, ids):
    """As in training: the draws are part of the work."""
    from espnet_hkd.losses import acoustic_contrastive_loss

    return acoustic_contrastive_loss(student, teacher, negatives=ids.size(1))


def step(contestant, tokens):
    """Value, seconds of forward plus backward, and the gradient."""
    student = tokens[0]
    student.grad = None
    begin = time.perf_counter()
    loss = contestant(*tokens)
    loss.backward()
    return loss.item(), time.perf_counter() - begin, student.grad


def measure_peak(args):
    """In a fresh process: MiB by which its peak grew in one step."""
    import torch

    torch.set_num_threads(args.threads)
    step(globals()[args.peak_of], make_tokens(64, args))
    tokens = make_tokens(args.tokens[0], args)
    # The drawing above has a peak of its own: forget it.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_kib()
    step(globals()[args.peak_of], tokens)
    print((_peak_kib() - before) / 1024)


def _peak_kib():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_of(contestant, count, args):
    command = [sys.executable, __file__, "--peak-of", contestant, "--tokens", count]
    command += ["--negatives", args.negatives, "--width", args.width]
    command += ["--threads", args.threads]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [str(word) for word in command],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    return float(result.stdout)


def compare(count, args):
    """One row of the table."""
    import torch

    tokens = make_tokens(count, args)
    gathered_gib = count * tokens[2].size(1) * args.width * 4 / 2**30
    fits = gathered_gib * GATHER_COPIES <= args.memory_gib
    contestants = [ours, ours_drawing, *([gather] if fits else [])]
    seconds = {contestant: [] for contestant in contestants}
    results = {}
    for turn in range(args.repeats + 1):
        for contestant in contestants:
            value, spent, gradient = step(contestant, tokens)
            results[contestant] = value, gradient.clone()
            if turn:
                seconds[contestant].append(spent)
    times = {c: statistics.median(spent) for c, spent in seconds.items()}
    row = [count, tokens[2].size(1), f"{times[ours] * 1e3:.1f}"]
    row.append(f"{times[ours_drawing] * 1e3:.1f}")
    given = f"{peak_of('ours', count, args):.0f}"
    memory = peak_of("ours_drawing", count, args)
    if not fits:
        memory = f"{memory:.0f}"
        return [*row, "-", "-", given, memory, "-", "-", "gather form too large"]
    other = peak_of("gather", count, args)
    torch.testing.assert_close(
        *(results[c][1] for c in (ours, gather)), rtol=1e-3, atol=1e-4
    )
    difference = abs(results[ours][0] / results[gather][0] - 1)
    return [
        *row,
        f"{times[gather] * 1e3:.0f}",
        f"{times[gather] / times[ours_drawing]:.0f}",
        given,
        f"{memory:.0f}",
        f"{other:.0f}",
        f"{other / memory:.0f}",
        f"{difference:.0e}",
    ]


def machine():
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores"


def main():
    args = get_parser().parse_args()
    if args.peak_of:
        measure_peak(args)
        return
    import torch

    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(args.threads)
    print(f"{machine()}, torch {torch.__version__}, {args.threads} threads, ", end="")
    print(f"E = {args.width}, float32, median of {args.repeats}\n")
    head = "N | K | ours ms | with drawing ms | gather ms | ratio | ours MiB | "
    head += "with drawing MiB | gather MiB | ratio | values differ by"
    print(f"| {head} |")
    print("|" + " --: |" * len(head.split("|")))
    for count in args.tokens:
        print("| " + " | ".join(str(cell) for cell in compare(count, args)) + " |")


if __name__ == "__main__":
    main()
