"""Audio files and their bytes, opened and read block by block."""

from __future__ import annotations

import io
import logging
import os
import shlex
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_hkd.errors import DataError

logger = logging.getLogger(__name__)

BLOCK_SECONDS = 60.0
# Hz. A header beyond is damaged, and resampling from there would take all memory.
RATES = (1000, 1_000_000)
# What programs that write to a pipe declare: they do not know the length yet.
UNKNOWN_SIZES = (0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF - 36)


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
    return isinstance(audio, str | os.PathLike | bytes | bytearray | io.IOBase)


def name_of(audio: Any) -> str:
    """What to call it in a message: printable whatever its encoding."""
    if isinstance(audio, str | os.PathLike):
        return os.fsencode(audio).decode("utf-8", "backslashreplace")
    return "the file object" if isinstance(audio, io.IOBase) else "the bytes"


def check_file(audio: Any) -> None:
    """Check that audio is there and can be opened, without reading it all.

    Raises:
        DataError: It is missing, or libsndfile does not know its format.
    """
    with _open(audio, name_of(audio)):
        pass


def open_source(audio: Any) -> Source:
    """Open a path, bytes, or a file object that can seek.

    Raises:
        DataError: There is no such file, or it is not audio. What is found out while
            it is read is raised, or logged, there.
    """
    name = name_of(audio)
    file = _open(audio, name)
    return Source(name, file.samplerate, _blocks(file, name))


def _open(audio: Any, name: str) -> Any:
    import soundfile

    if isinstance(audio, str | os.PathLike):
        path = Path(audio)
        if not path.is_file():
            raise DataError(
                f"there is no audio file {name}",
                got="a folder" if path.is_dir() else "no such file",
                wanted="an audio file",
                remedy="correct the path",
            )
        given: Any = os.fsencode(path)
        try:
            header = _wave_sizes(path)
            empty = path.stat().st_size == 0
        except OSError as error:
            raise _unreadable(name, error.strerror or str(error)) from error
        if empty:
            raise _unreadable(name, "an empty file")
    else:
        given = io.BytesIO(audio) if isinstance(audio, bytes | bytearray) else audio
        header = None
    if isinstance(given, io.TextIOBase):
        raise _unreadable(name, "a file opened as text")
    try:
        file = soundfile.SoundFile(given)
    # A file object that cannot seek, or holds text, raises what it likes.
    except soundfile.LibsndfileError as error:
        raise _unreadable(name, error.error_string) from None
    except (OSError, TypeError, ValueError) as error:
        raise _unreadable(name, str(error)) from None
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise _unreadable(
            name, f"a header that says {file.samplerate} samples a second"
        )
    _check_length(file, header, name)
    return file


def _check_length(file: Any, header: tuple[int, int] | None, name: str) -> None:
    """Refuse a header of no samples before real ones; say what a torn file lacks."""
    if header is None:
        return
    declared, present = header
    if file.frames == 0 and present > 0:
        raise _unreadable(
            name, f"a header that says no samples, and {present} bytes of them"
        )
    if declared > present and declared not in UNKNOWN_SIZES:
        seconds = file.frames / file.samplerate
        whole = seconds * declared / max(present, 1)
        logger.warning(
            "%s is torn: %.2f s of the %.2f s its header tells of are there and read",
            name,
            seconds,
            whole,
        )


def _wave_sizes(path: Path) -> tuple[int, int] | None:
    """Bytes of samples that a WAV file's header tells of, and those there are."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return None
        while len(chunk := file.read(8)) == 8:
            kind, size = struct.unpack("<4sI", chunk)
            if kind == b"data":
                return size, path.stat().st_size - file.tell()
            # Chunks begin at even places.
            file.seek(size + size % 2, os.SEEK_CUR)
    return None


def _blocks(file: Any, name: str) -> Iterator[np.ndarray]:
    import soundfile

    size = max(1, int(BLOCK_SECONDS * file.samplerate))
    count = 0
    with file:
        while True:
            try:
                block = file.read(size, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                if not count:
                    raise _unreadable(name, str(error)) from None
                block = np.empty((0, file.channels), np.float32)
            count += len(block)
            if len(block):
                yield block
            if len(block) < size:
                break
    # Of a stream without length libsndfile says the largest number.
    if count < file.frames < 2**62:
        logger.warning(
            "%s is torn: %.2f s of the %.2f s its header tells of are there and read",
            name,
            count / file.samplerate,
            file.frames / file.samplerate,
        )


def _unreadable(name: str, got: str) -> DataError:
    return DataError(
        f"{name} cannot be read as audio",
        got=got,
        wanted="WAV, FLAC, Ogg, MP3 or another format that libsndfile reads",
        remedy=f"ffmpeg -i {shlex.quote(name)} -ar 16000 -ac 1 OUT.wav reads nearly "
        "everything else",
    )
