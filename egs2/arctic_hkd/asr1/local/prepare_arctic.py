#!/usr/bin/env python3
"""Write the Kaldi-style sets of CMU ARCTIC or of a corpus read from its prompts.

Two layouts are read: Kaldi-style sets whose wav.scp holds paths relative to the
corpus folder, and CMU ARCTIC's own, one folder a reader with etc/txt.done.data and
wav/, or a folder of several such. CMU ARCTIC knows no sets: they are made here by
sentence, so that no sentence of dev or test is ever trained on. Everything is checked,
all of the audio included, before the first file is written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from espnet_hkd.bin.command import Parser
from espnet_hkd.errors import DataError
from espnet_hkd.recipes.corpus import (
    Utterance,
    check_recordings,
    check_tables,
    read_lines,
    some,
)
from espnet_hkd.recipes.sets import read_corpus_set, write_set

SETS = ("train", "dev", "test")
PROMPT = re.compile(r'^\(\s*(?P<id>\S+)\s+"(?P<text>.*)"\s*\)$')
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
LAYOUTS = (
    "Kaldi-style sets train, dev, test; or CMU ARCTIC's etc/txt.done.data and wav/, "
    "in this folder or in the folders in it"
)
SOURCES = (
    "ARCTIC=DIR ./run.sh; CMU ARCTIC is at http://festvox.org/cmu_arctic, "
    "one woman's reading of its prompts at https://github.com/rhasspy/"
    "dataset-voice-kathleen"
)


def get_parser() -> Parser:
    parser = Parser("prepare_arctic.py", __doc__)
    parser.add_argument("corpus", type=Path, help="folder of ARCTIC, in either layout")
    parser.add_argument("out", type=Path, help="folder the sets are written to")
    parser.add_argument("--fs", type=int, default=16000, help="wanted sampling rate")
    parser.add_argument(
        "--ndev", type=int, default=100, help="sentences of dev (CMU's layout)"
    )
    parser.add_argument(
        "--ntest", type=int, default=120, help="sentences of test (CMU's layout)"
    )
    return parser


def spoken_form(text: str) -> str | None:
    """Words as a transcript holds them: upper case, apostrophes, no other marks.

    None where the letters do not say what is spoken: digits, other scripts.
    """
    text = text.upper().replace("\u2019", "'").replace("ETC.", "ET CETERA")
    if re.search(r"[0-9&]", text) or not text.isascii():
        return None
    # An apostrophe stays within a word only: the others are quotation marks.
    text = re.sub(r"[^A-Z']", " ", text)
    text = re.sub(r"(?<![A-Z])'+|'+(?![A-Z])", " ", text)
    return " ".join(text.split()) or None


def find_layout(corpus: Path) -> tuple[str, list[Path]]:
    """The layout ("cmu" or "kaldi") and the folders it starts from."""
    if not corpus.is_dir():
        raise DataError(
            f"The ARCTIC folder {corpus} does not exist",
            got="a file" if corpus.exists() else "no such folder",
            wanted=f"a folder with {LAYOUTS}",
            remedy=SOURCES,
        )
    if any((corpus / name / "text").is_file() for name in SETS):
        return "kaldi", [corpus]
    folders = [corpus, *sorted(path for path in corpus.iterdir() if path.is_dir())]
    readers = [path for path in folders if (path / "etc" / "txt.done.data").is_file()]
    if readers:
        return "cmu", readers
    found = ", ".join(sorted(path.name for path in corpus.iterdir())[:8])
    raise DataError(
        f"The folder {corpus} is not laid out like ARCTIC",
        got=found or "an empty folder",
        wanted=LAYOUTS,
        remedy=SOURCES,
    )


def reader_name(folder: Path) -> str:
    """slt of cmu_us_slt_arctic, else the folder's own name."""
    match = re.fullmatch(r"cmu_us_(\w+?)_arctic", folder.resolve().name)
    return match[1] if match else folder.resolve().name


def read_reader(folder: Path) -> tuple[list[Utterance], list[str]]:
    """One reader's utterances, and the prompts left out for their digits."""
    speaker = reader_name(folder)
    utterances, absent, unspeakable = [], [], []
    source = folder / "etc" / "txt.done.data"
    for line in read_lines(source):
        match = PROMPT.match(line)
        if match is None:
            raise DataError(
                f"{source} has a line that is no ARCTIC prompt",
                got=repr(line),
                wanted='( arctic_a0001 "The words." )',
                remedy="fetch the corpus again",
            )
        names = [folder / "wav" / (match["id"] + suffix) for suffix in AUDIO_SUFFIXES]
        audio = next((name for name in names if name.is_file()), None)
        text = spoken_form(match["text"])
        if audio is None:
            absent.append(match["id"])
        elif text is None:
            unspeakable.append(match["id"])
        else:
            id = f"{speaker}-{match['id']}"
            utterances.append(Utterance(id, speaker, text, str(audio.resolve())))
    if absent:
        raise DataError(
            f"{len(absent)} prompts of {source} have no audio: the corpus is not "
            "complete",
            got=some(absent),
            wanted=f"a {', '.join(AUDIO_SUFFIXES)} file for each in {folder / 'wav'}",
            remedy="fetch the corpus again",
        )
    return utterances, unspeakable


def split_by_sentence(
    utterances: list[Utterance], ndev: int, ntest: int
) -> dict[str, list[Utterance]]:
    """Sets in which no sentence is shared, the same for whatever readers there are.

    Sentences in the order of a hash of their words: the first are test, the next dev.
    """
    sentences = sorted(
        {each.text for each in utterances},
        key=lambda text: hashlib.blake2b(text.encode(), digest_size=8).digest(),
    )
    if len(sentences) <= ndev + ntest:
        raise DataError(
            f"Dev and test would take all {len(sentences)} sentences",
            got=f"--ndev {ndev} --ntest {ntest}",
            wanted=f"fewer than {len(sentences)} sentences for both together",
            remedy="fetch the corpus again, or make the sets smaller",
        )
    place = dict.fromkeys(sentences, "train")
    place |= dict.fromkeys(sentences[:ntest], "test")
    place |= dict.fromkeys(sentences[ntest : ntest + ndev], "dev")
    sets: dict[str, list[Utterance]] = {name: [] for name in SETS}
    for utterance in utterances:
        sets[place[utterance.text]].append(utterance)
    return sets


def check_sentences(sets: dict[str, list[Utterance]]) -> None:
    """Refuse sets that share a sentence: their error rates would flatter."""
    place: dict[str, str] = {}
    for name, utterances in sets.items():
        for each in utterances:
            other = place.setdefault(each.text, name)
            if other != name:
                raise DataError(
                    f"The sets {other} and {name} share a sentence",
                    got=repr(each.text),
                    wanted="sets of different sentences",
                    remedy="take the sentence out of one of them",
                )


def prepare(
    corpus: Path, out: Path, *, ndev: int = 100, ntest: int = 120, fs: int = 16000
) -> tuple[dict[str, list[Utterance]], list[str]]:
    """Read, check and write all sets; return them and the prompts left out.

    Raises:
        DataError: The corpus is missing, incomplete, laid out in another way, or its
            audio does not fit; nothing has been written then.
    """
    layout, folders = find_layout(corpus)
    unspeakable: list[str] = []
    if layout == "kaldi":
        sets = {name: read_corpus_set(corpus, name) for name in SETS}
        check_sentences(sets)
    else:
        utterances = []
        for folder in folders:
            found, left_out = read_reader(folder)
            utterances += found
            unspeakable += left_out
        sets = split_by_sentence(utterances, ndev, ntest)
    for name, utterances in sets.items():
        for note in check_tables(utterances):
            print(f"{name}: {note}")
        check_recordings([(each.id, each.audio) for each in utterances], fs)
    for name, utterances in sets.items():
        write_set(out / name, utterances)
    return sets, unspeakable


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        sets, unspeakable = prepare(**vars(args))
        for name, utterances in sets.items():
            sentences = len({each.text for each in utterances})
            readers = len({each.speaker for each in utterances})
            print(
                f"{args.out / name}: {len(utterances)} utterances of {sentences} "
                f"sentences, {readers} reader(s)"
            )
        if unspeakable:
            shown = some(unspeakable)
            print(f"left out {len(unspeakable)} prompts with digits: {shown}")


if __name__ == "__main__":
    main()
