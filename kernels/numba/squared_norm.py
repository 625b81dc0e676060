"""squared_norm: out[0] = Σ x², in float64

    x: flat; out (1,) float64

Two stages, each in a fixed order: one part a block, then one block adds the parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.numba import reductions
from gpubp.kernels.numba.reductions import SUM_THREADS
from gpubp.kernels.numba.signatures import array, kernel
from gpubp.toolchain.numba_package import cuda

PARTS = array("float64", 1)


def parts(jit: Callable, dtype: str) -> Any:
    """First stage: parts[p] = Σ x² over the elements of block p."""
    reduce = reductions.team(jit, SUM_THREADS, "float64", reductions.total(jit))

    def squared_norm_parts(x, parts):
        total = 0.0
        i, step = cuda.grid(1), cuda.gridsize(1)
        while i < x.size:
            value = np.float64(x[i])
            total += value * value
            i += step
        total = reduce(total)
        if cuda.threadIdx.x == 0:
            parts[cuda.blockIdx.x] = total

    return jit(kernel(array(dtype, 1), PARTS))(squared_norm_parts)


def add_parts(jit: Callable) -> Any:
    """Second stage, by one block: out[0] = Σ parts."""
    add = reductions.sum_of_parts(jit)

    def squared_norm(parts, out):
        total = add(parts)
        if cuda.threadIdx.x == 0:
            out[0] = total

    return jit(kernel(PARTS, PARTS))(squared_norm)
