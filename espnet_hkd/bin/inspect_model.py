"""Check a packed model, an experiment or a model of the hub, and say what it is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_hkd.bin.inspect_model", description=__doc__
    )
    parser.add_argument("model", help="zip, folder, checkpoint or hub name")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = get_parser().parse_args(arguments)
    from espnet_hkd.errors import HKDError
    from espnet_hkd.pretrained.packed import describe

    try:
        print(describe(args.model))
    except HKDError as error:
        sys.exit(f"inspect_model: {error}")


if __name__ == "__main__":
    main()
