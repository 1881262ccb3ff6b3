"""CTC's best alignment of a known label sequence, with numpy alone.

Letters: T frames, V vocabulary, U labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IMPOSSIBLE = -1e30


def align(
    log_probs: np.ndarray, labels: Sequence[int], *, blank: int = 0
) -> np.ndarray | None:
    """Frames of each label on the likeliest path (Viterbi).

    Args:
        log_probs: (T, V) log posteriors.
        labels: U label ids, without blanks.
        blank: CTC's blank.

    Returns:
        (U, 2) first and last + 1 frame of each label, in order and without overlap;
        None where the labels need more frames than there are.

    Example:
        >>> posteriors = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.9, 0.1]])
        >>> align(np.log(posteriors), [1])
        array([[1, 3]])
    """
    frames = len(log_probs)
    if not len(labels):
        return np.zeros((0, 2), np.int64)
    # States: blank, label, blank, label, ..., blank.
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    emitted = log_probs[:, states]  # (T, 2 U + 1)
    # A blank may be left out between two labels that differ.
    skip = np.full(len(states), IMPOSSIBLE)
    skip[3::2][states[3::2] != states[1:-2:2]] = 0.0
    # Two states before the first, so that each has one and two before it.
    best = np.full((frames, len(states) + 2), IMPOSSIBLE)
    best[0, 2:4] = emitted[0, :2]
    for t in range(1, frames):
        before = best[t - 1]
        came = np.maximum(before[2:], before[1:-1])
        best[t, 2:] = np.maximum(came, before[:-2] + skip) + emitted[t]
    state = len(states) - 1 - int(best[-1, -2] > best[-1, -1])
    if best[-1, state + 2] <= IMPOSSIBLE / 2:
        return None
    path = np.empty(frames, np.int64)
    path[-1] = state
    for t in range(frames - 2, -1, -1):
        two, one, same = best[t, state : state + 3].tolist()
        came = [same, one, two + skip[state]]
        state -= came.index(max(came))
        path[t] = state
    first = np.searchsorted(path, 2 * np.arange(len(labels)) + 1)
    last = np.searchsorted(path, 2 * np.arange(len(labels)) + 1, side="right")
    return np.stack([first, last], axis=1)
