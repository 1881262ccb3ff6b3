"""The loops of integrate_and_fire that are compiled for the CPU: where numba fails.

What they calculate, `test_cif.py` asks of all implementations alike.
"""

import logging
import os
import subprocess
import sys

import numba
import torch

from espnet_hkd import cif
from espnet_hkd.cif import integrate_and_fire
from espnet_hkd.compiling import compile_loops

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


def test_without_numba_the_operators_do_it(monkeypatch, caplog):
    wanted = fire()
    monkeypatch.delenv("HKD_CIF", raising=False)
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
    twice = compile_loops()(lambda x: 2 * x)
    assert twice(3.0) == 6.0


def test_a_full_disk_costs_nothing_but_time(tmp_path):
    """No file may grow in this process, whichever folder numba would keep code in."""
    code = (
        "import resource, torch\n"
        "from espnet_hkd.cif import integrate_and_fire as fire\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
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
