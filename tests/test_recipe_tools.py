"""The recipes' tools: the ESPnet tree, links, early checks, and small programs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from espnet_hkd.bin import units_fit
from tests.recipe_material import (
    ANY_ROOM,
    RECIPE,
    REPOSITORY,
    SHELL,
    TOOLS,
    make_recipe,
    run,
)

pytestmark = pytest.mark.slow

ESPNET = version("espnet")
LINKS = ("asr.sh", "pyscripts", "scripts", "steps", "utils")


def make_tree(root: Path, release: str = ESPNET) -> Path:
    """What the tools look at in an ESPnet source tree."""
    template = root / "egs2" / "TEMPLATE" / "asr1"
    template.mkdir(parents=True)
    for name in LINKS:
        (template / name).mkdir() if name != "asr.sh" else (template / name).touch()
    (root / "version.txt").write_text(f"{release}\n")
    return root


def make_sdist(folder: Path, release: str = ESPNET) -> Path:
    """A source distribution that pip takes for ESPnet's."""
    tree = make_tree(folder / f"espnet-{ESPNET}", release)
    (tree / "setup.py").write_text(
        f"from setuptools import setup\nsetup(name='espnet', version='{ESPNET}')\n"
    )
    (tree / "PKG-INFO").write_text(
        f"Metadata-Version: 2.1\nName: espnet\nVersion: {ESPNET}\n"
    )
    packed = folder / f"espnet-{ESPNET}.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tree, tree.name)
    return folder


def get_espnet(tmp_path: Path, **changes: str | None):
    """Call the tool with an empty cache and pip cut off from the network."""
    defaults = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "ESPNET_ROOT": None,
    }
    return run(SHELL / "get_espnet.sh", **defaults | changes)


def test_espnet_root_of_the_installed_version_is_used(tmp_path: Path):
    tree = make_tree(tmp_path / "espnet")
    done = get_espnet(tmp_path, ESPNET_ROOT=str(tree))
    assert (done.returncode, done.stdout.strip()) == (0, str(tree))


def test_espnet_root_of_another_version_is_refused(tmp_path: Path):
    tree = make_tree(tmp_path / "espnet", "199901")
    done = get_espnet(tmp_path, ESPNET_ROOT=str(tree))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"199901 in {tree}" in done.stderr
    assert f"wanted: {ESPNET}" in done.stderr


def test_espnet_root_that_is_no_tree_is_refused(tmp_path: Path):
    done = get_espnet(tmp_path, ESPNET_ROOT=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "ESPNET_ROOT is not an ESPnet source tree" in done.stderr


def test_without_network_the_remedy_is_named_and_nothing_is_left(tmp_path: Path):
    done = get_espnet(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "could not be downloaded" in done.stderr
    assert "ESPNET_ROOT=DIR" in done.stderr
    assert list((tmp_path / "cache" / "espnet_hkd").iterdir()) == []


def test_source_is_unpacked_once_and_then_taken_from_the_cache(tmp_path: Path):
    sdist = make_sdist(tmp_path / "sdist")
    first = get_espnet(tmp_path, PIP_FIND_LINKS=str(sdist))
    tree = tmp_path / "cache" / "espnet_hkd" / f"espnet-{ESPNET}"
    assert (first.returncode, first.stdout.strip()) == (0, str(tree)), first.stderr
    assert (tree / "egs2" / "TEMPLATE" / "asr1" / "asr.sh").is_file()
    assert [path.name for path in tree.parent.iterdir()] == [tree.name]
    again = get_espnet(tmp_path)
    assert (again.returncode, again.stdout.strip()) == (0, str(tree))


def test_two_calls_at_once_end_with_one_tree(tmp_path: Path):
    sdist = str(make_sdist(tmp_path / "sdist"))
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(get_espnet, tmp_path, PIP_FIND_LINKS=sdist) for _ in range(2)
        ]
    tree = tmp_path / "cache" / "espnet_hkd" / f"espnet-{ESPNET}"
    for call in calls:
        assert call.result().stdout.strip() == str(tree), call.result().stderr
    assert [path.name for path in tree.parent.iterdir()] == [tree.name]


def test_source_of_another_version_never_reaches_the_cache(tmp_path: Path):
    sdist = make_sdist(tmp_path / "sdist", release="199901")
    done = get_espnet(tmp_path, PIP_FIND_LINKS=str(sdist))
    assert done.returncode == 1
    assert "not of the installed version" in done.stderr
    assert list((tmp_path / "cache" / "espnet_hkd").iterdir()) == []


def test_links_are_made_repaired_and_never_replace_files(tmp_path: Path):
    tree = make_tree(tmp_path / "espnet")
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "steps").symlink_to(tmp_path / "gone")
    (recipe / "asr.sh").write_text("my own\n")
    for _ in range(2):
        done = run(SHELL / "link_recipe.sh", recipe, ESPNET_ROOT=str(tree))
        assert done.returncode == 0
        assert "asr.sh is no link and stays" in done.stderr
    template = tree / "egs2" / "TEMPLATE" / "asr1"
    for name in LINKS[1:]:
        assert (recipe / name).resolve() == template / name
    assert (recipe / "asr.sh").read_text() == "my own\n"
    assert list(template.glob("*/*")) == []


def test_link_recipe_names_a_folder_that_is_not_there(tmp_path: Path):
    done = run(SHELL / "link_recipe.sh", tmp_path / "gone")
    assert done.returncode == 2
    assert f"there is no folder {tmp_path / 'gone'}" in done.stderr


def path_without(folder: Path, program: str) -> str:
    """A PATH on which everything of the present one is found but this program."""
    folder.mkdir()
    for place in map(Path, os.environ["PATH"].split(":")):
        for found in place.iterdir() if place.is_dir() else ():
            link = folder / found.name
            if found.name != program and not link.exists():
                link.symlink_to(found)
    # A Python by a link would not find its packages.
    return f"{Path(sys.executable).parent}:{folder}"


@pytest.mark.parametrize(
    ("program", "package", "options"),
    [
        ("sclite", "sctk", ("--stage", "1")),
        ("sox", "sox", ("--stop_stage", "3", "--speed_perturb_factors", "0.9 1.0")),
    ],
)
def test_missing_program_is_named_before_any_work(
    tmp_path: Path, program: str, package: str, options: tuple[str, ...]
):
    recipe = make_recipe(tmp_path / "recipe")
    done = run(
        *(recipe / "run.sh", *ANY_ROOM, *options, "--plm", "none"),
        PATH=path_without(tmp_path / "bin", program),
        SCTK_BIN=str(tmp_path),
        ESPNET_ROOT=str(make_tree(tmp_path / "espnet")),
    )
    assert done.returncode == 1
    assert f"{program} is missing" in done.stderr
    assert f"apt-get install {package}" in done.stderr
    assert not (recipe / "data").exists()


def test_experiment_outside_the_recipe_is_refused_before_any_work(tmp_path: Path):
    recipe = make_recipe(tmp_path / "recipe")
    done = run(
        *(recipe / "run.sh", "--expdir", tmp_path / "elsewhere", "--plm", "none"),
        *("--skip_eval", "true", *ANY_ROOM),
        ESPNET_ROOT=str(make_tree(tmp_path / "espnet")),
    )
    assert done.returncode == 1
    assert "cannot be packed" in done.stderr
    assert str(tmp_path / "elsewhere") in done.stderr
    assert not (recipe / "data").exists()


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("--long_texts", "stop, skip or keep"),
        ("--pack_dtype", "float32, float16 or bfloat16"),
    ],
)
def test_a_choice_there_is_not_is_named_before_any_work(
    tmp_path: Path, option: str, wanted: str
):
    recipe = make_recipe(tmp_path / "recipe")
    done = run(recipe / "run.sh", option, "other")
    assert done.returncode == 1
    assert wanted in done.stderr
    assert not (recipe / "data").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("use_streaming", "true"),
        ("use_k2", "true"),
        ("use_maskctc", "true"),
        ("asr_task", "asr_transducer"),
    ],
)
def test_decoding_of_other_models_is_refused_before_any_work(
    tmp_path: Path, option: str, value: str
):
    recipe = make_recipe(tmp_path / "recipe")
    done = run(
        *(recipe / "run.sh", f"--{option}", value),
        ESPNET_ROOT=str(make_tree(tmp_path / "espnet")),
    )
    assert done.returncode == 1
    assert f"remedy: leave out --{option}" in done.stderr
    assert not (recipe / "data").exists()


@pytest.mark.parametrize(
    ("stages", "options", "wanted"),
    [
        ((1, 5), (), 12),
        ((1, 5), ("--plm", "none"), 8),
        ((1, 11), ("--plm", "none"), 12),
        ((2, 4), ("--plm", "none", "--speed_perturb_factors", "0.9 1.0 1.1"), 24),
        ((5, 10), (), None),
        ((1, 11), ("--disk_gb", "0"), None),
    ],
)
def test_room_is_asked_for_by_what_the_stages_write(
    tmp_path: Path,
    stages: tuple[int, int],
    options: tuple[str, ...],
    wanted: int | None,
):
    recipe = make_recipe(
        tmp_path / "recipe", REPOSITORY / "egs2" / "aishell_hkd" / "asr1"
    )
    free = tmp_path / "bin" / "df"
    free.parent.mkdir()
    free.write_text("#!/bin/sh\nprintf 'Avail\\n 7\\n'\n")
    free.chmod(0o755)
    done = run(
        *(recipe / "run.sh", *options, "--skip_eval", "true"),
        *("--stage", str(stages[0]), "--stop_stage", str(stages[1])),
        PATH=f"{free.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        ESPNET_ROOT=str(make_tree(tmp_path / "espnet")),
    )
    said = f"wanted: about {wanted} GB for stages {stages[0]} to {stages[1]}"
    assert ("got:    7 GB free" in done.stderr) == (wanted is not None)
    assert wanted is None or said in done.stderr


LEXICON = "GO G OW\nHOME HH OW M\n"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--feats_type", "fbank"), "asr.sh has no --feats_type fbank"),
        (("--feats_type", "fbank_pitch"), "has no conf/fbank.conf"),
        (("--disk_gb", "1000000"), "wanted: about 1000000 GB"),
        (("--disk_gb", "much"), "--disk_gb is a whole number"),
        (("--token_type", "bpe"), "words, such as HOME, and no line for \u2581"),
        (("--token_type", "char"), "words, such as HOME, and no line for E, G, H"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_would_stop_a_later_stage_is_found_before_the_first(
    tmp_path: Path, options: tuple[str, ...], named: str
):
    recipe = make_recipe(tmp_path / "recipe")
    (tmp_path / "lexicon.txt").write_text(LEXICON)
    done = run(
        *(recipe / "run.sh", *options, "--plm", "none", "--stop_stage", "10"),
        *("--asr_args", f"--model_conf lexicon={tmp_path / 'lexicon.txt'}"),
        ESPNET_ROOT=str(make_tree(tmp_path / "espnet")),
    )
    assert done.returncode == 1
    assert named in done.stderr
    assert not (recipe / "data").exists()


def test_lexicon_that_spells_the_unit_passes(tmp_path: Path):
    """AN4's is of words, but has a line for each letter, too."""
    conf = ("--config", str(RECIPE / "conf" / "train_asr_cif.yaml"))
    lexicon = tmp_path / "lexicon.txt"
    for text, unit in (
        ((RECIPE / "conf" / "lexicon.txt").read_text(), "char"),
        (LEXICON, "word"),
        ("\u2581GO G OW\nS S\n", "bpe"),
    ):
        lexicon.write_text(text)
        args = ("--asr_args", f"--model_conf lexicon={lexicon}", "--token_type", unit)
        units_fit.main([*conf, *args])


def test_what_the_user_typed_is_kept_for_the_command_that_starts_again(tmp_path: Path):
    script = tmp_path / "run.sh"
    script.write_text(f'. {SHELL / "recipe.sh"}\necho "${{typed}}"\n')
    done = run("bash", script, "--nj", "2", "--asr_args", "--max_epoch 3")
    assert done.stdout == f"{script} --nj 2 --asr_args --max_epoch\\ 3\n"


def test_training_without_sound_resume_point_is_refused_before_gpus_are_taken(
    tmp_path: Path,
):
    recipe = make_recipe(tmp_path / "recipe")
    tree = make_tree(tmp_path / "espnet")
    names = (
        "asr_exp=exp/asr_x\nasr_stats_dir=exp/stats\n[ $0 = ./run.sh ] || touch ran\n"
    )
    script = tree / "egs2" / "TEMPLATE" / "asr1" / "asr.sh"
    script.write_text(names)
    script.chmod(0o755)
    (recipe / "exp" / "stats" / "train").mkdir(parents=True)
    for name, size in (("speech_shape", "16000"), ("text_shape", "3")):
        (recipe / "exp" / "stats" / "train" / name).write_text(f"a {size}\n")
    (recipe / "exp" / "asr_x").mkdir()
    (recipe / "exp" / "asr_x" / "checkpoint.pth").touch()
    torch.save({"w": torch.zeros(2)}, recipe / "exp" / "asr_x" / "1epoch.pth")
    options = (*ANY_ROOM, "--stage", "11", "--stop_stage", "11", "--plm", "none")
    config = ("--asr_config", "conf/train_asr_cif.yaml")
    done = run("./run.sh", *options, *config, cwd=recipe, ESPNET_ROOT=str(tree))
    assert done.returncode == 1
    assert "exp/asr_x cannot go on: checkpoint.pth is damaged (0 bytes" in done.stderr
    assert (
        f"./run.sh {' '.join((*options, *config))} --stage 11 --pretrained_model "
        "exp/asr_x/1epoch.pth --asr_exp exp/asr_x_again"
    ) in done.stderr
    # What asr.sh would have done in stage 11.
    assert not (recipe / "ran").exists()


def test_missing_teacher_store_is_named_before_training(tmp_path: Path):
    recipe = make_recipe(tmp_path / "recipe")
    done = run(
        *(recipe / "run.sh", *ANY_ROOM, "--stage", "10", "--stop_stage", "11"),
        ESPNET_ROOT=str(make_tree(tmp_path / "espnet")),
    )
    assert done.returncode == 1
    assert "data/teacher" in done.stderr
    assert not (recipe / "exp").exists()


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ((), "default"),
        (("--nj", "2"), "default"),
        (("--stage", "3", "--stage", "11"), "11"),
        (("--asr_args", "--stage 5"), "default"),
        (("--stop-stage", "4", "--stage", "1"), "1"),
    ],
)
def test_last_value_of_an_option_counts(arguments: tuple[str, ...], value: str):
    script = '. "$1"; shift; option stage default "$@"'
    command = ["bash", "-c", script, "bash", str(SHELL / "recipe.sh"), *arguments]
    assert subprocess.check_output(command, text=True).strip() == value


def test_spm_train_takes_the_options_of_asr_sh(tmp_path: Path):
    text = tmp_path / "train.txt"
    text.write_text("ONE TWO THREE\nRUBOUT SEVEN\nENTER FIVE FOUR\n")
    done = run(
        SHELL / "spm_train",
        f"--input={text}",
        "--vocab_size=20",
        "--model_type=unigram",
        f"--model_prefix={tmp_path / 'bpe'}",
        "--character_coverage=1.0",
        "--input_sentence_size=100000000",
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "bpe.vocab").read_text().splitlines()) == 20


@pytest.mark.parametrize("name", ["small_corpora.py", "tiny_bert.py"])
def test_a_tool_runs_from_any_folder(tmp_path: Path, name: str):
    done = run(sys.executable, TOOLS / name, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name} ")
