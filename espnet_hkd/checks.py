"""Checks of what a configuration gives; ESPnet passes its values on unchecked."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from espnet_hkd.errors import ConfigError


def check_keys(
    section: str,
    given: Iterable[str],
    owner: type,
    others: Iterable[str] = (),
    *,
    void: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check the keys that a constructor has no argument for.

    Args:
        section: Where they stand, such as `model_conf`.
        given: The keys.
        owner: The class, whose keyword-only arguments are listed in the error.
        others: Keys that it takes besides.
        void: Keys that ESPnet's own classes take, and why they do not apply here.

    Raises:
        ConfigError: For a key that is not in `others`.
    """
    unknown = sorted(set(given) - set(others))
    for key in unknown:
        if key in void:
            raise ConfigError(
                f"{section}.{key} does not apply, because {void[key]}",
                got=f"{section}.{key}, an option of ESPnet's own classes",
                wanted=f"a configuration of {owner.__name__}",
                remedy="remove it",
            )
    if unknown:
        parameters = inspect.signature(owner).parameters.values()
        own = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        raise ConfigError(
            f"unknown key in {section}: {', '.join(unknown)}",
            got=", ".join(unknown),
            wanted=", ".join(sorted({*own, *others})),
            remedy="correct its spelling in the configuration, or remove it",
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
        ConfigError: It is none (YAML reads 1e-3 as text), or out of range.
    """
    limits = [
        (least, "at least {}", lambda v, b: v >= b),
        (above, "above {}", lambda v, b: v > b),
        (most, "at most {}", lambda v, b: v <= b),
        (below, "below {}", lambda v, b: v < b),
    ]
    limits = [limit for limit in limits if limit[0] is not None]
    if (
        not is_number(value)
        or not math.isfinite(value)
        or not all(holds(value, bound) for bound, _, holds in limits)
    ):
        raise ConfigError(
            f"{name} is out of range",
            got=repr(value),
            wanted="a number " + ", ".join(text.format(b) for b, text, _ in limits),
            remedy=_remedy(name, value),
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
    if not is_whole(value) or value < least:
        raise ConfigError(
            f"{name} is out of range",
            got=repr(value),
            wanted=f"a whole number, at least {least}{wanted}",
            remedy=remedy or _remedy(name, value),
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
            remedy="change one of the two",
        )


def check_switch(name: str, value: Any) -> bool:
    """Return true or false.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(value, bool):
        raise ConfigError(
            f"{name} is a switch",
            got=repr(value),
            wanted="true or false",
            remedy=_remedy(name, value),
        )
    return value


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return one of a few words.

    Raises:
        ConfigError: It is something else.
    """
    if value not in choices:
        raise ConfigError(
            f"{name} has no such value",
            got=repr(value),
            wanted=" or ".join(choices),
            remedy=_remedy(name, value),
        )
    return value


def is_number(value: Any) -> bool:
    """Whether a value is a real number; Python counts True among them, users don't."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _remedy(name: str, value: Any) -> str:
    """How to mend an option; explains numbers that YAML reads as text.

    >>> _remedy("decoder_conf.tail", "4e-1")
    'write decoder_conf.tail without quotes; YAML takes 1e-3 for text and wants 1.0e-3'
    """
    try:
        if isinstance(value, str) and math.isfinite(float(value)):
            return (
                f"write {name} without quotes; YAML takes 1e-3 for text and wants "
                "1.0e-3"
            )
    except ValueError:
        pass
    return f"correct {name} in the configuration"
