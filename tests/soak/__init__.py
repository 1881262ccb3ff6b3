"""Long attacks on what the project promises: `make soak`, at most half an hour.

Each part is a module here with `soak(folder, seed)`, which returns the rows that it
adds to the table; a promise that was broken is a row, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table: how often something was tried, and how often it held."""

    what: str
    tries: int
    held: int
    note: str = ""
