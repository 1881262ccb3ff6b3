"""A model's lexicon against the recipe's unit, before the first stage."""

from __future__ import annotations

from pathlib import Path

from espnet_hkd.errors import ConfigError, some
from espnet_hkd.files import table_rows

# Sentencepiece's mark of a word's beginning.
WORD_BEGIN = "\u2581"


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
