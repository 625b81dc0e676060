"""dense_forward: z = a_prev wᵀ + b ; a = σ(z)

    a_prev (B, n_prev), w (n, n_prev), b (n,), z (B, n), a (B, n)

A product of the form NT (M = B, N = n, K = n_prev), with the bias and σ applied before anything is stored: z goes to
memory only where σ' will read it. b and z are not looked at where the kernel was made without them.

With dropout: z = α a_prev wᵀ + b ; a = mask ⊙ σ(z), where α undoes the dropout of the layer below (see philox.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.kernels.numba import epilogues, ladder, philox
from gpubp.kernels.numba.activations import Sigma
from gpubp.kernels.numba.forms import NT
from gpubp.kernels.numba.ladder import Rung
from gpubp.kernels.numba.signatures import CONTROL, array, kernel


def make(jit: Callable, rung: Rung, dtype: str, sigma: Sigma, has_bias: bool, keeps_z: bool) -> Any:
    """Return the kernel dense_forward(a_prev, w, b, z, a)."""
    product = rung.product(jit, NT, dtype, epilogues.bias_activation(jit, sigma, has_bias, keeps_z))

    def dense_forward(a_prev, w, b, z, a):
        product(a_prev, w, a.shape[0], a.shape[1], 0, a_prev.shape[1], (b, z, a))

    matrix = array(dtype, 2)
    return jit(kernel(*ladder.sources(rung, dtype), array(dtype, 1), matrix, matrix))(dense_forward)


def dropout(jit: Callable, rung: Rung, dtype: str, sigma: Sigma, has_bias: bool, keeps_z: bool) -> Any:
    """Return the kernel dense_forward_dropout(a_prev, w, b, z, a, control, alpha, threshold, key0, key1, layer,
    first_row); with a threshold of 0 nothing is dropped, and control not looked at."""
    product = rung.product(jit, NT, dtype, epilogues.bias_activation_dropout(jit, dtype, sigma, has_bias, keeps_z))
    nothing_drawn = philox.nothing_drawn(jit)

    def dense_forward_dropout(a_prev, w, b, z, a, control, alpha, threshold, key0, key1, layer, first_row):
        mask = (control, threshold, key0, key1, layer, first_row, nothing_drawn())
        product(a_prev, w, a.shape[0], a.shape[1], 0, a_prev.shape[1], (b, z, a, alpha, mask))

    matrix = array(dtype, 2)
    arrays = (*ladder.sources(rung, dtype), array(dtype, 1), matrix, matrix, CONTROL)
    return jit(kernel(*arrays, dtype, *philox.NUMBERS))(dense_forward_dropout)
