"""The paired bootstrap, against plain loops and what statistics know."""

from __future__ import annotations

import numpy as np
import pytest

from espnet_hkd.compare import bootstrap
from espnet_hkd.compare.bootstrap import interval, relative_change, resampled_rates


def loop_rates(errors, words, speakers, draws):
    """The same by plain loops, from the number of times each speaker is drawn."""
    names = list(dict.fromkeys(speakers))
    found = []
    for drawn in draws:
        times = np.array([drawn[names.index(speaker)] for speaker in speakers])
        found.append([(e * times).sum() / (words * times).sum() for e in errors])
    return np.array(found)


@pytest.mark.parametrize("held", [1, 9, 2_000_000])
def test_all_utterances_of_a_drawn_speaker_count_each_time_it_is_drawn(
    monkeypatch, held
):
    monkeypatch.setattr(bootstrap, "DRAWS", held)
    chance = np.random.default_rng(1)
    words = chance.integers(1, 9, size=20)
    errors = chance.integers(0, 4, size=(3, 20))
    speakers = [f"s{n}" for n in chance.integers(0, 4, size=20)]

    rates = resampled_rates(errors, words, speakers, resamples=30, seed=7)

    draws = np.concatenate(list(bootstrap._draws(len(set(speakers)), 30, 7)))
    assert (draws.sum(1) == len(set(speakers))).all()
    assert len({tuple(d) for d in draws}) > 5
    np.testing.assert_allclose(rates, loop_rates(errors, words, speakers, draws))


def test_a_seed_gives_its_numbers_again_and_another_gives_others():
    errors, words = np.arange(12).reshape(1, 12), np.full(12, 20)
    drawn = [
        resampled_rates(errors, words, range(12), resamples=40, seed=seed)
        for seed in (3, 3, 4)
    ]

    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


def test_systems_are_compared_on_the_same_draws():
    # Twice the errors everywhere: the rates vary, their ratio does not.
    errors = np.array([[1, 0, 3, 2, 9, 1], [2, 0, 6, 4, 18, 2]])
    rates = resampled_rates(errors, np.full(6, 20), range(6), resamples=500)
    rates = rates[rates[:, 0] > 0]

    first, second = interval(rates[:, 0])
    change = relative_change(rates[:, 1], rates[:, 0])

    assert second - first > 0.1
    assert change == pytest.approx((1.0, 1.0))
    assert relative_change(rates[:, 1], np.append(rates[1:, 0], 0.0)) is None


def test_the_interval_of_many_utterances_is_that_of_the_normal_distribution():
    chance = np.random.default_rng(0)
    errors = chance.binomial(10, 0.2, size=(1, 2000))
    rates = resampled_rates(errors, np.full(2000, 10), range(2000), resamples=4000)

    low, high = interval(rates[:, 0])

    half = 1.96 * np.std(errors / 10) / np.sqrt(2000)
    assert low == pytest.approx(errors.mean() / 10 - half, abs=0.1 * half)
    assert high == pytest.approx(errors.mean() / 10 + half, abs=0.1 * half)


def test_speakers_who_differ_widen_the_interval():
    errors = np.array([[0] * 50 + [3] * 50])
    speakers = [n // 25 for n in range(100)]
    widths = [
        np.subtract(*interval(resampled_rates(errors, np.full(100, 5), groups)[:, 0]))
        for groups in (range(100), speakers)
    ]

    assert widths[1] < 2 * widths[0] < 0
