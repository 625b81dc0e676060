"""Who comes last: several blocks, or warps, compute parts, and the last one to arrive finishes what all have begun, in
the same launch.

Nobody waits for another, so it does not matter which of them the chip runs at once. Whoever is last, the parts are
added in the order of their numbers: the order of execution does not decide the bits of a result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.numba.reductions import EVERY_LANE
from gpubp.toolchain.numba_package import cuda

ARRIVALS = "uint32[::1]"
"""The type of the counts: all 0, and 0 again at the end."""


def _arrives_last(jit: Callable) -> Any:
    """Return the device function arrives_last(arrivals, place, count): 1 for the last of `count` callers to arrive,
    else 0. Whoever sees that another one has arrived sees what that one stored before; with the last one the count is 0
    again."""

    @jit(device=True, inline="always")
    def arrives_last(arrivals, place, count):
        cuda.threadfence()
        before = cuda.atomic.inc(arrivals, place, np.uint32(count - 1))
        cuda.threadfence()
        return np.int32(1 if before == np.uint32(count - 1) else 0)

    return arrives_last


def of_blocks(jit: Callable) -> Any:
    """Return the same for blocks: every thread gets the answer."""
    arrives_last = _arrives_last(jit)

    @jit(device=True, inline="always")
    def block_arrives_last(arrivals, place, count):
        last = np.int32(0)
        cuda.syncthreads()  # all parts of this block are stored
        if cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0:
            last = arrives_last(arrivals, place, count)
        return cuda.syncthreads_or(last)

    return block_arrives_last


def of_warps(jit: Callable) -> Any:
    """Return the same for warps, as warp_arrives_last(arrivals, place, count, lane)."""
    arrives_last = _arrives_last(jit)

    @jit(device=True, inline="always")
    def warp_arrives_last(arrivals, place, count, lane):
        last = np.int32(0)
        cuda.syncwarp()
        if lane == 0:
            last = arrives_last(arrivals, place, count)
        last = cuda.shfl_sync(EVERY_LANE, last, 0)
        cuda.syncwarp()  # what lane 0 sees, all lanes see
        return last

    return warp_arrives_last
