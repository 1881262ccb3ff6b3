"""How much audio a file's header tells of, and how much is there.

libsndfile tells what is there only: a recording that lost its end would be read without
a word, and one whose header was never finished as an empty one.
"""

from __future__ import annotations

import os
import re
import struct
from typing import BinaryIO, NamedTuple

# Programs that write to a pipe do not know the length yet and declare about this or
# more (sox and espeak-ng this, ffmpeg 2 ** 32 - 1). Recordings so long have RF64.
UNKNOWN = 0x7FFFF000
# No page of an Ogg stream is longer; its flags say whether it is the last.
OGG_PAGE = 65307
OGG_LAST = 4


class Chunks(NamedTuple):
    """How a format keeps its chunks, each behind a head of its name and its size.

    Attributes:
        head: As `struct` reads it.
        wanted: Name of the chunk with the samples.
        before: Bytes of that chunk before its first sample.
        places: Chunks begin at multiples of so many bytes.
        with_head: Whether a size counts the head, too.
    """

    head: str
    wanted: bytes
    before: int = 0
    places: int = 2
    with_head: bool = False


WAVE = Chunks("<4sI", b"data")
WAVE_BIG_ENDIAN = Chunks(">4sI", b"data")
AIFF = Chunks(">4sI", b"SSND", before=8)
# Sony Wave64, whose names are 16 bytes long; behind their first four all end alike.
W64_NAME = bytes.fromhex("f3acd3118cd100c04f8edb8a")
W64 = Chunks("<16sQ", b"data" + W64_NAME, places=8, with_head=True)


class Extent(NamedTuple):
    """Bytes of samples.

    Attributes:
        declared: By the header; None: more than there are, nothing says how many.
        present: In the file.
    """

    declared: int | None
    present: int


def measure(file: BinaryIO) -> Extent | None:
    """Look at an open file from its place on, and come back to it.

    WAV, RF64, W64, AIFF, AU, NIST SPHERE and Ogg are looked into.

    Returns:
        None where the format, or what is declared, does not say.

    Raises:
        OSError, ValueError: It cannot be read or cannot seek.
    """
    start = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(start)
    found = _declared(file, file.read(12), start, end)
    if found is not None and found[0] is not None and found[0] >= UNKNOWN:
        found = None
    file.seek(start)
    return None if found is None else Extent(found[0], end - found[1])


def _declared(
    file: BinaryIO, head: bytes, start: int, end: int
) -> tuple[int | None, int] | None:
    """Bytes of samples by the header, and the place where they begin."""
    kind = head[:4]
    if kind in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE":
        return _in_chunks(file, WAVE_BIG_ENDIAN if kind == b"RIFX" else WAVE)
    if kind == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _in_chunks(file, AIFF)
    if kind == b"riff":
        # Behind two names and the length of the whole.
        file.seek(start + 40)
        return _in_chunks(file, W64)
    if kind == b".snd" and len(head) == 12:
        offset, size = struct.unpack(">II", head[4:])
        return size, start + offset
    if head[:8] == b"NIST_1A\n":
        return _in_sphere(head + file.read(1012), start)
    if kind == b"OggS":
        file.seek(max(start, end - OGG_PAGE))
        pages = file.read()
        flags = pages[pages.rfind(b"OggS") + 5 :][:1]
        if flags and not flags[0] & OGG_LAST:
            return None, start
    return None


def _in_chunks(file: BinaryIO, chunks: Chunks) -> tuple[int, int] | None:
    """Walk over the chunks from here on to that of the samples."""
    whole = None
    length = struct.calcsize(chunks.head)
    while len(head := file.read(length)) == length:
        kind, size = struct.unpack(chunks.head, head)
        if chunks.with_head:
            size -= length
        if kind == chunks.wanted:
            declared = size if whole is None else whole
            # A program that writes to a pipe may say 0.
            return max(declared - chunks.before, 0), file.tell() + chunks.before
        if kind == b"ds64" and size >= 16:
            # Of RF64, whose other sizes are too short for what it holds.
            whole = struct.unpack("<8xQ", file.read(16))[0]
            size -= 16
        # Damaged: no chunk has such a size.
        if not 0 <= size < 2**62:
            return None
        file.seek(size + -size % chunks.places, os.SEEK_CUR)
    return None


def _in_sphere(header: bytes, start: int) -> tuple[int, int] | None:
    size = 1
    for name in (b"sample_count", b"sample_n_bytes", b"channel_count"):
        found = re.search(rb"^%s -i (\d+)" % name, header, re.MULTILINE)
        if found is None:
            return None
        size *= int(found[1])
    length = re.match(rb"NIST_1A\n\s*(\d+)", header)
    return None if length is None else (size, start + int(length[1]))
