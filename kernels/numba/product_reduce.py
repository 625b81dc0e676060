"""The second half of split-K: add the parts of a product in their order, then the epilogue.

    c[i, j] = Σ_s parts[s, i, j]

In place of A it gets the parts, (S, M, N), whose shape says all else: B and the numbers are not looked at. The order of
the sum is fixed by the split alone, so the result is the same bits from run to run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpubp.kernels.numba.forms import Form
from gpubp.toolchain.numba_package import cuda

EACH = 4
"""Elements of a thread: a block takes that many times as many neighbouring ones as it has threads."""


@dataclass(frozen=True)
class Reduction:
    """What stands in the place of a rung, for blocks of one row of threads: `EACH` elements a thread."""

    def product(self, jit: Callable, form: Form, dtype: str, finish: Any) -> Any:
        """Return the device function (see ladder.py)."""

        @jit(device=True, inline="always")
        def product(parts, b, m, n, first, last, operands):
            first = cuda.blockIdx.x * cuda.blockDim.x * EACH + cuda.threadIdx.x
            n = parts.shape[2]
            for e in range(EACH):
                index = first + e * cuda.blockDim.x
                if index < parts.shape[1] * n:
                    i, j = index // n, index % n
                    total = parts[0, i, j]
                    for s in range(1, parts.shape[0]):
                        total += parts[s, i, j]
                    finish(operands, i, j, total)

        return product
