"""cast: out = source, rounded to the type of out

source, out: flat, of one size; with one type it is a copy
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.kernels.numba.signatures import array, kernel
from gpubp.toolchain.numba_package import cuda


def make(jit: Callable, source_dtype: str, dtype: str) -> Any:
    """Return the kernel cast(source, out), one thread an element."""

    def cast(source, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = source[i]

    return jit(kernel(array(source_dtype, 1), array(dtype, 1)))(cast)
