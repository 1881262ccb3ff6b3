#!/usr/bin/env python3
"""Give each line of a text an id, for ESPnet's language model: a text of any size.

    number_lines.py librispeech-lm-norm.txt.gz data/local/other_text/text

Blank lines are left out. The text has to be in capitals, as LibriSpeech's transcripts:
small letters would all be unknown tokens.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser
from espnet_hkd.errors import DataError
from espnet_hkd.files import replace_file


def get_parser() -> Parser:
    parser = Parser("number_lines.py", __doc__)
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
    count = 0

    def write(path: Path) -> None:
        nonlocal count
        with path.open("w", encoding="utf-8") as file:
            for count, sentence in enumerate(read_sentences(text), 1):
                file.write(f"lm-text-{count:08d} {sentence}\n")
        if not count:
            raise DataError(
                f"The text {text} is empty",
                got="no sentence",
                wanted="a sentence in each line",
                remedy="correct --lm_text",
            )

    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, write)
    return count


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        print(f"{args.out}: {number_lines(args.text, args.out):,} sentences")


if __name__ == "__main__":
    main()
