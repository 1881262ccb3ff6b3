"""Continuous integrate-and-fire: cut the running sum of weights into tokens.

Dong and Xu, "CIF: Continuous Integrate-and-Fire for End-to-End Speech Recognition",
ICASSP 2020 (arXiv 1905.11235), section 3, with the firing threshold and the debt it
leaves as in the published CIF-HieraDist code.

Letters: B utterances, T frames, U tokens, D width.

Four implementations calculate the same:

- `triton`: kernels for GPUs, the default there where Triton runs;
- `compiled`: loops compiled by numba, the default on CPU, on one thread;
- `operators`, called "torch": PyTorch's own operators, on any device;
- `reference`: plain loops, for tests and readers.

To look for errors, the environment variable `HKD_CIF` chooses another than the default:
triton, compiled, torch or reference. `TRITON_INTERPRET=1 HKD_CIF=triton` runs Triton's
kernels on the CPU.
"""

from __future__ import annotations

import importlib
import logging
import os
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from espnet_hkd.cif import operators, reference
from espnet_hkd.cif.definition import MOST_TOKENS, ROUNDING, check_arguments
from espnet_hkd.cif.weight_predictor import WeightPredictor
from espnet_hkd.errors import ConfigError

__all__ = [
    "MOST_TOKENS",
    "FiredTokens",
    "WeightPredictor",
    "integrate_and_fire",
    "integrate_and_fire_reference",
]

logger = logging.getLogger(__name__)

# Value of HKD_CIF -> module.
IMPLEMENTATIONS = {
    "triton": "espnet_hkd.cif.triton",
    "compiled": "espnet_hkd.cif.compiled",
    "torch": "espnet_hkd.cif.operators",
    "reference": "espnet_hkd.cif.reference",
}


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
        weights: (B, T) mass of each frame; one that is negative or not finite (in
            float32) counts as 0, without gradient. Ignored on padding.
        lengths: (B,) number of valid frames, from 0 to T.
        targets: (B,) number of tokens wanted, as in training; a negative one counts
            as 0. The weights are scaled to sum to it, and exactly so many tokens come
            out. An utterance whose weights sum to less than 1e-6 is divided evenly,
            without gradient to its weights; one of no frames has tokens of zeros.
        max_tokens: Makes U exactly this; tokens beyond it are dropped.
        threshold: Mass at which a token fires, in (0.5, 1].
        tail: Without `targets`, mass in [0, 1] that the rest after the last firing must
            exceed to become one more token, divided by that mass. At 1 it never does.

    Returns:
        FiredTokens. An utterance where nothing fires has length 0.

    Raises:
        ConfigError: A shape, a dtype, an option or a length is wrong, or, where neither
            `targets` nor `max_tokens` is given, an utterance has more than MOST_TOKENS.
            Lengths on a GPU are looked at where it waits for the device anyway;
            otherwise those out of range count as the nearest that can be.

    Example:
        >>> weights = torch.tensor([[0.4, 0.6, 0.5, 0.5]])
        >>> fired = integrate_and_fire(torch.eye(4)[None], weights, torch.tensor([4]))
        >>> fired.states[0, 0]
        tensor([0.4000, 0.6000, 0.0000, 0.0000])
        >>> fired.ends
        tensor([[2., 4.]])
    """
    check_arguments(hidden, weights, lengths, targets, max_tokens, threshold, tail)
    return _fire(
        _choose(hidden.device),
        hidden,
        weights,
        lengths,
        targets,
        max_tokens,
        threshold,
        tail,
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

    Same arguments, results, gradients and errors.
    """
    check_arguments(hidden, weights, lengths, targets, max_tokens, threshold, tail)
    return _fire(
        reference, hidden, weights, lengths, targets, max_tokens, threshold, tail
    )


def _fire(
    implementation: ModuleType,
    hidden: Tensor,
    weights: Tensor,
    lengths: Tensor,
    targets: Tensor | None,
    max_tokens: int | None,
    threshold: float,
    tail: float,
) -> FiredTokens:
    slack = 1 - threshold + ROUNDING
    return FiredTokens(
        *implementation.integrate(
            hidden, weights, lengths, targets, max_tokens, slack=slack, tail=tail
        )
    )


def _choose(device: torch.device) -> ModuleType:
    """The implementation for tensors on this device."""
    # A compiler that records PyTorch's operators would see nothing else.
    if torch.compiler.is_compiling():
        return operators
    name = os.environ.get("HKD_CIF")
    if name:
        return _named(name, device)
    if device.type == "cpu":
        return _compiled_loops() or operators
    if device.type == "cuda":
        return _triton_kernels(device) or operators
    return operators


def _named(name: str, device: torch.device) -> ModuleType:
    """The implementation that HKD_CIF names."""
    if name not in IMPLEMENTATIONS:
        raise ConfigError(
            "HKD_CIF names no implementation of the CIF",
            got=name,
            wanted=", ".join(IMPLEMENTATIONS),
            remedy="correct the environment variable, or unset it for the default",
        )
    try:
        module = importlib.import_module(IMPLEMENTATIONS[name])
    except ImportError as error:
        raise ConfigError(
            f"HKD_CIF={name} cannot run here",
            got=f"{type(error).__name__}: {error}",
            wanted="the package that it needs, installed",
            remedy="install it, or unset HKD_CIF for the default",
        ) from error
    on_cpu = device.type == "cpu"
    if (name == "compiled" and not on_cpu) or (
        name == "triton" and on_cpu and not module.INTERPRETED
    ):
        raise ConfigError(
            f"HKD_CIF={name} cannot run on this device",
            got=device,
            wanted="a CPU" if name == "compiled" else "a GPU, or the interpreter",
            remedy="unset HKD_CIF for the default"
            if name == "compiled"
            else "set TRITON_INTERPRET=1 before Python starts, or unset HKD_CIF",
        )
    return module


@cache
def _compiled_loops() -> ModuleType | None:
    """`espnet_hkd.cif.compiled`, or None where numba does not run."""
    try:
        from espnet_hkd.cif import compiled
    except ImportError as error:
        logger.info("Integrate-and-fire on CPU is slower: no numba (%s)", error)
        return None
    return compiled


@cache
def _triton_kernels(device: torch.device) -> ModuleType | None:
    """`espnet_hkd.cif.triton`, or None where its kernels do not run on this device."""
    try:
        from espnet_hkd.cif import triton

        # The first launch needs a driver that fits and a C compiler.
        one = torch.ones(1, 1, 1, device=device)
        length = torch.ones(1, dtype=torch.long, device=device)
        triton.integrate(one, one[0], length, None, 1, slack=ROUNDING, tail=0.5)
    # Triton, its driver and the compilers behind it raise of every kind.
    except Exception as error:
        logger.info("Integrate-and-fire on %s is slower: no Triton (%s)", device, error)
        return None
    return triton
