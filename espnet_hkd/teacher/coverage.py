"""How many of the texts' characters a PLM knows: what it does not, it cannot teach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from espnet_hkd.errors import PLMError, printable

if TYPE_CHECKING:
    from espnet_hkd.teacher.plm import PLM

# Texts looked at, spread over all of them: it is a share that is wanted.
SAMPLE = 10_000
# Below this share of known characters a PLM is one of another language or script.
ENOUGH = 0.5


@dataclass(frozen=True)
class Coverage:
    """What a PLM knows of the texts looked at.

    Attributes:
        characters: Their number, white space not counted.
        unknown: How often each character occurs that no known piece covers.
    """

    characters: int
    unknown: Counter[str]

    def __str__(self) -> str:
        share = self.unknown.total() / max(self.characters, 1)
        often = " ".join(printable(c) for c, _ in self.unknown.most_common(10))
        return (
            f"{self.unknown.total():,} of {self.characters:,} characters "
            f"({100 * share:.2f} %) are unknown to the PLM and have no teacher: {often}"
        )


def coverage(plm: PLM, texts: Sequence[str]) -> Coverage:
    """Count the characters that would be without a teacher.

    Args:
        plm: The teacher.
        texts: Canonical texts; at most 10,000 of them are looked at.

    Raises:
        PLMError: It knows fewer than half of the characters.
    """
    characters, unknown = 0, Counter[str]()
    for text in texts[:: max(1, len(texts) // SAMPLE)]:
        covered = np.zeros(len(text), dtype=bool)
        for begin, end in plm.pieces(text).spans:
            covered[begin:end] = True
        for character, known in zip(text, covered, strict=True):
            if not character.isspace():
                characters += 1
                unknown[character] += not known
    unknown = +unknown
    known = characters - unknown.total()
    if known < ENOUGH * characters:
        lacking = " ".join(character for character, _ in unknown.most_common(10))
        raise PLMError(
            f"The PLM {plm.name} cannot teach these texts: it knows {known:,} of "
            f"{characters:,} characters.",
            got=f"unknown, the most frequent first: {lacking}",
            wanted="a PLM of the texts' language that knows at least half of them",
            remedy="give another --plm, or --lower where it has small letters only",
        )
    return Coverage(characters, unknown)
