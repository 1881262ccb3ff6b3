r"""Errors of hypotheses against references, counted as NIST's sclite counts them.

sclite (SCTK 2.4.10, `word.c` and `net_dp.c`) looks for the path of least cost where a
substitution costs 4 and a deletion or insertion 3: a deletion and an insertion around a
match (6) are better than two substitutions (8), which the plain edit distance does not
tell apart. Of paths of equal cost it takes, going backward from the end, the diagonal
where it can, else the insertion, else the deletion; so it is certain, too, which word
was deleted. sclite's own markup (``@``, ``{a / b}``, ``*`` and ``\`` in words) is not
read: every token is one to recognise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SUBSTITUTION = 4
# Of a deletion, and of an insertion.
GAP = 3

# Cells of the table that is held at a time: 16 MB.
CELLS = 4_000_000


class Step(NamedTuple):
    """A step of an alignment: a pair, or a deletion or insertion, the other None."""

    reference: str | None
    hypothesis: str | None


@dataclass(frozen=True)
class Errors:
    """Errors of N utterances, each an array (N,) of int64.

    Attributes:
        words: Tokens of the reference.
        substitutions, deletions, insertions: As sclite counts them.
        last_deleted: 1 where the reference's last token was deleted.
        last_substituted: 1 where another stands for the reference's last token.
        after_end: Tokens inserted after the reference's last one.
        empty: 1 where the hypothesis has no token.
    """

    words: np.ndarray
    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray
    last_deleted: np.ndarray
    last_substituted: np.ndarray
    after_end: np.ndarray
    empty: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """All errors of each utterance: (N,)."""
        return self.substitutions + self.deletions + self.insertions


def align_reference(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Step]:
    """The alignment of one utterance by plain loops, for tests and readers.

    >>> align_reference("a b c".split(), "b c d".split())
    ... # doctest: +NORMALIZE_WHITESPACE
    [Step(reference='a', hypothesis=None), Step(reference='b', hypothesis='b'),
     Step(reference='c', hypothesis='c'), Step(reference=None, hypothesis='d')]
    """
    cost = [[GAP * b for b in range(len(hypothesis) + 1)]]
    for a, word in enumerate(reference, 1):
        row = [GAP * a]
        for b, other in enumerate(hypothesis, 1):
            paired = cost[a - 1][b - 1] + SUBSTITUTION * (word != other)
            row.append(min(paired, cost[a - 1][b] + GAP, row[b - 1] + GAP))
        cost.append(row)
    steps = []
    a, b = len(reference), len(hypothesis)
    while a or b:
        if a and b:
            differ = reference[a - 1] != hypothesis[b - 1]
            paired = cost[a][b] == cost[a - 1][b - 1] + SUBSTITUTION * differ
            deleted = not paired and cost[a - 1][b] < cost[a][b - 1]
        else:
            paired, deleted = False, b == 0
        step = Step(
            reference[a - 1] if paired or deleted else None,
            hypothesis[b - 1] if not deleted else None,
        )
        steps.append(step)
        a -= step.reference is not None
        b -= step.hypothesis is not None
    return steps[::-1]


def count_errors(
    references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]
) -> Errors:
    """Errors of N utterances, many aligned at a time.

    Args:
        references: Tokens of each utterance.
        hypotheses: Tokens of each hypothesis, in the same order.

    Example:
        >>> errors = count_errors([["GO"], ["ONE", "TWO"]], [["GO"], ["TWO", "SIX"]])
        >>> errors.deletions, errors.insertions, errors.after_end
        (array([0, 1]), array([0, 1]), array([0, 1]))
    """
    assert len(references) == len(hypotheses), (len(references), len(hypotheses))
    symbols: dict[str, int] = {}
    rows = [
        [[symbols.setdefault(token, len(symbols)) for token in text] for text in texts]
        for texts in (references, hypotheses)
    ]
    words, others = (
        np.array([len(row) for row in side], dtype=np.int64) for side in rows
    )
    counted = np.zeros((6, len(references)), dtype=np.int64)
    for batch in _batches(words, others):
        reference, hypothesis = (_padded([side[n] for n in batch]) for side in rows)
        counted[:, batch] = _count(reference, hypothesis, words[batch], others[batch])
    return Errors(words, *counted, empty=(others == 0).astype(np.int64))


def _batches(words: np.ndarray, others: np.ndarray) -> Iterator[np.ndarray]:
    """Utterances of like lengths together, at most `CELLS` cells of them."""
    order = np.lexsort((others, words))
    begin = 0
    while begin < len(order):
        end, height, width = begin, 0, 0
        while end < len(order):
            height = max(height, words[order[end]] + 1)
            width = max(width, others[order[end]] + 1)
            if end > begin and (end + 1 - begin) * height * width > CELLS:
                break
            end += 1
        yield order[begin:end]
        begin = end


def _padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows of numbers as one array, at least one column wide; -1 fills up."""
    array = np.full((len(rows), max(1, *map(len, rows))), -1, dtype=np.int32)
    for line, row in zip(array, rows, strict=True):
        line[: len(row)] = row
    return array


def _costs(reference: np.ndarray, hypothesis: np.ndarray) -> np.ndarray:
    """Least costs of all beginnings: (A + 1, N, B + 1), from (N, A) and (N, B).

    A cell depends on those before it only, so padding at the end changes none of an
    utterance's own.
    """
    count, width = hypothesis.shape
    insertions = GAP * np.arange(width + 1, dtype=np.int32)
    cost = np.empty((reference.shape[1] + 1, count, width + 1), dtype=np.int32)
    cost[0] = insertions
    for above, row, word in zip(cost[:-1], cost[1:], reference.T, strict=True):
        np.add(above, GAP, out=row)
        paired = above[:, :-1] + SUBSTITUTION * (hypothesis != word[:, None])
        np.minimum(row[:, 1:], paired, out=row[:, 1:])
        # Insertions along the row: the least of what lies to the left, each with the
        # insertions from there to here.
        row -= insertions
        np.minimum.accumulate(row, axis=1, out=row)
        row += insertions
    return cost


def _count(
    reference: np.ndarray,
    hypothesis: np.ndarray,
    words: np.ndarray,
    others: np.ndarray,
) -> np.ndarray:
    """Trace back from the ends of N utterances at once: counts of `Errors`, (6, N)."""
    cost = _costs(reference, hypothesis)
    n = np.arange(len(words))
    a, b = words.copy(), others.copy()
    counts = np.zeros((6, len(words)), dtype=np.int64)
    while True:
        active = (a > 0) | (b > 0)
        if not active.any():
            return counts
        # Beyond the edges indices wrap around, and what is found there is not used.
        both = (a > 0) & (b > 0)
        differ = reference[n, a - 1] != hypothesis[n, b - 1]
        paired = both & (cost[a, n, b] == cost[a - 1, n, b - 1] + SUBSTITUTION * differ)
        less = cost[a - 1, n, b] < cost[a, n, b - 1]
        deleted = active & ~paired & np.where(both, less, b == 0)
        inserted = active & ~paired & ~deleted
        at_end = a == words
        substituted = paired & differ
        counts += [
            substituted,
            deleted,
            inserted,
            deleted & at_end,
            substituted & at_end,
            inserted & at_end,
        ]
        a -= paired | deleted
        b -= paired | inserted
