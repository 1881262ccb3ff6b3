"""Audio as the recogniser wants it: mono, of the model's rate, in pieces."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from espnet_hkd.checks import is_number
from espnet_hkd.errors import DataError

FRAME_SECONDS = 0.02
# Hz; resampling from far beyond would take all memory.
RATES = (1000, 1_000_000)
# Floats that nobody has scaled are as large as integers; their squares still fit.
LOUDEST = 2.0**31


def load_audio(audio: Any, sample_rate: Any, model_rate: int) -> np.ndarray:
    """Read a file or take an array (samples,) or (samples, channels).

    Args:
        audio: A path, or an array of floats in [-1, 1] or of signed integers.
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
        check_file(Path(audio))
        samples, sample_rate = _read(Path(audio))
    else:
        samples = _as_array(audio)
        _check_rate(sample_rate)
    if samples.dtype.kind == "i":
        samples = samples / float(-np.iinfo(samples.dtype).min)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    # What is beyond float32 becomes infinite and is refused below.
    with np.errstate(over="ignore"):
        samples = samples.astype(np.float32)
    if not np.isfinite(samples).all():
        raise DataError(
            f"{name} holds values that are not numbers",
            got="NaN or inf",
            wanted="finite samples, floats in [-1, 1] or signed integers",
            remedy="look at what made it; np.nan_to_num turns them into silence",
        )
    loudest = np.abs(samples).max(initial=0.0)
    if loudest > LOUDEST:
        raise DataError(
            f"{name} holds values that no audio has",
            got=f"{loudest:.3g}",
            wanted="floats in [-1, 1] or signed integers",
            remedy="look at what made it, or scale it",
        )
    if sample_rate != model_rate and samples.size:
        import soxr

        samples = soxr.resample(samples, sample_rate, model_rate)
    return samples


def check_file(path: Path) -> None:
    """Check that an audio file is there and open it, without reading it all.

    Raises:
        DataError: It is missing, or libsndfile does not know its format.
    """
    import soundfile

    if not path.is_file():
        raise DataError(
            f"there is no audio file {path}",
            got="a folder" if path.is_dir() else "no such file",
            wanted="an audio file",
            remedy="correct the path",
        )
    try:
        soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error) from None


def _read(path: Path) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        return soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as audio",
        got=str(error),
        wanted="WAV, FLAC, Ogg or another format that libsndfile reads",
        remedy=f"sox {shlex.quote(str(path))} -r 16000 -c 1 OUT.wav",
    )


def _as_array(audio: Any) -> np.ndarray:
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
        raise DataError(
            "the array is not audio",
            got=f"{samples.dtype} of shape {samples.shape}",
            wanted="floats in [-1, 1] or signed integers, of shape (samples,) or "
            "(samples, channels)",
            remedy="convert it; unsigned bytes, for example, by (array - 128.0) / 128",
        )
    if samples.ndim == 2 and 0 < samples.shape[0] < samples.shape[1]:
        raise DataError(
            "the array has more channels than samples",
            got=f"shape {samples.shape}",
            wanted="shape (samples, channels)",
            remedy="give array.T",
        )
    return samples


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
