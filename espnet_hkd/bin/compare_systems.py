"""Compare systems by their errors on one test set: a Markdown table, and a plot.

    espnet-hkd compare \\
        CIF=exp/asr_cif/decode_asr_model_train.total_count.ave/test \\
        HKD=exp/asr_hkd/decode_asr_model_train.total_count.ave/test --plot errors.png

Folders are those of ESPnet's stages 12 and 13. Errors are counted as by sclite; changes
are relative to the first system, with paired bootstrap intervals. Several trainings of
a system, as many for each, are pooled: NAME=DIR,DIR.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd compare", __doc__)
    parser.add_argument(
        "systems",
        nargs="+",
        metavar="NAME=DIR[,DIR]",
        help="hyp.trn and ref.trn are in it, or in its score_wer or score_cer; with "
        "--ref, its text is read",
    )
    parser.add_argument("--unit", choices=["word", "char"], default="word")
    parser.add_argument(
        "--ref", metavar="FILE", help="reference, such as dump/raw/test/text"
    )
    parser.add_argument(
        "--utt2spk",
        metavar="FILE",
        help="speakers; None: the file beside --ref, or the ids in ref.trn",
    )
    parser.add_argument(
        "--case_sensitive",
        action="store_true",
        help="as sclite -s; otherwise A to Z are lowered",
    )
    parser.add_argument(
        "--group",
        choices=["speaker", "utterance"],
        help="what a resample draws; None: speakers where there are several",
    )
    parser.add_argument("--resamples", type=int, default=10_000, metavar="R")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    parser.add_argument(
        "--bins",
        type=_lengths,
        metavar="N,N,...",
        help="last lengths of bins; None: 2,5,10,20 words or 10,20,40,80 characters",
    )
    parser.add_argument(
        "--train_text",
        type=Path,
        metavar="FILE",
        help="Kaldi text of the training: errors by how often a word stands there",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the tables, too")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the intervals")
    return parser


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of lengths such as 2,5,10,20"
        ) from None


def _folders(systems: Sequence[str]) -> dict[str, list[str]]:
    from espnet_hkd.errors import ConfigError

    folders: dict[str, list[str]] = {}
    for system in systems:
        name, equals, folder = system.partition("=")
        if not (name and equals and folder):
            raise ConfigError(
                "A system has no name or no folder.",
                got=system,
                wanted="NAME=DIR",
                remedy=f"give a name, for example: CIF={folder or name or 'DIR'}",
            )
        if name in folders:
            raise ConfigError(
                f"Two systems are called {name!r}.",
                got=f"{','.join(folders[name])} and {folder}",
                wanted="a name of its own for each",
                remedy="rename one of them",
            )
        folders[name] = [folder] if Path(folder).is_dir() else folder.split(",")
    return folders


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.compare import compare, markdown, read_eval_set
    from espnet_hkd.compare.read import read_tokens
    from espnet_hkd.compare.report import save_plot, save_text

    with parser.report_errors():
        eval_set = read_eval_set(
            _folders(args.systems),
            unit=args.unit,
            reference=args.ref,
            utt2spk=args.utt2spk,
            case_sensitive=args.case_sensitive,
        )
        training = None
        if args.train_text is not None:
            training = read_tokens(
                args.train_text, args.unit, case_sensitive=args.case_sensitive
            ).values()
        comparison = compare(
            eval_set,
            group=args.group,
            resamples=args.resamples,
            seed=args.seed,
            bins=args.bins,
            training=training,
        )
        text = markdown(comparison)
        if args.out is not None:
            save_text(text, args.out)
        if args.plot is not None:
            save_plot(comparison, args.plot)
        print(text, end="")


if __name__ == "__main__":
    main()
