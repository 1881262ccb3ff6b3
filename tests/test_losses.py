"""The losses, against the published numbers and their own definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from espnet_hkd.errors import ConfigError
from espnet_hkd.losses import (
    acoustic_contrastive_loss,
    acoustic_contrastive_terms,
    gather_tokens,
    label_smoothed_cross_entropy,
    linguistic_regression_loss,
    quantity_loss,
)

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    arrays = np.load(GOLDEN / f"{name}.npz")
    return {
        key: torch.from_numpy(arrays[key])
        for key in arrays.files
        if key != "meta" and arrays[key].dtype.kind in "fiub"
    }


def contrast_by_gathering(student, teacher, ids, temperature=0.02):
    """The definition, with N x K x E negatives; one row of ids per anchor."""
    negatives = teacher[ids]
    positive = F.cosine_similarity(student, teacher, dim=-1, eps=1e-6)
    others = F.cosine_similarity(student[:, None], negatives, dim=-1, eps=1e-6)
    own = ids == torch.arange(len(student))[:, None]
    logits = torch.cat([positive[:, None], others.masked_fill(own, -1e9)], dim=1)
    targets = torch.zeros(len(student), dtype=torch.long)
    return F.cross_entropy(logits / temperature, targets, reduction="sum")


def tokens(count, width=16, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(count, width, generator=generator, dtype=dtype)
    teacher = torch.randn(count, width, generator=generator, dtype=dtype)
    return student.requires_grad_(), teacher


@pytest.mark.parametrize(
    "name", ["contrastive_basic", "contrastive_small_batch", "contrastive_duplicates"]
)
def test_contrastive_equals_the_published_numbers(name):
    d = golden(name)
    mask = d["mask"].bool()
    student = d["student"].float()[mask].requires_grad_()
    loss = acoustic_contrastive_loss(
        student,
        d["teacher"].float()[mask],
        temperature=float(d["temperature"]),
        negative_ids=d["neg_ids"].long(),
    )
    loss.backward()
    torch.testing.assert_close(
        loss.double(), d["loss_sum"].double().reshape(()), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        student.grad, d["grad_student"].float()[mask], rtol=1e-3, atol=1e-4
    )


def test_oneself_among_the_negatives_is_masked_even_where_published_code_kept_it():
    # contrastive_keep_overlap: the same draws with oneself counted twice, which only
    # adds a constant floor to the loss of the 14 anchors concerned.
    kept, removed = golden("contrastive_keep_overlap"), golden("contrastive_basic")
    mask = kept["mask"].bool()
    loss = acoustic_contrastive_loss(
        kept["student"].float()[mask],
        kept["teacher"].float()[mask],
        negative_ids=kept["neg_ids"].long(),
    )
    assert loss.item() == pytest.approx(float(removed["loss_sum"]), rel=1e-5)
    assert loss.item() < float(kept["loss_sum"])


@pytest.mark.parametrize("count", [2, 3, 31, 300, 513])
def test_contrastive_equals_the_gather_form_in_value_and_gradient(count):
    student, teacher = tokens(count)
    ids = torch.stack([torch.randperm(count)[: count // 2 + 1] for _ in range(count)])
    loss = acoustic_contrastive_loss(student, teacher, negative_ids=ids)
    (gradient,) = torch.autograd.grad(loss, student)
    expected = contrast_by_gathering(student, teacher, ids)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


def test_all_negatives_equal_the_gather_form_over_everybody_else():
    student, teacher = tokens(40)
    ids = torch.arange(40).expand(40, 40)
    loss = acoustic_contrastive_loss(student, teacher, negatives="all")
    torch.testing.assert_close(loss, contrast_by_gathering(student, teacher, ids))


def test_same_token_is_never_a_negative_when_ids_are_given():
    student, teacher = tokens(30)
    ids = torch.arange(30) % 4
    base = acoustic_contrastive_loss(student, teacher, negatives="all", token_ids=ids)
    expected = 0.0
    for anchor in range(30):
        others = torch.nonzero(ids != ids[anchor]).squeeze(1)
        rows = torch.cat([torch.tensor([anchor]), others])
        cosines = F.cosine_similarity(student[anchor], teacher[rows], dim=-1)
        expected = expected - (cosines / 0.02).log_softmax(0)[0]
    torch.testing.assert_close(base, expected)


@pytest.mark.parametrize(
    ("total", "wanted", "drawn"),
    [(50, 10, 10), (50, 49, 49), (50, 50, 40), (50, 700, 40), (8, 700, 6)],
)
def test_draws_are_distinct_and_as_many_as_wanted(total, wanted, drawn):
    # All cosines are equal, so that the loss tells how many candidates there were.
    student, teacher = torch.ones(total, 4), torch.ones(total, 4)
    loss = acoustic_contrastive_loss(student, teacher, negatives=wanted)
    # 40 of 50 may be drawn with oneself not allowed: all of 49 stay possible.
    assert loss.item() == pytest.approx(total * np.log(1 + drawn), rel=1e-5)


def test_every_allowed_token_is_drawn_equally_often():
    generator = torch.Generator().manual_seed(0)
    # Teacher j is the j-th unit vector: the gradient shows which were drawn.
    teacher = torch.eye(10)
    student = torch.ones(10, 10).requires_grad_()
    hits = torch.zeros(10, 10)
    for _ in range(600):
        loss = acoustic_contrastive_loss(
            student, teacher, negatives=3, temperature=1.0, generator=generator
        )
        (gradient,) = torch.autograd.grad(loss, student)
        # Most tokens are neither drawn nor oneself: the median is theirs.
        hits += gradient > gradient.median(1, keepdim=True).values + 0.02
    hits.fill_diagonal_(0)
    # 3 of the 9 others, 600 times: 200 expected, 11.5 standard deviation.
    off_diagonal = hits[~torch.eye(10, dtype=torch.bool)]
    assert (off_diagonal - 200).abs().max() < 60
    assert hits.sum() == 600 * 10 * 3


def test_the_same_generator_draws_the_same():
    student, teacher = tokens(60)
    losses = [
        acoustic_contrastive_loss(
            student, teacher, negatives=5, generator=torch.Generator().manual_seed(7)
        ).item()
        for _ in range(2)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_contrast_with_gives_zero_and_a_gradient(count):
    student, teacher = tokens(count)
    terms = acoustic_contrastive_terms(student, teacher)
    terms.loss.backward()
    assert terms.loss.item() == terms.correct.item() == terms.anchors.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_tokens_all_equal_contribute_nothing_when_ids_are_given():
    student, teacher = tokens(9)
    ids = torch.full((9,), 3)
    terms = acoustic_contrastive_terms(student, teacher, token_ids=ids)
    terms.loss.backward()
    assert terms.loss.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_zero_vectors_give_finite_gradients(which):
    student, teacher = tokens(12)
    with torch.no_grad():
        (student if which == "student" else teacher)[3] = 0.0
    loss = acoustic_contrastive_loss(student, teacher, negatives="all")
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = tokens(64)
    full = acoustic_contrastive_loss(student, teacher, negatives="all")
    lowered = student.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = acoustic_contrastive_loss(lowered, teacher.to(dtype), negatives="all")
    half.backward()
    assert half.dtype == torch.float32
    assert lowered.grad.dtype == dtype
    assert half.item() == pytest.approx(full.item(), rel=1e-2)


def test_teacher_gets_no_gradient():
    student, teacher = tokens(12)
    teacher.requires_grad_()
    loss = acoustic_contrastive_loss(student, teacher)
    loss = loss + linguistic_regression_loss(student, teacher)
    loss.backward()
    assert teacher.grad is None


def test_accuracy_counts_students_nearest_to_their_own_teacher():
    teacher = torch.eye(6)
    student = torch.eye(6)[[0, 1, 2, 3, 5, 4]]
    terms = acoustic_contrastive_terms(student, teacher, negatives="all")
    assert (terms.correct.item(), terms.anchors.item()) == (4, 6)


def test_contrastive_gradient_equals_finite_differences():
    student, teacher = tokens(7, width=5)
    ids = torch.stack([torch.randperm(7)[:4] for _ in range(7)])

    def loss(x):
        return acoustic_contrastive_loss(x, teacher, temperature=0.5, negative_ids=ids)

    (gradient,) = torch.autograd.grad(loss(student), student)
    step = 1e-2
    for row, column in [(0, 0), (3, 2), (6, 4)]:
        moved = student.detach().clone()
        moved[row, column] += step
        upper = loss(moved)
        moved[row, column] -= 2 * step
        slope = (upper - loss(moved)) / (2 * step)
        assert gradient[row, column].item() == pytest.approx(slope.item(), abs=2e-3)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"negatives": 0}, {"negatives": "some"}]
)
def test_a_wrong_option_is_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        acoustic_contrastive_loss(*tokens(4), **options)


def test_anchors_may_be_a_part_of_the_candidates():
    student, teacher = tokens(20)
    whole = acoustic_contrastive_terms(student, teacher, negatives="all")
    parts = [
        acoustic_contrastive_terms(
            student[rows], teacher, negatives="all", anchors=rows
        )
        for rows in (slice(0, 13), slice(13, 13), slice(13, 20))
    ]
    torch.testing.assert_close(sum(p.loss for p in parts), whole.loss)
    assert sum(p.correct for p in parts) == whole.correct


def test_gathering_without_other_ranks_changes_nothing():
    _, teacher = tokens(4)
    states, ids, own = gather_tokens(teacher, torch.arange(4))
    assert states is teacher
    assert ids.tolist() == [0, 1, 2, 3]
    assert own == slice(0, 4)


@pytest.mark.parametrize("name", ["regression_basic", "regression_mismatch"])
def test_regression_equals_the_published_numbers(name):
    d = golden(name)
    student = d["in_student_dec"].float().requires_grad_()
    teacher = d["in_bert_distill_feats"].float()[:, 1:]
    width = min(student.size(1), teacher.size(1))
    fired = d["in_cif_out_mask"].bool()[:, :width]
    # Published code also regresses firings beyond the target onto zero vectors
    # (regression_mismatch, row 2); here a token without a target has no teacher.
    position = torch.arange(width)
    valid = fired & (position < d["in_target_lengths"][:, None])
    loss = linguistic_regression_loss(
        student[:, :width][valid], teacher[:, :width][valid]
    )
    surplus = student[:, :width][fired & ~valid].square().sum()
    assert (surplus > 0) == (name == "regression_mismatch")
    torch.testing.assert_close(
        loss + surplus, d["term_regression"].float().reshape(()), rtol=1e-4, atol=1e-3
    )
    (0.01 * loss).backward()
    expected = d["grad_student_dec"].float()[:, :width][valid]
    torch.testing.assert_close(student.grad[:, :width][valid], expected)


@pytest.mark.parametrize("name", ["total_cif", "total_hkd", "total_hkd_k700"])
def test_total_equals_the_published_numbers(name):
    d = golden(name)
    logits = d["in_decoder_logits"].float()
    ctc_logits = d["in_ctc_logits"].float()
    target, lengths = d["in_target"].long(), d["in_target_lengths"].long()
    valid = torch.arange(target.size(1)) < lengths[:, None]
    width = min(logits.size(1), target.size(1))
    terms = {
        "smoothed_ce": label_smoothed_cross_entropy(
            logits[:, :width][valid[:, :width]],
            target[:, :width][valid[:, :width]],
            0.1,
        ),
        "ctc": F.ctc_loss(
            ctc_logits.log_softmax(-1).transpose(0, 1),
            target,
            d["in_encoder_lengths"].long(),
            lengths,
            blank=0,
            reduction="sum",
            zero_infinity=True,
        ),
        "quantity": quantity_loss(d["in_quantity_out"], lengths),
    }
    if name != "total_cif":
        teacher = d["in_bert_distill_feats"].float()[:, 1:]
        size = min(d["in_student_cif"].size(1), teacher.size(1))
        fired = d["in_cif_out_mask"].bool()[:, :size]
        terms["regression"] = linguistic_regression_loss(
            d["in_student_dec"].float()[:, :size][fired], teacher[:, :size][fired]
        )
        terms["contrastive"] = acoustic_contrastive_loss(
            d["in_student_cif"].float()[:, :size][fired],
            teacher[:, :size][fired],
            negative_ids=d["neg_ids"].long(),
        )
    total = 0.0
    for term, value in terms.items():
        torch.testing.assert_close(
            value.float(),
            d[f"term_{term}"].float().reshape(()),
            rtol=1e-4,
            atol=1e-4,
            msg=lambda text, term=term: f"{term}: {text}",
        )
        total = total + float(d[f"weight_{term}"]) * value
    assert total.item() == pytest.approx(float(d["total_sum"]), rel=1e-4)
    assert d["sample_size"].item() == lengths.sum().item()


def test_smoothed_cross_entropy_differs_from_espnets_by_a_constant():
    from espnet2.legacy.nets.pytorch_backend.transformer.label_smoothing_loss import (
        LabelSmoothingLoss,
    )

    torch.manual_seed(0)
    differences = []
    for _ in range(3):
        logits = torch.randn(5, 7)
        targets = torch.randint(0, 7, (5,))
        theirs = LabelSmoothingLoss(7, -1, 0.1)(logits[None], targets[None]) * 1
        ours = label_smoothed_cross_entropy(logits, targets, 0.1)
        differences.append((ours - theirs).item())
    assert differences == pytest.approx([differences[0]] * 3, abs=1e-4)


def test_quantity_is_a_sum_over_utterances():
    mass = torch.tensor([3.5, 7.0, 2.0])
    assert quantity_loss(mass, torch.tensor([4, 5, 2])).item() == pytest.approx(2.5)
