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
    may_skip = np.zeros(len(states), bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    best = np.full(len(states), IMPOSSIBLE)
    best[:2] = emitted[0, :2]
    back = np.zeros((frames, len(states)), np.int8)
    for t in range(1, frames):
        came = np.full((3, len(states)), IMPOSSIBLE)
        came[0] = best
        came[1, 1:] = best[:-1]
        came[2, 2:] = np.where(may_skip[2:], best[:-2], IMPOSSIBLE)
        back[t] = came.argmax(0)
        best = came.max(0) + emitted[t]
    state = len(states) - 1 - int(best[-2] > best[-1])
    if best[state] <= IMPOSSIBLE / 2:
        return None
    path = np.empty(frames, np.int64)
    for t in range(frames - 1, -1, -1):
        path[t] = state
        state -= int(back[t, state])
    first = np.searchsorted(path, 2 * np.arange(len(labels)) + 1)
    last = np.searchsorted(path, 2 * np.arange(len(labels)) + 1, side="right")
    return np.stack([first, last], axis=1)
