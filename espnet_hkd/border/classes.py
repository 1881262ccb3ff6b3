"""The names that ESPnet's options take, and the classes of ours behind them.

This table is the only place where code is loaded by name: `--model hkd_cif` and a
packed configuration hold names, never module paths.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from espnet_hkd.errors import ConfigError, HKDError

# Lower-case names: ESPnet looks names up both as written and lowered.
CLASSES = {
    "model": {"hkd_cif": "espnet_hkd.nets.model:CIFASRModel"},
    "preencoder": {"hkd_short_pauses": "espnet_hkd.nets.short_pauses:ShortPauses"},
    "encoder": {
        "hkd_pooled_conformer": "espnet_hkd.nets.encoder:PooledConformerEncoder"
    },
    "decoder": {"hkd_cif_transformer": "espnet_hkd.nets.decoder:CIFDecoder"},
    "preprocessor": {"hkd_teacher": "espnet_hkd.preprocessor:HKDPreprocessor"},
}


def load_class(path: str) -> type:
    """Import `package.module:Class`."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def add_classes(task: ModuleType) -> None:
    """Add our classes to the choices of one executed ASR task module.

    Safe to call again. Where a class cannot be added, its name stands for one that
    says so when a model is built with it; ESPnet's own classes are not concerned.

    Raises:
        HKDError: A class could not be added, or another package has taken its name;
            all others are added.
    """
    problems = []
    for kind, named in CLASSES.items():
        for name, path in named.items():
            choices = getattr(task, f"{kind}_choices")
            try:
                _add_class(choices, kind, name, path)
            except Exception as error:
                problems.append(f"--{kind} {name}: {error}")
                choices.classes[name] = _unusable(choices.base_type, error)
    if problems:
        raise HKDError(
            f"classes of espnet_hkd could not be added to {task.__name__}",
            got="; ".join(problems),
            wanted="an intact espnet_hkd beside an ESPnet that it supports, and no "
            "other package with the same names",
            remedy="install espnet_hkd again, and uninstall the other package",
        )


def _add_class(choices, kind: str, name: str, path: str) -> None:
    cls = load_class(path)
    # ClassChoices checks this in its constructor only.
    if choices.base_type and not issubclass(cls, choices.base_type):
        raise TypeError(f"{path} is not a {choices.base_type.__name__}")
    taken = choices.classes.setdefault(name, cls)
    if f"{taken.__module__}:{taken.__qualname__}" != path:
        if getattr(taken, "stands_for_hkd", False):
            choices.classes[name] = cls
            return
        raise ConfigError(
            f"--{kind} {name} is taken",
            got=f"{taken.__module__}:{taken.__qualname__}",
            wanted=path,
            remedy="uninstall the package that took the name",
        )


def _unusable(base: type | None, reason: Exception) -> type:
    """A class that raises when it is constructed, in the place of one of ours."""

    def refuse(self, *args, **options):
        raise HKDError(
            "a class of espnet_hkd was asked for that could not be made known to "
            "ESPnet",
            got=f"{type(reason).__name__}: {reason}",
            wanted="an intact espnet_hkd beside an ESPnet that it supports",
            remedy="install espnet_hkd again, or the ESPnet that its page names",
        )

    members = {"__init__": refuse, "stands_for_hkd": True}
    members |= dict.fromkeys(getattr(base, "__abstractmethods__", ()), refuse)
    return type("UnusableHKDClass", (base or object,), members)
