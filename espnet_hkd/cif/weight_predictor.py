"""Predict the weights of frames that continuous integrate-and-fire sums up.

Letters: B utterances, T frames, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from espnet_hkd.cif.definition import at_least_float32
from espnet_hkd.errors import ConfigError

# Priors of 0 and 1 are taken for so much more and less, so that they can be corrected.
PRIOR_MARGIN = 1e-3


class WeightPredictor(nn.Module):
    """Predict how much of a token each frame carries.

    A convolution over three frames, dropout, a linear layer and a sigmoid, as in the
    published code, whose weights start at 0.5 where about 0.28 is needed; here they
    start at `initial_weight`.

    A sigmoid is never 0: frames that hold nothing, a pause above all, add up to a token
    in the end. With a `floor` f a frame weighs max(0, sigmoid - f) / (1 - f).

    Args:
        size: D, width of the frames.
        initial_weight: Mean weight of a fresh predictor, in (0, 1): the tokens per
            encoder frame of the training data.
        dropout_rate: Dropout before the linear layer.
        floor: Sigmoid up to which a frame carries nothing, in [0, 1).

    Raises:
        ConfigError: `initial_weight` or `floor` is out of range.
    """

    def __init__(
        self,
        size: int,
        *,
        initial_weight: float = 0.25,
        dropout_rate: float = 0.2,
        floor: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 < initial_weight < 1.0:
            raise ConfigError(
                "initial_weight of the CIF is out of range",
                got=initial_weight,
                wanted="0 < initial_weight < 1",
                remedy="set decoder_conf.initial_weight to tokens per encoder frame",
            )
        if not 0.0 <= floor < 1.0:
            raise ConfigError(
                "the floor under the weights of the CIF is out of range",
                got=floor,
                wanted="0 <= floor < 1",
                remedy="set decoder_conf.weight_floor, such as 0.05; 0 is none",
            )
        self.floor = floor
        self.conv = nn.Conv1d(size, size, 3, padding=1)
        self.dropout = nn.Dropout(dropout_rate)
        self.linear = nn.Linear(size, 1)
        # Small enough that the bias alone decides where the weights start.
        nn.init.xavier_uniform_(self.linear.weight, gain=0.1)
        start = floor + initial_weight * (1 - floor)
        nn.init.constant_(self.linear.bias, math.log(start / (1 - start)))

    def forward(
        self, hidden: Tensor, lengths: Tensor, prior: Tensor | None = None
    ) -> Tensor:
        """Weights (B, T) in [0, 1], 0 on padding, of frames (B, T, D).

        `lengths` (B,) counts valid frames; padding may hold anything. Weights of half
        precision frames are float32: their sum over an utterance counts its tokens.
        `prior` (B, T): weights that these are a correction of, in log odds.
        """
        number = torch.arange(hidden.size(1), device=hidden.device)
        valid = number < lengths[:, None]  # (B, T)
        hidden = hidden.masked_fill(~valid[..., None], 0.0)
        mixed = self.conv(hidden.transpose(1, 2)).transpose(1, 2)  # (B, T, D)
        logits = self.linear(self.dropout(mixed)).squeeze(-1)
        logits = logits.to(at_least_float32(logits))
        if prior is not None:
            prior = prior.to(logits.dtype).masked_fill(~valid, 0.5)
            logits = logits + torch.logit(prior, eps=PRIOR_MARGIN)
        weights = logits.sigmoid()
        if self.floor > 0:
            weights = (weights - self.floor).clamp(min=0.0) / (1 - self.floor)
        return weights.masked_fill(~valid, 0.0)
