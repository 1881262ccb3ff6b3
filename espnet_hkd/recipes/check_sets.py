"""Kaldi-style sets, checked as all recipes do in stage 1: everything, audio too."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from espnet_hkd.errors import DataError, some
from espnet_hkd.files import read_table
from espnet_hkd.recipes.corpus import (
    Utterance,
    check_form,
    check_recordings,
    check_tables,
)

TABLES = ("text", "wav.scp", "utt2spk")


def read_set(folder: Path) -> list[Utterance]:
    """The utterances of a set, in the order of its wav.scp.

    Raises:
        DataError: A table is missing, or the tables name different utterances.
    """
    tables = {}
    for file in TABLES:
        if not (folder / file).is_file():
            raise DataError(
                f"The set {folder} is not complete",
                got=f"no file {file}",
                wanted=", ".join(TABLES),
                remedy="fetch the corpus again",
            )
        tables[file] = read_table(folder / file)
    texts = tables["text"]
    for file in TABLES[1:]:
        odd = texts.keys() ^ tables[file].keys()
        if odd:
            raise DataError(
                f"text and {file} of {folder} name different utterances: the set is "
                "not complete",
                got=f"only in one of them: {some(odd)}",
                wanted="the same ids in both",
                remedy="fetch the corpus again",
            )
    return [
        Utterance(id, tables["utt2spk"][id], texts[id], audio)
        for id, audio in tables["wav.scp"].items()
    ]


def check(folders: Iterable[Path], fs: int = 16000) -> list[str]:
    """Check sets; what is worth knowing of them, line by line.

    A recording that is in several sets is read once.

    Raises:
        DataError: Something would fail, or do harm unseen, many stages later.
    """
    notes, recordings = [], {}
    for folder in folders:
        utterances = read_set(folder)
        for file in TABLES:
            check_form(folder / file)
        notes += [f"{folder}: {note}" for note in check_tables(utterances)]
        recordings |= {each.audio: each.id for each in utterances}
    check_recordings([(id, audio) for audio, id in recordings.items()], fs)
    return notes
