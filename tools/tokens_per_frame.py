#!/usr/bin/env python3
"""Print the tokens per encoder frame of a training set, from stage 10's shapes.

It is the mean weight that CIF has to reach: a model whose `initial_weight` begins
there fires about as often as it should from the first update on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from espnet_hkd.errors import ConfigError, HKDError

# Input frames per encoder frame of ESPnet's input layers.
SUBSAMPLING = {
    "conv2d": 4,
    "conv2d1": 1,
    "conv2d2": 2,
    "conv2d6": 6,
    "conv2d8": 8,
    "linear": 1,
}
OURS = {"hkd_pooled_conformer": 8}
DEFAULT_HOP = 128  # samples, ESPnet's default frontend


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("stats", type=Path, help="exp/asr_stats_*/train")
    parser.add_argument("--config", type=Path, required=True, help="the training YAML")
    return parser


def total_length(shapes: Path) -> tuple[int, int]:
    """Utterances of a shape file and the sum of their first dimensions."""
    lengths = [
        int(line.split()[1].split(",")[0])
        for line in shapes.read_text(encoding="utf-8").splitlines()
    ]
    return len(lengths), sum(lengths)


def samples_per_frame(config: dict) -> int:
    """Audio samples that one encoder frame stands for."""
    hop = (config.get("frontend_conf") or {}).get("hop_length", DEFAULT_HOP)
    layer = (config.get("encoder_conf") or {}).get("input_layer", "conv2d")
    factor = OURS.get(config.get("encoder", ""), SUBSAMPLING.get(layer))
    if factor is None:
        raise ConfigError(
            f"The frame rate of input_layer {layer} is not known here",
            got=f"input_layer {layer}",
            wanted=", ".join(SUBSAMPLING),
            remedy="divide the tokens by the frames of your encoder by hand, for "
            "decoder_conf.initial_weight",
        )
    return hop * factor


def tokens_per_frame(stats: Path, config: dict) -> float:
    """Target tokens, end of sentence included, over encoder frames."""
    utterances, tokens = total_length(stats / "text_shape")
    _, samples = total_length(stats / "speech_shape")
    return (tokens + utterances) * samples_per_frame(config) / samples


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    config = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    try:
        rate = tokens_per_frame(args.stats, config)
    except HKDError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    used = (config.get("decoder_conf") or {}).get("initial_weight", "its default")
    print(
        f"{args.stats}: {rate:.3f} tokens per encoder frame; "
        f"initial_weight in {args.config} is {used}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
