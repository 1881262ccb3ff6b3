"""Check Kaldi-style sets as all recipes do in stage 1: everything, audio included.

    espnet-hkd check-sets data/train data/dev data/test --fs 16000

Every recording is read to its end, by as many threads as there are cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd check-sets", __doc__)
    parser.add_argument("sets", nargs="+", type=Path, help="folders with text, wav.scp")
    parser.add_argument("--fs", type=int, default=16000, help="wanted sampling rate")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.recipes.check_sets import check

    with parser.report_errors():
        for note in check(args.sets, args.fs):
            print(note)


if __name__ == "__main__":
    main()
