"""Checks of a configuration's values, which ESPnet hands to our classes as they come.

An option is named as the YAML has it: `decoder_conf.tail`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

from espnet_hkd.errors import ConfigError


def check_known(section: str, unknown: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keys that a section of the configuration does not have.

    Raises:
        ConfigError: `unknown` is not empty.
    """
    keys = ", ".join(sorted(unknown))
    if keys:
        raise ConfigError(
            f"unknown key in {section}: {keys}",
            got=keys,
            wanted=", ".join(known),
            remedy="correct its spelling in the training configuration, or remove it",
        )


def check_number(
    option: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """Return a finite number within the limits that are given.

    Raises:
        ConfigError: It is no number (YAML reads 1e-3 as text), or beyond a limit.
    """
    limits = [
        (least, "at least {}", lambda v, b: v >= b),
        (above, "above {}", lambda v, b: v > b),
        (most, "at most {}", lambda v, b: v <= b),
        (below, "below {}", lambda v, b: v < b),
    ]
    limits = [limit for limit in limits if limit[0] is not None]
    number = is_number(value)
    if (
        not number
        or not math.isfinite(value)
        or not all(holds(value, bound) for bound, _, holds in limits)
    ):
        raise ConfigError(
            f"{option} is out of range" if number else f"{option} is not a number",
            got=repr(value),
            wanted="a number " + ", ".join(text.format(b) for b, text, _ in limits),
            remedy=remedy(option, value),
        )
    return float(value)


def check_whole(option: str, value: Any, *, least: int = 1) -> int:
    """Return a whole number of at least `least`.

    Raises:
        ConfigError: It is none, or less.
    """
    if not is_whole(value) or value < least:
        raise ConfigError(
            f"{option} is out of range",
            got=repr(value),
            wanted=f"a whole number, at least {least}",
            remedy=remedy(option, value),
        )
    return value


def check_switch(option: str, value: Any) -> bool:
    """Return a truth value.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(value, bool):
        raise ConfigError(
            f"{option} is a switch",
            got=repr(value),
            wanted="true or false",
            remedy=remedy(option, value),
        )
    return value


def is_number(value: Any) -> bool:
    """Whether a value is a real number; Python counts True among them, users don't."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def remedy(option: str, value: Any = None) -> str:
    """How to mend an option; explains numbers that YAML reads as text.

    >>> remedy("decoder_conf.tail", "4e-1")
    'write decoder_conf.tail without quotes; YAML takes 1e-3 for text and wants 1.0e-3'
    """
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            pass
        else:
            return (
                f"write {option} without quotes; YAML takes 1e-3 for text and wants "
                "1.0e-3"
            )
    return f"correct {option} in the configuration"
