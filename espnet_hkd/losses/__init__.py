"""The training losses, all as sums; the model divides them once.

Han et al., INTERSPEECH 2023 (arXiv 2301.13003), section 3. Everything is computed in
float32, whatever the autocast state or the dtype of the arguments.

Letters: B utterances, N tokens that serve as candidates, A tokens that serve as anchors
(A = N without a second rank), K negatives, E PLM width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from espnet_hkd.errors import ConfigError

# Norms below this are taken for it, as in the published code.
EPSILON = 1e-6
# Anchors per block: the N x N cosines are never held as a whole.
BLOCK = 256


class ContrastiveTerms(NamedTuple):
    """The contrastive loss of a batch and what it says about the batch.

    Attributes:
        loss: Scalar, sum over the anchors.
        correct: Scalar, anchors that are closer to their own teacher than to any
            negative.
        anchors: Scalar, anchors that have a negative at all.
    """

    loss: Tensor
    correct: Tensor
    anchors: Tensor


def quantity_loss(mass: Tensor, targets: Tensor) -> Tensor:
    """Sum of |mass - targets| over utterances; both (B,). Returns a scalar."""
    return (mass.float() - targets.float()).abs().sum()


def label_smoothed_cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float
) -> Tensor:
    """Sum of the smoothed cross entropy of N tokens.

    (1 - e - e') (-log p_y) + e' sum_v (-log p_v) with e' = e / (V - 1), as published.
    ESPnet's LabelSmoothingLoss is the same but for a constant (the entropy of the
    smoothed target) and leaves the true token out of the second sum.

    Args:
        logits: (N, V).
        targets: (N,) int64.
        smoothing: e, in [0, 1).

    Returns:
        Scalar, float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logp = logits.float().log_softmax(-1)
        true = -logp.gather(1, targets[:, None]).sum()
        share = smoothing / (logits.size(1) - 1)
        return (1 - smoothing - share) * true + share * -logp.sum()


def linguistic_regression_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of squared differences over tokens and dimensions.

    Equation of the linguistic regression distillation, summed over E as published (so
    that its weight 0.01 is 7.68 per dimension of BERT).

    Args:
        student: (N, E), projected to the teacher's width.
        teacher: (N, E), constant.

    Returns:
        Scalar, float32.
    """
    with torch.autocast(student.device.type, enabled=False):
        return (student.float() - teacher.detach().float()).square().sum()


def acoustic_contrastive_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 0.02,
    negatives: int | str = 700,
    negative_ids: Tensor | None = None,
    token_ids: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sum of the contrastive losses; see `acoustic_contrastive_terms`."""
    return acoustic_contrastive_terms(
        student,
        teacher,
        temperature=temperature,
        negatives=negatives,
        negative_ids=negative_ids,
        token_ids=token_ids,
        generator=generator,
    ).loss


def acoustic_contrastive_terms(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 0.02,
    negatives: int | str = 700,
    negative_ids: Tensor | None = None,
    token_ids: Tensor | None = None,
    generator: torch.Generator | None = None,
    anchors: slice | None = None,
) -> ContrastiveTerms:
    """Pull every student token to its own teacher, away from other tokens' teachers.

    Per anchor the cross entropy of its own teacher among that and K negatives, by
    cosine over temperature (the acoustic contrastive distillation of the paper).
    Time A N E and memory N E: cosines exist a block of rows at a time, and the
    gradient is made beside them, so that nothing is kept for the backward pass but
    the gradient itself.

    Args:
        student: (A, E), projected to the teacher's width.
        teacher: (N, E), constant. Row i of the student belongs to row i, or to row
            `anchors.start + i`.
        temperature: Divides the cosines, above 0.
        negatives: K tokens drawn without replacement among those allowed, all of them
            if fewer are; int(0.8 N) if N <= K. Or "all" that are allowed.
        negative_ids: (A, K) rows of the teacher to use instead of drawing; oneself
            among them is masked.
        token_ids: (N,) int64. Given, other occurrences of an anchor's token are not
            allowed.
        generator: Of the draws; on the student's device.
        anchors: Rows of the teacher that are the anchors' own; None: all.

    Returns:
        ContrastiveTerms. An anchor without any allowed negative contributes 0.

    Raises:
        ConfigError: temperature or negatives out of range.
    """
    if not temperature > 0:
        raise ConfigError(
            "temperature of the contrastive loss is out of range",
            got=temperature,
            wanted="a number above 0",
            remedy="set model_conf.acd_temperature (default and paper 0.02)",
        )
    if negatives != "all" and (isinstance(negatives, str) or negatives < 1):
        raise ConfigError(
            "negatives of the contrastive loss are out of range",
            got=repr(negatives),
            wanted='a whole number, at least 1, or "all"',
            remedy="set model_conf.acd_negatives (default and paper 700)",
        )
    total = teacher.size(0)
    count = None
    if negatives != "all":
        count = int(negatives) if total > int(negatives) else int(0.8 * total)
    first = 0 if anchors is None else anchors.start
    assert first + student.size(0) <= total, (first, student.shape, teacher.shape)
    with torch.autocast(student.device.type, enabled=False):
        loss, correct, having = _Contrast.apply(
            student.float(),
            teacher.detach().float(),
            float(temperature),
            count,
            negative_ids,
            token_ids,
            generator,
            first,
        )
    return ContrastiveTerms(loss, correct, having)


class _Contrast(torch.autograd.Function):
    """Loss and gradient to the student in one pass over blocks of anchors."""

    @staticmethod
    def forward(
        ctx,
        student,
        teacher,
        temperature,
        count,
        negative_ids,
        token_ids,
        generator,
        first,
    ):
        teacher = teacher / teacher.norm(dim=1, keepdim=True).clamp(min=EPSILON)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(student) if wanted else None
        loss = student.new_zeros(())
        correct = student.new_zeros(())
        having = student.new_zeros(())
        for start in range(0, student.size(0), BLOCK):
            rows = slice(start, start + BLOCK)
            norm = student[rows].norm(dim=1, keepdim=True).clamp(min=EPSILON)
            unit = student[rows] / norm
            own = torch.arange(len(unit), device=student.device) + first + start
            logits = unit @ teacher.T / temperature  # (block, N)
            if negative_ids is not None:
                ids = negative_ids[rows]
                times = torch.zeros_like(logits)
                times.scatter_add_(1, ids, torch.ones_like(ids, dtype=logits.dtype))
            else:
                times = _draw(logits, own, count, token_ids, generator)
            # The positive stands once, whatever was drawn.
            times.scatter_(1, own[:, None], 0.0)
            has_negative = times.sum(1) > 0
            best_negative = logits.masked_fill(times == 0, -torch.inf).amax(1)
            positive = logits.gather(1, own[:, None]).squeeze(1)
            times.scatter_(1, own[:, None], 1.0)
            highest = torch.maximum(positive, best_negative)[:, None]
            weight = times.mul_((logits - highest).exp_())
            partition = weight.sum(1, keepdim=True)
            each = partition.log().squeeze(1) + highest.squeeze(1) - positive
            loss += each[has_negative].sum()
            correct += (has_negative & (positive > best_negative)).sum()
            having += has_negative.sum()
            if gradient is not None:
                slope = weight.div_(partition)
                slope.scatter_add_(1, own[:, None], -torch.ones_like(partition))
                slope *= has_negative[:, None] / temperature
                toward = slope @ teacher
                # Through the division by the norm: only what turns the student counts.
                along = (toward * unit).sum(1, keepdim=True) * (norm > EPSILON)
                torch.div(toward - along * unit, norm, out=gradient[rows])
        ctx.mark_non_differentiable(correct, having)
        ctx.save_for_backward(gradient)
        return loss, correct, having

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss, _correct, _having):
        (gradient,) = ctx.saved_tensors
        return grad_loss * gradient, *[None] * 7


def _draw(
    logits: Tensor,
    own: Tensor,
    count: int | None,
    token_ids: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Which rows of the teacher serve as negatives: (block, N), 1 where drawn."""
    if token_ids is None:
        allowed = torch.ones_like(logits, dtype=torch.bool)
    else:
        allowed = token_ids[own][:, None] != token_ids[None]
    allowed.scatter_(1, own[:, None], False)
    if count is None or count >= logits.size(1):
        return allowed.to(logits.dtype)
    # The `count` largest of independent random numbers are a draw without replacement.
    keys = torch.rand(
        logits.shape, generator=generator, device=logits.device, dtype=logits.dtype
    )
    keys.masked_fill_(~allowed, -1.0)
    drawn = torch.zeros_like(logits)
    drawn.scatter_(1, keys.topk(count, dim=1, sorted=False).indices, 1.0)
    return drawn.masked_fill_(~allowed, 0.0)


def gather_tokens(
    teacher: Tensor, token_ids: Tensor | None
) -> tuple[Tensor, Tensor | None, slice]:
    """Join the teachers of all ranks, in rank order; sizes may differ and be zero.

    Only the constant teachers serve as candidates, so every rank keeps its own anchors
    and the gradient is exact without travelling.

    Args:
        teacher: (n, E) of this rank.
        token_ids: (n,) int64 or None.

    Returns:
        Teachers (N, E) and ids (N,) of all ranks, and the rows that are this rank's.
        Without a process group, the arguments.
    """
    own = teacher.size(0)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return teacher, token_ids, slice(0, own)
    ranks = torch.distributed.get_world_size()
    size = torch.tensor([own], device=teacher.device)
    sizes = [torch.empty_like(size) for _ in range(ranks)]
    torch.distributed.all_gather(sizes, size)
    counts = [int(count) for count in sizes]
    most = max(counts)
    states = _gather_rows(F.pad(teacher, (0, 0, 0, most - own)), counts)
    if token_ids is not None:
        token_ids = _gather_rows(F.pad(token_ids, (0, most - own)), counts)
    first = sum(counts[: torch.distributed.get_rank()])
    return states, token_ids, slice(first, first + own)


def _gather_rows(padded: Tensor, counts: list[int]) -> Tensor:
    parts = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(parts, padded.contiguous())
    return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
