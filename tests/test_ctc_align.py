"""CTC's best alignment of known labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from espnet_hkd.ctc.align import align


def posteriors(frames, size=4, seed=0):
    values = np.random.default_rng(seed).normal(size=(frames, size)) * 2
    return values - np.log(np.exp(values).sum(1, keepdims=True))


def read(path):
    return [s for s, _ in itertools.groupby(path) if s != 0]


def best_path(log_probs, labels):
    """The likeliest of all paths that read the labels, by trying each."""
    frames, size = log_probs.shape
    paths = itertools.product(range(size), repeat=frames)
    return max(
        (p for p in paths if read(p) == labels),
        key=lambda p: sum(log_probs[t, s] for t, s in enumerate(p)),
    )


@pytest.mark.parametrize(
    ("labels", "frames"), [([1], 1), ([1, 2], 5), ([2, 2], 6), ([3, 1, 1], 6)]
)
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_likeliest_of_all_paths(labels, frames, seed):
    log_probs = posteriors(frames, seed=seed)
    path, wanted = best_path(log_probs, labels), []
    for symbol, group in itertools.groupby(enumerate(path), key=lambda pair: pair[1]):
        at = [t for t, _ in group]
        if symbol != 0:
            wanted.append([at[0], at[-1] + 1])
    assert align(log_probs, labels).tolist() == wanted


def test_labels_that_need_more_frames_than_there_are_have_no_alignment():
    assert align(posteriors(2), [1, 1]) is None
    assert align(posteriors(3), [1, 1]).tolist() == [[0, 1], [2, 3]]
    assert align(posteriors(1), [1, 2]) is None


def test_no_labels_have_no_frames():
    assert align(posteriors(5), []).shape == (0, 2)


def test_another_blank():
    log_probs = np.log(np.array([[0.1, 0.9], [0.8, 0.2], [0.1, 0.9]]))
    assert align(log_probs, [0], blank=1).tolist() == [[1, 2]]
