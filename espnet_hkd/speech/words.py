"""Words of tokens, for every kind of unit, and texts of words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from espnet_hkd.speech.records import TokenTime, WordTime

# What sentencepiece writes for the space before a word.
SPACE = "\u2581"
# Scripts written without spaces: kana and Han.
_UNSPACED = (
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
_PARTS = re.compile(f"[{_UNSPACED}]|[^{_UNSPACED}]+")


class _Part(NamedTuple):
    """A stretch of text that lies within one word."""

    text: str
    start: float
    end: float
    confidence: float
    joins: bool  # the part before it


def group_words(tokens: Sequence[TokenTime], unit: str | None) -> list[WordTime]:
    """Words of the tokens of one utterance.

    A symbol in angle brackets, such as `<noise>`, is a word, but for `<space>`.

    Args:
        tokens: In order.
        unit: ESPnet's `token_type`: "char", "bpe"; the tokens of others are words.

    Example:
        >>> tokens = [TokenTime("A", 0.0, 0.4, 0.5), TokenTime("B", 0.4, 0.9, 0.5)]
        >>> group_words(tokens, "char")
        [WordTime(word='AB', start=0.0, end=0.9, confidence=0.25)]
    """
    words: list[list[_Part]] = []
    for part in _parts(tokens, unit):
        if part.joins and words:
            words[-1].append(part)
        else:
            words.append([part])
    return [
        WordTime(
            "".join(part.text for part in word),
            word[0].start,
            word[-1].end,
            math.prod(part.confidence for part in word),
        )
        for word in words
    ]


def join_words(words: Iterable[str]) -> str:
    """The text of words: a space between them, but not between Chinese characters.

    Example:
        >>> join_words(["\u4eca", "\u5929", "OK", "go"]) == "\u4eca\u5929OK go"
        True
    """
    text = ""
    for word in words:
        spaced = text and not (is_unspaced(text[-1]) or is_unspaced(word[:1]))
        text += f" {word}" if spaced else word
    return text


def is_unspaced(character: str) -> bool:
    """Whether a character's script is written without spaces between words."""
    return bool(_UNSPACED_CHARACTER.match(character))


def _parts(tokens: Sequence[TokenTime], unit: str | None) -> Iterator[_Part]:
    joins = False
    for token in tokens:
        symbol = token.symbol
        special = len(symbol) > 2 and symbol[0] == "<" and symbol[-1] == ">"
        if symbol == "<space>":
            joins = False
        elif special or unit not in ("char", "bpe"):
            yield _Part(symbol, token.start, token.end, token.confidence, False)
            joins = False
        else:
            if unit == "bpe" and symbol.startswith(SPACE):
                symbol, joins = symbol.lstrip(SPACE), False
            for part in _split(symbol, token):
                alone = is_unspaced(part.text)
                yield part._replace(joins=joins and not alone)
                joins = not alone


def _split(symbol: str, token: TokenTime) -> Iterator[_Part]:
    """Characters of unspaced scripts apart, each with its share of the time."""
    each = (token.end - token.start) / max(len(symbol), 1)
    for found in _PARTS.finditer(symbol):
        start, end = (token.start + each * place for place in found.span())
        if found.end() == len(symbol):
            end = token.end
        yield _Part(found[0], start, end, token.confidence, False)
