"""What the tests of the recipes share: their programs, an environment, a small AN4."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPE = REPOSITORY / "egs2" / "an4_hkd" / "asr1"
CORPORA = ("AISHELL", "AN4", "LIBRISPEECH")
TOOLS = REPOSITORY / "tools"
SHELL = REPOSITORY / "espnet_hkd" / "recipes" / "sh"

# For run.sh: the small corpora of tests need little room, and how much the disk of the
# machine has must not decide whether a test passes.
ANY_ROOM = ("--disk_gb", "0")

TRAIN = ("an1-spka-b", "an2-spka-b", "cen1-spkb-b", "cen2-spkb-b")
TEST = ("an9-spkc-b",)


def load_program(path: Path) -> ModuleType:
    """Import a program that is no module of the package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def environment(**changes: str | None) -> dict[str, str]:
    """The environment of a user whose python3 is the one that runs the tests."""
    inherited = {
        name: value for name, value in os.environ.items() if name not in CORPORA
    }
    inherited["PATH"] = f"{Path(sys.executable).parent}:{inherited['PATH']}"
    inherited["PYTHONPATH"] = str(REPOSITORY)
    inherited["OMP_NUM_THREADS"] = "1"
    for name, value in changes.items():
        if value is None:
            inherited.pop(name, None)
        else:
            inherited[name] = value
    return inherited


def run(
    *command: str | Path, cwd: Path | None = None, **changes: str | None
) -> subprocess.CompletedProcess[str]:
    """Run a command in `environment(**changes)`; stdout and stderr come as text."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=600,
    )


def make_recipe(folder: Path, recipe: Path = RECIPE) -> Path:
    """A work folder that is the recipe, but for data and experiments."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in recipe.iterdir():
        if path.name in ("run.sh", "path.sh", "cmd.sh", "local", "conf"):
            (folder / path.name).symlink_to(path)
    return folder


def run_stages(
    recipe: Path, first: int, last: int, *options: str, **changes: str | None
) -> str:
    """Run stages of a recipe's work folder; what it printed."""
    stages = ("--stage", str(first), "--stop_stage", str(last))
    done = run(recipe / "run.sh", *ANY_ROOM, *options, *stages, **changes)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def write_audio(path: Path, *, rate: int = 16000, seconds: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0.0, 0.1, int(rate * seconds))
    formats = {".sph": "NIST", ".wav": "WAV", ".flac": "FLAC"}
    soundfile.write(path, noise, rate, "PCM_16", format=formats[path.suffix])


def make_cmu_an4(root: Path, suffix: str = ".sph") -> Path:
    """AN4 in CMU's layout: four training utterances, one to test."""
    (root / "etc").mkdir(parents=True)
    for part, folder, names in (
        ("train", "an4_clstk", TRAIN),
        ("test", "an4test_clstk", TEST),
    ):
        lines = [f"<s> GO {name[0].upper()} </s> ({name})\n" for name in names]
        (root / "etc" / f"an4_{part}.transcription").write_text("".join(lines))
        for name in names:
            speaker = name.split("-")[1]
            write_audio(root / "wav" / folder / speaker / f"{name}{suffix}")
    return root


def make_kaldi_an4(root: Path, sets: tuple[str, ...]) -> Path:
    """AN4 as Kaldi-style sets, two utterances each, paths relative to `root`."""
    for name in sets:
        (root / name).mkdir(parents=True)
        ids = [f"spk-{name}-{index}" for index in (1, 2)]
        for id in ids:
            write_audio(root / "audio" / f"{id}.flac")
        tables = {
            "text": "GO {id}",
            "wav.scp": "audio/{id}.flac",
            "utt2spk": "spk",
        }
        for file, value in tables.items():
            lines = [f"{id} {value.format(id=id)}\n" for id in ids]
            (root / name / file).write_text("".join(lines))
    return root
