"""Frames that may carry a token, by what CTC reads around them.

In a pause each frame carries little, but it adds up: after some seconds a token fires.
CTC reads nothing but blanks there.

Letters: B utterances, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor


def speech_gate(
    blank: Tensor, lengths: Tensor, *, threshold: float, reach: int
) -> Tensor:
    """Frames (B, T) that lie near one that CTC may read a token in, or near the end.

    The end of an utterance is always open: end-of-sentence, which CTC does not read,
    has its mass there.

    Waits for no device.

    Args:
        blank: (B, T) CTC's posterior of the blank; padding may hold anything.
        lengths: (B,) number of valid frames.
        threshold: Sum of the other posteriors above which a frame may hold a token.
        reach: Frames to each side of such a frame, and at the end, that are open, too.

    Returns:
        (B, T) bool, false on padding.

    Example:
        >>> blank = torch.tensor([[1.0, 1.0, 1.0, 0.3, 1.0, 1.0, 1.0, 1.0]])
        >>> speech_gate(blank, torch.tensor([8]), threshold=0.1, reach=1).int()
        tensor([[0, 0, 1, 1, 1, 0, 0, 1]], dtype=torch.int32)
    """
    frame = torch.arange(blank.size(1), device=blank.device)
    lengths = lengths.to(blank.device)[:, None]
    valid = frame < lengths
    likely = (1 - blank > threshold) & valid
    # Of each frame, how many likely ones come before it.
    before = torch.nn.functional.pad(likely.cumsum(1), (1, 0))
    first = (frame - reach).clamp(min=0)
    last = (frame + reach + 1).clamp(max=blank.size(1))
    near = before[:, last] > before[:, first]
    return valid & (near | (frame >= lengths - reach))
