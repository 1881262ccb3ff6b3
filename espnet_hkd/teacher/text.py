"""Canonical text: what is hashed, what the PLM reads, what student spans refer to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_hkd.errors import ConfigError, DataError
from espnet_hkd.files import table_rows, text_lines

KEY_BYTES = 16


def canonical_text(text: str) -> str:
    """Runs of white space to one space, stripped; nothing else.

    A cleaner is applied before: ``canonical_text(cleaner(text))``. Neither case nor
    Unicode form changes, so a student's character is always a character of this text.

    >>> canonical_text("  HELLO\\u3000 World\\t")
    'HELLO World'
    """
    return " ".join(text.split())


def canonical_positions(text: str) -> np.ndarray:
    """Where each position of a text lies in its canonical text: (len(text) + 1,).

    A run of white space, wherever it is, lies where its one space would be.
    """
    positions = np.zeros(len(text) + 1, dtype=np.int64)
    position = 0
    pending_space = False
    for index, character in enumerate(text):
        if character.isspace():
            positions[index] = position
            pending_space = position > 0
        else:
            position += pending_space
            pending_space = False
            positions[index] = position
            position += 1
    positions[len(text)] = position
    return positions


def text_key(canonical: str) -> bytes:
    """The 16 bytes under which a store keeps a canonical text (blake2b-128)."""
    return hashlib.blake2b(canonical.encode(), digest_size=KEY_BYTES).digest()


def build_cleaner(name: str | None) -> Callable[[str], str]:
    """ESPnet's text cleaner of that name; None leaves the text as it is.

    Raises:
        ConfigError: ESPnet knows no such cleaner or lacks what it needs.
    """
    if name is None:
        return str
    from espnet2.text.cleaner import TextCleaner

    cleaner = TextCleaner(name)
    try:
        cleaner("a")
    except RuntimeError as error:
        raise ConfigError(
            f"The text cleaner {name!r} cannot be used.",
            got=error,
            wanted="a cleaner of ESPnet: tacotron, jaconv, vietnamese, "
            "korean_cleaner, whisper_en, whisper_basic, or none",
            remedy="give the --cleaner of the recipe, and install what it needs",
        ) from error
    return cleaner


@dataclass(frozen=True)
class Transcripts:
    """The texts of some files.

    Attributes:
        texts: Different canonical texts in the order of their first appearance.
        lines: Number of utterances read.
        empty: Names of the utterances without text, which get no teacher.
    """

    texts: list[str]
    lines: int
    empty: list[str]


def read_transcripts(
    paths: Sequence[str | Path], *, cleaner: str | None = None, plain: bool = False
) -> Transcripts:
    """Read Kaldi `text` files (first column is the id), or one text a line if `plain`.

    ``-`` is standard input. An id without text is legal: it is reported in `empty`.

    Raises:
        DataError: A file is missing, is not UTF-8, or there is no text at all.
    """
    clean = build_cleaner(cleaner)
    texts: dict[str, None] = {}
    empty = []
    count = 0
    for path in paths:
        rows = text_lines if plain else table_rows
        for number, *row in rows(
            path,
            wanted="a Kaldi text file, such as dump/raw/<set>/text",
            remedy="run the recipe's data stages first, or correct --text",
        ):
            name, text = (f"{path}:{number}", *row) if plain else row
            count += 1
            text = canonical_text(clean(text))
            if text:
                texts.setdefault(text)
            else:
                empty.append(name)
    if not texts:
        raise DataError(
            f"There is no text in {', '.join(map(str, paths))}.",
            got=f"{count} utterances, {len(empty)} of them empty",
            wanted="lines of an utterance id, a space and a text"
            if not plain
            else "one text a line",
            remedy="give the recipe's text files, or --plain for files without ids",
        )
    return Transcripts(list(texts), count, empty)
