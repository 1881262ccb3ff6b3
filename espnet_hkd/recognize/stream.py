"""Recordings in, transcripts out, in order, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from espnet_hkd.errors import HKDError
from espnet_hkd.speech.audio import Piece
from espnet_hkd.speech.records import Transcript
from espnet_hkd.speech.words import is_unspaced

# Audio gathered before it is decoded, relative to what is decoded together: of more,
# batches of more similar length can be made.
WINDOW = 4
# What any piece counts for at least.
LEAST_SECONDS = 0.1


@dataclass
class _Recording:
    """What is known of one recording, rank by rank for each piece."""

    number: int
    pieces: list[list[Transcript] | None] = field(default_factory=list)
    complete: bool = False
    error: HKDError | None = None


def transcribe(
    recordings: Iterable[Any],
    read: Callable[[Any], Iterable[Piece]],
    decode: Callable[[Sequence[Piece]], list[list[Transcript]]],
    *,
    sample_rate: int,
    batch_seconds: float,
) -> Iterator[tuple[int, list[Transcript] | HKDError]]:
    """Yield the number and the ranked transcripts of each recording, or its error.

    Args:
        recordings: Read one by one, as they are needed.
        read: Pieces of a recording; raises an HKDError where it cannot.
        decode: Ranked transcripts of each of several pieces.
        sample_rate: Of the pieces, in Hz.
        batch_seconds: What is decoded together; `WINDOW` times that is in memory.
    """
    pending: deque[_Recording] = deque()
    waiting: list[tuple[_Recording, int, Piece]] = []
    seconds = 0.0
    for number, audio in enumerate(recordings):
        recording = _Recording(number)
        pending.append(recording)
        try:
            for piece in read(audio):
                waiting.append((recording, len(recording.pieces), piece))
                recording.pieces.append(None)
                seconds += max(len(piece.samples) / sample_rate, LEAST_SECONDS)
                if seconds >= WINDOW * batch_seconds:
                    _decode(waiting, decode)
                    waiting, seconds = [], 0.0
                    yield from _finished(pending)
        except HKDError as error:
            recording.error = error
            waiting = [each for each in waiting if each[0] is not recording]
        recording.complete = True
        # An error has nothing to wait for, nor has what was decoded just now.
        yield from _finished(pending)
    _decode(waiting, decode)
    yield from _finished(pending)


def _decode(
    waiting: list[tuple[_Recording, int, Piece]],
    decode: Callable[[Sequence[Piece]], list[list[Transcript]]],
) -> None:
    ranked = decode([piece for _, _, piece in waiting])
    for (recording, place, _), transcripts in zip(waiting, ranked, strict=True):
        recording.pieces[place] = transcripts


def _finished(
    pending: deque[_Recording],
) -> Iterator[tuple[int, list[Transcript] | HKDError]]:
    """Take those off the front that nothing is waited for."""
    while pending and pending[0].complete:
        recording = pending[0]
        if recording.error is not None:
            yield recording.number, recording.error
        else:
            pieces = [piece for piece in recording.pieces if piece is not None]
            if len(pieces) < len(recording.pieces):
                return
            yield recording.number, join(pieces)
        pending.popleft()


def join(pieces: Sequence[Sequence[Transcript]]) -> list[Transcript]:
    """Join the pieces of a recording, rank by rank."""
    ranks = min(len(piece) for piece in pieces)
    return [
        Transcript(
            _join_texts([piece[rank].text for piece in pieces]),
            sum(piece[rank].score for piece in pieces),
            [token for piece in pieces for token in piece[rank].tokens],
            [word for piece in pieces for word in piece[rank].words],
        )
        for rank in range(ranks)
    ]


def _join_texts(texts: Iterable[str]) -> str:
    """Texts one after the other, without a space between Chinese characters."""
    joined = ""
    for text in texts:
        if joined and text and not (is_unspaced(joined[-1]) and is_unspaced(text[0])):
            joined += " "
        joined += text
    return joined
