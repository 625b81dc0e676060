"""output_delta: δ^L = ∂L/∂a ⊙ σ'(z), and the loss L itself

    output (B, n): a, or the logits z for a loss from logits; saved (B, n): what σ' reads; y (B, n), or (B,) labels;
    delta (B, n); scale: 1/B for the mean over the batch, 1 for the sum; losses: L, and the running sum of the examples'

Each kernel adds the terms of the loss in float64, one part a block or a row, and `total_loss` adds the parts: always in
the same order, so that the loss has the same bits every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.control import Losses
from gpubp.kernels.numba import losses, reductions
from gpubp.kernels.numba.activations import Sigma
from gpubp.kernels.numba.losses import LossFunctions
from gpubp.kernels.numba.reductions import SUM_THREADS
from gpubp.kernels.numba.signatures import LABELS, array, kernel
from gpubp.toolchain.numba_package import cuda

BATCH, TOTAL = int(Losses.BATCH), int(Losses.TOTAL)
PARTS = array("float64", 1)


def elementwise(jit: Callable, dtype: str, loss: LossFunctions, sigma: Sigma | None) -> Any:
    """σ' is a function of one element. A loss from logits has σ' in its derivative already: sigma is None."""
    scalar = np.dtype(dtype).type
    reduce = reductions.team(jit, SUM_THREADS, "float64", reductions.total(jit))
    term_of, derivative_of = loss
    has_slope = sigma is not None
    slope_of = sigma.derivative if sigma is not None else loss.derivative

    def output_delta_elementwise(output, saved, y, delta, parts, scale):
        width = output.shape[1]
        term = 0.0
        # no range() with a step that is no constant: it gets code for negative steps, which NVVM has been seen to break
        i, step = cuda.grid(1), cuda.gridsize(1)
        while i < output.size:
            row, j = i // width, i % width
            derivative = derivative_of(output[row, j], y[row, j], width)
            term += term_of(output[row, j], y[row, j], width)
            if has_slope:
                derivative *= slope_of(saved[row, j])
            delta[row, j] = derivative * scalar(scale)
            i += step
        term = reduce(term)
        if cuda.threadIdx.x == 0:
            parts[cuda.blockIdx.x] = term

    matrix = array(dtype, 2)
    return jit(kernel(matrix, matrix, matrix, matrix, PARTS, "float64"))(output_delta_elementwise)


def softmax(jit: Callable, dtype: str, team: int, loss: LossFunctions) -> Any:
    """a = softmax(z) couples the elements of a row: with g = ∂ℓ/∂a, δ = a ⊙ (g − Σ_j g_j a_j). A team of threads takes
    a row: a warp for narrow rows, a block for wide ones. One part of the loss a row."""
    scalar = np.dtype(dtype).type
    zero = scalar(0)
    reduce_term = reductions.team(jit, team, "float64", reductions.total(jit))
    reduce = reductions.team(jit, team, dtype, reductions.total(jit))
    term_of, derivative_of = loss

    def output_delta_softmax(a, y, delta, parts, scale):
        row = cuda.blockIdx.x * np.int64(cuda.blockDim.y) + cuda.threadIdx.y
        if row >= a.shape[0]:
            return
        width = a.shape[1]
        term, product = 0.0, zero
        for j in range(cuda.threadIdx.x, width, team):
            term += term_of(a[row, j], y[row, j], width)
            product += derivative_of(a[row, j], y[row, j], width) * a[row, j]
        term, product = reduce_term(term), reduce(product)
        for j in range(cuda.threadIdx.x, width, team):
            g = derivative_of(a[row, j], y[row, j], width)
            delta[row, j] = (g - product) * a[row, j] * scalar(scale)
        if cuda.threadIdx.x == 0:
            parts[row] = term

    matrix = array(dtype, 2)
    return jit(kernel(matrix, matrix, matrix, PARTS, "float64"))(output_delta_softmax)


def softmax_cross_entropy(jit: Callable, dtype: str, team: int, labels: bool) -> Any:
    """From the logits, fused: with m = max z and s = Σ_j e^(z_j − m),

        ℓ = ln s − Σ_j y_j (z_j − m) ;  ∂ℓ/∂z = e^(z − m) / s − y

    Nothing overflows, and no logarithm of a small a is taken. y: the label of each row's class, or rows of
    probabilities that sum to 1. A label that is no class makes the whole row NaN, a number that is no probability its
    own place and the loss."""
    scalar = np.dtype(dtype).type
    zero = scalar(0)
    reduce_largest = reductions.team(jit, team, dtype, reductions.maximum(jit))
    reduce = reductions.team(jit, team, dtype, reductions.total(jit))
    target = _label(jit, scalar) if labels else _probability(jit, dtype)

    def output_delta_softmax_cross_entropy(z, y, delta, parts, scale):
        row = cuda.blockIdx.x * np.int64(cuda.blockDim.y) + cuda.threadIdx.y
        if row >= z.shape[0]:
            return
        width = z.shape[1]
        largest = z[row, 0]
        for j in range(cuda.threadIdx.x, width, team):
            value = z[row, j]
            largest = largest if largest > value or math.isnan(largest) else value
        largest = reduce_largest(largest)
        total, chosen = zero, zero
        for j in range(cuda.threadIdx.x, width, team):
            total += math.exp(z[row, j] - largest)
            chosen += target(y, row, j, width) * (z[row, j] - largest)
        total, chosen = reduce(total), reduce(chosen)
        for j in range(cuda.threadIdx.x, width, team):
            a = math.exp(z[row, j] - largest) / total
            delta[row, j] = (a - target(y, row, j, width)) * scalar(scale)
        if cuda.threadIdx.x == 0:
            parts[row] = np.float64(math.log(total)) - np.float64(chosen)

    matrix = array(dtype, 2)
    targets = LABELS if labels else matrix
    return jit(kernel(matrix, targets, matrix, PARTS, "float64"))(output_delta_softmax_cross_entropy)


def total_loss(jit: Callable) -> Any:
    """The second stage of the loss, by one block: losses[BATCH] = Σ parts · scale, losses[TOTAL] += Σ parts."""
    add = reductions.sum_of_parts(jit)

    def total_loss_of_parts(parts, losses, scale):
        total = add(parts)
        if cuda.threadIdx.x == 0:
            losses[BATCH] = total * scale
            losses[TOTAL] += total

    return jit(kernel(PARTS, PARTS, "float64"))(total_loss_of_parts)


def _label(jit: Callable, scalar: Any) -> Any:
    """Return the device function target(y, row, j, width) for labels, y (B,)."""
    zero, one, nan = scalar(0), scalar(1), scalar(math.nan)

    @jit(device=True, inline="always")
    def target(y, row, j, width):
        label = y[row]
        if label < 0 or label >= width:
            return nan
        return one if label == j else zero

    return target


def _probability(jit: Callable, dtype: str) -> Any:
    """Return the same for rows of probabilities, y (B, n)."""
    probability = losses.probability(jit, dtype)

    @jit(device=True, inline="always")
    def target(y, row, j, width):
        return probability(y[row, j])

    return target
