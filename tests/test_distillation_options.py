"""What distillation can be told beyond what was published."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from espnet_hkd.errors import ConfigError, DataError, MissingTeacherError
from espnet_hkd.losses.regression import regression_terms
from espnet_hkd.preprocessor import HKDPreprocessor
from espnet_hkd.teacher.align import align
from tests.small_models import make_batch, make_model
from tests.teacher_material import SETTINGS, build_words

HKD = {"acd_weight": 1.0, "lrd_weight": 0.01, "teacher_dim": 8}


def make_extra_batch(labels=(4, 0), *, teacher_dim=None):
    """A batch of speech that brings sentences of so many labels without speech."""
    batch = make_batch(teacher_dim=teacher_dim)
    longest = max(labels)
    batch["extra"] = torch.full((len(labels), longest), -1)
    for row, count in enumerate(labels):
        # Labels that the batch of speech has, too.
        batch["extra"][row, :count] = batch["text"][0, :count]
    batch["extra_lengths"] = torch.tensor(labels)
    if teacher_dim is not None:
        brought = torch.tensor([count + 1 if count else 0 for count in labels])
        batch["extra_teacher"] = torch.randn(len(labels), longest + 1, teacher_dim)
        valid = torch.arange(longest + 1) < brought[:, None]
        batch["extra_teacher_mask"] = torch.where(valid, 1, -1)
    return batch


def test_explained_is_0_for_the_mean_and_1_for_a_perfect_student():
    teacher = torch.randn(50, 6)
    mean = teacher.mean(0).expand_as(teacher)
    assert float(regression_terms(mean, teacher).explained) == pytest.approx(
        0, abs=1e-5
    )
    assert float(regression_terms(teacher, teacher).explained) == 1
    half = (teacher + mean) / 2
    assert float(regression_terms(half, teacher).explained) == pytest.approx(0.75)


def test_nothing_is_explained_where_nothing_varies():
    for tokens in (0, 1):
        terms = regression_terms(torch.ones(tokens, 3), torch.zeros(tokens, 3))
        assert float(terms.explained) == 0


def test_smooth_l1_is_squared_up_to_1_and_linear_beyond():
    student = torch.tensor([[0.5, 3.0]])
    terms = regression_terms(student, torch.zeros(1, 2), kind="smooth_l1")
    assert float(terms.loss) == pytest.approx(0.25 + 2 * 3 - 1)


def test_cosine_does_not_see_lengths():
    student, teacher = torch.randn(7, 5), torch.randn(7, 5)
    loss = regression_terms(student * 9, teacher / 4, kind="cosine").loss
    cosine = torch.nn.functional.cosine_similarity(student, teacher)
    torch.testing.assert_close(loss, (2 * 5 * (1 - cosine)).sum())


def test_before_gives_each_token_the_piece_before_its_own():
    # H E | L L O | W | <eos> over the pieces HELLO, W, [SEP].
    tokens = np.array([[0, 2], [2, 5], [6, 7]])
    pieces = np.array([[0, 5], [6, 7], [-1, -1]])
    before = align(tokens, pieces).before()
    assert before.valid.tolist() == [False, False, True, True]
    assert before.weights.argmax(1)[2:].tolist() == [0, 1]
    assert before.weights.sum(1).tolist() == [0, 0, 1, 1]


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train()


def test_the_ramp_rises_in_training_goes_on_and_is_whole_in_validation():
    batch = make_batch(teacher_dim=8)
    model = without_dropout(make_model(**HKD, kd_ramp=2))
    shares = []
    for _ in range(3):
        torch.manual_seed(1)
        loss, stats, _ = model(**batch)
        plain = without_dropout(make_model(**HKD))
        torch.manual_seed(1)
        whole, _, _ = plain(**batch)
        taught = stats["loss_acd"] + 0.01 * stats["loss_lrd"]
        shares.append(1 - ((whole - loss) / taught).item())
    assert shares == pytest.approx([0.5, 1, 1], abs=1e-3)
    again = make_model(**HKD, kd_ramp=2)
    again.load_state_dict(model.state_dict())
    assert again.training_steps == 3
    fresh = make_model(**HKD, kd_ramp=2).eval()
    torch.testing.assert_close(fresh(**batch)[0], make_model(**HKD).eval()(**batch)[0])


def test_ctc_teaches_the_weights_for_so_many_steps():
    model = make_model(count_align_weight=1.0, count_align_steps=2).train()
    terms = [model(**make_batch())[1]["loss_count_align"] for _ in range(4)]
    assert [bool(term > 0) for term in terms] == [True, True, False, False]
    assert make_model(count_align_weight=1.0)(**make_batch())[1]["loss_count_align"] > 0


def test_ctc_cannot_teach_a_model_without_ctc():
    with pytest.raises(ConfigError, match="without CTC"):
        make_model(count_align_weight=1.0, ctc_weight=0.0)


def test_the_residual_is_what_the_tokens_mean_leaves():
    model = make_model(**HKD, lrd_residual=True).train()
    teacher, tokens = torch.randn(4, 8), torch.tensor([3, 3, 5, 5])
    left = model._residual(teacher, tokens)
    torch.testing.assert_close(left[:2].sum(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(left[0] - left[1], teacher[0] - teacher[1])


def test_extra_sentences_teach_the_decoder_and_not_the_encoder():
    model = make_model(extra_weight=1.0).train()
    with_extra, stats, weight = model(**make_extra_batch())
    assert weight.item() == 11
    assert stats["loss_extra"] > 0
    gradient = torch.autograd.grad(
        with_extra, [model.decoder.embed.weight], retain_graph=True
    )[0]
    assert gradient[:-1].abs().sum() > 0
    model.zero_grad()
    batch = make_extra_batch()
    output, ys_out = teacher_forced(model, batch)
    extra, _ = model.extra_terms(output, ys_out, batch, model.select(ys_out, batch))
    extra.backward()
    touched = {
        name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None
    }
    assert touched == {"decoder"}
    assert model.decoder.weight_predictor.linear.weight.grad is None


def teacher_forced(model, batch):
    hidden, _, lengths = model._encode_layers(batch["speech"], batch["speech_lengths"])
    ys_in, ys_out = model.add_sos_eos(batch["text"], batch["text_lengths"])
    targets = batch["text_lengths"] + 1
    return model.decoder.teacher_forced(hidden, lengths, ys_in, targets), ys_out


def test_extra_sentences_with_teacher_add_their_regression():
    model = make_model(**HKD, extra_weight=1.0).train()
    _, stats, _ = model(**make_extra_batch(teacher_dim=8))
    assert stats["loss_extra_lrd"] > 0


def test_a_batch_may_bring_no_extra_sentence_and_none_has_one_in_validation():
    model = make_model(extra_weight=1.0).train()
    batch = make_extra_batch(labels=(1, 1))
    batch["extra_lengths"] = torch.zeros(2, dtype=torch.long)
    assert model(**batch)[1]["loss_extra"] == 0
    assert model.eval()(**make_batch())[1]["loss_extra"] == 0


def test_extra_sentences_are_demanded_by_name():
    with pytest.raises(ConfigError, match="extra_text"):
        make_model(extra_weight=1.0).train()(**make_batch())


def test_the_codebook_may_be_missing_in_a_checkpoint():
    plain = make_model()
    make_model(extra_weight=1.0).load_state_dict(plain.state_dict())


@pytest.mark.parametrize(
    "conf",
    [{"lrd_loss": "square"}, {"kd_ramp": -1}, {"extra_masks": 1.0}, {"kd_norm": 1}],
    ids=lambda conf: next(iter(conf)),
)
def test_a_wrong_value_is_named(conf):
    with pytest.raises(ConfigError, match=next(iter(conf))):
        make_model(**conf)


# What the preprocessor brings of it.


def preprocess(folder, text="A B", *, train=True, **options):
    return HKDPreprocessor(
        train=train,
        token_type="word",
        token_list=["<blank>", "<unk>", *"ABC", "<eos>"],
        **options,
    )("u1", {"text": text})


@pytest.fixture
def extra(tmp_path):
    path = tmp_path / "extra"
    path.write_text("C A\nC  Z\n")
    return str(path)


def test_standardised_teachers_are_those_of_the_store(tmp_path):
    build_words(["A B", "C A"], tmp_path)
    states = np.concatenate(
        [
            [[p + ord(w) / 256] for p, w in enumerate(t.split())] + [[-1.0]]
            for t in ["A B", "C A"]
        ]
    )
    teacher = preprocess(tmp_path, store=str(tmp_path), standardise=True)["teacher"]
    wanted = (
        np.array([[ord("A") / 256], [1 + ord("B") / 256], [-1.0]]) - states.mean()
    ) / states.std()
    np.testing.assert_allclose(teacher[:, :1], wanted, atol=2e-3)


def test_an_extra_sentence_comes_with_its_teacher(tmp_path, extra):
    build_words(["A B", "C A"], tmp_path / "store")
    data = preprocess(
        tmp_path, store=str(tmp_path / "store"), extra_text=extra, extra_share=1.0
    )
    assert data["extra"].tolist() == [4, 2]
    assert data["extra_teacher"].shape == (3, SETTINGS.width)
    assert data["extra_teacher_mask"].tolist() == [1, 1, 1]


def test_a_share_of_the_utterances_brings_none(tmp_path, extra):
    build_words(["A B", "C A"], tmp_path / "store")
    data = preprocess(
        tmp_path, store=str(tmp_path / "store"), extra_text=extra, extra_share=0.0
    )
    assert data["extra"].shape == (0,) and data["extra"].dtype == np.int64
    assert data["extra_teacher"].shape == (0, SETTINGS.width)
    assert data["extra_teacher_mask"].shape == (0,)


def test_validation_brings_no_extra_sentence(tmp_path, extra):
    assert "extra" not in preprocess(
        tmp_path, train=False, extra_text=extra, extra_share=1.0
    )


def test_a_store_without_the_extra_sentences_is_named_with_the_command(tmp_path, extra):
    build_words(["A B"], tmp_path / "store")
    with pytest.raises(MissingTeacherError, match="extra sentence 'C A'"):
        preprocess(
            tmp_path, store=str(tmp_path / "store"), extra_text=extra, extra_share=1.0
        )


def test_extra_text_of_unknown_units_only_is_refused(tmp_path):
    path = tmp_path / "extra"
    path.write_text("Z\nA Z\n")
    with pytest.raises(DataError, match="2 sentences"):
        preprocess(tmp_path, extra_text=str(path), extra_share=1.0)


def test_extra_text_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        preprocess(tmp_path, extra_text=str(tmp_path / "nowhere"), extra_share=1.0)
