"""CIF vectors for text without speech: a codebook of each token's mean vector.

After arXiv 2406.09950: the decoder learns from text alone when every token brings the
mean of the CIF vectors that were fired for it in speech. The vectors are perturbed on
purpose (noise, confusions, masks): a decoder that could read the token off its vector
would learn nothing from the words around it. Noise that is independent in each
dimension is no hindrance: the decoder learns to average it out. So the noise is what
the vectors of the batch's speech differ by from the means of their own tokens, drawn at
random.

Letters: B utterances or sentences, U tokens (end-of-sentence included), D model width,
V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_hkd.checks import check_number
from espnet_hkd.nets.token_means import TokenMeans


class PseudoSpeech(torch.nn.Module):
    """The codebook, kept up during training from the vectors that speech fires.

    Nothing here waits for the device.

    Args:
        vocab_size: V.
        size: D.
        noise: How much of a spoken vector's difference to the mean of its token is
            added.
        confusions: Share of the tokens that bring the vector of another.
        masks: Share of the tokens that bring zero.
    """

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

    def update(self, fired: Tensor, tokens: Tensor) -> None:
        """Update the codebook by fired vectors (B, U, D) of tokens (B, U).

        Negative tokens are padding; vectors that are not finite are left out.
        """
        self.means.update(fired, tokens)

    def knows(self, tokens: Tensor) -> Tensor:
        """Sentences (B,) of which every token (B, U), padded with -1, has a vector."""
        return (self.means.knows(tokens.clamp(min=0)) | (tokens < 0)).all(1)

    @torch.no_grad()
    def forward(self, tokens: Tensor, fired: Tensor, spoken: Tensor) -> Tensor:
        """Draw vectors (X, U, D) for the tokens (X, U) of sentences without speech.

        fired (B, U, D) are this batch's vectors of speech, of the tokens spoken (B, U),
        whose means the codebook has. Negative tokens are padding.
        """
        valid = tokens >= 0
        drawn = tokens.clamp(min=0)
        if self.confusions > 0:
            # By tokens as frequent as they are in these sentences.
            other = drawn.flatten()[_draw(valid, drawn.shape)]
            confused = torch.rand(drawn.shape, device=drawn.device) < self.confusions
            drawn = torch.where(confused, other, drawn)
        vectors = self.means(drawn)
        if self.noise > 0:
            apart = fired.float() - self.means(spoken.clamp(min=0))
            usable = (spoken >= 0) & apart.isfinite().all(-1)
            place = _draw(usable, drawn.shape)
            # Where nothing is usable at all, what is drawn is not either.
            apart = torch.where(usable[..., None], apart, 0.0)
            vectors += self.noise * apart.flatten(0, 1)[place]
        keep = torch.rand(drawn.shape, device=drawn.device) >= self.masks
        return vectors * (keep & valid)[..., None]


def _draw(usable: Tensor, shape: torch.Size) -> Tensor:
    """Random places in flattened usable, of this shape; none that is not usable."""
    # Those go to the end of the order: to pick the others would wait for the device.
    order = (~usable).flatten().long().argsort(stable=True)
    place = torch.rand(shape, device=usable.device) * usable.sum()
    # Rounding may reach the number itself.
    return order[place.long().clamp(max=usable.numel() - 1)]
