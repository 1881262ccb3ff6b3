"""Cut a text that is longer than a PLM takes into overlapping windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """A stretch of text pieces that the PLM reads at once, and those it is kept for.

    Attributes:
        text: Index of the text.
        begin, end: Text pieces read.
        keep_begin, keep_end: Text pieces whose states come from here.
    """

    text: int
    begin: int
    end: int
    keep_begin: int
    keep_end: int


def windows(spans: np.ndarray, room: int, text: int = 0) -> Iterator[Window]:
    """Cut a text into overlapping windows of at most `room` pieces, at word ends.

    Neighbours share a quarter of `room` or more; of what they share, the earlier keeps
    the first half and the later the second, so that no piece is read without context
    on either side. A word longer than a window is cut between characters.

    Args:
        spans: (S, 2) characters of each piece.
        room: Pieces the PLM reads at once, special ones not counted.
        text: Index to note in the windows.
    """
    count = len(spans)
    if count <= room:
        yield Window(text, 0, count, 0, count)
        return
    begins, ends = spans[1:, 0], spans[:-1, 1]
    between_words = np.flatnonzero(begins > ends) + 1
    between_characters = np.flatnonzero(begins >= ends) + 1
    shared = max(1, room // 4)

    def boundary(low: int, high: int) -> int:
        """The last boundary in (low, high], between words if there is one."""
        for places in (between_words, between_characters):
            fitting = places[(places > low) & (places <= high)]
            if len(fitting):
                return int(fitting[-1])
        return high

    begin = keep_begin = 0
    while count - begin > room:
        end = boundary(begin + room // 2, begin + room)
        following = boundary(end - room // 2, end - shared)
        keep_end = (following + end + 1) // 2
        yield Window(text, begin, end, keep_begin, keep_end)
        begin, keep_begin = following, keep_end
    yield Window(text, begin, count, keep_begin, count)
