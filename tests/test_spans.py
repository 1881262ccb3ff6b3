"""From weights or spikes, and the loudness of the audio, to times of tokens."""

from __future__ import annotations

import numpy as np
import pytest

from espnet_hkd.recognize.spans import mass_centres, spans
from espnet_hkd.speech.loudness import loudness, sound_end, speech_level

RATE = 16000


def words(*stretches, seconds=3.0, level=0.1, room=0.0003, seed=0):
    """A room with noise that swells five times a second in each (begin, end)."""
    rng = np.random.default_rng(seed)
    samples = room * rng.standard_normal(int(seconds * RATE))
    for begin, end in stretches:
        first, last = int(begin * RATE), int(end * RATE)
        swell = 1 - 0.6 * np.sin(10 * np.pi * np.arange(last - first) / RATE)
        samples[first:last] += level * swell * rng.standard_normal(last - first)
    return samples.astype(np.float32)


def test_centres_are_where_half_of_the_mass_of_each_token_lies():
    weights = np.zeros(20, np.float32)
    weights[[3, 4, 10, 18]] = [0.5, 0.5, 1.0, 1.0]
    np.testing.assert_allclose(mass_centres(weights, 2), [4.0, 10.5])
    # As in training: scaled to the tokens and the end of sentence.
    np.testing.assert_allclose(mass_centres(0.7 * weights, 2), [4.0, 10.5])


def test_what_a_pause_carries_does_not_move_the_centre_of_the_token_after_it():
    weights = np.zeros(220)
    weights[[3, 210]] = 1.0
    before = mass_centres(weights, 1)
    weights[4:200] = 0.001
    # Half a token in 8 s of pause would have put the end of the first one into it.
    np.testing.assert_allclose(mass_centres(weights, 1), before, atol=0.6)


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_without_any_mass_tokens_are_spread_evenly(tokens):
    centres = mass_centres(np.zeros(12), tokens)
    assert len(centres) == tokens
    assert np.all(np.diff([0.0, *centres, 12.0]) > 0)


def test_a_token_ends_with_its_sound_and_the_pause_is_nobodys():
    samples = words((0.5, 1.0), (2.0, 2.4))
    times = spans(np.array([0.6, 2.1]), loudness(samples, RATE), 3.0, -0.1)
    np.testing.assert_allclose(times[:, 0], [0.5, 2.0])
    # RELEASE and the smoothing add some hundredths.
    np.testing.assert_allclose(times[:, 1], [1.04, 2.44], atol=0.02)


def test_tokens_without_a_pause_meet():
    samples = words((0.5, 1.5))
    times = spans(np.array([0.5, 0.9, 1.2]), loudness(samples, RATE), 3.0, 0.0)
    np.testing.assert_allclose(times[:2, 1], times[1:, 0])


def test_a_loud_pause_ends_a_quiet_word():
    samples = words((0.5, 1.0))
    samples[RATE:] += words((0.0, 2.0), seconds=2.0, level=0.01, seed=1)
    times = spans(np.array([0.5]), loudness(samples, RATE), 3.0, 0.0)
    assert times[0, 1] == pytest.approx(1.04, abs=0.03)


def test_what_the_room_lets_hear_in_a_pause_is_not_of_the_word_before_it():
    """A breath and a knock in a pause of 8 s, which a word ended with before."""
    samples = words((0.5, 1.0), (4.0, 4.2), (7.5, 7.55), (9.0, 9.5), seconds=10.0)
    times = spans(np.array([0.5, 9.0]), loudness(samples, RATE), 10.0, 0.0)
    np.testing.assert_allclose(times[:, 1], [1.04, 9.54], atol=0.02)


def test_the_closure_of_a_plosive_does_not_end_a_word():
    samples = words((0.5, 0.8), (0.98, 1.2), (2.0, 2.4))
    times = spans(np.array([0.5, 2.0]), loudness(samples, RATE), 3.0, 0.0)
    assert times[0, 1] == pytest.approx(1.24, abs=0.02)


def test_noise_for_half_a_second_after_a_word_is_not_of_it():
    samples = words((0.5, 0.8))
    samples[int(0.8 * RATE) :] += words((0, 0.7), seconds=2.2, level=0.01, seed=1)
    times = spans(np.array([0.5]), loudness(samples, RATE), 1.5, 0.0)
    assert times[0, 1] == pytest.approx(0.84, abs=0.03)


@pytest.mark.parametrize("seconds", [0.5, 2.0])
@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
def test_steady_noise_as_loud_as_the_word_before_it_is_not_of_it(level, seconds):
    samples = words((0.5, 1.0), (1.0 + seconds, 1.5 + seconds), seconds=4.0)
    pause = slice(RATE, RATE + int(seconds * RATE))
    noise = np.random.default_rng(1).standard_normal(int(seconds * RATE))
    samples[pause] += level * noise.astype(np.float32)
    # The next word begins before its time, so the noise does not reach to its end.
    centres = np.array([0.5, 1.1 + seconds])
    times = spans(centres, loudness(samples, RATE), 4.0, 0.0)
    assert times[0, 1] == pytest.approx(1.02, abs=0.06)


def test_a_long_pause_of_soft_and_loud_pieces_ends_a_word():
    """Both louder than what the rest of the recording calls silent."""
    rng = np.random.default_rng(2)
    samples = words((2.5, 3.0), seconds=13.0, room=0.0001)
    levels = np.repeat(np.tile([0.004, 0.004, 0.012, 0.004], 25), RATE // 10)
    samples[3 * RATE :] += levels * rng.standard_normal(10 * RATE)
    times = spans(np.array([2.5]), loudness(samples, RATE), 13.0, 0.0)
    assert times[0, 1] == pytest.approx(3.04, abs=0.03)


def test_a_word_a_tenth_as_loud_as_the_rest_keeps_its_length():
    samples = words((0.2, 0.8))
    samples[RATE:] += words((0.5, 1.1), seconds=2.0, level=0.01, seed=1)
    times = spans(np.array([0.2, 1.5]), loudness(samples, RATE), 3.0, 0.0)
    np.testing.assert_allclose(times[:, 1], [0.84, 2.14], atol=0.03)


def test_the_onset_of_the_next_word_before_its_time_is_not_of_the_one_before():
    samples = words((0.5, 1.0), (1.95, 2.4))
    times = spans(np.array([0.5, 2.0]), loudness(samples, RATE), 3.0, 0.0)
    assert times[0, 1] == pytest.approx(1.04, abs=0.02)


def test_a_token_that_nobody_hears_is_short():
    times = spans(np.array([0.5, 2.0]), loudness(words((2.0, 2.5)), RATE), 3.0, 0.0)
    np.testing.assert_allclose(times[0], [0.5, 0.6])


@pytest.mark.parametrize("samples", [words(), np.zeros(48000, np.float32)])
@pytest.mark.parametrize("shift", [-5.0, -0.1, 0.0, 5.0])
@pytest.mark.parametrize("seconds", [0.05, 3.0])
def test_times_rise_inside_the_audio_whatever_the_centres(samples, shift, seconds):
    samples = samples[: int(seconds * RATE)]
    centres = np.array([0.0, 0.0, 0.01, 0.01, 2.9, 2.99, 2.99])
    times = spans(centres, loudness(samples, RATE), seconds, shift)
    assert times.min() >= 0
    assert times.max() <= seconds + 1e-9
    assert np.all(times[:, 1] > times[:, 0])
    assert np.all(times[1:, 0] >= times[:-1, 1] - 1e-9)


def test_no_tokens_have_no_times():
    assert spans(np.zeros(0), loudness(words(), RATE), 3.0, 0.0).shape == (0, 2)


@pytest.mark.parametrize("length", [0, 1, 159, 160])
def test_loudness_of_next_to_nothing_is_finite(length):
    power = loudness(np.ones(length, np.float32), RATE)
    assert len(power) == 1
    assert np.isfinite(power).all()
    assert sound_end(power, speech_level(power), 0.5, 0.5) is None
