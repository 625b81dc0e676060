"""Sums and maxima over the threads of a team, always in the same order, so that a result has the same bits every time.

A team is one warp, or one whole block of several warps; a block of warps that are teams stands as (32, teams).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.toolchain import numba_package
from gpubp.toolchain.numba_package import cuda

SUM_THREADS = 256
EVERY_LANE = 0xFFFFFFFF


def total(jit: Callable) -> Any:
    """Return the device function combine(x, y) = x + y."""

    @jit(device=True, inline="always")
    def combine(x, y):
        return x + y

    return combine


def maximum(jit: Callable) -> Any:
    """Return the device function combine(x, y): the larger one; a NaN counts as larger than anything, as in NumPy."""

    @jit(device=True, inline="always")
    def combine(x, y):
        return x if x > y or math.isnan(x) else y

    return combine


def team(jit: Callable, threads: int, dtype: str, combine: Any) -> Any:
    """Return the device function reduce(x): x combined over all threads of the caller's team, and given to each.

    threads: 32, or those of the block, a multiple of 32. combine is commutative.
    """
    scalar = np.dtype(dtype).type
    warps = threads // 32
    of_lane = _of_lane(jit, dtype)

    @jit(device=True, inline="always")
    def over_warp(x):
        for distance in (16, 8, 4, 2, 1):
            x = combine(x, of_lane(EVERY_LANE, x, distance))
        return x

    if threads == 32:
        return over_warp

    @jit(device=True, inline="always")
    def over_block(x):
        of_warp = cuda.shared.array(warps, scalar)
        x = over_warp(x)
        thread = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        if thread % 32 == 0:
            of_warp[thread // 32] = x
        cuda.syncthreads()
        x = of_warp[0]
        for warp in range(1, warps):
            x = combine(x, of_warp[warp])
        cuda.syncthreads()  # the next reduction may overwrite of_warp
        return x

    return over_block


def _of_lane(jit: Callable, dtype: str) -> Any:
    """Return the device function of_lane(mask, x, distance): x of the lane whose number is the caller's ^ distance.

    numba-cuda-mlir 0.6 shuffles the lower half of an integer of 64 bits, and a float64 rounded to float32. There the
    two halves are shuffled.
    """
    if numba_package.chosen().shuffles_64_bits or np.dtype(dtype).itemsize < 8:
        return cuda.shfl_xor_sync
    if dtype == "int64":

        @jit(device=True, inline="always")
        def integer_of_lane(mask, x, distance):
            high = cuda.shfl_xor_sync(mask, np.int32(x >> 32), distance)
            low = cuda.shfl_xor_sync(mask, np.uint32(x & 0xFFFFFFFF), distance)
            return np.int64(high) << 32 | np.int64(low)

        return integer_of_lane

    double2hiint, double2loint = cuda.libdevice.double2hiint, cuda.libdevice.double2loint
    hiloint2double = cuda.libdevice.hiloint2double

    @jit(device=True, inline="always")
    def of_lane(mask, x, distance):
        high = cuda.shfl_xor_sync(mask, double2hiint(x), distance)
        low = cuda.shfl_xor_sync(mask, double2loint(x), distance)
        return hiloint2double(high, low)

    return of_lane


def sum_of_parts(jit: Callable, threads: int) -> Any:
    """Return the device function add(parts): the second stage of a sum in two; one block of `threads`, float64."""
    reduce = team(jit, threads, "float64", total(jit))

    @jit(device=True, inline="always")
    def add(parts):
        x = 0.0
        for i in range(cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x, parts.shape[0], threads):
            x += parts[i]
        return reduce(x)

    return add
