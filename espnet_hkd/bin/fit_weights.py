"""Fit the CIF weights of a trained model anew: a floor under them, nothing in pauses.

    espnet-hkd fit-weights exp/asr_hkd dump/raw/train --out exp/asr_hkd_pauses
    ./run.sh --stage 12 --asr_tag hkd_pauses

The encoder, CTC and decoder stay as they are. Each training utterance is encoded once,
with the speeds that the model was trained with and with pauses put in, and the few
parameters that turn encoder frames into weights learn how many tokens it has: minutes
on a CPU, where training takes hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd fit-weights", __doc__)
    parser.add_argument("model", help="experiment, as from_pretrained takes it")
    parser.add_argument("data", type=Path, help="folder with text and wav.scp (files)")
    parser.add_argument("--out", type=Path, required=True, help="experiment to write")
    parser.add_argument("--floor", type=float, default=0.05, help="weight_floor")
    parser.add_argument("--pause_prob", type=float, default=0.5)
    parser.add_argument(
        "--pause_seconds",
        type=float,
        nargs=2,
        default=(0.3, 12.0),
        metavar=("SHORTEST", "LONGEST"),
    )
    parser.add_argument("--pause_only_prob", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.002, help="learning rate")
    parser.add_argument(
        "--keep",
        type=float,
        default=4.0,
        help="how much the weights of utterances without a pause stay as they were",
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.recipes.fit_weights import fit

    with parser.report_errors():
        print(fit(**vars(args)))


if __name__ == "__main__":
    main()
