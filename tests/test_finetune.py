"""Training that starts from a packed model, with the corpus' own token list."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from espnet_hkd.errors import CheckpointError
from espnet_hkd.pretrained.finetune import BY_TOKEN, init_from, transfer_weights
from espnet_hkd.pretrained.slim import slim
from tests.small_models import SIZE, VOCAB, make_model, pack, speech, write_experiment

# Another order, two letters fewer, three tokens more.
TOKENS = [*VOCAB[:2], "Ä", *reversed(VOCAB[4:-1]), "Ö", "'", VOCAB[-1]]
EXP = "exp/asr_hkd"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    slim(write_experiment(folder / EXP))
    pack(folder)
    return folder


@pytest.fixture(scope="module")
def weights(recipe: Path) -> dict[str, torch.Tensor]:
    path = recipe / EXP / "train.total_count.ave.pth"
    return torch.load(path, weights_only=True)


def build(recipe: Path, seed: int = 1, **changes):
    """A fresh model of the experiment's configuration, but for some changes."""
    import argparse

    from espnet2.tasks.asr import ASRTask

    config = yaml.safe_load((recipe / EXP / "config.yaml").read_text()) | changes
    torch.manual_seed(seed)
    return ASRTask.build_model(argparse.Namespace(**config))


def train(recipe: Path, out: Path, *options: str) -> dict[str, torch.Tensor]:
    """Train for an epoch in which nothing is learnt, as stage 11 does."""
    from espnet2.tasks.asr import ASRTask

    out.mkdir(parents=True)
    config = yaml.safe_load((recipe / EXP / "config.yaml").read_text())
    kept = ("frontend", "specaug", "normalize", "encoder", "decoder", "model")
    names = [name for part in kept for name in (part, f"{part}_conf")]
    wanted = {name: config[name] for name in names}
    wanted["model_conf"] = {}
    wanted["optim"], wanted["optim_conf"] = "sgd", {"lr": 0.0}
    (out / "train.yaml").write_text(yaml.safe_dump(wanted))
    (out / "tokens.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    for number in (1, 2):
        soundfile.write(out / f"{number}.wav", speech(1.0, seed=number), 16000)
    (out / "wav.scp").write_text(f"a {out / '1.wav'}\nb {out / '2.wav'}\n")
    (out / "text").write_text("a ÄCHZ\nb HÖR'\n")
    (out / "shape").write_text("a 16000\nb 16000\n")
    command = ["--config", str(out / "train.yaml"), "--output_dir", str(out / "exp")]
    command += ["--token_list", str(out / "tokens.txt"), "--token_type", "char"]
    for part in ("train", "valid"):
        data = f"--{part}_data_path_and_name_and_type"
        command += [data, f"{out / 'wav.scp'},speech,sound"]
        command += [data, f"{out / 'text'},text,text"]
        command += [f"--{part}_shape_file", str(out / "shape")]
    command += ["--max_epoch", "1", "--batch_type", "unsorted", "--batch_size", "2"]
    command += ["--seed", "7"]
    command += ["--num_workers", "0", "--num_att_plot", "0", "--use_tensorboard", "f"]
    ASRTask.main(cmd=[*command, *options])
    return torch.load(out / "exp" / "1epoch.pth", weights_only=True)


def assert_rows_carried(new, old) -> None:
    for name in BY_TOKEN:
        for row, token in enumerate(TOKENS):
            if token in VOCAB:
                assert torch.equal(new[name][row], old[name][VOCAB.index(token)]), token
            else:
                assert not (new[name][row] == old[name]).all(-1).any(), token


@pytest.mark.slow
def test_training_from_a_zip_keeps_all_but_the_new_tokens(recipe, weights, tmp_path):
    trained = train(recipe, tmp_path / "new", "--init_param", str(recipe / "model.zip"))
    assert_rows_carried(trained, weights)
    counters = "num_batches_tracked", "running_mean", "running_var"
    for name in trained.keys() - set(BY_TOKEN):
        if not name.endswith(counters):
            assert torch.equal(trained[name], weights[name]), name


def test_the_log_says_what_was_taken_and_what_was_not(recipe, caplog):
    model = build(recipe, token_list=TOKENS)
    with caplog.at_level(logging.INFO):
        transfer = init_from(model, recipe / "model.zip")
    assert transfer.fresh_tokens == ["Ä", "Ö", "'"]
    assert transfer.unused_tokens == ["A", "B"]
    # The packed model has no heads, the new one is to be taught.
    heads = ["kd_acd.weight", "kd_acd.bias", "kd_lrd.weight", "kd_lrd.bias"]
    assert transfer.fresh == heads
    encoder = sum(name.startswith("encoder.") for name in model.state_dict())
    assert f"encoder ({encoder} weights)" in caplog.text
    assert "27 tokens are in both lists" in caplog.text
    assert "tokens that start afresh: Ä, Ö, '" in caplog.text
    assert "tokens left behind: A, B" in caplog.text
    assert "weights that start afresh: kd_acd.weight" in caplog.text


def test_experiment_folder_and_checkpoint_serve_as_well(recipe, weights):
    for name in (EXP, f"{EXP}/train.total_count.ave.pth"):
        model = build(recipe)
        transfer = init_from(model, recipe / name)
        assert transfer.by_token == transfer.fresh == transfer.unused == []
        assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_another_encoder_is_refused_unless_mismatch_is_ignored(recipe, weights):
    conf = yaml.safe_load((recipe / EXP / "config.yaml").read_text())["encoder_conf"]
    model = build(recipe, encoder_conf=conf | {"linear_units": 48})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        init_from(model, recipe / "model.zip")
    assert "(32, 16) instead of (48, 16)" in str(caught.value.got)
    assert "--ignore_init_mismatch" in str(caught.value.remedy)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])

    transfer = init_from(model, recipe / "model.zip", ignore_mismatch=True)
    assert "encoder.encoders.0.feed_forward.w_1.weight" in transfer.fresh
    assert "encoder.after_norm.weight" in transfer.whole


def test_decoder_of_another_kind_is_left_behind():
    own = make_model().state_dict()
    stock = {"decoder.embed.weight": torch.ones(len(VOCAB), SIZE)}
    stock["encoder.after_norm.bias"] = torch.full((SIZE,), 7.0)
    joined, transfer = transfer_weights(
        own, VOCAB, stock, VOCAB, skip=("decoder.",), ignore_mismatch=True
    )
    assert transfer.whole == ["encoder.after_norm.bias"]
    assert transfer.unused == ["decoder.embed.weight"]
    assert torch.equal(joined["encoder.after_norm.bias"], torch.full((SIZE,), 7.0))
    assert joined["decoder.embed.weight"] is own["decoder.embed.weight"]


def test_adapters_are_added_to_what_is_taken():
    weights = make_model().state_dict()
    adapter = {"decoder.layers.0.attention.linear_q.lora_A": torch.ones(2, SIZE)}
    joined, transfer = transfer_weights(weights | adapter, VOCAB, weights, VOCAB)
    assert transfer.fresh == list(adapter)
    assert joined.keys() == weights.keys() | adapter.keys()


def test_half_precision_weights_become_the_models_own_precision():
    own = make_model(seed=1).state_dict()
    half = {name: value.half() for name, value in make_model().state_dict().items()}
    joined, transfer = transfer_weights(own, TOKENS[: len(VOCAB)], half, VOCAB)
    assert len(transfer.by_token) == len(BY_TOKEN)
    assert all(joined[name].dtype == own[name].dtype for name in own)


def test_parts_of_a_checkpoint_go_espnets_own_way(recipe, weights):
    from espnet2.tasks import abs_task

    model = build(recipe, token_list=TOKENS)
    path = recipe / EXP / "train.total_count.ave.pth"
    fresh = model.state_dict()["decoder.linear_in.weight"].clone()
    abs_task.load_pretrained_model(
        model=model, init_param=f"{path}:encoder:encoder", ignore_init_mismatch=False
    )
    new = model.state_dict()
    assert torch.equal(new["decoder.linear_in.weight"], fresh)
    name = "encoder.after_norm.weight"
    assert torch.equal(new[name], weights[name])


def test_damaged_zip_is_named(recipe, tmp_path):
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(CheckpointError, match=r"empty\.zip is not a packed model"):
        init_from(build(recipe), tmp_path / "empty.zip")
