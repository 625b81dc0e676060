"""hidden_delta: δ^l = (δ^{l+1} w^{l+1}) ⊙ σ'(z^l)

    delta_next (B, n_next), w_next (n_next, n), saved (B, n), a or z as σ' reads, delta (B, n)

A product of the form NN (M = B, N = n, K = n_next): the transpose product and the Hadamard product with the derivative
in one pass over memory. The two halves are transpose_product.py and hadamard_derivative.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.backends.plans import Plan
from gpubp.kernels.numba import epilogues, product_naive, product_pipelined, product_reduce, product_tiled
from gpubp.kernels.numba.activations import Sigma
from gpubp.kernels.numba.forms import NN
from gpubp.kernels.numba.signatures import array, kernel


def naive(jit: Callable, plan: Plan, sigma: Sigma) -> Any:
    """Thread (i, j) computes delta[i, j] and reads all it needs from memory."""
    product = product_naive.make(jit, NN, plan.dtype, epilogues.times_derivative(jit, sigma))

    def hidden_delta_naive(delta_next, w_next, saved, delta):
        product(delta_next, w_next, delta.shape[0], delta.shape[1], delta_next.shape[1], (saved, delta))

    return jit(_signature(plan.dtype))(hidden_delta_naive)


def tiled(jit: Callable, plan: Plan, sigma: Sigma) -> Any:
    """A block shares TILE×TILE pieces of delta_next and w_next through shared memory."""
    product = product_tiled.make(jit, NN, plan.dtype, plan.tile_m, epilogues.times_derivative(jit, sigma))

    def hidden_delta_tiled(delta_next, w_next, saved, delta):
        product(delta_next, w_next, delta.shape[0], delta.shape[1], delta_next.shape[1], (saved, delta))

    return jit(_signature(plan.dtype))(hidden_delta_tiled)


def pipelined(jit: Callable, plan: Plan, sigma: Sigma) -> Any:
    """Sums in registers, loads that overlap with arithmetic, no guards in the main loop."""
    product = product_pipelined.make(jit, NN, plan, epilogues.times_derivative(jit, sigma))

    def hidden_delta_pipelined(delta_next, w_next, saved, delta):
        product(delta_next, w_next, delta.shape[0], delta.shape[1], 0, delta_next.shape[1], (saved, delta))

    return jit(_signature(plan.dtype))(hidden_delta_pipelined)


def reduce(jit: Callable, dtype: str, sigma: Sigma) -> Any:
    """The second half of a pipelined product whose depth was split among blocks (see product.py)."""
    add = product_reduce.make(jit, epilogues.times_derivative(jit, sigma))
    matrix = array(dtype, 2)

    def hidden_delta_reduce(parts, saved, delta):
        add(parts, (saved, delta))

    return jit(kernel(array(dtype, 3), matrix, matrix))(hidden_delta_reduce)


def _signature(dtype: str) -> str:
    return kernel(*[array(dtype, 2)] * 4)
