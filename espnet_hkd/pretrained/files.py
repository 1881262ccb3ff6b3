"""Configuration and weights of an experiment or a packed model, read with distrust."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from espnet_hkd.errors import CheckpointError
from espnet_hkd.pretrained.limits import (
    YAML_BYTES,
    check_archive,
    check_tensors,
    load_yaml,
)

# Raised when a packed model changes such that an earlier version cannot read it.
FORMAT = 1
# How the note begins that Git LFS leaves in place of a large file.
LFS = b"version https://git-lfs.github.com/spec/"


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file of an experiment or a packed model.

    Raises:
        CheckpointError: It is missing or does not hold names and values.
    """
    try:
        check_pointer(path)
        if not path.is_file() or path.stat().st_size > YAML_BYTES:
            raise FileNotFoundError(
                f"no file of at most {YAML_BYTES:,} bytes: {path.name}"
            )
        config = load_yaml(path.read_text(encoding="utf-8"))
    # No UTF-8 is a ValueError, as all that `load_yaml` finds.
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {path}",
            got=f"{type(error).__name__}: {error}",
            wanted="an experiment folder with the config.yaml that training wrote",
            remedy="correct the path, or train first (stage 11)",
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{path} is no configuration",
            got=type(config).__name__,
            wanted="names and values, as training writes them",
            remedy="correct the path, or copy the file again",
        )
    return config


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint of which nothing but tensors is unpickled.

    Raises:
        CheckpointError: It is missing, damaged, or holds more than tensors.
    """
    try:
        check_pointer(path)
        _check_zip(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        names = sorted(p.name for p in path.parent.glob("*.pth"))
        raise CheckpointError(
            f"there is no checkpoint {path}",
            got="no such file",
            wanted=", ".join(names) or "a .pth file",
            remedy="name another with --checkpoint, or train first (stage 11)",
        ) from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or more than weights: nothing of it was run",
            got=first_line(error),
            wanted="a checkpoint with nothing but tensors in it",
            remedy="do not load it by other means unless you trust who made it",
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be loaded",
            got=first_line(error),
            wanted="a checkpoint written by espnet2.bin.asr_train",
            remedy="copy or download it again",
        ) from error
    if isinstance(weights, dict) and "model" in weights and "optimizers" in weights:
        weights = weights["model"]
    try:
        check_tensors(dict(weights))
    # TypeError and ValueError too where it is no dictionary, and torch's own.
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} holds something else than usable weights",
            got=first_line(error),
            wanted="a name and a tensor of finite numbers for each weight",
            remedy="name a checkpoint of the model with --checkpoint, or copy it again",
        ) from error
    return weights


def check_pointer(path: Path) -> None:
    """Name a file that Git LFS has not fetched: what is there is a note about it.

    Raises:
        CheckpointError: It is such a note.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        pointer = file.read(len(LFS)) == LFS
    if pointer:
        raise CheckpointError(
            f"{path} is not here: only a pointer of Git LFS is",
            got=f"{path.stat().st_size} bytes that say where the file is",
            wanted="the file itself",
            remedy="git lfs install && git lfs pull, or download the file by itself",
        )


def _check_zip(path: Path) -> None:
    """Check size and sums of a checkpoint, a zip: torch does not look at them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path.stat().st_size)


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
