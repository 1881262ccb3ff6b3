"""One recording, of any length, transcribed piece by piece with progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_hkd.errors import DataError
from espnet_hkd.recognize import Recognizer, Transcript
from espnet_hkd.speech.audio import check_file, cut_at_silences, load_audio

# Seconds; what the recogniser takes whole.
LONGEST_PIECE = 30.0


class Options(NamedTuple):
    """How to decode.

    Attributes:
        beam: Hypotheses kept.
        ctc_weight: Share of the CTC scores, in [0, 1).
        tail: Rest of weight above which the end fires once more, in [0, 1].
    """

    beam: int = 10
    ctc_weight: float = 0.0
    tail: float = 0.5


def read(path: Path, rate: int, *, minutes: float) -> np.ndarray:
    """Read an audio file, unless it is too long.

    Args:
        path: Of any format that libsndfile knows.
        rate: Wanted, in Hz.
        minutes: The longest that is taken.

    Returns:
        (samples,) float32.

    Raises:
        DataError: It is not audio, or too long.
    """
    import soundfile

    check_file(path)
    got = soundfile.info(path).duration / 60
    if got > minutes:
        raise DataError(
            "the recording is too long for this page",
            got=f"{got:.0f} minutes",
            wanted=f"at most {minutes:g} minutes",
            remedy="cut it, use `espnet-hkd recognize`, or start the page with "
            "another --minutes",
        )
    return load_audio(path, None, rate)


def transcribe(
    recognizer: Recognizer,
    samples: np.ndarray,
    options: Options,
    report: Callable[[float], None] = lambda share: None,
) -> Transcript:
    """Transcribe a recording, saying after each piece how much is done.

    The pieces are those that the recogniser itself would make of it.

    Args:
        recognizer: The model.
        samples: (samples,) of the model's rate.
        options: How to decode.
        report: Called with the share that is done, in (0, 1].
    """
    rate = recognizer.sample_rate
    text, score, tokens = [], 0.0, []
    for first, last in cut_at_silences(samples, rate, LONGEST_PIECE):
        (piece,) = recognizer(
            samples[first:last], sample_rate=rate, **options._asdict()
        )
        offset = first / rate
        text.append(piece.text)
        score += piece.score
        tokens += [
            token._replace(start=token.start + offset, end=token.end + offset)
            for token in piece.tokens
        ]
        report(last / len(samples))
    return Transcript(" ".join(filter(None, text)), score, tokens)
