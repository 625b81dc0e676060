"""The `numpy` backend's primitives on arrays of 16 bits, and its products in TF32.

Each widens or rounds its operands, calls the same primitive in float32, and rounds the results as it stores them: the
arithmetic of the kernels, so that this is their reference. An overflow becomes infinite and is no warning: the loss
scaling looks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpubp.backends.base import Array
from gpubp.nn.activations import Activation
from gpubp.nn.losses import Loss
from gpubp.nn.precision import HALVES, require_master, round_to_tf32, widened

if TYPE_CHECKING:
    from gpubp.backends.numpy_backend import NumpyBackend

_quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")


@_quiet
def dense_forward(
    backend: NumpyBackend,
    a_prev: Array,
    w: Array,
    b: Array | None,
    activation: Activation,
    z: Array | None,
    a: Array,
    tf32: bool,
) -> None:
    wide_z, wide_a = None if z is None else _wide_like(z), _wide_like(a)
    backend.dense_forward(_operand(a_prev, tf32), _operand(w, tf32), b, activation, wide_z, wide_a)
    store(wide_a, a)
    if z is not None and wide_z is not None:
        store(wide_z, z)


@_quiet
def scale(backend: NumpyBackend, x: Array, factor: float) -> None:
    wide = widened(x)
    backend.scale(wide, factor)
    store(wide, x)


@_quiet
def softmax(backend: NumpyBackend, z: Array, a: Array) -> None:
    wide_a = _wide_like(a)
    backend.softmax(widened(z), wide_a)
    store(wide_a, a)


@_quiet
def output_delta(
    backend: NumpyBackend,
    loss: Loss,
    activation: Activation,
    output: Array,
    saved: Array,
    y: Array,
    control: Array | None,
    losses: Array,
    delta: Array,
) -> None:
    wide_delta = _wide_like(delta)
    backend.output_delta(loss, activation, widened(output), widened(saved), y, control, losses, wide_delta)
    store(wide_delta, delta)


@_quiet
def hidden_delta(
    backend: NumpyBackend,
    delta_next: Array,
    w_next: Array,
    activation: Activation,
    saved: Array,
    delta: Array,
    tf32: bool,
) -> None:
    wide_delta = _wide_like(delta)
    operands = _operand(delta_next, tf32), _operand(w_next, tf32)
    backend.hidden_delta(*operands, activation, widened(saved), wide_delta)
    store(wide_delta, delta)


@_quiet
def transpose_product(backend: NumpyBackend, delta_next: Array, w_next: Array, product: Array, tf32: bool) -> None:
    wide_product = _wide_like(product)
    backend.transpose_product(_operand(delta_next, tf32), _operand(w_next, tf32), wide_product)
    store(wide_product, product)


@_quiet
def hadamard_derivative(
    backend: NumpyBackend, product: Array, activation: Activation, saved: Array, delta: Array
) -> None:
    wide_delta = _wide_like(delta)
    backend.hadamard_derivative(widened(product), activation, widened(saved), wide_delta)
    store(wide_delta, delta)


@_quiet
def weight_gradient(backend: NumpyBackend, delta: Array, a_prev: Array, gradient: Array, tf32: bool) -> None:
    backend.weight_gradient(_operand(delta, tf32), _operand(a_prev, tf32), gradient)


@_quiet
def bias_gradient(backend: NumpyBackend, delta: Array, gradient: Array) -> None:
    backend.bias_gradient(widened(delta), gradient)


@_quiet
def weight_step(backend: NumpyBackend, delta: Array, a_prev: Array, control: Array, w: Array, tf32: bool) -> None:
    require_master("w", w)
    backend.weight_step(_operand(delta, tf32), _operand(a_prev, tf32), control, w)


def store(x: np.ndarray, out: np.ndarray) -> None:
    """out ← x rounded to out's dtype; what is too large becomes infinite."""
    if x is not out:
        with np.errstate(over="ignore"):
            np.copyto(out, x, casting="same_kind")


def _operand(x: np.ndarray, tf32: bool) -> np.ndarray:
    return round_to_tf32(x) if tf32 else widened(x)


def _wide_like(x: np.ndarray) -> np.ndarray:
    """Where to compute x: in x itself, or in a float32 array of its shape for `store`."""
    return np.empty(x.shape, np.float32) if x.dtype in HALVES else x
