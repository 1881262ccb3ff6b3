"""Every block of commands in the documentation runs, or says what it needs."""

from __future__ import annotations

import functools
import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

import espnet_hkd
from espnet_hkd import cli
from tests.recipe_material import RECIPE, REPOSITORY, environment

pytestmark = pytest.mark.slow

PAGES = [
    REPOSITORY / "README.md",
    *sorted(REPOSITORY.glob("docs/*.md")),
    *sorted(REPOSITORY.glob("egs2/*/asr1/README.md")),
]
# Whose blocks another test takes from the page and runs.
RUN_ELSEWHERE = {
    "docs/comparing.md": "tests/test_compare_systems.py",
    "docs/espnet3.md": "tests/test_espnet3.py",
}
# What the title of a block that no test runs begins with.
NEEDS = re.compile(
    r"needs (a (corpus|GPU|cluster|browser)|an account|the network|(ten )?minutes)\b"
)
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```$", re.M | re.S)
TEXTS = {
    "train": "a1 SET THE CLOCK TO NINE\na2 GO\n",
    "dev": "b1 STOP THE MUSIC\n",
}


class Block(NamedTuple):
    page: str
    number: int
    language: str
    title: str
    code: str


def blocks() -> Iterator[Block]:
    for path in PAGES:
        page = path.relative_to(REPOSITORY).as_posix()
        found = FENCE.findall(path.read_text(encoding="utf-8"))
        for number, (language, title, code) in enumerate(found, 1):
            if language in ("bash", "python") and page not in RUN_ELSEWHERE:
                yield Block(page, number, language, title, code)


def commands(code: str) -> list[list[str]] | None:
    """The words of each line; None where there is more than commands of ours."""
    lines = code.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    words = [line for line in words if line]
    ours = all(
        line[0] == "espnet-hkd" or (line[1:2] == ["-m"] and ".bin." in line[2])
        for line in words
    )
    return words if ours else None


# A dozen blocks open the same model.
open_once = functools.cache(espnet_hkd.from_pretrained)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the blocks name: a model, recordings, transcripts."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "MODEL.zip").symlink_to(RECIPE / "pretrained" / "an4_hkd.zip")
    noise = np.random.default_rng(0).normal(0.0, 0.1, 16000)
    for name in ("speech.wav", "one.wav", "two.wav"):
        soundfile.write(folder / name, noise, 16000)
    for name, text in TEXTS.items():
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "text").write_text(text)
    return folder


@pytest.mark.parametrize("block", list(blocks()), ids=lambda b: f"{b.page}-{b.number}")
def test_every_block_runs_or_says_what_it_needs(block: Block, workplace, monkeypatch):
    if block.title:
        assert NEEDS.match(block.title), block.title
        return
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("espnet_hkd.from_pretrained", open_once)
    if block.language == "python":
        exec(compile(block.code, f"{block.page}-{block.number}", "exec"), {})
        return
    lines = commands(block.code)
    if lines is None:
        script = ["bash", "-euo", "pipefail", "-c", block.code]
        subprocess.run(script, cwd=workplace, env=environment(), check=True)
        return
    # In this process, which has ESPnet already.
    for words in lines:
        if words[0] == "espnet-hkd":
            cli.main(words[1:])
        else:
            importlib.import_module(words[2]).main(words[3:])


@pytest.mark.parametrize(("page", "test"), RUN_ELSEWHERE.items())
def test_what_another_test_runs_it_takes_from_the_page(page: str, test: str):
    assert Path(page).name in (REPOSITORY / test).read_text(encoding="utf-8")
