"""weight_gradient: ∂L/∂w = δᵀ a_prev

    delta (B, n), a_prev (B, n_prev), gradient (n, n_prev)

A product of the form TN (M = n, N = n_prev, K = B): the contraction runs over the batch. A deep batch with narrow
layers has few tiles, too few for a chip; then the batch is split among blocks (see product.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.kernels.numba import epilogues, ladder
from gpubp.kernels.numba.forms import TN
from gpubp.kernels.numba.ladder import Rung
from gpubp.kernels.numba.signatures import array, kernel


def make(jit: Callable, rung: Rung, dtype: str) -> Any:
    """Return the kernel weight_gradient(delta, a_prev, gradient)."""
    product = rung.product(jit, TN, dtype, epilogues.plain(jit))

    def weight_gradient(delta, a_prev, gradient):
        product(delta, a_prev, gradient.shape[0], gradient.shape[1], 0, delta.shape[0], (gradient,))

    return jit(kernel(*ladder.sources(rung, dtype), array(dtype, 2)))(weight_gradient)
