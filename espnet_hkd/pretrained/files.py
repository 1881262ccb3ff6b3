"""Configuration and weights of an experiment or a packed model, read with distrust."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
import yaml

from espnet_hkd.errors import CheckpointError

# Raised when a packed model changes such that an earlier version cannot read it.
FORMAT = 1


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file of an experiment or a packed model.

    Raises:
        CheckpointError: It is missing or does not hold names and values.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
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
        _check_sums(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
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
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise CheckpointError(
            f"{path} holds more than weights",
            got="values that are no tensors",
            wanted="a name and a tensor for each weight",
            remedy="name a checkpoint of the model with --checkpoint",
        )
    return weights


def _check_sums(path: Path) -> None:
    """Check the sums of a checkpoint, which is a zip: torch does not look at them."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"damaged: the sum of {damaged} is wrong")


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
