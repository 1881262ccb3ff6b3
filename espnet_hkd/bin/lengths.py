"""Compare a training set's tokens with its encoder frames, from stage 10's shapes.

    espnet-hkd lengths exp/asr_stats_raw_en_word/train --config conf/train_asr_cif.yaml

Tokens per frame are the mean weight that CIF has to reach: a model whose
`initial_weight` begins there fires about as often as it should from the first update
on. An utterance with more tokens than frames can never be recognised in full, for a
frame's weight is below 1, nor has CTC a path through it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser
from espnet_hkd.errors import ConfigError


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd lengths", __doc__)
    parser.add_argument("stats", type=Path, help="exp/asr_stats_*/train")
    parser.add_argument("--config", type=Path, required=True, help="the training YAML")
    parser.add_argument(
        "--asr_args", default="", help="asr_train's options that override it"
    )
    parser.add_argument(
        "--long_texts",
        choices=["stop", "skip", "keep"],
        default="stop",
        help="if utterances have more tokens than frames: stop, train without them "
        "(skip), or train with them (keep)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.recipes.lengths import check, read_config

    with parser.report_errors():
        config = read_config(args.config, args.asr_args)
        try:
            print("\n".join(check(args.stats, config, args.long_texts)))
        except ConfigError as error:
            # A frontend or encoder of someone's own is no reason not to train.
            print(f"{parser.prog}: nothing is checked: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
