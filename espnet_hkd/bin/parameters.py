"""Print the parameters of a training configuration, part by part.

    espnet-hkd parameters --config conf/train_asr_cif.yaml --tokens 4234

Beside the published encoder stand the figures of the published model (Han et al.,
INTERSPEECH 2023: 47,208,587 parameters, its log's count), and what makes a difference.
"""

from __future__ import annotations

from collections.abc import Sequence

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd parameters", __doc__)
    parser.add_argument("--config", required=True, help="the training YAML")
    parser.add_argument(
        "--tokens",
        required=True,
        help="how many there are, <blank>, <unk> and <sos/eos> included, or a token "
        "list as asr.sh writes it; the published model has 4234",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.recipes.parameters import build_model, read_tokens, table

    with parser.report_errors():
        model = build_model(args.config, read_tokens(args.tokens))
        print("\n".join(table(model)))


if __name__ == "__main__":
    main()
