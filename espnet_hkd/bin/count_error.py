"""Print how often a model fires as many tokens as there are, on a Kaldi-style set.

    espnet-hkd count-error exp/asr_hkd dump/raw/train_dev

The count error is the mean over utterances of the absolute difference between tokens
fired, with the model's own tail, and tokens of the transcript, end-of-sentence
included in both. Too few firings become deletions, too many insertions. With
--hypotheses, what a search has decided counts instead of what the weights say: the
two differ with decoder_conf.count_search.

    espnet-hkd count-error exp/asr_hkd dump/raw/train_dev \\
        --hypotheses exp/asr_hkd/DECODE/org/train_dev/text
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd count-error", __doc__)
    parser.add_argument(
        "model", help="experiment, checkpoint or packed model, as from_pretrained takes"
    )
    parser.add_argument("data", type=Path, help="folder with text and wav.scp (files)")
    parser.add_argument(
        "--hypotheses", type=Path, help="Kaldi-style text of what was recognised"
    )
    parser.add_argument("--worst", type=int, default=5, help="utterances to name")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.recipes.count_error import count_differences, report

    with parser.report_errors():
        differences = count_differences(args.model, args.data, args.hypotheses)
        print(f"{args.data}: " + "\n".join(report(differences, args.worst)))


if __name__ == "__main__":
    main()
