"""Errors a user can cause: each says what was got, what was wanted, and how to mend it.

None derives from RuntimeError, KeyError or ValueError: ESPnet catches some of those
and carries on, and a problem that was named once must not be lost on its way up.
"""

from __future__ import annotations

from collections.abc import Collection, Set


class HKDError(Exception):
    """A problem the user can mend.

    Args:
        problem: One sentence: what went wrong, with the name of the thing.
        got: What was found.
        wanted: What would have been right, with the valid names where there are few.
        remedy: What to do about it, a command where there is one.
    """

    def __init__(
        self,
        problem: str,
        *,
        got: object,
        wanted: object,
        remedy: str,
    ) -> None:
        self.problem = problem
        self.got = got
        self.wanted = wanted
        self.remedy = remedy
        super().__init__(
            printable(
                f"{problem}\n  got:    {got}\n  wanted: {wanted}\n  remedy: {remedy}"
            )
        )

    def __reduce__(self):
        # Keyword arguments survive the way from a worker process to its parent.
        return _rebuild, (type(self), self.problem, self.got, self.wanted, self.remedy)


def printable(text: str) -> str:
    """A text that does nothing to a terminal: control characters as escapes.

    >>> print(printable("red: \\x1b[31m"))
    red: \\x1b[31m
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _rebuild(cls, problem, got, wanted, remedy):
    return cls(problem, got=got, wanted=wanted, remedy=remedy)


class ConfigError(HKDError):
    """An option of the YAML or the command line has a value that cannot work."""


class DataError(HKDError):
    """A corpus, an audio file or a transcript is missing or not as it should be."""


class PLMError(HKDError):
    """A pre-trained language model cannot serve as teacher."""


class StoreError(HKDError):
    """A teacher store is missing, damaged, of another model or of another format."""


class MissingTeacherError(StoreError):
    """A teacher store lacks a transcript."""


class AlignmentError(HKDError):
    """Student tokens cannot be placed on the transcript."""


class CheckpointError(HKDError):
    """Weights, token list and configuration do not belong together."""


class SearchError(HKDError):
    """A decoding configuration asks for what this model cannot do."""


def some(names: Collection[str], most: int = 5) -> str:
    """The first few of many names, for an error's text; those of a set are sorted."""
    listed = sorted(names) if isinstance(names, Set) else list(names)
    shown = ", ".join(listed[:most]) or "none"
    return shown + (f" and {len(listed) - most} more" if len(listed) > most else "")
