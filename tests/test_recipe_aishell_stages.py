"""The AISHELL-1 recipe on a small tree of the corpus' layout, as far as decoding.

Speech of the free sample of AISHELL if HKD_DATA names the data, else tones. Nothing is
learnt in one epoch: what is tested is that ESPnet's preparation, a Mandarin teacher and
the published configuration, shrunk by --asr_args alone, go together.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from espnet_hkd.teacher.store import TeacherStore
from tests.recipe_material import (
    REPOSITORY,
    TOOLS,
    load_program,
    make_recipe,
    run_stages,
)
from tools import tiny_bert

pytestmark = pytest.mark.slow

small = load_program(TOOLS / "small_corpora.py")
COUNTS = {"train": 8, "dev": 2, "test": 2}
SHRINK = (
    "--max_epoch 1 --num_workers 0 --num_att_plot 0 --batch_bins 2000000 "
    "--frontend_conf n_mels=40 --encoder_conf output_size=16 --encoder_conf "
    "linear_units=16 --encoder_conf num_blocks=2 --encoder_conf pool_after=[1] "
    "--encoder_conf front_channels=4 --decoder_conf linear_units=16 --decoder_conf "
    "num_blocks=1 --model_conf teacher_dim=16"
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The recipe's work folder after its stages, and what they printed."""
    folder = tmp_path_factory.mktemp("aishell")
    shared = os.environ.get("HKD_DATA")
    sample = Path(shared) / "aishell_sample" if shared else None
    corpus = small.make("aishell", folder / "corpus", COUNTS, sample)
    spoken = [each.text for utterances in corpus.values() for each in utterances]
    tokenizer = tiny_bert.make_tokenizer(tiny_bert.characters(spoken))
    bert = tiny_bert.save_bert(folder / "bert", tokenizer, width=16, positions=128)
    recipe = make_recipe(
        folder / "recipe", REPOSITORY / "egs2" / "aishell_hkd" / "asr1"
    )
    options = (
        *("--ngpu", "0", "--nj", "1", "--inference_nj", "1", "--plm", str(bert)),
        *("--asr_tag", "small", "--inference_tag", "decode", "--test_sets", "test"),
        *("--asr_args", SHRINK, "--inference_args", "--beam_size 2"),
    )
    run_stages(recipe, 1, 5, *options, AISHELL=str(folder / "corpus"))
    return recipe, run_stages(recipe, 10, 12, *options)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_units_are_the_characters_of_the_training_set(recipe):
    folder, _ = recipe
    text = "".join(
        line.split()[1] for line in lines(folder / "data" / "train" / "text")
    )
    tokens = lines(folder / "data" / "zh_token_list" / "char" / "tokens.txt")
    assert sorted(tokens[2:-1]) == sorted(set(text))


def test_teacher_has_a_state_for_every_character(recipe):
    folder, _ = recipe
    store = TeacherStore.open(folder / "data" / "teacher")
    for name in ("train", "dev"):
        for line in lines(folder / "data" / name / "text"):
            text = line.split()[1]
            # Its own piece for each character, and the end of the sentence.
            assert len(store[text].spans) == len(text) + 1
    record = json.loads((folder / "data" / "teacher" / "store.json").read_text())
    assert record["width"] == 16


def test_tokens_per_frame_are_printed_without_global_statistics(recipe):
    _, printed = recipe
    assert re.search(r"0\.\d+ tokens per encoder frame", printed)


def test_distillation_is_trained(recipe):
    folder, _ = recipe
    log = (folder / "exp" / "asr_small" / "train.log").read_text()
    trained = log.partition("epoch results: [train]")[2].partition("[valid]")[0]
    values = dict(re.findall(r"(loss_\w+)=([^,]+)", trained))
    assert float(values["loss_acd"]) > 0
    assert float(values["loss_lrd"]) > 0


def test_every_test_utterance_has_a_hypothesis(recipe):
    folder, _ = recipe
    hypotheses = lines(folder / "exp" / "asr_small" / "decode" / "test" / "text")
    wanted = lines(folder / "data" / "test" / "text")
    assert [each.split()[0] for each in hypotheses] == [
        each.split()[0] for each in wanted
    ]
