"""softmax: a[i, j] = e^(z[i, j] − m) / Σ_k e^(z[i, k] − m), m = max_k z[i, k]

    z, a (B, n)

A team of threads takes a row: a warp for narrow rows, a block for wide ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.numba import reductions
from gpubp.kernels.numba.signatures import array, kernel
from gpubp.toolchain.numba_package import cuda


def make(jit: Callable, dtype: str, team: int) -> Any:
    """Return the kernel softmax(z, a), in blocks of (team, rows a block)."""
    zero = np.dtype(dtype).type(0)
    larger = reductions.maximum(jit)
    reduce_largest = reductions.team(jit, team, dtype, larger)
    reduce = reductions.team(jit, team, dtype, reductions.total(jit))

    def softmax(z, a):
        row = cuda.blockIdx.x * np.int64(cuda.blockDim.y) + cuda.threadIdx.y
        if row >= z.shape[0]:
            return
        width = z.shape[1]
        largest = z[row, 0]
        for j in range(cuda.threadIdx.x, width, team):
            largest = larger(largest, z[row, j])
        largest = reduce_largest(largest)
        total = zero
        for j in range(cuda.threadIdx.x, width, team):
            total += math.exp(z[row, j] - largest)
        total = reduce(total)
        for j in range(cuda.threadIdx.x, width, team):
            a[row, j] = math.exp(z[row, j] - largest) / total

    return jit(kernel(array(dtype, 2), array(dtype, 2)))(softmax)
