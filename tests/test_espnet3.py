"""The recipe of docs/espnet3.md, taken from the page: ESPnet3 trains our model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from tests.recipe_material import REPOSITORY, environment
from tests.small_models import speech
from tests.teacher_material import SETTINGS, build_words

pytestmark = pytest.mark.slow

PAGE = REPOSITORY / "docs" / "espnet3.md"
TEXTS = ["ABBA CD", "CD EFG AHA", "EFG BE", "AHA ABBA", "BE DEAD CD", "DEAD HEAD"]
TASKS = ("espnet3.systems.esp2_asr.task.ASRTask", "espnet2.tasks.asr.ASRTask")
SMALL = {
    "encoder_conf": {"output_size": 16, "linear_units": 32, "num_blocks": 2}
    | {"pool_after": [1], "front_channels": 4},
    "decoder_conf": {"linear_units": 32},
    "model_conf": {"teacher_dim": SETTINGS.width},
}


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """The page's three files, the model made small, on six utterances of noise."""
    folder = tmp_path_factory.mktemp("recipe")
    run, dataset = blocks("python")
    training, _ = blocks("yaml")
    for name in ("dataset", "conf", "data/train", "data/dev"):
        (folder / name).mkdir(parents=True)
    (folder / "run.py").write_text(run)
    (folder / "dataset" / "__init__.py").write_text(dataset)
    for name, numbers in (("train", range(6)), ("dev", range(2))):
        for number in numbers:
            path = folder / "data" / name / f"u{number}.wav"
            soundfile.write(path, speech(1.2 + 0.1 * number, seed=number), 16000)
            with (path.parent / "wav.scp").open("a") as table:
                table.write(f"u{number} {path}\n")
            with (path.parent / "text").open("a") as table:
                table.write(f"u{number} {TEXTS[number]}\n")
    build_words(TEXTS, folder / "data" / "teacher")
    for task in TASKS:
        config = yaml.safe_load(training)
        for part, sizes in SMALL.items():
            config["model"][part] |= sizes
        config["task"] = task
        config["tokenizer"]["vocab_size"] = 20
        config["num_device"] = 1
        # Without processes of Dask, which would take longer than the training.
        config["parallel"] = None
        # ESPnet3 averages ten once an eleventh is done.
        config["trainer"] |= {"max_epochs": 12, "accelerator": "cpu"}
        path = folder / "conf" / f"{task.partition('.')[0]}.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def launch(recipe: Path, name: str, *stages: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "run.py", "--training_config", f"conf/{name}.yaml"),
            *("--stages", *stages),
        ],
        cwd=recipe,
        env=environment(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("task", TASKS)
def test_page_trains_and_recognises(recipe: Path, task: str, monkeypatch):
    from espnet2.bin.asr_inference import Speech2Text

    name = task.partition(".")[0]
    launch(recipe, name, "train_tokenizer", "collect_stats", "train")

    monkeypatch.chdir(recipe)
    exp = Path("exp") / name
    weights = [
        torch.load(path, weights_only=True)["state_dict"]
        for path in sorted(exp.glob("epoch?_*.ckpt"))
    ]
    # A teacher came with every batch: the heads, which nothing else moves, moved.
    for head in ("kd_acd.weight", "kd_lrd.weight"):
        assert not torch.equal(weights[0][head], weights[-1][head])
    _, inference = map(yaml.safe_load, blocks("yaml"))
    options = inference["model"]
    assert options.pop("_target_") == f"{Speech2Text.__module__}.Speech2Text"
    options = {
        key: value.replace("${exp_dir}", str(exp)) if isinstance(value, str) else value
        for key, value in options.items()
    }
    recognize = Speech2Text(**options)
    text, tokens, _, _ = recognize(speech(1.4, seed=9))[0]
    assert isinstance(text, str)
    assert all(token in recognize.asr_model.token_list for token in tokens)
