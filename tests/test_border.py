"""The import hook and its triggers, on stand-ins for ESPnet's ASR task module."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import espnet_hkd
import espnet_hkd_autoload
from espnet_hkd import plugin
from espnet_hkd.border import classes, hook, settings
from espnet_hkd.errors import HKDError
from tests.conftest import REPOSITORY

CLASSES = "the classes of the test"

# The sleep lets threads meet in the middle of the import.
TASK = """
import time

class Base:
    pass

class Choices:
    def __init__(self):
        self.classes, self.base_type = {}, Base

model_choices = Choices()
time.sleep(0.05)
"""

PLUGIN = """
import {task}

class Good({task}.Base):
    pass

class WrongBase:
    pass
"""


@pytest.fixture
def task(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Name an ASR task that the hook waits for; a module of its own for each test."""
    name = f"task_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(TASK)
    (tmp_path / f"plugin_{name}.py").write_text(PLUGIN.format(task=name))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(hook, "TASK_MODULES", (name,))
    monkeypatch.setattr(hook, "_patches", [])
    monkeypatch.setattr(hook, "_off", {})
    monkeypatch.setattr(plugin, "PATCHES", (hook.Patch(CLASSES, classes.add_classes),))
    set_class(monkeypatch, f"plugin_{name}:Good")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield name
    for module in (name, f"plugin_{name}"):
        sys.modules.pop(module, None)


def set_class(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(classes, "CLASSES", {"model": {"hkd_test": path}})


def test_classes_are_added_when_the_task_is_imported(task: str):
    espnet_hkd.register()
    assert task not in sys.modules

    module = importlib.import_module(task)

    good = sys.modules[f"plugin_{task}"].Good
    assert module.model_choices.classes == {"hkd_test": good}


def test_a_task_that_is_already_imported_is_served(task: str):
    espnet_hkd.register()
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, hook.TaskFinder)]
    module = importlib.import_module(task)
    assert module.model_choices.classes == {}

    espnet_hkd.register()

    assert list(module.model_choices.classes) == ["hkd_test"]


def test_registering_again_changes_nothing(task: str):
    espnet_hkd.register()
    module = importlib.import_module(task)
    before = dict(module.model_choices.classes)

    espnet_hkd.register()
    espnet_hkd.register()

    assert module.model_choices.classes == before
    assert sum(isinstance(f, hook.TaskFinder) for f in sys.meta_path) == 1


def test_a_reloaded_task_is_served_again(task: str):
    espnet_hkd.register()
    module = importlib.import_module(task)
    first = module.model_choices
    # Its base class is a new one, and so must the plugin's be.
    del sys.modules[f"plugin_{task}"]

    module = importlib.reload(module)

    assert module.model_choices is not first
    assert list(module.model_choices.classes) == ["hkd_test"]


def test_the_original_loader_stays(task: str):
    espnet_hkd.register()

    module = importlib.import_module(task)

    assert isinstance(module.__loader__, importlib.machinery.SourceFileLoader)
    assert module.__spec__.loader is module.__loader__
    assert module.__loader__.get_resource_reader(task) is not None
    assert inspect.getsource(module) == TASK


def test_looking_for_the_task_does_not_import_it(task: str, tmp_path: Path):
    espnet_hkd.register()

    spec = importlib.util.find_spec(task)

    assert spec.origin == str(tmp_path / f"{task}.py")
    assert spec.loader.get_source(task) == TASK
    assert task not in sys.modules


def test_threads_that_import_at_once_all_see_the_classes(task: str):
    espnet_hkd.register()
    seen = []

    def look():
        seen.append(list(importlib.import_module(task).model_choices.classes))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [["hkd_test"]] * 8


def test_registering_while_another_thread_imports_the_task_waits(task: str):
    espnet_hkd.register()
    importing = threading.Thread(target=importlib.import_module, args=(task,))
    importing.start()
    while task not in sys.modules:
        pass

    espnet_hkd.register()

    assert list(sys.modules[task].model_choices.classes) == ["hkd_test"]
    importing.join()


@pytest.mark.parametrize(
    ("cls", "complaint"),
    [
        ("WrongBase", "WrongBase is not a Base"),
        ("Missing", "has no attribute 'Missing'"),
    ],
)
def test_a_class_that_cannot_be_added_warns_and_is_an_error_when_asked_for(
    cls: str, complaint: str, task: str, monkeypatch: pytest.MonkeyPatch
):
    set_class(monkeypatch, f"plugin_{task}:{cls}")
    espnet_hkd.register()

    with pytest.warns(RuntimeWarning, match=complaint) as warned:
        module = importlib.import_module(task)

    assert len(warned) == 1
    assert CLASSES in str(warned[0].message)
    assert complaint in (hook.why_off(CLASSES) or "")
    with pytest.raises(HKDError, match="could not be made known") as info:
        module.model_choices.classes["hkd_test"](vocab_size=3)
    assert complaint in str(info.value.got)


def test_registering_again_makes_good_what_failed(
    task: str, monkeypatch: pytest.MonkeyPatch
):
    set_class(monkeypatch, "no_such_module:Class")
    espnet_hkd.register()
    with pytest.warns(RuntimeWarning, match="no_such_module"):
        module = importlib.import_module(task)
    set_class(monkeypatch, f"plugin_{task}:Good")

    espnet_hkd.register()

    assert module.model_choices.classes["hkd_test"].__name__ == "Good"
    assert hook.why_off(CLASSES) is None


def test_a_name_that_another_package_took_is_an_error_when_asked_for(
    task: str, monkeypatch: pytest.MonkeyPatch
):
    espnet_hkd.register()
    module = importlib.import_module(task)
    set_class(monkeypatch, f"plugin_{task}:WrongBase")
    module.model_choices.base_type = None

    with pytest.warns(RuntimeWarning, match="--model hkd_test is taken"):
        espnet_hkd.register()

    with pytest.raises(HKDError, match=f"plugin_{task}:Good"):
        module.model_choices.classes["hkd_test"]()


def test_a_patch_that_was_asked_for_is_an_error_where_it_cannot_be_applied(task: str):
    espnet_hkd.register()
    importlib.import_module(task)

    with pytest.raises(HKDError, match="--set cannot be had with this ESPnet"):
        settings.install(["decoder_conf.tail=0.4"])


def test_both_finders_wait_for_the_same_modules():
    # The module of the .pth file must not import the package to know them.
    assert espnet_hkd_autoload._TASKS == hook.TASK_MODULES


def test_espnet_and_its_third_edition_know_our_classes():
    for name in hook.TASK_MODULES:
        task = importlib.import_module(name)
        for kind, named in classes.CLASSES.items():
            choices = getattr(task, f"{kind}_choices")
            for key, path in named.items():
                assert choices.get_class(key) is classes.load_class(path)


def run_python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_importing_the_package_is_light(tmp_path: Path):
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import espnet_hkd\n"
        "new = set(sys.modules) - before\n"
        "ours = {name for name in new if name.startswith('espnet_hkd')}\n"
        "print(sorted(n for n in new - ours if n.partition('.')[0] not in "
        "sys.stdlib_module_names), len(ours))\n"
    )

    done = run_python("-c", code, cwd=tmp_path)

    # benchmarks/autoload.py measures the time: this is what it depends on.
    others, ours = done.stdout.rsplit(maxsplit=1)
    assert others == "[]"
    assert int(ours) <= 8


def test_public_names_are_there():
    for name in espnet_hkd.__all__:
        assert getattr(espnet_hkd, name) is not None
    assert set(espnet_hkd.__all__) <= set(dir(espnet_hkd))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = espnet_hkd.no_such_name


PROGRAM = """
import sys
if __name__ == "__main__":
    print(sys.argv, sys.path[0] == {path!r})
"""


@pytest.mark.parametrize("how", ["module", "script"])
def test_run_stands_for_python(how: str, tmp_path: Path):
    folder = tmp_path / "scripts" if how == "script" else tmp_path
    folder.mkdir(exist_ok=True)
    path = folder / "program.py"
    path.write_text(PROGRAM.format(path=str(folder)))
    program = ["-m", "program"] if how == "module" else ["scripts/program.py"]

    by_run = run_python("-m", "espnet_hkd.run", *program, "--x", "-m", cwd=tmp_path)
    by_python = run_python(*program, "--x", "-m", cwd=tmp_path)

    assert by_run.stdout == by_python.stdout
    assert by_run.stdout.endswith("'--x', '-m'] True\n")


def test_run_is_silent_about_type_checks_of_the_program(tmp_path: Path):
    """ESPnet's programs ask for them; twelve warnings stood in stage 13's output."""
    (tmp_path / "program.py").write_text(
        "from typeguard import typechecked\n"
        "@typechecked\n"
        "def double(x: int) -> int:\n"
        "    return 2 * x\n"
        "print(double(2))\n"
    )

    done = run_python("-m", "espnet_hkd.run", "-m", "program", cwd=tmp_path)

    assert (done.stdout, done.stderr) == ("4\n", "")


def test_run_hands_on_the_exit_status(tmp_path: Path):
    code = "import sys; print(sys.argv, __name__); sys.exit(7)"

    done = run_python("-m", "espnet_hkd.run", "-c", code, "a", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (7, "['-c', 'a'] __main__\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "no program to run"),
        (["--unknown"], "no program to run"),
        (["-m"], "-m without its argument"),
        (["--set"], "no program to run"),
        (["--set", "tail=0.4", "-m", "x"], "cannot read the setting 'tail=0.4'"),
        (["--set=coder_conf.tail=0.4", "-m", "x"], "there is no coder_conf"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_run_says_what_is_wrong_without_traceback(
    arguments: list[str], complaint: str, tmp_path: Path
):
    done = run_python("-m", "espnet_hkd.run", *arguments, cwd=tmp_path)

    assert done.returncode == 1
    assert done.stderr.startswith(f"espnet_hkd.run: {complaint}")
    assert "Traceback" not in done.stderr
