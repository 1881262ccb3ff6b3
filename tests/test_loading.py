"""What `--init_param` takes from other models, by ESPnet's own function, and says."""

import logging

import pytest
import torch
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from espnet_hkd.errors import CheckpointError
from tests.small_models import SIZE, VOCAB, make_model

HKD = {"acd_weight": 1.0, "lrd_weight": 0.01, "teacher_dim": 8}


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO, logger="espnet_hkd.nets.loading")
    return caplog


def save(folder, weights):
    path = folder / "other.pth"
    torch.save(dict(weights), path)
    return str(path)


def stock_hybrid(vocabulary=VOCAB):
    """ESPnet's own hybrid CTC/attention model with the encoder of the small models."""
    from espnet2.asr.ctc import CTC
    from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
    from espnet2.asr.espnet_model import ESPnetASRModel

    size = len(vocabulary)
    return ESPnetASRModel(
        vocab_size=size,
        token_list=vocabulary,
        frontend=None,
        specaug=None,
        normalize=None,
        preencoder=None,
        encoder=make_model(7).encoder,
        postencoder=None,
        decoder=TransformerDecoder(size, SIZE, linear_units=32, num_blocks=1),
        ctc=CTC(size, SIZE),
        joint_network=None,
    )


def changed(model, before):
    """Whether a part has other weights than before."""
    parts = {}
    for key, value in model.state_dict().items():
        moved = not torch.equal(value, before[key])
        parts.setdefault(key.partition(".")[0], []).append(moved)
    return {part: any(moved) for part, moved in parts.items()}


def copy(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_distilled_model_begins_with_a_plain_one(tmp_path, logged):
    plain = make_model(1)
    model = make_model(2, **HKD)
    before = copy(model)
    load_pretrained_model(save(tmp_path, plain.state_dict()), model, False)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value)
    assert not any(changed(model, before)[head] for head in ("kd_acd", "kd_lrd"))
    assert "encoder, decoder, ctc; as they were: kd_acd, kd_lrd" in logged.text


def test_whole_checkpoint_leaves_nothing_as_it_was(tmp_path, logged):
    load_pretrained_model(
        save(tmp_path, make_model(1).state_dict()), make_model(2), False
    )
    assert "as they were: none" in logged.text


def test_encoder_and_ctc_of_a_stock_conformer_are_taken_by_name(tmp_path, logged):
    stock = stock_hybrid()
    path = save(tmp_path, stock.state_dict())
    model = make_model(2)
    before = copy(model)
    for part in ("encoder", "ctc"):
        load_pretrained_model(f"{path}:{part}:{part}", model, False)
    for name, value in stock.encoder.state_dict().items():
        torch.testing.assert_close(model.encoder.state_dict()[name], value)
    assert changed(model, before) == {"encoder": True, "decoder": False, "ctc": True}
    assert "encoder takes" in logged.text
    assert "ctc takes 2 of 2 weights" in logged.text


def test_stock_model_as_a_whole_is_refused_with_the_way_to_its_parts(tmp_path):
    path = save(tmp_path, stock_hybrid().state_dict())
    with pytest.raises(CheckpointError, match="FILE:encoder:encoder") as caught:
        load_pretrained_model(path, make_model(2), False)
    assert "decoder.decoders.0" in str(caught.value.got)


def test_ignoring_mismatches_takes_what_fits_and_says_how_much(tmp_path, logged):
    model = make_model(2)
    path = save(tmp_path, stock_hybrid().state_dict())
    load_pretrained_model(path, model, True)
    # Both decoders have a vocabulary projection of the same name and shape.
    assert "encoder, decoder (1 of " in logged.text
    assert "ctc; as they were: none" in logged.text


def test_other_token_list_is_refused_or_its_weights_are_trained_anew(tmp_path, logged):
    other = stock_hybrid([*VOCAB[:-1], "Ä", "Ö", VOCAB[-1]])
    path = save(tmp_path, other.state_dict())
    model = make_model(2)
    with pytest.raises(CheckpointError, match="ignore_init_mismatch true"):
        load_pretrained_model(path, model, False)
    before = copy(model)
    load_pretrained_model(path, model, True)
    assert changed(model, before) == {"encoder": True, "decoder": False, "ctc": False}
    assert "as they were: decoder, ctc" in logged.text


@pytest.mark.parametrize("source", ["enkoder", "encoder.layers"])
def test_name_that_the_file_does_not_have_is_warned_of(tmp_path, logged, source):
    path = save(tmp_path, stock_hybrid().state_dict())
    load_pretrained_model(f"{path}:{source}:encoder", make_model(2), False)
    (record,) = [r for r in logged.records if r.name == "espnet_hkd.nets.loading"]
    assert record.levelname == "WARNING"
    assert "nothing of encoder was in the checkpoint" in record.message
