"""The published encoder, and the padding rule for ESPnet's own."""

import pytest
import torch
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

from espnet_hkd.border.encoders import ignores_padding
from espnet_hkd.errors import ConfigError
from espnet_hkd.nets.decoder import CIFDecoder
from espnet_hkd.nets.encoder import MaskedBatchNorm1d, PooledConformerEncoder

LENGTHS = [(67, 40, 23), (64, 63, 62, 61), (9,), (50, 3)]


def make_encoder(**conf):
    torch.manual_seed(0)
    conf = {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 3,
        "pool_after": [1, 2],
        "front_channels": 4,
        "cnn_module_kernel": 5,
        "dropout_rate": 0.0,
        **conf,
    }
    return PooledConformerEncoder(20, **conf)


def features(lengths, width=20):
    torch.manual_seed(1)
    return [torch.randn(length, width) for length in lengths]


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_those_of_the_published_model():
    encoder = PooledConformerEncoder(80)
    front = [encoder.front, encoder.linear_front, encoder.linear_scaled]
    assert sum(map(parameters, front)) == 1_345_280
    assert {parameters(layer) for layer in encoder.layers} == {2_634_496}
    decoder = CIFDecoder(4234, 256)
    assert parameters(decoder.weight_predictor) == 196_864 + 257
    ctc = torch.nn.Linear(256, 4234)
    assert parameters(encoder) + parameters(decoder) + parameters(ctc) == 47_208_587


def test_subsamples_by_eight_and_returns_as_many_frames_as_the_longest():
    encoder = make_encoder().eval()
    out, lengths, _ = encoder(torch.randn(2, 161, 20), torch.tensor([161, 100]))
    # (161 - 1) // 2 = 80, 40, 20; (100 - 1) // 2 = 49, 25, 13.
    assert lengths.tolist() == [20, 13]
    assert out.shape == (2, 20, 16)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_alone_equals_padded_with_nan(lengths, training):
    encoder = make_encoder().train(training)
    for module in encoder.modules():
        if isinstance(module, MaskedBatchNorm1d):
            module.eval()
    utterances = features(lengths)
    padded = torch.full((len(lengths), max(lengths) + 5, 20), torch.nan)
    for row, utterance in enumerate(utterances):
        padded[row, : len(utterance)] = utterance
    together, counts, _ = encoder(padded, torch.tensor(lengths))
    for row, utterance in enumerate(utterances):
        alone, count, _ = encoder(utterance[None], torch.tensor([len(utterance)]))
        assert counts[row] == count[0] == alone.size(1)
        torch.testing.assert_close(
            together[row, : counts[row]], alone[0], rtol=1e-4, atol=1e-5
        )
    assert torch.isfinite(together).all()


def test_batch_norm_statistics_come_from_valid_frames():
    torch.manual_seed(0)
    ours, reference = MaskedBatchNorm1d(3), torch.nn.BatchNorm1d(3)
    x = torch.randn(2, 3, 7)
    mask = torch.tensor([[[True] * 7], [[True] * 4 + [False] * 3]])
    valid = x.transpose(1, 2)[mask[:, 0]]
    expected = reference(valid)
    x[1, :, 4:] = torch.nan
    result = ours(x, mask)
    torch.testing.assert_close(result.transpose(1, 2)[mask[:, 0]], expected)
    torch.testing.assert_close(ours.running_mean, reference.running_mean)
    torch.testing.assert_close(ours.running_var, reference.running_var)
    assert set(ours.state_dict()) == set(reference.state_dict())


def test_training_does_not_depend_on_what_the_padding_holds():
    lengths = torch.tensor([40, 23])
    results = []
    for filler, more in ((0.0, 0), (1e3, 0), (torch.nan, 9)):
        encoder = make_encoder().train()
        padded = torch.full((2, 40 + more, 20), filler)
        for row, utterance in enumerate(features((40, 23))):
            padded[row, : len(utterance)] = utterance
        encoder(padded, lengths)[0].square().sum().backward()
        # Gradients, and the running statistics of batch norm.
        gradients = [p.grad for p in encoder.parameters()]
        results.append([*gradients, *encoder.buffers()])
    for other in results[1:]:
        for expected, value in zip(results[0], other, strict=True):
            # Sums over frames are rounded in another order on other CPUs.
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=5e-5)


def test_bfloat16_stays_near_float32():
    encoder = make_encoder().eval()
    (utterance,) = features((67,))
    full, _, _ = encoder(utterance[None], torch.tensor([67]))
    half, _, _ = (
        make_encoder()
        .eval()
        .to(torch.bfloat16)(utterance[None].to(torch.bfloat16), torch.tensor([67]))
    )
    assert (full - half.float()).abs().mean() < 0.05 * full.abs().mean()


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_too_short_audio_is_what_espnet_expects_it_to_be(frames):
    with pytest.raises(TooShortUttError):
        make_encoder()(torch.randn(1, frames, 20), torch.tensor([frames]))


@pytest.mark.parametrize(
    ("conf", "named"),
    [
        ({"blocks": 3}, "blocks"),
        ({"pool_after": [4]}, "pool_after"),
        ({"pool_after": [0]}, "pool_after"),
        ({"cnn_module_kernel": 4}, "cnn_module_kernel"),
        ({"attention_heads": 3}, "attention_heads"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"num_blocks": "2"}, "num_blocks"),
        ({"output_size": 16.0}, "output_size"),
        ({"linear_units": 0}, "linear_units"),
        ({"front_channels": 0}, "front_channels"),
        ({"pool_after": 2}, "pool_after"),
        ({"pool_after": "1,2"}, "pool_after"),
        ({"pool_after": ["1"]}, "pool_after"),
        ({"pool_after": None}, "pool_after"),
        ({"cnn_module_kernel": -1}, "cnn_module_kernel"),
        ({"dropout_rate": "1e-1"}, r"dropout_rate(.|\n)*1\.0e-3"),
        ({"dropout_rate": 1.5}, "dropout_rate"),
    ],
)
def test_a_wrong_option_is_named(conf, named):
    with pytest.raises(ConfigError, match=named) as caught:
        make_encoder(**conf)
    assert caught.value.wanted and caught.value.remedy


STOCK = {
    "conformer": (
        ConformerEncoder,
        {
            "macaron_style": True,
            "rel_pos_type": "latest",
            "pos_enc_layer_type": "rel_pos",
            "selfattention_layer_type": "rel_selfattn",
            "cnn_module_kernel": 5,
            "linear_units": 32,
        },
    ),
    "e_branchformer": (
        EBranchformerEncoder,
        {"cgmlp_linear_units": 32, "cgmlp_conv_kernel": 5, "linear_units": 32},
    ),
    "branchformer": (
        BranchformerEncoder,
        {"cgmlp_linear_units": 32, "cgmlp_conv_kernel": 5},
    ),
}


def make_stock(name, **changes):
    make, conf = STOCK[name]
    torch.manual_seed(0)
    common = {"output_size": 16, "attention_heads": 2, "num_blocks": 2}
    return make(80, **{**common, "input_layer": "conv2d", **conf, **changes}).eval()


@pytest.mark.parametrize("input_layer", ["conv2d", "conv2d2", "conv2d6", "conv2d8"])
@pytest.mark.parametrize("name", STOCK)
def test_stock_encoders_do_not_see_padding_either(name, input_layer):
    encoder = make_stock(name, input_layer=input_layer)
    assert ignores_padding(encoder)
    lengths = (90, 61, 44)
    utterances = features(lengths, width=80)
    padded = torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True)
    together, counts, _ = encoder(padded, torch.tensor(lengths))
    for row, utterance in enumerate(utterances):
        alone, count, _ = encoder(utterance[None], torch.tensor([len(utterance)]))
        assert counts[row] == count[0]
        torch.testing.assert_close(
            together[row, : counts[row]], alone[0], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("conformer", {"positionwise_layer_type": "conv1d"}),
        ("conformer", {"positionwise_layer_type": "conv1d-linear"}),
        ("e_branchformer", {"input_layer": "conv2d1"}),
    ],
    ids=str,
)
def test_what_is_not_known_to_ignore_padding_is_not_trusted(name, changes):
    assert not ignores_padding(make_stock(name, **changes))
