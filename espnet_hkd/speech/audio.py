"""Audio as the recogniser wants it: mono, of the model's rate, in pieces."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from espnet_hkd.checks import is_number
from espnet_hkd.errors import DataError
from espnet_hkd.speech.samples import as_array, as_mono, scale_of
from espnet_hkd.speech.sources import (
    RATES,
    check_file,
    is_file,
    name_of,
    open_source,
)

__all__ = [
    "Piece",
    "check_file",
    "cut_at_silences",
    "is_file",
    "load_audio",
    "name_of",
    "narrow_band",
    "read_pieces",
]

logger = logging.getLogger(__name__)

FRAME_SECONDS = 0.02
WINDOW_SECONDS = 0.3

# Rates of recordings and models that have been told of: a folder has many of a kind.
_told: set[tuple[float, int]] = set()


class Piece(NamedTuple):
    """A stretch of a recording.

    Attributes:
        first: Its first sample's place in the recording.
        samples: (samples,) float32.
    """

    first: int
    samples: np.ndarray


def load_audio(audio: Any, sample_rate: Any, model_rate: int) -> np.ndarray:
    """Read a file or take an array (samples,) or (samples, channels).

    Args:
        audio: A path, the bytes of an audio file, a file object, or an array of
            floats in [-1, 1] or of signed integers.
        sample_rate: Of an array, in Hz; a file knows its own.
        model_rate: The rate wanted, in Hz.

    Returns:
        (samples,) float32 of `model_rate`; several channels are averaged.

    Raises:
        DataError: No such file, not audio, an array without its rate, NaN.
    """
    blocks = list(_read(audio, sample_rate, model_rate))
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def read_pieces(
    audio: Any, sample_rate: Any, model_rate: int, longest: float
) -> Iterator[Piece]:
    """Read audio, cut where it is quietest into pieces of at most `longest` seconds.

    The same pieces as `cut_at_silences`, but of a file no more than a minute or two
    are in memory at once. There is always one piece, be it empty.

    Args:
        audio: As for `load_audio`.
        sample_rate: As for `load_audio`.
        model_rate: The rate wanted, in Hz.
        longest: In seconds.

    Raises:
        DataError: As for `load_audio`, also after some pieces.
    """
    most = int((longest + WINDOW_SECONDS + FRAME_SECONDS) * model_rate)
    rest = np.empty(0, np.float32)
    first = 0
    for block in _read(audio, sample_rate, model_rate):
        rest = np.concatenate([rest, block])
        # So much that what is still to come moves no cut.
        while len(rest) > most:
            _, last = cut_at_silences(rest, model_rate, longest)[0]
            yield Piece(first, rest[:last])
            rest, first = rest[last:], first + last
    for begin, end in cut_at_silences(rest, model_rate, longest):
        yield Piece(first + begin, rest[begin:end])


def _read(audio: Any, sample_rate: Any, model_rate: int) -> Iterator[np.ndarray]:
    """Blocks of mono samples of the model's rate."""
    blocks: Iterable[np.ndarray]
    if is_file(audio):
        name, rate, blocks = open_source(audio)
    else:
        name, rate, blocks = "the array", sample_rate, [as_array(audio)]
        _check_rate(rate)
    if (rate, model_rate) not in _told and (said := narrow_band(rate, model_rate)):
        _told.add((rate, model_rate))
        logger.warning("%s: %s", name, said)
    mono = _mono(blocks, name)
    return mono if rate == model_rate else _resample(mono, rate, model_rate)


def narrow_band(rate: float, model_rate: int) -> str:
    """A sentence on a recording of a lower rate than the model's, in Hz; else empty."""
    if rate >= model_rate:
        return ""
    return (
        f"The recording has {rate:g} samples a second, the model's have {model_rate}: "
        f"all above {rate / 2000:g} kHz is missing, so that more words may be wrong."
    )


def _mono(blocks: Iterable[np.ndarray], name: str) -> Iterator[np.ndarray]:
    scale = 0.0
    for block in blocks:
        # A recording of 16-bit scale may begin in silence.
        scale = max(scale, scale_of(block, name))
        yield as_mono(block, scale, name)


def _resample(
    blocks: Iterator[np.ndarray], rate: float, model_rate: int
) -> Iterator[np.ndarray]:
    import soxr

    stream = soxr.ResampleStream(rate, model_rate, 1, dtype="float32")
    before = next(blocks, None)
    for block in blocks:
        assert before is not None
        yield stream.resample_chunk(before)
        before = block
    if before is not None and len(before):
        yield stream.resample_chunk(before, last=True)


def _check_rate(rate: Any) -> None:
    if not is_number(rate) or not RATES[0] <= rate <= RATES[1]:
        raise DataError(
            "an array of samples needs its sample rate",
            got=f"sample_rate {rate!r}",
            wanted=f"a number of Hz from {RATES[0]} to {RATES[1]}",
            remedy="recognizer(array, sample_rate=16000)",
        )


def cut_at_silences(
    samples: np.ndarray, rate: int, longest: float
) -> list[tuple[int, int]]:
    """Cut audio into pieces of at most `longest` seconds, where it is quietest.

    Every cut lies in the second half of the longest piece that is allowed, in the
    middle of the quietest 0.3 s there.

    Args:
        samples: (samples,).
        rate: In Hz.
        longest: In seconds.

    Returns:
        (first, last + 1) sample of each piece; together they cover everything.
    """
    if len(samples) <= longest * rate:
        return [(0, len(samples))]
    frame = max(1, int(FRAME_SECONDS * rate))
    usable = len(samples) // frame * frame
    energy = (samples[:usable].reshape(-1, frame).astype(np.float64) ** 2).mean(axis=1)
    window = max(1, round(WINDOW_SECONDS / FRAME_SECONDS))
    smooth = np.convolve(energy, np.ones(window) / window, mode="same")
    most = max(2, int(longest * rate) // frame)
    pieces = []
    start = 0
    while len(samples) - start * frame > most * frame:
        first = start + most // 2
        cut = first + int(np.argmin(smooth[first : start + most]))
        pieces.append((start * frame, cut * frame))
        start = cut
    pieces.append((start * frame, len(samples)))
    return pieces
