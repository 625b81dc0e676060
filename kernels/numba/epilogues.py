"""Epilogues: what happens to an element of a product between the main loop and memory.

A main loop hands each of its sums to `finish(operands, i, j, total)` and knows nothing of what becomes of it; so every
main loop serves every primitive, and no product is written just to be read again. `operands` is the tuple of arrays
that the primitive's kernel was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.control import Control
from gpubp.kernels.numba import philox
from gpubp.kernels.numba.activations import Sigma
from gpubp.toolchain.numba_package import cuda

LEARNING_RATE = int(Control.LEARNING_RATE)


def sides(jit: Callable, run: int, threads: int) -> Any:
    """Return the device function side_of(thread, i): which row or column of a tile is number i of a thread's own.

    `run` of them lie side by side; then come those of the other threads.
    """
    distance = threads * run

    @jit(device=True, inline="always")
    def side_of(thread, i):
        return i // run * distance + thread * run + i % run

    return side_of


def sums(jit: Callable, rows: int, columns: int, dtype: str, row_of: Any, column_of: Any, finish: Any) -> Any:
    """Return the device function finish_sums(sums, m, n, first_row, first_column, thread_m, thread_n, operands).

    It hands a thread's sums, `rows` × `columns` of them, to `finish`: a sum at a time, always from the same registers,
    as those behind it move up. So the loops may stay loops, with the epilogue in them once, and no register needs an
    index.
    """
    scalar = np.dtype(dtype).type
    count = rows * columns

    @jit(device=True, inline="always")
    def finish_sums(sums, m, n, first_row, first_column, thread_m, thread_n, operands):
        row_sums = cuda.local.array(columns, scalar)
        for i in range(rows):
            row = first_row + row_of(thread_m, i)
            for j in range(columns):
                row_sums[j] = sums[j]
            for s in range(count - columns):
                sums[s] = sums[s + columns]
            for j in range(columns):
                column = first_column + column_of(thread_n, j)
                if row < m and column < n:
                    finish(operands, np.uint64(row), np.uint64(column), row_sums[0])
                for other in range(columns - 1):
                    row_sums[other] = row_sums[other + 1]

    return finish_sums


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


def bias_activation_dropout(jit: Callable, dtype: str, sigma: Sigma, has_bias: bool, keeps_z: bool) -> Any:
    """z = α Σ + b ; a = σ(z) where dropout keeps the unit, else 0 ; operands: (b, z, a, α, mask), mask for philox.kept.

    σ is computed of every element. Computed of the kept ones alone, tanh and SiLU in large tiles make NVVM fail for
    sm_80: "Symbol name with unsupported characters".
    """
    zero = np.dtype(dtype).type(0)
    apply, kept = sigma.apply, philox.kept(jit)

    @jit(device=True, inline="always")
    def finish(operands, i, j, total):
        b, z, a, alpha, mask = operands
        z_value = alpha * total + b[j] if has_bias else alpha * total
        if keeps_z:
            z[i, j] = z_value
        a_value = apply(z_value)
        a[i, j] = a_value if kept(mask, i, j) else zero

    return finish


def times_derivative(jit: Callable, sigma: Sigma) -> Any:
    """delta = Σ ⊙ σ'(z) ; operands: (saved, delta)."""
    derivative = sigma.derivative

    @jit(device=True, inline="always")
    def finish(operands, i, j, total):
        operands[1][i, j] = total * derivative(operands[0][i, j])

    return finish


def times_derivative_dropout(jit: Callable, dtype: str, sigma: Sigma) -> Any:
    """delta = α Σ ⊙ σ'(z) where dropout keeps the unit, else 0 ; operands: (saved, delta, α, mask), mask for
    philox.kept."""
    zero = np.dtype(dtype).type(0)
    derivative, kept = sigma.derivative, philox.kept(jit)

    @jit(device=True, inline="always")
    def finish(operands, i, j, total):
        saved, delta, alpha, mask = operands
        delta_value = alpha * total * derivative(saved[i, j])
        delta[i, j] = delta_value if kept(mask, i, j) else zero

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
