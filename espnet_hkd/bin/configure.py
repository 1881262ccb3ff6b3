"""Write options into an experiment's configuration, and so into its packed model.

    espnet-hkd configure exp/asr_hkd decoder_conf.tail=0.4

For a value chosen on the development set after training. To try values without
writing them use `python3 -m espnet_hkd.run --set decoder_conf.tail=0.4 -m PROGRAM`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd configure", __doc__)
    parser.add_argument("exp", type=Path, help="experiment folder with a config.yaml")
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="PART_conf.KEY=VALUE",
        help="an option of the frontend, encoder, decoder, model, ...; VALUE is YAML. "
        "Or preencoder=hkd_short_pauses, which has no weights, or preencoder=null",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.pretrained.configure import configure

    with parser.report_errors():
        print("\n".join(configure(args.exp, args.settings)))


if __name__ == "__main__":
    main()
