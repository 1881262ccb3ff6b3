"""The import hook that changes ESPnet's ASR task as soon as it is imported.

ESPnet has no plugin mechanism: what `--model`, `--encoder`, `--decoder` and
`--preprocessor` accept stands in dictionaries of `espnet2.tasks.asr`. That module
takes seconds to import, so nothing here imports it. A finder on `sys.meta_path` waits
until ESPnet does, and our patches are applied as soon as the module has been executed:
before its parser, its models or its `Speech2Text` read the dictionaries.

A patch that does not fit the ESPnet at hand is left out with one warning: programs
that do not need it go on as if this package were not there.
"""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

from espnet_hkd.errors import HKDError

# ESPnet3 keeps a copy of the task, with dictionaries of its own.
TASK_MODULES = ("espnet2.tasks.asr", "espnet3.systems.esp2_asr.task")


@dataclass(frozen=True)
class Patch:
    """One change to an executed ASR task module.

    Attributes:
        name: What is off without it, in the user's words.
        apply: Called with the module; must be safe to call again.
        asked_for: The user has asked for it in this process: that it cannot be
            applied is then an error and not a warning.
    """

    name: str
    apply: Callable[[ModuleType], None]
    asked_for: bool = False


_lock = threading.Lock()
_patches: list[Patch] = []
_off: dict[str, str] = {}


def install(patches: Iterable[Patch]) -> None:
    """Apply patches to each ASR task module: now if it is there, else when it comes.

    Raises:
        HKDError: A patch that was asked for cannot be applied.
    """
    new = []
    with _lock:
        for patch in patches:
            if patch not in _patches:
                _patches.append(patch)
            new.append(patch)
        if not any(isinstance(finder, TaskFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, TaskFinder())
    for task in _imported():
        _serve(task, new)


def why_off(name: str) -> str | None:
    """Why the patch of this name could not be applied; None: it was, or not yet."""
    return _off.get(name)


def _imported() -> list[ModuleType]:
    # import_module, since another thread may be in the middle of the import.
    return [importlib.import_module(name) for name in TASK_MODULES if _there(name)]


def _there(name: str) -> bool:
    return sys.modules.get(name) is not None


def _serve(task: ModuleType, patches: Iterable[Patch]) -> None:
    for patch in patches:
        try:
            patch.apply(task)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if patch.asked_for:
                raise HKDError(
                    f"{patch.name} cannot be had with this ESPnet",
                    got=reason,
                    wanted="an intact espnet_hkd beside an ESPnet that it supports",
                    remedy="install the ESPnet that espnet_hkd's page names, or do "
                    f"without {patch.name}",
                ) from error
            if _off.get(patch.name) == reason:
                continue
            _off[patch.name] = reason
            warnings.warn(
                f"espnet_hkd: {patch.name} cannot be had with this ESPnet, all else "
                f"goes on ({reason})",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            _off.pop(patch.name, None)


class TaskFinder:
    """Finds ESPnet's ASR task as the other finders would, and wraps its loader."""

    def find_spec(self, name, path=None, target=None):
        """Return the task's spec with our loader around its own; None otherwise."""
        if name not in TASK_MODULES:
            return None
        for finder in sys.meta_path:
            # The finder of the .pth file comes here too: it would ask us again.
            if isinstance(finder, TaskFinder) or hasattr(finder, "is_hkd_autoload"):
                continue
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(name, path, target) if find_spec else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _ServingLoader(spec.loader)
                return spec
        return None


class _ServingLoader:
    """Another loader, which serves the module after its execution.

    It steps aside before the module is executed, so `__loader__` and
    `__spec__.loader` are the original ones, resource readers and all; to those who
    only look (`importlib.util.find_spec`) it shows the original's attributes.
    """

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _serve(module, list(_patches))
