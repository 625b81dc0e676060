"""The problems: for each primitive, what a case computes, and what must come out within which bound.

A problem holds host arrays alone. `runner` puts its inputs on a backend, poisons its outputs, calls the primitive, and
compares what comes back. Each function below is one primitive's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpubp import activations, losses, optimizers
from gpubp.activations import Activation
from gpubp.backends.base import Array, Backend, Control
from gpubp.crosscheck import bounds, references
from gpubp.crosscheck.bounds import REFERENCE, ROUNDINGS, UNIT_ROUNDOFF, stored
from gpubp.crosscheck.cases import Case
from gpubp.optimizers import AdamW, Optimizer

EXACT = ("identity", "relu")
"""Activations whose σ and σ' make no rounding: small integers go through them bit for bit."""

DECAYED_SHARE = 3
"""One of so many parameters, from the first, is subject to weight decay."""


@dataclass(frozen=True)
class Expected:
    """What an output must be: within `bound` of `reference`, both in the reference's dtype."""

    reference: np.ndarray
    bound: np.ndarray


@dataclass(frozen=True)
class Problem:
    """A call of a primitive.

    inputs: arrays that it reads; started: arrays that it changes, with what they hold before; made: shapes and dtypes
    of arrays that it writes, whatever they held. call: makes the call, with all of these as the backend's arrays.
    expected: of `started` and `made`, by name.
    """

    inputs: Mapping[str, np.ndarray]
    call: Callable[[Backend, Mapping[str, Array]], None]
    expected: Mapping[str, Expected]
    made: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    started: Mapping[str, np.ndarray] = field(default_factory=dict)


def make(case: Case) -> Problem:
    """The problem of a case; the same for the same case."""
    return _MAKERS[case.primitive](case, case.generator())


# --- forward ----------------------------------------------------------------------------------------------------------
def _dense_forward(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    activation = activations.get(case.option)
    a_prev, w, b = (_draw(case, rng, shape) for shape in ((m, k), (n, k), (n,)))
    if case.values == "random":
        w = _rounded(w / np.sqrt(k), case.dtype)  # z of order 1, where σ bends
    wide_a, wide_w, wide_b = (_wide(x) for x in (a_prev, w, b))
    with_bias = case.mode != "no_bias"
    if not with_bias:
        wide_b = np.zeros_like(wide_b)
    z = wide_a @ wide_w.T + wide_b
    z_error = bounds.product_error(np.abs(wide_a) @ np.abs(wide_w).T + np.abs(wide_b), k, case.dtype)
    z_bound = stored(z_error, z, case.dtype)
    a = references.sigma(activation, z)
    # σ is computed at the kernel's z, where its own error is of the size that it has at |z| + the error of z
    own = bounds.sigma_error(activation, _away_from_zero(z, z_bound), case.dtype)
    a_bound = stored(bounds.lipschitz(activation) * z_bound + own, a, case.dtype)
    if case.values == "integers":
        z_bound = np.zeros_like(z)
        a_bound = z_bound if activation.name in EXACT else stored(own, a, case.dtype)
    keep_z = case.mode == "keep_z"
    made = {"a": ((m, n), case.dtype)} | ({"z": ((m, n), case.dtype)} if keep_z else {})
    expected = {"a": Expected(a, a_bound)} | ({"z": Expected(z, z_bound)} if keep_z else {})

    def call(backend: Backend, arrays: Mapping[str, Array]) -> None:
        b_array = arrays["b"] if with_bias else None
        backend.dense_forward(arrays["a_prev"], arrays["w"], b_array, activation, arrays.get("z"), arrays["a"])

    return Problem({"a_prev": a_prev, "w": w, "b": b}, call, expected, made)


def _softmax(case: Case, rng: np.random.Generator) -> Problem:
    z = _rounded(rng.normal(0, 5, case.shape), case.dtype)
    wide = _wide(z)
    a = references.softmax(wide)
    return Problem(
        {"z": z},
        lambda backend, arrays: backend.softmax(arrays["z"], arrays["a"]),
        {"a": Expected(a, stored(_softmax_error(wide, a, case.dtype), a, case.dtype))},
        {"a": (case.shape, case.dtype)},
    )


def _softmax_error(z: np.ndarray, a: np.ndarray, dtype: str) -> np.ndarray:
    """c u a (1 + |z − m| + √n): the rounding of z − m grows through the exponential, and a row sums n terms."""
    spread = z.max(axis=1, keepdims=True) - z
    mean_spread = (a * spread).sum(axis=1, keepdims=True)
    terms = a * (1 + spread + mean_spread + z.shape[1] ** 0.5)
    return ROUNDINGS["softmax"] * UNIT_ROUNDOFF[dtype] * terms


# --- backward ---------------------------------------------------------------------------------------------------------
def _output_delta(case: Case, rng: np.random.Generator) -> Problem:
    rows = case.shape[0]
    loss_name, activation_name, *labels = case.option.split("+")
    loss = losses.get({"name": loss_name, "reduction": case.mode})
    activation = activations.get(activation_name)
    z = _rounded(rng.normal(0, 2, case.shape), case.dtype)
    if loss.from_logits:
        output = saved = z
    else:
        a = _outputs(activation, z, case.dtype)
        output, saved = a, (z if activation.reads == "z" else a)
    y = _targets(case, rng, loss, bool(labels))
    started = {"losses": np.array([np.nan, 3.0])}
    if case.scale != 1 and not loss.from_logits:
        # outputs near their targets make deltas of the size of small gradients; the loss is of its square then
        y = _rounded(_wide(output) + case.scale * rng.normal(0, 1, case.shape), case.dtype)

    wide_out, wide_saved = _wide(output), _wide(saved)
    wide_y = y if labels else _wide(y)
    delta, total, g = references.output_delta(loss, activation, wide_out, wide_saved, wide_y)
    error = _output_delta_error(case, loss, activation, wide_out, wide_saved, wide_y, g)
    losses_reference = _wide_like(np.array([total / loss.divisor(rows), 3.0 + total]), case.dtype)
    terms = _loss_terms(loss, wide_out, wide_y)
    # the sum is made in float64 (or as widely as the dtype), from terms that are rounded to the dtype
    loss_error = ROUNDINGS["loss"] * UNIT_ROUNDOFF[case.dtype] * terms + 4 * rows * UNIT_ROUNDOFF["float64"] * terms
    loss_bound = np.array([loss_error / loss.divisor(rows), loss_error + 4 * UNIT_ROUNDOFF["float64"] * 3.0])

    def call(backend: Backend, arrays: Mapping[str, Array]) -> None:
        backend.output_delta(
            loss,
            activation,
            arrays["output"],
            arrays["output"] if saved is output else arrays["saved"],
            arrays["y"],
            arrays["losses"],
            arrays["delta"],
        )

    inputs = {"output": output, "y": y} | ({} if saved is output else {"saved": saved})
    expected = {
        "delta": Expected(delta, stored(error, delta, case.dtype)),
        "losses": Expected(losses_reference, stored(_wide_like(loss_bound, case.dtype), losses_reference, "float64")),
    }
    return Problem(inputs, call, expected, {"delta": (case.shape, case.dtype)}, started)


def _outputs(activation: Activation, z: np.ndarray, dtype: str) -> np.ndarray:
    """Output activations for the logits z, as a network would hold them."""
    wide = _wide(z)
    return _rounded(
        references.softmax(wide) if activation.name == "softmax" else references.sigma(activation, wide), dtype
    )


def _targets(case: Case, rng: np.random.Generator, loss: losses.Loss, labels: bool) -> np.ndarray:
    rows, width = case.shape
    if labels:
        return rng.integers(0, width, rows)
    if loss.name == "softmax_cross_entropy":
        return np.eye(width, dtype=case.dtype)[rng.integers(0, width, rows)]
    if loss.name == "binary_cross_entropy":
        return rng.integers(0, 2, case.shape).astype(case.dtype)
    return _rounded(rng.normal(0, 1, case.shape), case.dtype)


def _output_delta_error(
    case: Case,
    loss: losses.Loss,
    activation: Activation,
    output: np.ndarray,
    saved: np.ndarray,
    y: np.ndarray,
    g: np.ndarray,
) -> np.ndarray:
    u, c = UNIT_ROUNDOFF[case.dtype], ROUNDINGS["output_delta"]
    divisor = loss.divisor(len(output))
    if loss.name == "softmax_cross_entropy":
        a = references.softmax(output)
        return (_softmax_error(output, a, case.dtype) + c * u * np.abs(g)) / divisor
    if loss.name == "binary_cross_entropy":
        # a − y: a's own error, then the difference's
        return c * u * (np.abs(g) + 1 / (1 + np.exp(-output))) / divisor
    if activation.name == "softmax":
        terms = np.abs(saved) * (np.abs(g) + (np.abs(g) * saved).sum(axis=1, keepdims=True) * output.shape[1] ** 0.5)
        return c * u * terms / divisor
    slope = references.sigma_prime(activation, saved)
    slope_error = bounds.sigma_prime_error(activation, saved, case.dtype)
    return (c * u * np.abs(g * slope) + np.abs(g) * slope_error) / divisor


def _loss_terms(loss: losses.Loss, output: np.ndarray, y: np.ndarray) -> float:
    """The sum of the absolute terms that the loss is made of."""
    if loss.name == "softmax_cross_entropy":
        m = output.max(axis=1)
        chosen = output[np.arange(len(y)), y] if y.ndim == 1 else (output * y).sum(axis=1)
        spread = np.abs(m - chosen)
        return float((np.log(np.exp(output - m[:, None]).sum(axis=1)) + spread + output.shape[1] ** 0.5).sum())
    if loss.name == "binary_cross_entropy":
        return float((np.abs(output) * (1 + y) + 1).sum())
    scratch = np.empty_like(output)
    return float(loss.evaluate(output, y, scratch))


def _hidden_delta(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    activation = activations.get(case.option)
    delta_next, w_next = _draw(case, rng, (m, k), case.scale), _draw(case, rng, (k, n))
    saved = _saved(case, rng, activation, (m, n))
    product, error = _product(case, delta_next, w_next)
    delta, bound = _hadamard(case, activation, product, error, _wide(saved))
    return Problem(
        {"delta_next": delta_next, "w_next": w_next, "saved": saved},
        lambda backend, arrays: backend.hidden_delta(
            arrays["delta_next"], arrays["w_next"], activation, arrays["saved"], arrays["delta"]
        ),
        {"delta": Expected(delta, bound)},
        {"delta": ((m, n), case.dtype)},
    )


def _transpose_product(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    delta_next, w_next = _draw(case, rng, (m, k), case.scale), _draw(case, rng, (k, n))
    product, error = _product(case, delta_next, w_next)
    return Problem(
        {"delta_next": delta_next, "w_next": w_next},
        lambda backend, arrays: backend.transpose_product(arrays["delta_next"], arrays["w_next"], arrays["product"]),
        {"product": Expected(product, _unless_exact(case, stored(error, product, case.dtype)))},
        {"product": ((m, n), case.dtype)},
    )


def _hadamard_derivative(case: Case, rng: np.random.Generator) -> Problem:
    activation = activations.get(case.option)
    product = _draw(case, rng, case.shape, case.scale)
    saved = _saved(case, rng, activation, case.shape)
    delta, bound = _hadamard(case, activation, _wide(product), np.zeros(case.shape), _wide(saved))
    return Problem(
        {"product": product, "saved": saved},
        lambda backend, arrays: backend.hadamard_derivative(
            arrays["product"], activation, arrays["saved"], arrays["delta"]
        ),
        {"delta": Expected(delta, bound)},
        {"delta": (case.shape, case.dtype)},
    )


def _hadamard(
    case: Case, activation: Activation, product: np.ndarray, product_error: np.ndarray, saved: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """product ⊙ σ', and its bound: the product's error times |σ'|, and |product| times the error of σ'."""
    slope = references.sigma_prime(activation, saved)
    delta = product * slope
    if case.values == "integers" and activation.name in EXACT:
        return delta, np.zeros_like(delta)
    slope_error = bounds.sigma_prime_error(activation, saved, case.dtype)
    error = product_error * np.abs(slope) + (np.abs(product) + product_error) * slope_error
    rounding = UNIT_ROUNDOFF[case.dtype] * np.abs(delta)  # of the product before it is multiplied
    return delta, stored(error + rounding, delta, case.dtype)


def _weight_gradient(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    delta, a_prev = _draw(case, rng, (k, m), case.scale), _draw(case, rng, (k, n))
    gradient, error = _product(case, delta.T, a_prev)
    return Problem(
        {"delta": delta, "a_prev": a_prev},
        lambda backend, arrays: backend.weight_gradient(arrays["delta"], arrays["a_prev"], arrays["gradient"]),
        {"gradient": Expected(gradient, _unless_exact(case, stored(error, gradient, case.dtype)))},
        {"gradient": ((m, n), case.dtype)},
    )


def _weight_step(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    delta, a_prev, w = _draw(case, rng, (k, m), case.scale), _draw(case, rng, (k, n)), _draw(case, rng, (m, n))
    rate = 0.5 if case.values == "integers" else 0.01
    control = np.zeros(len(Control))
    control[Control.LEARNING_RATE] = rate
    product, error = _product(case, delta.T, a_prev)
    wide_rate = _wide(_rounded(np.array(rate), case.dtype))  # the kernel's η is rounded to its dtype
    step = wide_rate * product
    after = _wide(w) - step
    u = UNIT_ROUNDOFF[case.dtype]
    bound = stored(wide_rate * error + 2 * u * np.abs(step) + u * np.abs(_wide(w)), after, case.dtype)
    return Problem(
        {"delta": delta, "a_prev": a_prev, "control": control},
        lambda backend, arrays: backend.weight_step(arrays["delta"], arrays["a_prev"], arrays["control"], arrays["w"]),
        {"w": Expected(after, _unless_exact(case, bound))},
        started={"w": w},
    )


def _bias_gradient(case: Case, rng: np.random.Generator) -> Problem:
    delta = _draw(case, rng, case.shape, case.scale)
    wide = _wide(delta)
    gradient = wide.sum(axis=0)
    error = bounds.product_error(np.abs(wide).sum(axis=0), len(delta), case.dtype)
    return Problem(
        {"delta": delta},
        lambda backend, arrays: backend.bias_gradient(arrays["delta"], arrays["gradient"]),
        {"gradient": Expected(gradient, _unless_exact(case, stored(error, gradient, case.dtype)))},
        {"gradient": ((case.shape[1],), case.dtype)},
    )


# --- update -----------------------------------------------------------------------------------------------------------
_LATE_STEP = 1000


def _optimizer(case: Case) -> Optimizer:
    options: dict[str, Any] = {"name": case.option, "learning_rate": 0.01}
    if case.mode == "decay":
        options["weight_decay"] = 0.1
    if case.mode == "clip_norm":
        options["clip_norm"] = 1.0
    if case.mode == "clip_value":
        options["clip_value"] = 0.5 * case.scale
    return optimizers.get(options)


def _update(case: Case, rng: np.random.Generator) -> Problem:
    """prepare_update and update together, as a step makes them."""
    (size,) = case.shape
    optimizer = _optimizer(case)
    decayed = -(-size // DECAYED_SHARE)
    w, g = _draw(case, rng, case.shape), _draw(case, rng, case.shape, case.scale)
    state = {name: _state(case, rng, name) for name in optimizer.state}
    control = np.zeros(len(Control))
    control[Control.LEARNING_RATE] = optimizer.learning_rate
    control[Control.STEP] = _LATE_STEP if case.mode == "late" else 0
    control[Control.SQUARED_NORM] = float(np.square(_wide(g)).sum())
    control[Control.GRADIENT_SCALE] = np.nan
    scale = min(1.0, 1.0 / float(control[Control.SQUARED_NORM]) ** 0.5) if case.mode == "clip_norm" else 1.0
    after = control.copy()
    after[Control.STEP] += 1
    after[Control.GRADIENT_SCALE] = scale

    def call(backend: Backend, arrays: Mapping[str, Array]) -> None:
        backend.prepare_update(optimizer.clip_norm, arrays["control"])
        slots = [arrays[name] for name in optimizer.state]
        backend.update(optimizer, arrays["g"], decayed, arrays["control"], slots, arrays["w"])

    step = int(after[Control.STEP])
    expected = _expected_update(case, optimizer, w, g, state, decayed, scale, step)
    expected["control"] = Expected(after, stored(4 * UNIT_ROUNDOFF["float64"] * np.abs(after), after, "float64"))
    return Problem({"g": g}, call, expected, started={"w": w, "control": control, **state})


def _state(case: Case, rng: np.random.Generator, name: str) -> np.ndarray:
    """What the optimiser remembers of gradients of the case's scale: averages of squares are ≥ 0."""
    draw = rng.normal(0, 1, case.shape)
    return _rounded(case.scale**2 * draw**2 if name == "square" else case.scale * draw, case.dtype)


def _expected_update(
    case: Case,
    optimizer: Optimizer,
    w: np.ndarray,
    g: np.ndarray,
    state: Mapping[str, np.ndarray],
    decayed: int,
    scale: float,
    step: int,
) -> dict[str, Expected]:
    """The recurrence in the reference's dtype, beside the sums of its absolute terms, which bound its roundings."""
    u, c = UNIT_ROUNDOFF[case.dtype], ROUNDINGS["update"]
    wide_w, wide_g = _wide(w), scale * _wide(g)
    if optimizer.clip_value is not None:
        wide_g = np.clip(wide_g, -optimizer.clip_value, optimizer.clip_value)
    decay = np.where(np.arange(w.size) < decayed, optimizer.weight_decay, 0.0)
    g_terms = np.abs(wide_g)
    w_terms = np.abs(wide_w)
    if isinstance(optimizer, AdamW):
        wide_w = wide_w * (1 - optimizer.learning_rate * decay)
    else:
        g_terms = g_terms + decay * w_terms
        wide_g = wide_g + decay * wide_w

    slots = {name: _wide(values).copy() for name, values in state.items()}
    terms = {name: np.abs(values) for name, values in slots.items()}
    after = wide_w.copy()
    before = {name: values.copy() for name, values in slots.items()}
    optimizer.update(wide_g.copy(), optimizer.learning_rate, step, list(slots.values()), after, np.empty_like(after))
    if "velocity" in slots:
        terms["velocity"] = optimizer.momentum * terms["velocity"] + g_terms  # type: ignore[attr-defined]
    if "mean" in slots:
        terms["mean"] = optimizer.beta1 * terms["mean"] + (1 - optimizer.beta1) * g_terms  # type: ignore[attr-defined]
    if "square" in slots:
        keep = optimizer.decay if hasattr(optimizer, "decay") else optimizer.beta2  # type: ignore[attr-defined]
        # the error of g² is 2 |g| times that of g, which is u of g's absolute terms
        terms["square"] = keep * before["square"] + (1 - keep) * (np.abs(wide_g) * g_terms * 2)
    step_terms = _step_terms(optimizer, step, g_terms, terms, slots)
    w_error = c * u * (w_terms + step_terms)
    expected = {"w": Expected(after, stored(w_error, after, case.dtype))}
    for name, values in slots.items():
        expected[name] = Expected(values, stored(c * u * terms[name], values, case.dtype))
    return expected


def _step_terms(
    optimizer: Optimizer,
    step: int,
    g_terms: np.ndarray,
    terms: Mapping[str, np.ndarray],
    slots: Mapping[str, np.ndarray],
) -> np.ndarray:
    """The absolute terms of the step: the numerator's over the denominator, and the denominator's relative error."""
    rate = optimizer.learning_rate
    if optimizer.name == "sgd":
        return rate * g_terms
    if "square" not in slots:
        return rate * (g_terms + terms["velocity"])
    square, numerator = slots["square"], g_terms
    epsilon = optimizer.epsilon  # type: ignore[attr-defined]
    square_terms = terms["square"]
    if "mean" in slots:
        numerator = terms["mean"] / (1 - optimizer.beta1**step)  # type: ignore[attr-defined]
        correction = 1 - optimizer.beta2**step  # type: ignore[attr-defined]
        square, square_terms = square / correction, square_terms / correction
    root = np.sqrt(square)
    denominator = root + epsilon
    relative = np.where(root > 0, square_terms / (2 * root * denominator + np.finfo(float).tiny), 0)
    return rate * numerator / denominator * (1 + relative)


# --- array functions --------------------------------------------------------------------------------------------------
def _squared_norm(case: Case, rng: np.random.Generator) -> Problem:
    x = _draw(case, rng, case.shape, case.scale)
    reference = np.array([np.square(x.astype(np.longdouble)).sum()])
    bound = stored(4 * x.size**0.5 * UNIT_ROUNDOFF["float64"] * reference, reference, "float64")
    return Problem(
        {"x": x},
        lambda backend, arrays: backend.squared_norm(arrays["x"], arrays["norm"]),
        {"norm": Expected(reference, bound)},
        {"norm": ((1,), "float64")},
    )


def _gather_rows(case: Case, rng: np.random.Generator) -> Problem:
    rows, width = case.shape
    if case.option == "labels":
        source = rng.integers(0, 1000, 3 * rows)
    else:
        source = _draw(case, rng, (3 * rows, width))
    order = rng.permutation(3 * rows)
    start = rows // 2
    control = np.zeros(len(Control))
    control[Control.BATCH_OFFSET] = start
    reference = source[order[start : start + rows]]
    wide = reference.astype(np.longdouble)
    return Problem(
        {"source": source, "order": order, "control": control},
        lambda backend, arrays: backend.gather_rows(
            arrays["source"], arrays["order"], arrays["control"], arrays["out"]
        ),
        {"out": Expected(wide, np.zeros_like(wide))},
        {"out": (reference.shape, str(reference.dtype))},
    )


def _row_argmax(case: Case, rng: np.random.Generator) -> Problem:
    x = rng.integers(-3, 3, case.shape).astype(case.dtype)  # ties: the first counts
    if len(x) > 2:
        x[2, -1] = np.nan
    reference = np.argmax(x, axis=1).astype(np.float64)
    return Problem(
        {"x": x},
        lambda backend, arrays: backend.row_argmax(arrays["x"], arrays["out"]),
        {"out": Expected(reference, np.zeros_like(reference))},
        {"out": ((len(x),), "int64")},
    )


def _scale(case: Case, rng: np.random.Generator) -> Problem:
    x = _draw(case, rng, case.shape, case.scale)
    factor = float(_rounded(np.array(1 / 3), case.dtype))
    reference = factor * _wide(x)
    return Problem(
        {},
        lambda backend, arrays: backend.scale(arrays["x"], factor),
        {"x": Expected(reference, stored(0.0, reference, case.dtype))},
        started={"x": x},
    )


_MAKERS: dict[str, Callable[[Case, np.random.Generator], Problem]] = {
    "dense_forward": _dense_forward,
    "softmax": _softmax,
    "output_delta": _output_delta,
    "hidden_delta": _hidden_delta,
    "transpose_product": _transpose_product,
    "hadamard_derivative": _hadamard_derivative,
    "weight_gradient": _weight_gradient,
    "weight_step": _weight_step,
    "bias_gradient": _bias_gradient,
    "update": _update,
    "squared_norm": _squared_norm,
    "gather_rows": _gather_rows,
    "row_argmax": _row_argmax,
    "scale": _scale,
}


# --- pieces -----------------------------------------------------------------------------------------------------------
def _draw(case: Case, rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Values of both signs in the case's dtype: normal times `scale`, or integers from −3 to 3."""
    if case.values == "integers":
        return rng.integers(-3, 4, shape).astype(case.dtype)
    return _rounded(scale * rng.normal(0, 1, shape), case.dtype)


def _saved(case: Case, rng: np.random.Generator, activation: Activation, shape: tuple[int, ...]) -> np.ndarray:
    """What σ' reads: z, or the a of some z; with exact zeros among them, where ReLU has its kink."""
    z = _draw(case, rng, shape)
    z.reshape(-1)[::7] = 0
    if activation.reads == "z":
        return z
    return _rounded(references.sigma(activation, _wide(z)), case.dtype)


def _product(case: Case, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a b and its error before it is stored."""
    wide_a, wide_b = _wide(a), _wide(b)
    absolute = np.abs(wide_a) @ np.abs(wide_b)
    return wide_a @ wide_b, bounds.product_error(absolute, a.shape[1], case.dtype)


def _unless_exact(case: Case, bound: np.ndarray) -> np.ndarray:
    """No tolerance at all where small integers are summed."""
    return np.zeros_like(bound) if case.values == "integers" else bound


def _rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    return np.asarray(x).astype(dtype)


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(REFERENCE[str(x.dtype)])


def _wide_like(x: np.ndarray, dtype: str) -> np.ndarray:
    return x.astype(REFERENCE[dtype])


def _away_from_zero(z: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return z + np.copysign(distance, z)
