"""CTC supervises where the weights of the CIF lie, not only their sum.

The quantity loss compares one sum an utterance. CTC, which needs no count, knows by its
forward and backward probabilities how many labels of the transcript have begun at every
frame; the loss makes the running sum of the weights follow it.

Letters: B utterances, T frames, U labels (end-of-sentence not among them), S = 2 U + 1
states of CTC, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Instead of -inf, whose differences are not numbers.
NEVER = -1e30


def ctc_expected_counts(
    logp: Tensor, lengths: Tensor, text: Tensor, text_lengths: Tensor, *, blank: int = 0
) -> Tensor:
    """Labels of the transcript that are expected to have begun at each frame.

    The end of sentence is a token of the CIF and none of CTC's: it has begun as soon as
    CTC is in the blank behind the last label, and at the last frame in any case.

    Args:
        logp: (B, T, V) log probabilities of CTC.
        lengths: (B,) valid frames.
        text: (B, U) labels, padded with anything negative.
        text_lengths: (B,).
        blank: CTC's blank.

    Returns:
        (B, T) float32, not decreasing, from about 0 to text_lengths + 1; constant on
        padding. Without gradient. A transcript that does not fit into its frames
        gives a straight line.
    """
    lengths, text_lengths = lengths.to(logp.device), text_lengths.to(logp.device)
    posterior, possible = _posterior(logp, lengths, text, text_lengths, blank)
    state = torch.arange(posterior.size(2), device=logp.device)
    begun = ((state + 1) // 2)[None] + (state == 2 * text_lengths[:, None])  # (B, S)
    counts = (posterior * begun[:, None]).sum(-1)  # (B, T)
    # Rounding must not make a label begin and end again.
    counts = counts.cummax(dim=1).values
    frame = torch.arange(logp.size(1), device=logp.device)
    tokens = (text_lengths + 1).float()[:, None]
    line = tokens * (frame + 1) / lengths.clamp(min=1)[:, None]
    counts = torch.where(possible[:, None], counts, line)
    return torch.where(frame >= lengths[:, None] - 1, tokens, counts)


def count_alignment_loss(weights: Tensor, counts: Tensor, lengths: Tensor) -> Tensor:
    """Sum over utterances of the mean over frames of |sum of weights so far - counts|.

    Args:
        weights: (B, T), unscaled, 0 on padding.
        counts: (B, T), of `ctc_expected_counts`.
        lengths: (B,) valid frames.

    Returns:
        Scalar, float32, comparable with the quantity loss: the same difference, seen
        at every frame instead of at the last one.
    """
    lengths = lengths.to(weights.device)
    frame = torch.arange(weights.size(1), device=weights.device)
    apart = (weights.float().cumsum(1) - counts.detach()).abs()
    apart = apart.masked_fill(frame >= lengths[:, None], 0.0)
    return (apart.sum(1) / lengths.clamp(min=1)).sum()


def _posterior(
    logp: Tensor, lengths: Tensor, text: Tensor, text_lengths: Tensor, blank: int
) -> tuple[Tensor, Tensor]:
    """Probability of each state at each frame (B, T, S), and if there is a path (B,).

    The derivative of the log probability of all paths to the log probability of being
    in a state: the forward sum is written down, the backward one is its derivative.
    """
    batch, frames, _ = logp.shape
    labels = text.clamp(min=0)
    states = labels.new_full((batch, 2 * labels.size(1) + 1), blank)
    states[:, 1::2] = labels
    # A label may follow the one before it directly, unless it is the same.
    skip = torch.zeros_like(states, dtype=torch.bool)
    skip[:, 3::2] = labels[:, 1:] != labels[:, :-1]
    with torch.enable_grad(), torch.autocast(logp.device.type, enabled=False):
        emission = (
            logp.detach().float().gather(2, states[:, None].expand(batch, frames, -1))
        )
        emission.requires_grad_()
        forward = emission.new_full(states.shape, NEVER)
        forward[:, :2] = 0.0
        rows = []
        for frame in range(frames):
            if frame > 0:
                one = torch.nn.functional.pad(forward, (1, 0), value=NEVER)[:, :-1]
                two = torch.nn.functional.pad(forward, (2, 0), value=NEVER)[:, :-2]
                two = two.masked_fill(~skip, NEVER)
                forward = torch.stack([forward, one, two]).logsumexp(0)
            forward = forward + emission[:, frame]
            rows.append(forward)
        row = torch.arange(batch, device=logp.device)
        last = torch.stack(rows, dim=1)[row, (lengths - 1).clamp(min=0)]  # (B, S)
        ends = torch.stack([2 * text_lengths, (2 * text_lengths - 1).clamp(min=0)])
        total = last[row, ends].logsumexp(0)  # (B,)
        possible = (total > NEVER / 2) & (lengths > 0)
        (posterior,) = torch.autograd.grad(
            total.masked_fill(~possible, 0.0).sum(), emission
        )
    return posterior, possible
