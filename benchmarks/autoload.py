"""What `espnet_hkd_autoload.pth` adds to the start of every Python interpreter.

    python benchmarks/autoload.py [--runs 50]

Times `python -c pass` in a bare virtual environment with and without the two files of
the wheel's root, in turns, so that a busy machine troubles both alike.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
FILES = ("espnet_hkd_autoload.py", "espnet_hkd_autoload.pth")


def get_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=int, default=50, help="starts of each kind (default: 50)"
    )
    return parser


def make_venv(folder: Path, files: tuple[str, ...]) -> Path:
    """Make a bare virtual environment with `files` in it; return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for name in files:
        shutil.copy(REPOSITORY / name, site_packages / name)
    return folder / "bin" / "python"


class Start(NamedTuple):
    """What one start of an interpreter took, in milliseconds."""

    wall: float
    cpu: float


def start(python: Path) -> Start:
    """Time one start of an interpreter that does nothing."""
    before, began = children_cpu(), time.perf_counter()
    subprocess.run([python, "-c", "pass"], check=True)
    wall = time.perf_counter() - began
    return Start(1e3 * wall, 1e3 * (children_cpu() - before))


def children_cpu() -> float:
    """Return the seconds that all ended children spent on a processor."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run the benchmark and print a table in Markdown."""
    runs = get_parser().parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        pythons = {
            "without": make_venv(Path(folder, "without"), ()),
            "with": make_venv(Path(folder, "with"), FILES),
        }
        # These write the bytecode.
        for python in pythons.values():
            start(python)
        rounds = [{k: start(p) for k, p in pythons.items()} for _ in range(runs)]
    print("| `python -c pass` | median ms | fastest ms | median CPU ms |")
    print("|---|---|---|---|")
    rows = {name: summary([each[name] for each in rounds]) for name in pythons}
    rows["cost"] = [b - a for a, b in zip(*rows.values(), strict=True)]
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in row)} |")


def summary(starts: list[Start]) -> list[float]:
    """Return median and least wall time, and median processor time."""
    wall, cpu = [each.wall for each in starts], [each.cpu for each in starts]
    return [statistics.median(wall), min(wall), statistics.median(cpu)]


if __name__ == "__main__":
    main()
