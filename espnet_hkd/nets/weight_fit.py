"""Fit a trained model's weights anew, on what its encoder says of each utterance.

The encoder stays as it is, so that CTC does too and each utterance is encoded once: a
floor under the weights, and silence in pauses, are learnt in minutes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from espnet_hkd.cif import WeightPredictor

# What a frame carries outside of any token; AN4's pauses had 0.005.
BACKGROUND = 0.02


class Encoded(NamedTuple):
    """An utterance after the encoder.

    Attributes:
        hidden: (T, D).
        tokens: Its number, end-of-sentence included.
        weights: (T,) to stay close to, where the old ones are right; None: free.
    """

    hidden: Tensor
    tokens: int
    weights: Tensor | None = None


def fit_weights(
    predictor: WeightPredictor,
    utterances: Sequence[Encoded],
    *,
    epochs: int = 8,
    rate: float = 2e-3,
    keep: float = 4.0,
    batch: int = 16,
    seed: int = 0,
) -> WeightPredictor:
    """Fit a predictor to the number of tokens of each utterance.

    The loss is, per token, the quantity loss and `keep` times the distance of the
    weights to those given; by AdamW, its rate a cosine down to 0 after a short rise.
    Batches hold utterances of similar length.

    Args:
        predictor: Where to start, its floor set; it is not changed.
        utterances: Encoder output and number of tokens.
        epochs: Passes over all of them.
        rate: Highest learning rate.
        keep: Weight of the distance to the weights given.
        batch: Utterances of an update.
        seed: Of dropout and of the order of the batches.

    Returns:
        The fitted predictor.
    """
    generator = torch.Generator().manual_seed(seed)
    fitted = copy.deepcopy(predictor).train()
    order = sorted(range(len(utterances)), key=lambda i: len(utterances[i].hidden))
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    optimizer = torch.optim.AdamW(fitted.parameters(), lr=rate, weight_decay=0.01)
    steps = epochs * len(batches)

    def share(step: int) -> float:
        return min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(epochs):
            for i in torch.randperm(len(batches), generator=generator).tolist():
                chosen = [utterances[j] for j in batches[i]]
                loss = _loss(fitted, chosen, keep)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return fitted.eval()


def utterance_mass(predictor: WeightPredictor, utterances: Sequence[Encoded]) -> Tensor:
    """Sum of the weights (B,) of utterances."""
    return _weights(predictor, utterances).sum(1)


@torch.no_grad()
def weights_to_keep(predictor: WeightPredictor, hidden: Tensor) -> Tensor:
    """Weights (T,) of frames (T, D) without what lies under the bumps, of equal sum."""
    weights = predictor(hidden[None], torch.tensor([len(hidden)]))[0]
    bumps = weights.masked_fill(weights < BACKGROUND, 0.0)
    return bumps * (weights.sum() / bumps.sum().clamp(min=1e-6))


def _weights(predictor: WeightPredictor, utterances: Sequence[Encoded]) -> Tensor:
    """Weights (B, T) of utterances, 0 on padding."""
    lengths = torch.tensor([len(each.hidden) for each in utterances])
    hidden = torch.nn.utils.rnn.pad_sequence(
        [each.hidden for each in utterances], batch_first=True
    )
    return predictor(hidden, lengths)


def _loss(
    predictor: WeightPredictor, utterances: Sequence[Encoded], keep: float
) -> Tensor:
    weights = _weights(predictor, utterances)
    tokens = weights.new_tensor([each.tokens for each in utterances])
    loss = (weights.sum(1) - tokens).abs().sum()
    for row, each in zip(weights, utterances, strict=True):
        if each.weights is not None:
            loss = loss + keep * (row[: len(each.weights)] - each.weights).abs().sum()
    return loss / tokens.sum()
