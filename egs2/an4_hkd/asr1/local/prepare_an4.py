#!/usr/bin/env python3
"""Write the Kaldi-style sets of AN4 (text, wav.scp, utt2spk, spk2utt).

Two layouts are read: CMU's own (etc/an4_{train,test}.transcription and wav/ with
.sph, .wav or .flac files), whose training part is split as ESPnet's egs2/an4 does
(the first utterances, sorted, are the dev set), and Kaldi-style sets whose wav.scp
holds paths relative to the corpus folder. Everything is checked, all of the audio
included, before the first file is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser
from espnet_hkd.errors import DataError, some
from espnet_hkd.recipes.corpus import (
    Utterance,
    check_recordings,
    check_tables,
    read_lines,
)
from espnet_hkd.recipes.sets import read_corpus_set, write_set

AUDIO_FOLDERS = {"train": "an4_clstk", "test": "an4test_clstk"}
AUDIO_SUFFIXES = (".sph", ".wav", ".flac")
TRANSCRIPTION = re.compile(r"^(?:<s>\s*)?(?P<text>.*?)(?:\s*</s>)?\s*\((?P<id>\S+)\)$")
LAYOUTS = (
    "etc/an4_train.transcription with wav/an4_clstk (CMU's layout), "
    "or Kaldi-style sets train_nodev, train_dev, test"
)


def get_parser() -> Parser:
    parser = Parser("prepare_an4.py", __doc__)
    parser.add_argument("corpus", type=Path, help="folder of AN4, in either layout")
    parser.add_argument("out", type=Path, help="folder the sets are written to")
    parser.add_argument("--ndev", type=int, default=100, help="utterances of train_dev")
    parser.add_argument("--fs", type=int, default=16000, help="wanted sampling rate")
    parser.add_argument(
        "--sets",
        nargs="+",
        default=["train_nodev", "train_dev", "test"],
        help="sets of a Kaldi-style corpus, the training set first",
    )
    parser.add_argument(
        "--skip_untranscribed",
        action="store_true",
        help="leave out audio without transcript (ESPnet's mini AN4 has one such file)",
    )
    return parser


def find_layout(corpus: Path, sets: list[str]) -> tuple[str, Path]:
    """The layout ("cmu" or "kaldi") and the folder it starts from."""
    if not corpus.is_dir():
        raise DataError(
            f"The AN4 folder {corpus} does not exist",
            got="a file" if corpus.exists() else "no such folder",
            wanted=f"a folder with {LAYOUTS}",
            remedy="AN4=DIR ./run.sh, or no AN4 at all for ESPnet's mini AN4",
        )
    for folder in (corpus, corpus / "an4"):
        if (folder / "etc" / "an4_train.transcription").is_file():
            return "cmu", folder
    if any((corpus / name / "text").is_file() for name in sets):
        return "kaldi", corpus
    found = ", ".join(sorted(path.name for path in corpus.iterdir())[:8])
    raise DataError(
        f"The folder {corpus} is not laid out like AN4",
        got=found or "an empty folder",
        wanted=LAYOUTS,
        remedy="unpack an4_sphere.tar.gz and give its folder an4",
    )


def read_cmu_part(
    root: Path, part: str, *, skip_untranscribed: bool = False
) -> list[Utterance]:
    """The utterances of one transcription file, sorted by id.

    CMU's names are prompt-speaker-take; ids begin with the speaker, as Kaldi wants.
    """
    folder = root / "wav" / AUDIO_FOLDERS[part]
    audio: dict[str, Path] = {}
    for suffix in AUDIO_SUFFIXES:
        for path in folder.rglob(f"*{suffix}"):
            audio.setdefault(path.stem, path)
    source = root / "etc" / f"an4_{part}.transcription"
    utterances, absent = [], []
    for line in read_lines(source):
        match = TRANSCRIPTION.match(line)
        names = match["id"].split("-") if match else []
        if len(names) != 3:
            raise DataError(
                f"{source} has a line that is no AN4 transcript",
                got=repr(line),
                wanted="WORDS (prompt-speaker-take)",
                remedy="fetch the corpus again",
            )
        prompt, speaker, take = names
        path = audio.pop(match["id"], None)
        if path is None:
            absent.append(match["id"])
            continue
        id = f"{speaker}-{prompt}-{take}"
        utterances.append(Utterance(id, speaker, match["text"], str(path.resolve())))
    if absent:
        raise DataError(
            f"{len(absent)} transcripts of {source} have no audio: the corpus is "
            "not complete",
            got=some(absent),
            wanted=f"a {', '.join(AUDIO_SUFFIXES)} file for each under {folder}",
            remedy="fetch the corpus again",
        )
    if audio and not skip_untranscribed:
        raise DataError(
            f"{len(audio)} audio files under {folder} have no transcript: the corpus "
            "is not complete",
            got=some(audio),
            wanted=f"a line in {source} for each",
            remedy="fetch the corpus again",
        )
    return sorted(utterances, key=lambda utterance: utterance.id)


def read_cmu(
    root: Path, ndev: int, *, skip_untranscribed: bool = False
) -> dict[str, list[Utterance]]:
    """The sets of ESPnet's egs2/an4: the first `ndev` training utterances are dev."""
    train = read_cmu_part(root, "train", skip_untranscribed=skip_untranscribed)
    test = read_cmu_part(root, "test", skip_untranscribed=skip_untranscribed)
    if len(train) <= ndev:
        raise DataError(
            f"The dev set would take all {len(train)} training utterances of {root}",
            got=f"--ndev {ndev}",
            wanted=f"more than {ndev} training utterances",
            remedy="fetch the corpus again, or make the dev set smaller with --ndev",
        )
    return {
        "train_nodev": train[ndev:],
        "train_dev": train[:ndev],
        "test": test,
    }


def words_never_seen(sets: dict[str, list[Utterance]]) -> dict[str, list[str]]:
    """For each later set, its words that the first, the training set, lacks."""
    train, *others = sets
    seen = {word for each in sets[train] for word in each.text.split()}
    return {
        name: sorted({word for each in sets[name] for word in each.text.split()} - seen)
        for name in others
    }


def prepare(
    corpus: Path,
    out: Path,
    *,
    sets: list[str],
    ndev: int = 100,
    fs: int = 16000,
    skip_untranscribed: bool = False,
) -> dict[str, list[Utterance]]:
    """Read, check and write all sets.

    Raises:
        DataError: The corpus is missing, incomplete, laid out in another way, or its
            audio does not fit; nothing has been written then.
    """
    layout, root = find_layout(corpus, sets)
    if layout == "cmu":
        found = read_cmu(root, ndev, skip_untranscribed=skip_untranscribed)
    else:
        found = {name: read_corpus_set(root, name) for name in sets}
    for name, utterances in found.items():
        for note in check_tables(utterances):
            print(f"{name}: {note}")
        check_recordings([(each.id, each.audio) for each in utterances], fs)
    for name, utterances in found.items():
        write_set(out / name, utterances)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        sets = prepare(**vars(args))
        for name, utterances in sets.items():
            print(f"{args.out / name}: {len(utterances)} utterances")
        for name, words in words_never_seen(sets).items():
            if words:
                print(
                    f"{name} has words that training never shows, so that a word model "
                    f"cannot produce them: {' '.join(words)}"
                )


if __name__ == "__main__":
    main()
