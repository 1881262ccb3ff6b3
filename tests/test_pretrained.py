"""The packed model that comes with the AN4 recipe."""

from __future__ import annotations

import pytest

import espnet_hkd
from espnet_hkd.compare.align import count_errors
from tests.recipe_material import RECIPE, make_recipe, run_stages

MODEL = RECIPE / "pretrained" / "an4_hkd.zip"


@pytest.fixture(scope="module")
def mini_an4(tmp_path_factory):
    """Audio and words of the mini AN4 test set, which no training has seen."""
    recipe = make_recipe(tmp_path_factory.mktemp("an4") / "recipe")
    run_stages(recipe, 1, 1, AN4=None)
    tables = {}
    for name in ("wav.scp", "text"):
        lines = (recipe / "data" / "test" / name).read_text().splitlines()
        tables[name] = dict(line.split(maxsplit=1) for line in lines)
    return recipe, tables["wav.scp"], tables["text"]


def test_it_transcribes_the_mini_an4_test_set(mini_an4):
    recipe, audio, texts = mini_an4
    ids = sorted(texts)
    paths = [str(recipe / audio[id]) for id in ids]
    found = espnet_hkd.from_pretrained(str(MODEL))(paths)
    for transcript in found:
        ends = [token.end for token in transcript.tokens]
        assert ends == sorted(ends)
        assert [token.symbol for token in transcript.tokens] == transcript.text.split()
    errors = count_errors(
        [texts[id].split() for id in ids],
        [transcript.text.split() for transcript in found],
    )
    wrong = errors.substitutions + errors.deletions + errors.insertions
    assert errors.words.sum() == 10
    assert wrong.sum() <= 1


def test_it_is_small_and_free_of_what_only_training_needs():
    assert MODEL.stat().st_size < 12 * 2**20
    recognizer = espnet_hkd.from_pretrained(str(MODEL))
    names = [name for name, _ in recognizer.model.named_parameters()]
    assert not [name for name in names if name.startswith(("kd_", "lexicon_"))]
