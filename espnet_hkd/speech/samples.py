"""Samples of any type and scale as mono float32 of about one at most."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from espnet_hkd.errors import DataError

logger = logging.getLogger(__name__)

# Floats may pass 1.0, as those of lossy formats do; 18 dB beyond it they are counted
# as 16-bit integers are.
LOUDEST_FLOAT = 8.0
INTEGER_BITS = (16, 24, 32)
# Two channels whose mean has less than this share of the louder one's power cancel.
CANCELLED = 1e-3


def as_array(audio: Any) -> np.ndarray:
    """An array (samples,) or (samples, channels) of floats or integers.

    Raises:
        DataError: It is none.
    """
    try:
        samples = np.asarray(audio)
    # A tensor of bfloat16 or on a GPU; lists of different lengths.
    except (TypeError, ValueError) as error:
        raise DataError(
            "what was given cannot be made an array",
            got=f"{type(audio).__name__}: {error}",
            wanted="a path, or a numpy array or a tensor on the CPU",
            remedy="for a tensor: tensor.float().cpu().numpy()",
        ) from error
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fi":
        remedy = "give a path, an audio file's bytes, or samples; several as a list"
        if samples.dtype.kind == "u":
            remedy = "an audio file's bytes: array.tobytes(); unsigned samples of 8 "
            remedy += "bits: (array - 128.0) / 128"
        raise DataError(
            "the array is not audio",
            got=f"{samples.dtype} of shape {samples.shape}",
            wanted="floats in [-1, 1] or signed integers, of shape (samples,) or "
            "(samples, channels)",
            remedy=remedy,
        )
    if samples.ndim == 2 and 0 < samples.shape[0] < samples.shape[1]:
        raise DataError(
            "the array has more channels than samples",
            got=f"shape {samples.shape}",
            wanted="shape (samples, channels)",
            remedy="give array.T",
        )
    return samples


def scale_of(samples: np.ndarray, name: str) -> float:
    """What stands for one in these samples.

    Integers of 8 and 16 bits have their type's scale. Wider ones are what was read
    from files of 16, 24 or 32 bits, by the narrowest that holds them all: at a wider
    scale they would be silence. Floats far beyond one have the 16 bits' scale.

    Raises:
        DataError: Values that no scale explains, NaN and infinities among them.
    """
    peak = _peak(samples, name)
    if samples.dtype.kind == "i":
        width = 8 * samples.dtype.itemsize
        if width <= 16:
            return 2.0 ** (width - 1)
        scales = [2.0 ** (bits - 1) for bits in INTEGER_BITS]
    elif peak <= LOUDEST_FLOAT:
        return 1.0
    else:
        # Some louder than the scale, as above.
        scales = [LOUDEST_FLOAT * 2.0**15]
    for scale in scales:
        if peak <= scale:
            return 2.0**15 if samples.dtype.kind == "f" else scale
    raise DataError(
        f"{name} is of no scale that audio has",
        got=f"{samples.dtype} of up to {peak:.3g}",
        wanted="floats in [-1, 1], or integers of 16, 24 or 32 bits",
        remedy="divide it by what stands for full scale",
    )


def as_mono(samples: np.ndarray, scale: float, name: str) -> np.ndarray:
    """(samples,) float32 of samples (samples,) or (samples, channels).

    Channels are averaged. Where they would cancel each other, one of them being
    turned over, the louder one is taken.
    """
    samples = samples.astype(np.float32) / np.float32(scale)
    if samples.ndim == 1:
        return samples
    if samples.shape[1] == 1:
        return samples[:, 0]
    mean = samples.mean(axis=1)
    if not len(mean):
        return mean
    power = np.square(samples, dtype=np.float64).mean(axis=0)
    if np.square(mean, dtype=np.float64).mean() < CANCELLED * power.max():
        logger.warning(
            "%s: its channels cancel each other: the louder one is taken", name
        )
        return samples[:, int(power.argmax())]
    return mean


def _peak(samples: np.ndarray, name: str) -> float:
    if not samples.size:
        return 0.0
    high, low = float(samples.max()), float(samples.min())
    peak = max(high, -low)
    # NaN compares false.
    if not peak < float("inf"):
        raise DataError(
            f"{name} holds values that are not numbers",
            got="NaN or inf",
            wanted="finite samples, floats in [-1, 1] or signed integers",
            remedy="look at what made it; np.nan_to_num turns them into silence",
        )
    return peak
