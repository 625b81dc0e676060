"""Column sums of a matrix, in one launch: parts of the rows, which the last warp to arrive adds up.

    out[j] ← α Σ_i x[i, j] + β out[j]

A warp takes 32 neighbouring columns, so that every access moves whole sectors, of one part of the rows. It needs no
shared memory and no barrier of its block: so further blocks of any kernel can do it beside what the kernel is there
for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.numba import arrivals as arriving
from gpubp.kernels.numba.arrivals import ARRIVALS
from gpubp.kernels.numba.signatures import array
from gpubp.toolchain.numba_package import cuda


def types(dtype: str) -> tuple[str, ...]:
    """Return the types of (x, out, parts, arrivals)."""
    return array(dtype, 2), array(dtype, 1), array(dtype, 2), ARRIVALS


def of_warps(jit: Callable, dtype: str) -> Any:
    """Return the device function add_columns(x, out, parts, arrivals, α, β, warp, lane).

    parts: (P, columns), room for the sums of P parts of the rows; arrivals: a 0 for every 32 columns. Warps are
    numbered from 0, and those after the last part have nothing to do. out is not read where β = 0.
    """
    zero = np.dtype(dtype).type(0)
    arrives_last = arriving.of_warps(jit)

    @jit(device=True, inline="always")
    def sum_of_rows(x, first, last, column):
        total = zero
        for i in range(first, last):
            total += x[i, column]
        return total

    @jit(device=True, inline="always")
    def add_columns(x, out, parts, arrivals, alpha, beta, warp, lane):
        rows, width, count = x.shape[0], x.shape[1], parts.shape[0]
        groups = (width + 31) // 32
        group, part = warp % groups, warp // groups
        column = group * 32 + lane
        if part < count:
            a_part = (rows + count - 1) // count
            total = zero
            if column < width:
                total = sum_of_rows(x, part * a_part, min((part + 1) * a_part, rows), column)
            is_last = np.int32(1)
            if count > 1:
                if column < width:
                    parts[part, column] = total
                is_last = arrives_last(arrivals, group, count, lane)
                if is_last == 1 and column < width:
                    total = sum_of_rows(parts, 0, count, column)
            if is_last == 1 and column < width:
                total *= alpha
                if beta != zero:
                    total += beta * out[column]
                out[column] = total

    return add_columns


def beside(jit: Callable, dtype: str) -> Any:
    """Return the device function add_beside(x, out, parts, arrivals, α, β): the share of a block beside a product.

    Its grid has more than one layer, of which the first one computes the product, and the others add up columns. So
    what is small costs no launch of its own.
    """
    add_columns = of_warps(jit, dtype)

    @jit(device=True, inline="always")
    def add_beside(x, out, parts, arrivals, alpha, beta):
        layer = np.int64(cuda.blockIdx.z - 1)
        block = (layer * cuda.gridDim.y + cuda.blockIdx.y) * cuda.gridDim.x + cuda.blockIdx.x
        thread = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        warps = cuda.blockDim.x * cuda.blockDim.y // 32
        add_columns(x, out, parts, arrivals, alpha, beta, block * warps + thread // 32, thread % 32)

    return add_beside
