"""transpose_product: product = δ^{l+1} w^{l+1}, the first half of hidden_delta

    delta_next (B, n_next), w_next (n_next, n), out (B, n)

A product of the form NN (M = B, N = n, K = n_next). With rows as examples it is the books' (W^{l+1})ᵀ δ^{l+1}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.kernels.numba import epilogues, ladder
from gpubp.kernels.numba.forms import NN
from gpubp.kernels.numba.ladder import Rung
from gpubp.kernels.numba.signatures import array, kernel


def make(jit: Callable, rung: Rung, dtype: str) -> Any:
    """Return the kernel transpose_product(delta_next, w_next, out)."""
    product = rung.product(jit, NN, dtype, epilogues.plain(jit))

    def transpose_product(delta_next, w_next, out):
        product(delta_next, w_next, out.shape[0], out.shape[1], 0, delta_next.shape[1], (out,))

    return jit(kernel(*ladder.sources(rung, dtype), array(dtype, 2)))(transpose_product)
