"""Activation functions: each σ with its derivative σ', in NumPy.

`reads` tells which array σ' is computed from: the output a wherever the derivative is a function of it, so that the
pre-activation z need not be kept; GELU and SiLU are not monotonic, so theirs reads z.

No function overflows or gives NaN up to |z| = 1e4, in float32 as in float64; a NaN in z goes through σ. Where σ' jumps,
at z = 0, it has the value of z < 0, so ReLU'(0) = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit, ndtr

from gpubp.registry import choose, require_number

SQRT_2_OVER_PI = 0.7978845608028654
INV_SQRT_2PI = 0.3989422804014327
GELU_CUBIC = 0.044715
"""Coefficient of GELU's tanh form: Hendrycks & Gimpel, "Gaussian Error Linear Units", 2016, section 2."""
KEPT_ZEROS = 32_768
"""Elements: arrays of zeros up to this size are made once."""


@dataclass(frozen=True)
class Activation:
    """An activation function σ and its derivative σ', elementwise on arrays of any shape.

    Both methods write into `out`, of the shape and dtype of their input; `out` may be that input.
    """

    name: ClassVar[str] = ""
    reads: ClassVar[str] = "a"

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        """Write σ(z) into `out`."""
        raise NotImplementedError

    def derivative(self, saved: np.ndarray, out: np.ndarray) -> None:
        """Write σ'(z) into `out`, from `saved`: the array that `reads` names."""
        raise NotImplementedError

    def multiply_derivative(self, saved: np.ndarray, product: np.ndarray, out: np.ndarray, work: np.ndarray) -> None:
        """Write product ⊙ σ'(z) into `out`, which may be `product`; `work` is scratch of the same shape."""
        self.derivative(saved, work)
        np.multiply(product, work, out=out)

    @property
    def parameter(self) -> float:
        """The one number that the function takes (slope, α); 0 if it takes none."""
        values = list(asdict(self).values())
        return float(values[0]) if values else 0.0

    def config(self) -> dict[str, Any]:
        """Return what `get` makes this activation from again."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Identity(Activation):
    """σ(z) = z."""

    name = "identity"

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        if out is not z:
            np.copyto(out, z)

    def derivative(self, saved: np.ndarray, out: np.ndarray) -> None:
        out.fill(1)

    def multiply_derivative(self, saved: np.ndarray, product: np.ndarray, out: np.ndarray, work: np.ndarray) -> None:
        if out is not product:
            np.copyto(out, product)


@dataclass(frozen=True)
class ReLU(Activation):
    """σ(z) = max(z, 0); σ' = 1 where a > 0, else 0."""

    name = "relu"

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        np.maximum(z, _zeros_like(z), out=out)

    def derivative(self, saved: np.ndarray, out: np.ndarray) -> None:
        out[...] = saved > _zeros_like(saved)


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """σ(z) = z where z > 0, else slope · z; the slope is > 0, so that a tells z's sign."""

    slope: float = 0.01

    name = "leaky_relu"

    def __post_init__(self) -> None:
        require_number("slope", self.slope, above=0)

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        np.multiply(z, np.where(z > 0, z.dtype.type(1), z.dtype.type(self.slope)), out=out)

    def derivative(self, saved: np.ndarray, out: np.ndarray) -> None:
        np.copyto(out, np.where(saved > 0, saved.dtype.type(1), saved.dtype.type(self.slope)))


@dataclass(frozen=True)
class ELU(Activation):
    """σ(z) = z where z > 0, else α (eᶻ − 1); σ' = 1 where a > 0, else a + α (Clevert et al., 2015)."""

    alpha: float = 1.0

    name = "elu"

    def __post_init__(self) -> None:
        require_number("alpha", self.alpha, above=0)

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        negative = np.expm1(np.minimum(z, 0)) * z.dtype.type(self.alpha)
        np.copyto(out, np.where(z > 0, z, negative))

    def derivative(self, saved: np.ndarray, out: np.ndarray) -> None:
        np.copyto(out, np.where(saved > 0, saved.dtype.type(1), saved + saved.dtype.type(self.alpha)))


@dataclass(frozen=True)
class Softplus(Activation):
    """σ(z) = ln(1 + eᶻ) = max(z, 0) + ln(1 + e^−|z|); σ' = sigmoid(z) = 1 − e^−a."""

    name = "softplus"

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        tail = np.log1p(np.exp(-np.abs(z)))
        np.add(np.maximum(z, 0), tail, out=out)

    def derivative(self, saved: np.ndarray, out: np.ndarray) -> None:
        np.negative(saved, out=out)
        np.expm1(out, out=out)
        np.negative(out, out=out)


@dataclass(frozen=True)
class Sigmoid(Activation):
    """σ(z) = 1 / (1 + e^−z); σ' = a (1 − a)."""

    name = "sigmoid"

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        tail = z < -80  # e^−z overflows float32 from −88.7 on; here σ = e^z to the last bit
        values = np.exp(z[tail])
        expit(z, out=out)
        out[tail] = values

    def derivative(self, saved: np.ndarray, out: np.ndarray) -> None:
        np.multiply(saved, 1 - saved, out=out)


@dataclass(frozen=True)
class Tanh(Activation):
    """σ(z) = tanh z; σ' = 1 − a²."""

    name = "tanh"

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        np.tanh(z, out=out)

    def derivative(self, saved: np.ndarray, out: np.ndarray) -> None:
        np.multiply(saved, saved, out=out)
        np.subtract(1, out, out=out)


@dataclass(frozen=True)
class GELU(Activation):
    """σ(z) = z Φ(z), Φ the normal distribution function; σ' = Φ(z) + z φ(z)."""

    name = "gelu"
    reads = "z"

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        np.multiply(z, ndtr(z), out=out)

    def derivative(self, saved: np.ndarray, out: np.ndarray) -> None:
        density = np.exp(-0.5 * saved * saved) * saved.dtype.type(INV_SQRT_2PI)
        np.add(ndtr(saved), saved * density, out=out)


@dataclass(frozen=True)
class GELUTanh(Activation):
    """σ(z) = ½ z (1 + tanh u), u = √(2/π) (z + 0.044715 z³): GELU's tanh form."""

    name = "gelu_tanh"
    reads = "z"

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        np.multiply(0.5 * z, 1 + np.tanh(self._u(z)), out=out)

    def derivative(self, saved: np.ndarray, out: np.ndarray) -> None:
        z = saved
        t = np.tanh(self._u(z))
        slope_u = z.dtype.type(SQRT_2_OVER_PI) * (1 + z.dtype.type(3 * GELU_CUBIC) * z * z)
        np.add(0.5 * (1 + t), 0.5 * z * (1 - t * t) * slope_u, out=out)

    @staticmethod
    def _u(z: np.ndarray) -> np.ndarray:
        return z.dtype.type(SQRT_2_OVER_PI) * (z + z.dtype.type(GELU_CUBIC) * z * z * z)


@dataclass(frozen=True)
class SiLU(Activation):
    """σ(z) = z s, s = sigmoid(z); σ' = s (1 + z (1 − s))."""

    name = "silu"
    reads = "z"

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        np.multiply(z, expit(z), out=out)

    def derivative(self, saved: np.ndarray, out: np.ndarray) -> None:
        s = expit(saved)
        np.multiply(s, 1 + saved * (1 - s), out=out)


@dataclass(frozen=True)
class Softmax(Activation):
    """a_j = e^(z_j − max z) / Σ_k e^(z_k − max z), row by row; for the output layer alone.

    Its derivative is a matrix for each row, so it has no `derivative`: with g = ∂L/∂a, δ = a ⊙ (g − Σ_j g_j a_j).
    """

    name = "softmax"

    def apply(self, z: np.ndarray, out: np.ndarray) -> None:
        np.subtract(z, z.max(axis=1, keepdims=True), out=out)
        np.exp(out, out=out)
        np.divide(out, out.sum(axis=1, keepdims=True), out=out)

    def multiply_derivative(self, saved: np.ndarray, product: np.ndarray, out: np.ndarray, work: np.ndarray) -> None:
        np.multiply(product, saved, out=work)
        np.subtract(product, work.sum(axis=1, keepdims=True), out=out)
        np.multiply(out, saved, out=out)


ACTIVATIONS: dict[str, type[Activation]] = {
    kind.name: kind for kind in (Identity, ReLU, LeakyReLU, ELU, Softplus, Sigmoid, Tanh, GELU, GELUTanh, SiLU, Softmax)
}
"""Every activation by its name."""


def get(activation: str | Mapping[str, Any] | Activation, argument: str = "activation") -> Activation:
    """Return the activation with this name, from this `config()`, or itself; errors call it `argument`."""
    return choose(argument, ACTIVATIONS, activation)


def _zeros_like(x: np.ndarray) -> np.ndarray:
    """Return zeros to compare x with: NumPy compares an array with a number several times slower than arrays."""
    return _kept_zeros(x.shape, x.dtype) if x.size <= KEPT_ZEROS else np.zeros(x.shape, x.dtype)


@lru_cache(maxsize=16)
def _kept_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    zeros = np.zeros(shape, dtype)
    zeros.flags.writeable = False
    return zeros
