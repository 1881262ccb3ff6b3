"""CIF vectors for text without speech: a codebook of each token's mean vector.

After arXiv 2406.09950: the decoder learns from text alone when every token brings the
mean of the CIF vectors that were fired for it in speech. The vectors are perturbed on
purpose (noise, confusions, masks): a decoder that could read the token off its vector
would learn nothing from the words around it.

Letters: B utterances or sentences, U tokens (end-of-sentence included), D model width,
V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_hkd.checks import check_number
from espnet_hkd.nets.token_means import MOMENTUM, TokenMeans, over_ranks


class PseudoSpeech(torch.nn.Module):
    """The codebook, kept up during training from the vectors that speech fires.

    Nothing here waits for the device.

    Args:
        vocab_size: V.
        size: D.
        noise: Deviation of the noise, in deviations of the fired vectors about the
            mean of their token.
        confusions: Share of the tokens that bring the vector of another.
        masks: Share of the tokens that bring zero.
    """

    spread: Tensor

    def __init__(
        self,
        vocab_size: int,
        size: int,
        *,
        noise: float = 1.0,
        confusions: float = 0.1,
        masks: float = 0.2,
    ) -> None:
        super().__init__()
        self.noise = check_number("model_conf.extra_noise", noise, least=0)
        self.confusions = check_number(
            "model_conf.extra_confusions", confusions, least=0, below=1
        )
        self.masks = check_number("model_conf.extra_masks", masks, least=0, below=1)
        self.means = TokenMeans(vocab_size, size)
        # Mean square of the vectors about their token's mean.
        self.register_buffer("spread", torch.zeros(size))

    @torch.no_grad()
    def update(self, fired: Tensor, tokens: Tensor) -> None:
        """Update the codebook by fired vectors (B, U, D) of tokens (B, U).

        Negative tokens are padding; vectors that are not finite are left out.
        """
        fired = fired.detach().float()
        apart = (fired - self.means(tokens.clamp(min=0))).square()
        counted = (tokens >= 0) & self.means.knows(tokens.clamp(min=0))
        counted = (counted & apart.isfinite().all(-1))[..., None]
        apart = torch.where(counted, apart, 0.0)
        rows = torch.cat([apart, counted.float()], dim=-1)
        sums = over_ranks(rows.flatten(0, -2).sum(0))
        self.means.update(fired, tokens)
        mean = sums[:-1] / sums[-1].clamp(min=1)
        # The first batch with known tokens gives the spread itself.
        begun = (self.spread > 0).any()
        share = torch.where(begun, 1 - MOMENTUM, 1.0) * (sums[-1] > 0)
        self.spread.lerp_(mean, share)

    def knows(self, tokens: Tensor) -> Tensor:
        """Sentences (B,) of which every token (B, U), padded with -1, has a vector."""
        return (self.means.knows(tokens.clamp(min=0)) | (tokens < 0)).all(1)

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        """Draw vectors (B, U, D) for tokens (B, U), padded with -1."""
        valid = tokens >= 0
        drawn = tokens.clamp(min=0)
        if self.confusions > 0:
            # By tokens as frequent as they are in these sentences. Padding goes to
            # the end of the order, and is not drawn.
            order = (~valid).flatten().long().argsort(stable=True)
            place = torch.rand(drawn.shape, device=drawn.device) * valid.sum()
            other = drawn.flatten()[order[place.long()]]
            confused = torch.rand(drawn.shape, device=drawn.device) < self.confusions
            drawn = torch.where(confused, other, drawn)
        vectors = self.means(drawn)
        if self.noise > 0:
            vectors += self.noise * self.spread.sqrt() * torch.randn_like(vectors)
        keep = torch.rand(drawn.shape, device=drawn.device) >= self.masks
        return vectors * (keep & valid)[..., None]
