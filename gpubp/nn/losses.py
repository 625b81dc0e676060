"""Losses: each ℓ of one example with its derivative by the network's output, as NumPy says them.

L is the loss of a batch: the mean of its examples' (`reduction="mean"`) or their sum (`"sum"`); with weights w_i,
Σ w_i ℓ_i / Σ w_i or Σ w_i ℓ_i. The cross-entropies read the logits z, because nothing can overflow then, and ∂ℓ/∂z of
the plain ones is simply a − y; they fix the output activation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.special import expit, log_expit

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

    @property
    def parameter(self) -> float:
        """The loss's own number (a threshold, a level, an exponent), or 0."""
        return 0.0

    def divisor(self, weight: float) -> float:
        """Return what the sum over a batch of this weight is divided by; without weights, each row weighs 1."""
        return weight if self.reduction == "mean" else 1

    def factor(self, weight: float) -> float:
        """Return 1 / `divisor`, or 0 for a batch of weight 0: its mean is a loss of 0, without a gradient."""
        divisor = self.divisor(weight)
        return 1 / divisor if divisor > 0 else 0.0

    def terms(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the terms of each row's ℓ, and write ∂ℓ/∂output into `gradient`, before any weight or reduction.

        Args:
            output, gradient: (B, n_L); output is a or z, as `from_logits` says.
            y: (B, n_L), or (B,) integer labels.

        Returns:
            (B, n_L), each row of which adds up to its ℓ, or (B,): ℓ itself.
        """
        raise NotImplementedError

    def evaluate(
        self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray, weights: np.ndarray | None = None
    ) -> float:
        """Return Σ over the rows of w ℓ, in float64, and write w ∂ℓ/∂output into `gradient`, before any reduction.

        Args:
            output, y, gradient: as for `terms`.
            weights: (B,) w ≥ 0; None: all 1. A row of weight 0 adds 0, whatever its target is.
        """
        terms = self.terms(output, y, gradient)
        if weights is None:
            # adding a few numbers of a row each takes NumPy longer than Python
            return math.fsum(terms.tolist()) if terms.ndim == 1 else float(terms.sum(dtype=np.float64))
        taken = weights != 0
        np.multiply(gradient, weights[:, None], out=gradient)
        gradient[~taken] = 0
        rows = terms if terms.ndim == 1 else terms.sum(axis=1, dtype=np.float64)
        return float(np.multiply(rows[taken], weights[taken], dtype=np.float64).sum())

    def config(self) -> dict[str, Any]:
        """Return what `get` makes this loss from again."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class HalfSquaredError(Loss):
    """ℓ = Σ_j ½ (a_j − y_j)²; ∂ℓ/∂a = a − y."""

    name = "half_squared_error"

    def terms(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        return 0.5 * _squares(output, y, gradient)


@dataclass(frozen=True)
class SquaredError(Loss):
    """ℓ = Σ_j (y_j − a_j)²; ∂ℓ/∂a = −2 (y − a)."""

    name = "squared_error"

    def terms(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        terms = _squares(output, y, gradient)
        np.multiply(gradient, 2, out=gradient)
        return terms


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """ℓ = (1/n_L) Σ_j (a_j − y_j)²; ∂ℓ/∂a = (2/n_L) (a − y)."""

    name = "mean_squared_error"

    def terms(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        terms = _squares(output, y, gradient)
        np.multiply(gradient, 2 / output.shape[1], out=gradient)
        return terms / output.shape[1]


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """ℓ = Σ_j |a_j − y_j|; ∂ℓ/∂a = sign(a − y), 0 at 0."""

    name = "absolute_error"

    def terms(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        np.subtract(output, y, out=gradient)
        terms = np.abs(gradient)
        np.sign(gradient, out=gradient)
        return terms


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

    @property
    def parameter(self) -> float:
        return self.threshold

    def terms(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        t = output.dtype.type(self.threshold)
        difference = output - y
        np.clip(difference, -t, t, out=gradient)
        # With c = clip(d, −t, t), both branches are c (d − ½ c).
        return gradient * (difference - gradient / 2)


@dataclass(frozen=True)
class Quantile(Loss):
    """With d = a − y and τ the quantile, ℓ = Σ_j (1 − τ) d_j where d_j > 0, else −τ d_j; ∂ℓ/∂a = 1 − τ or −τ, 0 at 0.

    The "pinball" loss, which the τ-quantile of y minimises: Koenker & Bassett, "Regression Quantiles", 1978.
    """

    quantile: float = 0.5

    name = "quantile"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("quantile", self.quantile, above=0, below=1)

    @property
    def parameter(self) -> float:
        return self.quantile

    def terms(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        level = output.dtype.type(self.quantile)
        difference = output - y
        # the last: 0, or NaN
        slope = np.where(difference > 0, 1 - level, np.where(difference < 0, -level, difference))
        gradient[...] = slope
        return slope * difference


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """With a = sigmoid(z), ℓ = −Σ_j (y_j ln a_j + (1 − y_j) ln(1 − a_j)); ∂ℓ/∂z = a − y. A y_j outside 0 to 1 is NaN.

    Computed from the logits as max(z, 0) − z y + ln(1 + e^−|z|).
    """

    name = "binary_cross_entropy"
    output_activation = "sigmoid"

    def terms(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        z, y = output, _probabilities(y)
        np.subtract(expit(z), y, out=gradient)
        return np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))


@dataclass(frozen=True)
class FocalLoss(Loss):
    """What the focal losses share: the exponent γ ≥ 0 by which what is right already counts less. 0: a cross-entropy.

    Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 4.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("gamma", self.gamma, least=0)

    @property
    def parameter(self) -> float:
        return self.gamma


@dataclass(frozen=True)
class BinaryFocalCrossEntropy(FocalLoss):
    """With a = sigmoid(z), ℓ = −Σ_j (y_j (1 − a_j)^γ ln a_j + (1 − y_j) a_j^γ ln(1 − a_j)). A y_j outside 0 to 1 is
    NaN.

    With h(p) = (1 − p)^γ (γ p ln p / (1 − p) − 1), ∂ℓ/∂z = y (1 − a) h(a) − (1 − y) a h(1 − a).
    """

    name = "binary_focal_cross_entropy"
    output_activation = "sigmoid"

    def terms(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        z, y = output, _probabilities(y)
        a, rest = expit(z), expit(-z)
        one = _focal(a, rest, log_expit(z), self.gamma)
        terms = np.multiply(y, one.loss, out=one.loss)
        np.multiply(one.slope, rest, out=gradient)
        gradient *= y
        del one  # large: the other side takes its place
        other = _focal(rest, a, log_expit(-z), self.gamma)
        y = 1 - y
        terms += np.multiply(y, other.loss, out=other.loss)
        np.multiply(other.slope, a, out=other.slope)
        gradient -= np.multiply(other.slope, y, out=other.slope)
        return terms


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """With a = softmax(z), ℓ = −Σ_j y_j ln a_j; ∂ℓ/∂z = a − y. y: labels, or rows that sum to 1.

    With label smoothing ε, (1 − ε) y_j + ε / n_L stands in place of y_j (Szegedy et al., "Rethinking the Inception
    Architecture for Computer Vision", 2016, section 7).

    A label that is no class makes ℓ and its row of ∂ℓ/∂z NaN; a y_j outside 0 to 1 is NaN.

    Computed from the logits as ln Σ_k e^(z_k − m) − Σ_j y_j (z_j − m), m = max z.
    """

    label_smoothing: float = 0.0

    name = "softmax_cross_entropy"
    output_activation = "softmax"
    takes_labels = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("label_smoothing", self.label_smoothing, least=0, below=1)

    @property
    def parameter(self) -> float:
        return self.label_smoothing

    def terms(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        starts, flat = _shift(output, gradient)
        smoothing = self.label_smoothing
        if y.ndim == 1:
            stray = (y < 0) | (y >= gradient.shape[1])
            labelled = starts + np.where(stray, 0, y)
            chosen = np.where(stray, np.nan, flat[labelled])
        else:
            y = _probabilities(y)
            chosen = np.einsum("ij,ij->i", gradient, y)
        if smoothing:
            chosen = (1 - smoothing) * chosen + smoothing * gradient.mean(axis=1)
        sums = _softmax(gradient, starts)
        if y.ndim == 1:
            flat[labelled] -= 1 - smoothing
            gradient[stray] = np.nan
        else:
            np.subtract(gradient, (1 - smoothing) * y if smoothing else y, out=gradient)
        if smoothing:
            np.subtract(gradient, smoothing / gradient.shape[1], out=gradient)
        return np.log(sums) - chosen

    def config(self) -> dict[str, Any]:
        config = super().config()
        if not self.label_smoothing:
            del config["label_smoothing"]  # so that models without it are those of earlier versions
        return config


@dataclass(frozen=True)
class SoftmaxFocalCrossEntropy(FocalLoss):
    """With a = softmax(z), ℓ = −Σ_j y_j (1 − a_j)^γ ln a_j. y, and what is no target: as for softmax cross-entropy.

    With h_j = (1 − a_j)^γ (γ a_j ln a_j / (1 − a_j) − 1), ∂ℓ/∂z_j = y_j h_j − a_j Σ_k y_k h_k.
    """

    name = "softmax_focal_cross_entropy"
    output_activation = "softmax"
    takes_labels = True

    def terms(self, output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        targets = _one_hot(y, gradient) if y.ndim == 1 else _probabilities(y)
        starts, _ = _shift(output, gradient)
        log_a = gradient.copy()
        sums = _softmax(gradient, starts)
        log_a -= np.log(sums)[:, None]
        focal = _focal(gradient, -np.expm1(log_a), log_a, self.gamma)
        wanted = np.multiply(targets, focal.slope, out=focal.slope)
        gradient *= -wanted.sum(axis=1, keepdims=True)
        gradient += wanted
        return np.einsum("ij,ij->i", targets, focal.loss)


LOSSES: dict[str, type[Loss]] = {
    kind.name: kind
    for kind in (
        HalfSquaredError,
        SquaredError,
        MeanSquaredError,
        AbsoluteError,
        Huber,
        Quantile,
        BinaryCrossEntropy,
        BinaryFocalCrossEntropy,
        SoftmaxCrossEntropy,
        SoftmaxFocalCrossEntropy,
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


def _squares(output: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return (a − y)² in float64, and write a − y into `gradient`."""
    np.subtract(output, y, out=gradient)
    return np.square(gradient, dtype=np.float64)


class _Focal(NamedTuple):
    """f(p) = −(1 − p)^γ ln p and its slope h(p) = p f'(p)."""

    loss: np.ndarray
    slope: np.ndarray


def _focal(p: np.ndarray, rest: np.ndarray, log_p: np.ndarray, gamma: float) -> _Focal:
    """Return f and h at p, where `rest` is 1 − p and `log_p` is ln p, each as exact as it can be."""
    power = rest**gamma
    # ln p / (1 − p), which goes to −1 as p goes to 1
    slope = np.divide(log_p, rest, out=np.full_like(rest, -1), where=rest > 0)
    slope *= p
    slope *= gamma
    slope -= 1
    slope *= power
    power *= log_p
    return _Focal(np.negative(power, out=power), slope)


def _shift(output: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write rows of logits, each less its largest, into `gradient`. Return where its rows start, and all of it flat.

    `reduceat`, with the places where rows start, takes half the time of `reduce` on rows of a few numbers.
    """
    starts = np.arange(0, gradient.size, gradient.shape[1])
    largest = np.maximum.reduceat(output.reshape(-1), starts)
    np.subtract(output, largest[:, None], out=gradient)
    return starts, gradient.reshape(-1)


def _softmax(shifted: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Make shifted logits softmax(z). Return what each row was divided by: Σ_k e^(z_k − m), (B,)."""
    np.exp(shifted, out=shifted)
    sums = np.add.reduceat(shifted.reshape(-1), starts)
    np.divide(shifted, sums[:, None], out=shifted)
    return sums


def _one_hot(labels: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return labels as rows of 0 and 1 of this shape and dtype; of NaN where the label is no class."""
    targets = (labels[:, None] == np.arange(like.shape[1])).astype(like.dtype)
    targets[(labels < 0) | (labels >= like.shape[1])] = np.nan
    return targets
