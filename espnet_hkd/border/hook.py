"""The import hook that adds our classes to ESPnet's ASR task.

ESPnet has no plugin mechanism: what `--model`, `--encoder`, `--decoder` and
`--preprocessor` accept stands in dictionaries of `espnet2.tasks.asr`. That module
takes seconds to import, so nothing here imports it. A finder on `sys.meta_path` waits
until ESPnet does, and our classes go in as soon as the module has been executed:
before its parser, its models or its `Speech2Text` read the dictionaries.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from types import ModuleType

from espnet_hkd.errors import ConfigError, HKDError

# ESPnet3 keeps a copy of the task, with dictionaries of its own.
TASK_MODULES = ("espnet2.tasks.asr", "espnet3.systems.esp2_asr.task")

# Lower-case names: ESPnet looks names up both as written and lowered.
CLASSES = {
    "model": {"hkd_cif": "espnet_hkd.nets.model:CIFASRModel"},
    "encoder": {
        "hkd_pooled_conformer": "espnet_hkd.nets.encoder:PooledConformerEncoder"
    },
    "decoder": {"hkd_cif_transformer": "espnet_hkd.nets.decoder:CIFDecoder"},
    "preprocessor": {"hkd_teacher": "espnet_hkd.preprocessor:HKDPreprocessor"},
}

_lock = threading.Lock()


def load_class(path: str) -> type:
    """Import `package.module:Class`."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def add_classes(task: ModuleType) -> None:
    """Add our classes to the choices of one executed ASR task module.

    Safe to call again. A name that another package has taken is an error, never
    silently replaced.
    """
    for kind, named in CLASSES.items():
        choices = getattr(task, f"{kind}_choices")
        for name, path in named.items():
            cls = load_class(path)
            # ClassChoices checks this in its constructor only.
            if choices.base_type and not issubclass(cls, choices.base_type):
                raise TypeError(f"{path} is not a {choices.base_type.__name__}")
            taken = choices.classes.setdefault(name, cls)
            if f"{taken.__module__}:{taken.__qualname__}" != path:
                raise ConfigError(
                    f"--{kind} {name} is taken in {task.__name__}",
                    got=f"{taken.__module__}:{taken.__qualname__}",
                    wanted=path,
                    remedy="uninstall the package that took the name",
                )


def add_plots(task: ModuleType) -> None:
    """Let the task's trainer draw the firing of CIF models, beside the attention."""
    from espnet_hkd.recognize.plots import add_firing_plots

    add_firing_plots(task.ASRTask.trainer)


def add_packed_models(task: ModuleType) -> None:
    """Let the task's training start from packed models."""
    from espnet_hkd.pretrained.finetune import extend_init_param

    extend_init_param(task)


# What is done to a task module after its execution, in this order.
_actions: list[Callable[[ModuleType], None]] = [
    add_classes,
    add_plots,
    add_packed_models,
]


def after_import(action: Callable[[ModuleType], None]) -> None:
    """Call `action` with each ASR task module: now if it is there, else when it comes.

    Actions must be safe to call again: a reloaded module gets them once more.
    """
    with _lock:
        if action not in _actions:
            _actions.append(action)
    for task in _imported():
        action(task)


def install() -> None:
    """Put the hook in place, and serve the task modules that are already imported."""
    with _lock:
        if not any(isinstance(finder, TaskFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, TaskFinder())
    for task in _imported():
        _serve(task)


def _imported() -> list[ModuleType]:
    # import_module, since another thread may be in the middle of the import.
    return [importlib.import_module(name) for name in TASK_MODULES if _there(name)]


def _there(name: str) -> bool:
    return sys.modules.get(name) is not None


def _serve(task: ModuleType) -> None:
    for action in list(_actions):
        try:
            action(task)
        except HKDError:
            raise
        except Exception as error:
            raise HKDError(
                f"espnet_hkd cannot make itself known to {task.__name__}",
                got=f"{type(error).__name__}: {error}",
                wanted="an intact espnet_hkd beside an ESPnet that it supports",
                remedy="install espnet_hkd again; or, to run ESPnet without it, "
                "uninstall it or set ESPNET_HKD_AUTOLOAD=0",
            ) from error


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
        _serve(module)
