"""How much of each token's mass lies where CTC reads the token: a statistic."""

from __future__ import annotations

import torch
from torch import Tensor

# Frames to each side of a spike. At 40 ms a frame they make 0.28 s, a quick syllable.
REACH = 3


@torch.no_grad()
def own_mass(
    weights: Tensor,
    best: Tensor,
    lengths: Tensor,
    labels: Tensor,
    *,
    blank: int = 0,
    reach: int = REACH,
) -> Tensor:
    """Mean share of a token's mass within `reach` frames of its own CTC spike.

    The weights are scaled to `labels` + 1 tokens as in training. A spike is a frame
    whose best CTC symbol is no blank and not that of the frame before; the k-th belongs
    to the k-th token. Only utterances with as many spikes as labels count, so it is 0
    until CTC reads anything. End-of-sentence, which CTC does not read, is left out.

    Waits for no device.

    Args:
        weights: (B, T) as predicted, 0 on padding.
        best: (B, T) int64, CTC's best symbol of each frame; padding may hold anything.
        lengths: (B,) number of valid frames.
        labels: (B,) number of labels, end-of-sentence excluded.
        blank: CTC's blank.
        reach: Frames to each side.

    Returns:
        A scalar in [0, 1]: near 1 where weights gather in bumps, `2 reach + 1` frames
        of a token's duration where they are flat.
    """
    frames = weights.size(1)
    valid = torch.arange(frames, device=weights.device) < lengths[:, None]
    best = best.masked_fill(~valid, blank)
    before = torch.nn.functional.pad(best[:, :-1], (1, 0), value=blank)
    spike = (best != blank) & (best != before)
    number = spike.cumsum(1)  # (B, T), counted from 1
    counted = spike & (number[:, -1:] == labels[:, None])

    mass = weights.double().cumsum(1)
    total = mass[:, -1:].clamp(min=1e-6)
    mass = torch.nn.functional.pad(mass * (labels[:, None] + 1) / total, (1, 0))
    frame = torch.arange(frames, device=weights.device)
    begin = mass[:, (frame - reach).clamp(min=0)]
    end = mass[:, (frame + reach + 1).clamp(max=frames)]
    share = end.clamp(number - 1, number) - begin.clamp(number - 1, number)
    return (share * counted).sum() / counted.sum().clamp(min=1)
