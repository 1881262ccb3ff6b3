"""The model's losses, statistics, checks of its options and of its checkpoints."""

import numpy as np
import pytest
import torch

from espnet_hkd.errors import CheckpointError, ConfigError, SearchError
from tests.small_models import (
    SIZE,
    VOCAB,
    make_batch,
    make_decoder,
    make_model,
    make_small_encoder,
)

STATISTICS = {
    "loss",
    "loss_att",
    "loss_ctc",
    "loss_quantity",
    "loss_count_align",
    "loss_acd",
    "loss_lrd",
    "lrd_explained",
    "loss_extra",
    "loss_extra_lrd",
    "loss_lexicon",
    "acc",
    "acc_acd",
    "count_error",
    "ctc_infeasible",
    "own_mass",
}
PLAIN = {}
ACD = {"acd_weight": 1.0, "teacher_dim": 8}
LRD = {"lrd_weight": 0.01, "teacher_dim": 8}
HKD = ACD | LRD
systems = pytest.mark.parametrize(
    "conf",
    [PLAIN, {"ctc_weight": 0.0}, ACD, LRD, HKD],
    ids=["cif", "no_ctc", "acd", "lrd", "hkd"],
)


def batch_for(conf, **options):
    return make_batch(teacher_dim=conf.get("teacher_dim"), **options)


@systems
def test_statistics_are_the_same_floats_for_every_system(conf):
    _, stats, weight = make_model(**conf).train()(**batch_for(conf))
    assert set(stats) == STATISTICS
    assert all(value.dtype == torch.float32 for value in stats.values())
    assert all(torch.isfinite(value).all() for value in stats.values())
    # 6 and 3 labels, and an end-of-sentence each.
    assert weight.item() == 11


@systems
def test_every_parameter_gets_a_gradient(conf):
    model = make_model(**conf).train()
    loss, _, _ = model(**batch_for(conf))
    loss.backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == []


def test_loss_is_the_weighted_sum_of_its_terms():
    model = make_model(
        ctc_weight=0.3,
        quantity_weight=2.0,
        acd_weight=0.7,
        lrd_weight=0.05,
        teacher_dim=8,
    )
    loss, stats, _ = model(**batch_for(HKD))
    expected = (
        stats["loss_att"]
        + 0.3 * stats["loss_ctc"]
        + 2.0 * stats["loss_quantity"]
        + 0.7 * stats["loss_acd"]
        + 0.05 * stats["loss_lrd"]
    )
    torch.testing.assert_close(loss, expected)


def test_terms_are_sums_over_target_tokens_not_means_over_utterances():
    model = make_model()
    batch = make_batch()
    joined, _, tokens = model(**batch)
    total = 0.0
    for row in range(2):
        frames = batch["speech_lengths"][row]
        labels = batch["text_lengths"][row]
        loss, _, weight = model(
            speech=batch["speech"][row : row + 1, :frames],
            speech_lengths=frames[None],
            text=batch["text"][row : row + 1, :labels],
            text_lengths=labels[None],
        )
        total = total + loss * weight
    torch.testing.assert_close(joined * tokens, total, rtol=1e-4, atol=0.0)


def test_validation_draws_nothing():
    model = make_model(**(HKD | {"acd_negatives": 3}))
    batch = batch_for(HKD)
    first, _, _ = model(**batch)
    second, _, _ = model(**batch)
    assert first.item() == second.item()


def test_transcript_without_teacher_counts_in_all_but_distillation():
    model = make_model(**HKD)
    batch = batch_for(HKD)
    _, taught, _ = model(**batch)
    batch["teacher"] = batch["teacher"][:, :0]
    batch["teacher_mask"] = batch["teacher_mask"][:, :0]
    loss, stats, _ = model.train()(**batch)
    loss.backward()
    assert stats["loss_acd"].item() == stats["loss_lrd"].item() == 0.0
    assert taught["loss_acd"].item() > 0
    assert model.kd_acd.weight.grad is not None
    assert torch.isfinite(loss).all()


def test_masked_tokens_are_left_out_of_distillation():
    model = make_model(**HKD)
    batch = batch_for(HKD)
    batch["teacher_mask"][0, 2] = 0
    _, masked, _ = model(**batch)
    batch["teacher"][0, 2] = 1e4
    _, changed, _ = model(**batch)
    assert masked["loss_lrd"].item() == changed["loss_lrd"].item()
    assert masked["loss_acd"].item() == changed["loss_acd"].item()


def test_utterance_with_an_empty_transcript_trains():
    model = make_model().train()
    loss, _, weight = model(**make_batch(labels=(4, 0)))
    loss.backward()
    assert weight.item() == 6
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize(
    "options",
    [
        {"lengths": (90,), "labels": (6,)},
        {"lengths": (90, 1), "labels": (6, 2)},
        {"lengths": (90, 60), "labels": (0, 0)},
        {"lengths": (11,), "labels": (1,)},
    ],
    ids=["batch of one", "below one encoder frame", "no text at all", "two frames"],
)
@pytest.mark.parametrize("silent", [False, True], ids=["noise", "silence"])
def test_the_smallest_batches_train_with_finite_gradients(options, silent):
    model = make_model(**HKD).train()
    batch = batch_for(HKD, **options)
    if silent:
        batch["speech"].zero_()
    loss, stats, weight = model(**batch)
    loss.backward()
    assert weight.item() == sum(options["labels"]) + len(options["labels"])
    assert all(torch.isfinite(value).all() for value in stats.values())
    assert all(
        torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None
    )


def test_more_labels_than_frames_is_reported_and_finite():
    model = make_model().train()
    loss, stats, _ = model(**make_batch(lengths=(90, 30), labels=(6, 25)))
    loss.backward()
    assert stats["ctc_infeasible"].item() == 0.5
    assert torch.isfinite(loss).all()


def test_teacher_is_demanded_by_name_when_a_batch_has_none():
    with pytest.raises(ConfigError, match="preprocessor: hkd_teacher"):
        make_model(**HKD)(**make_batch())


def test_teacher_of_another_width_is_named():
    with pytest.raises(ConfigError, match="teacher_dim to 5"):
        make_model(**HKD)(**make_batch(teacher_dim=5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_with_finite_gradients(dtype):
    model = make_model(**HKD).train()
    with torch.autocast("cpu", dtype=dtype):
        loss, stats, _ = model(**batch_for(HKD))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    reference, _, _ = make_model(**HKD)(**batch_for(HKD))
    assert loss.item() == pytest.approx(reference.item(), rel=0.1)
    assert all(torch.isfinite(value).all() for value in stats.values())


@pytest.mark.parametrize(
    ("conf", "named"),
    [
        ({"acd_wieght": 1.0}, "acd_wieght"),
        ({"interctc_weight": 0.3}, "interctc_weight"),
        ({"ctc_weight": -0.5}, "ctc_weight"),
        ({"acd_weight": float("nan")}, "acd_weight"),
        ({"quantity_weight": "1.0"}, "quantity_weight"),
        ({"lsm_weight": 1.0}, "lsm_weight"),
        ({"lrd_weight": "1e-2", "teacher_dim": 8}, r"lrd_weight(.|\n)*1\.0e-3"),
        ({"acd_weight": float("nan")}, "acd_weight"),
        ({"acd_temperature": 0.0}, "acd_temperature"),
        ({"acd_temperature": float("nan")}, "acd_temperature"),
        ({"acd_negatives": "some"}, "acd_negatives"),
        ({"acd_negatives": 0}, "acd_negatives"),
        ({"acd_gather": 1}, "acd_gather"),
        ({"acd_weight": 1.0}, "teacher_dim"),
        ({"lrd_weight": 1.0, "teacher_dim": "384"}, "teacher_dim"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_option_is_named(conf, named):
    with pytest.raises(ConfigError, match=named) as caught:
        make_model(**conf)
    assert caught.value.wanted and caught.value.remedy


def test_unknown_key_is_answered_with_those_there_are():
    with pytest.raises(ConfigError) as caught:
        make_model(temperature=0.02)
    known = str(caught.value.wanted).split(", ")
    assert {"acd_temperature", "teacher_dim", "sym_blank"} <= set(known)
    assert not {"vocab_size", "encoder", "temperature"} & set(known)


def test_another_decoder_is_refused():
    from espnet2.asr.ctc import CTC
    from espnet2.asr.decoder.transformer_decoder import TransformerDecoder

    from espnet_hkd.nets.model import CIFASRModel

    with pytest.raises(ConfigError, match="hkd_cif_transformer"):
        CIFASRModel(
            len(VOCAB),
            VOCAB,
            None,
            None,
            None,
            None,
            None,
            None,
            TransformerDecoder(len(VOCAB), SIZE),
            CTC(len(VOCAB), SIZE),
        )


def test_statistics_of_another_frontend_are_refused(tmp_path):
    """Stage 10 is to be run again when frontend_conf has changed."""
    from espnet2.asr.ctc import CTC
    from espnet2.asr.frontend.default import DefaultFrontend
    from espnet2.layers.global_mvn import GlobalMVN

    from espnet_hkd.nets.model import CIFASRModel

    ones = np.ones(40)
    np.savez(tmp_path / "stats.npz", count=2.0, sum=ones, sum_square=2 * ones)
    normalize = GlobalMVN(tmp_path / "stats.npz")

    def build(bands):
        return CIFASRModel(
            len(VOCAB),
            VOCAB,
            DefaultFrontend(n_mels=bands),
            None,
            normalize,
            None,
            make_small_encoder(),
            None,
            make_decoder(),
            CTC(len(VOCAB), SIZE),
        )

    build(40)
    with pytest.raises(ConfigError, match=r"40 features(.|\n)*80(.|\n)*--stage 10"):
        build(80)


def test_ctc_weight_of_one_or_more_keeps_the_decoder():
    model = make_model(ctc_weight=1.5)
    assert model.decoder is not None
    assert model.ctc_weight == 1.5


def test_ctc_scores_of_a_model_without_ctc_are_refused():
    model = make_model(ctc_weight=0.0)
    with pytest.raises(SearchError, match=r"ctc_weight: 0\.0"):
        model.ctc.log_softmax(torch.zeros(1, 2, SIZE))


def test_checkpoint_of_the_same_model_loads():
    weights = make_model(1, **HKD).state_dict()
    model = make_model(2, **HKD)
    model.load_state_dict(weights)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[key])


def test_distillation_heads_may_be_missing_in_a_checkpoint():
    model = make_model(**HKD)
    model.load_state_dict(make_model().state_dict())


@pytest.mark.parametrize("strict", [True, False])
def test_missing_weights_are_an_error_even_if_not_strict(strict):
    model = make_model()
    weights = model.state_dict()
    del weights["decoder.output_layer.weight"]
    with pytest.raises(CheckpointError, match=r"missing: decoder\.output_layer"):
        model.load_state_dict(weights, strict=strict)


@pytest.mark.parametrize("strict", [True, False])
def test_surplus_weights_are_an_error_even_if_not_strict(strict):
    model = make_model()
    weights = model.state_dict() | {"decoder.extra": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"surplus: decoder\.extra"):
        model.load_state_dict(weights, strict=strict)


def test_checkpoint_of_another_token_list_is_named():
    model = make_model()
    weights = model.state_dict()
    weights["decoder.embed.weight"] = torch.zeros(99, SIZE)
    with pytest.raises(CheckpointError, match="token list") as caught:
        model.load_state_dict(weights)
    # Not an error that ESPnet catches and mends in its own way.
    assert not isinstance(caught.value, RuntimeError)


def test_decoder_takes_the_special_tokens_of_the_list():
    decoder = make_model().decoder
    assert (decoder.blank, decoder.unk, decoder.eos) == (0, 1, len(VOCAB) - 1)
    assert make_decoder().eos == len(VOCAB) - 1


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("length_normalized_loss", True, "divided by the batch's target tokens"),
        ("report_cer", True, "stage 13 counts errors"),
        ("interctc_weight", 0.3, "taught by `lexicon`"),
    ],
)
def test_options_of_the_hybrid_model_are_said_not_to_apply(key, value, why):
    with pytest.raises(ConfigError, match=f"model_conf.{key} does not apply.*{why}"):
        make_model(**{key: value})


@pytest.mark.parametrize("key", ["positional_dropout_rate", "input_layer"])
@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_options_of_espnets_layers_are_said_not_to_apply(part, key):
    from espnet_hkd.nets.decoder import CIFDecoder
    from espnet_hkd.nets.encoder import PooledConformerEncoder

    with pytest.raises(ConfigError, match=f"{part}_conf.{key} does not apply, because"):
        if part == "decoder":
            CIFDecoder(len(VOCAB), SIZE, **{key: 0.1})
        else:
            PooledConformerEncoder(80, **{key: 0.1})


def test_every_option_said_not_to_apply_is_one_of_espnets():
    """So that a misspelt key is still called so."""
    import inspect

    from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
    from espnet2.asr.espnet_model import ESPnetASRModel

    from espnet_hkd.nets import void_options

    for keys, cls in (
        (void_options.MODEL, ESPnetASRModel),
        (void_options.DECODER, TransformerDecoder),
        (void_options.ENCODER, ConformerEncoder),
    ):
        assert keys.keys() <= inspect.signature(cls).parameters.keys()


@pytest.mark.parametrize(
    ("key", "value"), [("ctc_type", "builtin2"), ("reduce", False)]
)
def test_options_of_ctc_without_effect_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"ctc_conf.{key} has no effect") as caught:
        make_model(ctc_conf={key: value})
    assert repr(value) in str(caught.value)


def test_conditioning_without_ctc_is_refused_before_training():
    encoder = make_small_encoder(interctc_layer_idx=[1], interctc_use_conditioning=True)
    with pytest.raises(ConfigError, match="interctc_use_conditioning needs a CTC"):
        make_model(encoder=encoder, ctc_weight=0.0)
