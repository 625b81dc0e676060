"""weight_step: w ← w − η δᵀ a_prev

    delta (B, n), a_prev (B, n_prev), control: η at its place LEARNING_RATE, w (n, n_prev)

The weight gradient and plain SGD in one product of the form TN (M = n, N = n_prev, K = B): the gradient never goes to
memory. η is read from the device, so that a step needs no new kernel argument when η changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.numba import column_sums, epilogues, ladder
from gpubp.kernels.numba.epilogues import LEARNING_RATE
from gpubp.kernels.numba.forms import TN
from gpubp.kernels.numba.ladder import Rung
from gpubp.kernels.numba.signatures import CONTROL, array, kernel
from gpubp.toolchain.numba_package import cuda


def make(jit: Callable, rung: Rung, dtype: str) -> Any:
    """Return the kernel weight_step(delta, a_prev, control, w)."""
    product = rung.product(jit, TN, dtype, epilogues.step(jit, dtype))

    def weight_step(delta, a_prev, control, w):
        product(delta, a_prev, w.shape[0], w.shape[1], 0, delta.shape[0], (control, w))

    return jit(kernel(*ladder.sources(rung, dtype), CONTROL, array(dtype, 2)))(weight_step)


def of_layer(jit: Callable, rung: Rung, dtype: str) -> Any:
    """Return the kernel layer_step(a, b, control, w, delta, bias, parts, arrivals): the layer's whole step in one
    launch.

    Beside the product, by blocks of their own, bias ← bias − η Σ_batch δ. a and b are the operands of the product, and
    with `Reduction` not those of δ.
    """
    scalar = np.dtype(dtype).type
    one = scalar(1)
    product = rung.product(jit, TN, dtype, epilogues.step(jit, dtype))
    add_beside = column_sums.beside(jit, dtype)

    def layer_step(a, b, control, w, delta, bias, parts, arrivals):
        if cuda.blockIdx.z > 0:
            add_beside(delta, bias, parts, arrivals, scalar(-control[LEARNING_RATE]), one)
        else:
            product(a, b, w.shape[0], w.shape[1], 0, a.shape[0], (control, w))

    types = (*ladder.sources(rung, dtype), CONTROL, array(dtype, 2), *column_sums.types(dtype))
    return jit(kernel(*types))(layer_step)
