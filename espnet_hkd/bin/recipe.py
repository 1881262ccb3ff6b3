"""Copy a recipe to work in, with its packed model.

    espnet-hkd recipe                 # which there are
    espnet-hkd recipe an4_hkd my_an4  # then: cd my_an4 && ./run.sh --help

The copy is yours: change run.sh and conf, add local/path.sh. The scripts that all
recipes share stay in the package, which path.sh finds by asking python3.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line."""
    parser = Parser("espnet-hkd recipe", __doc__)
    parser.add_argument("name", nargs="?", help="of the recipe; None: list them")
    parser.add_argument("folder", nargs="?", type=Path, help="a new or empty folder")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    if args.name and not args.folder:
        parser.error(f"a folder for {args.name} is missing")
    from espnet_hkd.recipes.copy import copy_recipe, recipes

    with parser.report_errors():
        if args.name is None:
            print("\n".join(f"{name:<17}{path}" for name, path in recipes().items()))
            return
        copy_recipe(args.name, args.folder)
        print(f"{args.folder}: run.sh, conf, local; next: ./run.sh --help in it")
        for model in sorted(args.folder.glob("pretrained/*.zip")):
            print(f"a trained model: espnet-hkd recognize {model} AUDIO...")


if __name__ == "__main__":
    main()
