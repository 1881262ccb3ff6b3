#!/usr/bin/env python3
"""Print the word error rates of a decoding, and some transcripts with references."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from espnet_hkd.errors import DataError, HKDError

# sclite's line of totals: sentences, words | correct, sub, del, ins, error, sentences.
TOTALS = re.compile(r"\|\s*Sum/Avg\s*\|\s*(\d+)\s+(\d+)\s*\|((?:\s*[\d.]+){6})\s*\|")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("decoding", type=Path, help="folder that stage 12 wrote")
    parser.add_argument("sets", nargs="+", help="test sets")
    parser.add_argument("--shown", type=int, default=3, help="transcripts to print")
    return parser


def error_row(score: Path, name: str) -> str:
    """One line of the table, from sclite's result.txt."""
    text = (score / "result.txt").read_text(encoding="utf-8")
    totals = TOTALS.search(text)
    if totals is None:
        raise DataError(
            f"{score / 'result.txt'} has no line of totals",
            got=f"{len(text)} characters",
            wanted="what sclite prints, with a line Sum/Avg",
            remedy="run stages 12 and 13 again",
        )
    sentences, words, rates = totals.groups()
    columns = "".join(f"{value:>8}" for value in rates.split())
    return f"{name:<12}{sentences:>6}{words:>7}{columns}"


def read_trn(path: Path) -> dict[str, str]:
    """sclite's `words (speaker-utterance)` lines, by what is in the parentheses."""
    table = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text, _, id = line.rpartition("(")
        table[id.rstrip(")")] = " ".join(text.split())
    return table


def transcripts(scores: dict[str, Path], shown: int) -> list[str]:
    """References and hypotheses, one below the other, under the name of their set.

    Of the first set as many as there are, of the next what is left to show.
    """
    lines = []
    for name, score in scores.items():
        references = read_trn(score / "ref.trn")
        hypotheses = read_trn(score / "hyp.trn")
        ids = list(references)[:shown]
        shown -= len(ids)
        if ids:
            lines.append(f"{name}:")
        for id in ids:
            lines.append(f"  reference   {references[id]}")
            lines.append(f"  hypothesis  {hypotheses[id]}")
    return lines


def report(decoding: Path, sets: list[str], shown: int = 3) -> list[str]:
    """The table of error rates, and some transcripts."""
    scores = {name: decoding / name / "score_wer" for name in sets}
    for score in scores.values():
        if not (score / "result.txt").is_file():
            raise DataError(
                f"There are no scores in {score}",
                got="no result.txt",
                wanted="a folder that stage 13 wrote",
                remedy="run stages 12 and 13",
            )
    head = ("corr", "sub", "del", "ins", "WER", "S.Err")
    columns = "".join(f"{name:>8}" for name in head)
    return [
        f"{'% of words':<12}{'utt':>6}{'words':>7}{columns}",
        *(error_row(score, name) for name, score in scores.items()),
        "",
        *transcripts(scores, shown),
    ]


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    try:
        print("\n".join(report(args.decoding, args.sets, args.shown)))
    except HKDError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
