"""Sentences without speech that are taught beside the transcripts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from espnet_hkd.errors import DataError
from espnet_hkd.teacher.text import read_transcripts

logger = logging.getLogger(__name__)


class ExtraText:
    """A file of sentences, one a line, written as the transcripts are.

    Read when first needed. A sentence with a unit that the token list lacks is passed
    over, and how many there are is logged once.

    Args:
        path: The file.
        cleaner: ESPnet's text cleaner of the recipe, or None.
        numbers: Text -> the numbers of its tokens.
        unknown: The number of `<unk>`, or None.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        cleaner: str | None,
        numbers: Callable[[str], Sequence[int]],
        unknown: int | None,
    ) -> None:
        self._path = path
        self._cleaner = cleaner
        self._numbers = numbers
        self._unknown = unknown
        self._texts: list[str] = []
        self._skipped = 0

    def draw(self) -> tuple[str, np.ndarray]:
        """A sentence and the numbers of its tokens (U - 1,) int64.

        Drawn by numpy's global generator, which ESPnet seeds in each worker and epoch.

        Raises:
            DataError: The file cannot be read, or no sentence of it can be used.
        """
        if not self._texts:
            self._texts = read_transcripts(
                [self._path], cleaner=self._cleaner, plain=True
            ).texts
        while self._texts:
            at = int(np.random.randint(len(self._texts)))
            numbers = np.array(self._numbers(self._texts[at]), dtype=np.int64)
            if self._unknown is None or self._unknown not in numbers:
                return self._texts[at], numbers
            self._skip(at)
        raise DataError(
            f"No sentence of {self._path} can be written in the units of the model.",
            got=f"{self._skipped} sentences, each with a unit the token list lacks",
            wanted="sentences as the transcripts are written: case and marks alike",
            remedy="write it in that form, or set preprocessor_conf.extra_text: null",
        )

    def _skip(self, at: int) -> None:
        """Pass over a sentence, and log the 1st, 10th, 100th, ... of this process."""
        text = self._texts[at]
        self._texts[at] = self._texts[-1]
        self._texts.pop()
        self._skipped += 1
        if str(self._skipped).strip("0") == "1":
            logger.warning(
                "%d sentence(s) of %s so far have units that the token list lacks, and "
                "are passed over; the last is %r",
                self._skipped,
                self._path,
                text,
            )
