"""What a training goes on from: looked through, and mended where that loses nothing.

ESPnet writes `checkpoint.pth` after each epoch (weights, optimizer, schedule, reports),
then the weights alone as `Nepoch.pth`, then links to them. A kill or a full disk in
between, or a damaged disk, leaves less than that.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_hkd.errors import CheckpointError
from espnet_hkd.files import replace_file

RESUME_POINT = "checkpoint.pth"
# What ESPnet's trainer reads of it.
PARTS = {"model", "reporter", "optimizers", "schedulers", "scaler"}

Criterion = Sequence[str]
# From weights and the folder they lie in: the command that begins a new training.
Restart = Callable[[Path, Path], str]


class DamagedError(Exception):
    """A file cannot be used; the text says why, after the file's name."""


def epoch_file(folder: Path, epoch: int) -> Path:
    """Where ESPnet keeps the weights of an epoch."""
    return folder / f"{epoch}epoch.pth"


def epoch_files(folder: Path) -> dict[int, Path]:
    """The weights that are kept, by epoch, oldest first."""
    found = {
        int(match[1]): path
        for path in folder.glob("*epoch.pth")
        if (match := re.fullmatch(r"(\d+)epoch\.pth", path.name))
    }
    return dict(sorted(found.items()))


def mend(
    folder: Path,
    restart: Restart,
    *,
    criteria: Sequence[Criterion] = (),
    nbest: int = 0,
) -> list[str]:
    """Read all that a training will go on from or average; mend what is safe to mend.

    Weights of the last epoch that are missing or damaged are written again from the
    resume point, which holds them too. Older ones that are damaged are moved aside and
    leave the average. Links are set, leftovers of writing removed.

    Args:
        folder: Of the experiment; one that is empty or missing needs nothing.
        restart: Writes the command for the error.
        criteria: ESPnet's `best_model_criterion`, (phase, statistic, min or max) each.
        nbest: How many epochs ESPnet averages at most.

    Returns:
        What was found and done, in whole sentences; nothing where all is well.

    Raises:
        CheckpointError: The resume point is missing or damaged although there are
            epochs, or a file may not be read or written.
    """
    # What `replace_file` was writing when the training was killed.
    for leftover in folder.glob(".*.pth.[0-9]*"):
        leftover.unlink()
    states = check_resume_point(folder, restart)
    if states is None:
        return []
    epoch, weights = states["reporter"]["epoch"], states["model"]
    notes = []
    for number, path in epoch_files(folder).items():
        # ESPnet will write later ones again.
        if number <= epoch and (damage := damage_of(path, weights)):
            path.rename(path.with_name(f"{path.name}.damaged"))
            note = f"{path} {damage}: moved to {path.name}.damaged"
            if number < epoch:
                note += "; averages leave it out"
            notes.append(note)
    last = epoch_file(folder, epoch)
    if not last.exists():
        write(last, lambda path: torch.save(weights, path))
        notes.append(f"{last} was written again from {RESUME_POINT}")
    return notes + _mend_links(folder, states["reporter"], criteria, nbest)


def _mend_links(
    folder: Path, reports: dict[str, Any], criteria: Sequence[Criterion], nbest: int
) -> list[str]:
    """Set the links to the last and the best epochs; name what an average lacks."""
    from espnet2.train.reporter import Reporter

    reporter = Reporter()
    reporter.load_state_dict(reports)
    kept = epoch_files(folder)
    links = {"latest.pth": reporter.get_epoch()}
    notes = []
    for phase, statistic, mode in criteria:
        if not reporter.has(phase, statistic):
            continue
        best = reporter.sort_epochs(phase, statistic, mode)
        links[f"{phase}.{statistic}.best.pth"] = best[0]
        absent = sorted(set(best[:nbest]) - set(kept))
        notes += [
            f"{epoch_file(folder, number)} is missing: the average for "
            f"{phase}.{statistic} leaves it out"
            for number in absent
            if not epoch_file(folder, number).with_suffix(".pth.damaged").exists()
        ]
    for name, number in links.items():
        link, target = folder / name, f"{number}epoch.pth"
        if number in kept and not (
            link.is_symlink() and str(link.readlink()) == target
        ):
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return notes


def read(path: Path) -> Any:
    """Read a file of tensors, plain numbers and names.

    Raises:
        DamagedError: It is missing or not whole.
        CheckpointError: The system refuses to read it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not compare checksums.
            if changed := archive.testzip():
                raise zipfile.BadZipFile(f"{changed} was changed")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DamagedError("is missing") from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read",
            got=error.strerror or error,
            wanted="a checkpoint that this user may read",
            remedy="correct its permissions, or look after the disk",
        ) from error
    # A file that is cut or changed fails anywhere in torch's reader.
    except Exception as error:
        size = path.stat().st_size
        why = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise DamagedError(f"is damaged ({size:,} bytes; {why[:120]})") from error


def check_resume_point(folder: Path, restart: Restart) -> dict[str, Any] | None:
    """Read the resume point of an experiment; None where nothing was trained yet.

    Raises:
        CheckpointError: It is not whole, or missing although there are epochs.
    """
    path = folder / RESUME_POINT
    if not path.exists() and not epoch_files(folder):
        return None
    try:
        states = read(path)
        absent = PARTS - set(states) if isinstance(states, Mapping) else PARTS
        if absent:
            raise DamagedError(
                f"is no resume point: it lacks {', '.join(sorted(absent))}"
            )
    except DamagedError as damage:
        raise _no_resume_point(folder, str(damage), restart) from damage
    return dict(states)


def damage_of(path: Path, like: Mapping[str, torch.Tensor]) -> str | None:
    """What hinders the averaging of a file of weights with others; None for nothing.

    Args:
        path: The file.
        like: Weights of the same model.
    """
    try:
        weights = read(path)
    except DamagedError as damage:
        return str(damage)
    same = isinstance(weights, Mapping) and _shapes(weights) == _shapes(like)
    return None if same else f"holds other weights than {RESUME_POINT}"


def _shapes(weights: Mapping[str, Any]) -> dict[str, Any]:
    # A module may keep something else than tensors among its weights.
    return {name: getattr(value, "shape", None) for name, value in weights.items()}


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a checkpoint whole or not at all; what was there stays until then.

    Raises:
        CheckpointError: The disk is full, or may not be written.
    """
    try:
        replace_file(path, save)
    # torch's writer has RuntimeError for a full disk.
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} cannot be written",
            got=f"{why}; {_free(path.parent)}",
            wanted="room for one more file beside the one that it replaces",
            remedy="make room, then give the same command again: the training goes on "
            "from the last epoch that was saved",
        ) from error


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free"


def _no_resume_point(folder: Path, damage: str, restart: Restart) -> CheckpointError:
    usable = None
    for path in reversed(epoch_files(folder).values()):
        try:
            read(path)
            usable = path
            break
        except DamagedError:
            continue
    return CheckpointError(
        f"the training in {folder} cannot go on: {RESUME_POINT} {damage}",
        got="weights without their optimizer"
        if usable
        else "no weights that are whole",
        wanted=f"{RESUME_POINT} as ESPnet wrote it after the last epoch",
        remedy=f"start again from the newest weights: {restart(usable, folder)}"
        if usable
        else f"start again from the beginning: mv {folder} {folder}.damaged, then give "
        "the same command",
    )
