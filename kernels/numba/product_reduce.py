"""The second half of split-K: add the parts of a product in their order, then the epilogue.

    c[i, j] = Σ_s parts[s, i, j]

The order of the sum is fixed by the split alone, so the result is the same bits from run to run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import cuda

REDUCE_THREADS = 256


def make(jit: Callable, finish: Any) -> Any:
    """The device function reduce(parts, operands); parts (S, M, N), one thread an element, in blocks of one row."""

    @jit(device=True, inline="always")
    def reduce(parts, operands):
        index = cuda.grid(1)
        n = parts.shape[2]
        if index < parts.shape[1] * n:
            i, j = index // n, index % n
            total = parts[0, i, j]
            for s in range(1, parts.shape[0]):
                total += parts[s, i, j]
            finish(operands, i, j, total)

    return reduce
