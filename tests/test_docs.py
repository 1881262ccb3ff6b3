"""What the documentation says is what the code does: defaults, examples, --help."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from espnet2.train.preprocessor import CommonPreprocessor

from tests.recipe_material import REPOSITORY

METHOD = (REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")
PACKAGE = REPOSITORY / "espnet_hkd"
WITH_A_MODEL = ("espnet_hkd", "espnet_hkd.recognize.recognizer")
CLASSES = {
    "decoder_conf": "espnet_hkd.nets.decoder:CIFDecoder",
    "model_conf": "espnet_hkd.nets.model:CIFASRModel",
    "preprocessor_conf": "espnet_hkd.preprocessor:HKDPreprocessor",
    "encoder_conf": "espnet_hkd.nets.encoder:PooledConformerEncoder",
}


def section(name: str) -> str:
    """What stands under the heading that begins with an option section's name."""
    match = re.search(rf"^## `{name}`.*?\n(.*?)(?=^## |\Z)", METHOD, re.M | re.S)
    assert match is not None, name
    return match[1]


def documented(name: str) -> dict[str, object]:
    """Keys and defaults of a section's table, read as YAML."""
    found = {}
    for row in re.findall(r"^\| (.*) \|$", section(name), re.M):
        cells = [cell.strip() for cell in row.split("|")]
        keys = re.findall(r"`(\w+)`", cells[0])
        default = re.sub(r"\(.*\)", "", cells[1])
        values = default.split(", ") if len(keys) > 1 else [default]
        if keys:
            found |= dict(zip(keys, map(yaml.safe_load, values), strict=True))
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_every_option_is_documented_with_its_default(name: str):
    module, _, cls = CLASSES[name].partition(":")
    constructor = getattr(importlib.import_module(module), cls).__init__
    defaults = {
        key: list(p.default) if isinstance(p.default, tuple) else p.default
        for key, p in inspect.signature(constructor).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }
    assert documented(name) == defaults


def test_options_of_espnets_model_that_we_take_are_named():
    from espnet_hkd.nets.model import PARENT_OPTIONS

    text = section("model_conf")
    assert [name for name in PARENT_OPTIONS if f"`{name}`" not in text] == []


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("egs2/*/asr1/conf/train_asr*")))
def test_recipes_write_no_option_that_the_documentation_lacks(path: Path):
    conf = yaml.safe_load(path.read_text(encoding="utf-8"))
    if conf["model"] != "hkd_cif":
        # One of ESPnet's own, for comparison: its keys are ESPnet's to document.
        assert conf["model"] == "espnet"
        return
    espnets = inspect.signature(CommonPreprocessor.__init__).parameters
    for name, others in (
        ("decoder_conf", ()),
        ("model_conf", ()),
        ("preprocessor_conf", espnets),
    ):
        assert set(conf.get(name) or {}) <= {*documented(name), *others}, name


def test_examples_in_docstrings_give_what_they_say():
    import torch

    attempted = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        name = name.removesuffix(".__init__")
        # Those that need a model are run in test_recognizer.py.
        if ">>> " in path.read_text(encoding="utf-8") and name not in WITH_A_MODEL:
            module = importlib.import_module(name)
            result = doctest.testmod(module, extraglobs={"torch": torch})
            assert result.failed == 0, name
            attempted[name] = result.attempted
    assert attempted["espnet_hkd.cif"] >= 4
    assert all(attempted.values())


COMMANDS = sorted(
    path.stem for path in (PACKAGE / "bin").glob("*.py") if path.stem != "__init__"
)
HEAVY = {"torch", "espnet2", "transformers", "matplotlib", "soundfile"}


@pytest.mark.parametrize("name", [*(f"bin.{name}" for name in COMMANDS), "run"])
def test_help_of_every_command_names_it_and_loads_nothing_heavy(name: str):
    code = (
        "import runpy, sys\n"
        "sys.argv[1:] = ['--help']\n"
        "try:\n"
        f"    runpy.run_module('espnet_hkd.{name}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('heavy:', sorted({HEAVY} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"-m espnet_hkd.{name}" in done.stdout
    assert done.stdout.endswith("heavy: []\n")


def test_each_command_is_shown_in_the_readme_or_the_documentation():
    pages = [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert [name for name in COMMANDS if name not in text] == []
