"""Check before the first stage that a lexicon spells the recipe's unit.

    python -m espnet_hkd.recipes.units_fit --config conf/train.yaml --token_type char

A model's lexicon has a line for each of its tokens. Training would say in stage 10 that
a lexicon of words has none for characters or pieces: after the language model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from espnet_hkd.errors import ConfigError, HKDError
from espnet_hkd.files import table_rows
from espnet_hkd.recipes.corpus import some
from espnet_hkd.recipes.lengths import read_config

# Sentencepiece's mark of a word's beginning.
WORD_BEGIN = "\u2581"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="training YAML")
    parser.add_argument("--asr_args", default="", help="as given to asr.sh")
    parser.add_argument("--token_type", default="bpe", help="char, bpe or word")
    return parser


def check(lexicon: str | Path, token_type: str) -> None:
    """Compare a lexicon's first column with a unit.

    Raises:
        ConfigError: It has words where the unit is another.
        DataError: It cannot be read.
    """
    rows = table_rows(
        lexicon,
        wanted="lines TOKEN SYMBOL SYMBOL ...",
        remedy="correct model_conf.lexicon, or set it to null",
    )
    tokens = {row.id for row in rows if not row.id.startswith("<")}
    missing: set[str] = set()
    if token_type == "char":
        # Its own words are written with these, so the texts are, too.
        missing = {character for token in tokens for character in token} - tokens
    elif token_type == "bpe" and not any(WORD_BEGIN in token for token in tokens):
        missing = {WORD_BEGIN}
    if missing:
        raise ConfigError(
            f"the lexicon {lexicon} does not spell the tokens of --token_type "
            f"{token_type}",
            got=f"words, such as {max(tokens, key=len)}, and no line for "
            f"{some(missing)}",
            wanted="a line for each token of the model",
            remedy="--token_type word; or train without lexicon: "
            '--asr_args "--model_conf lexicon=null"',
        )


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    try:
        if not args.config.is_file():
            raise ConfigError(
                "there is no such training configuration",
                got=args.config,
                wanted="a YAML file, such as conf/train_asr_cif_hkd.yaml",
                remedy="correct --asr_config",
            )
        conf = read_config(args.config, args.asr_args)["model_conf"]
        if conf.get("lexicon"):
            check(conf["lexicon"], args.token_type)
    except HKDError as error:
        print(f"run.sh: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
