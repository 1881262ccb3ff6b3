#!/usr/bin/env python3
"""Check that AISHELL-1 is whole before ESPnet's preparation, which would not notice.

ESPnet's script takes what audio and transcripts have in common, and so trains without
a word on what a broken download left. Here everything that is missing is named, and
nothing is written. The folder's absolute path is printed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
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

SETS = ("train", "dev", "test")
TRANSCRIPT = Path("transcript") / "aishell_transcript_v0.8.txt"
LAYOUT = (
    f"data_aishell/wav/{{{','.join(SETS)}}}/SPEAKER/*.wav and data_aishell/{TRANSCRIPT}"
)
FETCH = "fetch data_aishell.tgz again (openslr.org/33)"
# As published, 325 of the 141,925 recordings (0.23 %) have no transcript.
UNTRANSCRIBED = 0.01
# A header alone, or less.
WAV_HEADER = 44  # bytes
# ESPnet's preparation looks for these in the whole path of a recording.
MISLEADING = re.compile(r"wav/(train|dev|test)|\.wav", re.IGNORECASE)


def get_parser() -> Parser:
    parser = Parser("check_aishell.py", __doc__)
    parser.add_argument("corpus", help="the folder that holds data_aishell")
    parser.add_argument("--fs", type=int, default=16000, help="wanted sampling rate")
    return parser


def find_corpus(corpus: str) -> Path:
    """The folder data_aishell, absolute.

    Raises:
        DataError: It is not there, not unpacked, or laid out in another way.
    """
    if not corpus:
        raise DataError(
            "AISHELL names no folder",
            got="nothing",
            wanted=f"the folder with {LAYOUT}",
            remedy="AISHELL=DIR ./run.sh, or to fetch the corpus (15 GB): "
            './run.sh --local_data_opts "--download true"',
        )
    root = Path(corpus).absolute()
    if not root.is_dir():
        raise DataError(
            f"The AISHELL folder {root} does not exist",
            got="no such folder",
            wanted=f"the folder with {LAYOUT}",
            remedy="AISHELL=DIR ./run.sh",
        )
    check_path(str(root))
    if found := MISLEADING.search(f"{root}/"):
        raise DataError(
            "ESPnet's preparation would be misled by the path of the corpus",
            got=f"{found[0]!r} in {root}",
            wanted="a path with neither .wav nor wav/train, wav/dev, wav/test",
            remedy="move the corpus, or mount it elsewhere",
        )
    data = root / "data_aishell"
    if not data.is_dir() and (root / "data_aishell.tgz").is_file():
        raise DataError(
            f"{root / 'data_aishell.tgz'} is not unpacked",
            got="the archive and no folder data_aishell beside it",
            wanted=LAYOUT,
            remedy=f"tar -xzf data_aishell.tgz in {root}",
        )
    if not data.is_dir():
        inside = root.name == "data_aishell" or (root / "wav").is_dir()
        found = ", ".join(sorted(path.name for path in root.iterdir())[:8])
        raise DataError(
            f"The folder {root} is not laid out like AISHELL-1",
            got=found or "an empty folder",
            wanted=LAYOUT,
            remedy=f"AISHELL={root.parent}: the folder that holds data_aishell"
            if inside
            else "unpack data_aishell.tgz (openslr.org/33) and give its folder",
        )
    return data


def check_unpacked(wav: Path) -> None:
    """Refuse a corpus of which only the outer archive was unpacked."""
    there = {path.name for path in wav.glob("*/*") if path.is_dir()}
    packed = {path.name.partition(".")[0] for path in wav.glob("*.tar.gz")} - there
    if packed:
        raise DataError(
            f"{len(packed)} speakers in {wav} are not unpacked",
            got=f"{some(packed)} as .tar.gz",
            wanted=LAYOUT,
            remedy=f"for f in *.tar.gz; do tar -xzf $f; done in {wav}",
        )


def check_links(wav: Path) -> None:
    """Refuse linked folders, which ESPnet's preparation does not enter."""
    links = [path for path in (wav, *wav.glob("*"), *wav.glob("*/*")) if path.is_dir()]
    links = [str(path) for path in links if path.is_symlink()]
    if links:
        raise DataError(
            f"{len(links)} folders under {wav} are links",
            got=some(links),
            wanted="folders: ESPnet's preparation follows no links below data_aishell",
            remedy="link data_aishell or a folder above it as a whole instead",
        )


def find_audio(wav: Path) -> dict[str, dict[str, Path]]:
    """For each set, the recordings by utterance id."""
    audio = {
        name: {path.stem: path for path in sorted((wav / name).glob("*/*.wav"))}
        for name in SETS
    }
    absent = [name for name in SETS if not audio[name]]
    if absent:
        raise DataError(
            f"{wav} has no recordings of {', '.join(absent)}: the corpus is not whole",
            got=some([path.name for path in wav.iterdir()]) if wav.is_dir() else "none",
            wanted=LAYOUT,
            remedy=FETCH,
        )
    return audio


def read_transcripts(path: Path) -> dict[str, str]:
    """Transcripts by utterance id."""
    if not path.is_file():
        raise DataError(
            f"The transcripts {path} are missing: the corpus is not whole",
            got="no such file",
            wanted=LAYOUT,
            remedy=FETCH,
        )
    check_form(path)
    texts: dict[str, str] = {}
    for line in read_lines(path):
        id, _, text = line.partition(" ")
        check_id(id)
        if id in texts or not text.strip():
            raise DataError(
                f"{path} has {'two transcripts' if id in texts else 'no text'} of {id}",
                got=repr(line),
                wanted="ID TEXT, once for each recording",
                remedy=FETCH,
            )
        texts[id] = text.strip()
    return texts


def check_pairs(audio: dict[str, dict[str, Path]], texts: dict[str, str]) -> None:
    """Refuse transcripts without audio, and more than a few of the reverse."""
    recorded = {id: path for each in audio.values() for id, path in each.items()}
    for id in recorded:
        check_id(id)
    silent = texts.keys() - recorded.keys()
    if silent:
        speakers = {path.parent.name for path in recorded.values()}
        # BAC009S0002W0122: microphone, speaker, utterance.
        gone = {id[6:11] for id in silent} - speakers
        raise DataError(
            f"{len(silent)} of {len(texts)} transcripts have no audio: the corpus is "
            "not whole",
            got=f"nothing of the speakers {some(gone)}" if gone else some(silent),
            wanted="a recording for each transcript",
            remedy=f"{FETCH}, or unpack it again",
        )
    unread = recorded.keys() - texts.keys()
    if len(unread) > UNTRANSCRIBED * len(recorded):
        raise DataError(
            f"{len(unread)} of {len(recorded)} recordings have no transcript: the "
            "transcripts are not whole",
            got=some(unread),
            wanted=f"at most {UNTRANSCRIBED:.0%} (as published: 325 of 141,925)",
            remedy=FETCH,
        )
    for name, each in audio.items():
        if each.keys().isdisjoint(texts):
            raise DataError(
                f"No recording of {name} has a transcript",
                got=f"{len(each)} recordings and {len(texts)} transcripts",
                wanted="transcripts of these recordings",
                remedy=FETCH,
            )


def check_recordings(audio: dict[str, dict[str, Path]], fs: int) -> None:
    """Refuse empty recordings, and those of which another rate would be made.

    Every file's size is looked at, but only one header of each speaker: opening all
    141,925 would be slow where the corpus lies on a network.
    """
    first: dict[str, tuple[str, Path]] = {}
    empty = defaultdict(list)
    for each in audio.values():
        for id, path in each.items():
            first.setdefault(path.parent.name, (id, path))
            if path.stat().st_size <= WAV_HEADER:
                empty[path.parent.name].append(id)
    if empty:
        ids = [id for each in empty.values() for id in each]
        raise DataError(
            f"{len(ids)} recordings are empty: the corpus is not whole",
            got=some(ids),
            wanted=f"more than {WAV_HEADER} bytes, the header",
            remedy=f"unpack the speakers {some(list(empty))} again",
        )
    for id, path in first.values():
        check_audio(id, str(path), fs)


def check(corpus: str, fs: int = 16000) -> Path:
    """Check everything; the folder that holds data_aishell, absolute.

    Raises:
        DataError: The corpus is missing, not whole, or laid out in another way.
    """
    data = find_corpus(corpus)
    check_unpacked(data / "wav")
    check_links(data / "wav")
    audio = find_audio(data / "wav")
    check_pairs(audio, read_transcripts(data / TRANSCRIPT))
    check_recordings(audio, fs)
    return data.parent


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        print(check(args.corpus, args.fs))


if __name__ == "__main__":
    main()
