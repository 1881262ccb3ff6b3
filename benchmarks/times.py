"""How accurate the times of words are, against an independent forced aligner.

Utterances that are recognised without error are aligned by PocketSphinx
(`benchmarks/aligner.py`), and the times of their words compared. Rows:

    ctc, cif     decoder_conf.times, with the model's time_shift
    firing       a token ends where its mass is complete and begins where the one before
                 ends: times before there was a time_shift
    FunASR       a token begins with its own firing and ends with the next, 1.5 frames
                 earlier, as in FunASR's CIF aligner

Last words stand apart, and beside them the aligner's own ends and the recogniser's
against the end of the energy, for aligners differ there most. The last line says how
much of a token's mass lies in its own word, from 0.15 s before its start to its end:
near 1 where the weights gather in bumps, less where they are flat.

    python benchmarks/times.py MODEL.zip AN4/train_dev --fit    # the best time_shift
    python benchmarks/times.py MODEL.zip AN4/test
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from aligner import RATE, AlignedWord, align, read_set

# The encoder looks ahead: weights may gather so many seconds before a word's energy.
AHEAD = 0.15


class Timed(NamedTuple):
    """A word by the aligner and where each way begins and ends it, in seconds."""

    aligned: AlignedWord
    last: bool
    energy_end: float
    found: dict[str, tuple[float, float]]


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare the times of words with a forced aligner's.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("model", help="as from_pretrained takes")
    parser.add_argument("data", type=Path, help="Kaldi-style set of files")
    parser.add_argument("--fit", action="store_true", help="print the best time_shift")
    parser.add_argument("--utterances", type=int, help="the first so many only")
    return parser


def running_mass(weights: np.ndarray, words: int) -> np.ndarray:
    """Running sum (T + 1,) of weights (T,), scaled to the words and end-of-sentence."""
    mass = np.concatenate([[0.0], weights.astype(np.float64).cumsum()])
    return mass * (words + 1) / mass[-1]


def firing_times(weights: np.ndarray, words: int, frame: float) -> np.ndarray:
    """Ends of the firings (words + 1,), end-of-sentence last, in seconds."""
    mass = running_mass(weights, words)
    return np.interp(np.arange(words + 1) + 1.0, mass, np.arange(len(mass))) * frame


def funasr(ends: np.ndarray, frame: float) -> list[tuple[float, float]]:
    """A token from its own firing to the next, 1.5 frames earlier, at most 12 long.

    As `ts_prediction_lfr6_standard` of FunASR, with the frames of the model at hand;
    what a token is longer counts as a pause.
    """
    fired = np.maximum(ends - 1.5 * frame, 0.0)
    longest = 12 * frame
    return [
        (start, min(end, start + longest)) for start, end in itertools.pairwise(fired)
    ]


def energy_end(samples: np.ndarray, start: float) -> float:
    """End of the last 10 ms after `start` within 25 dB of the loudest."""
    size = RATE // 100
    power = (samples[: len(samples) // size * size].reshape(-1, size) ** 2).mean(1)
    loud = np.flatnonzero(power > power.max() / 10**2.5)
    loud = loud[loud >= start * 100]
    return (loud[-1] + 1) / 100 if len(loud) else start


def own_mass(
    weights: np.ndarray, words: list[AlignedWord], frame: float
) -> list[float]:
    """Share of a token's mass in its word, from AHEAD before its start to its end."""
    mass = running_mass(weights, len(words))
    at = np.arange(len(mass)) * frame
    shares = []
    for k, word in enumerate(words):
        stretch = np.interp([word.start - AHEAD, word.end], at, mass)
        begin, end = np.clip(stretch, k, k + 1)
        shares.append(float(end - begin))
    return shares


def collect(
    model: str, data: Path, most: int | None
) -> tuple[list[Timed], int, float, list[float]]:
    """Words of all utterances that can be compared, their number, time_shift.

    And of all that can be aligned the share of each word's mass that is its own.
    """
    import espnet_hkd
    from espnet_hkd.recognize.spans import mass_centres, spans
    from espnet_hkd.speech.loudness import loudness

    recognizer = espnet_hkd.from_pretrained(model)
    decoder, frame = recognizer.model.decoder, recognizer.frame_seconds
    decoder.times = "ctc"
    found, used, own = [], 0, []
    for samples, words in list(read_set(data).values())[:most]:
        aligned = align(samples, words)
        if aligned is None:
            continue
        # By the frames of the recording, also where the model shortens its pauses.
        weights = recognizer.firing(samples, sample_rate=RATE).weights
        own += own_mass(weights, aligned, frame)
        (transcript,) = recognizer(samples, sample_rate=RATE)
        if [t.symbol for t in transcript.tokens] != words:
            continue
        seconds = len(samples) / RATE
        ends = firing_times(weights, len(words), frame)
        power = loudness(samples, RATE)
        centres = mass_centres(weights, len(words)) * frame
        rows: dict[str, Any] = {
            "ctc": [(t.start, t.end) for t in transcript.tokens],
            "cif": spans(centres, power, seconds, decoder.time_shift).tolist(),
            "firing": list(itertools.pairwise([0.0, *ends])),
            "FunASR": funasr(ends, frame),
        }
        used += 1
        for k, word in enumerate(aligned):
            last = k == len(words) - 1
            heard = energy_end(samples, word.start) if last else 0.0
            times = {way: tuple(rows[way][k]) for way in rows}
            found.append(Timed(word, last, heard, times))
    return found, used, decoder.time_shift, own


def row(name: str, errors: np.ndarray) -> str:
    """Mean, median and 90th percentile of absolute errors, in ms."""
    size = np.abs(errors)
    values = [errors.mean(), np.median(size), np.quantile(size, 0.9)]
    return f"{name} | " + " | ".join(f"{1000 * value:.0f}" for value in values)


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    words, used, shift, own = collect(args.model, args.data, args.utterances)
    starts = np.array([w.aligned.start for w in words])
    ends = np.array([w.aligned.end for w in words])
    last = np.array([w.last for w in words])
    print(f"{args.model}, {args.data}: {used} utterances, {len(words)} words")
    print("\n| times, ms | mean error | median absolute | 90th percentile |")
    print("|---|---|---|---|")
    for way in ("ctc", "cif", "firing", "FunASR"):
        found = np.array([w.found[way] for w in words])
        print(f"| {row(f'{way}: starts', found[:, 0] - starts)} |")
        print(f"| {row(f'{way}: ends', found[:, 1] - ends)} |")
        inner = ~last
        print(
            f"| {row(f'{way}: ends, last words apart', (found[:, 1] - ends)[inner])} |"
        )
        print(f"| {row(f'{way}: ends of last words', (found[:, 1] - ends)[last])} |")
        energy = np.array([w.energy_end for w in words if w.last])
        print(
            f"| {row(f'{way}: the same against the energy', found[last, 1] - energy)} |"
        )
    bias = row("the aligner: last words against the energy", ends[last] - energy)
    print(f"| {bias} |")
    print(f"\nMass of a token in its own word, all utterances: {np.mean(own):.2f}")
    if args.fit:
        print(f"\nFor a median error of 0 in the starts, instead of {shift}:")
        for way in ("ctc", "cif"):
            found = np.array([w.found[way][0] for w in words])
            best = shift - np.median(found - starts)
            print(f"  {way}: decoder_conf.time_shift={best:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
