"""scale: x ← factor x

x: flat
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.kernels.numba.signatures import array, kernel
from gpubp.toolchain.numba_package import cuda


def make(jit: Callable, dtype: str) -> Any:
    """Return the kernel scale(x, factor), one thread an element."""

    def scale(x, factor):
        i = cuda.grid(1)
        if i < x.size:
            x[i] *= factor

    return jit(kernel(array(dtype, 1), dtype))(scale)
