"""Tokens against encoder frames, before training."""

from __future__ import annotations

import pytest
import torch
import yaml
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.frontend.default import DefaultFrontend

from espnet_hkd.bin.lengths import main
from espnet_hkd.errors import ConfigError, DataError
from espnet_hkd.nets.encoder import PooledConformerEncoder
from espnet_hkd.recipes import lengths as program

CONFORMER = {"encoder": "conformer", "frontend_conf": {"hop_length": 160}}


def write_stats(folder, sizes, tokens):
    """Stage 10's files: sizes and tokens by utterance."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "speech_shape": sizes,
        "text_shape": tokens,
        "text_shape.word": {id: f"{count},30" for id, count in tokens.items()},
    }
    for name, table in tables.items():
        lines = [f"{id} {value}\n" for id, value in table.items()]
        (folder / name).write_text("".join(lines))
    return folder


@pytest.fixture
def stats(tmp_path):
    """One text is too long: 4 tokens and the end; 0.2 s are 21 frames and then 4."""
    sizes = {"a": 24000, "b": 3200, "c": 8000}
    return write_stats(tmp_path / "train", sizes, {"a": 3, "b": 4, "c": 2})


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("frames", [23, 24, 61, 100, 101])
@pytest.mark.parametrize("layer", [*program.INPUT_LAYERS, program.POOLED])
def test_frames_are_those_of_the_encoder(layer, frames):
    small = {"output_size": 8, "attention_heads": 2, "linear_units": 8}
    config = {"encoder": "e_branchformer", "encoder_conf": {"input_layer": layer}}
    if layer == program.POOLED:
        config = {"encoder": layer, "encoder_conf": {"pool_after": [1, 2]}}
        encoder = PooledConformerEncoder(80, num_blocks=2, pool_after=[1, 2], **small)
    else:
        encoder = EBranchformerEncoder(
            80, num_blocks=1, input_layer=layer, cgmlp_linear_units=16, **small
        )
    _, lengths, _ = encoder(torch.randn(1, frames, 80), torch.tensor([frames]))
    assert program.frame_rate(config, features=True).frames(frames) == lengths[0]


@pytest.mark.parametrize("samples", [3199, 3200, 3201])
def test_feature_frames_are_those_of_the_frontend(samples):
    conf = {"n_fft": 512, "win_length": 400, "hop_length": 160}
    frontend = DefaultFrontend(fs=16000, **conf)
    _, lengths = frontend(torch.randn(1, samples), torch.tensor([samples]))
    config = {
        "encoder": "conformer",
        "encoder_conf": {"input_layer": "linear"},
        "frontend_conf": conf,
    }
    assert program.frame_rate(config).frames(samples) == lengths[0]


def test_rate_counts_ends_of_sentence(tmp_path):
    stats = write_stats(tmp_path, {"a": 24000, "b": 8000}, {"a": 3, "b": 2})
    utterances, features = program.read_shapes(stats)
    rate = program.frame_rate(CONFORMER, features)
    # 151 and 51 feature frames; 37 and 12 behind conv2d.
    assert program.tokens_per_frame(utterances, rate) == pytest.approx(7 / 49)


def test_features_have_no_hop(tmp_path):
    stats = write_stats(tmp_path, {"a": "151,80", "b": "51,80"}, {"a": 3, "b": 2})
    utterances, features = program.read_shapes(stats)
    rate = program.frame_rate(CONFORMER, features)
    assert program.tokens_per_frame(utterances, rate) == pytest.approx(7 / 49)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"encoder": "conformer", "encoder_conf": {"input_layer": "embed"}}, "embed"),
        ({"encoder": "vgg_rnn"}, "vgg_rnn"),
        ({"encoder": "conformer", "frontend": "s3prl"}, "s3prl"),
    ],
)
def test_what_is_not_known_is_named_and_does_not_stop(
    tmp_path, stats, capsys, config, named
):
    with pytest.raises(ConfigError, match=named):
        program.frame_rate(config)
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    main([str(stats), "--config", str(path)])
    assert "nothing is checked" in capsys.readouterr().err


def test_stop_names_utterances_counts_and_remedies(stats):
    before = contents(stats)
    with pytest.raises(DataError) as caught:
        program.check(stats, CONFORMER, "stop")
    message = str(caught.value)
    assert "1 of 3 utterances" in message
    assert "b (5 tokens, 4 frames)" in message
    assert "0 are left with conv2d2" in message
    assert "--long_texts skip" in message
    assert contents(stats) == before


def test_many_long_texts_are_counted_and_the_first_named(tmp_path):
    ids = [f"u{number}" for number in range(9)]
    stats = write_stats(
        tmp_path / "train", dict.fromkeys(ids, 3200), dict.fromkeys(ids, 7)
    )
    with pytest.raises(DataError) as caught:
        program.check(stats, CONFORMER, "stop")
    assert "9 of 9 utterances" in caught.value.problem
    assert str(caught.value.got).endswith("u4 (8 tokens, 4 frames), and 4 more")


def test_skip_leaves_them_out_of_all_shapes_until_told_otherwise(stats):
    before = contents(stats)
    for _ in range(2):
        lines = program.check(stats, CONFORMER, "skip")
        for name in before:
            ids = [line.split()[0] for line in (stats / name).read_text().splitlines()]
            assert ids == ["a", "c"]
        assert "1 of 3 utterances" in lines[1]
        assert "left out" in lines[-1]
    lines = program.check(stats, CONFORMER, "keep")
    assert contents(stats) == before
    assert "kept" in lines[-1]


def test_a_finer_encoder_gets_back_what_a_coarser_one_left_out(stats):
    before = contents(stats)
    program.check(stats, CONFORMER, "skip")
    finer = CONFORMER | {"encoder_conf": {"input_layer": "conv2d2"}}
    assert len(program.check(stats, finer, "stop")) == 1
    assert contents(stats) == before


def test_options_of_the_command_line_override_the_configuration(
    tmp_path, stats, capsys
):
    path = tmp_path / "train.yaml"
    path.write_text(
        yaml.safe_dump(CONFORMER | {"decoder_conf": {"initial_weight": 0.08}})
    )
    command = [str(stats), "--config", str(path)]
    with pytest.raises(SystemExit, match=r"b \(5 tokens, 4 frames\)"):
        main(command)
    # 12 tokens; 73, 8 and 23 frames.
    options = "--max_epoch 3 --encoder_conf input_layer=conv2d2 --encoder_conf x=1"
    main([*command, "--asr_args", options])
    out = capsys.readouterr().out
    assert "0.115 tokens per encoder frame; initial_weight is 0.08" in out
