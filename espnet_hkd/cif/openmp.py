"""Compiled loops on the threads that PyTorch's own operators run on.

Threads of our own would share the cores with PyTorch's, which after each operator wait
for the next one without sleeping: two of them took longer than one. And a thread that
has to enter Python first waits for its lock, 0.1 ms here. So numba compiles a region to
a C function, and `GOMP_parallel`, which is what GNU's compiler makes of
`#pragma omp parallel`, lets all threads call it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache

import numba
import numpy as np
import torch
from numba import types

# Region: C function of the addresses of the arrays it works on.
_REGION = types.void(types.CPointer(types.voidptr))

# For use in a region.
team_size = types.ExternalFunction("omp_get_num_threads", types.int32())
thread_number = types.ExternalFunction("omp_get_thread_num", types.int32())


def threads_to_share() -> int:
    """How many threads `run_region` would employ: 1 where it cannot be used.

    As many as PyTorch uses, if it uses OpenMP as GNU's compiler does.
    """
    return torch.get_num_threads() if _openmp() is not None else 1


def compile_region(region: Callable[..., None]):
    """Machine code of `region`, kept for later processes where that can be.

    Call it only where `threads_to_share()` is above 1: elsewhere `team_size` and
    `thread_number` are not to be found.

    Args:
        region: Gets the addresses of arrays, from which numba's `carray` makes arrays
            again. It is compiled without Python objects and must not raise.
    """
    try:
        return numba.cfunc(_REGION, cache=True, error_model="numpy")(region)
    except (OSError, RuntimeError):
        # No folder can be written, or the disk is full.
        return numba.cfunc(_REGION, error_model="numpy")(region)


def run_region(region, arrays: Sequence[np.ndarray]) -> None:
    """Call a compiled region in each of `threads_to_share()` threads at once.

    There may be fewer, inside another region or by OMP_THREAD_LIMIT: see `team_size`.

    Args:
        region: From `compile_region`.
        arrays: Each contiguous.
    """
    library = _openmp()
    assert library is not None
    assert all(array.flags.c_contiguous for array in arrays)
    addresses = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    library.GOMP_parallel(region.address, addresses, threads_to_share(), 0)


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library of this process, or None if it has no GNU interface.

    `GOMP_parallel` is part of the library's binary interface (LLVM's and Intel's have
    it too), not of its headers.
    """
    try:
        library = ctypes.CDLL(None)
        library.GOMP_parallel.restype = None
        for name in (team_size.symbol, thread_number.symbol):
            getattr(library, name)
    except (AttributeError, OSError, TypeError):
        return None
    library.GOMP_parallel.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_uint,
        ctypes.c_uint,
    ]
    return library
