"""pipelined: tiles arrive in shared memory while the ones before them are being used.

In `blocked` all threads of a block wait for a tile, and then memory waits for them. Here neither waits for the other:

    Double buffering   Two tiles are in shared memory. The loads of the next one are issued before the arithmetic of
                       this one and stored after it, so that memory works while the multiplier does.
    No guards          The main loop runs over whole tiles and checks nothing. The tile that depth does not fill comes
                       first, padded with zeros. Rows and columns outside the operand are clamped to its last ones:
                       their sums are never stored.
    No bank conflicts  A tile lies as [depth][side] with a few columns of padding (see LINE_M).

What Python cannot say here, and CUDA C++ can: cp.async, which needs no registers on the way into shared memory, and so
more than two stages; 16-byte accesses to global memory, as an array's elements are loaded one by one.

A block computes TILE_M×TILE_N of the result, a thread THREAD_M×THREAD_N of that in registers, as in `blocked`. Threads
stand as THREADS_M×THREADS_N over the tile, a warp as 4×8 of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.kernels.numba import epilogues, forms
from gpubp.kernels.numba.forms import Form
from gpubp.toolchain import numba_package
from gpubp.toolchain.numba_package import cuda

TILE_K = 8
"""Depth of the tiles: 8 makes copies of single elements conflict-free."""

GROUP = 8
"""Rows of tiles that blocks go down before they go to the next column of tiles: those that run at the same time should
share operands in the second-level cache."""


@dataclass(frozen=True)
class Pipelined:
    """The rung, for blocks of tile_m / thread_m · tile_n / thread_n threads in one row; block number blockIdx.x takes a
    tile of the result.

    tile_m, tile_n: what a block computes of the result. thread_m, thread_n: what a thread does.
    """

    tile_m: int
    tile_n: int
    thread_m: int
    thread_n: int

    def shared_bytes(self, dtype: str) -> int:
        """Return the static shared memory of a block: two tiles of each operand, with their padding."""
        return 2 * TILE_K * (self.tile_m + self.tile_n + 2 * _unit(dtype)) * np.dtype(dtype).itemsize

    def product(self, jit: Callable, form: Form, dtype: str, finish: Any) -> Any:
        """Return the device function (see ladder.py); first < last."""
        scalar = np.dtype(dtype).type
        zero = scalar(0)
        TILE_M, TILE_N = self.tile_m, self.tile_n
        THREAD_M, THREAD_N = self.thread_m, self.thread_n
        THREADS_M, THREADS_N = TILE_M // THREAD_M, TILE_N // THREAD_N
        WARPS_N = THREADS_N // 8
        THREADS = THREADS_M * THREADS_N
        SUMS = THREAD_M * THREAD_N
        A_COPIES, B_COPIES = TILE_M * TILE_K // THREADS, TILE_N * TILE_K // THREADS
        # Sides that lie side by side for one thread: a run of 16 bytes, so that neighbouring threads read whole lines.
        WIDEST = _unit(dtype)
        RUN_M, RUN_N = min(THREAD_M, WIDEST), min(THREAD_N, WIDEST)
        # The padding shifts the banks of each depth by 16 bytes: a warp that stores a depth-contiguous operand, 8
        # depths of 4 sides, meets every bank once (float64: half a warp, 8 depths of 2 sides), and 16-byte reads stay
        # aligned.
        LINE_M, LINE_N = TILE_M + WIDEST, TILE_N + WIDEST

        a_tile_of = _tile_functions(jit, form.a_by_depth, TILE_M, THREADS, A_COPIES, zero)
        b_tile_of = _tile_functions(jit, form.b_by_depth, TILE_N, THREADS, B_COPIES, zero)
        a_fetch_first, a_fetch, a_land = a_tile_of
        b_fetch_first, b_fetch, b_land = b_tile_of
        row_of, column_of = epilogues.sides(jit, RUN_M, THREADS_M), epilogues.sides(jit, RUN_N, THREADS_N)
        a_read, b_read = _read(jit, THREAD_M, row_of), _read(jit, THREAD_N, column_of)
        finish_sums = epilogues.sums(jit, THREAD_M, THREAD_N, dtype, row_of, column_of, finish)
        place_of = _tile_place(jit)
        A_TILES, B_TILES = _two_tiles(LINE_M), _two_tiles(LINE_N)
        of_two = _one_of_two(jit)

        @jit(device=True, inline="always")
        def multiply(a_values, b_values, sums):
            for i in range(THREAD_M):
                for j in range(THREAD_N):
                    sums[i * THREAD_N + j] += a_values[i] * b_values[j]

        # inlined by NVVM and not by Numba, which would take it through its own passes once for each depth
        @jit(device=True, forceinline=True)
        def multiply_depth(k, a_tile, b_tile, thread_m, thread_n, a_values, b_values, sums):
            a_read(a_tile[k], thread_m, a_values)
            b_read(b_tile[k], thread_n, b_values)
            multiply(a_values, b_values, sums)

        multiply_tile = _for_each_depth(jit, multiply_depth)

        @jit(device=True, inline="always")
        def product(a, b, m, n, first, last, operands):
            a_tiles = cuda.shared.array(A_TILES, scalar, alignment=16)
            b_tiles = cuda.shared.array(B_TILES, scalar, alignment=16)
            sums = cuda.local.array(SUMS, scalar)
            a_next, b_next = cuda.local.array(A_COPIES, scalar), cuda.local.array(B_COPIES, scalar)
            a_values, b_values = cuda.local.array(THREAD_M, scalar), cuda.local.array(THREAD_N, scalar)
            for s in range(SUMS):
                sums[s] = zero

            tile_row, tile_column = place_of((m + TILE_M - 1) // TILE_M, (n + TILE_N - 1) // TILE_N)
            first_row, first_column = tile_row * TILE_M, tile_column * TILE_N
            thread = np.uint32(cuda.threadIdx.x)
            warp, lane = thread // np.uint32(32), thread % np.uint32(32)
            thread_n = lane % 8 + warp % WARPS_N * 8  # 0 .. THREADS_N − 1
            thread_m = lane // 8 + warp // WARPS_N * 4  # 0 .. THREADS_M − 1

            tiles = (last - first + TILE_K - 1) // TILE_K
            present = last - first - (tiles - 1) * TILE_K  # of the first tile's depth
            a_fetch_first(a, first_row, first, m, present, a_next)
            b_fetch_first(b, first_column, first, n, present, b_next)
            a_land(a_next, of_two(a_tiles, 0))
            b_land(b_next, of_two(b_tiles, 0))
            cuda.syncthreads()

            depth = first + present
            for tile in range(tiles):
                reading = np.uint32(tile) % np.uint32(2)
                more = tile + 1 < tiles
                if more:
                    a_fetch(a, first_row, depth, m, a_next)
                    b_fetch(b, first_column, depth, n, b_next)
                    depth += TILE_K
                a_tile, b_tile = of_two(a_tiles, reading), of_two(b_tiles, reading)
                multiply_tile(a_tile, b_tile, thread_m, thread_n, a_values, b_values, sums)
                if more:
                    # the other buffer: everybody has read it, since the last barrier
                    a_land(a_next, of_two(a_tiles, reading ^ np.uint32(1)))
                    b_land(b_next, of_two(b_tiles, reading ^ np.uint32(1)))
                cuda.syncthreads()  # the next tile is whole

            finish_sums(sums, m, n, first_row, first_column, thread_m, thread_n, operands)

        return product


def _unit(dtype: str) -> int:
    """Return how many elements 16 bytes hold."""
    return 16 // np.dtype(dtype).itemsize


def _two_tiles(line: int) -> tuple[int, ...]:
    """Return the shape of an array that holds two tiles; see `_one_of_two`."""
    return (2, TILE_K, line) if numba_package.chosen().views_planes else (2 * TILE_K, line)


def _one_of_two(jit: Callable) -> Any:
    """Return the device function of_two(tiles, buffer): one of two tiles.

    numba-cuda-mlir 0.6 compiles no view of two dimensions in an array of three. There the tiles stand as rows.
    """
    if numba_package.chosen().views_planes:

        @jit(device=True, inline="always")
        def plane_of_two(tiles, buffer):
            return tiles[buffer]

        return plane_of_two

    @jit(device=True, inline="always")
    def of_two(tiles, buffer):
        return tiles[buffer * TILE_K : (buffer + 1) * TILE_K]

    return of_two


def _tile_functions(
    jit: Callable, by_depth: bool, side_of_tile: int, threads: int, copies: int, zero: Any
) -> tuple[Any, Any, Any]:
    """Return device functions that move one operand's piece of a tile: fetch_first and fetch load it into a thread's
    own array, land stores that in shared memory."""
    at = forms.element(jit, by_depth)

    @jit(device=True, inline="always")
    def place(c):
        """Which side and depth of the tile copy c of this thread moves: neighbours read neighbouring addresses."""
        q = np.uint32(cuda.threadIdx.x) + np.uint32(c * threads)
        if by_depth:
            return q // TILE_K, q % TILE_K
        return q % side_of_tile, q // side_of_tile

    @jit(device=True, inline="always")
    def fetch_first(x, first_side, first_depth, side, present, values):
        for c in range(copies):
            s, k = place(c)
            values[c] = at(x, min(first_side + s, side - 1), first_depth + k) if k < present else zero

    @jit(device=True, inline="always")
    def fetch(x, first_side, first_depth, side, values):
        for c in range(copies):
            s, k = place(c)
            values[c] = at(x, min(first_side + s, side - 1), first_depth + k)

    @jit(device=True, inline="always")
    def land(values, tile):
        for c in range(copies):
            s, k = place(c)
            tile[k, s] = values[c]

    return fetch_first, fetch, land


def _read(jit: Callable, per_thread: int, side_of: Any) -> Any:
    """Return the device function read(line, thread, values): a thread's own sides of one depth of a tile."""

    @jit(device=True, inline="always")
    def read(line, thread, values):
        for v in range(per_thread):
            values[v] = line[side_of(thread, v)]

    return read


def _for_each_depth(jit: Callable, body: Any) -> Any:
    """Return the device function run(*arguments): body(k, *arguments) for every depth k of a tile.

    It is a chain of calls and no loop, because NVVM does not unroll one with so long a body, and Python cannot ask it
    to. With every k a constant, addresses in shared memory are a base and constants.
    """

    @jit(device=True, inline="always")
    def nothing(a_tile, b_tile, thread_m, thread_n, a_values, b_values, sums):
        pass

    def before(k, rest):
        @jit(device=True, inline="always")
        def run(a_tile, b_tile, thread_m, thread_n, a_values, b_values, sums):
            body(k, a_tile, b_tile, thread_m, thread_n, a_values, b_values, sums)
            rest(a_tile, b_tile, thread_m, thread_n, a_values, b_values, sums)

        return run

    run = nothing
    for k in reversed(range(TILE_K)):
        run = before(k, run)
    return run


def _tile_place(jit: Callable) -> Any:
    """Return the device function place_of(rows, columns) of tiles: row and column of this block's tile."""

    @jit(device=True, inline="always")
    def place_of(rows, columns):
        block = np.int64(cuda.blockIdx.x)
        group = block // (GROUP * columns)
        height = min(rows - group * GROUP, GROUP)
        within = block - group * GROUP * columns
        return group * GROUP + within % height, within // height

    return place_of
