"""naive: one thread, one element of the product; the equation as code.

    c[i, j] = Σ_k A[i, k] B[k, j]

Every operand element is fetched from memory anew by each thread that needs it: 2 K loads for K multiply-adds.
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
class Naive:
    """The rung, for blocks of any two-dimensional size."""

    def product(self, jit: Callable, form: Form, dtype: str, finish: Any) -> Any:
        """Return the device function (see ladder.py)."""
        zero = np.dtype(dtype).type(0)
        a_at, b_at = forms.element(jit, form.a_by_depth), forms.element(jit, form.b_by_depth)

        @jit(device=True, inline="always")
        def product(a, b, m, n, first, last, operands):
            i = cuda.blockIdx.x * np.int64(cuda.blockDim.y) + cuda.threadIdx.y
            j = cuda.blockIdx.y * np.int64(cuda.blockDim.x) + cuda.threadIdx.x  # neighbours along a row: whole sectors
            if i < m and j < n:
                total = zero
                for k in range(first, last):
                    total += a_at(a, i, k) * b_at(b, j, k)
                finish(operands, np.uint64(i), np.uint64(j), total)

        return product
