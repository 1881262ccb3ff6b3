"""Rows shared among PyTorch's threads: each filled once, errors told, one suffices."""

import ctypes
import sys
import threading

import pytest
import torch

from espnet_hkd import openmp
from espnet_hkd.openmp import share_rows


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def parts_of(rows):
    """(first, last, thread) of each part."""
    parts = []
    share_rows(
        lambda first, last: parts.append((first, last, threading.get_ident())), rows
    )
    return sorted(parts)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 1000])
def test_every_row_belongs_to_one_part(rows):
    filled = [row for first, last, _ in parts_of(rows) for row in range(first, last)]
    assert filled == list(range(rows))


def test_as_many_threads_as_pytorch_uses_take_part():
    together = threading.Barrier(3 if sys.platform == "linux" else 1, timeout=60)
    share_rows(lambda *rows: together.wait(), 1000)


def test_one_thread_stays_alone():
    torch.set_num_threads(1)
    assert parts_of(1000) == [(0, 1000, threading.get_ident())]


def test_inside_a_parallel_region_nothing_is_left_out():
    seen = []

    def nested(first, last):
        share_rows(lambda *rows: seen.append(rows), last - first)

    share_rows(nested, 9)
    assert sum(last - first for first, last in seen) == 9


@pytest.mark.parametrize("failing", [0, 999])
def test_an_error_in_any_thread_is_raised_here(failing):
    def fill(first, last):
        if first <= failing < last:
            raise MemoryError(f"row {failing}")

    with pytest.raises(MemoryError, match=f"row {failing}"):
        share_rows(fill, 1000)


def test_without_gnu_interface_this_thread_does_all(monkeypatch):
    class Bare:
        def __init__(self, name):
            """A process without OpenMP."""

    monkeypatch.setattr(ctypes, "CDLL", Bare)
    openmp._openmp.cache_clear()
    try:
        assert parts_of(1000) == [(0, 1000, threading.get_ident())]
    finally:
        openmp._openmp.cache_clear()
