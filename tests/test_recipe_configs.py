"""Every configuration of every recipe builds, and none has a key nobody reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.bin.asr_inference import get_parser
from espnet2.samplers.num_elements_batch_sampler import NumElementsBatchSampler
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.lm import LMTask

import espnet_hkd
from espnet_hkd.nets.decoder import CIFDecoder
from espnet_hkd.nets.lexicon import read_lexicon
from espnet_hkd.preprocessor import HKDPreprocessor
from tests.recipe_material import REPOSITORY

RECIPES = REPOSITORY / "egs2"
# Tokens of each recipe's default unit, ESPnet's three specials among them.
VOCABULARY = {
    "an4_hkd": 101,
    "arctic_hkd": 300,
    "aishell_hkd": 4233,
    "librispeech_hkd": 5000,
}
AISHELL = RECIPES / "aishell_hkd" / "asr1" / "conf"

espnet_hkd.register()


def configs(pattern: str) -> list:
    found = sorted(RECIPES.glob(f"*/asr1/conf/**/{pattern}"))
    assert found
    return [pytest.param(path, id=str(path.relative_to(RECIPES))) for path in found]


def token_list(folder: Path, size: int, names: Sequence[str] = ()) -> Path:
    """A list of so many tokens, named as far as there are names."""
    names = [*names, *(f"t{number}" for number in range(size))][: size - 3]
    path = folder / "tokens.txt"
    path.write_text("\n".join(["<blank>", "<unk>", *names, "<sos/eos>"]) + "\n")
    return path


def dry_run(config: Path, folder: Path, monkeypatch, size: int | None = None):
    """The options and the model of `asr_train --dry_run true --iterator_type none`."""
    built = {}
    build_model = ASRTask.build_model

    def remember(args):
        built["args"], built["model"] = args, build_model(args)
        return built["model"]

    monkeypatch.setattr(ASRTask, "build_model", remember)
    recipe = RECIPES / config.relative_to(RECIPES).parts[0] / "asr1"
    size = size or VOCABULARY[recipe.parent.name]
    # Where run.sh calls asr_train, and the paths of a configuration begin.
    monkeypatch.chdir(recipe)
    lexicon = yaml.safe_load(config.read_text())["model_conf"].get("lexicon")
    names = list(read_lexicon(lexicon)) if lexicon else []
    tokens = token_list(folder, size, names)
    ASRTask.main(
        cmd=[
            *("--config", str(config), "--output_dir", str(folder / "exp")),
            *("--token_list", str(tokens), "--token_type", "char"),
            *("--dry_run", "true", "--iterator_type", "none", "--ngpu", "0"),
        ]
    )
    return built["args"], built["model"]


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("config", configs("train_asr*.yaml"))
def test_training_configuration_builds(config: Path, tmp_path: Path, monkeypatch):
    args, model = dry_run(config, tmp_path, monkeypatch)
    given = yaml.safe_load(config.read_text())
    assert isinstance(model.decoder, CIFDecoder) == (given["model"] == "hkd_cif")
    heads = {name for name in ("kd_acd", "kd_lrd") if hasattr(model, name)}
    weights = {
        f"kd_{name.removesuffix('_weight')}"
        for name in ("acd_weight", "lrd_weight")
        if given["model_conf"].get(name)
    }
    assert heads == weights
    # A teacher is stored exactly where a loss needs it.
    conf = given.get("preprocessor_conf") or {}
    assert bool(conf.get("store")) == bool(heads)
    # And text without speech exactly where it is taught.
    extra = bool(given["model_conf"].get("extra_weight"))
    assert bool(conf.get("extra_text")) == extra
    preprocess = ASRTask.build_preprocess_fn(args, train=True)
    assert isinstance(preprocess, HKDPreprocessor) == (bool(heads) or extra)
    if config.is_relative_to(AISHELL):
        assert parameters(model) <= 50_000_000


def known(parser, given: dict) -> dict:
    """The types of the options that a configuration gives."""
    actions = {action.dest: action for action in parser._actions}
    assert given.keys() <= actions.keys()
    return {name: actions[name].type for name in given}


@pytest.mark.parametrize("config", configs("decode*.yaml"))
def test_decoding_configuration_is_one_of_asr_inference(config: Path, tmp_path: Path):
    parser = get_parser()
    given = yaml.safe_load(config.read_text())
    required = ["--output_dir", str(tmp_path), "--data_path_and_name_and_type", "a,b,c"]
    args = parser.parse_args(["--config", str(config), *required])
    for name, kind in known(parser, given).items():
        assert getattr(args, name) == given[name]
        assert isinstance(given[name], kind), name


@pytest.mark.parametrize("config", configs("train_lm*.yaml"))
def test_language_model_configuration_builds(config: Path, tmp_path: Path):
    tokens = token_list(tmp_path, 50)
    LMTask.main(
        cmd=[
            *("--config", str(config), "--output_dir", str(tmp_path / "exp")),
            *("--token_list", str(tokens), "--token_type", "char"),
            *("--dry_run", "true", "--iterator_type", "none", "--ngpu", "0"),
        ]
    )


class TestAishellAsPublished:
    def test_model_has_the_published_parameters(self, tmp_path, monkeypatch):
        config = AISHELL / "train_asr_cif.yaml"
        _, model = dry_run(config, tmp_path, monkeypatch, size=4234)
        assert parameters(model) == 47_208_587

    @pytest.mark.parametrize(
        ("config", "utterances"),
        [
            ("train_asr_cif.yaml", 124),
            ("train_asr_cif_hkd.yaml", 124),
            ("tuning/train_asr_cif_hkd_16gb.yaml", 62),
        ],
    )
    def test_batches_hold_as_many_utterances(self, config, utterances, tmp_path):
        """Mean utterances: 483.6 padded frames and 14.4 characters (published)."""
        ids = [f"u{number}" for number in range(1000)]
        speech, text = tmp_path / "speech_shape", tmp_path / "text_shape.char"
        speech.write_text("".join(f"{id} {int(483.6 * 160)}\n" for id in ids))
        lengths = [14 + (number % 5 < 2) for number in range(1000)]
        text.write_text(
            "".join(f"{id} {n},4233\n" for id, n in zip(ids, lengths, strict=True))
        )
        conf = yaml.safe_load((AISHELL / config).read_text())
        files = [str(speech), str(text)]
        batches = list(NumElementsBatchSampler(conf["batch_bins"], files))
        assert len(batches[0]) == pytest.approx(utterances, rel=0.05)

    def test_systems_differ_in_their_losses_only(self):
        plain = yaml.safe_load((AISHELL / "train_asr_cif.yaml").read_text())
        full = yaml.safe_load((AISHELL / "train_asr_cif_hkd.yaml").read_text())
        for name in ("acd", "lrd"):
            path = AISHELL / "tuning" / f"train_asr_cif_{name}.yaml"
            one = yaml.safe_load(path.read_text())
            assert one["model_conf"].items() <= full["model_conf"].items()
            assert plain["model_conf"].items() < one["model_conf"].items()
            for config in (one, full):
                rest = config.keys() - {"preprocessor", "preprocessor_conf"}
                same = {key: config[key] for key in rest - {"model_conf"}}
                assert same == {k: v for k, v in plain.items() if k != "model_conf"}
