"""Losses: each ℓ of one example with its derivative by the network's output, as NumPy says them.

L is the loss of a batch: the mean of its examples' (`reduction="mean"`) or their sum (`"sum"`). Two losses read the
logits z, because ∂ℓ/∂z is then simply a − y and nothing can overflow; they fix the output activation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit

from gpubp.errors import unknown_name
from gpubp.registry import choose, require_number

REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class Loss:
    """The loss of a batch, and how the losses of its examples make it: `reduction` "mean" or "sum"."""

    reduction: str = "mean"

    name: ClassVar[str] = ""
    output_activation: ClassVar[str | None] = None
    """The activation that the loss requires, or None. A loss with one reads the logits z, not a."""
    takes_labels: ClassVar[bool] = False
    """True if y may be (B,) integer labels in place of (B, n_L)."""

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise unknown_name("reduction", self.reduction, REDUCTIONS)

    @property
    def from_logits(self) -> bool:
        """True if the loss reads the logits z in place of the output a."""
        return self.output_activation is not None

    def divisor(self, rows: int) -> int:
        """Return what the sum over a batch of this many rows is divided by."""
        return rows if self.reduction == "mean" else 1

    def evaluate(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> float:
        """Return Σ over the rows of ℓ, in float64, and write ∂ℓ/∂output into `gradient`, before any reduction.

        output, gradient: (B, n_L), a or z as `from_logits` says; y: (B, n_L), or (B,) integer labels.
        """
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return what `get` makes this loss from again."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class HalfSquaredError(Loss):
    """ℓ = Σ_j ½ (a_j − y_j)²; ∂ℓ/∂a = a − y."""

    name = "half_squared_error"

    def evaluate(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> float:
        np.subtract(output, y, out=gradient)
        return 0.5 * _sum_of_squares(gradient)


@dataclass(frozen=True)
class SquaredError(Loss):
    """ℓ = Σ_j (y_j − a_j)²; ∂ℓ/∂a = −2 (y − a)."""

    name = "squared_error"

    def evaluate(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> float:
        np.subtract(output, y, out=gradient)
        total = _sum_of_squares(gradient)
        np.multiply(gradient, 2, out=gradient)
        return total


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """ℓ = (1/n_L) Σ_j (a_j − y_j)²; ∂ℓ/∂a = (2/n_L) (a − y)."""

    name = "mean_squared_error"

    def evaluate(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> float:
        np.subtract(output, y, out=gradient)
        total = _sum_of_squares(gradient)
        np.multiply(gradient, 2 / output.shape[1], out=gradient)
        return total / output.shape[1]


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """ℓ = Σ_j |a_j − y_j|; ∂ℓ/∂a = sign(a − y), 0 at 0."""

    name = "absolute_error"

    def evaluate(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> float:
        np.subtract(output, y, out=gradient)
        total = float(np.abs(gradient).sum(dtype=np.float64))
        np.sign(gradient, out=gradient)
        return total


@dataclass(frozen=True)
class Huber(Loss):
    """With d = a − y and t the threshold, ℓ = Σ_j ½ d_j² where |d_j| ≤ t, else t (|d_j| − ½ t); ∂ℓ/∂a = clip(d, −t, t).

    Huber, "Robust Estimation of a Location Parameter", 1964.
    """

    threshold: float = 1.0

    name = "huber"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("threshold", self.threshold, above=0)

    def evaluate(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> float:
        t = output.dtype.type(self.threshold)
        difference = output - y
        np.clip(difference, -t, t, out=gradient)
        # With c = clip(d, −t, t), both branches are c (d − ½ c).
        return float((gradient * (difference - gradient / 2)).sum(dtype=np.float64))


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """With a = sigmoid(z), ℓ = −Σ_j (y_j ln a_j + (1 − y_j) ln(1 − a_j)); ∂ℓ/∂z = a − y. A y_j outside 0 to 1 is NaN.

    Computed from the logits as max(z, 0) − z y + ln(1 + e^−|z|).
    """

    name = "binary_cross_entropy"
    output_activation = "sigmoid"

    def evaluate(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> float:
        z, y = output, _probabilities(y)
        terms = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
        np.subtract(expit(z), y, out=gradient)
        return float(terms.sum(dtype=np.float64))


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """With a = softmax(z), ℓ = −Σ_j y_j ln a_j; ∂ℓ/∂z = a − y. y: labels, or rows that sum to 1.

    A label that is no class makes ℓ and its row of ∂ℓ/∂z NaN; a y_j outside 0 to 1 is NaN.

    Computed from the logits as ln Σ_k e^(z_k − m) − (z_j − m), m = max z.
    """

    name = "softmax_cross_entropy"
    output_activation = "softmax"
    takes_labels = True

    def evaluate(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> float:
        # `reduceat`, with the places where rows start, takes half the time of `reduce` on rows of a few numbers
        starts = np.arange(0, gradient.size, gradient.shape[1])
        flat = gradient.reshape(-1)
        largest = np.maximum.reduceat(output.reshape(-1), starts)
        np.subtract(output, largest[:, None], out=gradient)
        if y.ndim == 1:
            stray = (y < 0) | (y >= gradient.shape[1])
            labelled = starts + np.where(stray, 0, y)
            chosen = np.where(stray, np.nan, flat[labelled])
        else:
            y = _probabilities(y)
            chosen = np.einsum("ij,ij->i", gradient, y)
        np.exp(gradient, out=gradient)
        sums = np.add.reduceat(flat, starts)
        np.divide(gradient, sums[:, None], out=gradient)
        if y.ndim == 1:
            flat[labelled] -= 1
            gradient[stray] = np.nan
        else:
            np.subtract(gradient, y, out=gradient)
        return math.fsum((np.log(sums) - chosen).tolist())


LOSSES: dict[str, type[Loss]] = {
    kind.name: kind
    for kind in (
        HalfSquaredError,
        SquaredError,
        MeanSquaredError,
        AbsoluteError,
        Huber,
        BinaryCrossEntropy,
        SoftmaxCrossEntropy,
    )
}
"""Every loss by its name."""


def get(loss: str | Mapping[str, Any] | Loss) -> Loss:
    """Return the loss with this name, from this `config()`, or itself."""
    return choose("loss", LOSSES, loss)


def _probabilities(y: np.ndarray) -> np.ndarray:
    """Return y, with NaN in place of what is no probability."""
    inside = (y >= 0) & (y <= 1)
    return y if inside.all() else np.where(inside, y, np.nan)


def _sum_of_squares(x: np.ndarray) -> float:
    return float(np.square(x, dtype=np.float64).sum())
