"""Reading text and Kaldi tables, and writing files whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, TextIO

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


class TableRow(NamedTuple):
    """One row of a Kaldi table: where it stands, its id, and the rest of it."""

    number: int
    id: str
    value: str


def table_rows(path: str | Path, *, wanted: str, remedy: str) -> Iterator[TableRow]:
    """The rows of a Kaldi table (text, wav.scp, utt2spk, ...), as ESPnet reads them.

    Lines end with LF or CRLF and nowhere else; blank ones, and a byte order mark, are
    passed over. The value has no white space at its ends and may be empty.

    Raises:
        DataError: The file cannot be read or is not UTF-8.
    """
    for number, line in text_lines(path, wanted=wanted, remedy=remedy):
        columns = line.split(maxsplit=1)
        if columns:
            yield TableRow(number, columns[0], "".join(columns[1:]).rstrip())


def read_table(
    path: str | Path,
    *,
    wanted: str = "lines of an utterance id, a space and a value",
    remedy: str = "correct the path, or run the recipe's data stages first",
) -> dict[str, str]:
    """A Kaldi table by id, in the order of the file; see `table_rows`.

    Raises:
        DataError: The file cannot be read, is not UTF-8, or has an id twice.
    """
    table: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number, id, value in table_rows(path, wanted=wanted, remedy=remedy):
        if id in table:
            raise DataError(
                f"Utterance {id} comes twice in {path}.",
                got=f"lines {numbers[id]} and {number}",
                wanted="every utterance once",
                remedy="take one of the lines out, or write the file again",
            )
        table[id], numbers[id] = value, number
    return table


def write_table(path: Path, table: Mapping[str, object]) -> None:
    """Write a Kaldi table, sorted bytewise as LC_ALL=C sorts, whole or not at all.

    A row without value is the id and a space, as ESPnet writes it.
    """
    rows = [f"{id} {table[id]}\n" for id in sorted(table, key=str.encode)]
    replace_file(path, lambda part: part.write_bytes("".join(rows).encode()))


def _open(path: str | Path) -> TextIO:
    # A byte order mark is no part of the first utterance's name.
    return Path(path).open(encoding="utf-8-sig")


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all: `write` gets the path of a file beside it.

    After a power failure, too, there is the new file or the one before. A link to the
    file stays a link, and a file that was there keeps its permissions.
    """
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
