"""dense_forward: z = a_prev wᵀ + b ; a = σ(z)

    a_prev (B, n_prev), w (n, n_prev), b (n,), z (B, n), a (B, n)

A product of the form NT (M = B, N = n, K = n_prev), with the bias and σ applied before anything is stored: z goes to
memory only where σ' will read it. b and z are not looked at where the kernel was made without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.backends.plans import Plan
from gpubp.kernels.numba import epilogues, product_naive, product_pipelined, product_reduce, product_tiled
from gpubp.kernels.numba.activations import Sigma
from gpubp.kernels.numba.forms import NT
from gpubp.kernels.numba.signatures import array, kernel


def naive(jit: Callable, plan: Plan, sigma: Sigma, has_bias: bool, keeps_z: bool) -> Any:
    """Thread (i, j) computes a[i, j] and reads all it needs from memory."""
    finish = epilogues.bias_activation(jit, sigma, has_bias, keeps_z)
    product = product_naive.make(jit, NT, plan.dtype, finish)

    def dense_forward_naive(a_prev, w, b, z, a):
        product(a_prev, w, a.shape[0], a.shape[1], a_prev.shape[1], (b, z, a))

    return jit(_signature(plan.dtype))(dense_forward_naive)


def tiled(jit: Callable, plan: Plan, sigma: Sigma, has_bias: bool, keeps_z: bool) -> Any:
    """A block shares TILE×TILE pieces of a_prev and w through shared memory, for 1/TILE of the memory traffic."""
    finish = epilogues.bias_activation(jit, sigma, has_bias, keeps_z)
    product = product_tiled.make(jit, NT, plan.dtype, plan.tile_m, finish)

    def dense_forward_tiled(a_prev, w, b, z, a):
        product(a_prev, w, a.shape[0], a.shape[1], a_prev.shape[1], (b, z, a))

    return jit(_signature(plan.dtype))(dense_forward_tiled)


def pipelined(jit: Callable, plan: Plan, sigma: Sigma, has_bias: bool, keeps_z: bool) -> Any:
    """Sums in registers, loads that overlap with arithmetic, no guards in the main loop."""
    finish = epilogues.bias_activation(jit, sigma, has_bias, keeps_z)
    product = product_pipelined.make(jit, NT, plan, finish)

    def dense_forward_pipelined(a_prev, w, b, z, a):
        product(a_prev, w, a.shape[0], a.shape[1], 0, a_prev.shape[1], (b, z, a))

    return jit(_signature(plan.dtype))(dense_forward_pipelined)


def reduce(jit: Callable, dtype: str, sigma: Sigma, has_bias: bool, keeps_z: bool) -> Any:
    """The second half of a pipelined product whose depth was split among blocks (see product.py)."""
    add = product_reduce.make(jit, epilogues.bias_activation(jit, sigma, has_bias, keeps_z))
    matrix = array(dtype, 2)

    def dense_forward_reduce(parts, b, z, a):
        add(parts, (b, z, a))

    return jit(kernel(array(dtype, 3), array(dtype, 1), matrix, matrix))(dense_forward_reduce)


def _signature(dtype: str) -> str:
    matrix = array(dtype, 2)
    return kernel(matrix, matrix, array(dtype, 1), matrix, matrix)
