"""output_delta: δ^L = ∂L/∂a ⊙ σ'(z), and the loss L itself

    output (B, n): a, or the logits z for a loss from logits; saved (B, n): what σ' reads; y (B, n), or (B,) labels;
    weights (B,): what ℓ and δ^L of each row are multiplied by; a row of weight 0 is left out, whatever it holds;
    delta (B, n); scale: 1/B for the mean over the batch, 1 for the sum; losses: L, and the running sum of the examples'

An instance without weights looks at neither weights nor control; one with them has its scale from control.

Each kernel adds the terms of the loss in float64, one part a block or a row, and the last block to arrive adds the
parts: always in the same order, so that the loss has the same bits every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpubp.kernels.control import Control, Losses
from gpubp.kernels.numba import arrivals as arriving
from gpubp.kernels.numba import losses, reductions
from gpubp.kernels.numba.activations import Sigma
from gpubp.kernels.numba.arrivals import ARRIVALS
from gpubp.kernels.numba.losses import LossFunctions
from gpubp.kernels.numba.reductions import SUM_THREADS
from gpubp.kernels.numba.signatures import CONTROL, LABELS, array, kernel
from gpubp.toolchain.numba_package import cuda

BATCH, TOTAL = int(Losses.BATCH), int(Losses.TOTAL)
LOSS_FACTOR, LOSS_SCALE = int(Control.LOSS_FACTOR), int(Control.LOSS_SCALE)
PARTS = array("float64", 1)
TOTAL_TYPES = (PARTS, ARRIVALS, PARTS, "float64")
"""The types of (parts, arrivals, losses, scale)."""


class Weighing(NamedTuple):
    """Device functions, of the kernel's dtype: weight(weights, row), and scale(control, scale), of the whole batch."""

    weight: Any
    scale: Any


def _weighing(jit: Callable, dtype: str, weighted: bool) -> Weighing:
    """Return the rows' weights and their scale; without weights each row weighs 1, which leaves no instruction."""
    scalar = np.dtype(dtype).type
    one = scalar(1)
    if weighted:

        @jit(device=True, inline="always")
        def weight_of(weights, row):
            return weights[row]

        @jit(device=True, inline="always")
        def scale_of(control, scale):
            return scalar(control[LOSS_FACTOR] * control[LOSS_SCALE])

        return Weighing(weight_of, scale_of)

    @jit(device=True, inline="always")
    def one_of(weights, row):
        return one

    @jit(device=True, inline="always")
    def given(control, scale):
        return scalar(scale)

    return Weighing(one_of, given)


def _total(jit: Callable, weighted: bool, threads: int) -> Any:
    """Return the device function add_up(parts, arrivals, losses, control, scale), for blocks of `threads` threads: the
    last one to arrive makes losses[BATCH] = Σ parts · scale ; losses[TOTAL] += Σ parts.

    With weights the scale is control[LOSS_FACTOR]."""
    add = reductions.sum_of_parts(jit, threads)
    arrives_last = arriving.of_blocks(jit)

    @jit(device=True, inline="always")
    def add_up(parts, arrivals, losses, control, scale):
        if arrives_last(arrivals, 0, cuda.gridDim.x):
            total = add(parts)
            if cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0:
                losses[BATCH] = total * (control[LOSS_FACTOR] if weighted else scale)
                losses[TOTAL] += total

    return add_up


def _row_threads(team: int) -> int:
    """Return the threads of a block whose teams take a row each: four warps, or one large team."""
    return 4 * team if team == 32 else team


def elementwise(jit: Callable, dtype: str, loss: LossFunctions, sigma: Sigma | None, weighted: bool) -> Any:
    """σ' is a function of one element. A loss from logits has σ' in its derivative already: sigma is None."""
    zero = np.dtype(dtype).type(0)
    weight_of, scale_of = _weighing(jit, dtype, weighted)
    reduce = reductions.team(jit, SUM_THREADS, "float64", reductions.total(jit))
    add_up = _total(jit, weighted, SUM_THREADS)
    term_of, derivative_of = loss
    has_slope = sigma is not None
    slope_of = sigma.derivative if sigma is not None else loss.derivative

    def output_delta_elementwise(output, saved, y, weights, control, delta, parts, arrivals, losses, scale):
        width = output.shape[1]
        term = 0.0
        # no range() with a step that is no constant: it gets code for negative steps, which NVVM has been seen to break
        i, step = cuda.grid(1), cuda.gridsize(1)
        while i < output.size:
            row, j = i // width, i % width
            weight = weight_of(weights, row)
            if weight != zero:
                derivative = derivative_of(output[row, j], y[row, j], width)
                term += np.float64(weight) * term_of(output[row, j], y[row, j], width)
                if has_slope:
                    derivative *= slope_of(saved[row, j])
                delta[row, j] = derivative * weight * scale_of(control, scale)
            else:
                delta[row, j] = zero
            i += step
        term = reduce(term)
        if cuda.threadIdx.x == 0:
            parts[cuda.blockIdx.x] = term
        add_up(parts, arrivals, losses, control, scale)

    matrix = array(dtype, 2)
    return jit(kernel(*[matrix] * 3, array(dtype, 1), CONTROL, matrix, *TOTAL_TYPES))(output_delta_elementwise)


def softmax(jit: Callable, dtype: str, team: int, loss: LossFunctions, weighted: bool) -> Any:
    """a = softmax(z) couples the elements of a row: with g = ∂ℓ/∂a, δ = a ⊙ (g − Σ_j g_j a_j). A team of threads takes
    a row: a warp for narrow rows, a block for wide ones. One part of the loss a row."""
    zero = np.dtype(dtype).type(0)
    weight_of, scale_of = _weighing(jit, dtype, weighted)
    reduce_term = reductions.team(jit, team, "float64", reductions.total(jit))
    reduce = reductions.team(jit, team, dtype, reductions.total(jit))
    leave_out = _leave_out(jit, dtype, team)
    add_up = _total(jit, weighted, _row_threads(team))
    term_of, derivative_of = loss

    def output_delta_softmax(a, y, weights, control, delta, parts, arrivals, losses, scale):
        row = cuda.blockIdx.x * np.int64(cuda.blockDim.y) + cuda.threadIdx.y
        if row < a.shape[0]:
            width = a.shape[1]
            weight = weight_of(weights, row)
            if weight == zero:
                leave_out(row, delta, parts)
            else:
                term, product = 0.0, zero
                for j in range(cuda.threadIdx.x, width, team):
                    term += term_of(a[row, j], y[row, j], width)
                    product += derivative_of(a[row, j], y[row, j], width) * a[row, j]
                term, product = reduce_term(term), reduce(product)
                for j in range(cuda.threadIdx.x, width, team):
                    g = derivative_of(a[row, j], y[row, j], width)
                    delta[row, j] = (g - product) * a[row, j] * weight * scale_of(control, scale)
                if cuda.threadIdx.x == 0:
                    parts[row] = np.float64(weight) * term
        add_up(parts, arrivals, losses, control, scale)

    matrix = array(dtype, 2)
    types = kernel(matrix, matrix, array(dtype, 1), CONTROL, matrix, *TOTAL_TYPES)
    return jit(types)(output_delta_softmax)


def softmax_cross_entropy(jit: Callable, dtype: str, team: int, labels: bool, smoothed: bool, weighted: bool) -> Any:
    """From the logits, fused: with m = max z and s = Σ_j e^(z_j − m),

        ℓ = ln s − Σ_j y_j (z_j − m) ;  ∂ℓ/∂z = e^(z − m) / s − y

    Nothing overflows, and no logarithm of a small a is taken. y: the label of each row's class, or rows of
    probabilities that sum to 1; `smoothed`: (1 − ε) y_j + ε / n in place of y_j, ε the label smoothing. A label that is
    no class makes the whole row NaN, a number that is no probability its own place and the loss."""
    zero = np.dtype(dtype).type(0)
    weight_of, scale_of = _weighing(jit, dtype, weighted)
    reduce_largest = reductions.team(jit, team, dtype, reductions.maximum(jit))
    reduce = reductions.team(jit, team, dtype, reductions.total(jit))
    leave_out = _leave_out(jit, dtype, team)
    add_up = _total(jit, weighted, _row_threads(team))
    target = _target(jit, dtype, labels)
    if smoothed:
        target = _smoothed(jit, dtype, target)

    def output_delta_softmax_cross_entropy(z, y, weights, control, delta, parts, arrivals, losses, scale, smoothing):
        row = cuda.blockIdx.x * np.int64(cuda.blockDim.y) + cuda.threadIdx.y
        if row < z.shape[0]:
            width = z.shape[1]
            weight = weight_of(weights, row)
            if weight == zero:
                leave_out(row, delta, parts)
            else:
                largest = z[row, 0]
                for j in range(cuda.threadIdx.x, width, team):
                    value = z[row, j]
                    largest = largest if largest > value or math.isnan(largest) else value
                largest = reduce_largest(largest)
                total, chosen = zero, zero
                for j in range(cuda.threadIdx.x, width, team):
                    total += math.exp(z[row, j] - largest)
                    chosen += target(y, row, j, width, smoothing) * (z[row, j] - largest)
                total, chosen = reduce(total), reduce(chosen)
                for j in range(cuda.threadIdx.x, width, team):
                    a = math.exp(z[row, j] - largest) / total
                    delta[row, j] = (a - target(y, row, j, width, smoothing)) * weight * scale_of(control, scale)
                if cuda.threadIdx.x == 0:
                    parts[row] = np.float64(weight) * (np.float64(math.log(total)) - np.float64(chosen))
        add_up(parts, arrivals, losses, control, scale)

    return jit(_row_types(dtype, labels))(output_delta_softmax_cross_entropy)


def softmax_focal_cross_entropy(jit: Callable, dtype: str, team: int, labels: bool, weighted: bool) -> Any:
    """From the logits, with a = e^(z − m) / s, ln a = z − m − ln s, and f and h of losses.Focal:

        ℓ = Σ_j y_j f(a_j) ;  ∂ℓ/∂z_j = y_j h(a_j) − a_j Σ_k y_k h(a_k)

    y: as for softmax cross-entropy."""
    zero = np.dtype(dtype).type(0)
    weight_of, scale_of = _weighing(jit, dtype, weighted)
    reduce_largest = reductions.team(jit, team, dtype, reductions.maximum(jit))
    reduce = reductions.team(jit, team, dtype, reductions.total(jit))
    leave_out = _leave_out(jit, dtype, team)
    add_up = _total(jit, weighted, _row_threads(team))
    target = _target(jit, dtype, labels)
    loss_of, slope_of = losses.focal(jit, dtype)

    def output_delta_softmax_focal_cross_entropy(z, y, weights, control, delta, parts, arrivals, losses, scale, gamma):
        row = cuda.blockIdx.x * np.int64(cuda.blockDim.y) + cuda.threadIdx.y
        if row < z.shape[0]:
            width = z.shape[1]
            weight = weight_of(weights, row)
            if weight == zero:
                leave_out(row, delta, parts)
            else:
                largest = z[row, 0]
                for j in range(cuda.threadIdx.x, width, team):
                    value = z[row, j]
                    largest = largest if largest > value or math.isnan(largest) else value
                largest = reduce_largest(largest)
                total = zero
                for j in range(cuda.threadIdx.x, width, team):
                    total += math.exp(z[row, j] - largest)
                total = reduce(total)
                log_total = math.log(total)
                loss, wanted = zero, zero
                for j in range(cuda.threadIdx.x, width, team):
                    a, log_a = math.exp(z[row, j] - largest) / total, z[row, j] - largest - log_total
                    rest, t = -math.expm1(log_a), target(y, row, j, width, zero)
                    loss += t * loss_of(a, rest, log_a, gamma)
                    wanted += t * slope_of(a, rest, log_a, gamma)
                loss, wanted = reduce(loss), reduce(wanted)
                for j in range(cuda.threadIdx.x, width, team):
                    a, log_a = math.exp(z[row, j] - largest) / total, z[row, j] - largest - log_total
                    own = target(y, row, j, width, zero) * slope_of(a, -math.expm1(log_a), log_a, gamma)
                    delta[row, j] = (own - a * wanted) * weight * scale_of(control, scale)
                if cuda.threadIdx.x == 0:
                    parts[row] = np.float64(weight) * np.float64(loss)
        add_up(parts, arrivals, losses, control, scale)

    return jit(_row_types(dtype, labels))(output_delta_softmax_focal_cross_entropy)


def _row_types(dtype: str, labels: bool) -> str:
    """Return the signature of a kernel (z, y, weights, control, delta, parts, arrivals, losses, scale, the loss's own
    number)."""
    matrix = array(dtype, 2)
    y = LABELS if labels else matrix
    return kernel(matrix, y, array(dtype, 1), CONTROL, matrix, *TOTAL_TYPES, dtype)


def _leave_out(jit: Callable, dtype: str, team: int) -> Any:
    """Return the device function leave_out(row, delta, parts), for a team: a row of weight 0, whatever it holds."""
    zero = np.dtype(dtype).type(0)

    @jit(device=True, inline="always")
    def leave_out(row, delta, parts):
        for j in range(cuda.threadIdx.x, delta.shape[1], team):
            delta[row, j] = zero
        if cuda.threadIdx.x == 0:
            parts[row] = 0.0

    return leave_out


def _target(jit: Callable, dtype: str, labels: bool) -> Any:
    """Return the device function target(y, row, j, width, smoothing): y_j, of labels (B,) or of rows (B, n)."""
    zero, one, nan = map(np.dtype(dtype).type, (0, 1, math.nan))
    probability = losses.probability(jit, dtype)

    @jit(device=True, inline="always")
    def of_label(y, row, j, width, smoothing):
        label = y[row]
        if label < 0 or label >= width:
            return nan
        return one if label == j else zero

    @jit(device=True, inline="always")
    def of_row(y, row, j, width, smoothing):
        return probability(y[row, j])

    return of_label if labels else of_row


def _smoothed(jit: Callable, dtype: str, target: Any) -> Any:
    """Return the device function of the same arguments: (1 − ε) y_j + ε / n, with ε the smoothing."""
    scalar = np.dtype(dtype).type
    one = scalar(1)

    @jit(device=True, inline="always")
    def smoothed(y, row, j, width, smoothing):
        return (one - smoothing) * target(y, row, j, width, smoothing) + smoothing / scalar(width)

    return smoothed
