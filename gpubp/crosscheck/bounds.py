"""Error bounds: how far a correct kernel's result may lie from the reference. Every constant stands in this file.

u is the unit roundoff of the arithmetic: 2⁻²⁴ for float32, 2⁻⁵³ for float64. A result that is stored is rounded once
more, and near zero it can lose what lies under the smallest subnormal: `stored` adds both.

For a product whose sum has K terms, with S the sum of the absolute terms,

    |C − R| ≤ 4 g u S + u_out |R| + η,      g = √K, as the checks draw numbers of both signs.

The worst case of any order of summation is g = K (Higham, "Accuracy and Stability of Numerical Algorithms", section
3.1); rounding errors of random signs add up like √K (Higham & Mary, 2019), and a wrong index, a dropped term or a lower
precision exceeds that at once.

A tensor core adds the products of k_mma depths to a float32 sum in one instruction, and cuts off what lies under its
last bit (Fasi, Higham, Mikaitis & Pranesh, 2021): these errors have one sign, so g = max(√K, K / k_mma). Its operands
are exact in the reference too, which takes them rounded as the kernel must: TF32 from float32, to nearest, ties away
from zero (cases of the rung "wgmma", whose ties go to even, have none). u stays that of float32, and u_out and η are
those of the dtype that the result is stored in.

What this tells apart, and what not:

- Operands of fewer bits than asked, and TF32 by truncation, lie outside the bound at any K up to 2,048; TF32 with ties
  to even, and float32 operands that are not rounded at all, up to 1,031.
- A sum in half precision lies outside as soon as it is rounded more than once, or its result is stored in float32. A
  single rounding of a sum (K ≤ k_mma) to the dtype that it is stored in anyway is no error.
- A sum in more than float32 is within the bound, as it should be.

For anything else the error is c u T, with T the sum of absolute terms of the formula and c a small count of its
roundings: `ROUNDINGS`, and for σ and σ' `SIGMA` and `SIGMA_PRIME`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from gpubp.dtypes import ARITHMETIC
from gpubp.nn.activations import GELU_CUBIC, INV_SQRT_2PI, SQRT_2_OVER_PI, Activation

UNIT_ROUNDOFF = {name: kind.unit_roundoff for name, kind in ARITHMETIC.items()}
HALF_SUBNORMAL = {
    "float32": 2.0**-150,
    "float64": 2.0**-1075 if 2.0**-1075 else 2.0**-1074,
    "bfloat16": 2.0**-134,
    "float16": 2.0**-25,
}
"""η: half the smallest subnormal; for float64 the smallest itself, as no narrower float holds the half."""

REFERENCE = {name: np.longdouble if name == "float64" else np.float64 for name in ARITHMETIC}
"""The dtype that the reference for a kernel of this dtype is computed in."""

PRODUCT = 4.0
"""The factor of a product's bound: the loads are exact, so it covers the epilogue's own roundings."""

ROUNDINGS = {
    "output_delta": 12.0,  # a − y, a slope, the row's weight and the division by B, and at most two roundings of each
    "softmax": 12.0,  # z − m, the exponential (2 u), the quotient
    "loss": 12.0,  # an exponential and a logarithm, a few sums
    "update": 16.0,  # Adam: both averages, both corrections, a root, a quotient, the step
    "power": 8.0,  # x^γ, of an exact x
    "logarithm": 8.0,  # ln of a sum, 1 − e^x and e^x, likewise
}
"""c for what is no product."""


@dataclass(frozen=True)
class FunctionError:
    """The error of a device function: c u T(x), with T the sum of absolute terms at x."""

    roundings: float
    terms: Callable[[np.ndarray], np.ndarray]


def _gelu_tanh_derivative_terms(z: np.ndarray) -> np.ndarray:
    inner = SQRT_2_OVER_PI * (z + GELU_CUBIC * z**3)
    slope = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * z * z)
    # 1 − tanh² is computed with an absolute error of u until tanh rounds to ±1, at |inner| = 19 in float64
    return 1 + np.where(np.abs(inner) < 20, np.abs(z) * slope * (1 + np.abs(inner)), 0)


def _density(z: np.ndarray) -> np.ndarray:
    return INV_SQRT_2PI * np.exp(-0.5 * z * z)


SIGMA: dict[str, FunctionError] = {
    # the value: from z
    "identity": FunctionError(0, np.abs),
    "relu": FunctionError(0, np.abs),
    "leaky_relu": FunctionError(1, np.abs),
    "elu": FunctionError(4, np.abs),
    "softplus": FunctionError(8, lambda z: np.logaddexp(0, z)),
    "sigmoid": FunctionError(8, lambda z: 1 / (1 + np.exp(-np.clip(z, -700, 700)))),
    "tanh": FunctionError(4, lambda z: np.abs(np.tanh(z))),
    "gelu": FunctionError(8, np.abs),
    "gelu_tanh": FunctionError(8, np.abs),
    "silu": FunctionError(8, np.abs),
}
"""The error of σ, as a function of z."""

SIGMA_PRIME: dict[str, FunctionError] = {
    # the derivative: from a, or from z for the last three
    "identity": FunctionError(0, np.ones_like),
    "relu": FunctionError(0, np.ones_like),
    "leaky_relu": FunctionError(1, np.ones_like),
    "elu": FunctionError(2, lambda a: 1 + np.abs(a)),
    "softplus": FunctionError(4, lambda a: np.abs(np.expm1(-a))),
    "sigmoid": FunctionError(4, lambda a: np.abs(a) * (1 + np.abs(a))),
    "tanh": FunctionError(4, lambda a: 1 + a * a),
    "gelu": FunctionError(8, lambda z: ndtr(np.asarray(z, np.float64)) + np.abs(z) * _density(z) * (1 + z * z)),
    "gelu_tanh": FunctionError(8, _gelu_tanh_derivative_terms),
    "silu": FunctionError(8, lambda z: 1 + np.abs(z)),
}
"""The error of σ', as a function of the array that it reads."""

LIPSCHITZ: dict[str, float] = {"sigmoid": 0.25, "gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1}
"""The largest |σ'|, where it is not 1."""


def lipschitz(activation: Activation) -> float:
    """Return the largest |σ'| anywhere: how much an error in z can grow on its way to a."""
    if activation.name in ("leaky_relu", "elu"):
        return max(1.0, activation.parameter)
    return LIPSCHITZ.get(activation.name, 1.0)


def sigma_error(activation: Activation, z: np.ndarray, dtype: str) -> np.ndarray:
    """Return the error of a kernel's σ at z, its argument being exact."""
    entry = SIGMA[activation.name]
    return entry.roundings * UNIT_ROUNDOFF[dtype] * entry.terms(z)


def sigma_prime_error(activation: Activation, saved: np.ndarray, dtype: str) -> np.ndarray:
    """Return the error of a kernel's σ' at the array that it reads, that array being exact."""
    entry = SIGMA_PRIME[activation.name]
    scale = max(1.0, activation.parameter)
    return entry.roundings * UNIT_ROUNDOFF[dtype] * scale * entry.terms(saved)


def softmax_error(z: np.ndarray, a: np.ndarray, dtype: str) -> np.ndarray:
    """Return c u a (1 + |z − m| + √n): the rounding of z − m grows through the exponential, and a row sums n terms."""
    spread = z.max(axis=1, keepdims=True) - z
    mean_spread = (a * spread).sum(axis=1, keepdims=True)
    return ROUNDINGS["softmax"] * UNIT_ROUNDOFF[dtype] * a * (1 + spread + mean_spread + z.shape[1] ** 0.5)


class Focal(NamedTuple):
    """What a focal loss is made of at p: the error of f(p) = −(1 − p)^γ ln p, and |h(p)| with its error for the slope
    h(p) = p f'(p) = (1 − p)^γ (γ p φ − 1), φ = ln p / (1 − p).
    """

    loss_error: np.ndarray
    slope: np.ndarray
    slope_error: np.ndarray


def focal(
    log_p: np.ndarray, log_error: np.ndarray, rest: np.ndarray, rest_error: np.ndarray, gamma: float, dtype: str
) -> Focal:
    """Return what a kernel's f and h may be off at p, where it has ln p and 1 − p with these errors.

    The power is taken at the ends that its base may reach, for with γ < 1 its derivative has no bound. The derivative
    of φ by ln p lies between ½ and 1. So φ, with |φ| ≥ 1 and |φ| ≥ |ln p|, is off by the error of ln p and by the
    relative errors of a quotient. In h nothing cancels out, as φ < 0.
    """
    u, c = UNIT_ROUNDOFF[dtype], ROUNDINGS["logarithm"]
    p, size = np.exp(log_p), np.abs(log_p)
    power, most, least = (np.maximum(x, 0) ** gamma for x in (rest, rest + rest_error, rest - rest_error))
    power_error = np.maximum(most - power, power - least) + ROUNDINGS["power"] * u * most
    ratio = np.divide(size, rest, out=np.ones_like(rest), where=rest > 0)
    ratio_error = log_error + 2 * c * u * ratio
    bracket = 1 + gamma * p * ratio
    bracket_error = gamma * p * (ratio_error + (log_error + c * u) * ratio) + 2 * u * bracket
    return Focal(
        power_error * size + (power + power_error) * (log_error + u * size),
        power * bracket,
        power_error * bracket + (power + power_error) * (bracket_error + u * bracket),
    )


def product_error(absolute_sum: np.ndarray, terms: int, dtype: str) -> np.ndarray:
    """Return the error of a sum of `terms` products of both signs before it is stored; `absolute_sum` is S.

    Args:
        dtype: of the operands, one of `gpubp.dtypes.ARITHMETIC`.
    """
    kind = ARITHMETIC[dtype]
    growth = max(terms**0.5, terms / (kind.k_mma or terms))
    return PRODUCT * growth * UNIT_ROUNDOFF[str(kind.accumulator)] * absolute_sum


def stored(error: np.ndarray | float, reference: np.ndarray, dtype: str) -> np.ndarray:
    """Return the bound once the result is stored in this dtype: one more rounding, and half the smallest subnormal."""
    return error + UNIT_ROUNDOFF[dtype] * np.abs(reference) + HALF_SUBNORMAL[dtype]
