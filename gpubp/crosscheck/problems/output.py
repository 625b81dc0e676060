"""The problem of output_delta: every loss, on numbers and on labels, with and without weights and a loss scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gpubp.backends.base import Array, Backend
from gpubp.crosscheck import bounds, references
from gpubp.crosscheck.bounds import ROUNDINGS, UNIT_ROUNDOFF, stored
from gpubp.crosscheck.cases import LABELS, SMOOTHED, Case
from gpubp.crosscheck.problems import pieces
from gpubp.crosscheck.problems.problem import Expected, Problem
from gpubp.kernels.control import Control
from gpubp.nn import activations, losses
from gpubp.nn.activations import Activation
from gpubp.nn.precision import LossScaling

CROSS_ENTROPY = "softmax_cross_entropy"
FOCAL = ("binary_focal_cross_entropy", "softmax_focal_cross_entropy")

_TOTAL = 3.0
"""The running sum of the losses before."""


class _Asked(NamedTuple):
    """What output_delta is asked: a reduction, targets that are none, weights, a divisor, a loss scale."""

    reduction: str = "mean"
    strays: bool = False
    weighted: bool = False
    divisor: float | None = None
    scaled: bool = False


_ASKED = {
    "mean": _Asked(),
    "sum": _Asked("sum"),
    "stray": _Asked(strays=True),
    "divisor": _Asked(divisor=29.0),
    "scaled": _Asked(scaled=True),
    "weighted": _Asked(weighted=True),
    "weighted_stray": _Asked("sum", strays=True, weighted=True),
    "weighted_scaled": _Asked(weighted=True, scaled=True),
}
"""By mode."""


class _Batch(NamedTuple):
    """A batch as the reference reads it, and which of its targets are none."""

    output: np.ndarray
    saved: np.ndarray
    y: np.ndarray
    astray: np.ndarray


def output_delta(case: Case, rng: np.random.Generator) -> Problem:
    rows, asked = case.shape[0], _ASKED[case.mode]
    name, activation_name, *more = case.option.split("+")
    activation, labels = pieces.activation_of(activation_name), LABELS in more
    loss = _loss(rng, name, asked.reduction, SMOOTHED in more)
    z = pieces.logits(case, rng, 2) if loss.from_logits else pieces.rounded(rng.normal(0, 2, case.shape), case.storage)
    if loss.from_logits:
        output = saved = z
    else:
        a = _outputs(activation, z)
        output, saved = a, (z if activation.reads == "z" else a)
    y = _targets(case, rng, loss, labels)
    started = {"losses": np.array([np.nan, _TOTAL])}
    if not loss.from_logits:
        if case.scale != 1:
            # outputs near their targets make deltas of the size of small gradients; the loss is of its square then
            y = pieces.rounded(pieces.wide(output) + case.scale * rng.normal(0, 1, case.shape), case.master)
        y.reshape(-1)[5::11] = output.reshape(-1)[5::11]  # where some losses have a kink
    astray = _strayed(rng, loss, y, case.shape[1]) if asked.strays else np.zeros_like(y, bool)
    weights = _weights(case, rng) if asked.weighted else np.ones(rows, case.master)
    given = _Batch(
        pieces.wide(output), pieces.wide(saved), np.where(astray, 0, y if labels else pieces.wide(y)), astray
    )
    if asked.weighted:
        _spoil(rng, loss, weights, output, saved, y)

    def call(backend: Backend, arrays: Mapping[str, Array]) -> None:
        options = {} if asked.divisor is None else {"divisor": asked.divisor}
        backend.output_delta(
            loss,
            activation,
            arrays["output"],
            arrays["output"] if saved is output else arrays["saved"],
            arrays["y"],
            arrays.get("weights"),
            arrays.get("control"),
            arrays["losses"],
            arrays["delta"],
            **options,
        )

    inputs = {"output": output, "y": y} | ({} if saved is output else {"saved": saved})
    scale = LossScaling().initial if asked.scaled else 1.0
    factor = loss.factor(float(weights.sum(dtype=np.float64)))  # without weights, each is 1
    if asked.divisor is not None:
        factor = 1 / asked.divisor
    if asked.weighted:
        inputs["weights"] = weights
    if asked.weighted or asked.scaled:
        inputs["control"] = control = np.full(len(Control), np.nan)
        control[Control.LOSS_SCALE] = scale
        if asked.weighted:
            control[Control.LOSS_FACTOR] = factor

    def expect() -> dict[str, Expected]:
        wide_factor, wide_weights = pieces.wide_like(np.array(factor), case.dtype), pieces.wide(weights)
        delta, each, g = references.output_delta(loss, activation, *given[:3])
        by_row = scale * wide_factor * wide_weights[:, None]
        delta, error = by_row * delta, by_row * _delta_error(case, loss, activation, given, g)
        total = (wide_weights * each).sum()
        losses_reference = np.stack([total * wide_factor, _TOTAL + total])
        # the sum is made in float64 (or as widely as the dtype), from terms that are rounded to the dtype
        own, terms = _loss_errors(case, loss, given, each)
        u_sum = UNIT_ROUNDOFF["float64"]
        loss_error = (wide_weights * (own + 4 * rows * u_sum * terms)).sum()
        loss_bound = np.stack([loss_error * wide_factor, loss_error + 4 * u_sum * _TOTAL])
        taken = weights[:, None] != 0
        nan = np.broadcast_to(_nan_places(loss, activation, labels, astray) & taken, case.shape)
        found = pieces.within(delta, error, case.storage)
        strayed = (astray.reshape(rows, -1) & taken).any()
        return {
            "delta": replace(found, bound=np.where(taken, found.bound, 0), nan=nan),
            "losses": Expected(losses_reference, stored(loss_bound, losses_reference, "float64"), np.full(2, strayed)),
        }

    return Problem(inputs, call, expect, {"delta": (case.shape, case.storage)}, started)


def _loss(rng: np.random.Generator, name: str, reduction: str, smoothed: bool) -> losses.Loss:
    """Return the loss of this name, with a number of its own that its default does not stand for."""
    options: dict[str, Any] = {"name": name, "reduction": reduction}
    if smoothed:
        options["label_smoothing"] = 0.2
    if name == "quantile":
        options["quantile"] = 0.3
    if name in FOCAL:
        options["gamma"] = float(rng.choice([0.0, 0.5, 1.0, 2.0, 3.5]))
    return losses.get(options)


def _outputs(activation: Activation, z: np.ndarray) -> np.ndarray:
    """Return the output activations for the logits z, as a network would hold them."""
    wide = pieces.wide(z)
    a = references.softmax(wide) if activation.name == "softmax" else references.sigma(activation, wide)
    return pieces.rounded(a, str(z.dtype))


def _targets(case: Case, rng: np.random.Generator, loss: losses.Loss, labels: bool) -> np.ndarray:
    """Return targets that the loss takes; of those that are probabilities, every second row is of 0 and 1."""
    rows, width = case.shape
    if labels:
        return rng.integers(0, width, rows)
    if loss.output_activation == "softmax":
        y = rng.dirichlet(np.ones(width), rows)
        y[::2] = np.eye(width)[rng.integers(0, width, rows)][::2]
    elif loss.output_activation == "sigmoid":
        y = rng.random(case.shape)
        y[::2] = rng.integers(0, 2, case.shape)[::2]
    else:
        y = rng.normal(0, 1, case.shape)
    return pieces.rounded(y, case.master)


def _strayed(rng: np.random.Generator, loss: losses.Loss, y: np.ndarray, width: int) -> np.ndarray:
    """Put targets that the loss does not take into y, at least one. Return where they are."""
    astray = rng.random(y.shape) < 0.1
    astray.reshape(-1)[rng.integers(y.size)] = True
    wrong: list[Any] = [np.nan]
    if y.ndim == 1:
        wrong = [-1, width, 2**32, np.iinfo(np.int64).min, np.iinfo(np.int64).max]
    elif loss.from_logits:
        wrong += [-1.0, 5.0, -1e-30, np.nextafter(y.dtype.type(1), 2)]
    some = rng.choice(wrong, rng.integers(1, len(wrong), endpoint=True), replace=False)  # not always the NaN among them
    y[astray] = rng.permuted(np.resize(some, int(astray.sum())))
    return astray


def _weights(case: Case, rng: np.random.Generator) -> np.ndarray:
    """Return a weight for each row: one in four is 0, the others are from 2⁻²⁰ to 2²⁰."""
    rows = case.shape[0]
    weights = 2 ** rng.uniform(-20, 20, rows)
    weights[rng.random(rows) < 0.25] = 0
    return pieces.rounded(weights, case.master)


def _spoil(
    rng: np.random.Generator,
    loss: losses.Loss,
    weights: np.ndarray,
    output: np.ndarray,
    saved: np.ndarray,
    y: np.ndarray,
) -> None:
    """Put NaN and targets that are none, in turn, into rows of weight 0: they add nothing, whatever they hold."""
    out = np.flatnonzero(weights == 0)
    for x in (output, saved):
        x[out[::2]] = np.nan
    if len(out):
        strays = y[out]
        _strayed(rng, loss, strays, output.shape[1])
        y[out[1::2]] = strays[1::2]


def _nan_places(loss: losses.Loss, activation: Activation, labels: bool, astray: np.ndarray) -> np.ndarray:
    """Return where δ is NaN, as a target is none: (B, n), or (B, 1) for whole rows.

    A softmax couples the places of a row, but for plain cross-entropy, whose δ is a − y.
    """
    by_rows = labels or (activation.name == "softmax" and loss.name != CROSS_ENTROPY)
    return np.asarray(astray.reshape(len(astray), -1).any(axis=1, keepdims=True)) if by_rows else astray


# --- errors -----------------------------------------------------------------------------------------------------------
def _delta_error(case: Case, loss: losses.Loss, activation: Activation, given: _Batch, g: np.ndarray) -> np.ndarray:
    """Return the error of δ before any weight and reduction, whose roundings are in it already."""
    u, c = UNIT_ROUNDOFF[case.master], ROUNDINGS["output_delta"]
    output, saved = given.output, given.saved
    if loss.name in FOCAL:
        return _focal_errors(case, loss, given)[0] + c * u * np.abs(g)
    if loss.name == CROSS_ENTROPY:
        # a smoothed target t is rounded itself, but t ≤ a + |a − t|, of which both are here
        return bounds.softmax_error(output, references.softmax(output), case.master) + c * u * np.abs(g)
    if loss.name == "binary_cross_entropy":
        # a − y: a's own error, then the difference's
        return c * u * (np.abs(g) + references.sigma(activations.get("sigmoid"), output))
    if activation.name == "softmax":
        terms = np.abs(saved) * (np.abs(g) + (np.abs(g) * saved).sum(axis=1, keepdims=True) * output.shape[1] ** 0.5)
        return c * u * terms
    slope = references.sigma_prime(activation, saved)
    return c * u * np.abs(g * slope) + np.abs(g) * bounds.sigma_prime_error(activation, saved, case.master)


def _loss_errors(case: Case, loss: losses.Loss, given: _Batch, each: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the error of each example's loss, and the sum of the absolute terms of each: (B,)."""
    u, c = UNIT_ROUNDOFF[case.master], ROUNDINGS["loss"]
    output, y = given.output, given.y
    if loss.name in FOCAL:
        return _focal_errors(case, loss, given)[1].sum(axis=1) + c * u * each, each
    if loss.name == CROSS_ENTROPY:
        below = output.max(axis=1, keepdims=True) - output  # m − z
        chosen = below[np.arange(len(y)), y] if y.ndim == 1 else (below * y).sum(axis=1)
        smoothing = loss.parameter
        spread = (1 - smoothing) * chosen + smoothing * below.mean(axis=1)
        roots = output.shape[1] ** 0.5
        if y.ndim == 2 or smoothing:  # a sum of n terms
            spread = spread * (1 + roots)
        terms = np.log(np.exp(-below).sum(axis=1)) + spread + roots
    elif loss.name == "binary_cross_entropy":
        terms = (np.abs(output) * (1 + y) + 1).sum(axis=1)
    else:
        terms = each
    return c * u * terms, terms


def _focal_errors(case: Case, loss: losses.Loss, given: _Batch) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of a focal loss by place of the output: of ∂ℓ/∂z, and of ℓ."""
    with np.errstate(under="ignore"):
        if loss.name == "binary_focal_cross_entropy":
            return _binary_focal_errors(case, loss.parameter, given.output, given.y)
        width = given.output.shape[1]
        y = np.eye(width, dtype=given.output.dtype)[given.y] if given.y.ndim == 1 else given.y
        return _softmax_focal_errors(case, loss.parameter, given.output, y)


def _binary_focal_errors(case: Case, gamma: float, z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors, from those of σ(z), σ(−z) and their logarithms, which are all relative."""
    u, c = UNIT_ROUNDOFF[case.master], ROUNDINGS["output_delta"]
    sigmoid, softplus = activations.get("sigmoid"), activations.get("softplus")
    delta_error, loss_error = np.zeros_like(z), np.zeros_like(z)
    for sign, target in ((1, y), (-1, 1 - y)):
        rest, log_p = references.sigma(sigmoid, -sign * z), -references.sigma(softplus, -sign * z)
        rest_error = bounds.sigma_error(sigmoid, -sign * z, case.master)
        log_error = bounds.sigma_error(softplus, -sign * z, case.master)
        focal = bounds.focal(log_p, log_error, rest, rest_error, gamma, case.master)
        own = rest * focal.slope_error + rest_error * focal.slope + c * u * rest * focal.slope
        delta_error += target * own
        loss_error += target * focal.loss_error
    return delta_error, loss_error


def _softmax_focal_errors(case: Case, gamma: float, z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors, from that of ln a = z − m − ln Σ_k e^(z_k − m), of which a and 1 − a are made."""
    u, c = UNIT_ROUNDOFF[case.master], ROUNDINGS["output_delta"]
    roots = z.shape[1] ** 0.5
    below = z - z.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(below).sum(axis=1, keepdims=True))
    log_a = below - log_sum
    a, rest = np.exp(log_a), -np.expm1(log_a)
    # the sum's relative error is that of a softmax's divisor; then come the logarithm and the two differences
    own = 1 + (a * -below).sum(axis=1, keepdims=True) + roots
    log_error = u * (ROUNDINGS["softmax"] * own + ROUNDINGS["logarithm"] * log_sum - below - log_a)
    a_error = a * log_error + ROUNDINGS["logarithm"] * u * a
    rest_error = a * log_error + ROUNDINGS["logarithm"] * u * rest
    focal = bounds.focal(log_a, log_error, rest, rest_error, gamma, case.master)
    wanted, wanted_error = y * focal.slope, y * focal.slope_error
    total = wanted.sum(axis=1, keepdims=True)
    total_error = wanted_error.sum(axis=1, keepdims=True) + c * roots * u * total
    delta_error = wanted_error + a_error * total + (a + a_error) * total_error + c * u * (wanted + a * total)
    return delta_error, y * focal.loss_error
