"""Check before the first stage that a lexicon spells the recipe's unit.

    espnet-hkd units-fit --config conf/train.yaml --token_type char

A model's lexicon has a line for each of its tokens. Training would say in stage 10 that
a lexicon of words has none for characters or pieces: after the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser


def get_parser() -> Parser:
    """The command line, with defaults."""
    parser = Parser("espnet-hkd units-fit", __doc__)
    parser.add_argument("--config", type=Path, required=True, help="training YAML")
    parser.add_argument("--asr_args", default="", help="as given to asr.sh")
    parser.add_argument("--token_type", default="bpe", help="char, bpe or word")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = get_parser()
    args = parser.parse_args(arguments)
    from espnet_hkd.recipes.lengths import read_config
    from espnet_hkd.recipes.units_fit import check

    with parser.report_errors():
        conf = read_config(args.config, args.asr_args)["model_conf"]
        if conf.get("lexicon"):
            check(conf["lexicon"], args.token_type)


if __name__ == "__main__":
    main()
