"""What the documentation says is what the code does: defaults, examples, --help."""

from __future__ import annotations

import doctest
import importlib
import inspect
import itertools
import re
from pathlib import Path

import pytest
import yaml
from espnet2.train.preprocessor import CommonPreprocessor

from espnet_hkd.cli import COMMANDS
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


@pytest.mark.parametrize(
    "page", sorted(REPOSITORY.glob("docs/*.md")), ids=lambda p: p.name
)
def test_no_section_is_empty(page: Path):
    # What stands in a block of code is no heading.
    text = re.sub(
        r"^```.*?^```$", "CODE", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    headings = [
        (n, line)
        for n, line in enumerate(filter(str.strip, text.splitlines()))
        if line.startswith("#")
    ]
    for (number, above), (following, below) in itertools.pairwise(headings):
        level = len(above) - len(above.lstrip("#"))
        deeper = len(below) - len(below.lstrip("#")) > level
        assert deeper or following > number + 1, above
    assert headings


def test_the_page_says_what_asr_align_needs():
    (row,) = [line for line in METHOD.splitlines() if line.startswith("| `asr_align`")]
    assert "pip install ctc-segmentation" in row


def test_each_command_is_shown_in_the_readme_or_the_documentation():
    pages = [REPOSITORY / "README.md", *REPOSITORY.glob("egs2/*/asr1/README.md")]
    pages += REPOSITORY.glob("docs/*.md")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    names = {name: name.replace("-", "_") for name in COMMANDS}
    assert [n for n, m in names.items() if n not in text and m not in text] == []
