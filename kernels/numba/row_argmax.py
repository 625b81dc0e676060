"""row_argmax: out[i] = the first j of the largest x[i, j]; a NaN counts as the largest

    x (B, n), out (B,)

A team of threads takes a row: a warp for narrow rows, a block for wide ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.numba import reductions
from gpubp.kernels.numba.signatures import LABELS, array, kernel
from gpubp.toolchain.numba_package import cuda


def make(jit: Callable, dtype: str, team: int) -> Any:
    """Return the kernel row_argmax(x, out), in blocks of (team, rows a block)."""
    reduce = reductions.team(jit, team, dtype, reductions.maximum(jit))
    reduce_place = reductions.team(jit, team, "int64", reductions.maximum(jit))
    precedes = _precedes(jit)

    def row_argmax(x, out):
        row = cuda.blockIdx.x * np.int64(cuda.blockDim.y) + cuda.threadIdx.y
        if row >= x.shape[0]:
            return
        width = x.shape[1]
        best, place = x[row, 0], np.int64(0)
        for j in range(cuda.threadIdx.x, width, team):
            if precedes(x[row, j], j, best, place):
                best, place = x[row, j], np.int64(j)
        # the winning value first, then the first place that holds it
        winner = reduce(best)
        mine = best == winner or (math.isnan(best) and math.isnan(winner))
        place = -reduce_place(-place if mine else -width)
        if cuda.threadIdx.x == 0:
            out[row] = place

    return jit(kernel(array(dtype, 2), LABELS))(row_argmax)


def _precedes(jit: Callable) -> Any:
    """Return the device function precedes(x, i, y, j): whether x at place i wins over y at place j."""

    @jit(device=True, inline="always")
    def precedes(x, i, y, j):
        x_nan, y_nan = math.isnan(x), math.isnan(y)
        if x_nan != y_nan:
            return x_nan
        if x_nan or x == y:
            return i < j
        return x > y

    return precedes
