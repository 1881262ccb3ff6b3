"""Continuous integrate-and-fire on any device, by PyTorch's own operators.

`espnet_hkd.cif` says what is calculated.

Letters: B utterances, T frames, U tokens, D width, P pairs of a frame and a token.

Lay the weights of an utterance end to end on a line. Frame t covers the stretch from
S_{t-1} to S_t, token k the stretch from k-1 to k, and token k is the sum of the frames,
each weighed by how much of the token it covers. The line is cut into (frame, token)
pairs, T + U of them at most, which are sorted by frame and by token at once. So one
list of pairs serves both directions: read by token it sums frames into tokens, read by
frame it sums the tokens' gradients into the frames', and both are `embedding_bag`,
which reads every frame once and holds nothing of size T x U.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_hkd.cif.definition import (
    LARGEST,
    MOST,
    SILENCE,
    WRONG,
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
    frames, width = hidden.shape[1:]
    if 0 in (frames, width):
        # Even an utterance of length 0 needs a frame to lie on.
        hidden = F.pad(hidden, (0, width == 0, 0, frames == 0))
        weights = F.pad(weights, (0, frames == 0))
    with torch.autocast(hidden.device.type, enabled=False):
        with torch.no_grad():
            line = _lay_out(weights, lengths, targets, slack, tail)
            if max_tokens is None:
                wrong = (lengths < 0) | (lengths > frames)
                number = line.tokens[:, 0].masked_fill(wrong, WRONG)
                free = targets is None
                max_tokens = wait_for_slots(number, lengths, frames, free=free)
            tokens = line.tokens.clamp(max=max_tokens)
            # Without any token one slot is made, and cut away again.
            fires = _find_firings(line.fired, max(max_tokens, 1))
            pairs = _pair_up(line, fires[:, :-1], tokens)
            ends = _token_ends(line, fires[:, 1:], tokens)
        slots = fires.size(1) - 1
        states, mass = _SumFrames.apply(hidden, weights, line.stretch, pairs, slots)
        # Its one frame is padding, which may hold anything.
        states = states.masked_fill((line.lengths == 0)[..., None], 0.0)
    if max_tokens == 0:
        states, ends = states[:, :0], ends[:, :0]
    states = states[..., :width]
    return states, tokens[:, 0].long(), mass, ends


def _before(x: Tensor) -> Tensor:
    """What stands before each entry of the last axis, 0 before the first."""
    return F.pad(x, (1, 0))[..., :-1]


class _Stretch(NamedTuple):
    """How the line came from the running sums of the weights, for the backward pass.

    Where the line is stretched, to the targets or to make a tail a whole token, it is
    `origin + into * slope` with a slope inversely proportional to `rest`, the mass
    beyond that origin, which the weights of all frames move. Elsewhere `into` is 0.
    """

    ignored: Tensor  # (B, T) bool: padding, and weights that count as 0
    mass: Tensor  # (B, 1) float64: sum of the weights as given
    rest: Tensor  # (B, 1) float64: mass of what is stretched
    into: Tensor  # (B, T) float64: mass between the origin and the end of each frame
    slope: Tensor  # (B, 1) or (B, T) float64: change of the line by the running sum


class _Line(NamedTuple):
    """The frames of each utterance end to end on the line of masses."""

    sums: Tensor  # (B, T) float64: end of each frame, before a tail is stretched
    reached: Tensor  # (B, T) float64: end of each frame
    fired: Tensor  # (B, T) int32: number of tokens complete once each frame is over
    tokens: Tensor  # (B, 1) int32: number of tokens
    lengths: Tensor  # (B, 1) int32: number of valid frames
    stretch: _Stretch


def _lay_out(
    weights: Tensor,
    lengths: Tensor,
    targets: Tensor | None,
    slack: float,
    tail: float,
) -> _Line:
    device, frames = weights.device, weights.size(1)
    lengths = lengths.clamp(0, frames).int()[:, None]
    number = torch.arange(1, frames + 1, dtype=torch.double, device=device)
    weights = weights.double()
    counted = (number <= lengths) & (weights >= 0) & (weights <= LARGEST)
    ignored = ~counted
    sums = weights.masked_fill(ignored, 0.0).cumsum(1)
    mass = sums[:, -1:]
    if targets is None:
        fired = _count_firings(sums, slack)
        whole = fired[:, -1:]
        rest = mass - whole
        flush = rest > tail
        rest = torch.where(flush, rest, 1.0)
        stretched = flush & (fired == whole)
        into = torch.where(stretched, sums - whole, 0.0)
        slope = torch.where(stretched, 1 / rest, 1.0)
        reached = torch.where(stretched, whole + into * slope, sums)
        stretch = _Stretch(ignored, mass, rest, into, slope)
        return _Line(sums, reached, fired, whole + flush, lengths, stretch)
    tokens = targets.clamp(0, MOST).int()[:, None]
    silent = mass < SILENCE
    rest = mass.masked_fill(silent, 1.0)
    slope = (tokens / rest).masked_fill(silent, 0.0)
    # A silent utterance is divided evenly.
    each = silent * tokens.double() / lengths.clamp(min=1)
    reached = torch.addcmul(sums * slope, number, each)
    fired = _count_firings(reached, slack)
    stretch = _Stretch(ignored, mass, rest, sums, slope)
    return _Line(reached, reached, fired, tokens, lengths, stretch)


def _count_firings(sums: Tensor, slack: float) -> Tensor:
    """(B, T) int32: number of tokens complete once each frame is over."""
    fired = (sums + slack).clamp(max=MOST).int()
    if fired.device.type != "cpu":
        # A parallel running sum may dip by a rounding error; no firing is taken back.
        fired = fired.cummax(1).values
    return fired


def _find_firings(fired: Tensor, slots: int) -> Tensor:
    """(B, U + 1) int32: the frame in which each token fires, T if it never does.

    Before the first token stands 0, so that token k (from 0) lies between k and k + 1.
    """
    number = torch.arange(slots + 1, dtype=torch.int32, device=fired.device)
    number = number.expand(len(fired), -1).contiguous()
    return torch.searchsorted(fired, number, out_int32=True)


class _Pairs(NamedTuple):
    """The (frame, token) pairs of a batch, in the order of frames and of tokens.

    Each utterance has T + U places, one more than it can have pairs, so that frame t
    and token k of the batch's B * T and B * U meet at place t + k. Surplus places
    follow the last pair: the last frame and the last token, share 0.
    """

    share: Tensor  # (P,) float64: how much of the token the frame covers
    frame: Tensor  # (P,) int32: row of the frame among B * T
    token: Tensor  # (P,) int32: row of the token among B * U
    frame_lasts: Tensor  # (B * T,) int32: last pair of each frame
    token_starts: Tensor  # (B * U,) int32: first pair of each token
    beyond: Tensor  # (B, T) bool: frames from the one that ends the line on


def _pair_up(line: _Line, begins: Tensor, tokens: Tensor) -> _Pairs:
    """List the pairs of a batch.

    Args:
        line: The frames.
        begins: (B, U) frame in which each token begins, T if it never does.
        tokens: (B, 1) number of tokens to make; the last of them ends the line.
    """
    fired, device = line.fired, begins.device
    (batch, frames), slots = fired.shape, begins.size(1)
    total = batch * (frames + slots)
    place = torch.arange(total, dtype=torch.int32, device=device)
    place = place.view(batch, frames + slots)
    # The frame that ends the line; surplus pairs are its own.
    final = torch.searchsorted(fired, tokens, out_int32=True)
    final = torch.minimum(final, (line.lengths - 1).clamp(min=0))
    beyond = place[:1, :frames] >= final
    # Tokens complete in a frame push its last pair on.
    frame_lasts = torch.where(beyond, place[:, -1:], place[:, :frames] + fired)

    token_starts = (torch.minimum(begins, final) + place[:, :slots]).flatten()
    next_starts = token_starts[1:].long()
    token = torch.zeros(total, dtype=torch.int32, device=device)
    token = token.scatter_(0, next_starts, 1).cumsum(0, dtype=torch.int32)
    row = torch.arange(0, batch * frames, frames, dtype=torch.int32, device=device)
    frame = torch.minimum(place - token.view_as(place), final + row[:, None])
    frame = frame.flatten()

    # A pair ends where its frame does, or, the last of a token, where the token does.
    stop = tokens.double()
    cuts = line.reached.scatter(1, final.long(), stop).flatten().index_select(0, frame)
    number = torch.arange(1, slots + 1, dtype=torch.double, device=device)
    cuts.scatter_(0, next_starts - 1, torch.minimum(number, stop).flatten()[:-1])
    cuts = cuts.view_as(place)
    return _Pairs(
        share=(cuts - _before(cuts)).flatten(),
        frame=frame,
        token=token,
        frame_lasts=frame_lasts.flatten(),
        token_starts=token_starts,
        beyond=beyond,
    )


class _SumFrames(torch.autograd.Function):
    """Frames (B, T, D) times their shares, summed to tokens (B, U, D), and the mass.

    The gradient of the shares goes through the line to the weights (B, T).
    """

    @staticmethod
    def forward(ctx, hidden, weights, stretch, pairs, slots):
        wide = hidden.to(at_least_float32(hidden)).flatten(0, 1)
        pairs = pairs._replace(share=pairs.share.to(wide.dtype))
        ctx.save_for_backward(hidden, *stretch, *pairs)
        ctx.weights_dtype = weights.dtype
        states = _sum_bags(wide, pairs.frame, pairs.token_starts, pairs.share)
        # A view last: of a result that is also a step before it, as `to` may return
        # one, torch.compile loses the gradient up to torch 2.11.
        states = states.to(hidden.dtype).view(len(hidden), slots, hidden.size(2))
        mass = stretch.mass[:, 0].to(at_least_float32(weights), copy=True)
        return states, mass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_mass):
        hidden, *saved = ctx.saved_tensors
        stretch = _Stretch(*saved[: len(_Stretch._fields)])
        pairs = _Pairs(*saved[len(_Stretch._fields) :])
        grad = grad.to(pairs.share.dtype).contiguous().flatten(0, 1)
        grad_hidden = grad_weights = None
        if ctx.needs_input_grad[1]:
            wide = hidden.to(grad.dtype).flatten(0, 1)
            grad_reached = _grad_of_cuts(grad, wide, pairs)
            grad_weights = _grad_of_weights(grad_reached, grad_mass, stretch)
            grad_weights = grad_weights.to(ctx.weights_dtype)
        if ctx.needs_input_grad[0]:
            starts = _before(pairs.frame_lasts + 1)
            grad_hidden = _sum_bags(grad, pairs.token, starts, pairs.share)
            grad_hidden = grad_hidden.to(hidden.dtype).view_as(hidden)
        return grad_hidden, grad_weights, None, None, None


def _sum_bags(rows: Tensor, index: Tensor, starts: Tensor, share: Tensor) -> Tensor:
    """Sums of share * rows[index], each from its start to the next."""
    return F.embedding_bag(index, rows, starts, mode="sum", per_sample_weights=share)


def _grad_of_cuts(grad: Tensor, hidden: Tensor, pairs: _Pairs) -> Tensor:
    """(B, T) float64: gradient of where each frame ends on the line."""
    # The product of each pair's frame with its token's gradient: autograd's own kernel
    # for embedding_bag, which has no public name.
    multiply = torch.ops.aten._embedding_bag_per_sample_weights_backward
    products = multiply(grad, hidden, pairs.frame, pairs.token_starts, pairs.token, 0)
    # Where a frame ends later, its last pair gains what the next one loses.
    gain = (products - products.roll(-1)).index_select(0, pairs.frame_lasts)
    return gain.view_as(pairs.beyond).masked_fill_(pairs.beyond, 0.0).double()


def _grad_of_weights(grad: Tensor, grad_mass: Tensor, stretch: _Stretch) -> Tensor:
    """(B, T) float64, from the gradients (B, T) of the line and (B,) of the mass."""
    grad = grad * stretch.slope
    # All weights together move the slope.
    pull = (grad * stretch.into).sum(1, keepdim=True) / stretch.rest
    # A weight moves the end of its frame and of all later ones.
    earlier = grad.cumsum(1)
    total = earlier[:, -1:] - pull + grad_mass[:, None]
    return (grad - earlier).add_(total).masked_fill_(stretch.ignored, 0.0)


def _token_ends(line: _Line, fires: Tensor, tokens: Tensor) -> Tensor:
    """(B, U) float32: fractional frame at which each token is complete."""
    sums, frames = line.sums, line.sums.size(1)
    number = torch.arange(1, fires.size(1) + 1, device=sums.device)
    within = fires.clamp(max=frames - 1).long()
    start = _before(sums).gather(1, within)
    part = (number - start) / (sums.gather(1, within) - start)
    # A tail, whose firing never came, takes all that is left of the utterance.
    ends = torch.where(fires == frames, line.lengths, fires + part.clamp(max=1))
    none = (number > tokens) | (line.lengths == 0)
    return ends.masked_fill(none, 0.0).float()
