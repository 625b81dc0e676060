"""Losses: what an output adds to the loss of its example, and the derivative ∂ℓ/∂output.

`output` is a, or the logits z for a loss from logits, whose derivative is already the one by z. The cross-entropies of
softmax work on whole rows; they are in output_delta.py. Terms are float64, for the sums they go into.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpubp.kernels.numba import activations


class LossFunctions(NamedTuple):
    """Return device functions of (output, y, width): term, float64, and derivative, of the kernel's dtype."""

    term: Any
    derivative: Any


def make(jit: Callable, name: str, parameter: float, dtype: str) -> LossFunctions:
    """Return the device functions of the loss with this name; `parameter` is its own (a threshold, a level)."""
    functions = _FUNCTIONS[name](jit, parameter, dtype)
    return LossFunctions(*(jit(device=True, inline="always")(function) for function in functions))


def probability(jit: Callable, dtype: str) -> Any:
    """Return the device function probability(y): y, or NaN if it is no probability. So the loss is NaN, and with it
    what is learnt from it."""
    zero, one, nan = map(np.dtype(dtype).type, (0, 1, math.nan))

    @jit(device=True, inline="always")
    def probability(y):
        return y if y >= zero and y <= one else nan

    return probability


class Focal(NamedTuple):
    """Device functions of (p, rest, log_p, gamma), with rest = 1 − p and log_p = ln p: the loss of a probability

    f(p) = −(1 − p)^γ ln p, and its slope h(p) = p f'(p) = (1 − p)^γ (γ p ln p / (1 − p) − 1)."""

    loss: Any
    slope: Any


def focal(jit: Callable, dtype: str) -> Focal:
    """Return the device functions of the focal losses."""
    minus_one, zero, one = map(np.dtype(dtype).type, (-1, 0, 1))

    @jit(device=True, inline="always")
    def loss(p, rest, log_p, gamma):
        return -math.pow(rest, gamma) * log_p

    @jit(device=True, inline="always")
    def slope(p, rest, log_p, gamma):
        ratio = log_p / rest if rest > zero else minus_one  # as p goes to 1
        return math.pow(rest, gamma) * (gamma * p * ratio - one)

    return Focal(loss, slope)


def _half_squared_error(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """ℓ = Σ_j ½ (a_j − y_j)² ; ∂ℓ/∂a = a − y."""

    def term(a, y, width):
        d = np.float64(a - y)
        return 0.5 * d * d

    def derivative(a, y, width):
        return a - y

    return term, derivative


def _squared_error(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """ℓ = Σ_j (y_j − a_j)² ; ∂ℓ/∂a = −2 (y − a)."""
    two = np.dtype(dtype).type(2)

    def term(a, y, width):
        d = np.float64(a - y)
        return d * d

    def derivative(a, y, width):
        return two * (a - y)

    return term, derivative


def _mean_squared_error(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """ℓ = (1/n) Σ_j (a_j − y_j)² ; ∂ℓ/∂a = (2/n) (a − y)."""
    scalar = np.dtype(dtype).type

    def term(a, y, width):
        d = np.float64(a - y)
        return d * d / width

    def derivative(a, y, width):
        return scalar(2.0 / width) * (a - y)

    return term, derivative


def _absolute_error(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """ℓ = Σ_j |a_j − y_j| ; ∂ℓ/∂a = sign(a − y), 0 at 0."""
    minus_one, zero, one = map(np.dtype(dtype).type, (-1, 0, 1))

    def term(a, y, width):
        return np.float64(abs(a - y))

    def derivative(a, y, width):
        d = a - y
        if d > zero:
            return one
        return minus_one if d < zero else d  # the last: 0, or NaN

    return term, derivative


def _huber(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """d = a − y: ℓ = Σ_j ½ d_j² where |d_j| ≤ threshold t, else t (|d_j| − ½ t) ; ∂ℓ/∂a = clip(d, −t, t)."""
    threshold = np.dtype(dtype).type(parameter)

    @jit(device=True, inline="always")
    def clip(d):
        if d > threshold:
            return threshold
        return -threshold if d < -threshold else d

    def term(a, y, width):
        c = np.float64(clip(a - y))
        return c * (np.float64(a - y) - 0.5 * c)  # both branches

    def derivative(a, y, width):
        return clip(a - y)

    return term, derivative


def _quantile(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """d = a − y: ℓ = Σ_j (1 − τ) d_j where d_j > 0, else −τ d_j, τ the quantile ; ∂ℓ/∂a = 1 − τ or −τ, 0 at 0."""
    scalar = np.dtype(dtype).type
    zero, above, below = scalar(0), scalar(1) - scalar(parameter), -scalar(parameter)

    @jit(device=True, inline="always")
    def slope(d):
        if d > zero:
            return above
        return below if d < zero else d  # the last: 0, or NaN

    def term(a, y, width):
        d = a - y
        return np.float64(slope(d) * d)

    def derivative(a, y, width):
        return slope(a - y)

    return term, derivative


def _binary_cross_entropy(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """a = sigmoid(z): ℓ = −Σ_j (y_j ln a_j + (1 − y_j) ln(1 − a_j)) = Σ_j max(z_j, 0) − z_j y_j + ln(1 + e^−|z_j|) ;
    ∂ℓ/∂z = a − y."""
    zero = np.dtype(dtype).type(0)
    sigmoid = activations.make(jit, "sigmoid", 0.0, dtype).apply
    target = probability(jit, dtype)

    def term(z, y, width):
        return np.float64((z if z > zero else zero) - z * target(y) + math.log1p(math.exp(-abs(z))))

    def derivative(z, y, width):
        return sigmoid(z) - target(y)

    return term, derivative


def _binary_focal_cross_entropy(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """a = sigmoid(z), ln a = −ln(1 + e^−z), f and h of Focal: ℓ = Σ_j y_j f(a_j) + (1 − y_j) f(1 − a_j) ;
    ∂ℓ/∂z = y (1 − a) h(a) − (1 − y) a h(1 − a)."""
    scalar = np.dtype(dtype).type
    one, gamma = scalar(1), scalar(parameter)
    sigmoid = activations.make(jit, "sigmoid", 0.0, dtype).apply
    softplus = activations.make(jit, "softplus", 0.0, dtype).apply
    target = probability(jit, dtype)
    loss, slope = focal(jit, dtype)

    def term(z, y, width):
        a, rest, y = sigmoid(z), sigmoid(-z), target(y)
        return np.float64(y * loss(a, rest, -softplus(-z), gamma) + (one - y) * loss(rest, a, -softplus(z), gamma))

    def derivative(z, y, width):
        a, rest, y = sigmoid(z), sigmoid(-z), target(y)
        own, other = slope(a, rest, -softplus(-z), gamma), slope(rest, a, -softplus(z), gamma)
        return y * rest * own - (one - y) * a * other

    return term, derivative


_FUNCTIONS = {
    "half_squared_error": _half_squared_error,
    "squared_error": _squared_error,
    "mean_squared_error": _mean_squared_error,
    "absolute_error": _absolute_error,
    "huber": _huber,
    "quantile": _quantile,
    "binary_cross_entropy": _binary_cross_entropy,
    "binary_focal_cross_entropy": _binary_focal_cross_entropy,
}
