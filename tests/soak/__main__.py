"""Run the attacks and print one table of what held.

python -m tests.soak                     all parts
python -m tests.soak training --seed 3   one of them, other moments
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("training", "stores", "packages")
HEADINGS = ("part", "what", "tries", "held", "seconds", "note")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    return parser


def show(row: tuple[str, ...]) -> None:
    """Print a line of a table in Markdown, at once: the parts take long."""
    print(f"| {' | '.join(row)} |", flush=True)


def main() -> int:
    args = get_parser().parse_args()
    if unknown := set(args.parts) - set(PARTS):
        get_parser().error(f"no such part: {', '.join(unknown)}")
    broken = False
    show(HEADINGS)
    show(tuple("---" for _ in HEADINGS))
    for part in args.parts or PARTS:
        module = importlib.import_module(f"tests.soak.{part}")
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"soak-{part}-") as folder:
            rows = module.soak(Path(folder), args.seed)
        seconds = f"{time.monotonic() - begun:.0f}"
        for row in rows:
            show((part, row.what, str(row.tries), str(row.held), seconds, row.note))
            # The time of a part stands in its first row.
            seconds = ""
            broken |= row.held < row.tries
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
