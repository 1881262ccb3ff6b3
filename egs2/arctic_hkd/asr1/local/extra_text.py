#!/usr/bin/env python3
"""Write a text's sentences as transcripts are: text to train on without speech.

Left out: sentences of train, dev and test, repeated ones, those whose letters do not
say what is spoken (digits, other scripts), and those too short or too long.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prepare_arctic import SETS
from speak_flite import choose_sentences

from espnet_hkd.errors import HKDError
from espnet_hkd.files import read_table
from espnet_hkd.recipes.corpus import read_lines


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("text", type=Path, help="a sentence a line")
    parser.add_argument("data", type=Path, help="folder with train, dev and test")
    parser.add_argument("out", type=Path, help="the file to write, a sentence a line")
    parser.add_argument("--least_words", type=int, default=3, help="a sentence has")
    parser.add_argument("--most_words", type=int, default=25, help="a sentence has")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    try:
        excluded = {
            text
            for name in SETS
            for text in read_table(args.data / name / "text").values()
        }
        texts, left_out = choose_sentences(
            read_lines(args.text),
            excluded,
            least=args.least_words,
            most=args.most_words,
        )
    except HKDError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{text}\n" for text in texts)
    args.out.write_text(lines, encoding="utf-8")
    print(f"{args.out}: {len(texts)} sentences")
    print("left out: " + ", ".join(f"{n} ({why})" for why, n in left_out.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
