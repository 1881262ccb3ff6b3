"""Check a packed model, an experiment or a model of the hub, and say what it is."""

from __future__ import annotations

from collections.abc import Sequence

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line."""
    parser = Parser("espnet-hkd inspect-model", __doc__)
    parser.add_argument("model", help="zip, folder, checkpoint or hub name")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.pretrained.packed import describe

    with parser.report_errors():
        print(describe(args.model))


if __name__ == "__main__":
    main()
