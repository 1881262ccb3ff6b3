"""CTC prefix scores on the CPU, compiled by numba.

Algorithm 2 of Watanabe et al., "Hybrid CTC/Attention Architecture for End-to-End
Speech Recognition" (IEEE JSTSP, 2017). The score of a prefix is the log probability of
all label sequences that begin with it. ESPnet's scorer runs the recursion over time for
every candidate of every hypothesis; here a candidate's score is one sum over time of
the forward variables of the hypothesis it would follow, and the recursion runs only for
the hypotheses that are kept.

Letters: B utterances, T frames, V vocabulary, N hypotheses, S candidates of each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from espnet_hkd.compiling import compile_loops

# What ESPnet takes for the logarithm of zero.
LOG_ZERO = -1.0e10
# Terms of a sum below its largest by more than this (natural logarithm) are left out:
# a million of them would not change a double.
SMALL = 50.0


class Prefixes(NamedTuple):
    """N hypotheses.

    Attributes:
        utterance: (N,) int64.
        last: (N,) int64, their last labels; -1 for the empty one.
        forward: (N, T, 2) float64, log probability of the prefix over the frames up to
            each one, ending in its last label and in a blank.
        score: (N,) float64, log probability of the prefix.
        end: (N,) float64, log probability of the prefix as the whole text.
    """

    utterance: np.ndarray
    last: np.ndarray
    forward: np.ndarray
    score: np.ndarray
    end: np.ndarray


class PrefixScorer:
    """Prefix scores of a batch of utterances.

    It keeps nothing of a search: hypotheses are values.

    Args:
        logp: (B, T, V) log probabilities.
        lengths: (B,) frames; those beyond are never read.
        blank: Index of the blank.

    Example:
        >>> import numpy as np
        >>> scorer = PrefixScorer(np.log(np.full((1, 4, 3), 1 / 3)), np.array([4]))
        >>> prefixes = scorer.start()
        >>> scores = scorer.score(prefixes, np.array([[1, 2]]))  # (1, 2)
        >>> prefixes = scorer.extend(prefixes, np.array([0]), np.array([2]))
        >>> bool(np.isclose(prefixes.score[0], scores[0, 1]))
        True
    """

    def __init__(self, logp: np.ndarray, lengths: np.ndarray, blank: int = 0) -> None:
        # One label's frames next to each other.
        self._logp = np.ascontiguousarray(logp.transpose(0, 2, 1))
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._blank = blank

    def start(self) -> Prefixes:
        """The empty hypothesis of each utterance."""
        count, _, frames = self._logp.shape
        utterance = np.arange(count)
        forward = np.full((count, frames, 2), LOG_ZERO)
        forward[:, :, 1] = self._logp[:, self._blank].astype(np.float64).cumsum(axis=1)
        end = forward[utterance, self._lengths - 1, 1]
        return Prefixes(utterance, np.full(count, -1), forward, np.zeros(count), end)

    def score(self, prefixes: Prefixes, labels: np.ndarray) -> np.ndarray:
        """Log probabilities (N, S) of the prefixes with one of labels (N, S) after."""
        return _score(
            self._logp,
            self._lengths,
            self._blank,
            prefixes.utterance,
            prefixes.last,
            prefixes.forward,
            np.ascontiguousarray(labels),
        )

    def extend(
        self, prefixes: Prefixes, parents: np.ndarray, labels: np.ndarray
    ) -> Prefixes:
        """Append labels (M,) to the hypotheses `parents` (M,)."""
        utterance = prefixes.utterance[parents]
        forward, score, end = _extend(
            self._logp,
            self._lengths,
            self._blank,
            prefixes.utterance,
            prefixes.last,
            prefixes.forward,
            np.ascontiguousarray(parents),
            np.ascontiguousarray(labels),
        )
        return Prefixes(utterance, np.asarray(labels), forward, score, end)


@numba.njit(inline="always")
def _add(a, b):
    """log(exp(a) + exp(b))."""
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high)) if low > high - SMALL else high


@numba.njit(inline="always")
def _before(forward, t, repeated):
    """Log probability of a prefix at frame t, such that another label may follow."""
    if t < 0:
        return 0.0
    # The same label again needs a blank in between.
    return forward[t, 1] if repeated else _add(forward[t, 0], forward[t, 1])


@compile_loops(error_model="numpy")
def _score(logp, lengths, blank, utterance, last, forward, labels):
    number, candidates = labels.shape
    frames = logp.shape[2]
    scores = np.empty((number, candidates))
    sums = np.empty(frames)
    for n in range(number):
        b = utterance[n]
        length = lengths[b]
        first = 0 if last[n] < 0 else 1
        for t in range(first, length):
            sums[t] = _before(forward[n], t - 1, False)
        for s in range(candidates):
            label = labels[n, s]
            if label == blank:
                scores[n, s] = LOG_ZERO
                continue
            repeated = label == last[n]
            x = logp[b, label]
            high = LOG_ZERO
            for t in range(first, length):
                before = forward[n, t - 1, 1] if repeated else sums[t]
                high = max(high, before + x[t])
            total = 0.0
            for t in range(first, length):
                before = forward[n, t - 1, 1] if repeated else sums[t]
                term = before + x[t] - high
                if term > -SMALL:
                    total += math.exp(term)
            scores[n, s] = high + math.log(total) if total > 0.0 else LOG_ZERO
    return scores


@compile_loops(error_model="numpy")
def _extend(logp, lengths, blank, utterance, last, forward, parents, labels):
    number = len(parents)
    frames = logp.shape[2]
    new = np.full((number, frames, 2), LOG_ZERO)
    scores = np.empty(number)
    ends = np.empty(number)
    for m in range(number):
        n = parents[m]
        b = utterance[n]
        length = lengths[b]
        x = logp[b, labels[m]]
        blanks = logp[b, blank]
        repeated = labels[m] == last[n]
        in_label = LOG_ZERO
        in_blank = LOG_ZERO
        score = LOG_ZERO
        for t in range(length):
            if t == 0:
                before = 0.0 if last[n] < 0 else LOG_ZERO
            else:
                before = _before(forward[n], t - 1, repeated)
            next_blank = _add(in_label, in_blank) + blanks[t]
            in_label = _add(in_label, before) + x[t]
            in_blank = next_blank
            score = _add(score, before + x[t])
            new[m, t, 0] = in_label
            new[m, t, 1] = in_blank
        scores[m] = score
        ends[m] = _add(in_label, in_blank)
    return new, scores, ends
