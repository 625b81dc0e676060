"""The problems of the primitives that prepare and make an update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gpubp.backends.base import Array, Backend
from gpubp.crosscheck import references
from gpubp.crosscheck.bounds import ROUNDINGS, UNIT_ROUNDOFF, stored
from gpubp.crosscheck.cases import HALF_MODES, Case
from gpubp.crosscheck.problems import pieces
from gpubp.crosscheck.problems.problem import Expected, Problem
from gpubp.kernels.control import LARGEST_LOSS_SCALE, Control
from gpubp.nn import optimizers
from gpubp.nn.optimizers import AdamW, Optimizer
from gpubp.nn.precision import LossScaling

DECAYED_SHARE = 3
"""The first third of the parameters decays: 1 of 3."""


_PENALISED = ("penalties", "decoupled")
"""Modes with ℓ₁ and ℓ₂ penalties: in the gradient, and apart from it."""

_LATE_STEP, _LATE_SKIPPED = 1000, 7
_SCALING = LossScaling(initial=1024.0, growth_interval=10)

_HALVED = {"skipped_nan": 3.0, "least": 1.5}
"""Loss scales by mode: the half of one is just over 1, that of the other under it. Powers of two cannot tell where
halving ends: 2 becomes 1 either way."""


def prepare_update(case: Case, rng: np.random.Generator) -> Problem:
    """Return the problem of prepare_update on a gradient of the case's scale, or of its norm by the case's mode."""
    scaling = _SCALING if case.mode in HALF_MODES["prepare_update"] else None
    if case.mode == "grown":
        scaling = replace(_SCALING, growth_interval=1)  # the shortest
    control = rng.normal(0, 1, len(Control))  # what it must not change, or sets whatever was there
    loss_scale = 1.0
    if scaling is not None:
        loss_scale = {"capped": LARGEST_LOSS_SCALE, **_HALVED}.get(case.mode, scaling.initial)
        control[Control.LOSS_SCALE] = loss_scale
        control[Control.CLEAN_STEPS] = scaling.growth_interval - 1 if case.mode in ("grown", "capped") else 3
    g = pieces.rounded(case.scale * rng.normal(0, 1, case.shape), case.master)
    worst = {
        **dict.fromkeys(("nan", "nan_unclipped", "skipped_nan"), np.nan),
        **dict.fromkeys(("infinite", "least"), np.inf),
        "skipped": -np.inf,
    }
    if case.mode in worst:
        g[rng.integers(g.size)] = worst[case.mode]
    share = {"clipped": 0.3, "scaled_clipped": 0.3, "within": 3.0}.get(case.mode)
    norm = float(np.square(g.astype(np.longdouble)).sum()) ** 0.5 / loss_scale
    max_norm = share * norm if share is not None else 1.0 if case.mode in ("nan", "infinite") else None

    def call(backend: Backend, arrays: Mapping[str, Array]) -> None:
        backend.prepare_update(arrays["g"], max_norm, arrays["control"], *(() if scaling is None else (scaling,)))

    def expect() -> dict[str, Expected]:
        after = references.prepared(g, control, max_norm, scaling)
        return {"control": _control(after, g.size, np.isnan(after))}

    return Problem({"g": g}, call, expect, started={"control": control})


def _control(after: np.ndarray, size: int, nan: np.ndarray | None = None) -> Expected:
    """Return what `control` must be: from what it is in exact arithmetic by a few roundings in float64, of what follows
    from the norm of `size` numbers by as many as their sum has."""
    finite = np.where(np.isfinite(after), after, 0)
    roundings = np.full(len(after), 4.0)
    roundings[[Control.SQUARED_NORM, Control.GRADIENT_SCALE]] += 4 * size**0.5
    return Expected(after, stored(roundings * UNIT_ROUNDOFF["float64"] * np.abs(finite), finite, "float64"), nan)


def _optimizer(case: Case) -> Optimizer:
    options: dict[str, Any] = {"name": case.option, "learning_rate": 0.01}
    if case.mode in ("decay", *_PENALISED):
        options["weight_decay"] = 0.1
    if case.mode in _PENALISED:
        options |= {"l1": 0.3, "l2": 0.2, "decoupled": case.mode == "decoupled"}
    if case.mode in ("clip_norm", "grown"):
        options["clip_norm"] = 1.0
    if case.mode in ("clip_value", *_PENALISED):  # what is added to the gradient is not clipped
        options["clip_value"] = 0.5 * case.scale
    return optimizers.get(options)


def update(case: Case, rng: np.random.Generator) -> Problem:
    """Return the problem of prepare_update and update, as a training step calls them."""
    (size,) = case.shape
    optimizer = _optimizer(case)
    decayed = -(-size // DECAYED_SHARE)
    scaling = _SCALING if case.mode in HALF_MODES["update"] else None
    w, g = (pieces.rounded(scale * rng.normal(0, 1, case.shape), case.master) for scale in (1.0, case.scale))
    if case.mode == "overflow":
        g[-1] = np.inf
    if case.mode in _PENALISED:
        w[::4] = 0  # where the sign is 0
        w[2::4] *= w.dtype.type(1e-3)  # near what the ℓ₁ penalty takes off
    state = {name: _state(case, rng, name) for name in optimizer.state}
    control = _update_control(case, optimizer, scaling)
    after = references.prepared(g, control, optimizer.clip_norm, scaling)
    skipped = case.mode == "overflow"
    half = case.storage != case.master

    def prepare(backend: Backend, arrays: Mapping[str, Array]) -> None:
        backend.prepare_update(
            arrays["g"], optimizer.clip_norm, arrays["control"], *(() if scaling is None else (scaling,))
        )

    def call(backend: Backend, arrays: Mapping[str, Array]) -> None:
        slots = [arrays[name] for name in optimizer.state]
        copies = (arrays["stored"],) if half else ()
        backend.update(optimizer, arrays["g"], decayed, arrays["control"], slots, arrays["w"], *copies)

    started = {"w": w, "control": control, **state}
    if skipped:
        started["stored"] = pieces.rounded(w, case.storage)  # a skipped update leaves the copy as it was
    made = {"stored": (case.shape, case.storage)} if half and not skipped else {}

    def expect() -> dict[str, Expected]:
        if skipped:
            expected = {
                name: pieces.exactly(pieces.wide(values), str(values.dtype)) for name, values in started.items()
            }
            return expected | {"control": _control(after, size, np.isnan(after))}
        scale = float(after[Control.GRADIENT_SCALE])
        step = int(after[Control.STEP] + 1 - after[Control.SKIPPED])
        expected = _expected_update(case, optimizer, w, g, state, decayed, scale, step)
        return expected | {"control": _control(after, size)}

    return Problem({"g": g}, call, expect, made, started, prepare)


def _update_control(case: Case, optimizer: Optimizer, scaling: LossScaling | None) -> np.ndarray:
    """Return the control array before the update."""
    control = np.zeros(len(Control))
    control[Control.LEARNING_RATE] = optimizer.learning_rate
    if case.mode in ("late", *HALF_MODES["update"]):
        control[[Control.STEP, Control.SKIPPED]] = _LATE_STEP, _LATE_SKIPPED
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
    return pieces.rounded(case.scale**2 * draw**2 if name == "square" else case.scale * draw, case.master)


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
    wide_w, wide_g = pieces.wide(w), scale * pieces.wide(g)
    if optimizer.clip_value is not None:
        wide_g = np.clip(wide_g, -optimizer.clip_value, optimizer.clip_value)
    g_terms, w_terms = np.abs(wide_g), np.abs(wide_w)
    is_weight = np.arange(w.size) < decayed
    l1, l2 = (np.where(is_weight, factor, 0.0) for factor in (optimizer.l1, optimizer.l2))
    decay = np.where(is_weight, optimizer.weight_decay, 0.0)
    none = np.zeros(w.size)
    l1_added, l1_apart = (none, l1) if optimizer.decoupled else (l1, none)
    l2_added, l2_apart = (none, l2) if optimizer.decoupled else (l2, none)
    if isinstance(optimizer, AdamW):
        l2_apart = l2_apart + decay
    else:
        l2_added = l2_added + decay
    g_terms = g_terms + l1_added + l2_added * w_terms
    wide_g = wide_g + l1_added * np.sign(wide_w) + l2_added * wide_w
    shrunk = wide_w * (1 - optimizer.learning_rate * l2_apart)
    wide_w = np.sign(shrunk) * np.maximum(np.abs(shrunk) - optimizer.learning_rate * l1_apart, 0)
    w_terms = w_terms + optimizer.learning_rate * l1_apart

    slots = {name: pieces.wide(values).copy() for name, values in state.items()}
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
    expected = {"w": pieces.within(after, w_error, case.master)}
    if case.storage != case.master:
        expected["stored"] = pieces.within(after, w_error + u * np.abs(after), case.storage)
    for name, values in slots.items():
        expected[name] = pieces.within(values, c * u * terms[name], case.master)
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
