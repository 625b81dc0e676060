"""weight_gradient: ∂L/∂w = δᵀ a_prev

    delta (B, n), a_prev (B, n_prev), gradient (n, n_prev)

A product of the form TN (M = n, N = n_prev, K = B): the contraction runs over the batch. A deep batch with narrow
layers has few tiles, too few for a chip; then the batch is split among blocks, each block's part of the sum goes to a
workspace (product.py), and `reduce` adds the parts in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.backends.plans import Plan
from gpubp.kernels.numba import epilogues, product_naive, product_pipelined, product_reduce, product_tiled
from gpubp.kernels.numba.forms import TN
from gpubp.kernels.numba.signatures import array, kernel


def naive(jit: Callable, plan: Plan) -> Any:
    """Thread (i, j) computes gradient[i, j] and reads all it needs from memory."""
    product = product_naive.make(jit, TN, plan.dtype, epilogues.plain(jit))

    def weight_gradient_naive(delta, a_prev, gradient):
        product(delta, a_prev, gradient.shape[0], gradient.shape[1], delta.shape[0], (gradient,))

    return jit(_signature(plan.dtype))(weight_gradient_naive)


def tiled(jit: Callable, plan: Plan) -> Any:
    """A block shares TILE×TILE pieces of delta and a_prev through shared memory."""
    product = product_tiled.make(jit, TN, plan.dtype, plan.tile_m, epilogues.plain(jit))

    def weight_gradient_tiled(delta, a_prev, gradient):
        product(delta, a_prev, gradient.shape[0], gradient.shape[1], delta.shape[0], (gradient,))

    return jit(_signature(plan.dtype))(weight_gradient_tiled)


def pipelined(jit: Callable, plan: Plan) -> Any:
    """Sums in registers, loads that overlap with arithmetic, no guards in the main loop."""
    product = product_pipelined.make(jit, TN, plan, epilogues.plain(jit))

    def weight_gradient_pipelined(delta, a_prev, gradient):
        product(delta, a_prev, gradient.shape[0], gradient.shape[1], 0, delta.shape[0], (gradient,))

    return jit(_signature(plan.dtype))(weight_gradient_pipelined)


def reduce(jit: Callable, dtype: str) -> Any:
    """The second half of split-K."""
    add = product_reduce.make(jit, epilogues.plain(jit))

    def weight_gradient_reduce(parts, gradient):
        add(parts, (gradient,))

    return jit(kernel(array(dtype, 3), array(dtype, 2)))(weight_gradient_reduce)


def _signature(dtype: str) -> str:
    return kernel(*[array(dtype, 2)] * 3)
