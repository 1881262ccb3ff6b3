"""Where CTC reads tokens, as what the weights of the CIF can start from.

Letters: B utterances, T frames, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def expected_emissions(logits: Tensor, lengths: Tensor, *, blank: int = 0) -> Tensor:
    """Tokens that CTC is expected to begin at each frame.

    A token begins where it is read and was not read one frame before:
    sum over v other than the blank of p_t(v) (1 - p_{t-1}(v)), frames taken as
    independent. So a spike of two frames counts once, and the sum over an utterance is
    the number of tokens that CTC expects, also where its best path leaves out what it
    is not sure of. End-of-sentence, which CTC does not read, begins at the last frame.

    Args:
        logits: (B, T, V) of the CTC; padding may hold anything.
        lengths: (B,) number of valid frames.
        blank: Id of the blank.

    Returns:
        (B, T) float32 or better, in [0, 1], without gradient; padding holds anything.
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    read = logits.to(precise).softmax(-1)
    before = torch.nn.functional.pad(read, (0, 0, 1, 0))[:, :-1]
    begun = read * (1 - before)
    emissions = begun.sum(-1) - begun[..., blank]
    frame = torch.arange(logits.size(1), device=logits.device)
    last = frame == lengths.to(logits.device)[:, None] - 1
    return emissions.clamp(0.0, 1.0).masked_fill(last, 1.0)
