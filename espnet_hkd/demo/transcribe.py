"""One recording, of any length, transcribed piece by piece with progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_hkd.errors import DataError, HKDError
from espnet_hkd.recognize import Recognizer, Transcript
from espnet_hkd.recognize.recognizer import LONGEST_PIECE
from espnet_hkd.recognize.stream import join
from espnet_hkd.speech.audio import check_file, read_pieces

# Seconds of audio decoded together: what is done is told four times as often as that.
BATCH_SECONDS = 30.0


class Options(NamedTuple):
    """How to decode.

    Attributes:
        beam: Hypotheses kept.
        ctc_weight: Share of the CTC scores, in [0, 1).
        tail: Rest of weight above which the end fires once more, in [0, 1].
    """

    beam: int
    ctc_weight: float
    tail: float


def packed_options(recognizer: Recognizer) -> Options:
    """What a model was packed with."""
    return Options(
        beam=10,
        ctc_weight=recognizer.packed_options.get("ctc_weight", 0.0),
        tail=recognizer.model.decoder.options.tail,
    )


def duration(path: Path, *, minutes: float) -> float:
    """Seconds that a recording lasts, unless it is too long.

    Raises:
        DataError: It is not audio, or longer than so many minutes.
    """
    import soundfile

    check_file(path)
    seconds = soundfile.info(path).duration
    if seconds > 60 * minutes:
        raise DataError(
            "the recording is too long for this page",
            got=f"{seconds / 60:.1f} minutes",
            wanted=f"at most {minutes:g} minutes",
            remedy="cut it, use `espnet-hkd recognize`, or start the page with "
            "another --minutes",
        )
    return seconds


def first_piece(recognizer: Recognizer, path: Path) -> np.ndarray:
    """Samples of a recording's beginning: what the recogniser takes as one piece."""
    rate = recognizer.sample_rate
    return next(iter(read_pieces(path, None, rate, LONGEST_PIECE))).samples


def transcribe(
    recognizer: Recognizer,
    path: Path,
    options: Options,
    report: Callable[[float], None] = lambda seconds: None,
) -> Transcript:
    """Transcribe a recording, saying on the way how many seconds of it are done.

    The pieces are those that the recogniser itself makes of it.

    Args:
        recognizer: The model.
        path: Of an audio file.
        options: How to decode.
        report: Called with the seconds that are done.

    Raises:
        DataError: It cannot be read.
        ConfigError: An option is out of range.
        SearchError: CTC scores are asked for that the model does not have.
    """
    rate = recognizer.sample_rate
    starts, ends = [], []

    def stretches() -> Iterator[np.ndarray]:
        for piece in read_pieces(path, None, rate, LONGEST_PIECE):
            starts.append(piece.first / rate)
            ends.append((piece.first + len(piece.samples)) / rate)
            yield piece.samples

    found = []
    for number, result in recognizer.stream(
        stretches(), sample_rate=rate, batch_seconds=BATCH_SECONDS, **options._asdict()
    ):
        if isinstance(result, HKDError):
            raise result
        found.append([_later(result, starts[number])])
        report(ends[number])
    return join(found)[0]


def _later(transcript: Transcript, seconds: float) -> Transcript:
    """The same, with times from so many seconds before its piece."""

    def later(each: Any) -> Any:
        return each._replace(start=each.start + seconds, end=each.end + seconds)

    return transcript._replace(
        tokens=[later(token) for token in transcript.tokens],
        words=[later(word) for word in transcript.words],
    )
