"""The problems: each primitive at a shape, with its arguments, its call, and what must come out within which bound.

This is the one description of a primitive's arguments: the cross-check, the bench and the profiler all build on it. A
problem holds host arrays alone; what must come out is computed when it is asked for. Each function below makes the
problems of one primitive: first it draws the arguments, then it says what is expected.

Where arrays are stored in 16 bits, a kernel computes in float32 and rounds what it stores: the bounds take the unit
roundoff of float32 (`case.master`) up to there, and that of the output's own dtype once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from gpubp.backends.base import Array, Backend
from gpubp.crosscheck import bounds, references
from gpubp.crosscheck.bounds import REFERENCE, ROUNDINGS, UNIT_ROUNDOFF, stored
from gpubp.crosscheck.cases import HALF_MODES, Case
from gpubp.crosscheck.products import FORMS
from gpubp.kernels.control import LARGEST_LOSS_SCALE, Control
from gpubp.nn import activations, losses, optimizers
from gpubp.nn.activations import Activation
from gpubp.nn.optimizers import AdamW, Optimizer
from gpubp.nn.precision import LossScaling

EXACT = ("identity", "relu")
"""Activations whose σ and σ' make no rounding: small integers go through them bit for bit."""

DECAYED_SHARE = 3
"""The first third of the parameters decays: 1 of 3."""


@dataclass(frozen=True)
class Expected:
    """What an output must be: within `bound` of `reference`, both in the reference's dtype; NaN where `nan` says so."""

    reference: np.ndarray
    bound: np.ndarray
    nan: np.ndarray | None = None


@dataclass(frozen=True)
class Problem:
    """A call of a primitive.

    Attributes:
        inputs: arrays that it reads, by name.
        call: makes the call, given a backend and all arrays as the backend's own, by name. A product also takes `plan`.
        expect: returns what `started` and `made` must hold after the call, by name.
        made: shape and dtype of each array that it writes, whatever the array held before.
        started: arrays that it changes, with what they hold before.
        prepare: a call that belongs before it, with the same arguments, or None.
    """

    inputs: Mapping[str, np.ndarray]
    call: Callable[..., None]
    expect: Callable[[], Mapping[str, Expected]]
    made: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    started: Mapping[str, np.ndarray] = field(default_factory=dict)
    prepare: Callable[[Backend, Mapping[str, Array]], None] | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the arrays that it changes or writes."""
        return (*self.started, *self.made)

    @cached_property
    def expected(self) -> Mapping[str, Expected]:
        """Return what each of `outputs` must be."""
        return self.expect()

    def run(self, backend: Backend, arrays: Mapping[str, Array]) -> None:
        """Make the call, after the one that belongs before it."""
        if self.prepare is not None:
            self.prepare(backend, arrays)
        self.call(backend, arrays)


def make(case: Case) -> Problem:
    """Return the problem of a case: the same for the same case."""
    return _MAKERS[case.primitive](case, case.generator())


# --- forward ----------------------------------------------------------------------------------------------------------
def _dense_forward(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    activation = _activation(case.option)
    a_prev, w, b = (_draw(case, rng, shape) for shape in ((m, k), (n, k), (n,)))
    b = b.astype(case.master)
    if case.values == "random":
        w = _stored_operand(case, w / np.sqrt(k))  # z of order 1, where σ bends
    with_bias = case.mode != "no_bias"
    made = {"a": ((m, n), case.storage)}
    if case.mode == "keep_z":
        made["z"] = (m, n), case.storage

    def call(backend: Backend, arrays: Mapping[str, Array], **options: Any) -> None:
        b_array = arrays["b"] if with_bias else None
        z_array = arrays.get("z")
        options |= _tf32(case)
        backend.dense_forward(arrays["a_prev"], arrays["w"], b_array, activation, z_array, arrays["a"], **options)

    def expect() -> dict[str, Expected]:
        wide_a, wide_w = _operand(case, a_prev), _operand(case, w)
        wide_b = _wide(b if with_bias else np.zeros_like(b))
        z = wide_a @ wide_w.T + wide_b
        z_error = bounds.product_error(np.abs(wide_a) @ np.abs(wide_w).T + np.abs(wide_b), k, case.dtype)
        z_read = stored(z_error, z, case.master)  # the error of the z that σ reads, which is not rounded to 16 bits
        a = references.sigma(activation, z)
        # σ is computed at the kernel's z, where its own error is of the size that it has at |z| + the error of z
        own = bounds.sigma_error(activation, _away_from_zero(z, z_read), case.master)
        exact = case.values == "integers"
        if exact and activation.name in EXACT:
            expected = {"a": _exactly(a, case.storage)}
        else:
            error = own if exact else bounds.lipschitz(activation) * z_read + own
            expected = {"a": _within(a, error, case.storage)}
        if case.mode == "keep_z":
            expected["z"] = _summed(case, z, z_error, case.storage)
        return expected

    return Problem({"a_prev": a_prev, "w": w, "b": b}, call, expect, made)


def _softmax(case: Case, rng: np.random.Generator) -> Problem:
    z = _logits(case, rng, 5)
    dtype = case.master if case.mode == "master" else case.storage

    def expect() -> dict[str, Expected]:
        wide = _wide(z)
        a = references.softmax(wide)
        return {"a": _within(a, _softmax_error(wide, a, case.master), dtype)}

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


# --- backward ---------------------------------------------------------------------------------------------------------
def _output_delta(case: Case, rng: np.random.Generator) -> Problem:
    rows = case.shape[0]
    loss_name, activation_name, *labels = case.option.split("+")
    scaled = case.mode == "scaled"
    loss = losses.get({"name": loss_name, "reduction": "sum" if case.mode == "sum" else "mean"})
    activation = _activation(activation_name)
    z = _logits(case, rng, 2) if loss.from_logits else _rounded(rng.normal(0, 2, case.shape), case.storage)
    if loss.from_logits:
        output = saved = z
    else:
        a = _outputs(activation, z)
        output, saved = a, (z if activation.reads == "z" else a)
    y = _targets(case, rng, loss, bool(labels))
    started = {"losses": np.array([np.nan, 3.0])}
    if case.scale != 1 and not loss.from_logits:
        # outputs near their targets make deltas of the size of small gradients; the loss is of its square then
        y = _rounded(_wide(output) + case.scale * rng.normal(0, 1, case.shape), case.master)
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
        wide_out, wide_saved = _wide(output), _wide(saved)
        wide_y = np.where(astray, 0, y if labels else _wide(y))
        delta, total, g = references.output_delta(loss, activation, wide_out, wide_saved, wide_y)
        error = _output_delta_error(case, loss, activation, wide_out, wide_saved, wide_y, g)
        delta, error = factor * delta, factor * error
        losses_reference = _wide_like(np.array([total / loss.divisor(rows), 3.0 + total]), case.dtype)
        terms = _loss_terms(loss, wide_out, wide_y)
        # the sum is made in float64 (or as widely as the dtype), from terms that are rounded to the dtype
        u, u_sum = UNIT_ROUNDOFF[case.master], UNIT_ROUNDOFF["float64"]
        loss_error = ROUNDINGS["loss"] * u * terms + 4 * rows * u_sum * terms
        loss_bound = np.array([loss_error / loss.divisor(rows), loss_error + 4 * u_sum * 3.0])
        bound = stored(_wide_like(loss_bound, case.dtype), losses_reference, "float64")
        # a softmax couples the places of a row, but for cross-entropy, whose δ is a − y
        by_rows = labels or (activation.name == "softmax" and not loss.from_logits)
        nan = astray.reshape(rows, -1).any(axis=1, keepdims=True) if by_rows else astray
        return {
            "delta": replace(_within(delta, error, case.storage), nan=np.broadcast_to(nan, case.shape)),
            "losses": Expected(losses_reference, bound, np.full(2, astray.any())),
        }

    return Problem(inputs, call, expect, {"delta": (case.shape, case.storage)}, started)


def _outputs(activation: Activation, z: np.ndarray) -> np.ndarray:
    """Return the output activations for the logits z, as a network would hold them."""
    wide = _wide(z)
    a = references.softmax(wide) if activation.name == "softmax" else references.sigma(activation, wide)
    return _rounded(a, str(z.dtype))


def _targets(case: Case, rng: np.random.Generator, loss: losses.Loss, labels: bool) -> np.ndarray:
    rows, width = case.shape
    if labels:
        return rng.integers(0, width, rows)
    if loss.name == "softmax_cross_entropy":
        return np.eye(width, dtype=case.master)[rng.integers(0, width, rows)]
    if loss.name == "binary_cross_entropy":
        return rng.integers(0, 2, case.shape).astype(case.master)
    return _rounded(rng.normal(0, 1, case.shape), case.master)


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


def _hidden_delta(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    activation = _activation(case.option)
    delta_next, w_next = _draw(case, rng, (m, k), case.scale), _draw(case, rng, (k, n))
    saved = _saved(case, rng, activation, (m, n))

    def expect() -> dict[str, Expected]:
        product, error = _product(case, delta_next, w_next)
        return {"delta": _hadamard(case, activation, product, error, _wide(saved))}

    return Problem(
        {"delta_next": delta_next, "w_next": w_next, "saved": saved},
        lambda backend, arrays, **options: backend.hidden_delta(
            arrays["delta_next"],
            arrays["w_next"],
            activation,
            arrays["saved"],
            arrays["delta"],
            **_tf32(case),
            **options,
        ),
        expect,
        {"delta": ((m, n), case.storage)},
    )


def _transpose_product(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    delta_next, w_next = _draw(case, rng, (m, k), case.scale), _draw(case, rng, (k, n))

    def expect() -> dict[str, Expected]:
        product, error = _product(case, delta_next, w_next)
        return {"product": _summed(case, product, error, case.storage)}

    return Problem(
        {"delta_next": delta_next, "w_next": w_next},
        lambda backend, arrays, **options: backend.transpose_product(
            arrays["delta_next"], arrays["w_next"], arrays["product"], **_tf32(case), **options
        ),
        expect,
        {"product": ((m, n), case.storage)},
    )


def _hadamard_derivative(case: Case, rng: np.random.Generator) -> Problem:
    activation = _activation(case.option)
    product = _draw(case, rng, case.shape, case.scale)
    saved = _saved(case, rng, activation, case.shape)
    return Problem(
        {"product": product, "saved": saved},
        lambda backend, arrays: backend.hadamard_derivative(
            arrays["product"], activation, arrays["saved"], arrays["delta"]
        ),
        lambda: {"delta": _hadamard(case, activation, _wide(product), np.zeros(case.shape), _wide(saved))},
        {"delta": (case.shape, case.storage)},
    )


def _hadamard(
    case: Case, activation: Activation, product: np.ndarray, product_error: np.ndarray, saved: np.ndarray
) -> Expected:
    """Return product ⊙ σ' and its bound: the product's error times |σ'|, plus |product| times the error of σ'."""
    slope = references.sigma_prime(activation, saved)
    delta = product * slope
    if case.values == "integers" and activation.name in EXACT:
        return _exactly(delta, case.storage)
    slope_error = bounds.sigma_prime_error(activation, saved, case.master)
    error = product_error * np.abs(slope) + (np.abs(product) + product_error) * slope_error
    rounding = UNIT_ROUNDOFF[case.master] * np.abs(delta)  # of the product before it is multiplied
    return _within(delta, error + rounding, case.storage)


def _weight_gradient(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    delta, a_prev = _draw(case, rng, (k, m), case.scale), _draw(case, rng, (k, n))

    def expect() -> dict[str, Expected]:
        gradient, error = _product(case, delta.T, a_prev)
        return {"gradient": _summed(case, gradient, error, case.master)}

    return Problem(
        {"delta": delta, "a_prev": a_prev},
        lambda backend, arrays, **options: backend.weight_gradient(
            arrays["delta"], arrays["a_prev"], arrays["gradient"], **_tf32(case), **options
        ),
        expect,
        {"gradient": ((m, n), case.master)},
    )


def _weight_step(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    delta, a_prev, w = _draw(case, rng, (k, m), case.scale), _draw(case, rng, (k, n)), _draw(case, rng, (m, n))
    rate = 0.5 if case.values == "integers" else 0.01
    control = np.zeros(len(Control))
    control[Control.LEARNING_RATE] = rate

    def expect() -> dict[str, Expected]:
        product, error = _product(case, delta.T, a_prev)
        wide_rate = _wide(_rounded(np.array(rate), case.master))  # the kernel's η is rounded to its dtype
        step = wide_rate * product
        after = _wide(w) - step
        u = UNIT_ROUNDOFF[case.master]
        error = wide_rate * error + 2 * u * np.abs(step) + u * np.abs(_wide(w))
        return {"w": _summed(case, after, error, case.master)}

    return Problem(
        {"delta": delta, "a_prev": a_prev, "control": control},
        lambda backend, arrays, **options: backend.weight_step(
            arrays["delta"], arrays["a_prev"], arrays["control"], arrays["w"], **_tf32(case), **options
        ),
        expect,
        started={"w": w},
    )


def _bias_gradient(case: Case, rng: np.random.Generator) -> Problem:
    delta = _draw(case, rng, case.shape, case.scale)

    def expect() -> dict[str, Expected]:
        wide = _wide(delta)
        error = bounds.product_error(np.abs(wide).sum(axis=0), len(delta), case.master)
        return {"gradient": _summed(case, wide.sum(axis=0), error, case.master)}

    return Problem(
        {"delta": delta},
        lambda backend, arrays: backend.bias_gradient(arrays["delta"], arrays["gradient"]),
        expect,
        {"gradient": ((case.shape[1],), case.master)},
    )


# --- update -----------------------------------------------------------------------------------------------------------
_LATE_STEP = 1000
_SCALING = LossScaling(initial=1024.0, growth_interval=10)


def _prepare_update(case: Case, rng: np.random.Generator) -> Problem:
    """Return the problem of prepare_update at one state of `control`, by the case's mode."""
    norm = {"unclipped": np.nan, "nan": np.nan, "infinite": np.inf, "skipped": np.inf, "skipped_nan": np.nan}.get(
        case.mode, case.scale
    )
    limits = {"clipped": 0.3, "scaled_clipped": 0.3, "within": 3.0, "nan": 1.0, "infinite": 1.0}
    max_norm = limits[case.mode] * case.scale if case.mode in limits else None
    scaling = _SCALING if case.mode in HALF_MODES["prepare_update"] else None
    if case.mode == "grown":
        scaling = replace(_SCALING, growth_interval=1)  # the shortest
    control = rng.normal(0, 1, len(Control))  # what it must not change, or sets whatever was there
    control[Control.STEP] = _LATE_STEP
    if scaling is None:
        control[Control.SQUARED_NORM] = norm**2
    else:
        loss_scale = {"capped": LARGEST_LOSS_SCALE, "least": 1.0}.get(case.mode, scaling.initial)
        control[Control.SQUARED_NORM] = np.inf if case.mode == "least" else (loss_scale * norm) ** 2
        control[Control.LOSS_SCALE] = loss_scale
        control[Control.CLEAN_STEPS] = scaling.growth_interval - 1 if case.mode in ("grown", "capped") else 3

    def call(backend: Backend, arrays: Mapping[str, Array]) -> None:
        backend.prepare_update(max_norm, arrays["control"], *(() if scaling is None else (scaling,)))

    def expect() -> dict[str, Expected]:
        after = references.prepared(control, max_norm, scaling)
        return {"control": _control(after, np.isnan(after))}

    return Problem({}, call, expect, started={"control": control})


def _control(after: np.ndarray, nan: np.ndarray | None = None) -> Expected:
    """Return what `control` must be: a few roundings, in float64, from what it is in exact arithmetic."""
    finite = np.where(np.isfinite(after), after, 0)
    return Expected(after, stored(4 * UNIT_ROUNDOFF["float64"] * np.abs(finite), finite, "float64"), nan)


def _optimizer(case: Case) -> Optimizer:
    options: dict[str, Any] = {"name": case.option, "learning_rate": 0.01}
    if case.mode == "decay":
        options["weight_decay"] = 0.1
    if case.mode in ("clip_norm", "grown"):
        options["clip_norm"] = 1.0
    if case.mode == "clip_value":
        options["clip_value"] = 0.5 * case.scale
    return optimizers.get(options)


def _update(case: Case, rng: np.random.Generator) -> Problem:
    """Return the problem of prepare_update and update, as a training step calls them."""
    (size,) = case.shape
    optimizer = _optimizer(case)
    decayed = -(-size // DECAYED_SHARE)
    scaling = _SCALING if case.mode in HALF_MODES["update"] else None
    w, g = (_rounded(scale * rng.normal(0, 1, case.shape), case.master) for scale in (1.0, case.scale))
    if case.mode == "overflow":
        g[-1] = np.inf
    state = {name: _state(case, rng, name) for name in optimizer.state}
    control = _update_control(case, optimizer, g, scaling)
    after = references.prepared(control, optimizer.clip_norm, scaling)
    skipped = case.mode == "overflow"
    half = case.storage != case.master

    def prepare(backend: Backend, arrays: Mapping[str, Array]) -> None:
        backend.prepare_update(optimizer.clip_norm, arrays["control"], *(() if scaling is None else (scaling,)))

    def call(backend: Backend, arrays: Mapping[str, Array]) -> None:
        slots = [arrays[name] for name in optimizer.state]
        copies = (arrays["stored"],) if half else ()
        backend.update(optimizer, arrays["g"], decayed, arrays["control"], slots, arrays["w"], *copies)

    started = {"w": w, "control": control, **state}
    if skipped:
        started["stored"] = _rounded(w, case.storage)  # a skipped update leaves the copy as it was
    made = {"stored": (case.shape, case.storage)} if half and not skipped else {}

    def expect() -> dict[str, Expected]:
        if skipped:
            expected = {name: _exactly(_wide(values), str(values.dtype)) for name, values in started.items()}
            return expected | {"control": _exactly(after, "float64")}
        scale, step = float(after[Control.GRADIENT_SCALE]), int(after[Control.STEP])
        expected = _expected_update(case, optimizer, w, g, state, decayed, scale, step)
        return expected | {"control": _control(after)}

    return Problem({"g": g}, call, expect, made, started, prepare)


def _update_control(case: Case, optimizer: Optimizer, g: np.ndarray, scaling: LossScaling | None) -> np.ndarray:
    """Return the control array before the update."""
    control = np.zeros(len(Control))
    control[Control.LEARNING_RATE] = optimizer.learning_rate
    control[Control.STEP] = _LATE_STEP if case.mode in ("late", *HALF_MODES["update"]) else 0
    control[Control.SQUARED_NORM] = float(np.square(_wide(g)).sum())
    control[Control.GRADIENT_SCALE] = 7.0
    if scaling is not None:
        control[Control.LOSS_SCALE] = scaling.initial
        control[Control.CLEAN_STEPS] = scaling.growth_interval - 1 if case.mode == "grown" else 3
        control[Control.SKIP] = case.mode != "overflow"  # what the last update left
    return control


def _state(case: Case, rng: np.random.Generator, name: str) -> np.ndarray:
    """Return a state array of the optimiser, of the size that gradients of the case's scale give it.

    Averages of squares are ≥ 0.
    """
    draw = rng.normal(0, 1, case.shape)
    return _rounded(case.scale**2 * draw**2 if name == "square" else case.scale * draw, case.master)


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
    """Return the recurrence in the reference's dtype, with bounds from the sums of its absolute terms."""
    u, c = UNIT_ROUNDOFF[case.master], ROUNDINGS["update"]
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
    expected = {"w": _within(after, w_error, case.master)}
    if case.storage != case.master:
        expected["stored"] = _within(after, w_error + u * np.abs(after), case.storage)
    for name, values in slots.items():
        expected[name] = _within(values, c * u * terms[name], case.master)
    return expected


def _step_terms(
    optimizer: Optimizer,
    step: int,
    g_terms: np.ndarray,
    terms: Mapping[str, np.ndarray],
    slots: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Return the absolute terms of the step: the numerator's over the denominator, times 1 + the denominator's relative
    error.
    """
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
def _general_product(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    form, accumulates = case.option, case.mode == "accumulate"
    alpha, beta = (-2.0, 0.5) if accumulates else (0.5, 0.0)  # exact with integers
    sides, factors = FORMS[form]
    a_sides, b_sides = sides(m, n, k)
    a, b = _draw(case, rng, a_sides, case.scale), _draw(case, rng, b_sides)
    c = _draw(case, rng, (m, n), case.scale).astype(case.master)

    def expect() -> dict[str, Expected]:
        wide_a, wide_b = factors(_operand(case, a), _operand(case, b))
        terms = abs(alpha) * (np.abs(wide_a) @ np.abs(wide_b)) + abs(beta * _wide(c))
        result = alpha * (wide_a @ wide_b) + beta * _wide(c)
        return {"c": _summed(case, result, bounds.product_error(terms, k, case.dtype), case.master)}

    return Problem(
        {"a": a, "b": b},
        lambda backend, arrays, **options: backend.product(
            form, arrays["a"], arrays["b"], arrays["c"], alpha, beta, **_tf32(case), **options
        ),
        expect,
        made={} if accumulates else {"c": ((m, n), case.master)},
        started={"c": c} if accumulates else {},
    )


def _squared_norm(case: Case, rng: np.random.Generator) -> Problem:
    x = _draw(case, rng, case.shape, case.scale)

    def expect() -> dict[str, Expected]:
        reference = np.array([np.square(x.astype(np.longdouble)).sum()])
        bound = stored(4 * x.size**0.5 * UNIT_ROUNDOFF["float64"] * reference, reference, "float64")
        return {"norm": Expected(reference, bound)}

    return Problem(
        {"x": x},
        lambda backend, arrays: backend.squared_norm(arrays["x"], arrays["norm"]),
        expect,
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
    return Problem(
        {"source": source, "order": order, "control": control},
        lambda backend, arrays: backend.gather_rows(
            arrays["source"], arrays["order"], arrays["control"], arrays["out"]
        ),
        lambda: {"out": _exact(reference.astype(np.longdouble))},
        {"out": (reference.shape, str(reference.dtype))},
    )


def _row_argmax(case: Case, rng: np.random.Generator) -> Problem:
    x = rng.integers(-3, 3, case.shape).astype(case.storage)  # ties: the first counts
    if len(x) > 2:
        x[2, -1] = np.nan
    return Problem(
        {"x": x},
        lambda backend, arrays: backend.row_argmax(arrays["x"], arrays["out"]),
        lambda: {"out": _exact(np.argmax(x, axis=1).astype(np.float64))},
        {"out": ((len(x),), "int64")},
    )


def _scale(case: Case, rng: np.random.Generator) -> Problem:
    x = _draw(case, rng, case.shape, case.scale)
    factor = float(_rounded(np.array(1 / 3), case.master))

    def expect() -> dict[str, Expected]:
        reference = factor * _wide(x)
        # what is rounded to the storage dtype: the product itself, or the product in float32
        error = 0.0 if case.storage == case.master else UNIT_ROUNDOFF[case.master] * np.abs(reference)
        return {"x": Expected(reference, stored(error, reference, case.storage))}

    return Problem(
        {},
        lambda backend, arrays: backend.scale(arrays["x"], factor),
        expect,
        started={"x": x},
    )


def _copy(case: Case, rng: np.random.Generator) -> Problem:
    source = _draw(case, rng, case.shape)
    return Problem(
        {"source": source},
        lambda backend, arrays: backend.copy(arrays["source"], arrays["out"]),
        lambda: {"out": _exact(_wide(source))},
        {"out": (case.shape, case.storage)},
    )


def _cast(case: Case, rng: np.random.Generator) -> Problem:
    """Return the problem of a cast between the dtype and its partner.

    Values are rounded to nearest, ties to even; those that are too large become infinite, and a NaN stays one.
    """
    partner = "float64" if case.dtype == "float32" or case.mode == "float64" else "float32"
    narrow, wide = sorted((case.dtype, partner), key=lambda name: np.dtype(name).itemsize)
    source_dtype, dtype = (narrow, wide) if case.option == "widen" else (wide, narrow)
    source = _rounded(rng.normal(0, 1, case.shape) * 2.0 ** rng.integers(-30, 20, case.shape), source_dtype)
    if source_dtype == wide:  # ties: halfway between two numbers of the narrow dtype
        steps = rng.integers(-40, 40, len(source[::5])) + 0.5
        source[::5] = 1 + steps * 2 * UNIT_ROUNDOFF[narrow]
    if source_dtype == "float64":  # and beside them, by less than a float32 tells apart
        source[::10] += rng.choice([-1, 1], len(source[::10])) * 2.0**-45
    info = ml_dtypes.finfo(narrow)
    largest, least = float(info.max), float(info.smallest_subnormal)
    last = largest * float(info.eps) / (2 - float(info.eps))  # the distance of the largest from its neighbour
    borders = [np.nan, np.nan, np.inf, -np.inf, -0.0, largest, -largest, least]
    if source_dtype == wide:  # what rounds to the largest and what to infinity, to nothing and to the least
        borders += [largest + last / 4, -largest - last / 4, largest + last * 3 / 4, least / 2, least * 3 / 4]
    if source.size > len(borders):
        source[-len(borders) :] = borders
        bits = source.view(f"u{source.itemsize}")
        bits[-len(borders)] = np.iinfo(bits.dtype).max >> 1  # the NaN that arithmetic makes on a GPU: all ones

    def expect() -> dict[str, Expected]:
        reference = references.rounded(_wide(source), dtype)
        return {"out": Expected(reference, np.zeros_like(reference), np.isnan(reference))}

    return Problem(
        {"source": source},
        lambda backend, arrays: backend.cast(arrays["source"], arrays["out"]),
        expect,
        {"out": (case.shape, dtype)},
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
    "prepare_update": _prepare_update,
    "update": _update,
    "product": _general_product,
    "squared_norm": _squared_norm,
    "gather_rows": _gather_rows,
    "row_argmax": _row_argmax,
    "scale": _scale,
    "copy": _copy,
    "cast": _cast,
}


# --- pieces -----------------------------------------------------------------------------------------------------------
def _draw(case: Case, rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Return values of both signs as the case stores them: normal times `scale`, or integers from −3 to 3."""
    if case.values == "integers":
        return rng.integers(-3, 4, shape).astype(case.storage)
    return _stored_operand(case, scale * rng.normal(0, 1, shape))


def _stored_operand(case: Case, x: np.ndarray) -> np.ndarray:
    """Return x as the case stores it. With dtype "tf32" some values lie halfway between two of TF32."""
    x = _rounded(x, case.storage)
    return references.with_tf32_ties(x) if case.dtype == "tf32" else x


def _operand(case: Case, x: np.ndarray) -> np.ndarray:
    """Return x as the products multiply it: rounded to TF32 if the dtype is "tf32"."""
    return references.tf32(x) if case.dtype == "tf32" else _wide(x)


def _tf32(case: Case) -> dict[str, bool]:
    """Return the options of a product: `tf32` if the dtype asks for it, else none."""
    return {"tf32": True} if case.dtype == "tf32" else {}


def _activation(name: str) -> Activation:
    """Return the activation of this name, its own number such that its derivative has a kink at 0 where it can."""
    return activations.get({"name": name, "alpha": 0.75} if name == "elu" else name)


def _logits(case: Case, rng: np.random.Generator, spread: float) -> np.ndarray:
    """Return normal logits; in every third row e^(z − z₀) or e^z overflows, as one is far from the others: in turn the
    first is far below them, the last far above, and the first far above."""
    z = rng.normal(0, spread, case.shape)
    for first, place, distance in ((2, 0, -1000), (5, -1, 1000), (8, 0, 1000)):
        z[first::9, place] += distance
    return _rounded(z, case.storage)


def _saved(case: Case, rng: np.random.Generator, activation: Activation, shape: tuple[int, ...]) -> np.ndarray:
    """Return what σ' reads: z, or a = σ(z), with exact zeros in z, where ReLU has its kink."""
    z = _draw(case, rng, shape)
    z.reshape(-1)[::7] = 0
    if activation.reads == "z":
        return z
    return _rounded(references.sigma(activation, _wide(z)), case.storage)


def _product(case: Case, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a b and its error before it is stored."""
    wide_a, wide_b = _operand(case, a), _operand(case, b)
    absolute = np.abs(wide_a) @ np.abs(wide_b)
    return wide_a @ wide_b, bounds.product_error(absolute, a.shape[1], case.dtype)


def _summed(case: Case, reference: np.ndarray, error: np.ndarray, dtype: str) -> Expected:
    """Return what a sum stored in this dtype must be: within its bound, or exact if small integers are summed."""
    return _exactly(reference, dtype) if case.values == "integers" else _within(reference, error, dtype)


def _within(reference: np.ndarray, error: np.ndarray, dtype: str) -> Expected:
    """Return the reference with the bound of a result that has this error before it is stored in this dtype."""
    return Expected(reference, stored(error, reference, dtype))


def _exactly(reference: np.ndarray, dtype: str) -> Expected:
    """Return the reference rounded to this dtype, with bound 0. Values that are too large for it are not rounded."""
    rounded = _rounded(reference, dtype).astype(reference.dtype)
    return _exact(np.where(np.isfinite(rounded), rounded, reference))


def _exact(reference: np.ndarray) -> Expected:
    """Return the reference with bound 0: equal bit for bit."""
    return Expected(reference, np.zeros_like(reference))


def _rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return np.asarray(x).astype(dtype)


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(REFERENCE[str(x.dtype)])


def _wide_like(x: np.ndarray, dtype: str) -> np.ndarray:
    return x.astype(REFERENCE[dtype])


def _away_from_zero(z: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return z + np.copysign(distance, z)
