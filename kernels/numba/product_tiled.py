"""tiled: the block copies a TILE×TILE piece of each operand into shared memory and every thread reads it from there.

Each element fetched from memory now serves TILE threads instead of one, so memory traffic falls by that factor. Still
one output element a thread, and two shared-memory reads for each multiply-add, which is what limits it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.kernels.numba import forms
from gpubp.kernels.numba.forms import Form
from gpubp.toolchain.numba_package import cuda


@dataclass(frozen=True)
class Tiled:
    """The rung, for blocks of tile×tile threads."""

    tile: int

    def product(self, jit: Callable, form: Form, dtype: str, finish: Any) -> Any:
        """Return the device function (see ladder.py)."""
        scalar = np.dtype(dtype).type
        zero = scalar(0)
        tile = self.tile
        # The padding column puts the elements of one column into different banks, so that neither the copy nor the
        # product has bank conflicts, whichever index runs along the warp. (With tile 16 a warp copies two rows at a
        # time, and of 33 places in a line the last lies in the bank of the first: one conflict.)
        line = tile + 1
        copy_a, copy_b = _copy(jit, form.a_by_depth, zero), _copy(jit, form.b_by_depth, zero)

        @jit(device=True, inline="always")
        def product(a, b, m, n, first, last, operands):
            a_tile = cuda.shared.array((tile, line), scalar)  # [side][depth]
            b_tile = cuda.shared.array((tile, line), scalar)
            first_row, first_column = np.int64(cuda.blockIdx.x) * tile, np.int64(cuda.blockIdx.y) * tile
            x, y = cuda.threadIdx.x, cuda.threadIdx.y
            total = zero
            for k0 in range(first, last, tile):
                copy_a(a, first_row, k0, m, last, a_tile)
                copy_b(b, first_column, k0, n, last, b_tile)
                cuda.syncthreads()  # the tiles are whole
                for k in range(tile):
                    total += a_tile[y, k] * b_tile[x, k]
                cuda.syncthreads()  # nobody reads them any more
            i, j = first_row + y, first_column + x
            if i < m and j < n:
                finish(operands, np.uint64(i), np.uint64(j), total)

        return product


def _copy(jit: Callable, by_depth: bool, zero: Any) -> Any:
    """Return the device function copy(x, first_side, first_depth, side, depth, tile): what lies outside is 0."""
    at = forms.element(jit, by_depth)

    @jit(device=True, inline="always")
    def copy(x, first_side, first_depth, side, depth, tile):
        # neighbouring threads read neighbouring addresses
        s = cuda.threadIdx.y if by_depth else cuda.threadIdx.x
        k = cuda.threadIdx.x if by_depth else cuda.threadIdx.y
        if first_side + s < side and first_depth + k < depth:
            tile[s, k] = at(x, first_side + s, first_depth + k)
        else:
            tile[s, k] = zero

    return copy
