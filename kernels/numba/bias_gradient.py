"""bias_gradient: ∂L/∂b = Σ_batch δ, a column sum

    delta (B, n), gradient (n,)

Two stages, each in a fixed order. Neighbouring threads take neighbouring columns, so that every access moves whole
sectors; BLOCK_ROWS threads of a block share a column, and so do the blocks of one column of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.numba.signatures import COUNT, array, kernel
from gpubp.toolchain.numba_package import cuda

BLOCK_COLUMNS, BLOCK_ROWS = 32, 8


def parts(jit: Callable, dtype: str) -> Any:
    """First stage: parts[p, j] = Σ δ[i, j] over the rows i of part p. With one part, parts is the gradient itself."""
    scalar = np.dtype(dtype).type
    zero = scalar(0)

    def bias_gradient_parts(delta, parts, rows_a_part):
        sums = cuda.shared.array((BLOCK_ROWS, BLOCK_COLUMNS), scalar)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        column = np.int64(cuda.blockIdx.x) * BLOCK_COLUMNS + x
        first = cuda.blockIdx.y * rows_a_part
        last = min(first + rows_a_part, delta.shape[0])
        total = zero
        if column < delta.shape[1]:
            for i in range(first + y, last, BLOCK_ROWS):
                total += delta[i, column]
        sums[y, x] = total
        cuda.syncthreads()
        if y == 0 and column < delta.shape[1]:
            for other in range(1, BLOCK_ROWS):
                total += sums[other, x]
            parts[cuda.blockIdx.y, column] = total

    return jit(kernel(array(dtype, 2), array(dtype, 2), COUNT))(bias_gradient_parts)


def add_parts(jit: Callable, dtype: str) -> Any:
    """Second stage: gradient[j] = Σ_p parts[p, j]."""

    def bias_gradient(parts, gradient):
        column = cuda.grid(1)
        if column < gradient.size:
            total = parts[0, column]
            for p in range(1, parts.shape[0]):
                total += parts[p, column]
            gradient[column] = total

    return jit(kernel(array(dtype, 2), array(dtype, 1)))(bias_gradient)
