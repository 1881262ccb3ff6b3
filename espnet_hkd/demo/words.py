"""The words of a transcript, from its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from espnet_hkd.recognize import TokenTime, Transcript


class WordTime(NamedTuple):
    """A word, its time in seconds, and the least confidence of its tokens."""

    word: str
    start: float
    end: float
    confidence: float


def words_of(transcript: Transcript) -> list[Any]:
    """The transcript's words."""
    groups: list[list[TokenTime]] = []
    pieces = any("\u2581" in token.symbol for token in transcript.tokens)
    for token in transcript.tokens:
        if groups and pieces and not token.symbol.startswith("\u2581"):
            groups[-1].append(token)
        else:
            groups.append([token])
    return [_join(group) for group in groups]


def _join(tokens: Sequence[TokenTime]) -> WordTime:
    text = "".join(token.symbol for token in tokens).replace("\u2581", "")
    least = min(token.confidence for token in tokens)
    return WordTime(text, tokens[0].start, tokens[-1].end, least)
