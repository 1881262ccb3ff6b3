"""The training losses, all as sums; the model divides them once.

Han et al., INTERSPEECH 2023 (arXiv 2301.13003), section 3. Everything is computed in
float32, whatever the autocast state or the dtype of the arguments.

Letters: B utterances, N tokens, E PLM width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_hkd.losses.contrastive import (
    ContrastiveTerms,
    acoustic_contrastive_loss,
    acoustic_contrastive_terms,
    gather_tokens,
)

__all__ = [
    "ContrastiveTerms",
    "acoustic_contrastive_loss",
    "acoustic_contrastive_terms",
    "gather_tokens",
    "label_smoothed_cross_entropy",
    "linguistic_regression_loss",
    "quantity_loss",
]


def quantity_loss(mass: Tensor, targets: Tensor) -> Tensor:
    """Sum of |mass - targets| over utterances; both (B,). Returns a scalar."""
    return (mass.float() - targets.float()).abs().sum()


def label_smoothed_cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float
) -> Tensor:
    """Sum of the smoothed cross entropy of tokens.

    (1 - e - e') (-log p_y) + e' sum_v (-log p_v) with e' = e / (V - 1), as published.
    ESPnet's LabelSmoothingLoss is the same but for a constant (the entropy of the
    smoothed target) and leaves the true token out of the second sum.

    Args:
        logits: (..., V).
        targets: (...) int64; what is negative is padding and adds nothing.
        smoothing: e, in [0, 1).

    Returns:
        Scalar, float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logp = logits.float().log_softmax(-1)
        true = -logp.gather(-1, targets[..., None].clamp(min=0)).squeeze(-1)
        share = smoothing / (logits.size(-1) - 1)
        each = (1 - smoothing - share) * true + share * -logp.sum(-1)
        # A mask as index would make the host wait for the number of tokens.
        return each.masked_fill(targets < 0, 0.0).sum()


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
