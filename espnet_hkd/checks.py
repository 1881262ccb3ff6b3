"""Checks of what a configuration gives; ESPnet passes its values on unchecked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

from espnet_hkd.errors import ConfigError


def check_keys(
    section: str, given: Iterable[str], owner: type, others: Iterable[str] = ()
) -> None:
    """Check the keys that a constructor has no argument for.

    Args:
        section: Where they stand, such as `model_conf`.
        given: The keys.
        owner: The class, whose keyword-only arguments are listed in the error.
        others: Keys that it takes besides.

    Raises:
        ConfigError: For a key that is not in `others`.
    """
    unknown = sorted(set(given) - set(others))
    if unknown:
        parameters = inspect.signature(owner).parameters.values()
        own = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        raise ConfigError(
            f"unknown key in {section}: {', '.join(unknown)}",
            wanted=", ".join(sorted((*own, *others))),
        )


def check_number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """Return a finite number within limits; `name` is SECTION.KEY.

    Raises:
        ConfigError: It is none, or out of range.
    """
    limits = [
        (least, "at least {}", lambda v, b: v >= b),
        (above, "above {}", lambda v, b: v > b),
        (most, "at most {}", lambda v, b: v <= b),
        (below, "below {}", lambda v, b: v < b),
    ]
    limits = [limit for limit in limits if limit[0] is not None]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if (
        not number
        or not math.isfinite(value)
        or not all(holds(value, bound) for bound, _, holds in limits)
    ):
        raise ConfigError(
            f"{name} is out of range",
            got=repr(value),
            wanted="a number " + ", ".join(text.format(b) for b, text, _ in limits),
        )
    return float(value)


def check_whole(
    name: str,
    value: Any,
    *,
    least: int = 1,
    wanted: str = "",
    remedy: str | None = None,
) -> int:
    """Return a whole number, `least` or more; `wanted` and `remedy` say more of it.

    Raises:
        ConfigError: It is none, or too small.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(
            f"{name} is out of range",
            got=repr(value),
            wanted=f"a whole number, at least {least}{wanted}",
            remedy=remedy,
        )
    return value


def check_divides(name: str, heads: int, size: int) -> None:
    """Check that attention heads, named SECTION.KEY, divide the width.

    Raises:
        ConfigError: They do not.
    """
    if size % heads:
        raise ConfigError(
            f"{name} does not divide the width",
            got=f"{heads} heads for size {size}",
            wanted=f"a divisor of {size}",
        )


def check_switch(name: str, value: Any) -> bool:
    """Return true or false.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(value, bool):
        raise ConfigError(
            f"{name} is a switch", got=repr(value), wanted="true or false"
        )
    return value
