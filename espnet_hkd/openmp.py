"""Compiled loops on the threads that PyTorch's own operators run on.

Threads of our own would share the cores with PyTorch's, which after each operator wait
for the next one without sleeping: two of them took longer than one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch

# Parts per thread: where a core also works for others, the rest takes more of them.
PARTS = 4
_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def share_rows(fill: Callable[..., None], rows: int, *arguments: object) -> None:
    """Call `fill(first, last, *arguments)` for parts that make up rows 0 to `rows`.

    As many threads as `torch.get_num_threads()` says take part, if PyTorch uses OpenMP
    as GNU's compiler does; otherwise this one alone.

    Args:
        fill: Releases the interpreter's lock while it works.
        rows: Number of rows, each filled independently of the others.
        arguments: Handed on.

    Raises:
        Exception: What `fill` raised, once no thread is at work any more.
    """
    threads, openmp = torch.get_num_threads(), _openmp()
    if threads == 1 or openmp is None:
        fill(0, rows, *arguments)
        return
    count = PARTS * threads
    parts = list(pairwise(rows * part // count for part in range(count + 1)))
    errors = []

    def fill_parts(_: object) -> None:
        # Inside another parallel region there may be fewer threads than parts.
        while True:
            try:
                first, last = parts.pop()
            except IndexError:
                return
            try:
                fill(first, last, *arguments)
            except BaseException as error:
                # A foreign thread cannot raise it.
                errors.append(error)

    openmp.GOMP_parallel(_REGION(fill_parts), None, threads, 0)
    if errors:
        raise errors[0]


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library of this process, or None if it has no GNU interface.

    `GOMP_parallel` is what GNU's compiler makes of `#pragma omp parallel`: part of the
    library's binary interface (LLVM's and Intel's have it too), not of its headers.
    """
    try:
        library = ctypes.CDLL(None)
        library.GOMP_parallel.restype = None
    except (AttributeError, OSError, TypeError):
        return None
    library.GOMP_parallel.argtypes = [
        _REGION,
        ctypes.c_void_p,
        ctypes.c_uint,
        ctypes.c_uint,
    ]
    return library
