"""Audio files and their bytes, opened and read block by block."""

from __future__ import annotations

import io
import logging
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_hkd.errors import DataError
from espnet_hkd.speech.torn import Extent, measure

logger = logging.getLogger(__name__)

BLOCK_SECONDS = 60.0
# Hz. A header beyond is damaged, and resampling from there would take all memory.
RATES = (1000, 1_000_000)
# A recording that lacks less than that is whole.
LEAST_LOSS = 0.01  # seconds


class Source(NamedTuple):
    """Audio that is not in memory yet.

    Attributes:
        name: For messages.
        rate: In Hz.
        blocks: (samples, channels) float32, one after the other.
    """

    name: str
    rate: int
    blocks: Iterator[np.ndarray]


def is_file(audio: Any) -> bool:
    """Whether this is a path, or an audio file's bytes, not samples."""
    if isinstance(audio, str | os.PathLike | bytes | bytearray):
        return True
    # Not all are of `io`: those of `tempfile` are not.
    return hasattr(audio, "read")


def name_of(audio: Any) -> str:
    """What to call it in a message: printable whatever its encoding."""
    if _is_path(audio):
        return os.fsencode(audio).decode("utf-8", "backslashreplace")
    return "the bytes" if isinstance(audio, bytes | bytearray) else "the file object"


def check_file(audio: Any) -> None:
    """Check that audio is there and can be opened, without reading it all.

    Raises:
        DataError: It is missing, or libsndfile does not know its format.
    """
    file, _ = _open(audio, name_of(audio))
    file.close()


def open_source(audio: Any) -> Source:
    """Open a path, bytes, or a file object that can seek.

    Raises:
        DataError: There is no such file, or it is not audio. What is found out while
            it is read is raised, or logged, there.
    """
    name = name_of(audio)
    file, extent = _open(audio, name)
    blocks = _blocks(file, name, extent, _conversion(audio))
    return Source(name, file.samplerate, blocks)


def _open(audio: Any, name: str) -> tuple[Any, Extent | None]:
    import soundfile

    remedy = _conversion(audio)
    look = _look_at_path if _is_path(audio) else _look_at
    given, extent = look(audio, name)
    try:
        file = soundfile.SoundFile(given)
    # A file object raises what it likes.
    except soundfile.LibsndfileError as error:
        got = error.error_string
        # The file was found above: so libsndfile calls what is named MP3 and is none.
        if got.startswith("File does not exist"):
            got = "nothing that is audio of the kind its name says"
        raise _unreadable(name, got, remedy) from None
    except (OSError, TypeError, ValueError) as error:
        raise _unreadable(name, str(error), remedy) from None
    if not RATES[0] <= file.samplerate <= RATES[1]:
        got = f"a header that says {file.samplerate} samples a second"
        raise _unreadable(name, got, remedy)
    if extent is not None and file.frames == 0 and extent.present > 0:
        got = f"a header that says no samples, and {extent.present} bytes of them"
        raise _unreadable(name, got, remedy)
    return file, extent


def _look_at_path(audio: str | os.PathLike, name: str) -> tuple[Any, Extent | None]:
    """What libsndfile opens, and what the header of the file there tells of."""
    path = Path(audio)
    if not path.is_file():
        got, remedy = "no such file", "correct the path"
        if path.is_dir():
            got = "a folder"
        elif path.exists():
            got = "a pipe or a device, in which one cannot go back"
            remedy = "write it to a file first"
        raise DataError(
            f"there is no audio file {name}",
            got=got,
            wanted="an audio file",
            remedy=remedy,
        )
    try:
        if path.stat().st_size == 0:
            raise _unreadable(name, "an empty file", _conversion(audio))
        with path.open("rb") as file:
            return os.fsencode(path), measure(file)
    except OSError as error:
        got = error.strerror or str(error)
        raise _unreadable(name, got, _conversion(audio)) from error


def _look_at(audio: Any, name: str) -> tuple[Any, Extent | None]:
    """The same of an audio file's bytes or a file object."""
    given = io.BytesIO(audio) if isinstance(audio, bytes | bytearray) else audio
    try:
        first = given.read(1)
        if not isinstance(first, bytes):
            remedy = 'open it with mode "rb"'
            raise _unreadable(name, "a file opened as text", remedy)
        if not first:
            remedy = "call its seek(0) before, if something was written to it"
            raise _unreadable(name, "nothing: empty, or at its end", remedy)
        given.seek(-1, os.SEEK_CUR)
        return given, measure(given)
    # Closed, or it cannot seek.
    except (AttributeError, OSError, TypeError, ValueError) as error:
        remedy = "give its path, or what its read() returns"
        raise _unreadable(name, str(error), remedy) from None


def _blocks(
    file: Any, name: str, extent: Extent | None, remedy: str
) -> Iterator[np.ndarray]:
    import soundfile

    size = max(1, int(BLOCK_SECONDS * file.samplerate))
    count = 0
    with file:
        while True:
            block = np.empty((size, file.channels), np.float32)
            try:
                block = file.read(out=block)
            except soundfile.LibsndfileError as error:
                # What came before the place that cannot be read is there.
                block = block[: file.tell() - count]
                if not count + len(block):
                    raise _unreadable(name, error.error_string, remedy) from None
            count += len(block)
            if len(block):
                yield block
            if len(block) < size:
                break
        _tell_of_loss(name, file, count, extent)


def _tell_of_loss(name: str, file: Any, count: int, extent: Extent | None) -> None:
    """Say what a torn recording lacks, and how much of it was read."""
    seconds = count / file.samplerate
    whole = seconds
    # Of a stream without length libsndfile says the largest number.
    if count < file.frames < 2**62:
        whole = file.frames / file.samplerate
    elif extent is not None and extent.declared is None:
        logger.warning("%s: its end is missing, %.2f s were read", name, seconds)
    elif extent is not None and extent.declared and extent.present > 0:
        whole = seconds * extent.declared / extent.present
    if whole - seconds >= LEAST_LOSS:
        logger.warning(
            "%s: its end is missing, %.2f s of the %.2f s its header tells of were "
            "read",
            name,
            seconds,
            whole,
        )


def _conversion(audio: Any) -> str:
    name = shlex.quote(name_of(audio)) if _is_path(audio) else "FILE"
    return f"ffmpeg -i {name} -ar 16000 -ac 1 OUT.wav reads nearly everything else"


def _is_path(audio: Any) -> bool:
    return isinstance(audio, str | os.PathLike)


def _unreadable(name: str, got: str, remedy: str) -> DataError:
    return DataError(
        f"{name} cannot be read as audio",
        got=got,
        wanted="WAV, FLAC, Ogg, MP3 or another format that libsndfile reads",
        remedy=remedy,
    )
