"""From where tokens have their mass to where they begin and end, in seconds.

Letters: T encoder frames, U tokens, end-of-sentence excluded.
"""

from __future__ import annotations

import numpy as np

from espnet_hkd.speech.loudness import STEP, sound_end, speech_level

# A token of which nothing is heard gets so much, if the next leaves it.
UNHEARD = 0.1  # seconds


def mass_centres(weights: np.ndarray, tokens: int) -> np.ndarray:
    """Where each token's mass is half complete, in frames.

    That is the most certain point of a token: its mass begins and ends slowly, and what
    a pause before it carries is the first to be counted.

    Args:
        weights: (T,), 0 or more.
        tokens: U.

    Returns:
        (U,), increasing; the weights are taken to sum to U + 1, end-of-sentence last.
    """
    sums = np.concatenate([[0.0], np.cumsum(weights, dtype=np.float64)])
    if sums[-1] <= 0:
        return (np.arange(tokens) + 0.5) * len(weights) / (tokens + 1)
    wanted = (np.arange(tokens) + 0.5) * sums[-1] / (tokens + 1)
    frame = np.searchsorted(sums, wanted, side="right") - 1
    frame = frame.clip(0, len(weights) - 1)
    # A frame that carries nothing is never the one that a centre lies in.
    return frame + (wanted - sums[frame]) / weights[frame]


def spans(
    centres: np.ndarray, power: np.ndarray, seconds: float, shift: float
) -> np.ndarray:
    """Begin and end of each token, in seconds.

    A token begins `shift` after its centre and ends with its sound, or where the next
    one begins: silence belongs to nobody.

    Args:
        centres: (U,) seconds, of their mass or of CTC's spikes, not decreasing.
        power: What `espnet_hkd.speech.loudness.loudness` gives of the same audio.
        seconds: Duration of the audio.
        shift: Seconds, fitted to aligned speech; negative where centres are late.

    Returns:
        (U, 2): increasing, inside the audio, none of zero length, none overlapping.
    """
    tokens = len(centres)
    if not tokens:
        return np.zeros((0, 2))
    # Where tokens crowd, each still gets a stretch of its own.
    least = min(STEP, seconds / (tokens + 1))
    number = np.arange(tokens)
    starts = np.maximum(centres + shift, 0.0)
    starts = np.maximum.accumulate(starts - number * least) + number * least
    starts = np.minimum(starts, seconds - (tokens - number) * least)
    limits = np.append(starts[1:], seconds)
    level = speech_level(power)
    ends = []
    for start, limit in zip(starts, limits, strict=True):
        end = sound_end(power, level, start, limit)
        if end is None:
            end = min(start + UNHEARD, limit)
        ends.append(min(max(end, start + least), limit))
    return np.stack([starts, np.array(ends)], axis=1)
