"""Several systems on one test set: error rates, changes, lengths, ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_hkd.compare.align import Errors, count_errors
from espnet_hkd.compare.bootstrap import (
    Interval,
    interval,
    relative_change,
    resampled_rates,
)
from espnet_hkd.compare.frequencies import wrong_by_frequency
from espnet_hkd.compare.read import EvalSet
from espnet_hkd.errors import ConfigError

GROUPS = ("speaker", "utterance")

# Last lengths of the bins; one more holds what is longer.
BINS = {"word": (2, 5, 10, 20), "char": (10, 20, 40, 80)}


@dataclass(frozen=True)
class Result:
    """What one system did.

    Attributes:
        name, folder: As they were given.
        errors: Of each utterance.
        rate: Errors of all utterances by tokens of all references.
        rate_interval: Where the rate lies in 95 % of the resamples.
        change: Relative to the first system's rate; None for the first system itself,
            and where that makes no error.
        change_interval: Of `change`, paired; None as well where a resample has no error
            of the first system.
        fewer: Share of the resamples with fewer errors than the first system; None for
            the first system itself.
    """

    name: str
    folder: str
    errors: Errors
    rate: float
    rate_interval: Interval
    change: float | None
    change_interval: Interval | None
    fewer: float | None

    @property
    def wrong(self) -> int:
        """Utterances with at least one error."""
        return int((self.errors.total > 0).sum())


@dataclass(frozen=True)
class Bin:
    """Utterances of like length.

    Attributes:
        name: The lengths, such as "3-5".
        utterances, words: How many it holds.
        rates: Of each system.
    """

    name: str
    utterances: int
    words: int
    rates: list[float]


@dataclass(frozen=True)
class Comparison:
    """All of it, with the settings that it depends on.

    Attributes:
        utterances, words: Of the test set, which every training has read once.
        group: What was drawn: "speaker" or "utterance".
        speakers: How many there are; None where nothing tells.
        trainings: Trainings of each system, whose errors are pooled.
        frequencies: Wrong tokens by how often they stand in the training text: how many
            the references have, and how many of them each system has wrong; None
            without such a text.
    """

    unit: str
    utterances: int
    words: int
    speakers: int | None
    group: str
    resamples: int
    seed: int
    case_sensitive: bool
    results: list[Result]
    bins: list[Bin]
    trainings: int = 1
    frequencies: dict[str, tuple[int, list[int]]] | None = None


def compare(
    eval_set: EvalSet,
    *,
    group: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    bins: Sequence[int] | None = None,
    training: Iterable[Iterable[str]] | None = None,
) -> Comparison:
    """Count errors and tell what of their differences may be chance.

    Args:
        eval_set: From `read_eval_set`.
        group: What a resample draws, "speaker" or "utterance"; None: speakers where
            there are several.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        bins: Last lengths of the bins, rising; None: `BINS` of the unit.
        training: Tokens of each training utterance; None: no table of frequencies.

    Raises:
        ConfigError: An option that cannot work.
    """
    speakers = None if eval_set.speakers is None else len(set(eval_set.speakers))
    bins = BINS[eval_set.unit] if bins is None else bins
    group = _group(group, speakers)
    _check(resamples, bins)
    counted = [
        count_errors(eval_set.references, system.hypotheses)
        for system in eval_set.systems
    ]
    words = counted[0].words
    totals = np.stack([errors.total for errors in counted])
    drawn = eval_set.speakers if group == "speaker" else eval_set.utterances
    assert drawn is not None
    rates = resampled_rates(totals, words, drawn, resamples=resamples, seed=seed)
    results = []
    for n, (system, errors) in enumerate(zip(eval_set.systems, counted, strict=True)):
        first = totals[0].sum()
        known = n > 0 and first > 0
        results.append(
            Result(
                system.name,
                system.folder,
                errors,
                rate=float(totals[n].sum() / words.sum()),
                rate_interval=interval(rates[:, n]),
                change=float(totals[n].sum() / first - 1) if known else None,
                change_interval=relative_change(rates[:, n], rates[:, 0])
                if known
                else None,
                fewer=float((rates[:, n] < rates[:, 0]).mean()) if n else None,
            )
        )
    return Comparison(
        unit=eval_set.unit,
        utterances=len(words) // eval_set.trainings,
        words=int(words.sum()) // eval_set.trainings,
        speakers=speakers,
        group=group,
        resamples=resamples,
        seed=seed,
        case_sensitive=eval_set.case_sensitive,
        results=results,
        bins=_by_length(words, totals, bins, eval_set.trainings),
        trainings=eval_set.trainings,
        frequencies=None
        if training is None
        else wrong_by_frequency(eval_set, training),
    )


def _group(group: str | None, speakers: int | None) -> str:
    if group is None:
        return "speaker" if speakers is not None and speakers > 1 else "utterance"
    if group not in GROUPS:
        raise ConfigError(
            f"A resample cannot draw by {group!r}.",
            got=group,
            wanted=" or ".join(GROUPS),
            remedy="give --group speaker or --group utterance",
        )
    if group == "speaker" and (speakers is None or speakers < 2):
        raise ConfigError(
            "A resample cannot draw speakers.",
            got="one speaker" if speakers else "nothing that names the speakers",
            wanted="several speakers",
            remedy="give --utt2spk FILE, or --group utterance",
        )
    return group


def _check(resamples: int, bins: Sequence[int]) -> None:
    if resamples < 1:
        raise ConfigError(
            "An interval needs resamples.",
            got=resamples,
            wanted="1000 or more, at the least 1",
            remedy="leave --resamples at its default",
        )
    if any(b <= a for a, b in zip([0, *bins], bins, strict=False)):
        raise ConfigError(
            "The bins of utterance lengths do not rise.",
            got=",".join(map(str, bins)),
            wanted="last lengths from 1 up, such as 2,5,10,20",
            remedy="correct --bins",
        )


def _by_length(
    words: np.ndarray, totals: np.ndarray, bins: Sequence[int], trainings: int
) -> list[Bin]:
    """Errors by the reference's length, bins without utterances left out."""
    found = []
    firsts = [1, *(last + 1 for last in bins)]
    for first, last in zip(firsts, [*bins, None], strict=True):
        inside = words >= first
        if last is not None:
            inside &= words <= last
        if inside.any():
            name = f"over {first - 1}" if last is None else f"{first}-{last}"
            count = int(words[inside].sum())
            found.append(
                Bin(
                    str(first) if first == last else name,
                    int(inside.sum()) // trainings,
                    count // trainings,
                    (totals[:, inside].sum(1) / count).tolist(),
                )
            )
    return found
