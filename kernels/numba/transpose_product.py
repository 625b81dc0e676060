"""transpose_product: product = δ^{l+1} w^{l+1}, the first half of hidden_delta

    delta_next (B, n_next), w_next (n_next, n), product (B, n)

A product of the form NN (M = B, N = n, K = n_next). With rows as examples it is the books' (W^{l+1})ᵀ δ^{l+1}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.backends.plans import Plan
from gpubp.kernels.numba import epilogues, product_naive, product_pipelined, product_reduce, product_tiled
from gpubp.kernels.numba.forms import NN
from gpubp.kernels.numba.signatures import array, kernel


def naive(jit: Callable, plan: Plan) -> Any:
    """Thread (i, j) computes product[i, j] and reads all it needs from memory."""
    multiply = product_naive.make(jit, NN, plan.dtype, epilogues.plain(jit))

    def transpose_product_naive(delta_next, w_next, product):
        multiply(delta_next, w_next, product.shape[0], product.shape[1], delta_next.shape[1], (product,))

    return jit(_signature(plan.dtype))(transpose_product_naive)


def tiled(jit: Callable, plan: Plan) -> Any:
    """A block shares TILE×TILE pieces of delta_next and w_next through shared memory."""
    multiply = product_tiled.make(jit, NN, plan.dtype, plan.tile_m, epilogues.plain(jit))

    def transpose_product_tiled(delta_next, w_next, product):
        multiply(delta_next, w_next, product.shape[0], product.shape[1], delta_next.shape[1], (product,))

    return jit(_signature(plan.dtype))(transpose_product_tiled)


def pipelined(jit: Callable, plan: Plan) -> Any:
    """Sums in registers, loads that overlap with arithmetic, no guards in the main loop."""
    multiply = product_pipelined.make(jit, NN, plan, epilogues.plain(jit))

    def transpose_product_pipelined(delta_next, w_next, product):
        multiply(delta_next, w_next, product.shape[0], product.shape[1], 0, delta_next.shape[1], (product,))

    return jit(_signature(plan.dtype))(transpose_product_pipelined)


def reduce(jit: Callable, dtype: str) -> Any:
    """The second half of a pipelined product whose depth was split among blocks (see product.py)."""
    add = product_reduce.make(jit, epilogues.plain(jit))

    def transpose_product_reduce(parts, product):
        add(parts, (product,))

    return jit(kernel(array(dtype, 3), array(dtype, 2)))(transpose_product_reduce)


def _signature(dtype: str) -> str:
    return kernel(*[array(dtype, 2)] * 3)
