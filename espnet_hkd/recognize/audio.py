"""Audio as the recogniser wants it: mono, of the model's rate, in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from espnet_hkd.errors import DataError

FRAME_SECONDS = 0.02


def load_audio(audio: Any, sample_rate: int | None, model_rate: int) -> np.ndarray:
    """Read a file or take an array (samples,) or (samples, channels).

    Args:
        audio: A path, or an array of floats in [-1, 1] or of 16-bit integers.
        sample_rate: Of an array, in Hz; a file knows its own.
        model_rate: The rate wanted, in Hz.

    Returns:
        (samples,) float32 of `model_rate`; several channels are averaged.

    Raises:
        DataError: No such file, not audio, an array without its rate, NaN.
    """
    name = "the array"
    if isinstance(audio, str | Path):
        name = str(audio)
        samples, sample_rate = _read(Path(audio))
    else:
        samples = np.asarray(audio)
    if sample_rate is None:
        raise DataError(
            "an array of samples needs its sample rate",
            wanted="recognizer(array, sample_rate=16000)",
        )
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fi":
        raise DataError(
            f"{name} is not audio",
            got=f"{samples.dtype} of shape {samples.shape}",
            wanted="numbers of shape (samples,) or (samples, channels)",
        )
    if samples.dtype.kind == "i":
        samples = samples / float(-np.iinfo(samples.dtype).min)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    samples = samples.astype(np.float32)
    if not np.isfinite(samples).all():
        raise DataError(f"{name} holds values that are not numbers", got="NaN or inf")
    if sample_rate != model_rate and samples.size:
        import soxr

        samples = soxr.resample(samples, sample_rate, model_rate)
    return samples


def _read(path: Path) -> tuple[np.ndarray, int]:
    import soundfile

    if not path.is_file():
        raise DataError(f"there is no audio file {path}")
    try:
        return soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"{path} cannot be read as audio",
            got=str(error),
            wanted="WAV, FLAC, Ogg or another format that libsndfile reads",
            remedy=f"sox {path} -r 16000 -c 1 OUT.wav",
        ) from None


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
    window = max(1, round(0.3 / FRAME_SECONDS))
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
