"""Virtual environments of their own for tests of the installed package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

# Read when Triton is first imported: without a GPU its kernels run in the interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

REPOSITORY = Path(__file__).resolve().parent.parent

# What a build of the package reads.
SOURCES = (
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "espnet_hkd",
    "egs2",
    "espnet_hkd_autoload.py",
    "espnet_hkd_autoload.pth",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever makes a virtual environment is slow."""
    for item in items:
        if "new_venv" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class FreshVenv:
    """A virtual environment with the package installed in one way or another."""

    python: Path
    site_packages: Path
    home: Path

    def run(
        self, *arguments: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run its interpreter in an empty folder, the repository out of sight."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "VIRTUAL_ENV", "ESPNET_HKD"))
        }
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.home,
            env={**inherited, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments}: {done.returncode}\n{done.stderr}")
        return done


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the sources, so that builds leave nothing in the repository."""
    copy = tmp_path_factory.mktemp("sources")
    ignore = shutil.ignore_patterns("__pycache__", "results")
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, copy / name, ignore=ignore)
        else:
            shutil.copy(REPOSITORY / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def wheels(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the wheel and the editable wheel, as pip would, without network."""
    built = {}
    for kind in ("wheel", "editable"):
        folder = tmp_path_factory.mktemp(kind)
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys, setuptools.build_meta as backend\n"
                f"backend.build_{kind}(sys.argv[1])",
                str(folder),
            ],
            cwd=sources,
            check=True,
            capture_output=True,
        )
        (built[kind],) = folder.glob("*.whl")
    return built


def link_main_packages(folder: Path, without: tuple[str, ...]) -> Path:
    """Link the main environment's packages into a folder: all but some and ourselves.

    An editable install of ours in the main environment would otherwise bring its own
    `.pth` files into every environment that is layered upon it.
    """
    for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(site).iterdir():
            link = folder / entry.name
            left_out = entry.name.split("-")[0] in without
            if "espnet_hkd" not in entry.name and not left_out and not link.exists():
                link.symlink_to(entry)
    return folder


@pytest.fixture(scope="session")
def new_venv(
    wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., FreshVenv]:
    """Return a function that makes a virtual environment, in half a second.

    `new_venv(kind, layered=False, without=())`: kind "wheel", "editable" or None for
    none of ours; layered: with the main environment's packages, ESPnet and torch among
    them, but for those named in `without`.
    """

    def make(
        kind: str | None, *, layered: bool = False, without: tuple[str, ...] = ()
    ) -> FreshVenv:
        home = tmp_path_factory.mktemp("venv")
        venv = home / "venv"
        command = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
        subprocess.run(command, check=True)
        (site_packages,) = venv.glob("lib/python*/site-packages")
        fresh = FreshVenv(venv / "bin" / "python", site_packages, home)
        if kind is not None:
            pip = [sys.executable, "-m", "pip", "--python", str(fresh.python)]
            options = ["--no-deps", "--no-index", "--quiet", "--no-cache-dir"]
            install = [*pip, "install", *options, str(wheels[kind])]
            subprocess.run(install, check=True, capture_output=True)
        if layered:
            # addsitedir, for a folder merely on sys.path has no .pth files: ESPnet
            # needs distutils, which setuptools brings by one.
            packages = link_main_packages(tmp_path_factory.mktemp("packages"), without)
            (site_packages / "main_packages.pth").write_text(
                f"import site; site.addsitedir({str(packages)!r})\n"
            )
        return fresh

    return make


@pytest.fixture(scope="session", params=["wheel", "editable"])
def fresh_venv(
    request: pytest.FixtureRequest, new_venv: Callable[..., FreshVenv]
) -> FreshVenv:
    """Return an environment with ESPnet, and the package by wheel and by editable."""
    return new_venv(request.param, layered=True)
