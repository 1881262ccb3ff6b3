#!/usr/bin/env python3
"""Write transcripts as phones, by the lexicon and the letter-to-sound rules of flite.

They serve to warm the encoder up (local/warm.sh) and stand in no result: a phone may be
wrong, as in any word whose reading depends on its sense.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from espnet_hkd.bin.command import Parser
from espnet_hkd.errors import DataError
from espnet_hkd.files import read_table, write_table

PAUSE = "pau"


def get_parser() -> Parser:
    parser = Parser("phones.py", __doc__)
    parser.add_argument("text", type=Path, help="Kaldi's text: an id and words a line")
    parser.add_argument("out", type=Path, help="the same with phones for the words")
    parser.add_argument("--jobs", type=int, default=2, help="sentences at a time")
    return parser


def phones(sentence: str) -> str:
    """The phones of a sentence, without pauses, a space between.

    Raises:
        DataError: flite says nothing about it.
    """
    command = ["flite", "-voice", "slt", "-ps", "-o", "none", "-t", sentence.lower()]
    done = subprocess.run(command, capture_output=True, text=True)
    found = [phone for phone in done.stdout.split() if phone != PAUSE]
    if done.returncode != 0 or not found:
        raise DataError(
            f"flite has no phones for {sentence!r}",
            got=done.stderr.strip() or "nothing",
            wanted="phones",
            remedy=f"try it by hand: {' '.join(command)}",
        )
    return " ".join(found)


def convert(text: Path, out: Path, *, jobs: int) -> None:
    """Convert a table; each different sentence is spoken once.

    Raises:
        DataError: No flite, no such table, or a sentence without phones.
    """
    if shutil.which("flite") is None:
        raise DataError(
            "There is no flite to say how words are spoken",
            got="no command flite on PATH",
            wanted="flite, which knows the phones of English words",
            remedy="apt-get install flite, or train without local/warm.sh",
        )
    rows = read_table(text)
    sentences = sorted(set(rows.values()))
    with ThreadPoolExecutor(jobs) as pool:
        spoken = dict(zip(sentences, pool.map(phones, sentences), strict=True))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_table(out, {id: spoken[words] for id, words in rows.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        convert(args.text, args.out, jobs=args.jobs)


if __name__ == "__main__":
    main()
