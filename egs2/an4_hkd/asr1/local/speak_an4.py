#!/usr/bin/env python3
"""Make an AN4-like corpus of sentences spoken by espeak-ng: speech by a machine.

Spelled words, numbers, dates and commands, as AN4's speakers were asked for, in many
voices, speeds and pitches. The test set has other sentences than the training set
(single commands apart), and half of its voices are never trained on. The real
utterances of another corpus can be added: to the training and dev sets, and as a test
set of their own (test_real).
The same seed gives the same sentences and voices.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from espnet_hkd.bin.command import Parser
from espnet_hkd.errors import DataError
from espnet_hkd.files import read_table


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DIGITS = words("ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE")
TEENS = words(
    "TEN ELEVEN TWELVE THIRTEEN FOURTEEN FIFTEEN SIXTEEN SEVENTEEN EIGHTEEN NINETEEN"
)
TENS = words("TWENTY THIRTY FORTY FIFTY SIXTY SEVENTY EIGHTY NINETY")
MONTHS = words(
    "JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER "
    "DECEMBER"
)
ORDINALS = words(
    "FIRST SECOND THIRD FOURTH FIFTH SIXTH SEVENTH EIGHTH NINTH TENTH ELEVENTH TWELFTH"
)
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
COMMANDS = words("YES NO GO STOP START HELP REPEAT ENTER ERASE RUBOUT")
SPELLED = words(
    "ANDERSON BAKER BOSTON CARTER CHURCH CLARK DENVER EVANS FISHER FOREST FOSTER "
    "GARDEN GEORGE HARRIS HOUSTON HUDSON JACKSON JAMES KELLY KNIGHT LIBERTY LINCOLN "
    "MARKET MARTIN MICHAEL MURRAY NELSON NEWTON OAKLAND OLIVER ORCHARD PARKER "
    "PETERSON PHOENIX QUEBEC ROBERT ROXBURY SAMUEL SHADY SHAW SQUIRE SUMMER TAYLOR "
    "THOMAS TYLER VICTOR VINCENT WALNUT WALTER WEAVER WEBSTER WILKINS WRIGHT XAVIER "
    "YOUNG YUKON ZIMMER ZURICH"
)
# Spelled in the dev and test sets only.
OTHER_SPELLED = words(
    "ALEXIS BRIDGE CHAPEL DAVID EDWARD FRANKLIN GILBERT HOWARD IRVING JUSTIN KEVIN "
    "LAWRENCE MAXWELL NORTH PROSPECT QUINCY RIVER STANLEY TRAVIS VERNON WINDSOR "
    "ZACHARY"
)

ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-us-nyc", "en-gb-scotland")
TRAINING_VARIANTS = ("m1", "m2", "m3", "m4", "m7", "f1", "f2", "f3", "f4", "Andy")
# Never heard in training.
OTHER_VARIANTS = ("m6", "f5", "Alex")


@dataclass(frozen=True)
class Voice:
    """How espeak-ng speaks.

    Args:
        name: Accent and variant.
        speed: Words per minute.
        pitch: 0 to 99.
        gap: Pause between words, in 10 ms.
    """

    name: str
    speed: int
    pitch: int
    gap: int

    @property
    def speaker(self) -> str:
        """A Kaldi speaker id."""
        return self.name.replace("+", "_").replace("-", "").lower()


def get_parser() -> Parser:
    parser = Parser("speak_an4.py", __doc__)
    parser.add_argument("out", type=Path, help="folder of the new corpus")
    parser.add_argument("--real", type=Path, help="data folder with real sets to add")
    parser.add_argument("--train", type=int, default=400, help="training utterances")
    parser.add_argument("--dev", type=int, default=30, help="dev utterances")
    parser.add_argument("--test", type=int, default=40, help="test utterances")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="espeak-ng processes")
    return parser


class Deck:
    """Cards drawn in random order; none comes again before all have come.

    So a small corpus has all words, the rare ones too.
    """

    def __init__(self, cards: Sequence[str], draw: random.Random):
        self._cards = cards
        self._draw = draw
        self._left: list[str] = []

    def __call__(self) -> str:
        if not self._left:
            self._left = self._draw.sample(self._cards, len(self._cards))
        return self._left.pop()


class Prompter:
    """Makes up prompts: spelled words, digits, numbers, dates, commands."""

    def __init__(self, spelled: Sequence[str], draw: random.Random):
        self._draw = draw
        self._spelled = Deck(spelled, draw)
        self._letter = Deck(LETTERS, draw)
        self._digit = Deck([*DIGITS, "OH"], draw)
        self._teen = Deck(TEENS, draw)
        self._tens = Deck(TENS, draw)
        self._unit = Deck(DIGITS[1:], draw)
        self._month = Deck(MONTHS, draw)
        self._ordinal = Deck(ORDINALS, draw)
        self._command = Deck(COMMANDS, draw)
        self._edit = Deck(("ENTER", "ERASE", "RUBOUT"), draw)

    def __call__(self) -> str:
        """One prompt, in AN4's words."""
        kinds = {
            self._spell: 26,
            self._digits: 22,
            self._code: 25,
            self._numbers: 10,
            self._date: 8,
            self._hundreds: 4,
            self._order: 5,
        }
        (kind,) = self._draw.choices(list(kinds), list(kinds.values()))
        return " ".join(kind())

    def _spell(self) -> list[str]:
        return list(self._spelled())

    def _digits(self) -> list[str]:
        return [self._digit() for _ in range(self._draw.randint(2, 7))]

    def _code(self) -> list[str]:
        letters = [self._letter() for _ in range(self._draw.randint(2, 5))]
        return [self._edit(), *letters, *self._pair()]

    def _numbers(self) -> list[str]:
        return [*self._pair(), *self._pair()]

    def _date(self) -> list[str]:
        return [self._month(), self._ordinal(), "NINETEEN", *self._pair()]

    def _hundreds(self) -> list[str]:
        return [self._unit(), "HUNDRED", "AND", *self._pair()]

    def _order(self) -> list[str]:
        return [self._command()]

    def _pair(self) -> list[str]:
        """A number from ten to ninety-nine, in words."""
        if self._draw.random() < 0.3:
            return [self._teen()]
        if self._draw.random() < 0.3:
            return [self._tens()]
        return [self._tens(), self._unit()]


def voice(draw: random.Random, variants: tuple[str, ...]) -> Voice:
    name = f"{draw.choice(ACCENTS)}+{draw.choice(variants)}"
    return Voice(name, draw.randint(120, 175), draw.randint(25, 75), draw.randint(0, 6))


def plan(counts: dict[str, int], seed: int) -> dict[str, list[tuple[str, str, Voice]]]:
    """For each set its utterances: id, sentence, voice. The training set comes first.

    What is said in training is not said in the later sets.
    """
    draw = random.Random(seed)
    trained: set[str] = set()
    sets = {}
    for name, count in counts.items():
        training = name == "train_nodev"
        prompt = Prompter(SPELLED if training else OTHER_SPELLED, draw)
        utterances: list[tuple[str, str, Voice]] = []
        while len(utterances) < count:
            text = prompt()
            if training:
                trained.add(text)
            # Commands of one word are too few to be held out.
            elif text in trained and " " in text:
                continue
            new_voice = name == "test_spoken" and len(utterances) % 2
            how = voice(draw, OTHER_VARIANTS if new_voice else TRAINING_VARIANTS)
            id = f"{how.speaker}-{name.replace('_', '')}{len(utterances):04d}"
            utterances.append((id, text, how))
        sets[name] = utterances
    return sets


def spoken_form(text: str) -> str:
    """What espeak-ng reads: the letter A by its name, not as the article."""
    return " ".join("[['eI]]" if word == "A" else word for word in text.split())


def speak(text: str, how: Voice, path: Path) -> None:
    """Write one utterance as 16 kHz FLAC."""
    espeak = ["espeak-ng", "-v", how.name, "-s", str(how.speed), "-p", str(how.pitch)]
    wave = subprocess.run(
        [*espeak, "-g", str(how.gap), "--stdout", spoken_form(text)],
        check=True,
        capture_output=True,
    ).stdout
    # No dither: the same speech in the same bits every time.
    sox = ["sox", "-D", "-t", "wav", "-", "-r", "16000", "-c", "1", "-b", "16"]
    subprocess.run([*sox, str(path)], input=wave, check=True, capture_output=True)


def check_programs() -> None:
    for program in ("espeak-ng", "sox"):
        if shutil.which(program) is None:
            raise DataError(
                f"{program} is missing: it makes the demo's speech",
                got="no such program on PATH",
                wanted="espeak-ng and sox",
                remedy=f"apt-get install {program}",
            )


def speak_sets(out: Path, counts: dict[str, int], *, seed: int, jobs: int) -> None:
    """Speak all sets into `out`, Kaldi-style, paths relative to `out`."""
    for name, utterances in plan(counts, seed).items():
        (out / name / "wav").mkdir(parents=True)
        paths = [f"{name}/wav/{id}.flac" for id, _, _ in utterances]
        with ThreadPoolExecutor(jobs) as pool:
            # list() lets a failure of one utterance through.
            list(
                pool.map(
                    lambda each, path: speak(each[1], each[2], out / path),
                    utterances,
                    paths,
                )
            )
        tables = {
            "text": [(id, text) for id, text, _ in utterances],
            "wav.scp": [
                (each[0], path) for each, path in zip(utterances, paths, strict=True)
            ],
            "utt2spk": [(id, how.speaker) for id, _, how in utterances],
        }
        for file, rows in tables.items():
            append_rows(out / name / file, rows)


def append_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("a", encoding="utf-8") as table:
        table.writelines(f"{id} {value}\n" for id, value in rows)


def add_real(out: Path, real: Path) -> None:
    """Add real sets: training and dev to the spoken ones, test as test_real."""
    for source in ("train_nodev", "train_dev", "test"):
        target = "test_real" if source == "test" else source
        (out / target).mkdir(exist_ok=True)
        for file in ("text", "wav.scp", "utt2spk"):
            rows = list(read_table(real / source / file).items())
            append_rows(out / target / file, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    counts = {
        "train_nodev": args.train,
        "train_dev": args.dev,
        "test_spoken": args.test,
    }
    # Whole or not at all: a killed call leaves nothing that looks finished.
    part = args.out.with_name(args.out.name + ".part")
    with parser.report_errors():
        check_programs()
        shutil.rmtree(part, ignore_errors=True)
        speak_sets(part, counts, seed=args.seed, jobs=args.jobs)
        if args.real:
            add_real(part, args.real)
        part.rename(args.out)
        print(f"{args.out}: {counts} utterances spoken by espeak-ng")


if __name__ == "__main__":
    main()
