"""What recognition returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class TokenTime(NamedTuple):
    """One token and when it was said, by CTC's alignment of the text or by its mass.

    Attributes:
        symbol: As in the token list.
        start: Seconds.
        end: Seconds; where its sound ends, or the next token begins.
        confidence: The decoder's probability of the token, given those before it.
    """

    symbol: str
    start: float
    end: float
    confidence: float


class WordTime(NamedTuple):
    """One word; a character of Chinese or Japanese is a word.

    Attributes:
        word: Without spaces.
        start: Seconds, of its first token.
        end: Seconds, of its last token.
        confidence: The decoder's probability of all its tokens, given those before.
    """

    word: str
    start: float
    end: float
    confidence: float


class Transcript(NamedTuple):
    """What was said in one recording.

    Attributes:
        text: Empty when nothing fired.
        score: Total log probability of the search; it sums over the pieces of a
            recording that was cut at silences.
        tokens: End-of-sentence excluded.
        words: The same by words, whatever the tokens are.
    """

    text: str
    score: float
    tokens: Sequence[TokenTime]
    words: Sequence[WordTime] = ()


class Firing(NamedTuple):
    """What the CIF did with one utterance, for plots.

    Attributes:
        weights: (T,) unscaled weights of the encoder frames.
        ends: (U,) fractional frames at which tokens were complete.
        symbols: U names, end-of-sentence included.
        frame_seconds: Duration of an encoder frame, None where it is not known.
        features: (frames, F) features of the same stretch of audio, or None.
        ctc: (T,) CTC's probability of anything but blank, or None.
    """

    weights: np.ndarray
    ends: np.ndarray
    symbols: list[str]
    frame_seconds: float | None = None
    features: np.ndarray | None = None
    ctc: np.ndarray | None = None
