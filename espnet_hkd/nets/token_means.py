"""Running means of vectors, one for each token of the vocabulary.

Letters: N tokens of a batch, V vocabulary, E width of the vectors.
"""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor

# Of the running means: about the last hundred batches in which a token stood.
MOMENTUM = 0.99


class TokenMeans(torch.nn.Module):
    """Mean vector of each token over the batches so far, equal on all ranks.

    Not weights: no gradient, but saved for a training that goes on.
    """

    total: Tensor
    seen: Tensor

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(vocab_size, width))
        # What part of a whole mean `total` is, as in Adam: 1 - MOMENTUM ** batches.
        self.register_buffer("seen", torch.zeros(vocab_size))

    @torch.no_grad()
    def update(self, vectors: Tensor, tokens: Tensor) -> None:
        """Take in vectors (..., E) of tokens (...) int64; negative tokens are padding.

        A vector that is not finite, as half precision may make it in a step that the
        loss scale skips, is left out.
        """
        rows = vectors.detach().float().flatten(0, -2)
        tokens = tokens.flatten()
        counted = (tokens >= 0) & rows.isfinite().all(1)
        rows = torch.where(counted[:, None], rows, 0.0)
        rows = torch.cat([rows, counted[:, None].float()], dim=1)
        sums = rows.new_zeros(len(self.seen), rows.size(1))
        sums = over_ranks(sums.index_add_(0, tokens.clamp(min=0), rows))
        # 0 for tokens that are not here; picking the others would wait for the device.
        share = (1 - MOMENTUM) * (sums[:, -1] > 0)
        own = sums[:, :-1] / sums[:, -1:].clamp(min=1)
        self.total.lerp_(own, share[:, None])
        self.seen.lerp_(torch.ones_like(self.seen), share)

    def forward(self, tokens: Tensor) -> Tensor:
        """Means (..., E) of tokens (...), zero for those never seen."""
        return self.total[tokens] / self.seen[tokens][..., None].clamp(min=1e-9)

    def knows(self, tokens: Tensor) -> Tensor:
        """Whether each token (...) was ever seen."""
        return self.seen[tokens] > 0


def over_ranks(total: Tensor) -> Tensor:
    """The sum over all ranks, in place."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return total
