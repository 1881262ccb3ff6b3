"""Words that a model hears in pauses: AN4 with pauses put in, before, after and within.

For each kind of pause, place and length some utterances are recognised with and without
it. A word is inside the pause if its middle is, by its times; words more are those
beyond what the utterance gives without the pause, and may be words that it lacked
there. Pauses within stand at a gap between two words, by an independent aligner
(`benchmarks/aligner.py`). Room noise is what that recording holds before and after its
words, without clicks and breaths: pieces of 0.1 s, joined at random, none of them over
6 dB louder than the quietest. The kind `around` has them too: a storm of clicks and
parts of breaths, which no room makes.

    python benchmarks/pauses.py MODEL.zip AN4/train_dev
    python benchmarks/pauses.py MODEL.zip AN4/train_dev --kinds around
    python benchmarks/pauses.py MODEL.zip AN4/train_dev --stock --seconds 0.5 2 8 25

With --stock, ESPnet's own `Speech2Text` recognises, whole files at once; it gives no
times. Files longer than --longest are left out.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from aligner import RATE, AlignedWord, align, read_set

KINDS = ("zeros", "room", "white-60", "white-50", "white-40", "white-30")
ALL_KINDS = (*KINDS, "around")
PLACES = ("before", "after", "within")
SECONDS = (0.5, 2.0, 8.0, 30.0, 120.0)
SHORTEST_GAP = 0.1  # seconds, by the aligner
# A piece that is louder by more than the quietest is a click or a breath. So much is
# what `espnet_hkd.speech.pauses.find_gaps` calls the room, too.
ROOM_VARIES = 6.0  # dB


class Case(NamedTuple):
    """An utterance with a pause in it, in seconds."""

    id: str
    kind: str
    place: str
    seconds: float
    samples: np.ndarray
    begin: float


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Count words that are recognised in pauses.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("model", help="as from_pretrained takes")
    parser.add_argument("data", type=Path, help="Kaldi-style set of files")
    parser.add_argument("--utterances", type=int, default=5, help="of each case")
    parser.add_argument("--seconds", type=float, nargs="+", default=SECONDS)
    parser.add_argument("--kinds", nargs="+", choices=ALL_KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--longest", type=float, default=1e9, help="seconds of a file, pause included"
    )
    parser.add_argument("--stock", action="store_true", help="by Speech2Text")
    parser.add_argument("--decoding", type=Path, help="YAML, for --stock")
    parser.add_argument("--show", action="store_true", help="each text that changes")
    return parser


def quiet_parts(samples: np.ndarray, words: list[AlignedWord]) -> list[np.ndarray]:
    """Pieces of 0.1 s of a recording, well away from its words, clicks among them."""
    size = RATE // 10
    first = int((words[0].start - 0.1) * RATE)
    last = int((words[-1].end + 0.1) * RATE)
    parts = [samples[i : i + size] for i in range(0, first - size, size)]
    parts += [samples[i : i + size] for i in range(last, len(samples) - size, size)]
    return parts


def join_pieces(
    parts: list[np.ndarray], length: int, rng: np.random.Generator
) -> np.ndarray:
    """Pieces in random order and direction, each faded into the next."""
    size = len(parts[0])
    fade = size // 4
    ramp = np.sqrt(np.linspace(0, 1, fade))
    window = np.concatenate([ramp, np.ones(size - 2 * fade), ramp[::-1]])
    noise = np.zeros(length + 2 * size)
    for begin in range(0, length + fade, size - fade):
        piece = parts[rng.integers(len(parts))]
        noise[begin : begin + size] += window * piece[:: rng.choice([-1, 1])]
    return noise[fade : fade + length].astype(np.float32)


def make_pause(
    kind: str, parts: list[np.ndarray], length: int, rng: np.random.Generator
) -> np.ndarray:
    if kind == "room":
        powers = np.array([np.mean(np.square(part, dtype=float)) for part in parts])
        quiet = powers <= powers.min() * 10 ** (ROOM_VARIES / 10)
        parts = [parts[place] for place in np.flatnonzero(quiet)]
    if kind in ("room", "around"):
        return join_pieces(parts, length, rng)
    if kind == "zeros":
        return np.zeros(length, np.float32)
    level = 10 ** (float(kind.removeprefix("white")) / 20)
    return (level * rng.standard_normal(length)).astype(np.float32)


def cut_at(
    place: str, samples: np.ndarray, words: list[AlignedWord], rng: np.random.Generator
) -> int:
    """Where the pause goes in, in samples."""
    if place != "within":
        return 0 if place == "before" else len(samples)
    gaps = [
        (a.end + b.start) / 2
        for a, b in itertools.pairwise(words)
        if b.start - a.end >= SHORTEST_GAP
    ]
    return int(gaps[rng.integers(len(gaps))] * RATE)


def usable(utterances: dict, count: int, seed: int) -> tuple[dict, dict]:
    """As many utterances, drawn, that have quiet parts and, for within, a gap."""
    rng = np.random.default_rng(seed)
    ids = list(utterances)
    ends, within = {}, {}
    for i in rng.permutation(len(ids)):
        if len(ends) >= count and len(within) >= count:
            break
        samples, words = utterances[ids[i]]
        aligned = align(samples, words)
        if aligned is None or not quiet_parts(samples, aligned):
            continue
        ends[ids[i]] = aligned
        if any(b.start - a.end >= SHORTEST_GAP for a, b in itertools.pairwise(aligned)):
            within[ids[i]] = aligned
    return dict(list(ends.items())[:count]), dict(list(within.items())[:count])


def cases(args: argparse.Namespace, utterances: dict) -> Iterator[Case]:
    """All cases, one after the other."""
    ends, within = usable(utterances, args.utterances, args.seed)
    rng = np.random.default_rng(args.seed)
    for kind in args.kinds:
        for place in PLACES:
            for seconds in args.seconds:
                for id, words in (within if place == "within" else ends).items():
                    samples = utterances[id][0]
                    cut = cut_at(place, samples, words, rng)
                    parts = quiet_parts(samples, words)
                    pause = make_pause(kind, parts, round(seconds * RATE), rng)
                    joined = np.concatenate([samples[:cut], pause, samples[cut:]])
                    yield Case(id, kind, place, seconds, joined, cut / RATE)


def by_recognizer(model: str) -> Callable[[np.ndarray], tuple[list[str], list[float]]]:
    """Words of a recording, and the middle of each token."""
    import espnet_hkd

    recognizer = espnet_hkd.from_pretrained(model)

    def recognize(samples: np.ndarray) -> tuple[list[str], list[float]]:
        (found,) = recognizer(samples, sample_rate=RATE)
        return found.text.split(), [(t.start + t.end) / 2 for t in found.tokens]

    return recognize


def by_espnet(
    model: str, decoding: Path | None
) -> Callable[[np.ndarray], tuple[list[str], list[float]]]:
    """Words by ESPnet's own search, as `asr_inference` does it."""
    import yaml
    from espnet2.bin.asr_inference import Speech2Text

    import espnet_hkd
    from espnet_hkd.pretrained.packed import open_packed

    espnet_hkd.register()
    packed = open_packed(model)
    options = yaml.safe_load(decoding.read_text()) if decoding else {"ctc_weight": 0.3}
    options.pop("lm_weight", None)
    search = Speech2Text(str(packed.config), str(packed.weights), **options)
    # The files must live as long as they are read.
    search.kept = packed  # type: ignore[attr-defined]

    def recognize(samples: np.ndarray) -> tuple[list[str], list[float]]:
        return (search(samples)[0][0] or "").split(), []

    return recognize


def errors(reference: list[str], words: list[str]) -> int:
    """Edit distance."""
    row = list(range(len(words) + 1))
    for i, wanted in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, word in enumerate(words, 1):
            before, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, before + (wanted != word)),
            )
    return row[-1]


def main(argv: list[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    utterances = read_set(args.data)
    recognize = (
        by_espnet(args.model, args.decoding)
        if args.stock
        else by_recognizer(args.model)
    )
    began, clean = time.time(), {}
    table: dict[tuple[str, str, str], np.ndarray] = {}
    for case in cases(args, utterances):
        if len(case.samples) > args.longest * RATE:
            continue
        reference = utterances[case.id][1]
        if case.id not in clean:
            clean[case.id], _ = recognize(utterances[case.id][0])
        words, middles = recognize(case.samples)
        end = case.begin + case.seconds
        found = [
            1,
            sum(case.begin < middle < end for middle in middles),
            max(len(words) - len(clean[case.id]), 0),
            words != clean[case.id],
            len(reference),
            errors(reference, clean[case.id]),
            errors(reference, words),
        ]
        length = f"{case.seconds:g}"
        for key in [
            (case.kind, case.place, length),
            (case.kind, "", ""),
            ("all", "", length),
            ("all", "", ""),
        ]:
            table.setdefault(key, np.zeros(len(found), int))
            table[key] += np.array(found, int)
        if args.show and words != clean[case.id]:
            print(case.id, *case[1:4], "|", *clean[case.id], "|", *words, flush=True)
    print(f"{args.model}, {args.data}, seed {args.seed}, {time.time() - began:.0f} s")
    print(
        "| pause | place | seconds | cases | words inside | words more | texts changed "
        "| WER without, with |"
    )
    print("|---|---|---|---|---|---|---|---|")
    # Sums over places, lengths and kinds come last.
    for key in sorted(table, key=lambda key: (not key[1], not key[2], key[0] == "all")):
        n, inside, more, changed, size, before, after = table[key]
        heard = "" if args.stock else inside
        rates = f"{100 * before / size:.2f}, {100 * after / size:.2f}"
        print(
            f"| {' | '.join(key)} | {n} | {heard} | {more} | {changed} | {rates} |",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
