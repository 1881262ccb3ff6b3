"""Continuous integrate-and-fire: cut the running sum of weights into tokens.

Dong and Xu, "CIF: Continuous Integrate-and-Fire for End-to-End Speech Recognition",
ICASSP 2020 (arXiv 1905.11235), section 3, with the firing threshold and the debt it
leaves as in the published CIF-HieraDist code.

Letters: B utterances, T frames, U tokens, D width.

Here are the definition and its plain loops. Two others calculate the same fast:
`espnet_hkd.cif.compiled` by loops compiled for the CPU, `espnet_hkd.cif.operators` by
PyTorch's own operators on any device.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from espnet_hkd.cif import operators
from espnet_hkd.cif.operators import SILENCE
from espnet_hkd.cif.weight_predictor import WeightPredictor, at_least_float32
from espnet_hkd.errors import ConfigError

__all__ = [
    "FiredTokens",
    "WeightPredictor",
    "integrate_and_fire",
    "integrate_and_fire_reference",
]

logger = logging.getLogger(__name__)

# A token whose mass is complete but for this much fires: ten weights of 0.1 are one.
ROUNDING = 1e-9


@dataclass(frozen=True)
class FiredTokens:
    """Tokens integrated from frames.

    Attributes:
        states: (B, U, D) in the dtype of the frames, 0 beyond an utterance's tokens.
        lengths: (B,) int64, number of tokens.
        mass: (B,) sum of the weights as given, before any scaling; float32 or better.
        ends: (B, U) float32, fractional frame at which each token is complete, where
            frame t covers [t, t + 1); 0 beyond the tokens. Carries no gradient.
    """

    states: Tensor
    lengths: Tensor
    mass: Tensor
    ends: Tensor


def integrate_and_fire(
    hidden: Tensor,
    weights: Tensor,
    lengths: Tensor,
    *,
    targets: Tensor | None = None,
    max_tokens: int | None = None,
    threshold: float = 1.0,
    tail: float = 0.5,
) -> FiredTokens:
    """Integrate frames into tokens of mass 1.

    Let S_t be the running sum of the weights and t_k the first frame where it reaches
    k - (1 - threshold), up to rounding. With

        F(k) = sum_{s <= t_k} w_s h_s + (k - S_{t_k}) h_{t_k}

    token k is F(k) - F(k - 1). Several tokens may fire in one frame; a threshold below
    1 fires early and carries the debt on.

    Sums run in float64, states in float32 or better, whatever the autocast state. An
    utterance's tokens depend neither on its padding, which may hold anything, nor on
    the other utterances. Gradients to `hidden` and `weights` are exact; a second
    derivative raises RuntimeError. Waits for the device once, for U; never if
    `max_tokens` is given.

    Args:
        hidden: (B, T, D) frames.
        weights: (B, T) mass of each frame, not negative; ignored on padding.
        lengths: (B,) number of valid frames, at least 1.
        targets: (B,) number of tokens wanted, as in training. The weights are scaled
            to sum to it, and exactly so many tokens come out. An utterance whose
            weights sum to less than 1e-6 is divided evenly, without gradient to its
            weights.
        max_tokens: Makes U exactly this; tokens beyond it are dropped.
        threshold: Mass at which a token fires, in (0.5, 1].
        tail: Without `targets`, mass in [0, 1] that the rest after the last firing must
            exceed to become one more token, divided by that mass. At 1 it never does.

    Returns:
        FiredTokens. An utterance where nothing fires has length 0.

    Raises:
        ConfigError: `threshold` or `tail` is out of range.

    Example:
        >>> weights = torch.tensor([[0.4, 0.6, 0.5, 0.5]])
        >>> fired = integrate_and_fire(torch.eye(4)[None], weights, torch.tensor([4]))
        >>> fired.states[0, 0]
        tensor([0.4000, 0.6000, 0.0000, 0.0000])
        >>> fired.ends
        tensor([[2., 4.]])
    """
    _check_options(threshold, tail)
    assert weights.shape == hidden.shape[:2], (weights.shape, hidden.shape)
    assert lengths.shape == weights.shape[:1], (lengths.shape, weights.shape)
    assert targets is None or targets.shape == lengths.shape, targets
    way: ModuleType = operators
    # A compiler that records PyTorch's operators would not see the loops.
    if hidden.device.type == "cpu" and not torch.compiler.is_compiling():
        way = _compiled_loops() or operators
    slack = 1 - threshold + ROUNDING
    return FiredTokens(
        *way.integrate(
            hidden, weights, lengths, targets, max_tokens, slack=slack, tail=tail
        )
    )


@cache
def _compiled_loops() -> ModuleType | None:
    """`espnet_hkd.cif.compiled`, or None where numba does not run."""
    try:
        from espnet_hkd.cif import compiled
    except ImportError as error:
        logger.info("Integrate-and-fire on CPU is slower: no numba (%s)", error)
        return None
    return compiled


def _check_options(threshold: float, tail: float) -> None:
    if not 0.5 < threshold <= 1.0:
        raise ConfigError(
            "threshold of the CIF is out of range",
            got=threshold,
            wanted="0.5 < threshold <= 1",
            remedy="set decoder_conf.threshold (published 0.99, default 1.0)",
        )
    if not 0.0 <= tail <= 1.0:
        raise ConfigError(
            "tail of the CIF is out of range",
            got=tail,
            wanted="0 <= tail <= 1, where 1 drops every rest",
            remedy="set decoder_conf.tail (default 0.5)",
        )


def integrate_and_fire_reference(
    hidden: Tensor,
    weights: Tensor,
    lengths: Tensor,
    *,
    targets: Tensor | None = None,
    max_tokens: int | None = None,
    threshold: float = 1.0,
    tail: float = 0.5,
) -> FiredTokens:
    """`integrate_and_fire` by plain loops, for tests and readers.

    Same arguments, results and gradients. Everything runs in float64, an utterance and
    a token at a time, as the definition says.
    """
    _check_options(threshold, tail)
    results = [
        _integrate_utterance(
            hidden[b, :length].double(),
            weights[b, :length].double(),
            None if targets is None else int(targets[b]),
            threshold,
            tail,
        )
        for b, length in enumerate(lengths.tolist())
    ]
    counts = [len(ends) for _, ends, _ in results]
    slots = max(counts) if max_tokens is None else max_tokens
    states = hidden.new_zeros(len(results), slots, hidden.size(2), dtype=torch.double)
    ends = torch.zeros(len(results), slots, device=hidden.device)
    for b, (vectors, times, _) in enumerate(results):
        for k in range(min(len(times), slots)):
            states[b, k] = vectors[k]
            ends[b, k] = times[k]
    mass = torch.stack([total for _, _, total in results])
    return FiredTokens(
        states.to(hidden.dtype),
        torch.tensor(counts, device=hidden.device).clamp(max=slots),
        mass.to(at_least_float32(weights)),
        ends,
    )


def _integrate_utterance(
    hidden: Tensor, weights: Tensor, target: int | None, threshold: float, tail: float
) -> tuple[list[Tensor], list[float], Tensor]:
    """Tokens, their ends, and the mass of one utterance: (T, D), (T,) float64."""
    frames = len(weights)
    mass = weights.sum()
    if target is not None and frames == 0:
        return [hidden.sum(0)] * target, [0.0] * target, mass
    if target is not None and mass < SILENCE:
        weights = torch.full_like(weights, target / frames)
    elif target is not None:
        weights = weights * target / mass

    sums = [weights.new_zeros(())]  # S_{t-1} is sums[t], S_t is sums[t + 1]
    for weight in weights:
        sums.append(sums[-1] + weight)

    def integral(frame: int, position: float | Tensor) -> Tensor:
        """The integral up to `position` on the line of masses, which `frame` covers."""
        before = sum((weights[s] * hidden[s] for s in range(frame)), 0 * hidden.sum(0))
        return before + (position - sums[frame]) * hidden[frame]

    tokens, ends, done = [], [], 0 * hidden.sum(0)
    for frame in range(frames):
        while sums[frame + 1] >= len(tokens) + 1 - (1 - threshold + ROUNDING):
            if len(tokens) == target:
                break
            number = len(tokens) + 1
            upto = integral(frame, number)
            part = float((number - sums[frame].detach()) / weights[frame].detach())
            tokens.append(upto - done)
            ends.append(frame + min(part, 1.0))
            done = upto
    rest = sums[-1] - len(tokens)
    if target is not None and len(tokens) < target:
        # Rounding kept the last sum below the target.
        tokens.append(integral(frames - 1, sums[-1]) - done)
        ends.append(float(frames))
    elif target is None and frames and rest > tail:
        tokens.append((integral(frames - 1, sums[-1]) - done) / rest)
        ends.append(float(frames))
    return tokens, ends, mass
