"""The acoustic contrastive loss: every student token to its own teacher.

Han et al., INTERSPEECH 2023 (arXiv 2301.13003), section 3. In float32, whatever the
autocast state or the dtype of the arguments.

Letters: N tokens that serve as candidates, A tokens that serve as anchors (A = N
without a second rank), K negatives, E PLM width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from espnet_hkd.errors import ConfigError

# Norms below this are taken for it, as in the published code.
EPSILON = 1e-6
# Cosines that exist at a time, 16 MiB: all of 2,000 tokens.
BLOCK = 2**22


class ContrastiveTerms(NamedTuple):
    """The contrastive loss of a batch and what it says about the batch.

    Attributes:
        loss: Scalar, sum over the anchors.
        margin: (A,) how much nearer each anchor is to its own teacher than to any of
            the negatives, in cosine over temperature; inf where it has no negative.
    """

    loss: Tensor
    margin: Tensor

    @property
    def anchors(self) -> Tensor:
        """Scalar, anchors that have a negative at all."""
        return self.margin.isfinite().sum()

    @property
    def correct(self) -> Tensor:
        """Scalar, those that are nearer to their own teacher than to any negative."""
        return (self.margin.isfinite() & (self.margin > 0)).sum()


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
    Time A N E. Memory (A + N) E and a block of cosines, whatever A N is: blocks of
    anchors follow each other, and the gradient is made beside the loss. Never waits for
    the device.

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
    first = 0 if anchors is None else anchors.start
    assert first + student.size(0) <= total, (first, student.shape, teacher.shape)
    count = total
    if negatives != "all":
        count = int(negatives) if total > int(negatives) else int(0.8 * total)
    if token_ids is None:
        # Nobody has one's own token but oneself.
        token_ids = torch.arange(total, device=teacher.device)

    def keep_negatives(logits: Tensor, start: int) -> Tensor:
        """The logits of anchors from `start` on, -inf at all but their negatives."""
        if negative_ids is not None:
            ids = negative_ids[start : start + len(logits)]
            return _keep_rows(logits, ids, first + start)
        own = token_ids[first + start : first + start + len(logits)]
        excluded = _draw_excluded(own, token_ids, count, generator)
        return logits.masked_fill(excluded, -torch.inf)

    with torch.autocast(student.device.type, enabled=False):
        terms = _Contrast.apply(
            student, teacher.detach(), float(temperature), first, keep_negatives
        )
    return ContrastiveTerms(*terms)


class _Contrast(torch.autograd.Function):
    """Masked cross entropy of cosines, and its gradient in the same pass.

    Left to autograd, each block would keep its cosines for the backward pass, and 2,000
    tokens would take 45 launches instead of 29, for the normalisation alone 17.
    """

    @staticmethod
    def forward(ctx, student, teacher, temperature, first, keep_negatives):
        ctx.set_materialize_grads(False)
        size, total = len(student), len(teacher)
        units = student.new_empty(size + total, student.size(1), dtype=torch.float32)
        torch.cat([student, teacher], out=units)
        norm = units.norm(dim=1, keepdim=True)
        turns = norm[:size] > EPSILON
        norm.clamp_(min=EPSILON)
        norm[:size].mul_(temperature)
        student, teacher = units.div_(norm).split([size, total])
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(student) if wanted else None
        margin = units.new_empty(size)
        loss = units.new_zeros(()) if size == 0 else 0.0
        rows = max(BLOCK // max(total, 1), 1)
        for start in range(0, size, rows):
            block = slice(start, start + rows)
            anchors, own = student[block], first + start
            logits = anchors @ teacher.T
            positive = logits.diagonal(own)
            masked = keep_negatives(logits, start)
            torch.sub(positive, masked.amax(1), out=margin[block])
            masked.diagonal(own).copy_(positive)
            logp = masked.log_softmax(1)
            loss = loss - logp.diagonal(own).sum()
            if gradient is None:
                continue
            slope = logp.exp_()
            slope.diagonal(own).sub_(1.0)
            toward = torch.mm(slope, teacher, out=gradient[block])
            # Through the division by the norm: only what turns the student counts.
            along = torch.bmm(toward[:, None], anchors[..., None])[:, 0] * turns[block]
            toward.addcmul_(along, anchors, value=-(temperature**2))
        if gradient is not None:
            gradient.div_(norm[:size])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(margin)
        return loss, margin

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss, _margin):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss, None, None, None, None


def _keep_rows(logits: Tensor, ids: Tensor, own: int) -> Tensor:
    """The logits (A, N) of ids (A, K), as often as they stand there, else -inf."""
    times = torch.zeros_like(logits)
    times.scatter_add_(1, ids, torch.ones_like(ids, dtype=logits.dtype))
    times.diagonal(own).zero_()
    return logits + times.log_()


def _draw_excluded(
    own: Tensor, token_ids: Tensor, count: int, generator: torch.Generator | None
) -> Tensor:
    """All but `count` negatives of the anchors' tokens own (A,): (A, N), true there."""
    excluded = own[:, None] == token_ids
    if count >= len(token_ids):
        return excluded
    # The `count` largest of independent random numbers are a draw without replacement.
    keys = torch.rand(excluded.shape, generator=generator, device=own.device)
    keys.masked_fill_(excluded, -1.0)
    drawn = keys.topk(count, dim=1, sorted=False).indices
    return torch.ones_like(excluded).scatter_(1, drawn, False).logical_or_(excluded)


def gather_tokens(
    teacher: Tensor, token_ids: Tensor | None, counts: Sequence[int] | None = None
) -> tuple[Tensor, Tensor | None, slice]:
    """Join the teachers of all ranks, in rank order; sizes may differ and be zero.

    Only the constant teachers serve as candidates, so every rank keeps its own anchors
    and the gradient is exact without travelling.

    Args:
        teacher: (n, E) of this rank.
        token_ids: (n,) int64 or None.
        counts: n of every rank, of `counts_of_ranks`; None: asks, and waits for them.

    Returns:
        Teachers (N, E) and ids (N,) of all ranks, and the rows that are this rank's.
        Without a process group, the arguments.
    """
    own = teacher.size(0)
    if not _several_ranks():
        return teacher, token_ids, slice(0, own)
    if counts is None:
        counts = counts_of_ranks(torch.tensor([own], device=teacher.device)).tolist()
    most = max(counts)
    states = _gather_rows(F.pad(teacher, (0, 0, 0, most - own)), counts)
    if token_ids is not None:
        token_ids = _gather_rows(F.pad(token_ids, (0, most - own)), counts)
    first = sum(counts[: own_rank()])
    return states, token_ids, slice(first, first + own)


def counts_of_ranks(own: Tensor) -> Tensor:
    """The numbers (R,) of all ranks, of each one's own (1,), on its device."""
    if not _several_ranks():
        return own
    ranks = torch.distributed.get_world_size()
    counts = [torch.empty_like(own) for _ in range(ranks)]
    torch.distributed.all_gather(counts, own)
    return torch.cat(counts)


def own_rank() -> int:
    """The number of this rank, 0 without a process group."""
    return torch.distributed.get_rank() if _several_ranks() else 0


def _several_ranks() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _gather_rows(padded: Tensor, counts: Sequence[int]) -> Tensor:
    parts = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(parts, padded.contiguous())
    return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
