#!/usr/bin/env python3
"""Write a text's sentences as transcripts are: text to train on without speech.

Left out: sentences of train, dev and test, repeated ones, those whose letters do not
say what is spoken (digits, other scripts), and those too short or too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prepare_arctic import SETS
from speak_flite import choose_sentences

from espnet_hkd.bin.command import Parser
from espnet_hkd.files import read_table
from espnet_hkd.recipes.corpus import read_lines


def get_parser() -> Parser:
    parser = Parser("extra_text.py", __doc__)
    parser.add_argument("text", type=Path, help="a sentence a line")
    parser.add_argument("data", type=Path, help="folder with train, dev and test")
    parser.add_argument("out", type=Path, help="the file to write, a sentence a line")
    parser.add_argument("--least_words", type=int, default=3, help="a sentence has")
    parser.add_argument("--most_words", type=int, default=25, help="a sentence has")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
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
        args.out.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{text}\n" for text in texts)
        args.out.write_text(lines, encoding="utf-8")
        print(f"{args.out}: {len(texts)} sentences")
        print("left out: " + ", ".join(f"{n} ({why})" for why, n in left_out.items()))


if __name__ == "__main__":
    main()
