"""Word times by an independent aligner, PocketSphinx 5 with its US English model.

Forced alignment of a known transcript; it knows nothing of the models compared.
`pip install pocketsphinx==5.0.4`; nothing but benchmarks needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

RATE = 16000
FRAME = 0.01  # seconds
# What PocketSphinx puts between words.
FILLERS = ("<s>", "</s>", "<sil>", "[NOISE]")


class AlignedWord(NamedTuple):
    """A word and its stretch of audio, in seconds."""

    word: str
    start: float
    end: float


def align(samples: np.ndarray, words: list[str]) -> list[AlignedWord] | None:
    """Align a transcript; None where the aligner finds no way through, or lacks a word.

    Args:
        samples: (samples,) floats in [-1, 1], at 16 kHz.
        words: The transcript; single letters are spelled.
    """
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=RATE, loglevel="FATAL")
    pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    try:
        decoder.set_align_text(" ".join(word.lower() for word in words))
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
        segments = [s for s in decoder.seg() if s.word not in FILLERS]
    except (RuntimeError, TypeError, ValueError):
        return None
    if len(segments) != len(words):
        return None
    return [
        AlignedWord(word, s.start_frame * FRAME, (s.end_frame + 1) * FRAME)
        for word, s in zip(words, segments, strict=True)
    ]


def read_set(folder: Path) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Samples and words of a Kaldi-style set whose wav.scp names files."""
    import soundfile

    def table(name: str) -> dict[str, str]:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        return {line.split(maxsplit=1)[0]: line.partition(" ")[2] for line in lines}

    texts, utterances = table("text"), {}
    for id, name in table("wav.scp").items():
        path = next(
            p for p in (Path(name), folder / name, folder.parent / name) if p.is_file()
        )
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE, (path, rate)
        utterances[id] = samples, texts[id].split()
    return utterances
