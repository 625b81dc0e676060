"""product: c = α A B + β c, in each of the three forms NT, NN, TN (see forms.py)

    c (M, N); A and B as the form says; c is not read where β = 0

The primitives' own products have files of their own; here are the general one and the first half of split-K, which
serves them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from gpubp.backends.plans import Plan
from gpubp.kernels.numba import epilogues, product_naive, product_pipelined, product_reduce, product_tiled
from gpubp.kernels.numba.forms import Form
from gpubp.kernels.numba.signatures import COUNT, array, kernel


def naive(jit: Callable, plan: Plan, form: Form) -> Any:
    """Thread (i, j) computes c[i, j] and reads all it needs from memory."""
    multiply = product_naive.make(jit, form, plan.dtype, epilogues.scaled_accumulate(jit, plan.dtype))

    def general_product_naive(a, b, c, depth, alpha, beta):
        multiply(a, b, c.shape[0], c.shape[1], depth, (alpha, beta, c))

    return jit(_signature(plan.dtype))(general_product_naive)


def tiled(jit: Callable, plan: Plan, form: Form) -> Any:
    """A block shares TILE×TILE pieces of A and B through shared memory."""
    multiply = product_tiled.make(jit, form, plan.dtype, plan.tile_m, epilogues.scaled_accumulate(jit, plan.dtype))

    def general_product_tiled(a, b, c, depth, alpha, beta):
        multiply(a, b, c.shape[0], c.shape[1], depth, (alpha, beta, c))

    return jit(_signature(plan.dtype))(general_product_tiled)


def pipelined(jit: Callable, plan: Plan, form: Form) -> Any:
    """Sums in registers, loads that overlap with arithmetic, no guards in the main loop."""
    multiply = product_pipelined.make(jit, form, plan, epilogues.scaled_accumulate(jit, plan.dtype))

    def general_product_pipelined(a, b, c, depth, alpha, beta):
        multiply(a, b, c.shape[0], c.shape[1], 0, depth, (alpha, beta, c))

    return jit(_signature(plan.dtype))(general_product_pipelined)


def partial(jit: Callable, plan: Plan, form: Form) -> Any:
    """The first half of split-K: more blocks for the same tiles. Block (tile, s) sums over the depths s · part ..
    (s + 1) · part − 1 alone and stores that in parts[s]. No part is empty."""
    multiply = product_pipelined.make(jit, form, plan, epilogues.part(jit))
    matrix = array(plan.dtype, 2)

    def partial_product_pipelined(a, b, parts, depth, part):
        first = np.int64(cuda.blockIdx.y) * part
        multiply(a, b, parts.shape[1], parts.shape[2], first, min(first + part, depth), (parts,))

    return jit(kernel(matrix, matrix, array(plan.dtype, 3), COUNT, COUNT))(partial_product_pipelined)


def reduce(jit: Callable, dtype: str) -> Any:
    """The second half of split-K."""
    add = product_reduce.make(jit, epilogues.scaled_accumulate(jit, dtype))

    def general_product_reduce(parts, c, alpha, beta):
        add(parts, (alpha, beta, c))

    return jit(kernel(array(dtype, 3), array(dtype, 2), dtype, dtype))(general_product_reduce)


def _signature(dtype: str) -> str:
    matrix = array(dtype, 2)
    return kernel(matrix, matrix, matrix, COUNT, dtype, dtype)
