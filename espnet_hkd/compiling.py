"""Plain loops over numpy arrays, compiled by numba for the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numba


def compile_loops(**options: Any) -> Callable[[Callable], Callable]:
    """Decorate a function to be compiled at its first call, without Python's lock.

    The machine code is kept for later processes where that is possible: neither a
    folder that cannot be written nor a full disk is an error.

    Args:
        options: Of numba.njit.
    """

    def decorate(loops: Callable) -> Callable:
        try:
            compiled = numba.njit(cache=True, nogil=True, **options)(loops)
        except RuntimeError:
            # Neither the package's folder nor the user's cache can be written.
            compiled = numba.njit(nogil=True, **options)(loops)

        @wraps(loops)
        def run(*arguments):
            try:
                return compiled(*arguments)
            except OSError:
                # Compiled, but not kept: the disk is full.
                return compiled(*arguments)

        return run

    return decorate
