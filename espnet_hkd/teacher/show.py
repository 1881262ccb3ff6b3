"""A teacher store for human eyes: its facts, and one sentence token by token."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from espnet_hkd.errors import printable
from espnet_hkd.teacher.align import END_SPAN, Alignment
from espnet_hkd.teacher.store import FORMAT, TeacherStore


def describe(store: TeacherStore) -> str:
    """The facts of a store, one a line."""
    settings = store.settings
    facts = {
        "store": store.folder,
        "format": FORMAT,
        "PLM": settings.plm,
        "digest": settings.digest,
        "stored in": settings.quantisation or "full precision",
        "layer": settings.layer,
        "width (E)": settings.width,
        "dtype": settings.dtype,
        "read as": "lower case" if settings.lower else "written",
        "cleaner": settings.cleaner or "none",
        "texts": f"{len(store):,}",
        "pieces": f"{store.pieces:,} ({store.pieces / max(1, len(store)):.1f} a text)",
        "size": f"{store.bytes / 2**20:.1f} MiB in {len(store.shards)} shard(s)",
    }
    return "\n".join(
        f"{name + ':':<11}{printable(str(fact))}" for name, fact in facts.items()
    )


def alignment_table(
    text: str, tokens: Sequence[str], spans: np.ndarray, alignment: Alignment
) -> str:
    """Student tokens, the pieces that teach them, and their weights.

    Args:
        text: Canonical text.
        tokens: (U - 1) student tokens, eos not among them.
        spans: (S, 2) of the pieces.
        alignment: Of the two.
    """
    names = [printable(_piece_name(text, begin, end)) for begin, end in spans]
    rows = []
    for token, weights in zip([*tokens, "<eos>"], alignment.weights, strict=True):
        pieces = [f"{names[s]} {weights[s]:.2f}" for s in np.flatnonzero(weights)]
        rows.append((printable(token), "  ".join(pieces) or "(no teacher)"))
    width = max(_columns(token) for token, _ in rows) + 2
    lines = [token + " " * (width - _columns(token)) + pieces for token, pieces in rows]
    taught = f"{alignment.valid.sum()} of {len(rows)} tokens have a teacher"
    return "\n".join([*lines, taught])


def _piece_name(text: str, begin: int, end: int) -> str:
    """The characters a piece covers; the store does not hold its name."""
    return "<end>" if (begin, end) == END_SPAN else text[begin:end]


def _columns(token: str) -> int:
    """Columns of a terminal: two for a character of East Asian width."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in token
    )
