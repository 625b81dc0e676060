"""hidden_delta: δ^l = (δ^{l+1} w^{l+1}) ⊙ σ'(z^l)

    delta_next (B, n_next), w_next (n_next, n), saved (B, n), a or z as σ' reads, delta (B, n)

A product of the form NN (M = B, N = n, K = n_next): the transpose product and the Hadamard product with the derivative
in one pass over memory. The two halves are transpose_product.py and hadamard_derivative.py.

With dropout, ⊙ mask / (1 − p) besides: the mask is drawn anew, as an output of 0 is no sign of a dropped unit (see
philox.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.kernels.numba import epilogues, ladder, philox
from gpubp.kernels.numba.activations import Sigma
from gpubp.kernels.numba.forms import NN
from gpubp.kernels.numba.ladder import Rung
from gpubp.kernels.numba.signatures import CONTROL, array, kernel


def make(jit: Callable, rung: Rung, dtype: str, sigma: Sigma) -> Any:
    """Return the kernel hidden_delta(delta_next, w_next, saved, delta)."""
    product = rung.product(jit, NN, dtype, epilogues.times_derivative(jit, sigma))

    def hidden_delta(delta_next, w_next, saved, delta):
        product(delta_next, w_next, delta.shape[0], delta.shape[1], 0, delta_next.shape[1], (saved, delta))

    matrix = array(dtype, 2)
    return jit(kernel(*ladder.sources(rung, dtype), matrix, matrix))(hidden_delta)


def dropout(jit: Callable, rung: Rung, dtype: str, sigma: Sigma) -> Any:
    """Return the kernel hidden_delta_dropout(delta_next, w_next, saved, delta, control, factor, threshold, key0, key1,
    layer, first_row), factor = 1 / (1 − p)."""
    product = rung.product(jit, NN, dtype, epilogues.times_derivative_dropout(jit, dtype, sigma))
    nothing_drawn = philox.nothing_drawn(jit)

    def hidden_delta_dropout(
        delta_next, w_next, saved, delta, control, factor, threshold, key0, key1, layer, first_row
    ):
        mask = (control, threshold, key0, key1, layer, first_row, nothing_drawn())
        operands = (saved, delta, factor, mask)
        product(delta_next, w_next, delta.shape[0], delta.shape[1], 0, delta_next.shape[1], operands)

    matrix = array(dtype, 2)
    arrays = (*ladder.sources(rung, dtype), matrix, matrix, CONTROL)
    return jit(kernel(*arrays, dtype, *philox.NUMBERS))(hidden_delta_dropout)
