"""Read a model's own CTC greedily, to compare CIF with.

The hypotheses are written as Kaldi-style text.

    espnet-hkd read-ctc exp/asr_hkd dump/raw/train_dev --text ctc/train_dev/text
    espnet-hkd compare CTC=ctc/train_dev CIF=exp/asr_hkd/DECODE/train_dev \\
        --ref dump/raw/train_dev/text
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd read-ctc", __doc__)
    parser.add_argument(
        "model", help="experiment, checkpoint or packed model, as from_pretrained takes"
    )
    parser.add_argument("data", type=Path, help="folder with wav.scp (files)")
    parser.add_argument("--text", type=Path, required=True, help="what to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.recipes.read_ctc import read_set

    with parser.report_errors():
        read_set(args.model, args.data, args.text)


if __name__ == "__main__":
    main()
