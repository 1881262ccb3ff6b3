"""Continuous integrate-and-fire on CPU: the loops of its definition, compiled by numba.

`espnet_hkd.cif` says what is calculated. On CPU half of the time of
`espnet_hkd.cif.operators` goes into its list of pairs; here each pass reads
the line of masses once, frame by frame, and keeps nothing of size T x U.

Letters: B utterances, T frames, U tokens, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from espnet_hkd.cif.definition import (
    LARGEST,
    MOST,
    SILENCE,
    at_least_float32,
    wait_for_slots,
)
from espnet_hkd.compiling import compile_loops

# Sums may be reordered, for vectors; infinities and NaN are kept.
_compile = compile_loops(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")


class _Line(NamedTuple):
    """The frames of each utterance end to end on the line of masses.

    From frame `begin` on, the line of an utterance is `origin + into * slope` with a
    slope inversely proportional to `rest`, the mass beyond the origin, which every
    weight moves. Before, it is the running sum of the weights.
    """

    reached: np.ndarray  # (B, T) float64: end of each frame
    fired: np.ndarray  # (B, T) int64: number of tokens complete once each frame is over
    frames: np.ndarray  # (B,) int64: number of valid frames
    tokens: np.ndarray  # (B,) int64: number of tokens
    final: np.ndarray  # (B,) int64: the frame that ends the line
    mass: np.ndarray  # (B,) float64: sum of the weights as given
    begin: np.ndarray  # (B,) int64
    origin: np.ndarray  # (B,) float64
    slope: np.ndarray  # (B,) float64: 0 where the weights get no gradient
    rest: np.ndarray  # (B,) float64


def _empty_line(batch: int, frames: int) -> _Line:
    def counts(*shape: int) -> np.ndarray:
        return np.empty(shape, np.int64)

    def numbers(*shape: int) -> np.ndarray:
        return np.empty(shape)

    return _Line(
        reached=numbers(batch, frames),
        fired=counts(batch, frames),
        frames=counts(batch),
        tokens=counts(batch),
        final=counts(batch),
        mass=numbers(batch),
        begin=counts(batch),
        origin=numbers(batch),
        slope=numbers(batch),
        rest=numbers(batch),
    )


@_compile
def _lay_out(weights, lengths, targets, slack, tail, line):
    """Fill `line` but for `final`; where targets are empty, the weights decide."""
    for b in range(weights.shape[0]):
        reached, fired = line.reached[b], line.fired[b]
        frames = min(max(lengths[b], 0), weights.shape[1])
        mass = 0.0
        for t in range(frames):
            # A weight that is negative or not finite counts as 0.
            if weights[b, t] >= 0 and weights[b, t] <= LARGEST:
                mass += weights[b, t]
            reached[t] = mass
        most = MOST
        origin, slope, rest = 0.0, 1.0, 1.0
        if len(targets) > 0:
            most = max(targets[b], 0)
            if mass < SILENCE:
                # Nothing says where its tokens are: it is divided evenly.
                slope = 0.0
                for t in range(frames):
                    reached[t] = (t + 1) * (most / frames)
            else:
                slope, rest = most / mass, mass
                for t in range(frames):
                    reached[t] *= slope
        complete = 0
        for t in range(frames):
            position = reached[t] + slack
            if position >= most:
                complete = most
            elif position >= complete + 1:
                complete = int(position)
            fired[t] = complete
        begin = 0
        if len(targets) > 0:
            complete = most
        elif mass - complete > tail:
            begin = np.searchsorted(fired[:frames], complete)
            origin, rest = float(complete), mass - complete
            slope = 1 / rest
            complete += 1
        else:
            begin = frames
        line.frames[b], line.tokens[b], line.begin[b] = frames, complete, begin
        line.mass[b], line.origin[b] = mass, origin
        line.slope[b], line.rest[b] = slope, rest


@_compile
def _find_ends(line, ends):
    """Fill ends (B, U), and keep no more than U tokens."""
    slots = ends.shape[1]
    for b in range(ends.shape[0]):
        reached, fired, frames = line.reached[b], line.fired[b], line.frames[b]
        line.tokens[b] = min(line.tokens[b], slots)
        t = 0
        for k in range(line.tokens[b]):
            while t < frames and fired[t] <= k:
                t += 1
            if t < frames:
                start = reached[t - 1] if t > 0 else 0.0
                ends[b, k] = t + min((k + 1 - start) / (reached[t] - start), 1.0)
            else:
                # A tail, whose firing never came, takes all that is left.
                ends[b, k] = frames
        for k in range(line.tokens[b], slots):
            ends[b, k] = 0.0
        final = np.searchsorted(fired[:frames], line.tokens[b])
        line.final[b] = min(final, frames - 1)


@_compile
def _stretch_tails(line):
    """Make what lies beyond the last firing of each utterance a whole token."""
    for b in range(len(line.frames)):
        for t in range(line.begin[b], line.frames[b]):
            into = line.reached[b, t] - line.origin[b]
            line.reached[b, t] = line.origin[b] + into * line.slope[b]


@_compile
def _sum_frames(hidden, line, states):
    """Fill states (B * U, D), from hidden (B * T, D)."""
    batch, frames = line.reached.shape
    slots, width = len(states) // max(batch, 1), states.shape[1]
    single = np.empty(1, states.dtype)
    for row in range(len(states)):
        b, k = row // slots, row % slots
        states[row] = 0
        if k >= line.tokens[b] or line.frames[b] == 0:
            continue
        reached, fired, final = line.reached[b], line.fired[b], line.final[b]
        # It begins in the frame where the one before it fired.
        t = min(np.searchsorted(fired[: line.frames[b]], k), final)
        covered = float(k)
        over = False
        while not over:
            over = t >= final or fired[t] > k
            stop = k + 1.0 if over else reached[t]
            single[0] = stop - covered
            share = single[0]
            for d in range(width):
                states[row, d] += share * hidden[b * frames + t, d]
            covered = stop
            t += 1


@_compile
def _spread_tokens(hidden, line, grad, grad_hidden, products):
    """Fill the frames' gradients, and their products with the tokens' gradients.

    Args:
        hidden: (B * T, D) frames.
        line: Their places.
        grad: (B * U, D) gradient of the tokens.
        grad_hidden: (B * T, D) to fill.
        products: (B * T, 2) to fill: of each frame with the gradient of the first and
            of the last token it lies in.
    """
    batch, frames = line.reached.shape
    slots, width = len(grad) // max(batch, 1), grad.shape[1]
    single = np.empty(1, grad.dtype)
    for row in range(len(hidden)):
        b, t = row // frames, row % frames
        if t > line.final[b] or line.tokens[b] == 0:
            grad_hidden[row] = 0
            continue
        reached, fired = line.reached[b], line.fired[b]
        begin = fired[t - 1] if t > 0 else 0
        end = line.tokens[b] - 1 if t == line.final[b] else fired[t]
        covered = reached[t - 1] if t > 0 else 0.0
        for k in range(begin, end + 1):
            stop = k + 1.0 if k < end or t == line.final[b] else reached[t]
            single[0] = stop - covered
            share = single[0]
            product = single[0] * 0
            token = b * slots + k
            # Most frames lie in one token: their row is written once.
            if k == begin:
                for d in range(width):
                    grad_hidden[row, d] = share * grad[token, d]
                    product += hidden[row, d] * grad[token, d]
            else:
                for d in range(width):
                    grad_hidden[row, d] += share * grad[token, d]
                    product += hidden[row, d] * grad[token, d]
            if k == begin:
                products[row, 0] = product
            products[row, 1] = product
            covered = stop


@_compile
def _move_ends(weights, products, line, grad_mass, grad_weights):
    """Fill the gradient of the weights (B, T)."""
    for b in range(len(line.frames)):
        reached, row = line.reached[b], b * grad_weights.shape[1]
        later = pull = 0.0
        grad_weights[b] = 0
        for t in range(line.frames[b] - 1, -1, -1):
            if t < line.final[b] and line.tokens[b] > 0:
                # Where a frame ends later, its last token gains of it what the same
                # token loses of the next frame.
                gain = float(products[row + t, 1]) - products[row + t + 1, 0]
                if t >= line.begin[b]:
                    # All weights together move the slope.
                    pull += gain * (reached[t] - line.origin[b]) / line.rest[b]
                    gain *= line.slope[b]
                later += gain
            # A weight moves the end of its frame and of all later ones.
            grad_weights[b, t] = later
        if line.slope[b] == 0:
            pull = 0.0
        for t in range(line.frames[b]):
            if weights[b, t] >= 0 and weights[b, t] <= LARGEST:
                grad_weights[b, t] += grad_mass[b] - pull
            else:
                grad_weights[b, t] = 0


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
    wide = _numpy(weights)
    line = _empty_line(*wide.shape)
    counts = np.empty(0, np.int64) if targets is None else targets.long().numpy()
    _lay_out(wide, lengths.long().numpy(), counts, slack, tail, line)
    slots = max_tokens
    if slots is None:
        number = torch.from_numpy(line.tokens)
        frames, free = weights.size(1), targets is None
        slots = wait_for_slots(number, lengths, frames, free=free)
    ends = np.empty((len(wide), slots), np.float32)
    _find_ends(line, ends)
    if targets is None:
        _stretch_tails(line)
    states, mass = _Integrate.apply(hidden, weights, line, slots)
    # Backward reads `line`: what the caller gets are copies.
    number = torch.from_numpy(line.tokens.copy())
    return states, number, mass, torch.from_numpy(ends)


class _Integrate(torch.autograd.Function):
    """Frames (B, T, D) summed to tokens (B, U, D), and the mass (B,) of the weights."""

    @staticmethod
    def forward(ctx, hidden, weights, line, slots):
        ctx.save_for_backward(hidden, weights)
        ctx.line = line
        wide = _numpy(hidden)
        batch, _, width = wide.shape
        # PyTorch's memory begins at a cache line, numpy's need not.
        states = torch.empty(batch, slots, width, dtype=at_least_float32(hidden))
        _sum_frames(_rows(wide), line, _rows(states.numpy()))
        mass = torch.from_numpy(line.mass).to(at_least_float32(weights), copy=True)
        return states.to(hidden.dtype), mass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_mass):
        (hidden, weights), line = ctx.saved_tensors, ctx.line
        wide = _numpy(hidden)
        grad_hidden = torch.empty(wide.shape, dtype=at_least_float32(hidden))
        products = np.empty((wide.shape[0] * wide.shape[1], 2), wide.dtype)
        _spread_tokens(
            _rows(wide), line, _rows(_numpy(grad)), _rows(grad_hidden.numpy()), products
        )
        grad_weights = np.empty(line.reached.shape)
        grad_mass = grad_mass.double().numpy()
        _move_ends(_numpy(weights), products, line, grad_mass, grad_weights)
        return (
            grad_hidden.to(hidden.dtype),
            torch.from_numpy(grad_weights).to(weights.dtype),
            None,
            None,
        )


def _numpy(x: Tensor) -> np.ndarray:
    """The same numbers in float32 or better, without gaps."""
    return x.detach().to(at_least_float32(x)).contiguous().numpy()


def _rows(x: np.ndarray) -> np.ndarray:
    """(B * T, D) of (B, T, D), without copying."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2])
