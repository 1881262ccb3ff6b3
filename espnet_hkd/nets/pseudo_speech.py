"""CIF vectors for text without speech: a codebook of what each token sounds like.

After arXiv 2406.09950: the decoder learns from text alone when every token brings the
mean of the CIF vectors that were fired for it in speech. The vectors are spoilt on
purpose (noise, confusions, masks), for a decoder that could read the token off its
vector would learn nothing from the words around it.

Letters: B sentences, U tokens (end-of-sentence included), N tokens of a spoken batch,
D model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_hkd.checks import check_number
from espnet_hkd.nets.token_means import MOMENTUM, TokenMeans, over_ranks


class PseudoSpeech(torch.nn.Module):
    """The codebook, kept up during training from the vectors that speech fires.

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
    def listen(self, fired: Tensor, tokens: Tensor) -> None:
        """Update the codebook by fired vectors (N, D) of tokens (N,)."""
        fired = fired.detach().float()
        known = self.means.knows(tokens)
        apart = (fired - self.means(tokens)).square()[known]
        ones = apart.new_ones(len(apart), 1)
        sums = over_ranks(torch.cat([apart, ones], dim=1).sum(0))
        self.means.update(fired, tokens)
        if sums[-1] > 0:
            now = sums[:-1] / sums[-1]
            begun = bool((self.spread > 0).any())
            self.spread.lerp_(now, 1 - MOMENTUM if begun else 1.0)

    def knows(self, tokens: Tensor) -> Tensor:
        """Sentences (B,) of which every token (B, U), padded with -1, was heard."""
        return (self.means.knows(tokens.clamp(min=0)) | (tokens < 0)).all(1)

    @torch.no_grad()
    def speak(self, tokens: Tensor) -> Tensor:
        """Vectors (B, U, D) for tokens (B, U), padded with -1."""
        said = tokens.clamp(min=0)
        if self.confusions > 0 and bool((tokens >= 0).any()):
            # By others as often as these sentences speak them.
            spoken = said[tokens >= 0]
            draw = torch.randint(len(spoken), said.shape, device=said.device)
            other = torch.rand(said.shape, device=said.device) < self.confusions
            said = torch.where(other, spoken[draw], said)
        vectors = self.means(said)
        if self.noise > 0:
            vectors += self.noise * self.spread.sqrt() * torch.randn_like(vectors)
        keep = torch.rand(said.shape, device=said.device) >= self.masks
        return vectors * (keep & (tokens >= 0))[..., None]
