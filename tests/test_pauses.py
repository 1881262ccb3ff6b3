"""Pauses in training utterances: where they go, what they hold, who gets them."""

from __future__ import annotations

import numpy as np
import pytest

from espnet_hkd.errors import ConfigError, DataError
from espnet_hkd.speech.pauses import add_pause, find_gaps, make_pause, room_noise

RATE = 16000


def noise(seconds, level, seed=0):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


def utterance():
    """Two loud words of 0.5 s, a gap of 0.4 s between them, in a quiet room."""
    room = noise(2.0, 0.001)
    room[int(0.3 * RATE) : int(0.8 * RATE)] += noise(0.5, 0.1, 1)
    room[int(1.2 * RATE) : int(1.7 * RATE)] += noise(0.5, 0.1, 2)
    return room


def test_gaps_lie_between_words_and_not_around_them():
    ((first, last),) = find_gaps(utterance(), RATE)
    assert first / RATE == pytest.approx(0.8, abs=0.02)
    assert last / RATE == pytest.approx(1.2, abs=0.02)


def test_a_gap_as_short_as_a_stop_consonant_is_none():
    samples = noise(1.0, 0.1)
    samples[int(0.5 * RATE) : int(0.6 * RATE)] *= 0.001
    assert find_gaps(samples, RATE) == []


@pytest.mark.parametrize("length", [0, 1, 200, 30001])
def test_room_noise_is_as_loud_as_the_room_not_as_its_words(length):
    made = room_noise(utterance(), RATE, length, np.random.default_rng(0))
    assert made.shape == (length,)
    if length > 1000:
        assert 0.0007 < made.std() < 0.0012


def test_room_noise_has_the_spectrum_of_the_room():
    hum = 0.01 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)
    samples = (hum + noise(2.0, 0.0003)).astype(np.float32)
    made = room_noise(samples, RATE, RATE, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(made)) ** 2
    assert power[900:1100].sum() > 0.95 * power.sum()
    assert made.std() == pytest.approx(hum.std(), rel=0.2)


def test_the_utterance_stays_whole_around_a_pause_in_all_three_places():
    samples, places = utterance(), set()
    for seed in range(30):
        made = add_pause(samples, RATE, 0.7, np.random.default_rng(seed))
        assert made.dtype == samples.dtype
        assert len(made) == len(samples) + round(0.7 * RATE)
        cut = int(np.argmin(made[: len(samples)] == samples))
        cut = len(samples) if np.array_equal(made[: len(samples)], samples) else cut
        rest = made[cut + round(0.7 * RATE) :]
        np.testing.assert_array_equal(made[:cut], samples[:cut])
        np.testing.assert_array_equal(rest, samples[cut:])
        places.add(round(cut / RATE, 1))
    assert places == {0.0, 1.0, 2.0}


def test_a_pause_is_silent_or_the_room_or_white():
    levels = [
        make_pause(utterance(), RATE, 0.5, np.random.default_rng(seed)).std()
        for seed in range(40)
    ]
    assert sum(level == 0 for level in levels) >= 5
    assert sum(0.0007 < level < 0.0012 for level in levels) >= 5
    assert max(levels) > 0.003
    assert max(levels) < 0.04


def test_white_noise_is_as_loud_as_it_is_asked_to_be():
    levels = [
        make_pause(
            utterance(), RATE, 0.5, np.random.default_rng(seed), noise_db=(-24.0, -20.0)
        ).std()
        for seed in range(40)
    ]
    white = [level for level in levels if level > 0.01]
    assert len(white) >= 5
    assert 0.06 < min(white) < 0.07
    assert 0.09 < max(white) < 0.102


def make(train=True, **options):
    from espnet_hkd.preprocessor import HKDPreprocessor

    return HKDPreprocessor(
        train=train,
        token_type="word",
        token_list=["<blank>", "<unk>", "A", "B", "<sos/eos>"],
        **({"fs": RATE} | options),
    )


def run(preprocessor, speech=None):
    speech = utterance() if speech is None else speech
    return preprocessor("u1", {"speech": speech, "text": "A B"})


def test_training_utterances_get_pauses_within_limits_and_keep_their_text():
    np.random.seed(0)
    preprocessor = make(pause_prob=1.0, pause_seconds=[0.5, 2.0])
    longer = []
    for _ in range(20):
        data = run(preprocessor)
        longer.append(len(data["speech"]) / RATE - 2.0)
        assert data["text"].tolist() == [2, 3]
    assert 0.5 <= min(longer) < 0.8
    assert 1.4 < max(longer) <= 2.0


def test_a_share_of_them_becomes_a_pause_without_words():
    np.random.seed(0)
    preprocessor = make(pause_only_prob=0.5, pause_seconds=[0.5, 1.0])
    whole = alone = 0
    for _ in range(60):
        data = run(preprocessor)
        if len(data["text"]):
            np.testing.assert_array_equal(data["speech"], utterance())
            whole += 1
        else:
            assert 0.5 <= len(data["speech"]) / RATE <= 1.0
            alone += 1
    assert min(whole, alone) > 15


def test_a_pause_without_words_has_the_end_of_sentence_without_teacher(tmp_path):
    from tests.teacher_material import build_words

    build_words(["A B"], tmp_path)
    data = run(make(pause_only_prob=1.0, store=str(tmp_path)))
    assert data["teacher"].shape[0] == 1
    assert data["teacher_mask"].tolist() == [0]


@pytest.mark.parametrize("option", ["pause_prob", "pause_only_prob"])
def test_the_level_of_the_noise_is_an_option(option):
    np.random.seed(0)
    options = {"pause_noise_db": [-20.0, -20.0], "pause_seconds": [0.5, 0.5]}
    preprocessor = make(**{option: 1.0}, **options)
    loudest = max(
        run(preprocessor, noise(1.0, 0.001))["speech"].std() for _ in range(20)
    )
    assert loudest > 0.05


@pytest.mark.parametrize("options", [{"train": False, "pause_prob": 1.0}, {}])
def test_validation_and_the_default_have_no_pauses(options):
    np.testing.assert_array_equal(run(make(**options))["speech"], utterance())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"pause_prob": 1.5}, "pause_prob"),
        ({"pause_only_prob": "0.1"}, "pause_only_prob"),
        ({"pause_seconds": 2.0}, "pause_seconds"),
        ({"pause_seconds": [2.0, 0.5]}, "pause_seconds"),
        ({"pause_seconds": [0.0, 0.5]}, "pause_seconds"),
        ({"pause_noise_db": -30}, "pause_noise_db"),
        ({"pause_noise_db": [-30, -75]}, "pause_noise_db"),
        ({"pause_noise_db": [-30, 3]}, "pause_noise_db"),
        ({"pause_prob": 0.6, "pause_only_prob": 0.6}, "pause_only_prob"),
        ({"pause_prob": 0.5, "fs": 0}, "rate"),
    ],
)
def test_options_that_cannot_be_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        make(**options)


def test_several_channels_are_refused_by_name():
    speech = np.stack([utterance(), utterance()], axis=1)
    with pytest.raises(DataError, match="u1"):
        run(make(pause_prob=1.0), speech)
