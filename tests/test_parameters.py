"""The table of parameters, and what it says of differences."""

from __future__ import annotations

import pytest
import yaml

from espnet_hkd.bin import parameters as program
from espnet_hkd.recipes.parameters import build_model, read_tokens
from tests.recipe_material import RECIPE

TEACHER = {"acd_weight": 1.0, "lrd_weight": 0.01, "teacher_dim": 768}


def published(folder, **model_conf):
    config = {
        "encoder": "hkd_pooled_conformer",
        "decoder": "hkd_cif_transformer",
        "model": "hkd_cif",
        "model_conf": model_conf,
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def print_table(capsys, *options):
    program.main(list(options))
    return capsys.readouterr().out.splitlines()


def test_published_sizes_give_the_published_table(tmp_path, capsys):
    config = published(tmp_path)
    lines = print_table(capsys, "--config", config, "--tokens", "4234")
    rows = [line.split()[-2:] for line in lines[1:]]
    assert all(here == theirs for here, theirs in rows)
    assert lines[-1].split() == ["all", "47,208,587", "47,208,587"]


def test_every_difference_is_explained(tmp_path, capsys):
    config = published(tmp_path, **TEACHER)
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("<blank>\n<unk>\nA\nB\nC\nD\n<sos/eos>\n")
    lines = print_table(capsys, "--config", config, "--tokens", str(tokens))
    differing = [
        line[:44].strip() for line in lines[1:-4] if len(set(line.split()[-2:])) > 1
    ]
    notes = [line for line in lines if line.startswith("differs: ")]
    for name in differing[:-1]:
        assert any(note.startswith(f"differs: {name} (") for note in notes), name
    assert differing[-1] == "all"
    assert "7 tokens, published 4,234" in notes[0]
    assert "47,208,587 + 3 x 197,376 in all" in notes[-1]


def test_any_training_configuration_is_counted(capsys):
    config = str(RECIPE / "conf" / "train_asr_cif_hkd.yaml")
    lines = print_table(capsys, "--config", config, "--tokens", "101")
    model = build_model(config, read_tokens("101"))
    expected = sum(p.numel() for p in model.parameters())
    assert lines[-1].split() == ["all", f"{expected:,}"]
    assert "published" not in lines[0]
    assert any(line.startswith("encoder.encoders ") for line in lines)


@pytest.mark.parametrize(
    ("config", "tokens", "named"),
    [("none.yaml", "9", "none.yaml"), ("none.yaml", "2", "--tokens")],
)
def test_what_cannot_be_read_is_named(config, tokens, named):
    with pytest.raises(SystemExit, match=named):
        program.main(["--config", config, "--tokens", tokens])
