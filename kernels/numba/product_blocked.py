"""blocked: a thread computes an 8×8 piece of the product, and keeps its 64 sums in registers.

Of each depth a thread reads 8 + 8 values from shared memory and makes 8 · 8 multiply-adds of them: a quarter of a read
for each, where `tiled` needs two. With 64 elements a thread a block's tile grows too, and memory traffic falls with it.

A local array becomes registers because every loop over it has a constant length, so that NVVM unrolls it; with a length
that is not constant it would be slow local memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.kernels.numba import epilogues, forms
from gpubp.kernels.numba.forms import Form
from gpubp.toolchain.numba_package import cuda

PIECE = 8
"""Rows and columns of a thread's piece."""
SUMS = PIECE * PIECE
TILE_K = 8
"""Depth of the tiles."""


@dataclass(frozen=True)
class Blocked:
    """The rung, for blocks of tile / 8 × tile / 8 threads."""

    tile: int

    def product(self, jit: Callable, form: Form, dtype: str, finish: Any) -> Any:
        """Return the device function (see ladder.py)."""
        scalar = np.dtype(dtype).type
        zero = scalar(0)
        tile = self.tile
        side = tile // PIECE  # threads along a side of the tile
        # 16 bytes of padding, so that neither the copy nor the product has bank conflicts: a warp that copies 8 depths
        # of 4 sides meets every bank once.
        line = tile + 16 // np.dtype(dtype).itemsize
        copy_a, copy_b = _copy(jit, form.a_by_depth, tile, side, zero), _copy(jit, form.b_by_depth, tile, side, zero)
        # A thread's rows and columns are `side` apart, and not neighbours, so that neighbouring threads read
        # neighbouring banks and store neighbouring elements.
        side_of = epilogues.sides(jit, 1, side)
        finish_sums = epilogues.sums(jit, PIECE, PIECE, dtype, side_of, side_of, finish)

        @jit(device=True, inline="always")
        def product(a, b, m, n, first, last, operands):
            a_tile = cuda.shared.array((TILE_K, line), scalar)  # [depth][side]
            b_tile = cuda.shared.array((TILE_K, line), scalar)
            sums = cuda.local.array(SUMS, scalar)
            a_values, b_values = cuda.local.array(PIECE, scalar), cuda.local.array(PIECE, scalar)
            first_row, first_column = np.int64(cuda.blockIdx.x) * tile, np.int64(cuda.blockIdx.y) * tile
            x, y = np.uint32(cuda.threadIdx.x), np.uint32(cuda.threadIdx.y)
            for s in range(SUMS):
                sums[s] = zero
            for k0 in range(first, last, TILE_K):
                copy_a(a, first_row, k0, m, last, a_tile)
                copy_b(b, first_column, k0, n, last, b_tile)
                cuda.syncthreads()  # the tiles are whole
                for k in range(TILE_K):
                    for i in range(PIECE):
                        a_values[i] = a_tile[k, side_of(y, i)]
                        b_values[i] = b_tile[k, side_of(x, i)]
                    for i in range(PIECE):
                        for j in range(PIECE):
                            sums[i * PIECE + j] += a_values[i] * b_values[j]
                cuda.syncthreads()  # nobody reads them any more
            finish_sums(sums, m, n, first_row, first_column, y, x, operands)

        return product


def _copy(jit: Callable, by_depth: bool, tile_side: int, side: int, zero: Any) -> Any:
    """Return the device function copy(x, first_side, first_depth, side, depth, tile): what lies outside is 0."""
    at = forms.element(jit, by_depth)
    threads = side * side

    @jit(device=True, inline="always")
    def copy(x, first_side, first_depth, sides, depth, tile):
        for c in range(tile_side * TILE_K // threads):
            q = np.uint32(c * threads) + np.uint32(cuda.threadIdx.y) * np.uint32(side) + np.uint32(cuda.threadIdx.x)
            # neighbouring threads read neighbouring addresses
            s = q // TILE_K if by_depth else q % tile_side
            k = q % TILE_K if by_depth else q // tile_side
            if first_side + s < sides and first_depth + k < depth:
                tile[k, s] = at(x, first_side + s, first_depth + k)
            else:
                tile[k, s] = zero

    return copy
