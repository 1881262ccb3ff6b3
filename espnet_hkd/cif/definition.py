"""What all implementations of integrate-and-fire have in common: limits and checks.

Letters: B utterances, T frames, U tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_hkd.errors import ConfigError

# A token whose mass is complete but for this much fires: ten weights of 0.1 are one.
ROUNDING = 1e-9
# Below this sum an utterance says nothing about where its tokens are.
SILENCE = 1e-6
# A weight beyond is not finite.
LARGEST = torch.finfo(torch.float32).max
# Firings are not counted beyond; fits int32.
MOST = 2**30
# Tokens of an utterance beyond which they are no speech: more than two hours have.
MOST_TOKENS = 2**16
# Stands for the number of tokens of an utterance whose length cannot be.
WRONG = 2**31 - 1


def at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype to calculate in: sums of half precision lose tokens."""
    return torch.promote_types(x.dtype, torch.float32)


def check_arguments(
    hidden: Tensor,
    weights: Tensor,
    lengths: Tensor,
    targets: Tensor | None,
    max_tokens: int | None,
    threshold: float,
    tail: float,
) -> None:
    """Check what can be checked without waiting for a device.

    Raises:
        ConfigError: A shape, a dtype or an option is wrong, or, where the lengths lie
            on the CPU, one of them.
    """
    _check_tensors(hidden, weights, lengths, targets)
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
    if max_tokens is not None and max_tokens < 0:
        raise ConfigError(
            "max_tokens of the CIF is out of range",
            got=max_tokens,
            wanted="a whole number, at least 0, or None",
            remedy="correct the call",
        )
    # A compiler that records PyTorch's operators knows no values.
    if lengths.device.type == "cpu" and not torch.compiler.is_compiling():
        values = lengths.numpy()
        if ((values < 0) | (values > hidden.size(1))).any():
            raise wrong_lengths(lengths, hidden.size(1))


def _check_tensors(
    hidden: Tensor, weights: Tensor, lengths: Tensor, targets: Tensor | None
) -> None:
    batch_and_frames = tuple(hidden.shape[:2])
    checks = [
        ("hidden", hidden, "(B, T, D)", hidden.dim() == 3),
        ("weights", weights, batch_and_frames, weights.shape == batch_and_frames),
        ("lengths", lengths, batch_and_frames[:1], lengths.shape == weights.shape[:1]),
    ]
    if targets is not None:
        fits = targets.shape == weights.shape[:1]
        checks.append(("targets", targets, batch_and_frames[:1], fits))
    for name, tensor, wanted, fits in checks:
        if not fits:
            raise ConfigError(
                f"{name} of the CIF have the wrong shape",
                got=f"{tuple(tensor.shape)}, with hidden {tuple(hidden.shape)}",
                wanted=f"{wanted}",
                remedy="correct the call",
            )
        real = name in ("hidden", "weights")
        kind = "a floating-point dtype" if real else "a dtype of whole numbers"
        whole = not tensor.is_floating_point() and tensor.dtype != torch.bool
        if whole == real or tensor.is_complex():
            raise ConfigError(
                f"{name} of the CIF have the wrong dtype",
                got=tensor.dtype,
                wanted=kind,
                remedy="convert them",
            )
        if tensor.device != hidden.device:
            raise ConfigError(
                f"{name} of the CIF lie on another device than hidden",
                got=f"{tensor.device} and {hidden.device}",
                wanted="the same device",
                remedy=f"move {name} there by `.to(hidden.device)`",
            )


def wrong_lengths(lengths: Tensor, frames: int) -> ConfigError:
    """The error for lengths that are negative or beyond the frames."""
    values = lengths.tolist()
    utterance = next(b for b, n in enumerate(values) if not 0 <= n <= frames)
    return ConfigError(
        "lengths of the CIF are out of range",
        got=f"{values[utterance]} for utterance {utterance} of {len(values)}",
        wanted=f"a whole number from 0 to {frames}, the number of frames",
        remedy="give the numbers of valid frames in each utterance",
    )


def wait_for_slots(number: Tensor, lengths: Tensor, frames: int, *, free: bool) -> int:
    """The largest number of tokens: the one wait for the device.

    Args:
        number: Number of tokens of each utterance, `WRONG` where its length is.
        lengths: (B,) as given.
        frames: T.
        free: Whether the weights alone decide.

    Raises:
        ConfigError: There are more than `MOST_TOKENS`, or a length is out of range.
    """
    if number.numel() == 0:
        return 0
    most = int(number.max())
    if most == WRONG:
        raise wrong_lengths(lengths, frames)
    if free and most > MOST_TOKENS:
        raise ConfigError(
            "the weights of the CIF ask for more tokens than speech can have",
            got=f"{most} tokens of an utterance of at most {frames} frames",
            wanted=f"at most {MOST_TOKENS}, and usually fewer than frames",
            remedy="look at the weights: a sigmoid's are at most 1; or give max_tokens",
        )
    return most
