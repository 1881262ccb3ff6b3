"""The recipes that come with the package, and copies of them to work in."""

from __future__ import annotations

import shutil
from pathlib import Path

from espnet_hkd.errors import ConfigError

# What makes a recipe, and not what running it has made. setup.py reads this line.
PARTS = ("README.md", "cmd.sh", "conf", "local", "path.sh", "pretrained", "run.sh")
# Settings of one site are no part of it, nor is what Python keeps for itself.
LEFT_OUT = ("__pycache__", "path.sh")


def recipes() -> dict[str, Path]:
    """The folders `asr1` of the recipes, by name.

    A wheel holds them beside this file; an editable install reads its checkout.
    """
    here = Path(__file__).resolve()
    installed = here.parent / "egs2"
    root = installed if installed.is_dir() else here.parents[2] / "egs2"
    return {path.parent.name: path for path in sorted(root.glob("*_hkd/asr1"))}


def copy_recipe(name: str, folder: Path) -> Path:
    """Copy a recipe, with its packed model where it has one.

    Args:
        name: Such as "an4_hkd"; "an4" is enough.
        folder: Where to; it is made, and must be empty if it is there.

    Returns:
        The recipe's own folder.

    Raises:
        ConfigError: There is no such recipe, or the folder cannot take it.
    """
    known = recipes()
    source = known.get(name) or known.get(f"{name}_hkd")
    if source is None:
        raise ConfigError(
            "there is no such recipe",
            got=name,
            wanted=", ".join(known) or "a package that holds its recipes",
            remedy="correct the name"
            if known
            else "install the package again, from a wheel or a whole checkout",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(
                f"{folder} is not empty",
                got="files of yours",
                wanted="a new folder, or an empty one",
                remedy="give another folder",
            )
        for part in PARTS:
            if (source / part).is_dir():
                ignore = shutil.ignore_patterns(*LEFT_OUT)
                shutil.copytree(source / part, folder / part, ignore=ignore)
            elif (source / part).is_file():
                shutil.copy(source / part, folder / part)
    except OSError as error:
        raise ConfigError(
            f"the recipe cannot be written into {folder}",
            got=error,
            wanted="a folder one may write to, with room on its disk",
            remedy="give another folder",
        ) from error
    return source
