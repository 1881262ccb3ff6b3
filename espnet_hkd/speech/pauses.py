"""Put pauses into recordings, so that a model learns that they hold no tokens.

Samples are (samples,) floats in [-1, 1]; a gap is (first, last + 1) sample.
"""

from __future__ import annotations

import numpy as np

KINDS = ("zeros", "room", "white")
# Of white noise, dB of full scale: from where 16 bits round to nothing to a noise as
# loud as speech.
NOISE_DB = (-75.0, -30.0)
FRAME_SECONDS = 0.01
# A stop consonant is silent for up to 0.1 s inside a word.
SHORTEST_GAP = 0.15


def add_pause(
    samples: np.ndarray,
    rate: int,
    seconds: float,
    rng: np.random.Generator,
    *,
    noise_db: tuple[float, float] = NOISE_DB,
) -> np.ndarray:
    """Put a pause before, after or within an utterance; where and which is drawn.

    Within means in the middle of one of its gaps (`find_gaps`).

    Args:
        samples: (samples,).
        rate: In Hz.
        seconds: Length of the pause.
        rng: Draws the place, the kind (digital zeros, the recording's own room noise,
            or white noise) and the noise.
        noise_db: White noise's least and greatest level, in dB of full scale.

    Returns:
        (samples + seconds * rate,) in the dtype of `samples`.
    """
    gaps = find_gaps(samples, rate)
    places = ["before", "after", "within"] if gaps else ["before", "after"]
    place = rng.choice(places)
    if place == "within":
        first, last = gaps[rng.integers(len(gaps))]
        cut = (first + last) // 2
    else:
        cut = 0 if place == "before" else len(samples)
    pause = make_pause(samples, rate, seconds, rng, noise_db=noise_db)
    return np.concatenate([samples[:cut], pause, samples[cut:]])


def make_pause(
    samples: np.ndarray,
    rate: int,
    seconds: float,
    rng: np.random.Generator,
    *,
    noise_db: tuple[float, float] = NOISE_DB,
) -> np.ndarray:
    """A pause of one of the KINDS for a recording, in the dtype of `samples`."""
    length = round(seconds * rate)
    kind = rng.choice(KINDS)
    if kind == "room":
        pause = room_noise(samples, rate, length, rng)
    elif kind == "white":
        level = 10 ** (rng.uniform(*noise_db) / 20)
        pause = level * rng.standard_normal(length)
    else:
        pause = np.zeros(length)
    return pause.astype(samples.dtype)


def room_noise(
    samples: np.ndarray, rate: int, length: int, rng: np.random.Generator
) -> np.ndarray:
    """Noise (length,) with the spectrum of the quietest tenth of a recording."""
    size = max(2, round(0.025 * rate))
    if length == 0 or len(samples) < size:
        return np.zeros(length)
    hop = size // 2
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]
    window = np.hanning(size)
    power = np.abs(np.fft.rfft(frames * window)) ** 2 / (window**2).sum()
    loudness = power.sum(axis=1)
    quiet = np.argsort(loudness)[: max(1, len(frames) // 10)]
    spectrum = power[quiet].mean(axis=0)
    bins = np.linspace(0, len(spectrum) - 1, length // 2 + 1)
    fine = np.interp(bins, np.arange(len(spectrum)), spectrum)
    random = rng.standard_normal((2, len(fine)))
    return np.fft.irfft(
        np.sqrt(fine * length / 2) * (random[0] + 1j * random[1]), length
    )


def find_gaps(samples: np.ndarray, rate: int) -> list[tuple[int, int]]:
    """Stretches between the first and the last sound that are as quiet as the room.

    Quiet is what is less than 6 dB over the quietest tenth of the recording, or 40 dB
    under its loudest frame; shorter ones than SHORTEST_GAP are left out.
    """
    size = max(1, round(FRAME_SECONDS * rate))
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    if not len(frames):
        return []
    loudness = np.sqrt((frames.astype(np.float64) ** 2).mean(axis=1))
    limit = max(2 * np.quantile(loudness, 0.1), 0.01 * loudness.max())
    loud = np.flatnonzero(loudness > limit)
    lengths = np.diff(loud) - 1
    return [
        (int(loud[i] + 1) * size, int(loud[i + 1]) * size)
        for i in np.flatnonzero(lengths >= SHORTEST_GAP / FRAME_SECONDS)
    ]
