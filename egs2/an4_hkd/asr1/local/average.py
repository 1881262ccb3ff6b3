#!/usr/bin/env python3
"""Average the weights of trainings of one model, as ESPnet does those of its epochs.

    local/average.py exp/asr_{one,other}/train.total_count.ave.pth \\
        --out exp/asr_mean/train.total_count.ave.pth

The configuration beside the last checkpoint is copied beside the average.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from espnet_hkd.bin.command import Parser
from espnet_hkd.errors import CheckpointError
from espnet_hkd.files import replace_file
from espnet_hkd.pretrained.files import read_weights


def get_parser() -> Parser:
    parser = Parser("average.py", __doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="of one model")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    return parser


def average(checkpoints: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean of all weights; of whole numbers, such as counts of batches, the last.

    Raises:
        CheckpointError: One cannot be read, or they are of different models.
    """
    every = [read_weights(path) for path in checkpoints]
    shapes = [{name: value.shape for name, value in each.items()} for each in every]
    for path, shape in zip(checkpoints, shapes, strict=True):
        if shape != shapes[0]:
            differing = sorted(dict(shape.items() ^ shapes[0].items()))
            raise CheckpointError(
                f"{path} is not of the same model as {checkpoints[0]}",
                got=f"{len(differing)} weights that differ, such as {differing[0]}",
                wanted="trainings of one configuration",
                remedy="leave one of them out",
            )
    means = dict(every[-1])
    for name, value in means.items():
        if value.is_floating_point():
            total = torch.stack([each[name].double() for each in every]).mean(0)
            means[name] = total.to(value.dtype)
    return means


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        means = average(args.checkpoints)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(args.out, lambda new: torch.save(means, new))
        config = args.checkpoints[-1].with_name("config.yaml")
        if not args.out.with_name(config.name).exists():
            shutil.copy(config, args.out.with_name(config.name))
        # Stage 14 packs the plots of a training.
        args.out.with_name("images").mkdir(exist_ok=True)
        print(f"{args.out}: the mean of {len(args.checkpoints)}")


if __name__ == "__main__":
    main()
