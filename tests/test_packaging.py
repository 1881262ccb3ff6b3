"""What stock ESPnet commands and a bare interpreter see of the installed package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY, FreshVenv
from tests.recipe_material import (
    ANY_ROOM,
    environment,
    make_kaldi_an4,
    write_audio,
)

pytestmark = pytest.mark.slow

RECIPES = sorted(REPOSITORY.glob("egs2/*_hkd/asr1"))

# Stands in for ESPnet where only the moment of its import matters.
FAKE_TASK = """
class Choices:
    def __init__(self):
        self.classes, self.base_type = {}, None
model_choices = encoder_choices = decoder_choices = preprocessor_choices = Choices()
"""

SPAWN = """
import multiprocessing

def report(queue):
    from espnet2.tasks.asr import decoder_choices, model_choices
    queue.put(["hkd_cif" in model_choices.classes,
               "hkd_cif_transformer" in decoder_choices.classes])

def main():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=report, args=(queue,))
    process.start()
    print(queue.get(timeout=200))
    process.join()
"""


def add_fake_espnet(venv: FreshVenv) -> None:
    tasks = venv.site_packages / "espnet2" / "tasks"
    tasks.mkdir(parents=True)
    (tasks / "asr.py").write_text(FAKE_TASK)


def test_stock_asr_train_knows_our_classes(fresh_venv: FreshVenv):
    names = ["--model", "hkd_cif", "--decoder", "hkd_cif_transformer"]
    names += ["--encoder", "hkd_pooled_conformer", "--preprocessor", "hkd_teacher"]

    done = fresh_venv.run("-m", "espnet2.bin.asr_train", "--print_config", *names)

    config = yaml.safe_load(done.stdout)
    for part, name in zip(names[::2], names[1::2], strict=True):
        assert config[part.removeprefix("--")] == name


def test_spawned_process_knows_our_classes(fresh_venv: FreshVenv):
    (fresh_venv.home / "probe.py").write_text(SPAWN)

    done = fresh_venv.run("-c", "import probe; probe.main()")

    assert done.stdout == "[True, True]\n"


def test_spawned_process_of_run_knows_our_classes_without_pth(fresh_venv: FreshVenv):
    # A module run as `__main__`, as ESPnet's programs are: its children must come
    # back to espnet_hkd.run, not to it.
    (fresh_venv.home / "program.py").write_text("import probe\nprobe.main()\n")
    (fresh_venv.home / "probe.py").write_text(SPAWN)

    done = fresh_venv.run(
        "-m", "espnet_hkd.run", "-m", "program", ESPNET_HKD_AUTOLOAD="0"
    )

    assert done.stdout == "[True, True]\n"


def test_uses_the_installed_package_and_not_the_repository(fresh_venv: FreshVenv):
    done = fresh_venv.run("-c", "import espnet_hkd; print(espnet_hkd.__file__)")

    assert not Path(done.stdout.strip()).is_relative_to(REPOSITORY)


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_interpreter_start_without_espnet_is_clean_and_light(
    kind: str, new_venv: Callable[..., FreshVenv]
):
    venv = new_venv(kind)

    done = venv.run("-c", "import sys; print('espnet_hkd' in sys.modules)")

    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_autoload_can_be_switched_off(kind: str, new_venv: Callable[..., FreshVenv]):
    venv = new_venv(kind)
    finders = (
        "import sys\nprint([hasattr(f, 'is_hkd_autoload') for f in sys.meta_path])"
    )

    off = venv.run("-c", finders, ESPNET_HKD_AUTOLOAD="0")
    on = venv.run("-c", finders)

    assert ("True" in off.stdout, "True" in on.stdout) == (False, True)
    assert off.stderr == ""


def break_hook(site_packages: Path) -> None:
    (site_packages / "espnet_hkd" / "border" / "hook.py").write_text(
        "raise OSError('torn')\n"
    )


def delete_package(site_packages: Path) -> None:
    shutil.rmtree(site_packages / "espnet_hkd")


def delete_half_the_package(site_packages: Path) -> None:
    (site_packages / "espnet_hkd" / "errors.py").unlink()


@pytest.mark.parametrize(
    "damage", [break_hook, delete_package, delete_half_the_package]
)
def test_broken_install_starts_cleanly_and_lets_espnet_go_on_with_a_word(
    damage: Callable[[Path], None], new_venv: Callable[..., FreshVenv]
):
    venv = new_venv("wheel")
    add_fake_espnet(venv)
    damage(venv.site_packages)

    start = venv.run("-c", "pass")
    espnet = venv.run("-c", "import espnet2.tasks.asr; print('went on')")
    without = venv.run("-c", "import espnet2.tasks.asr", ESPNET_HKD_AUTOLOAD="0")

    assert (start.stdout, start.stderr) == ("", "")
    assert espnet.stdout == "went on\n"
    assert espnet.stderr.count("espnet_hkd is installed beside ESPnet but cannot") == 1
    assert "ESPNET_HKD_AUTOLOAD=0" in espnet.stderr
    assert without.stderr == ""


def delete_tiny_module(site_packages: Path) -> None:
    (site_packages / "espnet_hkd_autoload.py").unlink()


def truncate_tiny_module(site_packages: Path) -> None:
    module = site_packages / "espnet_hkd_autoload.py"
    module.write_text(module.read_text()[:-20])


def garble_tiny_module(site_packages: Path) -> None:
    (site_packages / "espnet_hkd_autoload.py").write_bytes(b"\0\xff" * 50)


@pytest.mark.parametrize(
    "damage", [delete_tiny_module, truncate_tiny_module, garble_tiny_module]
)
def test_broken_autoload_never_breaks_interpreter_start(
    damage: Callable[[Path], None], new_venv: Callable[..., FreshVenv]
):
    venv = new_venv("wheel")
    damage(venv.site_packages)

    done = venv.run("-c", "print('started')")

    assert (done.stdout, done.stderr) == ("started\n", "")


def test_uninstalling_leaves_nothing(new_venv: Callable[..., FreshVenv]):
    venv, empty = new_venv("wheel"), new_venv(None)
    record = next(venv.site_packages.glob("espnet_hkd-*.dist-info/RECORD"))

    listed = {line.split(",")[0].split("/")[0] for line in record.open()}

    installed = {path.name for path in venv.site_packages.iterdir()} - {"__pycache__"}
    assert installed - {path.name for path in empty.site_packages.iterdir()} <= listed
    assert "espnet_hkd_autoload.pth" in listed


def test_a_recipe_copied_from_the_wheel_runs_where_it_lies_and_has_its_model(
    new_venv: Callable[..., FreshVenv],
):
    venv = new_venv("wheel", layered=True)
    recipe = venv.home / "work"
    corpus = make_kaldi_an4(venv.home / "an4", ("train_nodev", "train_dev", "test"))
    for audio in (corpus / "audio").iterdir():
        write_audio(audio, seconds=1.0)
    activated = environment(
        PATH=f"{venv.python.parent}:{os.environ['PATH']}",
        PYTHONPATH=None,
        VIRTUAL_ENV=None,
        AN4=str(corpus),
    )

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=venv.home, env=activated, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    listed = run("espnet-hkd", "recipe").split()
    assert listed[::2] == sorted(path.parent.name for path in RECIPES)
    assert Path(listed[1]).is_relative_to(venv.site_packages)
    run("espnet-hkd", "recipe", "an4", str(recipe))
    run(str(recipe / "run.sh"), "--plm", "none", "--stop_stage", "5", *ANY_ROOM)
    tokens = (recipe / "data/en_token_list/word/tokens.txt").read_text().split()
    assert "GO" in tokens
    packed = Path("egs2/an4_hkd/asr1/pretrained/an4_hkd.zip")
    assert (recipe / "pretrained" / packed.name).read_bytes() == (
        (REPOSITORY / packed).read_bytes()
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_what_finds_the_package_is_the_same_in_every_recipe(recipe: Path):
    for name in ("path.sh", "cmd.sh"):
        first = (RECIPES[0] / name).read_text(encoding="utf-8")
        assert (recipe / name).read_text(encoding="utf-8") == first


def test_constraints_name_versions_only():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()

    for line in lines:
        assert line.startswith("#") or line.count("==") == 1, line
        assert not {"/", "@", "+"} & set(line.split("#")[0]), line
