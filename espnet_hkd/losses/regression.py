"""How far a student's states are from their teachers, and what they have learnt.

Letters: N tokens, E PLM width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("squared", "smooth_l1", "cosine")


class RegressionTerms(NamedTuple):
    """The regression loss of a batch and what it says about the batch.

    Attributes:
        loss: Scalar, sum over tokens.
        explained: Scalar, 1 - squared error / variance of the teachers about their
            mean in the batch: 0 for a student that says the mean, 1 for a perfect one,
            below 0 at the start.
    """

    loss: Tensor
    explained: Tensor


def regression_terms(
    student: Tensor, teacher: Tensor, *, kind: str = "squared"
) -> RegressionTerms:
    """Compare states; in float32, whatever the autocast state.

    Args:
        student: (N, E), projected to the teacher's width.
        teacher: (N, E), constant.
        kind: `squared`, the sum of squared differences over tokens and dimensions, as
            published; `smooth_l1`, the same up to a difference of 1 and linear beyond;
            `cosine`, the squared difference once both have the length sqrt(E), which
            is 2 E (1 - cosine).
    """
    assert kind in KINDS, kind
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = student.float(), teacher.detach().float()
        if kind == "cosine":
            length = teacher.size(-1) ** 0.5
            student = F.normalize(student, dim=-1, eps=1e-6) * length
            teacher = F.normalize(teacher, dim=-1, eps=1e-6) * length
        squared = (student - teacher).square().sum()
        loss = squared
        if kind == "smooth_l1":
            loss = 2 * F.smooth_l1_loss(student, teacher, reduction="sum")
        mean = teacher.sum(0) / max(len(teacher), 1)
        variance = (teacher - mean).square().sum()
        explained = 1 - squared.detach() / variance.clamp(min=1e-9)
        # One token has no variance, and no token at all no error.
        return RegressionTerms(loss, explained * (variance > 1e-9))
