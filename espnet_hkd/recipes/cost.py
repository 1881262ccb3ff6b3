#!/usr/bin/env python3
"""Measure what a training configuration costs on this machine's CPU.

Steps of training (forward, backward, clipping, optimizer) on noise, in batches of equal
utterances: CPU time per second of speech. Times the seconds of a corpus it is an
epoch, without the loading and augmenting of data. Of several configurations the costs
are also told in ratios to the first; a GPU may see another ratio.

    python3 -m espnet_hkd.recipes.cost --config conf/train_asr_cif*.yaml --tokens 4233
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from espnet_hkd.errors import ConfigError, HKDError
from espnet_hkd.recipes.parameters import build_model, read_tokens

RATE = 16000


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--config", required=True, nargs="+", help="training YAML, several to compare"
    )
    parser.add_argument(
        "--tokens",
        required=True,
        help="how many there are, <blank>, <unk> and <sos/eos> included, or a token "
        "list as asr.sh writes it",
    )
    parser.add_argument("--utterances", type=int, default=8, help="per batch")
    parser.add_argument("--seconds", type=float, default=4.5, help="per utterance")
    parser.add_argument("--length", type=int, default=14, help="tokens per utterance")
    parser.add_argument("--steps", type=int, default=3, help="timed; one more is not")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def make_batch(model: Any, utterances: int, samples: int, length: int) -> dict:
    """Noise (B, samples), random labels (B, length), a random teacher if wanted."""
    import torch

    batch = {
        "speech": 0.1 * torch.randn(utterances, samples),
        "speech_lengths": torch.full((utterances,), samples),
        "text": torch.randint(2, model.vocab_size - 1, (utterances, length)),
        "text_lengths": torch.full((utterances,), length),
    }
    if model.teacher_dim is not None:
        # The end of sentence has a teacher, too.
        lengths = torch.full((utterances,), length + 1)
        batch |= {
            "teacher": torch.randn(utterances, length + 1, model.teacher_dim),
            "teacher_lengths": lengths,
            "teacher_mask": torch.ones(utterances, length + 1, dtype=torch.long),
            "teacher_mask_lengths": lengths,
        }
    return batch


def steps(model: Any, batch: dict) -> Iterator[float]:
    """Train without end; the CPU time of each step in seconds."""
    import torch

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    while True:
        started = time.process_time()
        optimizer.zero_grad()
        loss, _, _ = model(**batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield time.process_time() - started


def check(args: argparse.Namespace) -> None:
    """Refuse options by which there is nothing to measure."""
    for name in ("utterances", "seconds", "length", "steps", "threads"):
        if getattr(args, name) <= 0:
            raise ConfigError(
                f"--{name} leaves nothing to measure",
                got=getattr(args, name),
                wanted="more than 0",
                remedy=f"correct --{name}, or leave it out",
            )


def measure(config: str, args: argparse.Namespace) -> list[float]:
    """Processor seconds per second of speech, in each timed step."""
    model = build_model(config, read_tokens(args.tokens))
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    batch = make_batch(model, args.utterances, int(args.seconds * RATE), args.length)
    timed = steps(model, batch)
    # The first one also allocates.
    next(timed)
    speech = args.utterances * args.seconds
    return [next(timed) / speech for _ in range(args.steps)]


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    first = None
    try:
        check(args)
        print(
            f"CPU seconds per second of speech: median (least, most) of "
            f"{args.steps} steps of {args.utterances} x {args.seconds} s with "
            f"{args.length} tokens each, {args.threads} threads; ratio"
        )
        for config in args.config:
            costs = measure(config, args)
            cost = statistics.median(costs)
            first = first or cost
            print(
                f"{cost:7.3f} ({min(costs):.3f}, {max(costs):.3f}) "
                f"{cost / first:6.2f}  {config}",
                flush=True,
            )
    except HKDError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
