"""Continuous integrate-and-fire on GPUs, by kernels written in Triton.

`espnet_hkd.cif` says what is calculated.

Letters: B utterances, T frames, U tokens, D width.

The weights of an utterance laid end to end are a line on which frame t covers the
stretch from S_{t-1} to S_t and token k the stretch from k to k + 1 (tokens are counted
from 0). Three kernels go forward: one program lays out an utterance's line, one finds
where its tokens fire, and one program for each token sums the frames it covers. Two go
backward: one program for a few frames gathers the gradients of the tokens that they lie
in, and one adds up the gradients of an utterance's weights. Nothing of size T x U
exists, nothing is added atomically, so that equal inputs give equal results.

Needs Triton, at least 3.6, which comes with PyTorch's builds for GPUs. With
`TRITON_INTERPRET=1` in the environment before the first import, the same kernels run
slowly on the CPU, for tests.
"""

# A kernel is compiled by Triton and is no Python to a type checker.
# pyright: reportInvalidTypeForm=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from espnet_hkd.cif import definition
from espnet_hkd.cif.definition import at_least_float32, wait_for_slots

SILENCE = tl.constexpr(definition.SILENCE)
LARGEST = tl.constexpr(definition.LARGEST)
MOST = tl.constexpr(definition.MOST)
WRONG = tl.constexpr(definition.WRONG)


class _Line(NamedTuple):
    """The frames of each utterance end to end on the line of masses.

    Scaled to targets, the line is the running sum of the weights times `slope`, the
    target over the mass `rest`. Otherwise it is the running sum itself, and what lies
    beyond its last firing, from `origin` on, is stretched by `slope` = 1 / `rest` if it
    becomes a token, the tail.
    """

    sums: Tensor  # (B, T) float64: end of each frame, before a tail is stretched
    fired: Tensor  # (B, T) int32: number of tokens complete once each frame is over
    counts: Tensor  # (B, 3) int32: valid frames, firings, tokens
    scales: Tensor  # (B, 3) float64: origin, slope, rest
    fires: Tensor  # (B, U) int32: the frame in which each token fires


@triton.jit
def _mass_of(weight):
    """A weight that is negative or not finite counts as 0."""
    weight = weight.to(tl.float64)
    return tl.where((weight >= 0) & (weight <= LARGEST), weight, 0.0)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit(do_not_specialize=["frames", "slots"])
def _lay_out(
    weights,  # (B, T)
    lengths,  # (B,)
    targets,  # (B,)
    sums,
    fired,
    counts,
    scales,
    number,  # (B,) int64: tokens
    mass,  # (B,)
    weights_b,
    weights_t,
    lengths_b,
    targets_b,
    frames: tl.int32,
    slots: tl.int32,
    slack: tl.float64,
    tail: tl.float64,
    TO_TARGETS: tl.constexpr,
    CHECKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Fill `sums`, `fired`, `counts` and `scales` of utterance `program_id(0)`."""
    b = tl.program_id(0).to(tl.int64)
    steps = tl.arange(0, BLOCK)
    given = tl.load(lengths + b * lengths_b).to(tl.int64)
    length = tl.minimum(tl.maximum(given, 0), frames).to(tl.int32)
    weights += b * weights_b
    sums += b * frames
    fired += b * frames

    origin = tl.full((), 0.0, tl.float64)
    slope = tl.full((), 1.0, tl.float64)
    rest = tl.full((), 1.0, tl.float64)
    each = tl.full((), 0.0, tl.float64)
    total = tl.full((), 0.0, tl.float64)
    most = tl.full((), MOST, tl.int32)
    if TO_TARGETS:
        for start in range(0, length, BLOCK):
            t = start + steps
            weight = tl.load(weights + t * weights_t, t < length, 0.0)
            total += tl.sum(_mass_of(weight), 0)
        target = tl.load(targets + b * targets_b).to(tl.int64)
        most = tl.minimum(tl.maximum(target, 0), MOST).to(tl.int32)
        if total < SILENCE:
            # Nothing says where its tokens are: it is divided evenly.
            slope *= 0.0
            each = most.to(tl.float64) / tl.maximum(length, 1)
        else:
            slope = most.to(tl.float64) / total
            rest = total

    reached = tl.full((), 0.0, tl.float64)  # sum of the weights of earlier blocks
    before = tl.full((), 0.0, tl.float64)  # end of the last frame of earlier blocks
    for start in range(0, length, BLOCK):
        t = start + steps
        weight = _mass_of(tl.load(weights + t * weights_t, t < length, 0.0))
        running = reached + tl.cumsum(weight, 0)
        end = running * slope + (t + 1) * each
        # A parallel running sum may dip by a rounding error; no firing is taken back.
        end = tl.maximum(tl.associative_scan(end, 0, _larger), before)
        complete = tl.minimum(end + slack, most.to(tl.float64)).to(tl.int32)
        tl.store(sums + t, end, t < length)
        tl.store(fired + t, complete, t < length)
        reached = tl.max(running, 0)
        before = tl.max(tl.where(t < length, end, 0.0), 0)

    whole = most
    tokens = most
    if not TO_TARGETS:
        total = reached
        whole = tl.minimum(before + slack, most.to(tl.float64)).to(tl.int32)
        tokens = whole
        left = total - whole
        if left > tail:
            tokens += 1
            origin = whole.to(tl.float64)
            rest = left
            slope = 1 / left
    tokens = tl.minimum(tokens, slots)
    tl.store(counts + 3 * b, length)
    tl.store(counts + 3 * b + 1, whole)
    tl.store(counts + 3 * b + 2, tokens)
    tl.store(scales + 3 * b, origin)
    tl.store(scales + 3 * b + 1, slope)
    tl.store(scales + 3 * b + 2, rest)
    if CHECKED:
        tokens = tl.where(given == length, tokens, WRONG)
    tl.store(number + b, tokens.to(tl.int64))
    tl.store(mass + b, total.to(mass.dtype.element_ty))


@triton.jit(do_not_specialize=["frames", "slots", "halvings"])
def _find_firings(
    sums,
    fired,
    counts,
    fires,
    ends,  # (B, U) float32
    frames: tl.int32,
    slots: tl.int32,
    halvings: tl.int32,
    BLOCK: tl.constexpr,
):
    """Fill `fires`, the number of valid frames if never, and `ends` of some tokens."""
    b = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    length = tl.load(counts + 3 * b)
    tokens = tl.load(counts + 3 * b + 2)
    sums += b * frames
    fired += b * frames

    # The first frame after which more than k tokens are complete.
    low = tl.zeros_like(k)
    high = low + length
    for _ in range(halvings):
        middle = (low + high) // 2
        open = low < high
        after = tl.load(fired + middle, open, 0) > k
        high = tl.where(open & after, middle, high)
        low = tl.where(open & (after == 0), middle + 1, low)

    hit = (low < length) & (k < tokens)
    end = tl.load(sums + low, hit, 1.0)
    start = tl.load(sums + low - 1, hit & (low > 0), 0.0)
    part = tl.minimum((k + 1 - start) / (end - start), 1.0)
    # A tail, whose firing never came, takes all that is left.
    end = tl.where(hit, low + part, length.to(tl.float64))
    end = tl.where(k < tokens, end, 0.0)
    tl.store(fires + b * slots + k, low, k < slots)
    tl.store(ends + b * slots + k, end.to(tl.float32), k < slots)


@triton.jit(do_not_specialize=["frames", "slots", "hidden_b"])
def _sum_frames(
    hidden,  # (B, T, D)
    sums,
    counts,
    scales,
    fires,
    states,  # (B, U, D)
    hidden_b,
    hidden_t,
    hidden_d,
    frames: tl.int32,
    slots: tl.int32,
    width,
    WIDE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum the frames of token `program_id(0)` of B U, a stretch of the width each."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    b = row // slots
    k = (row % slots).to(tl.int32)
    tokens = tl.load(counts + 3 * b + 2)
    total = tl.zeros((BLOCK_D,), WIDE)
    if k < tokens:
        last = tl.load(counts + 3 * b) - 1
        # Only the tail sees a stretched line.
        is_tail = k == tl.load(counts + 3 * b + 1)
        origin = tl.load(scales + 3 * b, is_tail, 0.0)
        slope = tl.load(scales + 3 * b + 1, is_tail, 1.0)
        # It begins in the frame where the one before it fired.
        begin = tl.load(fires + row - 1, k > 0, 0)
        begin = tl.maximum(tl.minimum(begin, last), 0)
        end = tl.minimum(tl.load(fires + row), last)
        hidden += b * hidden_b
        sums += b * frames
        for first in range(begin, end + 1, BLOCK_T):
            t = first + tl.arange(0, BLOCK_T)
            inside = t <= end
            stop = tl.load(sums + t, t < end, 0.0)
            stop = tl.where(t == end, k + 1.0, origin + (stop - origin) * slope)
            start = tl.load(sums + t - 1, inside & (t > begin), 0.0)
            start = origin + (start - origin) * slope
            start = tl.where(t == begin, k.to(tl.float64), start)
            share = tl.where(inside, stop - start, 0.0).to(WIDE)
            frame = tl.load(
                hidden + t.to(tl.int64)[:, None] * hidden_t + d[None] * hidden_d,
                inside[:, None] & (d < width)[None],
                0.0,
            )
            total += tl.sum(share[:, None] * frame.to(WIDE), 0)
    total = total.to(states.dtype.element_ty)
    tl.store(states + row * width + d, total, d < width)


@triton.jit
def _final_frame(counts, fires, slots, b):
    """The frame that ends the line of utterance b; -1 if it has no token."""
    length = tl.load(counts + 3 * b)
    tokens = tl.load(counts + 3 * b + 2)
    final = tl.load(fires + b * slots + tokens - 1, tokens > 0, -1)
    return tl.minimum(final, length - 1)


@triton.jit(do_not_specialize=["frames", "slots", "hidden_b", "grad_b"])
def _spread_tokens(
    hidden,  # (B, T, D)
    grad,  # (B, U, D): gradient of the tokens
    sums,
    fired,
    counts,
    scales,
    fires,
    grad_hidden,  # (B, T, D)
    products,  # (B, T, 2)
    hidden_b,
    hidden_t,
    hidden_d,
    grad_b,
    grad_u,
    grad_d,
    frames: tl.int32,
    slots: tl.int32,
    width,
    TO_HIDDEN: tl.constexpr,
    TO_WEIGHTS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of a few frames.

    Fills `grad_hidden`, and `products` of each frame with the gradients of the first
    and of the last token that it lies in.
    """
    b = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    whole = tl.load(counts + 3 * b + 1)
    tokens = tl.load(counts + 3 * b + 2)
    origin = tl.load(scales + 3 * b)
    slope = tl.load(scales + 3 * b + 1)
    final = _final_frame(counts, fires, slots, b)
    used = t <= final
    sums += b * frames
    fired += b * frames

    first = tl.load(fired + t - 1, used & (t > 0), 0)
    last = tl.load(fired + t, used & (t < final), 0)
    last = tl.where(t == final, tokens - 1, last)
    several = used & (last > first)
    start = tl.load(sums + t - 1, used & (t > 0), 0.0)
    stop = tl.load(sums + t, used, 0.0)
    # Only the tail sees a stretched line.
    start = tl.where(first == whole, origin + (start - origin) * slope, start)
    stop = tl.where(last == whole, origin + (stop - origin) * slope, stop)
    stop = tl.where(t == final, last + 1.0, stop)
    share_of_first = tl.where(several, first + 1.0, stop) - start
    share_of_first = tl.where(used, share_of_first, 0.0).to(WIDE)[:, None]
    share_of_last = tl.where(several, stop - last, 0.0).to(WIDE)[:, None]
    between = tl.max(tl.where(several, last - first, 0), 0)

    row = t.to(tl.int64)[:, None]
    hidden += b * hidden_b + row * hidden_t
    grad += b * grad_b
    grad_first = grad + first.to(tl.int64)[:, None] * grad_u
    grad_last = grad + last.to(tl.int64)[:, None] * grad_u
    with_first = tl.zeros((BLOCK_T,), WIDE)
    with_last = tl.zeros((BLOCK_T,), WIDE)
    for left in range(0, width, BLOCK_D):
        d = (left + tl.arange(0, BLOCK_D))[None]
        inside = d < width
        of_first = tl.load(grad_first + d * grad_d, used[:, None] & inside, 0.0)
        of_last = tl.load(grad_last + d * grad_d, several[:, None] & inside, 0.0)
        of_first = of_first.to(WIDE)
        of_last = of_last.to(WIDE)
        if TO_HIDDEN:
            total = share_of_first * of_first + share_of_last * of_last
            # Tokens between lie in this frame as a whole.
            for more in range(1, between):
                token = grad_first + more * grad_u + d * grad_d
                within = (first + more < last) & several
                total += tl.load(token, within[:, None] & inside, 0.0).to(WIDE)
            place = grad_hidden + (b * frames + row) * width + d
            total = total.to(grad_hidden.dtype.element_ty)
            tl.store(place, total, (t < frames)[:, None] & inside)
        if TO_WEIGHTS:
            frame = tl.load(hidden + d * hidden_d, used[:, None] & inside, 0.0)
            frame = frame.to(WIDE)
            with_first += tl.sum(frame * of_first, 1)
            with_last += tl.sum(frame * of_last, 1)
    if TO_WEIGHTS:
        with_last = tl.where(several, with_last, with_first)
        place = products + (b * frames + t) * 2
        tl.store(place, with_first, t < frames)
        tl.store(place + 1, with_last, t < frames)


@triton.jit
def _gains(products, sums, fired, t, final, whole, origin, slope, TO_TARGETS):
    """Gradients of where frames t end, and how far into what is stretched they do.

    Where a frame ends later, its last token gains of it what the same token loses of
    the next frame.
    """
    used = t < final
    gain = tl.load(products + 2 * t + 1, used, 0.0).to(tl.float64)
    gain -= tl.load(products + 2 * t + 2, used, 0.0).to(tl.float64)
    end = tl.load(sums + t, used, 0.0)
    if TO_TARGETS:
        return gain * slope, gain * end
    stretched = tl.load(fired + t, used, 0) >= whole
    into = tl.where(stretched, (end - origin) * slope, 0.0)
    return tl.where(stretched, gain * slope, gain), gain * into


@triton.jit(do_not_specialize=["frames", "slots"])
def _move_ends(
    weights,  # (B, T)
    products,
    sums,
    fired,
    counts,
    scales,
    fires,
    grad_mass,  # (B,)
    grad_weights,  # (B, T)
    weights_b,
    weights_t,
    grad_mass_b,
    frames: tl.int32,
    slots: tl.int32,
    TO_TARGETS: tl.constexpr,
    WITH_MASS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Fill the gradient of the weights of utterance `program_id(0)`."""
    b = tl.program_id(0).to(tl.int64)
    steps = tl.arange(0, BLOCK)
    length = tl.load(counts + 3 * b)
    whole = tl.load(counts + 3 * b + 1)
    origin = tl.load(scales + 3 * b)
    slope = tl.load(scales + 3 * b + 1)
    rest = tl.load(scales + 3 * b + 2)
    final = _final_frame(counts, fires, slots, b)
    products += b * frames * 2
    sums += b * frames
    fired += b * frames

    # All weights together move the slope.
    pull = tl.full((), 0.0, tl.float64)
    for start in range(0, final, BLOCK):
        t = start + steps
        _, into = _gains(
            products, sums, fired, t, final, whole, origin, slope, TO_TARGETS
        )
        pull += tl.sum(into, 0)
    common = -pull / rest
    if slope == 0:
        common *= 0.0
    if WITH_MASS:
        common += tl.load(grad_mass + b * grad_mass_b).to(tl.float64)

    # A weight moves the end of its frame and of all later ones.
    later = tl.full((), 0.0, tl.float64)
    blocks = tl.cdiv(frames, BLOCK)
    for i in range(blocks):
        t = (blocks - 1 - i) * BLOCK + steps
        gain, _ = _gains(
            products, sums, fired, t, final, whole, origin, slope, TO_TARGETS
        )
        weight = tl.load(weights + b * weights_b + t * weights_t, t < length, -1.0)
        weight = weight.to(tl.float64)
        counted = (weight >= 0) & (weight <= LARGEST)
        value = common + later + tl.cumsum(gain, 0, reverse=True)
        value = tl.where(counted, value, 0.0).to(WIDE).to(grad_weights.dtype.element_ty)
        tl.store(grad_weights + b * frames + t, value, t < frames)
        later += tl.sum(gain, 0)


INTERPRETED = not isinstance(_lay_out, triton.JITFunction)
# Frames that a step of a scan takes, and numbers in a tile of frames. In the
# interpreter so few that small tests take several steps.
SCAN = 16 if INTERPRETED else 1024
TILE = 64 if INTERPRETED else 4096


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
    states, number, mass, ends = _Integrate.apply(
        hidden, weights, lengths, targets, max_tokens, slack, tail
    )
    return states, number, mass, ends


class _Integrate(torch.autograd.Function):
    """Frames (B, T, D) summed to tokens (B, U, D), and the mass (B,) of the weights."""

    @staticmethod
    def forward(ctx, hidden, weights, lengths, targets, max_tokens, slack, tail):
        ctx.set_materialize_grads(False)
        ctx.to_targets = targets is not None
        with _on_device_of(hidden):
            line, number, mass = _lay_out_lines(
                weights, lengths, targets, max_tokens, slack, tail
            )
            slots = max_tokens
            if slots is None:
                frames, free = weights.size(1), targets is None
                slots = wait_for_slots(number, lengths, frames, free=free)
            line, ends = _find_fires(line, slots)
            states = _sum_tokens(hidden, line)
        ctx.save_for_backward(hidden, weights, *line)
        ctx.mark_non_differentiable(number, ends)
        return states, number, mass, ends

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _number, grad_mass, _ends):
        hidden, weights, *line = ctx.saved_tensors
        line = _Line(*line)
        to_hidden, to_weights = ctx.needs_input_grad[:2]
        if grad is None:
            shape = *line.fires.shape, hidden.size(2)
            grad = hidden.new_zeros(()).expand(shape)
        with _on_device_of(hidden):
            grad_hidden, products = _spread(hidden, grad, line, to_hidden, to_weights)
            grad_weights = None
            if to_weights:
                grad_weights = _move(weights, products, grad_mass, line, ctx.to_targets)
        return grad_hidden, grad_weights, None, None, None, None, None


def _on_device_of(x: Tensor):
    """Kernels are launched on the current device, whichever their tensors lie on."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _lay_out_lines(
    weights: Tensor,
    lengths: Tensor,
    targets: Tensor | None,
    max_tokens: int | None,
    slack: float,
    tail: float,
) -> tuple[_Line, Tensor, Tensor]:
    """The lines, but for `fires`; the numbers of tokens (B,) and the masses (B,)."""
    batch, frames = weights.shape
    device = weights.device
    line = _Line(
        sums=torch.empty(batch, frames, dtype=torch.double, device=device),
        fired=torch.empty(batch, frames, dtype=torch.int32, device=device),
        counts=torch.empty(batch, 3, dtype=torch.int32, device=device),
        scales=torch.empty(batch, 3, dtype=torch.double, device=device),
        fires=torch.empty(0, dtype=torch.int32, device=device),
    )
    number = torch.empty(batch, dtype=torch.long, device=device)
    mass = torch.empty(batch, dtype=at_least_float32(weights), device=device)
    if batch:
        _lay_out[(batch,)](
            weights,
            lengths,
            lengths if targets is None else targets,
            line.sums,
            line.fired,
            line.counts,
            line.scales,
            number,
            mass,
            *weights.stride(),
            *lengths.stride(),
            *(lengths if targets is None else targets).stride(),
            frames,
            definition.MOST + 1 if max_tokens is None else max_tokens,
            slack,
            tail,
            TO_TARGETS=targets is not None,
            CHECKED=max_tokens is None,
            BLOCK=SCAN,
        )
    return line, number, mass


def _find_fires(line: _Line, slots: int) -> tuple[_Line, Tensor]:
    """The lines with `fires`, and the ends (B, U) of the tokens."""
    batch, frames = line.sums.shape
    fires = line.counts.new_empty(batch, slots)
    ends = torch.empty(batch, slots, device=fires.device)
    block = 128
    if batch and slots:
        _find_firings[(batch, triton.cdiv(slots, block))](
            line.sums,
            line.fired,
            line.counts,
            fires,
            ends,
            frames,
            slots,
            frames.bit_length(),
            BLOCK=block,
        )
    return line._replace(fires=fires), ends


def _sum_tokens(hidden: Tensor, line: _Line) -> Tensor:
    batch, slots = line.fires.shape
    width = hidden.size(2)
    states = hidden.new_empty(batch, slots, width)
    if states.numel():
        tile = _tile(hidden)
        grid = batch * slots, triton.cdiv(width, tile["BLOCK_D"])
        _sum_frames[grid](
            hidden,
            line.sums,
            line.counts,
            line.scales,
            line.fires,
            states,
            *hidden.stride(),
            hidden.size(1),
            slots,
            width,
            **tile,
        )
    return states


def _spread(
    hidden: Tensor, grad: Tensor, line: _Line, to_hidden: bool, to_weights: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradient of the frames (B, T, D) if asked for, and the products (B, T, 2)."""
    batch, frames, width = hidden.shape
    grad_hidden = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
    wide = at_least_float32(hidden)
    products = torch.empty(batch, frames, 2, dtype=wide, device=hidden.device)
    if batch and frames:
        tile = _tile(hidden)
        _spread_tokens[(batch, triton.cdiv(frames, tile["BLOCK_T"]))](
            hidden,
            grad,
            line.sums,
            line.fired,
            line.counts,
            line.scales,
            line.fires,
            grad_hidden,
            products,
            *hidden.stride(),
            *grad.stride(),
            frames,
            line.fires.size(1),
            width,
            TO_HIDDEN=to_hidden,
            TO_WEIGHTS=to_weights,
            **tile,
            # Four tiles are held at a time: with 4 warps they would fill the registers.
            num_warps=8,
        )
    return grad_hidden if to_hidden else None, products


def _move(
    weights: Tensor,
    products: Tensor,
    grad_mass: Tensor | None,
    line: _Line,
    to_targets: bool,
) -> Tensor:
    """Gradient of the weights (B, T)."""
    batch, frames = weights.shape
    gradient = torch.empty(batch, frames, dtype=weights.dtype, device=weights.device)
    if batch and frames:
        _move_ends[(batch,)](
            weights,
            products,
            line.sums,
            line.fired,
            line.counts,
            line.scales,
            line.fires,
            products if grad_mass is None else grad_mass,
            gradient,
            *weights.stride(),
            0 if grad_mass is None else grad_mass.stride(0),
            frames,
            line.fires.size(1),
            TO_TARGETS=to_targets,
            WITH_MASS=grad_mass is not None,
            WIDE=_wide(weights),
            BLOCK=SCAN,
        )
    return gradient


def _tile(hidden: Tensor) -> dict:
    """Size and dtype of the tiles of frames that a program takes at a time."""
    width = min(max(triton.next_power_of_2(hidden.size(2)), 1), TILE // 8)
    return {"WIDE": _wide(hidden), "BLOCK_T": 8, "BLOCK_D": width}


def _wide(x: Tensor) -> tl.dtype:
    """Triton's name of the dtype to calculate in."""
    return tl.float64 if x.dtype == torch.double else tl.float32
