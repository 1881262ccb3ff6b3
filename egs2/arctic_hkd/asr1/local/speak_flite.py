#!/usr/bin/env python3
"""Add sentences that flite speaks to a training set: speech by a machine.

flite (Debian's package of that name) has three voices made from CMU ARCTIC's readers:
slt, rms and awb. Each sentence is spoken once, by a voice and at a speed drawn with the
seed. Sentences that dev or test hold are left out; so are those whose letters do not
say what is spoken (digits, other scripts) and those too short or too long.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prepare_arctic import spoken_form

from espnet_hkd.bin.command import Parser
from espnet_hkd.errors import DataError
from espnet_hkd.files import read_table
from espnet_hkd.recipes.check_sets import read_set
from espnet_hkd.recipes.corpus import Utterance, read_lines
from espnet_hkd.recipes.sets import write_set

VOICES = ("slt", "rms", "awb")


@dataclass(frozen=True)
class Sentence:
    """What is spoken: its number, its words, flite's voice and its stretch in time."""

    number: int
    text: str
    voice: str
    stretch: float

    @property
    def id(self) -> str:
        """Begins with the speaker, as Kaldi wants; the name says that it is made."""
        return f"flite_{self.voice}-{self.number:05d}"


def get_parser() -> Parser:
    parser = Parser("speak_flite.py", __doc__)
    parser.add_argument("data", type=Path, help="folder with train, dev and test")
    parser.add_argument("--number", type=int, required=True, help="sentences to speak")
    parser.add_argument("--text", type=Path, required=True, help="a sentence a line")
    parser.add_argument("--audio", type=Path, required=True, help="where audio goes")
    parser.add_argument("--seed", type=int, default=1, help="of choice and voices")
    parser.add_argument("--least_words", type=int, default=3, help="a sentence has")
    parser.add_argument("--most_words", type=int, default=16, help="a sentence has")
    parser.add_argument("--slowest", type=float, default=1.15, help="stretch in time")
    parser.add_argument("--fastest", type=float, default=0.8, help="stretch in time")
    parser.add_argument("--jobs", type=int, default=2, help="sentences at a time")
    return parser


def choose_sentences(
    lines: Sequence[str], excluded: set[str], *, least: int, most: int
) -> tuple[list[str], dict[str, int]]:
    """The different sentences that can be spoken, and how many lines cannot, by why."""
    chosen: dict[str, None] = {}
    left_out = {"other characters": 0, "length": 0, "in the sets": 0, "repeated": 0}
    for line in lines:
        text = spoken_form(line)
        if text is None:
            left_out["other characters"] += 1
        elif not least <= len(text.split()) <= most:
            left_out["length"] += 1
        elif text in excluded:
            left_out["in the sets"] += 1
        elif text in chosen:
            left_out["repeated"] += 1
        else:
            chosen[text] = None
    return list(chosen), left_out


def draw(
    texts: list[str], number: int, *, seed: int, fastest: float, slowest: float
) -> list[Sentence]:
    """So many of the sentences, each with a voice and a speed of its own."""
    rng = random.Random(seed)
    texts = texts[:]
    rng.shuffle(texts)
    return [
        Sentence(at, text, rng.choice(VOICES), round(rng.uniform(fastest, slowest), 3))
        for at, text in enumerate(texts[:number], start=1)
    ]


def check_flite() -> None:
    """Refuse to start without flite and its voices."""
    if shutil.which("flite") is None:
        raise DataError(
            "There is no flite to speak the sentences",
            got="no command flite on PATH",
            wanted="flite with the voices slt, rms and awb",
            remedy="apt-get install flite, or leave out --spoken",
        )
    listed = subprocess.run(["flite", "-lv"], capture_output=True, text=True).stdout
    missing = [voice for voice in VOICES if voice not in listed.split()]
    if missing:
        raise DataError(
            "flite lacks voices",
            got=listed.strip() or "no list of voices",
            wanted=", ".join(VOICES),
            remedy="apt-get install flite (Debian's has them), or leave out --spoken",
        )


def speak(sentence: Sentence, folder: Path) -> Path:
    """Speak a sentence into FOLDER/ID.flac, if it is not there from an earlier call."""
    import soundfile

    path = folder / f"{sentence.id}.flac"
    if path.is_file():
        return path
    wav, part = path.with_suffix(".wav"), path.with_suffix(".part")
    command = ["flite", "-voice", sentence.voice]
    command += ["--setf", f"duration_stretch={sentence.stretch}"]
    command += ["-t", sentence.text.lower(), "-o", str(wav)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not wav.is_file():
        raise DataError(
            f"flite could not speak {sentence.id}: {sentence.text!r}",
            got=done.stderr.strip() or f"exit code {done.returncode}",
            wanted="a sound file",
            remedy=f"try it by hand: {' '.join(command)}",
        )
    samples, rate = soundfile.read(wav, dtype="int16")
    soundfile.write(part, samples, rate, format="FLAC")
    part.rename(path)
    wav.unlink()
    return path


def add_spoken(args: argparse.Namespace) -> tuple[list[Sentence], dict[str, int]]:
    """Speak the sentences and write the training set anew, with them in it.

    Raises:
        DataError: No flite, no such text, or fewer sentences than asked for.
    """
    check_flite()
    excluded = {
        text
        for name in ("dev", "test")
        for text in read_table(args.data / name / "text").values()
    }
    texts, left_out = choose_sentences(
        read_lines(args.text), excluded, least=args.least_words, most=args.most_words
    )
    if len(texts) < args.number:
        raise DataError(
            f"{args.text} has too few sentences that can be spoken",
            got=f"{len(texts)}; left out: {left_out}",
            wanted=f"{args.number}",
            remedy="a smaller --spoken, or another --spoken_text",
        )
    sentences = draw(
        texts,
        args.number,
        seed=args.seed,
        fastest=args.fastest,
        slowest=args.slowest,
    )
    # The choice depends on these: other audio is not taken for it.
    folder = args.audio / f"seed{args.seed}_{args.fastest}_{args.slowest}_{args.number}"
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        paths = list(pool.map(lambda each: speak(each, folder), sentences))
    train = args.data / "train"
    utterances = read_set(train)
    utterances += [
        Utterance(each.id, f"flite_{each.voice}", each.text, str(path.resolve()))
        for each, path in zip(sentences, paths, strict=True)
    ]
    write_set(train, utterances)
    return sentences, left_out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    with parser.report_errors():
        sentences, left_out = add_spoken(args)
        print(
            f"{args.data / 'train'}: {len(sentences)} sentences spoken by flite added"
        )
        print("left out: " + ", ".join(f"{n} ({why})" for why, n in left_out.items()))


if __name__ == "__main__":
    main()
