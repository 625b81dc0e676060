"""Initial weights: each scheme draws a matrix in float64 from a NumPy Generator, so that every backend starts alike.

A matrix is (n_l, n_{l-1}): fan_in = n_{l-1}, fan_out = n_l.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from gpubp.nn.activations import ELU, GELU, Activation, GELUTanh, LeakyReLU, ReLU, SiLU
from gpubp.registry import choose, require_number


@dataclass(frozen=True)
class Initializer:
    """A distribution of initial weights."""

    name: ClassVar[str] = ""

    def draw(self, fan_out: int, fan_in: int, generator: np.random.Generator) -> np.ndarray:
        """Return weights (fan_out, fan_in), float64."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return what `get` makes this initialiser from again."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Zeros(Initializer):
    """0. For tests: the units of a layer stay alike."""

    name = "zeros"

    def draw(self, fan_out: int, fan_in: int, generator: np.random.Generator) -> np.ndarray:
        return np.zeros((fan_out, fan_in))


@dataclass(frozen=True)
class Normal(Initializer):
    """N(0, σ²)."""

    sigma: float = 0.01

    name = "normal"

    def __post_init__(self) -> None:
        require_number("sigma", self.sigma, above=0)

    def draw(self, fan_out: int, fan_in: int, generator: np.random.Generator) -> np.ndarray:
        return generator.normal(0.0, self.sigma, (fan_out, fan_in))


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """gain · Q with orthonormal rows or columns, uniformly distributed (Saxe et al., 2014)."""

    gain: float = 1.0

    name = "orthogonal"

    def __post_init__(self) -> None:
        require_number("gain", self.gain, above=0)

    def draw(self, fan_out: int, fan_in: int, generator: np.random.Generator) -> np.ndarray:
        tall = generator.normal(size=(max(fan_out, fan_in), min(fan_out, fan_in)))
        q, r = np.linalg.qr(tall)
        q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)  # makes Q uniform: Mezzadri, 2007
        return self.gain * (q if fan_out >= fan_in else q.T)


@dataclass(frozen=True)
class _Scaled(Initializer):
    """A distribution of mean 0 and a variance that keeps the size of what passes through."""

    def variance(self, fan_out: int, fan_in: int) -> float:
        raise NotImplementedError


class _UniformDraw(_Scaled):
    def draw(self, fan_out: int, fan_in: int, generator: np.random.Generator) -> np.ndarray:
        limit = np.sqrt(3 * self.variance(fan_out, fan_in))
        return generator.uniform(-limit, limit, (fan_out, fan_in))


class _NormalDraw(_Scaled):
    def draw(self, fan_out: int, fan_in: int, generator: np.random.Generator) -> np.ndarray:
        return generator.normal(0.0, np.sqrt(self.variance(fan_out, fan_in)), (fan_out, fan_in))


class _Glorot(_Scaled):
    def variance(self, fan_out: int, fan_in: int) -> float:
        return 2 / (fan_in + fan_out)


class _He(_Scaled):
    def variance(self, fan_out: int, fan_in: int) -> float:
        return 2 / fan_in


class _LeCun(_Scaled):
    def variance(self, fan_out: int, fan_in: int) -> float:
        return 1 / fan_in


@dataclass(frozen=True)
class GlorotUniform(_Glorot, _UniformDraw):
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot & Bengio, 2010)."""

    name = "glorot_uniform"


@dataclass(frozen=True)
class GlorotNormal(_Glorot, _NormalDraw):
    """Normal with variance 2 / (fan_in + fan_out) (Glorot & Bengio, 2010)."""

    name = "glorot_normal"


@dataclass(frozen=True)
class HeUniform(_He, _UniformDraw):
    """Uniform with variance 2 / fan_in (He et al., 2015)."""

    name = "he_uniform"


@dataclass(frozen=True)
class HeNormal(_He, _NormalDraw):
    """Normal with variance 2 / fan_in (He et al., 2015)."""

    name = "he_normal"


@dataclass(frozen=True)
class LeCunUniform(_LeCun, _UniformDraw):
    """Uniform with variance 1 / fan_in (LeCun et al., 1998)."""

    name = "lecun_uniform"


@dataclass(frozen=True)
class LeCunNormal(_LeCun, _NormalDraw):
    """Normal with variance 1 / fan_in (LeCun et al., 1998)."""

    name = "lecun_normal"


INITIALIZERS: dict[str, type[Initializer]] = {
    kind.name: kind
    for kind in (
        GlorotUniform,
        GlorotNormal,
        HeUniform,
        HeNormal,
        LeCunUniform,
        LeCunNormal,
        Orthogonal,
        Normal,
        Zeros,
    )
}
"""Every initialiser by its name."""


def get(initializer: str | Mapping[str, Any] | Initializer) -> Initializer:
    """Return the initialiser with this name, from this `config()`, or itself."""
    return choose("initializer", INITIALIZERS, initializer)


def default_for(activation: Activation) -> Initializer:
    """Return He for the ReLU family, which halves the variance; Glorot for the others."""
    rectifiers = (ReLU, LeakyReLU, ELU, GELU, GELUTanh, SiLU)
    return HeNormal() if isinstance(activation, rectifiers) else GlorotUniform()
