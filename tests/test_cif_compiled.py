"""The loops of integrate_and_fire that are compiled for the CPU: threads, NaN, numba.

What they calculate, `test_cif.py` asks of all ways alike.
"""

import logging
import os
import subprocess
import sys

import numba
import pytest
import torch

from espnet_hkd import cif
from espnet_hkd.cif import compiled, integrate_and_fire

LENGTHS, TARGETS = torch.tensor([900, 1000, 640]), torch.tensor([80, 100, 0])


def draw(width=256):
    torch.manual_seed(0)
    hidden = torch.randn(len(LENGTHS), 1000, width, requires_grad=True)
    weights = (torch.rand(len(LENGTHS), 1000) / 5).requires_grad_()
    return hidden, weights


def fire(targets=TARGETS):
    """Tokens, ends and gradients."""
    hidden, weights = draw()
    fired = integrate_and_fire(hidden, weights, LENGTHS, targets=targets)
    loss = fired.states.square().sum() + fired.mass.square().sum()
    return fired.states, fired.ends, *torch.autograd.grad(loss, (hidden, weights))


@pytest.mark.parametrize("targets", [TARGETS, None], ids=["to targets", "freely"])
@pytest.mark.parametrize("number", [2, 3, 7])
def test_threads_change_nothing(targets, number, threads):
    hidden, _ = draw()
    assert (
        TARGETS.max() * len(TARGETS) * hidden.size(2) < compiled.SMALL < hidden.numel()
    )
    threads(1)
    wanted = fire(targets)
    threads(number)
    for ours, alone in zip(fire(targets), wanted, strict=True):
        assert torch.equal(ours, alone)


@pytest.mark.parametrize("targets", [TARGETS, None], ids=["to targets", "freely"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0, 1e30])
def test_weights_that_are_none_stay_with_their_utterance(bad, targets):
    hidden, weights = draw()
    weights = weights.detach()
    healthy = integrate_and_fire(hidden, weights, LENGTHS, targets=targets)
    weights[1, 500:503] = bad
    weights.requires_grad_()
    fired = integrate_and_fire(
        hidden, weights, LENGTHS, targets=targets, max_tokens=healthy.states.size(1)
    )
    assert fired.lengths[1] <= healthy.states.size(1)
    torch.autograd.grad(fired.states.sum(), (hidden, weights))
    for b in (0, 2):
        assert torch.equal(fired.states[b], healthy.states[b])


def test_without_numba_the_operators_do_it(monkeypatch, caplog):
    wanted = fire()
    monkeypatch.setitem(sys.modules, "espnet_hkd.cif.compiled", None)
    monkeypatch.delattr("espnet_hkd.cif.compiled")
    cif._compiled_loops.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="espnet_hkd.cif"):
            got = fire()
    finally:
        cif._compiled_loops.cache_clear()
    assert "no numba" in caplog.text
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_compiler_sees_the_operators():
    hidden, weights = draw(width=4)
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph

    def states(hidden, weights):
        fired = integrate_and_fire(
            hidden, weights, LENGTHS, targets=TARGETS, max_tokens=120
        )
        return fired.states

    compiled = torch.compile(states, backend=backend)
    got, wanted = compiled(hidden, weights), states(hidden, weights)
    assert seen
    torch.testing.assert_close(got, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(got.sum(), (hidden, weights)),
        torch.autograd.grad(wanted.sum(), (hidden, weights)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_machine_code_that_cannot_be_kept_is_used_all_the_same(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    twice = compiled._compile(lambda x: 2 * x)
    assert twice(3.0) == 6.0


def test_a_full_disk_costs_nothing_but_time(tmp_path):
    """No file may grow in this process, whichever folder numba would keep code in."""
    code = (
        "import resource, torch\n"
        "from espnet_hkd.cif import integrate_and_fire as fire\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "torch.set_num_threads(2)\n"
        "hidden = torch.full((1, 8, 2**16), 0.5)\n"
        "states = fire(hidden, hidden[..., 0], torch.tensor([8])).states\n"
        "print(states[..., 0].flatten().tolist())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[0.5, 0.5, 0.5, 0.5]"
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and f.stat().st_size]
