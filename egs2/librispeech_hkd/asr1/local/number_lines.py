#!/usr/bin/env python3
"""Give each line of a text an id, for ESPnet's language model: a text of any size.

    number_lines.py librispeech-lm-norm.txt.gz data/local/other_text/text

Blank lines are left out. The text has to be in capitals, as LibriSpeech's transcripts:
small letters would all be unknown tokens.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from espnet_hkd.errors import DataError, HKDError


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("text", type=Path, help="one sentence a line, plain or .gz")
    parser.add_argument("out", type=Path, help="the text with ids")
    return parser


def read_sentences(path: Path) -> Iterator[str]:
    """The lines that are not blank, white space made single.

    Raises:
        DataError: The file is missing, broken off, or not in capitals.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                sentence = " ".join(line.split())
                if sentence != sentence.upper():
                    raise DataError(
                        f"Line {number} of {path} is not in capitals",
                        got=repr(sentence[:60]),
                        wanted="text like the transcripts of LibriSpeech",
                        remedy="librispeech-lm-norm.txt.gz (openslr.org/11) is such "
                        "text; of another take the punctuation out, and: tr a-z A-Z",
                    )
                if sentence:
                    yield sentence
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(
            f"The text {path} cannot be read",
            got=error,
            wanted="UTF-8 text, plain or whole .gz",
            remedy="correct --lm_text, or fetch the file again",
        ) from error


def number_lines(text: Path, out: Path) -> int:
    """Write the sentences with ids; the file appears when all are written.

    Returns:
        The number of sentences.

    Raises:
        DataError: The text cannot be used; `out` is as it was.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for count, sentence in enumerate(read_sentences(text), 1):
                file.write(f"lm-text-{count:08d} {sentence}\n")
        if not count:
            raise DataError(
                f"The text {text} is empty",
                got="no sentence",
                wanted="a sentence in each line",
                remedy="correct --lm_text",
            )
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    try:
        count = number_lines(args.text, args.out)
    except HKDError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {count:,} sentences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
