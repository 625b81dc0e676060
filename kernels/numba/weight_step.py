"""weight_step: w ← w − η δᵀ a_prev

    delta (B, n), a_prev (B, n_prev), control: η at its place LEARNING_RATE, w (n, n_prev)

The weight gradient and plain SGD in one product of the form TN (M = n, N = n_prev, K = B): the gradient never goes to
memory. η is read from the device, so that a step needs no new kernel argument when η changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.backends.plans import Plan
from gpubp.kernels.numba import epilogues, product_naive, product_pipelined, product_reduce, product_tiled
from gpubp.kernels.numba.forms import TN
from gpubp.kernels.numba.signatures import CONTROL, array, kernel


def naive(jit: Callable, plan: Plan) -> Any:
    """Thread (i, j) changes w[i, j] and reads all it needs from memory."""
    product = product_naive.make(jit, TN, plan.dtype, epilogues.step(jit, plan.dtype))

    def weight_step_naive(delta, a_prev, control, w):
        product(delta, a_prev, w.shape[0], w.shape[1], delta.shape[0], (control, w))

    return jit(_signature(plan.dtype))(weight_step_naive)


def tiled(jit: Callable, plan: Plan) -> Any:
    """A block shares TILE×TILE pieces of delta and a_prev through shared memory."""
    product = product_tiled.make(jit, TN, plan.dtype, plan.tile_m, epilogues.step(jit, plan.dtype))

    def weight_step_tiled(delta, a_prev, control, w):
        product(delta, a_prev, w.shape[0], w.shape[1], delta.shape[0], (control, w))

    return jit(_signature(plan.dtype))(weight_step_tiled)


def pipelined(jit: Callable, plan: Plan) -> Any:
    """Sums in registers, loads that overlap with arithmetic, no guards in the main loop."""
    product = product_pipelined.make(jit, TN, plan, epilogues.step(jit, plan.dtype))

    def weight_step_pipelined(delta, a_prev, control, w):
        product(delta, a_prev, w.shape[0], w.shape[1], 0, delta.shape[0], (control, w))

    return jit(_signature(plan.dtype))(weight_step_pipelined)


def reduce(jit: Callable, dtype: str) -> Any:
    """The second half of split-K."""
    add = product_reduce.make(jit, epilogues.step(jit, dtype))

    def weight_step_reduce(parts, control, w):
        add(parts, (control, w))

    return jit(kernel(array(dtype, 3), CONTROL, array(dtype, 2)))(weight_step_reduce)


def _signature(dtype: str) -> str:
    matrix = array(dtype, 2)
    return kernel(matrix, matrix, CONTROL, matrix)
