"""Epilogues: what happens to an element of a product between the main loop and memory.

A main loop hands each of its sums to `finish(operands, i, j, total)` and knows nothing of what becomes of it; so every
main loop serves every primitive, and no product is written just to be read again. `operands` is the tuple of arrays
that the primitive's kernel was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from gpubp.kernels.control import Control
from gpubp.kernels.numba.activations import Sigma

LEARNING_RATE = int(Control.LEARNING_RATE)


def plain(jit: Callable) -> Any:
    """c = Σ ; operands: (c,)."""

    @jit(device=True, inline="always")
    def finish(operands, i, j, total):
        operands[0][i, j] = total

    return finish


def part(jit: Callable) -> Any:
    """parts[s] = Σ for the part s of a split depth that this block sums ; operands: (parts,)."""

    @jit(device=True, inline="always")
    def finish(operands, i, j, total):
        operands[0][cuda.blockIdx.y, i, j] = total

    return finish


def bias_activation(jit: Callable, sigma: Sigma, has_bias: bool, keeps_z: bool) -> Any:
    """z = Σ + b ; a = σ(z) ; operands: (b, z, a); b and z are looked at only where `has_bias` and `keeps_z` say so."""
    apply = sigma.apply

    @jit(device=True, inline="always")
    def finish(operands, i, j, total):
        z_value = total + operands[0][j] if has_bias else total
        if keeps_z:
            operands[1][i, j] = z_value
        operands[2][i, j] = apply(z_value)

    return finish


def times_derivative(jit: Callable, sigma: Sigma) -> Any:
    """delta = Σ ⊙ σ'(z) ; operands: (saved, delta)."""
    derivative = sigma.derivative

    @jit(device=True, inline="always")
    def finish(operands, i, j, total):
        operands[1][i, j] = total * derivative(operands[0][i, j])

    return finish


def step(jit: Callable, dtype: str) -> Any:
    """w ← w − η Σ with η = control[LEARNING_RATE] ; operands: (control, w)."""
    to_dtype = np.dtype(dtype).type

    @jit(device=True, inline="always")
    def finish(operands, i, j, total):
        operands[1][i, j] -= to_dtype(operands[0][LEARNING_RATE]) * total

    return finish


def scaled_accumulate(jit: Callable, dtype: str) -> Any:
    """c ← α Σ + β c ; operands: (α, β, c), α and β of the kernel's dtype; c is not read where β = 0."""
    zero = np.dtype(dtype).type(0)

    @jit(device=True, inline="always")
    def finish(operands, i, j, total):
        alpha, beta, c = operands
        scaled = alpha * total
        if beta != zero:
            scaled += beta * c[i, j]
        c[i, j] = scaled

    return finish
