"""Continuous integrate-and-fire by plain loops, as its definition says.

`espnet_hkd.cif` has the definition. Everything runs in float64, an utterance and a
token at a time: for tests and readers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_hkd.cif.definition import (
    LARGEST,
    MOST,
    SILENCE,
    at_least_float32,
    wait_for_slots,
)


def integrate(
    hidden: Tensor,
    weights: Tensor,
    lengths: Tensor,
    targets: Tensor | None,
    max_tokens: int | None,
    *,
    slack: float,
    tail: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States (B, U, D), lengths (B,), mass (B,) and ends (B, U) of `FiredTokens`.

    Arguments as those of `integrate_and_fire`, but for `slack`: the mass that a token
    may lack to fire.
    """
    frames = weights.size(1)
    valid = [min(max(length, 0), frames) for length in lengths.tolist()]
    wanted = [None] * len(valid) if targets is None else targets.clamp(0).tolist()
    utterances = [
        _Utterance(hidden[b, :length], weights[b, :length], target, slack, tail)
        for b, (length, target) in enumerate(zip(valid, wanted, strict=True))
    ]
    number = torch.tensor([u.tokens for u in utterances], dtype=torch.long)
    slots = max_tokens
    if slots is None:
        slots = wait_for_slots(number, lengths, frames, free=targets is None)
    states = hidden.new_zeros(len(valid), slots, hidden.size(2), dtype=torch.double)
    ends = torch.zeros(len(valid), slots, device=hidden.device)
    for b, utterance in enumerate(utterances):
        for k, (state, end) in enumerate(utterance.integrate(slots)):
            states[b, k], ends[b, k] = state, end
    mass = weights.new_zeros(len(valid), dtype=at_least_float32(weights))
    if utterances:
        mass = torch.stack([u.mass for u in utterances]).to(mass.dtype)
    number = number.clamp(max=slots).to(hidden.device)
    return states.to(hidden.dtype), number, mass, ends


class _Utterance:
    """Frames (T, D) and weights (T,) of one utterance, and how many tokens they fire.

    Attributes:
        mass: The sum of the weights.
        tokens: Number of tokens.
    """

    def __init__(self, hidden, weights, target, slack, tail):
        self.hidden, weights = hidden.double(), weights.double()
        frames = len(weights)
        # A weight that is negative or not finite counts as 0.
        counted = (weights >= 0) & (weights <= LARGEST)
        weights = torch.where(counted, weights, 0.0)
        self.mass = weights.sum()
        if target is not None and self.mass < SILENCE:
            weights = torch.full_like(weights, target / max(frames, 1))
        elif target is not None:
            weights = weights * target / self.mass
        self.weights = weights
        self.sums = [weights.new_zeros(())]  # S_{t-1} is sums[t], S_t is sums[t + 1]
        for weight in weights:
            self.sums.append(self.sums[-1] + weight)
        most = MOST if target is None else target
        # Tokens complete once each frame is over.
        ends = torch.stack(self.sums[1:]).tolist() if frames else []
        self.fired = [int(min(end + slack, most)) for end in ends]
        whole = self.fired[-1] if frames else 0
        self.rest = self.sums[-1] - whole
        self.tail = target is None and bool(self.rest > tail)
        self.tokens = whole + self.tail if target is None else target

    def integrate(self, most):
        """State (D,) and end of each token, up to so many."""
        frames = len(self.weights)
        if frames == 0:
            return [(self.hidden.sum(0), 0.0)] * min(self.tokens, most)
        tokens, done = [], 0 * self.hidden.sum(0)
        for k in range(min(self.tokens, most)):
            frame = next((t for t in range(frames) if self.fired[t] > k), None)
            if frame is None:
                # A tail, or rounding kept the last sum below the target.
                upto, end = self._upto(frames - 1, self.sums[-1]), float(frames)
            else:
                upto = self._upto(frame, k + 1)
                part = (k + 1 - self.sums[frame]) / self.weights[frame]
                end = frame + min(part.item(), 1.0)
            is_tail = self.tail and k == self.tokens - 1
            tokens.append(((upto - done) / (self.rest if is_tail else 1), end))
            done = upto
        return tokens

    def _upto(self, frame, position):
        """The integral up to `position` on the line of masses, which `frame` covers."""
        before = self.hidden[:frame] * self.weights[:frame, None]
        return before.sum(0) + (position - self.sums[frame]) * self.hidden[frame]
