"""Whole tokens in stretches of frames, so that one error does not shift all behind it.

The published CIF scales its weights, in training, to the number of tokens of the whole
utterance. Where a piece too few before and one too many behind make up for each other,
the sum is right, and all vectors between them bring the sound of a neighbour. In
decoding nothing is scaled: what one token lacks is missing to all that follow.

Here each token of a known transcript gets its own stretch of frames, by CTC's
alignment; and where there is none, the mass between two valleys of the weights is
rounded to whole tokens.

Letters: B utterances, T frames, U tokens (end-of-sentence included), K roundings.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from espnet_hkd.errors import ConfigError

# Mass that every frame has besides, so that a stretch without weights can be scaled.
LEAST = 1e-3
# 256 roundings; more would cost memory and time for what is hardly ever likely.
MOST_DOUBTS = 8


def token_stretches(counts: Tensor, targets: Tensor, tokens: int) -> Tensor:
    """The token of each frame.

    A token stands where CTC expects it to have begun with a probability of one half;
    the border between two is in the middle.

    Args:
        counts: (B, T), of `ctc_expected_counts`.
        targets: (B,) tokens.
        tokens: U, the most of them.

    Returns:
        (B, T) int64, from 0, not decreasing, below targets.
    """
    targets = targets.to(counts.device)
    halves = torch.arange(tokens, device=counts.device) + 0.5
    halves = halves.expand(len(counts), -1).contiguous()
    places = torch.searchsorted(counts, halves)  # (B, U)
    borders = (places[:, :-1] + places[:, 1:]) / 2
    frames = torch.arange(counts.size(1), device=counts.device).to(borders)
    frames = frames.expand_as(counts).contiguous()
    stretches = torch.searchsorted(borders.contiguous(), frames)
    return stretches.minimum((targets - 1).clamp(min=0)[:, None])


def scale_stretches(weights: Tensor, stretches: Tensor, targets: Tensor) -> Tensor:
    """Scale weights (B, T) so that every token has mass 1 in its stretch.

    An utterance that has one stretch for all of its `targets` (B,) tokens is scaled to
    their number.
    """
    weights = usable(weights)
    weights = (weights + LEAST) * (weights > 0)
    whole = _wanted(stretches, targets)
    mass = _mass(weights, stretches, stretches.size(1)).gather(1, stretches)
    return weights * whole / mass.clamp(min=LEAST)


def stretch_quantity_loss(
    weights: Tensor, stretches: Tensor, targets: Tensor, tokens: int
) -> Tensor:
    """Sum over stretches of |mass - tokens|: a scalar, float32.

    weights (B, T), unscaled; stretches (B, T) and targets (B,) as in `scale_stretches`;
    tokens: U.
    """
    weights = usable(weights).float()
    mass = _mass(weights, stretches, tokens)
    token = torch.arange(tokens, device=weights.device)
    wanted = _wanted(stretches, targets)
    apart = (mass - wanted).abs()
    return apart.masked_fill(token > stretches.amax(1, keepdim=True), 0.0).sum()


def usable(weights: Tensor) -> Tensor:
    """Weights as the integration takes them: 0 where negative or not finite."""
    return weights.masked_fill(~(weights.isfinite() & (weights > 0)), 0.0)


def _wanted(stretches: Tensor, targets: Tensor) -> Tensor:
    """Tokens (B, 1) of each stretch: one, or all in the only one."""
    single = stretches.amax(1) == 0
    return torch.where(single, targets.to(stretches.device), 1)[:, None]


class Roundings(NamedTuple):
    """Ways to give each stretch between two valleys a whole number of tokens.

    Attributes:
        weights: (B, K, T), float64, whose stretches sum to whole numbers; the first
            rounds each stretch to the nearest.
        tokens: (B, K) int64, their sums.
        apart: (B, K) by how much, added up, the sums of the stretches were changed;
            infinite where an utterance has no such way.
    """

    weights: Tensor
    tokens: Tensor
    apart: Tensor


def round_stretches(
    weights: Tensor, valley: float, *, doubts: int = 0, tail: float = 0.5
) -> Roundings:
    """Round the mass of each stretch of frames between two valleys to whole tokens.

    A stretch goes from one frame of at least `valley`, behind one of less, to the next
    such; what lies before the first is one, too.

    Args:
        weights: (B, T), 0 on padding.
        valley: Weight below which a frame lies between tokens.
        doubts: So many stretches, those farthest from a whole number, are rounded both
            ways, which makes K = 2 ** doubts.
        tail: What the rest of a stretch's mass must exceed to be one more token.

    Raises:
        ConfigError: For more than MOST_DOUBTS doubts.

    Example:
        >>> weights = torch.tensor([[0.9, 0.0, 0.8, 0.9, 0.0, 0.6]])
        >>> ways = round_stretches(weights, 0.1, doubts=1)
        >>> ways.tokens
        tensor([[4, 3]])
        >>> ways.weights[0, 0]
        tensor([1.0000, 0.0000, 0.9412, 1.0588, 0.0000, 1.0000], dtype=torch.float64)
    """
    if doubts > MOST_DOUBTS:
        raise ConfigError(
            "so many doubtful counts cannot be searched",
            got=f"count_search {doubts} with a valley of {valley}: "
            f"{2**doubts} ways at once",
            wanted=f"at most {MOST_DOUBTS}",
            remedy="lower decoder_conf.count_search",
        )
    # The integration compares sums with whole numbers: float32 would miss some of them
    # by so little that a token ended in the frame behind.
    weights = usable(weights).double()
    frames = torch.arange(weights.size(1), device=weights.device)
    inside = weights >= valley
    before = torch.nn.functional.pad(inside, (1, 0))[:, :-1]
    stretch = ((inside & ~before) | (frames == 0)).cumsum(1) - 1  # (B, T)
    # As many stretches as there could be, one a frame.
    mass = _mass(weights, stretch, weights.size(1))
    whole = mass.floor()
    tokens = whole + (mass - whole > tail)
    far, place = (mass - tokens).abs().topk(min(doubts, mass.size(1)), dim=1)
    other = torch.where(mass > tokens, 1.0, -1.0).to(mass).gather(1, place)
    ways = torch.arange(2 ** place.size(1), device=weights.device)[:, None]
    turned = (ways >> torch.arange(place.size(1), device=weights.device)) & 1
    # A whole number is no doubt.
    doubtful = (far > 0)[:, None]
    change = turned * doubtful * other[:, None]  # (B, K, doubts)
    tokens = tokens[:, None].repeat(1, len(ways), 1)
    tokens = tokens.scatter_add(2, place[:, None].expand_as(change), change)
    apart = (tokens - mass[:, None]).abs().sum(2)
    missing = ((turned > 0) & ~doubtful).any(2)
    scale = torch.where(mass > 0, 1 / mass.clamp(min=1e-12), 0.0)[:, None]
    each = stretch[:, None].expand(-1, len(ways), -1)
    return Roundings(
        weights[:, None] * (tokens * scale).gather(2, each),
        tokens.sum(2).long(),
        apart.masked_fill(missing, torch.inf),
    )


def _mass(weights: Tensor, stretches: Tensor, number: int) -> Tensor:
    """Sums (B, number) of the weights (B, T) of each stretch."""
    empty = weights.new_zeros(len(weights), number)
    return empty.scatter_add(1, stretches, weights)
