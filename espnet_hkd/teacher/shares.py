"""What a store can teach: how much of its states words and sentences explain.

A student that says the right token has learnt what the token explains, without any
teacher; what a whole sentence has in common needs the words to come, which a decoder
that goes from left to right cannot know. What the token before adds is context that it
can have. So a layer can be chosen in a minute, before any training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_hkd.teacher.align import END_SPAN
from espnet_hkd.teacher.store import TeacherStore

# Every so many-th text is held out.
HELD_OUT = 5
# A table's mean is drawn towards the coarser table's as by so many more states.
PRIOR = 1.0


@dataclass(frozen=True)
class Shares:
    """Shares of the variance of the states of held-out texts, first pieces apart.

    Attributes:
        token: Explained by the mean of the piece's other occurrences.
        pair: By those of the piece and the one before it.
        sentence: Common to the pieces of a sentence, whatever they are (the intraclass
            correlation, of all texts).
    """

    token: float
    pair: float
    sentence: float


@dataclass(frozen=True)
class Pieces:
    """Pieces of some texts, first pieces and end tokens apart.

    Attributes:
        states: (N, E) float32.
        names: N: the characters of each piece.
        before: N: those of the piece before it.
        texts: (N,) number of the text.
        first_length: Mean length of the first pieces' states over that of the others:
            far above 1 where the first piece is an attention sink.
    """

    states: np.ndarray
    names: list[str]
    before: list[str]
    texts: np.ndarray
    first_length: float

    @property
    def held(self) -> np.ndarray:
        """(N,) bool: of a text that is held out."""
        return self.texts % HELD_OUT == HELD_OUT - 1


def read_pieces(store: TeacherStore, texts: Sequence[str]) -> Pieces:
    """The pieces of the texts that the store holds.

    Raises:
        MissingTeacherError: It lacks one of them.
    """
    states, names, before, owners, firsts = [], [], [], [], []
    for number, text in enumerate(texts):
        entry = store[text]
        inner = [at for at, span in enumerate(entry.spans) if tuple(span) != END_SPAN]
        said = [text[begin:end] for begin, end in entry.spans[inner]]
        firsts.append(np.linalg.norm(entry.states[inner[:1]].astype(np.float32)))
        states.append(entry.states[inner[1:]].astype(np.float32))
        names += said[1:]
        before += said[:-1]
        owners += [number] * (len(said) - 1)
    all_states = np.concatenate(states)
    length = float(np.linalg.norm(all_states, axis=1).mean())
    return Pieces(
        all_states,
        names,
        before,
        np.array(owners),
        float(np.mean(firsts)) / max(length, 1e-9),
    )


def explained(pieces: Pieces, states: np.ndarray) -> Shares:
    """Shares for states (N, E): the pieces' own, or standardised ones."""
    held = pieces.held
    mean = states[~held].mean(axis=0)
    tokens = _tabulate(pieces.names, states, ~held, np.broadcast_to(mean, states.shape))
    pairs = list(zip(pieces.before, pieces.names, strict=True))
    both = _tabulate(pairs, states, ~held, tokens)
    total = ((states[held] - mean) ** 2).sum()
    return Shares(
        token=1 - float(((states - tokens)[held] ** 2).sum() / total),
        pair=1 - float(((states - both)[held] ** 2).sum() / total),
        sentence=_intraclass(states, pieces.texts),
    )


def _tabulate(
    keys: Sequence[Hashable], states: np.ndarray, train: np.ndarray, coarser: np.ndarray
) -> np.ndarray:
    """What a table of means over the training rows says of every row: (N, E)."""
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    said = np.array(coarser)
    for own in rows.values():
        known = [row for row in own if train[row]]
        if known:
            total = states[known].sum(axis=0) + PRIOR * coarser[own[0]]
            said[own] = total / (len(known) + PRIOR)
    return said


def _intraclass(states: np.ndarray, texts: np.ndarray) -> float:
    """Share of the variance between texts (one-way random effects, by moments)."""
    _, group = np.unique(texts, return_inverse=True)
    size = np.bincount(group)
    sums = np.zeros((len(size), states.shape[1]))
    np.add.at(sums, group, states)
    mean = states.mean(axis=0)
    between = (size[:, None] * (sums / size[:, None] - mean) ** 2).sum()
    within = ((states - mean) ** 2).sum() - between
    groups, number = len(size), len(states)
    if groups < 2 or number <= groups:
        return 0.0
    typical = (number - (size**2).sum() / number) / (groups - 1)
    inner = within / (number - groups)
    outer = (between / (groups - 1) - inner) / typical
    return float(max(outer, 0.0) / (max(outer, 0.0) + inner))


def describe_shares(store: TeacherStore, texts: Sequence[str]) -> str:
    """What the store can teach, one fact a line."""
    pieces = read_pieces(store, texts)
    moments = store.moments
    variance = float((moments.deviation.astype(np.float64) ** 2).sum())
    lines = [
        f"variance of the states, summed over {len(moments.mean)} dimensions: "
        f"{variance:.4g}; of it in the largest: "
        + ", ".join(f"{n}: {moments.variance_share(n):.0%}" for n in (1, 3, 10)),
        f"first pieces are {pieces.first_length:.2g} times as long as the others",
    ]
    if pieces.held.all() or not pieces.held.any():
        few = "too few to say what is explained; some hundred say it well"
        return "\n".join([*lines, f"{len(texts)} texts are {few}"])
    raw = explained(pieces, pieces.states)
    even = explained(pieces, moments.standardise(pieces.states))
    lines += [
        f"explained in held-out texts ({len(texts):,} texts, first pieces apart):",
        "                          as stored  standardised",
    ]
    for name, wording in (
        ("token", "by the piece"),
        ("pair", "and the piece before it"),
        ("sentence", "common to the sentence"),
    ):
        values = f"{getattr(raw, name):>9.0%}  {getattr(even, name):>12.0%}"
        lines.append(f"  {wording:<24}{values}")
    return "\n".join(lines)
