"""All that is done to ESPnet's ASR task when it is imported.

Each patch stands alone: where one does not fit the ESPnet at hand, `border.hook` warns
and leaves it out. `--set` adds one more (`border.settings`), for one process.
"""

from __future__ import annotations

import argparse
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from espnet_hkd.border import hook
from espnet_hkd.border.classes import add_classes
from espnet_hkd.errors import CheckpointError

PACKED_MODELS = "training that starts from a packed model (--init_param MODEL.zip)"


def register() -> None:
    """Make our classes known to ESPnet's ASR task, imported before or after."""
    hook.install(PATCHES)


def add_firing_plots(task: ModuleType) -> None:
    """Let ESPnet's trainer draw the firing of a CIF model where it draws attention.

    A CIF model has no attention to the encoder: its alignment is the firing. The maps
    of its self-attention, of every layer and head, would take longer than a small
    corpus' epoch, and ESPnet cannot draw them with `use_sdpa: true`.

    ESPnet has no place for plots of one's own, and a trainer class of one's own would
    rule out its DeepSpeed option; so its plotting method is wrapped. Other models are
    plotted as before.
    """
    trainer = task.ASRTask.trainer
    if getattr(trainer.plot_attention, "draws_firing", False):
        return
    original: Callable[..., None] = trainer.plot_attention.__func__
    signature = _signature(
        original, "model", "output_dir", "summary_writer", "iterator", "reporter"
    )

    @functools.wraps(original)
    def plot_attention(*args: Any, **options: Any) -> None:
        from espnet_hkd.nets.model import CIFASRModel
        from espnet_hkd.recognize.plots import draw_batches

        given = signature.bind(*args, **options).arguments
        if isinstance(given["model"], CIFASRModel):
            draw_batches(
                given["model"],
                given["iterator"],
                given["output_dir"],
                given["summary_writer"],
                given["reporter"].get_epoch(),
            )
        else:
            original(*args, **options)

    plot_attention.draws_firing = True  # type: ignore[attr-defined]
    trainer.plot_attention = classmethod(plot_attention)


def add_packed_models(task: ModuleType) -> None:
    """Let `--init_param` of an ASR task take packed models and other token lists.

    A part of a checkpoint (`FILE:encoder:encoder`), a checkpoint without config.yaml
    beside it, and models that are not ours go ESPnet's own way.
    """
    try:
        from espnet2.tasks import abs_task

        stock = abs_task.load_pretrained_model
        if hasattr(stock, "takes_packed_models"):
            return
        signature = _signature(stock, "init_param", "model", "ignore_init_mismatch")
    except Exception:
        _refuse_packed_models(task)
        raise

    @functools.wraps(stock)
    def load_pretrained_model(*args: Any, **options: Any) -> None:
        from espnet_hkd.nets.model import CIFASRModel
        from espnet_hkd.pretrained.finetune import init_from

        given = signature.bind(*args, **options).arguments
        model, init_param = given["model"], given["init_param"]
        if isinstance(model, CIFASRModel) and _is_whole_model(init_param):
            ignore = bool(given.get("ignore_init_mismatch"))
            init_from(model, init_param, ignore_mismatch=ignore)
        else:
            stock(*args, **options)

    load_pretrained_model.takes_packed_models = True  # type: ignore[attr-defined]
    abs_task.load_pretrained_model = load_pretrained_model


def add_safe_saving(task: ModuleType) -> None:
    """Let training go on after a kill, a full disk or a damaged file."""
    # Imported late: it needs torch.
    from espnet_hkd.border.checkpoints import install_atomic_saving

    install_atomic_saving(task)


def _refuse_packed_models(task: ModuleType) -> None:
    """Where packed models cannot be loaded, say so to those who name one."""
    build = task.ASRTask.build_model.__func__

    @functools.wraps(build)
    def build_model(cls: type, *given: Any, **options: Any) -> Any:
        for args in (*given, *options.values()):
            if isinstance(args, argparse.Namespace):
                for name in getattr(args, "init_param", None) or ():
                    if not name.endswith(".pth") and _is_whole_model(name):
                        raise CheckpointError(
                            f"{PACKED_MODELS} cannot be had with this ESPnet",
                            got=f"--init_param {name}; "
                            f"{hook.why_off(PACKED_MODELS) or ''}",
                            wanted="a checkpoint (.pth) that fits the configuration, "
                            "or the ESPnet that espnet_hkd's page names",
                            remedy="install that ESPnet",
                        )
        return build(cls, *given, **options)

    task.ASRTask.build_model = classmethod(build_model)


def _is_whole_model(init_param: str) -> bool:
    """Whether `--init_param` names what `open_packed` opens, no part, no bare file."""
    path, *keys = init_param.split(":")
    alone = path.endswith(".pth") and not Path(path).with_name("config.yaml").exists()
    return not keys and not alone


def _signature(function: Callable[..., Any], *wanted: str) -> inspect.Signature:
    """The signature of a function of ESPnet that takes what a patch relies on."""
    signature = inspect.signature(function)
    missing = set(wanted) - set(signature.parameters)
    if missing:
        raise TypeError(
            f"{function.__qualname__} takes no {', '.join(sorted(missing))}"
        )
    return signature


PATCHES = (
    hook.Patch("recognition with hkd_* classes", add_classes),
    hook.Patch("firing plots in training", add_firing_plots),
    hook.Patch(PACKED_MODELS, add_packed_models),
    hook.Patch("saving that a kill does not undo", add_safe_saving),
)
