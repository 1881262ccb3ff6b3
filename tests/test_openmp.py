"""Regions on PyTorch's threads: all take part, each knows its number, one suffices."""

import ctypes
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
from numba.np.numpy_support import carray

from espnet_hkd.cif import integrate_and_fire, openmp
from espnet_hkd.cif.openmp import compile_region, run_region, team_size, thread_number


def report(addresses):
    """Each thread of the team counts its calls, and tells how many it says they are."""
    calls = carray(addresses[0], 64, np.int64)
    teams = carray(addresses[1], 64, np.int64)
    calls[thread_number()] += 1
    teams[thread_number()] = team_size()


def calls_and_teams():
    calls, teams = np.zeros(64, np.int64), np.zeros(64, np.int64)
    run_region(compile_region(report), [calls, teams])
    return calls[calls > 0].tolist(), teams[teams > 0].tolist()


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_as_many_threads_as_pytorch_uses_take_part(number, threads):
    threads(number)
    assert openmp.threads_to_share() == number
    assert calls_and_teams() == ([1] * number, [number] * number)


def fire_with(environment):
    """The tokens and gradients of an utterance large enough to be shared, as text."""
    code = (
        "import torch\n"
        "from espnet_hkd.cif import integrate_and_fire as fire\n"
        "torch.set_num_threads(4)\n"
        "h = torch.arange(2000 * 256.).view(1, 2000, 256).remainder(97)\n"
        "h.requires_grad_()\n"
        "w = torch.full((1, 2000), 0.6)\n"
        "states = fire(h, w, torch.tensor([2000])).states\n"
        "states.square().sum().backward()\n"
        "print(states.double().sum().item(), h.grad.double().sum().item())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_team_smaller_than_asked_for_does_all():
    whole = fire_with({})
    assert fire_with({"OMP_THREAD_LIMIT": "2"}) == whole
    assert fire_with({"OMP_THREAD_LIMIT": "1"}) == whole


def test_machine_code_that_cannot_be_kept_is_used_all_the_same(monkeypatch, threads):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    threads(2)
    assert calls_and_teams() == ([1, 1], [2, 2])


def test_without_gnu_interface_this_thread_does_all(monkeypatch, threads):
    class Bare:
        def __init__(self, name):
            """A process without OpenMP."""

    threads(4)
    hidden, weights = torch.randn(1, 2000, 256), torch.full((1, 2000), 0.6)
    lengths = torch.tensor([2000])
    wanted = integrate_and_fire(hidden, weights, lengths).states
    monkeypatch.setattr(ctypes, "CDLL", Bare)
    openmp._openmp.cache_clear()
    try:
        assert openmp.threads_to_share() == 1
        got = integrate_and_fire(hidden, weights, lengths).states
    finally:
        openmp._openmp.cache_clear()
    assert torch.equal(got, wanted)
