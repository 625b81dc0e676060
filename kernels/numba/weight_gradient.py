"""weight_gradient: ∂L/∂w = δᵀ a_prev

    delta (B, n), a_prev (B, n_prev), gradient (n, n_prev)

A product of the form TN (M = n, N = n_prev, K = B): the contraction runs over the batch. A deep batch with narrow
layers has few tiles, too few for a chip; then the batch is split among blocks (see product.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.numba import column_sums, epilogues, ladder
from gpubp.kernels.numba.forms import TN
from gpubp.kernels.numba.ladder import Rung
from gpubp.kernels.numba.signatures import array, kernel
from gpubp.toolchain.numba_package import cuda


def make(jit: Callable, rung: Rung, dtype: str) -> Any:
    """Return the kernel weight_gradient(delta, a_prev, gradient)."""
    product = rung.product(jit, TN, dtype, epilogues.plain(jit))

    def weight_gradient(delta, a_prev, gradient):
        product(delta, a_prev, gradient.shape[0], gradient.shape[1], 0, delta.shape[0], (gradient,))

    return jit(kernel(*ladder.sources(rung, dtype), array(dtype, 2)))(weight_gradient)


def of_layer(jit: Callable, rung: Rung, dtype: str) -> Any:
    """Return the kernel layer_gradient(a, b, gradient, delta, bias_gradient, parts, arrivals, alpha, beta): the layer's
    whole gradient in one launch.

    ∂L/∂w = α δᵀ a_prev and, by blocks of their own, ∂L/∂b = Σ_batch δ; with β = 1 both are added to what is there. a
    and b are the operands of the product, and with `Reduction` not those of δ.
    """
    one = np.dtype(dtype).type(1)
    product = rung.product(jit, TN, dtype, epilogues.scaled_accumulate(jit, dtype))
    add_beside = column_sums.beside(jit, dtype)

    def layer_gradient(a, b, gradient, delta, bias_gradient, parts, arrivals, alpha, beta):
        if cuda.blockIdx.z > 0:
            add_beside(delta, bias_gradient, parts, arrivals, one, beta)
        else:
            product(a, b, gradient.shape[0], gradient.shape[1], 0, a.shape[0], (alpha, beta, gradient))

    types = (*ladder.sources(rung, dtype), array(dtype, 2), *column_sums.types(dtype), dtype, dtype)
    return jit(kernel(*types))(layer_gradient)
