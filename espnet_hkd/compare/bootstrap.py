"""What error rates would have been had other speakers been asked: paired bootstrap.

Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
evaluation", ICASSP 2004. A resample draws as many groups (speakers, or utterances) as
there are, with replacement, and every system is scored on the same ones: what is hard
for all of them does not blur the difference between two. Utterances of one speaker are
alike, so speakers are drawn where there are several (Liu and Peng, "Statistical testing
on ASR performance via blockwise bootstrap", arXiv 1912.09508); of few speakers any
interval is too narrow.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Share of the resamples that an interval holds, in per cent.
CONFIDENCE = 95.0

# Draws that are held at a time.
DRAWS = 2_000_000


class Interval(NamedTuple):
    """A range that holds `CONFIDENCE` per cent of the resamples."""

    low: float
    high: float


def resampled_rates(
    errors: np.ndarray,
    words: np.ndarray,
    groups: Sequence[Hashable],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> np.ndarray:
    """Error rates of S systems in R resamples: (R, S).

    Args:
        errors: Errors of each system in each utterance: (S, N).
        words: Tokens of each utterance's reference: (N,).
        groups: What is drawn together, for each utterance: its speaker, or itself.
        resamples: R.
        seed: Of the draws: the same numbers give the same rates.
    """
    numbers: dict[Hashable, int] = {}
    group = np.array([numbers.setdefault(g, len(numbers)) for g in groups])
    table = np.zeros((len(numbers), len(errors) + 1))
    np.add.at(table, group, np.vstack([errors, words]).T)
    sums = np.concatenate(
        [drawn @ table for drawn in _draws(len(table), resamples, seed)]
    )
    return sums[:, :-1] / sums[:, -1:]


def _draws(groups: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each group is drawn, some resamples at a time: (rows, groups)."""
    generator = np.random.default_rng(seed)
    rows = max(1, DRAWS // groups)
    for begin in range(0, resamples, rows):
        count = min(rows, resamples - begin)
        drawn = generator.integers(groups, size=(count, groups))
        drawn += groups * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * groups)
        yield counts.reshape(count, groups).astype(float)


def interval(values: np.ndarray) -> Interval:
    """The middle `CONFIDENCE` per cent of some values (R,)."""
    tail = (100 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))


def relative_change(rates: np.ndarray, first: np.ndarray) -> Interval | None:
    """Interval of the relative change from one system's rates to another's: (R,) each.

    None where a resample has no error of the first system to compare with.
    """
    return interval(rates / first - 1) if first.all() else None
