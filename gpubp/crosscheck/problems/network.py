"""The problems of the primitives that go forward and backward through a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gpubp.backends.base import Array, Backend
from gpubp.crosscheck import bounds, references
from gpubp.crosscheck.bounds import ROUNDINGS, UNIT_ROUNDOFF, stored
from gpubp.crosscheck.cases import Case
from gpubp.crosscheck.problems import pieces
from gpubp.crosscheck.problems.problem import Expected, Problem
from gpubp.kernels.control import Control
from gpubp.nn import activations, losses
from gpubp.nn.activations import Activation
from gpubp.nn.precision import LossScaling

EXACT = ("identity", "relu")
"""Activations whose σ and σ' make no rounding: small integers go through them bit for bit."""


def dense_forward(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    activation = pieces.activation_of(case.option)
    a_prev, w, b = (pieces.draw(case, rng, shape) for shape in ((m, k), (n, k), (n,)))
    b = b.astype(case.master)
    if case.values == "random":
        w = pieces.stored_operand(case, w / np.sqrt(k))  # z of order 1, where σ bends
    with_bias = case.mode != "no_bias"
    made = {"a": ((m, n), case.storage)}
    if case.mode == "keep_z":
        made["z"] = (m, n), case.storage

    def call(backend: Backend, arrays: Mapping[str, Array], **options: Any) -> None:
        b_array = arrays["b"] if with_bias else None
        z_array = arrays.get("z")
        options |= pieces.tf32(case)
        backend.dense_forward(arrays["a_prev"], arrays["w"], b_array, activation, z_array, arrays["a"], **options)

    def expect() -> dict[str, Expected]:
        wide_a, wide_w = pieces.operand(case, a_prev), pieces.operand(case, w)
        wide_b = pieces.wide(b if with_bias else np.zeros_like(b))
        z = wide_a @ wide_w.T + wide_b
        z_error = bounds.product_error(np.abs(wide_a) @ np.abs(wide_w).T + np.abs(wide_b), k, case.dtype)
        z_read = stored(z_error, z, case.master)  # the error of the z that σ reads, which is not rounded to 16 bits
        a = references.sigma(activation, z)
        # σ is computed at the kernel's z, where its own error is of the size that it has at |z| + the error of z
        own = bounds.sigma_error(activation, pieces.away_from_zero(z, z_read), case.master)
        exact = case.values == "integers"
        if exact and activation.name in EXACT:
            expected = {"a": pieces.exactly(a, case.storage)}
        else:
            error = own if exact else bounds.lipschitz(activation) * z_read + own
            expected = {"a": pieces.within(a, error, case.storage)}
        if case.mode == "keep_z":
            expected["z"] = pieces.summed(case, z, z_error, case.storage)
        return expected

    return Problem({"a_prev": a_prev, "w": w, "b": b}, call, expect, made)


def softmax(case: Case, rng: np.random.Generator) -> Problem:
    z = pieces.logits(case, rng, 5)
    dtype = case.master if case.mode == "master" else case.storage

    def expect() -> dict[str, Expected]:
        wide = pieces.wide(z)
        a = references.softmax(wide)
        return {"a": pieces.within(a, _softmax_error(wide, a, case.master), dtype)}

    return Problem(
        {"z": z},
        lambda backend, arrays: backend.softmax(arrays["z"], arrays["a"]),
        expect,
        {"a": (case.shape, dtype)},
    )


def _softmax_error(z: np.ndarray, a: np.ndarray, dtype: str) -> np.ndarray:
    """Return c u a (1 + |z − m| + √n): the rounding of z − m grows through the exponential, and a row sums n terms."""
    spread = z.max(axis=1, keepdims=True) - z
    mean_spread = (a * spread).sum(axis=1, keepdims=True)
    terms = a * (1 + spread + mean_spread + z.shape[1] ** 0.5)
    return ROUNDINGS["softmax"] * UNIT_ROUNDOFF[dtype] * terms


def output_delta(case: Case, rng: np.random.Generator) -> Problem:
    rows = case.shape[0]
    loss_name, activation_name, *labels = case.option.split("+")
    scaled = case.mode == "scaled"
    loss = losses.get({"name": loss_name, "reduction": "sum" if case.mode == "sum" else "mean"})
    activation = pieces.activation_of(activation_name)
    z = pieces.logits(case, rng, 2) if loss.from_logits else pieces.rounded(rng.normal(0, 2, case.shape), case.storage)
    if loss.from_logits:
        output = saved = z
    else:
        a = _outputs(activation, z)
        output, saved = a, (z if activation.reads == "z" else a)
    y = _targets(case, rng, loss, bool(labels))
    started = {"losses": np.array([np.nan, 3.0])}
    if case.scale != 1 and not loss.from_logits:
        # outputs near their targets make deltas of the size of small gradients; the loss is of its square then
        y = pieces.rounded(pieces.wide(output) + case.scale * rng.normal(0, 1, case.shape), case.master)
    astray = _strayed(rng, loss, y, case.shape[1]) if case.mode == "stray" else np.zeros_like(y, bool)
    factor = LossScaling().initial if scaled else 1.0

    def call(backend: Backend, arrays: Mapping[str, Array]) -> None:
        backend.output_delta(
            loss,
            activation,
            arrays["output"],
            arrays["output"] if saved is output else arrays["saved"],
            arrays["y"],
            arrays.get("control"),
            arrays["losses"],
            arrays["delta"],
        )

    inputs = {"output": output, "y": y} | ({} if saved is output else {"saved": saved})
    if scaled:
        inputs["control"] = control = np.zeros(len(Control))
        control[Control.LOSS_SCALE] = factor

    def expect() -> dict[str, Expected]:
        wide_out, wide_saved = pieces.wide(output), pieces.wide(saved)
        wide_y = np.where(astray, 0, y if labels else pieces.wide(y))
        delta, total, g = references.output_delta(loss, activation, wide_out, wide_saved, wide_y)
        error = _output_delta_error(case, loss, activation, wide_out, wide_saved, wide_y, g)
        delta, error = factor * delta, factor * error
        losses_reference = pieces.wide_like(np.array([total / loss.divisor(rows), 3.0 + total]), case.dtype)
        terms = _loss_terms(loss, wide_out, wide_y)
        # the sum is made in float64 (or as widely as the dtype), from terms that are rounded to the dtype
        u, u_sum = UNIT_ROUNDOFF[case.master], UNIT_ROUNDOFF["float64"]
        loss_error = ROUNDINGS["loss"] * u * terms + 4 * rows * u_sum * terms
        loss_bound = np.array([loss_error / loss.divisor(rows), loss_error + 4 * u_sum * 3.0])
        bound = stored(pieces.wide_like(loss_bound, case.dtype), losses_reference, "float64")
        # a softmax couples the places of a row, but for cross-entropy, whose δ is a − y
        by_rows = labels or (activation.name == "softmax" and not loss.from_logits)
        nan = astray.reshape(rows, -1).any(axis=1, keepdims=True) if by_rows else astray
        return {
            "delta": replace(pieces.within(delta, error, case.storage), nan=np.broadcast_to(nan, case.shape)),
            "losses": Expected(losses_reference, bound, np.full(2, astray.any())),
        }

    return Problem(inputs, call, expect, {"delta": (case.shape, case.storage)}, started)


def _outputs(activation: Activation, z: np.ndarray) -> np.ndarray:
    """Return the output activations for the logits z, as a network would hold them."""
    wide = pieces.wide(z)
    a = references.softmax(wide) if activation.name == "softmax" else references.sigma(activation, wide)
    return pieces.rounded(a, str(z.dtype))


def _targets(case: Case, rng: np.random.Generator, loss: losses.Loss, labels: bool) -> np.ndarray:
    rows, width = case.shape
    if labels:
        return rng.integers(0, width, rows)
    if loss.name == "softmax_cross_entropy":
        return np.eye(width, dtype=case.master)[rng.integers(0, width, rows)]
    if loss.name == "binary_cross_entropy":
        return rng.integers(0, 2, case.shape).astype(case.master)
    return pieces.rounded(rng.normal(0, 1, case.shape), case.master)


def _strayed(rng: np.random.Generator, loss: losses.Loss, y: np.ndarray, width: int) -> np.ndarray:
    """Put targets that the loss does not take into y, at least one. Return where they are."""
    astray = rng.random(y.shape) < 0.1
    astray.reshape(-1)[rng.integers(y.size)] = True
    wrong: list[Any] = [np.nan]
    if y.ndim == 1:
        wrong = [-1, width, 2**32, np.iinfo(np.int64).min, np.iinfo(np.int64).max]
    elif loss.from_logits:
        wrong += [-1.0, 5.0, -1e-30, np.nextafter(y.dtype.type(1), 2)]
    y[astray] = rng.permuted(np.resize(wrong, int(astray.sum())))
    return astray


def _output_delta_error(
    case: Case,
    loss: losses.Loss,
    activation: Activation,
    output: np.ndarray,
    saved: np.ndarray,
    y: np.ndarray,
    g: np.ndarray,
) -> np.ndarray:
    u, c = UNIT_ROUNDOFF[case.master], ROUNDINGS["output_delta"]
    divisor = loss.divisor(len(output))
    if loss.name == "softmax_cross_entropy":
        a = references.softmax(output)
        return (_softmax_error(output, a, case.master) + c * u * np.abs(g)) / divisor
    if loss.name == "binary_cross_entropy":
        # a − y: a's own error, then the difference's
        return c * u * (np.abs(g) + references.sigma(activations.get("sigmoid"), output)) / divisor
    if activation.name == "softmax":
        terms = np.abs(saved) * (np.abs(g) + (np.abs(g) * saved).sum(axis=1, keepdims=True) * output.shape[1] ** 0.5)
        return c * u * terms / divisor
    slope = references.sigma_prime(activation, saved)
    slope_error = bounds.sigma_prime_error(activation, saved, case.master)
    return (c * u * np.abs(g * slope) + np.abs(g) * slope_error) / divisor


def _loss_terms(loss: losses.Loss, output: np.ndarray, y: np.ndarray) -> float:
    """Return the sum of the absolute terms of the loss."""
    if loss.name == "softmax_cross_entropy":
        m = output.max(axis=1)
        chosen = output[np.arange(len(y)), y] if y.ndim == 1 else (output * y).sum(axis=1)
        spread = np.abs(m - chosen)
        return float((np.log(np.exp(output - m[:, None]).sum(axis=1)) + spread + output.shape[1] ** 0.5).sum())
    if loss.name == "binary_cross_entropy":
        return float((np.abs(output) * (1 + y) + 1).sum())
    scratch = np.empty_like(output)
    return float(loss.evaluate(output, y, scratch))


def hidden_delta(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    activation = pieces.activation_of(case.option)
    delta_next, w_next = pieces.draw(case, rng, (m, k), case.scale), pieces.draw(case, rng, (k, n))
    saved = pieces.saved(case, rng, activation, (m, n))

    def expect() -> dict[str, Expected]:
        product, error = pieces.product(case, delta_next, w_next)
        return {"delta": _hadamard(case, activation, product, error, pieces.wide(saved))}

    return Problem(
        {"delta_next": delta_next, "w_next": w_next, "saved": saved},
        lambda backend, arrays, **options: backend.hidden_delta(
            arrays["delta_next"],
            arrays["w_next"],
            activation,
            arrays["saved"],
            arrays["delta"],
            **pieces.tf32(case),
            **options,
        ),
        expect,
        {"delta": ((m, n), case.storage)},
    )


def transpose_product(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    delta_next, w_next = pieces.draw(case, rng, (m, k), case.scale), pieces.draw(case, rng, (k, n))

    def expect() -> dict[str, Expected]:
        product, error = pieces.product(case, delta_next, w_next)
        return {"product": pieces.summed(case, product, error, case.storage)}

    return Problem(
        {"delta_next": delta_next, "w_next": w_next},
        lambda backend, arrays, **options: backend.transpose_product(
            arrays["delta_next"], arrays["w_next"], arrays["product"], **pieces.tf32(case), **options
        ),
        expect,
        {"product": ((m, n), case.storage)},
    )


def hadamard_derivative(case: Case, rng: np.random.Generator) -> Problem:
    activation = pieces.activation_of(case.option)
    product = pieces.draw(case, rng, case.shape, case.scale)
    saved = pieces.saved(case, rng, activation, case.shape)
    return Problem(
        {"product": product, "saved": saved},
        lambda backend, arrays: backend.hadamard_derivative(
            arrays["product"], activation, arrays["saved"], arrays["delta"]
        ),
        lambda: {"delta": _hadamard(case, activation, pieces.wide(product), np.zeros(case.shape), pieces.wide(saved))},
        {"delta": (case.shape, case.storage)},
    )


def _hadamard(
    case: Case, activation: Activation, product: np.ndarray, product_error: np.ndarray, saved: np.ndarray
) -> Expected:
    """Return product ⊙ σ' and its bound: the product's error times |σ'|, plus |product| times the error of σ'."""
    slope = references.sigma_prime(activation, saved)
    delta = product * slope
    if case.values == "integers" and activation.name in EXACT:
        return pieces.exactly(delta, case.storage)
    slope_error = bounds.sigma_prime_error(activation, saved, case.master)
    error = product_error * np.abs(slope) + (np.abs(product) + product_error) * slope_error
    rounding = UNIT_ROUNDOFF[case.master] * np.abs(delta)  # of the product before it is multiplied
    return pieces.within(delta, error + rounding, case.storage)


def weight_gradient(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    delta, a_prev = pieces.draw(case, rng, (k, m), case.scale), pieces.draw(case, rng, (k, n))

    def expect() -> dict[str, Expected]:
        gradient, error = pieces.product(case, delta.T, a_prev)
        return {"gradient": pieces.summed(case, gradient, error, case.master)}

    return Problem(
        {"delta": delta, "a_prev": a_prev},
        lambda backend, arrays, **options: backend.weight_gradient(
            arrays["delta"], arrays["a_prev"], arrays["gradient"], **pieces.tf32(case), **options
        ),
        expect,
        {"gradient": ((m, n), case.master)},
    )


def weight_step(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    delta, a_prev, w = (
        pieces.draw(case, rng, (k, m), case.scale),
        pieces.draw(case, rng, (k, n)),
        pieces.draw(case, rng, (m, n)),
    )
    rate = 0.5 if case.values == "integers" else 0.01
    control = np.zeros(len(Control))
    control[Control.LEARNING_RATE] = rate

    def expect() -> dict[str, Expected]:
        product, error = pieces.product(case, delta.T, a_prev)
        wide_rate = pieces.wide(pieces.rounded(np.array(rate), case.master))  # the kernel's η is rounded to its dtype
        step = wide_rate * product
        after = pieces.wide(w) - step
        u = UNIT_ROUNDOFF[case.master]
        error = wide_rate * error + 2 * u * np.abs(step) + u * np.abs(pieces.wide(w))
        return {"w": pieces.summed(case, after, error, case.master)}

    return Problem(
        {"delta": delta, "a_prev": a_prev, "control": control},
        lambda backend, arrays, **options: backend.weight_step(
            arrays["delta"], arrays["a_prev"], arrays["control"], arrays["w"], **pieces.tf32(case), **options
        ),
        expect,
        started={"w": w},
    )


def bias_gradient(case: Case, rng: np.random.Generator) -> Problem:
    delta = pieces.draw(case, rng, case.shape, case.scale)

    def expect() -> dict[str, Expected]:
        wide = pieces.wide(delta)
        error = bounds.product_error(np.abs(wide).sum(axis=0), len(delta), case.master)
        return {"gradient": pieces.summed(case, wide.sum(axis=0), error, case.master)}

    return Problem(
        {"delta": delta},
        lambda backend, arrays: backend.bias_gradient(arrays["delta"], arrays["gradient"]),
        expect,
        {"gradient": ((case.shape[1],), case.master)},
    )
