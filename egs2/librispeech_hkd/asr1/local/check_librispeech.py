#!/usr/bin/env python3
"""Check that LibriSpeech is whole before ESPnet's preparation begins to write.

ESPnet's script compares transcripts and audio only at its end, and takes a half
unpacked part for a whole one. Here everything that is missing is named, and nothing is
written. The absolute path of the folder that holds LibriSpeech is printed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_hkd.bin.command import Parser
from espnet_hkd.errors import DataError, some
from espnet_hkd.recipes.corpus import (
    check_audio,
    check_form,
    check_id,
    check_path,
    read_lines,
)

PARTS = ("dev-clean", "dev-other", "test-clean", "test-other", "train-clean-100")
LAYOUT = "LibriSpeech/PART/READER/CHAPTER/*.flac with READER-CHAPTER.trans.txt"
# 14   | F | train-clean-360  | 25.03 | Kristin LeMoine
SPEAKER = re.compile(r"(?P<id>\d+)\s*\|\s*(?P<sex>[MF])\s*\|\s*(?P<part>[\w-]+)\s*\|")


@dataclass(frozen=True)
class Chapter:
    """One folder: its audio and its transcripts, both by utterance id."""

    folder: Path
    audio: dict[str, Path]
    texts: dict[str, str]


def get_parser() -> Parser:
    parser = Parser("check_librispeech.py", __doc__)
    parser.add_argument("corpus", help="the folder that holds LibriSpeech")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), help="what is used")
    parser.add_argument("--fs", type=int, default=16000, help="wanted sampling rate")
    return parser


def fetch(part: str) -> str:
    return f"fetch {part}.tar.gz again (openslr.org/12) and unpack all of it"


def listed(folder: Path) -> str:
    found = sorted(path.name for path in folder.iterdir())
    return ", ".join(found[:8]) or "an empty folder"


def find_corpus(corpus: str) -> Path:
    """The folder LibriSpeech, absolute.

    Raises:
        DataError: It is not there, or the folder is laid out in another way.
    """
    if not corpus:
        raise DataError(
            "LIBRISPEECH names no folder",
            got="nothing",
            wanted=f"the folder with {LAYOUT}",
            remedy="LIBRISPEECH=DIR ./run.sh, or to fetch the corpus (about 8 GB for "
            '100 hours): ./run.sh --local_data_opts "--download true"',
        )
    root = Path(corpus).resolve()
    if not root.is_dir():
        raise DataError(
            f"The LibriSpeech folder {root} does not exist",
            got="no such folder",
            wanted=f"the folder with {LAYOUT}",
            remedy="LIBRISPEECH=DIR ./run.sh",
        )
    check_path(str(root))
    if not (root / "LibriSpeech").is_dir():
        remedy = "unpack the parts (openslr.org/12) there"
        if any((root / part).is_dir() for part in PARTS):
            remedy = f"LIBRISPEECH={root.parent}: the folder that holds LibriSpeech"
            if root.name != "LibriSpeech":
                remedy = f"in a folder of your choice: ln -s {root} LibriSpeech"
        raise DataError(
            f"The folder {root} is not laid out like LibriSpeech",
            got=listed(root),
            wanted=LAYOUT,
            remedy=remedy,
        )
    return root / "LibriSpeech"


def check_parts(data: Path, parts: list[str]) -> None:
    """Refuse a corpus that lacks a part."""
    absent = [part for part in parts if not (data / part).is_dir()]
    if not absent:
        return
    remedy = f"unpack {', '.join(f'{part}.tar.gz' for part in absent)} in {data.parent}"
    if all(part.startswith("train") for part in absent) and len(absent) < 3:
        remedy += "; to train on 100 hours only: --data 100"
    raise DataError(
        f"{data} has no {', '.join(absent)}",
        got=listed(data),
        wanted=LAYOUT,
        remedy=remedy,
    )


def read_speakers(data: Path) -> dict[str, set[str]]:
    """The readers of each part, as the corpus itself lists them."""
    path = data / "SPEAKERS.TXT"
    if not path.is_file():
        raise DataError(
            f"{path} is missing",
            got=listed(data),
            wanted="the list of readers, which every part brings",
            remedy=fetch("one of the parts"),
        )
    readers = defaultdict(set)
    for line in read_lines(path):
        match = SPEAKER.match(line)
        if match:
            readers[match["part"]].add(match["id"])
        elif not line.startswith(";"):
            raise DataError(
                f"{path} has a line that describes no reader",
                got=repr(line),
                wanted="ID | M or F | PART | MINUTES | NAME",
                remedy=fetch("one of the parts"),
            )
    return readers


def check_readers(data: Path, part: str, readers: set[str]) -> None:
    """Refuse a part that was unpacked by half, or that holds something else."""
    there = {path.name for path in (data / part).iterdir() if path.is_dir()}
    absent, strange = readers - there, there - readers
    if strange:
        raise DataError(
            f"{data / part} has folders that SPEAKERS.TXT does not list there",
            got=some(strange),
            wanted=LAYOUT,
            remedy="remove them, or " + fetch(part),
        )
    if absent or not there:
        raise DataError(
            f"{data / part} lacks {len(absent)} of its {len(readers)} readers: it was "
            "fetched or unpacked by half",
            got=f"nothing of {some(absent)}" if absent else "an empty folder",
            wanted="a folder for each reader that SPEAKERS.TXT lists",
            remedy=fetch(part),
        )


def read_chapter(folder: Path, part: str) -> Chapter:
    """Audio and transcripts of one chapter."""
    name = f"{folder.parent.name}-{folder.name}"
    if not folder.name.isdigit():
        raise DataError(
            f"{folder} is no chapter",
            got=f"a folder named {folder.name}",
            wanted=LAYOUT,
            remedy=f"remove it, or {fetch(part)}",
        )
    source = folder / f"{name}.trans.txt"
    if not source.is_file():
        raise DataError(
            f"The chapter {folder} has no transcripts",
            got=listed(folder),
            wanted=source.name,
            remedy=fetch(part),
        )
    check_form(source)
    texts: dict[str, str] = {}
    for line in read_lines(source):
        id, _, text = line.partition(" ")
        check_id(id)
        if id in texts or not text.strip() or not id.startswith(f"{name}-"):
            raise DataError(
                f"{source} has a line that cannot be used",
                got=repr(line),
                wanted=f"{name}-NUMBER TEXT, once for each recording",
                remedy=fetch(part),
            )
        texts[id] = text
    if not texts:
        raise DataError(
            f"{source} is empty",
            got="no line",
            wanted="a transcript",
            remedy=fetch(part),
        )
    audio = {path.stem: path for path in sorted(folder.glob("*.flac"))}
    for id in audio:
        check_id(id)
    return Chapter(folder, audio, texts)


def read_part(data: Path, part: str) -> Iterator[Chapter]:
    for reader in sorted(path for path in (data / part).iterdir() if path.is_dir()):
        chapters = sorted(path for path in reader.iterdir() if path.is_dir())
        if not chapters:
            raise DataError(
                f"The reader {reader} has no chapter",
                got=listed(reader),
                wanted="a folder for each chapter",
                remedy=fetch(part),
            )
        for folder in chapters:
            yield read_chapter(folder, part)


def check_pairs(chapters: list[Chapter], part: str) -> None:
    """Refuse transcripts without audio, and the reverse."""
    silent = {id for each in chapters for id in each.texts.keys() - each.audio.keys()}
    unread = {id for each in chapters for id in each.audio.keys() - each.texts.keys()}
    if silent:
        id = min(silent)
        folder = next(each.folder for each in chapters if id in each.texts)
        raise DataError(
            f"{len(silent)} transcripts of {part} have no audio: it is not whole",
            got=some(silent),
            wanted=f"a recording for each, such as {folder / id}.flac; there is "
            f"{listed(folder)}",
            remedy=fetch(part),
        )
    if unread:
        raise DataError(
            f"{len(unread)} recordings of {part} have no transcript: it is not whole",
            got=some(unread),
            wanted="a line in READER-CHAPTER.trans.txt for each",
            remedy=fetch(part),
        )


def check_recordings(chapters: list[Chapter], part: str, fs: int) -> None:
    """Refuse empty recordings, and those of which another rate would be made.

    Every file's size is looked at, but only one header of each chapter: reading all
    takes an hour where the corpus lies on a network.
    """
    empty = {
        id
        for each in chapters
        for id, path in each.audio.items()
        if path.stat().st_size == 0
    }
    if empty:
        raise DataError(
            f"{len(empty)} recordings of {part} are empty files: it is not whole",
            got=some(empty),
            wanted="speech",
            remedy=fetch(part),
        )
    for each in chapters:
        id = min(each.audio)
        check_audio(id, str(each.audio[id]), fs)


def check(corpus: str, parts: list[str], fs: int = 16000) -> Path:
    """Check everything; the folder that holds LibriSpeech, absolute.

    Raises:
        DataError: The corpus is missing, not whole, or laid out in another way.
    """
    data = find_corpus(corpus)
    check_parts(data, parts)
    speakers = read_speakers(data)
    for part in parts:
        check_readers(data, part, speakers.get(part, set()))
        chapters = list(read_part(data, part))
        check_pairs(chapters, part)
        check_recordings(chapters, part, fs)
    return data.parent


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        print(check(args.corpus, args.parts, args.fs))


if __name__ == "__main__":
    main()
