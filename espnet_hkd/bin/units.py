"""Count utterances that have more tokens than encoder frames, for several units.

    espnet-hkd units dump/raw/train_clean_100_sp \\
        --units data/en_token_list/bpe_unigram5000/bpe.model char

    espnet-hkd units arctic/train arctic/dev --units 100 1000 char \\
        --train arctic/train --speed 1.1

For the choice of units and of subsampling before anything is trained. A unit is a
sentencepiece model, a number of pieces of a model that is trained here on --train,
`char` or `word`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd units", __doc__)
    parser.add_argument("sets", nargs="+", type=Path, help="Kaldi-style sets")
    parser.add_argument(
        "--units",
        nargs="+",
        required=True,
        help="*.model, number of pieces, char, word",
    )
    parser.add_argument(
        "--train",
        nargs="+",
        type=Path,
        help="what trains the pieces: sets, or texts with a sentence a line",
    )
    parser.add_argument(
        "--bpemode", default="unigram", choices=["unigram", "bpe"], help="as in asr.sh"
    )
    parser.add_argument("--hop", type=int, default=160, help="hop_length, in samples")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="as if spoken so much faster"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.recipes.units import compare

    with parser.report_errors():
        print(
            compare(
                args.sets,
                args.units,
                train=args.train or (),
                mode=args.bpemode,
                hop=args.hop,
                speed=args.speed,
            )
        )


if __name__ == "__main__":
    main()
