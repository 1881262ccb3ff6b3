"""How loud a recording is over time, and where it is loud no more."""

from __future__ import annotations

import numpy as np

STEP = 0.01  # seconds
# Speech is over where the power has fallen by so much from the loud parts,
BELOW_SPEECH = 30.0  # dB
# or is no more than so much over the quiet ones.
ABOVE_ROOM = 14.0  # dB
# A word with what follows it that is longer than this holds a pause, which may be
# louder than the rest of the recording's. There it is over, too, where the power is no
# more than so much over a quantile of the whole: this, or in a long pause nearly all
# that LONG leaves to it. The quantiles, LONG and GAP by train_dev of AN4 with pauses.
LONG = 0.75  # seconds
ABOVE_PAUSE = 6.0  # dB
PAUSE_QUANTILE = 0.4
SHARE_OF_PAUSE = 0.95
# No speech keeps its power within so much for so long: such a sound is no word, however
# loud. What the first moments of a word do says nothing. Of 1,378 words of AN4 and
# ARCTIC, by an aligner's starts, this ends one otherwise.
STEADY = 4.0  # dB
STEADY_SECONDS = 0.4
NEVER_STEADY = 0.1  # seconds
# A silence so long ends a word: what is heard behind it, a breath or the room, is not
# of it. The closure of a plosive is shorter.
GAP = 0.25  # seconds
# What the power's fall leaves out of a word; by train_dev of AN4.
RELEASE = 0.03  # seconds
# A sound so short after a silence so long is the next word, which begins a bit early.
ONSET = 0.1  # seconds
NOTHING = 1e-10


def loudness(samples: np.ndarray, rate: int) -> np.ndarray:
    """Power of each STEP of a recording (samples,), as a mean over three."""
    size = max(1, round(STEP * rate))
    whole = len(samples) // size * size
    power = (samples[:whole].astype(np.float64).reshape(-1, size) ** 2).mean(axis=1)
    if not len(power):
        return np.full(1, NOTHING)
    around = np.pad(power, 1, mode="edge")
    return (around[:-2] + around[1:-1] + around[2:]) / 3 + NOTHING


def speech_level(power: np.ndarray) -> float:
    """Power above which a recording is no pause, of what `loudness` gives of it."""
    room, speech = np.quantile(power, [0.1, 0.95])
    return max(room * _ratio(ABOVE_ROOM), speech / _ratio(BELOW_SPEECH))


def sound_end(
    power: np.ndarray, level: float, start: float, limit: float
) -> float | None:
    """Where the sound that begins between two times ends, in seconds.

    It ends at its first silence of GAP, or where what is heard grows steady.

    Args:
        power: What `loudness` gives of the whole recording or piece.
        level: What `speech_level` gives of that.
        start: Seconds, where a word begins.
        limit: Seconds, where the next begins, or the recording ends.

    Returns:
        Seconds, at most `limit`; None where all between is as quiet as a pause.
    """
    first, last = round(start / STEP), round(limit / STEP)
    part = power[first:last]
    if not len(part):
        return None
    part = part[: _steady(part)]
    if len(part) * STEP > LONG:
        left = SHARE_OF_PAUSE * (1 - LONG / (len(part) * STEP))
        pause = np.quantile(part, max(PAUSE_QUANTILE, left))
        level = max(level, pause * _ratio(ABOVE_PAUSE))
    loud = np.flatnonzero(part > level)
    after_silence = np.flatnonzero(np.diff(loud, prepend=-1) > ONSET / STEP)
    if len(after_silence):
        onset = after_silence[-1]
        if len(part) - loud[onset] <= ONSET / STEP:
            loud = loud[:onset]
    if not len(loud):
        return None
    loud = loud[: 1 + np.argmax(np.diff(loud, append=np.inf) > GAP / STEP)]
    return min((first + int(loud[-1]) + 1) * STEP + RELEASE, limit)


def _steady(part: np.ndarray) -> int | None:
    """The step at which the power (steps,) grows steady; None if it never does."""
    skipped, size = round(NEVER_STEADY / STEP), round(STEADY_SECONDS / STEP)
    if len(part) < skipped + size:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(part[skipped:], size)
    steady = windows.max(axis=1) <= windows.min(axis=1) * _ratio(STEADY)
    return skipped + int(np.argmax(steady)) if steady.any() else None


def _ratio(decibels: float) -> float:
    return 10 ** (decibels / 10)
