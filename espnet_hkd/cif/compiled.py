"""Continuous integrate-and-fire on CPU: the loops of its definition, compiled by numba.

`espnet_hkd.cif` says what is calculated. On CPU half of the time of
`espnet_hkd.cif.operators` goes into its list of pairs; here each direction walks along
the line of masses once, frame by frame, and keeps nothing of size T x U.

Letters: B utterances, T frames, U tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba.np.numpy_support import carray
from torch import Tensor

from espnet_hkd.cif.openmp import (
    compile_region,
    run_region,
    team_size,
    thread_number,
    threads_to_share,
)
from espnet_hkd.cif.operators import SILENCE
from espnet_hkd.cif.weight_predictor import at_least_float32

OPTIONS = {
    "nogil": True,
    # Sums may be reordered, for vectors; infinities and NaN are kept.
    "fastmath": {"reassoc", "contract", "nsz"},
    "error_model": "numpy",
}
# More tokens than any utterance has.
MOST = 2**31
# Frames or tokens times width below which a second thread costs more than it saves.
SMALL = 2**17


def _compile(loops: Callable) -> Callable:
    """Compile at the first call, and keep the machine code for later processes."""
    try:
        compiled = numba.njit(cache=True, **OPTIONS)(loops)
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written.
        compiled = numba.njit(**OPTIONS)(loops)

    @wraps(loops)
    def run(*arguments):
        try:
            return compiled(*arguments)
        except OSError:
            # Compiled, but not kept: the disk is full.
            return compiled(*arguments)

    return run


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
        frames = min(max(lengths[b], 1), weights.shape[1])
        mass = 0.0
        for t in range(frames):
            mass += weights[b, t]
            reached[t] = mass
        most = MOST
        origin, slope, rest = 0.0, 1.0, 1.0
        if len(targets) > 0:
            most = targets[b]
            if mass < SILENCE:
                # Nothing says where its tokens are: it is divided evenly.
                slope = 0.0
                for t in range(frames):
                    reached[t] = (t + 1) * (targets[b] / frames)
            else:
                slope, rest = targets[b] / mass, mass
                for t in range(frames):
                    reached[t] *= slope
        complete = 0
        for t in range(frames):
            position = reached[t] + slack
            # No firing is taken back, and nothing fires of NaN.
            if position >= most:
                complete = most
            elif position >= complete + 1:
                complete = int(position)
            fired[t] = complete
        begin = 0
        if len(targets) > 0:
            complete = targets[b]
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
def _sum_frames(first, last, hidden, line, states):
    """Fill rows `first` to `last` of states (B * U, D), from hidden (B * T, D)."""
    batch, frames = line.reached.shape
    slots, width = len(states) // batch, states.shape[1]
    single = np.empty(1, states.dtype)
    for row in range(first, last):
        b, k = row // slots, row % slots
        states[row] = 0
        if k >= line.tokens[b]:
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
def _spread_tokens(first, last, hidden, line, grad, grad_hidden, products):
    """Fill rows of the frames' gradients, and products with the tokens' gradients.

    Args:
        first: First row.
        last: The row after the last.
        hidden: (B * T, D) frames.
        line: Their places.
        grad: (B * U, D) gradient of the tokens.
        grad_hidden: (B * T, D) to fill.
        products: (B * T, 2) to fill: of each frame with the gradient of the first and
            of the last token it lies in.
    """
    batch, frames = line.reached.shape
    slots, width = len(grad) // batch, grad.shape[1]
    single = np.empty(1, grad.dtype)
    for row in range(first, last):
        b, t = row // frames, row % frames
        grad_hidden[row] = 0
        if t > line.final[b] or line.tokens[b] == 0:
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
            for d in range(width):
                grad_hidden[row, d] += share * grad[b * slots + k, d]
                product += hidden[row, d] * grad[b * slots + k, d]
            if k == begin:
                products[row, 0] = product
            products[row, 1] = product
            covered = stop


@_compile
def _move_ends(products, line, grad_mass, grad_weights):
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
            grad_weights[b, t] += grad_mass[b] - pull


# Within regions, whose machine code holds theirs.
_sum_rows, _spread_rows = (
    numba.njit(**OPTIONS)(loops.__wrapped__) for loops in (_sum_frames, _spread_tokens)
)


@numba.njit(**OPTIONS)
def _rows_of_this_thread(rows):
    """First row, and the row after the last."""
    team, number = int(team_size()), int(thread_number())
    return rows * number // team, rows * (number + 1) // team


@numba.njit(**OPTIONS)
def _arrays_at(addresses):
    """(B, T, U, D) and the line, from where `_share` has put them."""
    sizes = carray(addresses[0], 4, np.int64)
    batch, frames, slots, width = sizes[0], sizes[1], sizes[2], sizes[3]
    line = _Line(
        carray(addresses[1], (batch, frames), np.float64),
        carray(addresses[2], (batch, frames), np.int64),
        carray(addresses[3], batch, np.int64),
        carray(addresses[4], batch, np.int64),
        carray(addresses[5], batch, np.int64),
        carray(addresses[6], batch, np.float64),
        carray(addresses[7], batch, np.int64),
        carray(addresses[8], batch, np.float64),
        carray(addresses[9], batch, np.float64),
        carray(addresses[10], batch, np.float64),
    )
    return (batch, frames, slots, width), line


@cache
def _summing_region(real):
    """`_sum_frames` of arrays of dtype `real`, by all threads."""

    def sum_rows(addresses):
        (batch, frames, slots, width), line = _arrays_at(addresses)
        hidden = carray(addresses[11], (batch * frames, width), real)
        states = carray(addresses[12], (batch * slots, width), real)
        first, last = _rows_of_this_thread(batch * slots)
        _sum_rows(first, last, hidden, line, states)

    return compile_region(sum_rows)


@cache
def _spreading_region(real):
    """`_spread_tokens` of arrays of dtype `real`, by all threads."""

    def spread_rows(addresses):
        (batch, frames, slots, width), line = _arrays_at(addresses)
        hidden = carray(addresses[11], (batch * frames, width), real)
        grad = carray(addresses[12], (batch * slots, width), real)
        grad_hidden = carray(addresses[13], (batch * frames, width), real)
        products = carray(addresses[14], (batch * frames, 2), real)
        first, last = _rows_of_this_thread(batch * frames)
        _spread_rows(first, last, hidden, line, grad, grad_hidden, products)

    return compile_region(spread_rows)


def _share(
    loops: Callable,
    region: Callable,
    rows: int,
    slots: int,
    hidden: np.ndarray,
    line: _Line,
    *arrays: np.ndarray,
) -> None:
    """Let as many threads as PyTorch may use fill the rows.

    Args:
        loops: (first row, row after the last, hidden, line, *arrays), for one thread.
        region: The region of the same loops, of a dtype.
        rows: Number of rows to fill.
        slots: U, rows of tokens of each utterance.
        hidden: (B * T, D).
        line: Places of the frames.
        arrays: Whatever else the loops take.
    """
    batch, frames = line.reached.shape
    width = hidden.shape[1]
    if rows * width > SMALL and threads_to_share() > 1:
        sizes = np.array([batch, frames, slots, width], np.int64)
        run_region(region(hidden.dtype.type), [sizes, *line, hidden, *arrays])
    else:
        loops(0, rows, hidden, line, *arrays)


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
    wide = weights.detach().to(at_least_float32(weights)).contiguous().numpy()
    line = _empty_line(*wide.shape)
    counts = np.empty(0, np.int64) if targets is None else targets.long().numpy()
    _lay_out(wide, lengths.long().numpy(), counts, slack, tail, line)
    slots = int(line.tokens.max()) if max_tokens is None else max_tokens
    ends = np.empty((len(wide), slots), np.float32)
    _find_ends(line, ends)
    if targets is None:
        _stretch_tails(line)
    states, mass = _Integrate.apply(hidden, weights, line, slots)
    return states, torch.from_numpy(line.tokens), mass, torch.from_numpy(ends)


class _Integrate(torch.autograd.Function):
    """Frames (B, T, D) summed to tokens (B, U, D), and the mass (B,) of the weights."""

    @staticmethod
    def forward(ctx, hidden, weights, line, slots):
        ctx.save_for_backward(hidden)
        ctx.line, ctx.slots, ctx.weights_dtype = line, slots, weights.dtype
        wide = _rows(hidden)
        states = np.empty((len(hidden) * slots, hidden.size(2)), wide.dtype)
        rows = len(states)
        _share(_sum_frames, _summing_region, rows, slots, wide, line, states)
        states = torch.from_numpy(states).view(len(hidden), slots, hidden.size(2))
        mass = torch.from_numpy(line.mass).to(at_least_float32(weights), copy=True)
        return states.to(hidden.dtype), mass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_mass):
        (hidden,), line = ctx.saved_tensors, ctx.line
        wide, grad = _rows(hidden), _rows(grad)
        grad_hidden = np.empty_like(wide)
        products = np.empty((len(wide), 2), wide.dtype)
        arrays = wide, line, grad, grad_hidden, products
        _share(_spread_tokens, _spreading_region, len(wide), ctx.slots, *arrays)
        grad_weights = np.empty(line.reached.shape)
        _move_ends(products, line, grad_mass.double().numpy(), grad_weights)
        grad_hidden = torch.from_numpy(grad_hidden).view_as(hidden).to(hidden.dtype)
        return (
            grad_hidden,
            torch.from_numpy(grad_weights).to(ctx.weights_dtype),
            None,
            None,
        )


def _rows(x: Tensor) -> np.ndarray:
    """(B * T, D) in float32 or better, of (B, T, D)."""
    return x.detach().to(at_least_float32(x)).contiguous().flatten(0, 1).numpy()
