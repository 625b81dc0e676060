"""Activation functions: each σ with its derivative σ', once for every kernel.

`derivative` reads what the activation's own line names: the output a wherever σ' is a function of it, else the
pre-activation z. Where σ' has a kink it takes the value for z <= 0, so ReLU'(0) = 0. A NaN goes through σ, and no
finite z overflows into one. A Python constant is a float64 to Numba and would promote what it meets, so every constant
here is of the kernel's own type.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Sigma(NamedTuple):
    """A pair of device functions: apply(z) = σ(z), and derivative(saved) = σ'."""

    apply: Any
    derivative: Any


def make(jit: Callable, name: str, parameter: float, dtype: str) -> Sigma:
    """Return the device functions of the activation with this name; `parameter` is its own (a slope, α)."""
    return Sigma(*(jit(device=True, inline="always")(function) for function in _FUNCTIONS[name](jit, parameter, dtype)))


def _identity(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """σ(z) = z."""
    one = np.dtype(dtype).type(1)

    def apply(z):
        return z

    def derivative(a):
        return one

    return apply, derivative


def _relu(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """σ(z) = max(z, 0) ; σ' = 1 where a > 0, else 0."""
    zero, one = map(np.dtype(dtype).type, (0, 1))

    def apply(z):
        return zero if z < zero else z  # max would swallow a NaN

    def derivative(a):
        return one if a > zero else zero

    return apply, derivative


def _leaky_relu(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """σ(z) = z where z > 0, else slope z ; σ' = 1 where a > 0, else slope."""
    zero, one, slope = map(np.dtype(dtype).type, (0, 1, parameter))

    def apply(z):
        return z if z > zero else slope * z

    def derivative(a):
        return one if a > zero else slope

    return apply, derivative


def _elu(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """σ(z) = z where z > 0, else α (eᶻ − 1) ; σ' = 1 where a > 0, else a + α."""
    zero, one, alpha = map(np.dtype(dtype).type, (0, 1, parameter))

    def apply(z):
        return z if z > zero else alpha * math.expm1(z)

    def derivative(a):
        return one if a > zero else a + alpha

    return apply, derivative


def _softplus(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """σ(z) = ln(1 + eᶻ) = max(z, 0) + ln(1 + e^−|z|) ; σ' = sigmoid(z) = 1 − e^−a."""
    zero = np.dtype(dtype).type(0)

    def apply(z):
        return (z if z > zero else zero) + math.log1p(math.exp(-abs(z)))

    def derivative(a):
        return -math.expm1(-a)

    return apply, derivative


def _sigmoid(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """σ(z) = 1 / (1 + e^−z) ; σ' = a (1 − a)."""
    zero, one = map(np.dtype(dtype).type, (0, 1))

    def apply(z):
        e = math.exp(-abs(z))  # at most 1: neither side overflows
        return (e if z < zero else one) / (one + e)

    def derivative(a):
        return a * (one - a)

    return apply, derivative


def _tanh(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """σ(z) = tanh z ; σ' = 1 − a²."""
    one = np.dtype(dtype).type(1)

    def apply(z):
        return math.tanh(z)

    def derivative(a):
        return one - a * a

    return apply, derivative


def _gelu(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """σ(z) = z Φ(z), Φ the normal distribution function ; σ' = Φ(z) + z φ(z)."""
    half, inv_sqrt_2, inv_sqrt_2pi = map(np.dtype(dtype).type, (0.5, 0.7071067811865476, 0.3989422804014327))

    def apply(z):
        return z * half * math.erfc(-z * inv_sqrt_2)  # erfc keeps its relative accuracy where Φ is small

    def derivative(z):
        density = math.exp(-half * z * z) * inv_sqrt_2pi
        return half * math.erfc(-z * inv_sqrt_2) + z * density

    return apply, derivative


def _gelu_tanh(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """σ(z) = ½ z (1 + tanh u), u = √(2/π) (z + 0.044715 z³) ; σ' = ½ (1 + tanh u) + ½ z (1 − tanh² u) u'."""
    half, one, three = map(np.dtype(dtype).type, (0.5, 1, 3))
    sqrt_2_over_pi, cubic = map(np.dtype(dtype).type, (0.7978845608028654, 0.044715))

    def apply(z):
        u = sqrt_2_over_pi * (z + cubic * z * z * z)
        return half * z * (one + math.tanh(u))

    def derivative(z):
        t = math.tanh(sqrt_2_over_pi * (z + cubic * z * z * z))
        slope_u = sqrt_2_over_pi * (one + three * cubic * z * z)
        return half * (one + t) + half * z * (one - t * t) * slope_u

    return apply, derivative


def _silu(jit: Callable, parameter: float, dtype: str) -> tuple[Callable, Callable]:
    """σ(z) = z s, s = sigmoid(z) ; σ' = s (1 + z (1 − s))."""
    one = np.dtype(dtype).type(1)
    sigmoid = make(jit, "sigmoid", 0.0, dtype).apply

    def apply(z):
        return z * sigmoid(z)

    def derivative(z):
        s = sigmoid(z)
        return s * (one + z * (one - s))

    return apply, derivative


_FUNCTIONS = {
    "identity": _identity,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
}
