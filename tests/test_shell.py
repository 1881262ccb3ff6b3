"""What every shell script of the repository keeps to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SCRIPTS = sorted(
    path
    for folder in ("egs2", "espnet_hkd/recipes/sh", "tools")
    for path in (REPOSITORY / folder).rglob("*.sh")
    if not path.is_symlink()
)
# A pipe, no "or", into a program that stops reading when it has seen enough.
HASTY = re.compile(
    r"(?<!\|)\|\s*(head\b|grep\s+-\w*[qlm]|sed\b[^|\n]*\bq\b|awk\b[^|\n]*\bexit\b)"
)


@pytest.mark.parametrize(
    "line",
    [
        "paste a b | head -n 6",
        "apt-cache policy python3 | grep -q 3.12",
        "ls |\n    head",
        "ls | awk '{ print; exit }'",
        "cat a | grep -vm 1 b",
        "ls | sed q",
    ],
)
def test_the_pattern_knows_what_stops_reading(line: str):
    assert HASTY.search(line)


@pytest.mark.parametrize(
    "line", ["sort a | sed -n 1,6p", "head -n 3 a | sort", "grep -q b a", "a || head b"]
)
def test_the_pattern_lets_pass_what_reads_all(line: str):
    assert not HASTY.search(line)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_pipe_ends_before_what_writes_into_it(script: Path):
    """With `pipefail` the writer's SIGPIPE would now and then be the script's error."""
    assert HASTY.findall(script.read_text(encoding="utf-8")) == []
