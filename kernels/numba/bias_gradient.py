"""bias_gradient: ∂L/∂b = Σ_batch δ, a column sum

    delta (B, n), gradient (n,); with β = 1 it is added to what gradient holds

A training step has it in the launch of the weight gradient (weight_gradient.py); here it stands alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.numba import column_sums
from gpubp.kernels.numba.signatures import kernel
from gpubp.toolchain.numba_package import cuda


def make(jit: Callable, dtype: str) -> Any:
    """Return the kernel bias_gradient(delta, gradient, parts, arrivals, beta)."""
    one = np.dtype(dtype).type(1)
    add_columns = column_sums.of_warps(jit, dtype)

    def bias_gradient(delta, gradient, parts, arrivals, beta):
        thread = np.int64(cuda.grid(1))
        add_columns(delta, gradient, parts, arrivals, one, beta, thread // 32, thread % 32)

    return jit(kernel(*column_sums.types(dtype), dtype))(bias_gradient)
