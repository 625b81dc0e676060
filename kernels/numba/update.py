"""update: one step of an optimiser over all parameters, in one pass: w ← w − η g, and the other recurrences

    gradients, parameters, first, second: flat, of one size (the optimiser's state; not looked at where it has none);
    the first `decayed` parameters are weights; η, the step t and the gradient's scale are in control

A gradient is scaled, then clipped by value (clip_value may be infinite), then gets the penalties `in_gradient` added:
λ₁ sign(w) + λ₂ w. Those `apart` shrink the weight itself, before its step: w ← (1 − η λ₂) w, then towards 0 by η λ₁ and
not past it. Weight decay is λ₂ in the one place or the other (AdamW); an instance of its own has all four.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.control import Control
from gpubp.kernels.numba.signatures import CONTROL, COUNT, array, kernel
from gpubp.toolchain.numba_package import cuda

LEARNING_RATE, GRADIENT_SCALE = int(Control.LEARNING_RATE), int(Control.GRADIENT_SCALE)
STEP, SKIPPED = int(Control.STEP), int(Control.SKIPPED)


# Each optimiser: the device function apply(i, g, w, first, second, rates) -> the new w; it changes the state in place.
# rates: (η, η / (1 − β₁ᵗ), 1 / (1 − β₂ᵗ)). numbers: the optimiser's own (μ ; ρ ; β₁, β₂) and ε.


def _sgd(scalar: Any, numbers: tuple[float, float, float]) -> Callable:
    """w ← w − η g."""

    def apply(i, g, w, first, second, rates):
        return w - rates[0] * g

    return apply


def _momentum(scalar: Any, numbers: tuple[float, float, float]) -> Callable:
    """v ← μ v + g ; w ← w − η v."""
    mu = scalar(numbers[0])

    def apply(i, g, w, first, second, rates):
        v = mu * first[i] + g
        first[i] = v
        return w - rates[0] * v

    return apply


def _nesterov(scalar: Any, numbers: tuple[float, float, float]) -> Callable:
    """v ← μ v + g ; w ← w − η (g + μ v)."""
    mu = scalar(numbers[0])

    def apply(i, g, w, first, second, rates):
        v = mu * first[i] + g
        first[i] = v
        return w - rates[0] * (g + mu * v)

    return apply


def _rmsprop(scalar: Any, numbers: tuple[float, float, float]) -> Callable:
    """s ← ρ s + (1 − ρ) g² ; w ← w − η g / (√s + ε)."""
    rho, one_minus_rho, epsilon = scalar(numbers[0]), scalar(1 - numbers[0]), scalar(numbers[2])

    def apply(i, g, w, first, second, rates):
        s = rho * first[i] + one_minus_rho * (g * g)
        first[i] = s
        return w - rates[0] * (g / (math.sqrt(s) + epsilon))

    return apply


def _adam(scalar: Any, numbers: tuple[float, float, float]) -> Callable:
    """m ← β₁ m + (1 − β₁) g ; s ← β₂ s + (1 − β₂) g² ; w ← w − η m̂ / (√ŝ + ε),
    m̂ = m / (1 − β₁ᵗ), ŝ = s / (1 − β₂ᵗ)."""
    beta1, one_minus_beta1 = scalar(numbers[0]), scalar(1 - numbers[0])
    beta2, one_minus_beta2 = scalar(numbers[1]), scalar(1 - numbers[1])
    epsilon = scalar(numbers[2])

    def apply(i, g, w, first, second, rates):
        m = beta1 * first[i] + one_minus_beta1 * g
        s = beta2 * second[i] + one_minus_beta2 * (g * g)
        first[i] = m
        second[i] = s
        return w - rates[1] * (m / (math.sqrt(s * rates[2]) + epsilon))

    return apply


_FUNCTIONS = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adam,
}
CORRECTS_BIAS = ("adam", "adamw")
DECOUPLED = ("adamw",)


def make(jit: Callable, dtype: str, optimizer: str, numbers: tuple[float, float, float], penalised: bool) -> Any:
    """Return the kernel update(gradients, parameters, first, second, control, decayed, in_l1, in_l2, apart_l1,
    apart_l2, clip_value), one thread a parameter.

    numbers: (μ or ρ or β₁, β₂, ε), 0 for what the optimiser does not have. penalised: False: all there may be is weight
    decay, and the other three λ are not looked at.
    """
    scalar = np.dtype(dtype).type
    minus_one, zero, one = map(scalar, (-1, 0, 1))
    apply = jit(device=True, inline="always")(_FUNCTIONS[optimizer](scalar, numbers))
    corrects_bias = optimizer in CORRECTS_BIAS
    count = 5 if penalised else 4
    shrinks = penalised or optimizer in DECOUPLED
    adds = penalised or optimizer not in DECOUPLED
    beta1, beta2, _ = numbers
    power = _power(jit)

    def update(gradients, parameters, first, second, control, decayed, in_l1, in_l2, apart_l1, apart_l2, clip_value):
        # what changes from step to step, computed once a block, in float64
        rates = cuda.shared.array(count, scalar)
        if cuda.threadIdx.x == 0:
            rate = control[LEARNING_RATE]
            rates[0] = scalar(rate)
            if corrects_bias:
                t = np.int64(control[STEP] + 1 - control[SKIPPED])
                rates[1] = scalar(rate / (1 - power(beta1, t)))
                rates[2] = scalar(1 / (1 - power(beta2, t)))
            else:
                rates[1] = zero
                rates[2] = zero
            if shrinks:
                rates[3] = scalar(1 - rate * apart_l2)
            if penalised:
                rates[4] = scalar(rate * apart_l1)
        cuda.syncthreads()
        i = cuda.grid(1)
        if i < parameters.size:
            w = parameters[i]
            g = gradients[i] * scalar(control[GRADIENT_SCALE])
            if g < -clip_value:
                g = -clip_value
            elif g > clip_value:  # a NaN stays one
                g = clip_value
            if i < decayed:
                if adds:
                    g += scalar(in_l2) * w  # of a NaN makes a NaN
                if penalised:
                    g += scalar(in_l1) * (one if w > zero else minus_one if w < zero else zero)
                if shrinks:
                    w *= rates[3]
                if penalised:
                    w -= min(max(w, -rates[4]), rates[4])
            parameters[i] = apply(i, g, w, first, second, rates)

    flat = array(dtype, 1)
    return jit(kernel(flat, flat, flat, flat, CONTROL, COUNT, *["float64"] * 4, dtype))(update)


def _power(jit: Callable) -> Any:
    """Return the device function power(base, t) = baseᵗ for t = 0, 1, ..., by squaring, in float64."""

    @jit(device=True, inline="always")
    def power(base, t):
        result = 1.0
        while t > 0:
            if t % 2 == 1:
                result *= base
            base *= base
            t //= 2
        return result

    return power
