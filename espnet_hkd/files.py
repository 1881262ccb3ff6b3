"""Reading text line by line, and writing files whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from espnet_hkd.errors import DataError


def text_lines(
    path: str | Path, *, wanted: str, remedy: str
) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers, from 1; ``-`` is standard input.

    Args:
        path: The file.
        wanted: What the file should have been, for the error of one that is missing.
        remedy: What to do where it is missing.

    Raises:
        DataError: The file cannot be read or is not UTF-8.
    """
    number = 0
    try:
        with nullcontext(sys.stdin) if str(path) == "-" else _open(path) as file:
            for number, line in enumerate(file, 1):
                # In the C locale standard input lets bytes that are not UTF-8 pass.
                line.encode()
                yield number, line
    except OSError as error:
        raise DataError(
            f"The text file {path} cannot be read.",
            got=error.strerror,
            wanted=wanted,
            remedy=remedy,
        ) from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise DataError(
            f"The text file {path} is not UTF-8.",
            got=f"{error.reason} near line {number}",
            wanted="UTF-8, as everywhere in ESPnet",
            remedy=f"convert it, for example: iconv -f GB18030 -t UTF-8 {path}",
        ) from error


def _open(path: str | Path) -> TextIO:
    # A byte order mark is no part of the first utterance's name.
    return Path(path).open(encoding="utf-8-sig")


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all: `write` gets the path of a file beside it.

    After a power failure, too, there is the new file or the one before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
