"""Kaldi-style sets of a corpus: read with paths of its own, written for a recipe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from espnet_hkd.files import write_table
from espnet_hkd.recipes.check_sets import read_set
from espnet_hkd.recipes.corpus import Utterance


def read_corpus_set(root: Path, name: str) -> list[Utterance]:
    """One set of a corpus, sorted by id; audio paths count from `root`.

    Raises:
        DataError: A table is missing, or the tables name different utterances.
    """
    return [
        replace(each, audio=_locate(root, each.audio))
        for each in sorted(read_set(root / name), key=lambda each: each.id)
    ]


def write_set(folder: Path, utterances: Iterable[Utterance]) -> None:
    """The four files of a Kaldi-style set: text, wav.scp, utt2spk, spk2utt."""
    utterances = list(utterances)
    speakers = defaultdict(list)
    for utterance in utterances:
        speakers[utterance.speaker].append(utterance.id)
    tables = {
        "text": {each.id: each.text for each in utterances},
        "wav.scp": {each.id: each.audio for each in utterances},
        "utt2spk": {each.id: each.speaker for each in utterances},
        "spk2utt": {name: " ".join(sorted(ids)) for name, ids in speakers.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_table(folder / name, table)


def _locate(root: Path, audio: str) -> str:
    """A pipe as it is, a path made absolute."""
    return audio if audio.endswith("|") else str((root / audio).resolve())
