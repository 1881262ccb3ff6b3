"""Saving by ESPnet's trainer that a kill or a full disk does not undo.

ESPnet writes over the checkpoint it would resume from, so that whatever stops it then
leaves none. Here each file is written under another name, synced, and renamed; before
training goes on, all that it needs is read; and an average is made of the epochs that
are whole.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from espnet_hkd.border import resume, settings
from espnet_hkd.errors import CheckpointError, HKDError

logger = logging.getLogger(__name__)

# ESPnet's own switch for checkpoints that hold more than tensors and numbers.
_UNSAFE = "ESPNET_ALLOW_UNSAFE_TORCH_LOAD"


def install_atomic_saving(task: ModuleType) -> None:
    """Let the trainer of an ASR task module save, resume and average safely.

    For all of ESPnet's models: the files are the same. Safe to call again.

    Raises:
        AttributeError: This ESPnet's trainer is another; nothing is changed then.
    """
    trainer = task.ASRTask.trainer
    run = trainer.run.__func__
    if getattr(run, "saves_atomically", False):
        return
    module = sys.modules[trainer.__module__]
    average = module.average_nbest_models
    signature = inspect.signature(run)
    if not {"trainer_options", "distributed_option"} <= set(signature.parameters):
        raise AttributeError(f"{trainer.__module__}.Trainer.run has other arguments")

    @functools.wraps(run)
    def saving_run(cls: type, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(cls, *args, **kwargs).arguments
        look_through(given["trainer_options"], given["distributed_option"])
        with atomic_saving():
            run(cls, *args, **kwargs)

    @functools.wraps(average)
    def average_whole(*args: Any, **kwargs: Any) -> None:
        try:
            average(*args, **kwargs)
        except HKDError:
            raise
        except Exception as error:
            given = inspect.signature(average).bind(*args, **kwargs).arguments
            if not _average_rest(average, given):
                raise error

    saving_run.saves_atomically = True  # type: ignore[attr-defined]
    trainer.run = classmethod(saving_run)
    module.average_nbest_models = average_whole  # type: ignore[attr-defined]


@contextmanager
def atomic_saving() -> Iterator[None]:
    """Let `torch.save` write files whole or not at all.

    ESPnet's trainer has no place for another way of saving, so what it calls is
    replaced for as long as it runs. Streams are written to as ever.
    """
    save = torch.save

    @functools.wraps(save)
    def save_whole(obj: object, f: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(f, str | os.PathLike):
            resume.write(Path(f), lambda part: save(obj, part, *args, **kwargs))
        else:
            save(obj, f, *args, **kwargs)

    torch.save = save_whole
    try:
        yield
    finally:
        torch.save = save


def look_through(options: Any, distributed: Any) -> None:
    """Read what a training will go on from, mend it and say so in the log.

    Args:
        options: ESPnet's TrainerOptions.
        distributed: Its DistributedOption: one process mends, all are stopped by a
            resume point that is not whole.

    Raises:
        CheckpointError: There is no sound resume point where there was one.
    """
    if not options.resume or os.environ.get(_UNSAFE) == "1":
        return
    folder = Path(options.output_dir)
    try:
        if distributed.distributed and distributed.dist_rank != 0:
            resume.check_resume_point(folder, _restart)
            return
        nbest = options.keep_nbest_models
        notes = resume.mend(
            folder,
            _restart,
            criteria=options.best_model_criterion,
            nbest=nbest if isinstance(nbest, int) else max(nbest, default=1),
        )
    except HKDError:
        raise
    except Exception:
        logger.warning("%s could not be looked through", folder, exc_info=True)
        return
    for note in notes:
        logger.warning("%s", note)


def _restart(weights: Path, folder: Path) -> str:
    """This process' own command, with other weights to begin with and a new folder."""
    given = [f"--set={text}" for text in settings.in_force]
    # Whatever has started this process, so its program knows our classes.
    program = [sys.executable, "-m", "espnet_hkd.run", *given, *sys.argv]
    command = [*program, "--init_param", str(weights)]
    return shlex.join([*command, "--output_dir", f"{folder}_again"])


def _average_rest(average: Any, given: dict[str, Any]) -> bool:
    """Average what is whole, each criterion of as many epochs as are left.

    Args:
        average: ESPnet's `average_nbest_models`.
        given: Its arguments.

    Returns:
        Whether that was the trouble; False: nothing is damaged, nothing was done.

    Raises:
        CheckpointError: No epoch is left.
    """
    from espnet2.train.reporter import Reporter

    folder: Path = given["output_dir"]
    reporter, nbest = given["reporter"], given["nbest"]
    counts: Collection[int] = [nbest] if isinstance(nbest, int) else nbest
    states = reporter.state_dict()
    whole: dict[int, bool] = {}

    def is_whole(epoch: int) -> bool:
        if epoch not in whole:
            try:
                resume.read(resume.epoch_file(folder, epoch))
                whole[epoch] = True
            except resume.DamagedError as damage:
                path = resume.epoch_file(folder, epoch)
                logger.warning("%s %s: averages leave it out", path, damage)
                whole[epoch] = False
        return whole[epoch]

    wanted: list[tuple[Sequence[str], list[int]]] = [
        (criterion, reporter.sort_epochs(*criterion)[: max(counts)])
        for criterion in given["best_model_criterion"]
        if reporter.has(*criterion[:2])
    ]
    left = [(criterion, list(filter(is_whole, best))) for criterion, best in wanted]
    if all(whole.values()):
        return False
    for criterion, epochs in left:
        if not epochs:
            raise CheckpointError(
                f"there is nothing to average for {'.'.join(criterion[:2])}",
                got=f"no whole epoch in {folder}",
                wanted="the weights of at least one of the best epochs",
                remedy="give the same command again: the last epoch's weights are "
                f"written again from {resume.RESUME_POINT}",
            )
        rest = Reporter()
        rest.load_state_dict(
            {
                "epoch": max(epochs),
                "stats": {epoch: states["stats"][epoch] for epoch in epochs},
            }
        )
        fewer = sorted({min(count, len(epochs)) for count in counts})
        changed = {"reporter": rest, "best_model_criterion": [criterion]}
        average(**{**given, **changed, "nbest": fewer})
    return True
