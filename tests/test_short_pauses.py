"""Pauses shortened before the encoder: what is cut, what stays, what is not touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import espnet_hkd
from espnet_hkd.errors import ConfigError
from espnet_hkd.nets.short_pauses import ShortPauses
from tests import small_models

SIZE = 40


def noise(frames: int, level: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Log-mel features of steady noise: each value jumps, none drifts."""
    generator = torch.Generator().manual_seed(seed)
    return level + 0.25 * torch.randn(frames, SIZE, generator=generator)


def speech(frames: int, level: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Features whose bands move, as syllables of 0.2 s do."""
    generator = torch.Generator().manual_seed(seed)
    syllables = torch.randn(frames // 20 + 2, 8, generator=generator)
    bands = syllables.repeat_interleave(20, 0)[:frames].repeat_interleave(5, 1)
    return level + 1.5 * bands + 0.25 * torch.randn(frames, SIZE, generator=generator)


def kept(features: torch.Tensor, **options) -> np.ndarray:
    """Numbers of the frames of one utterance that are kept."""
    layer = ShortPauses(SIZE, **options)
    return np.flatnonzero(
        layer.kept(features[None], torch.tensor([len(features)]))[0].numpy()
    )


@pytest.mark.parametrize("seconds", [2, 10, 120])
@pytest.mark.parametrize("level", [-9.0, -2.0, 1.0])
def test_of_a_pause_a_second_is_left_however_long_and_loud(seconds: int, level: float):
    pause = noise(100 * seconds, level)
    for place, cut in (
        ("before", [pause, speech(200)]),
        ("after", [speech(200), pause]),
        ("within", [speech(100), pause, speech(100, seed=1)]),
    ):
        left = kept(torch.cat(cut))
        # The window may reach into a syllable that happens to move little.
        assert 270 <= len(left) <= 330, place


def test_digital_silence_is_a_pause():
    silence = torch.full((500, SIZE), -12.0)
    left = kept(torch.cat([speech(100), silence, speech(100, seed=1)]))
    assert 270 <= len(left) <= 330


@pytest.mark.parametrize("level", [0.0, -1.5, -6.0])
def test_speech_stays_however_quiet(level: float):
    assert list(kept(speech(1000, level))) == list(range(1000))
    loud_then_quiet = torch.cat([speech(300), speech(300, level, seed=1)])
    assert list(kept(loud_then_quiet)) == list(range(600))


def test_both_ends_of_a_pause_stay_and_its_middle_goes():
    features = torch.cat([speech(100), noise(500), speech(100, seed=1)])
    left = kept(features)
    gone = np.setdiff1d(np.arange(700), left)
    assert list(gone) == list(range(gone[0], gone[-1] + 1))
    assert 140 <= gone[0] <= 165
    assert 535 <= gone[-1] <= 560


def test_pauses_up_to_the_longest_stay():
    features = torch.cat([speech(100), noise(90), speech(100, seed=1)])
    assert len(kept(features)) == 290
    assert len(kept(features, longest=40)) < 260


def test_a_change_of_zero_cuts_nothing_that_moves():
    features = torch.cat([speech(100), noise(500)])
    assert len(kept(features, change=0)) == 600


def test_frames_come_out_in_their_order_and_padding_is_zero():
    features = torch.stack(
        [
            torch.cat([speech(200), noise(400), speech(200, seed=1)]),
            torch.cat([speech(300, seed=2), torch.full((500, SIZE), torch.nan)]),
        ]
    )
    lengths = torch.tensor([800, 300])
    layer = ShortPauses(SIZE)
    short, counts = layer(features, lengths)
    left = kept(features[0])
    assert counts.tolist() == [len(left), 300]
    assert counts.dtype == lengths.dtype
    assert torch.equal(short[0, : len(left)], features[0, left])
    assert torch.equal(short[1, :300], features[1, :300])
    assert not short[1, 300:].any()
    assert short.size(1) == len(left)


def test_batch_mates_padding_and_half_precision_change_nothing():
    utterances = [
        torch.cat([noise(300, seed=i), speech(150 + 10 * i, seed=i), noise(250)])
        for i in range(3)
    ]
    lengths = torch.tensor([len(each) for each in utterances])
    padded = torch.nn.utils.rnn.pad_sequence(
        utterances, batch_first=True, padding_value=7.0
    )
    layer = ShortPauses(SIZE)
    together = layer.kept(padded, lengths)
    for dtype in (torch.float16, torch.bfloat16):
        halved = layer.kept(padded.to(dtype), lengths)
        # At the edges of a pause, where rounding may move a frame over the limit.
        assert (halved != together).sum() <= 6
    for each, length, utterance in zip(together, lengths, utterances, strict=True):
        assert list(np.flatnonzero(each.numpy())) == list(kept(utterance))
        assert not each[length:].any()


def test_gradients_reach_the_frames_that_stay():
    features = torch.cat([speech(100), noise(500)])[None].requires_grad_()
    short, _ = ShortPauses(SIZE)(features, torch.tensor([600]))
    short.sum().backward()
    assert features.grad is not None
    stays = features.grad[0].abs().sum(1) > 0
    assert list(np.flatnonzero(stays.numpy())) == list(kept(features[0].detach()))


@pytest.mark.parametrize("frames", [1, 2, 19, 51])
def test_a_few_frames_stay(frames: int):
    assert list(kept(noise(frames))) == list(range(frames))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"longest": 1}, "longest"),
        ({"longest": 2.5}, "longest"),
        ({"change": -0.1}, "change"),
        ({"input_size": 0}, "input_size"),
        ({"input_size": None}, "input_size is missing"),
        ({"shortest": 3}, "shortest"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict, named: str):
    with pytest.raises(ConfigError, match=named):
        ShortPauses(**{"input_size": SIZE, **options})


def test_another_number_of_features_is_named():
    with pytest.raises(ConfigError, match=r"input_size.*\n.*80\n.*wanted: 40"):
        ShortPauses(80)(speech(100)[None], torch.tensor([100]))


RATE = 16000
PAUSE = 8.0  # seconds


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    exp = small_models.write_experiment(
        tmp_path_factory.mktemp("exp"),
        preencoder="hkd_short_pauses",
        # Of features in the logarithm's own unit, per utterance without their mean.
        preencoder_conf={"input_size": 80, "change": 0.6},
    )
    return espnet_hkd.from_pretrained(exp)


def recording_with_pause() -> np.ndarray:
    """2 s of sound, 8 s of steady noise, 2 s of sound."""
    rng = np.random.default_rng(0)
    return np.concatenate(
        [
            small_models.speech(2.0),
            0.001 * rng.standard_normal(int(PAUSE * RATE)).astype(np.float32),
            small_models.speech(2.0, seed=1),
        ]
    )


def test_times_are_those_of_the_whole_recording(recognizer):
    (transcript,) = recognizer(recording_with_pause(), sample_rate=RATE)
    starts = np.array([token.start for token in transcript.tokens])
    assert (np.diff(starts) > 0).all()
    assert (starts < 2.0).any()
    assert (starts > 2.0 + PAUSE).any()
    # The half second at either end of the pause is all that the model has seen of it.
    assert not ((starts > 2.8) & (starts < 1.3 + PAUSE)).any()


def test_a_picture_has_the_frames_of_the_whole_recording(recognizer):
    samples = recording_with_pause()
    firing = recognizer.firing(samples, sample_rate=RATE)
    frames = len(samples) / RATE / recognizer.frame_seconds
    assert len(firing.weights) == pytest.approx(frames, abs=3)
    assert len(firing.ctc) == len(firing.weights)
    middle = slice(int(3.0 / firing.frame_seconds), int(9.0 / firing.frame_seconds))
    assert not firing.weights[middle].any()
    assert firing.weights.sum() > 1
    ends = firing.ends * firing.frame_seconds
    assert (np.diff(ends) > 0).all()
    assert ends[-1] == pytest.approx(len(samples) / RATE, abs=0.2)


def test_recognizer_encodes_what_espnet_decodes(recognizer):
    samples = recording_with_pause()
    (encoded,) = recognizer._encode([samples], 60.0)
    with torch.no_grad():
        hidden, lengths = recognizer.model.encode(
            torch.from_numpy(samples)[None], torch.tensor([len(samples)])
        )
    assert lengths.tolist() == [len(encoded.hidden)]
    torch.testing.assert_close(hidden[0], encoded.hidden, atol=1e-5, rtol=1e-5)
    assert len(encoded.hidden) * recognizer.frame_seconds < 6.0
    steps = np.diff(encoded.edges)
    (long,) = np.flatnonzero(steps > 1.5 * recognizer.frame_seconds)
    assert steps[long] == pytest.approx(PAUSE - 1.0, abs=0.7)


def test_a_number_of_features_that_the_frontend_has_not_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"input_size.*\n.*40\n.*wanted: 80"):
        small_models.write_experiment(
            tmp_path, preencoder="hkd_short_pauses", preencoder_conf={"input_size": 40}
        )
