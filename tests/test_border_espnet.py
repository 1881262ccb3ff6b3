"""Another ESPnet than ours: what does not fit is off, and all else goes on."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

CHANGES = """
del Trainer.plot_attention
del abs_task.load_pretrained_model
stock_build = asr.ASRTask.build_model.__func__
asr.ASRTask.build_model = classmethod(
    lambda cls, args, strict=True: stock_build(cls, args)
)
"""
LOOK = """
from espnet2.tasks import abs_task, asr
from espnet2.train.trainer import Trainer
"""
USE = """
import numpy as np
from espnet2.bin import asr_train
from espnet2.bin.asr_inference import Speech2Text
from espnet_hkd.border import hook
from espnet_hkd.errors import HKDError
from tests.small_models import write_experiment

try:
    asr_train.main(["--print_config"])
except SystemExit:
    pass
exp = write_experiment(
    Path("stock"), model="espnet", model_conf={}, decoder="transformer",
    decoder_conf={"num_blocks": 1, "linear_units": 8}, preprocessor="default",
    preprocessor_conf={},
)
decode = Speech2Text(
    str(exp / "config.yaml"), str(exp / "train.total_count.ave.pth"),
    beam_size=2, maxlenratio=-3.0,
)
decode(np.zeros(16000, dtype=np.float32))
print("WENT ON")
args = asr.ASRTask.get_default_config()
args.update(init_param=["model.zip"])
try:
    asr.ASRTask.build_model(argparse.Namespace(**args))
except HKDError as error:
    print("REFUSED", error.problem)
except Exception as error:
    print("OTHER", type(error).__name__)
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text("import argparse\nfrom pathlib import Path\n" + code)
    return subprocess.run(
        [sys.executable, str(program)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "ESPNET_HKD_AUTOLOAD": "0",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )


def test_stock_espnet_goes_on_where_our_patches_do_not_fit(tmp_path: Path):
    done = run(LOOK + CHANGES + "import espnet_hkd\n" + USE, tmp_path)

    assert "WENT ON" in done.stdout
    # No difference in silence: the zip is refused, and each patch warns once.
    assert "REFUSED training that starts from a packed model" in done.stdout
    for name in ("firing plots in training", "(--init_param MODEL.zip)"):
        assert done.stderr.count(f"{name} cannot be had with this ESPnet") == 1


def test_stock_espnet_goes_on_where_it_changes_after_us(tmp_path: Path):
    done = run("import espnet_hkd\n" + LOOK + CHANGES + USE, tmp_path)

    assert "WENT ON" in done.stdout


def assigned_attributes(tree: ast.Module) -> list[str]:
    """Attributes of ESPnet's modules and classes that a file assigns or deletes."""
    espnet = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).split(".")[0]
        in ("espnet", "espnet2", "espnet3")
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(
            node.ctx, ast.Store | ast.Del
        ):
            parts = ast.unparse(node).split(".")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            parts = ast.unparse(node.args[0]).split(".")
        else:
            continue
        if parts[0] in espnet or "ASRTask" in parts:
            found.append(".".join(parts))
    return found


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from espnet2.tasks import abs_task\nabs_task.x = 1", ["abs_task.x"]),
        ("import espnet2 as e\nsetattr(e.main, 'x', 1)", ["e.main"]),
        ("task.ASRTask.build_model = 1", ["task.ASRTask.build_model"]),
        ("import torch\ntorch.x = 1\nself.task = 2", []),
    ],
)
def test_assignments_to_espnet_are_found(code: str, found: list[str]):
    assert assigned_attributes(ast.parse(code)) == found


def test_espnet_is_changed_in_the_border_and_the_plugin_only():
    changed = {}
    for path in (REPOSITORY / "espnet_hkd").rglob("*.py"):
        name = str(path.relative_to(REPOSITORY / "espnet_hkd"))
        found = assigned_attributes(ast.parse(path.read_text(encoding="utf-8")))
        if found and not name.startswith("border/") and name != "plugin.py":
            changed[name] = found
    assert changed == {}


def test_code_is_loaded_by_name_from_tables_only():
    loading = {
        str(path.relative_to(REPOSITORY / "espnet_hkd"))
        for path in (REPOSITORY / "espnet_hkd").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
    }
    # Tables of classes, public names, subcommands, implementations; ESPnet's modules.
    assert loading <= {
        "__init__.py",
        "border/classes.py",
        "border/hook.py",
        "cif/__init__.py",
        "cli.py",
    }
