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


class Encoded(NamedTuple):
    """An utterance after the encoder.

    Attributes:
        hidden: (T, D).
        tokens: Its number, end-of-sentence included.
    """

    hidden: Tensor
    tokens: int


def fit_weights(
    predictor: WeightPredictor,
    utterances: Sequence[Encoded],
    *,
    epochs: int = 20,
    rate: float = 1e-3,
    batch: int = 16,
    seed: int = 0,
) -> WeightPredictor:
    """Fit a predictor to the number of tokens of each utterance.

    The loss is the quantity loss per token, by AdamW, its rate a cosine down to 0 after
    a short rise. Batches hold utterances of similar length.

    Args:
        predictor: Where to start, its floor set; it is not changed.
        utterances: Encoder output and number of tokens.
        epochs: Passes over all of them.
        rate: Highest learning rate.
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
                mass = utterance_mass(fitted, chosen)
                tokens = mass.new_tensor([each.tokens for each in chosen])
                loss = (mass - tokens).abs().sum() / tokens.sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return fitted.eval()


def utterance_mass(predictor: WeightPredictor, utterances: Sequence[Encoded]) -> Tensor:
    """Sum of the weights (B,) of utterances."""
    lengths = torch.tensor([len(each.hidden) for each in utterances])
    hidden = torch.nn.utils.rnn.pad_sequence(
        [each.hidden for each in utterances], batch_first=True
    )
    return predictor(hidden, lengths).sum(1)
