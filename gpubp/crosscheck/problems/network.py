"""The problems of the primitives that go forward and backward through a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gpubp.backends.base import Array, Backend
from gpubp.crosscheck import bounds, references
from gpubp.crosscheck.bounds import UNIT_ROUNDOFF, stored
from gpubp.crosscheck.cases import Case
from gpubp.crosscheck.problems import pieces
from gpubp.crosscheck.problems.problem import Expected, Problem
from gpubp.kernels.control import Control
from gpubp.nn.activations import Activation
from gpubp.nn.dropout import Dropout

EXACT = ("identity", "relu")
"""Activations whose σ and σ' make no rounding: small integers go through them bit for bit."""


class _Forward(NamedTuple):
    """What dense_forward is asked: with a bias, keeping z, with α, with dropout."""

    bias: bool = True
    keeps_z: bool = False
    scaled: bool = False
    dropout: bool = False


_FORWARD = {
    "bias": _Forward(),
    "no_bias": _Forward(bias=False),
    "keep_z": _Forward(keeps_z=True),
    "scaled": _Forward(scaled=True),
    "dropout": _Forward(dropout=True),
    "dropout_keep_z": _Forward(bias=False, keeps_z=True, scaled=True, dropout=True),
}
"""By mode."""


def dense_forward(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    activation, asked = pieces.activation_of(case.option), _FORWARD[case.mode]
    a_prev, w, b = (pieces.draw(case, rng, shape) for shape in ((m, k), (n, k), (n,)))
    b = b.astype(case.master)
    if case.values == "random":
        w = pieces.stored_operand(case, w / np.sqrt(k))  # z of order 1, where σ bends
    made = {"a": ((m, n), case.storage)}
    if asked.keeps_z:
        made["z"] = (m, n), case.storage
    alpha, factors = _alpha(case) if asked.scaled else (1.0, {})
    mask = _dropout(case, rng, (m, n)) if asked.dropout else None

    def call(backend: Backend, arrays: Mapping[str, Array], **options: Any) -> None:
        b_array = arrays["b"] if asked.bias else None
        z_array = arrays.get("z")
        options |= pieces.tf32(case) | factors | _dropped(mask, arrays)
        backend.dense_forward(arrays["a_prev"], arrays["w"], b_array, activation, z_array, arrays["a"], **options)

    def expect() -> dict[str, Expected]:
        product, absolute = pieces.product(case, a_prev, w.T)
        wide_b = pieces.wide(b if asked.bias else np.zeros_like(b))
        z = alpha * product + wide_b
        z_error = bounds.product_error(alpha * absolute + np.abs(wide_b), k, case.dtype)
        z_read = stored(z_error, z, case.master)  # the error of the z that σ reads, which is not rounded to 16 bits
        a = references.sigma(activation, z)
        # σ is computed at the kernel's z, where its own error is of the size that it has at |z| + the error of z
        own = bounds.sigma_error(activation, pieces.away_from_zero(z, z_read), case.master)
        exact = case.values == "integers"
        if exact and activation.name in EXACT:
            found = pieces.exactly(a, case.storage)
        else:
            error = own if exact else bounds.lipschitz(activation) * z_read + own
            found = pieces.within(a, error, case.storage)
        expected = {"a": found if mask is None else _masked(found, mask)}
        if asked.keeps_z:
            expected["z"] = pieces.summed(case, z, z_error, case.storage)
        return expected

    inputs = {"a_prev": a_prev, "w": w, "b": b}
    return Problem(inputs if mask is None else inputs | {"control": mask.control}, call, expect, made)


class _Mask(NamedTuple):
    """Dropout, the `control` with the step that is drawn for, and the units that are kept then."""

    dropout: Dropout
    control: np.ndarray
    kept: np.ndarray


def _dropout(case: Case, rng: np.random.Generator, shape: tuple[int, int]) -> _Mask:
    """Return dropout of a layer at some row and step, also where their numbers have more than 32 bits.

    The rate is such that one unit's random number is just large enough to keep it; with integers it is ½, whose factor
    2 is exact.
    """
    key = int(rng.integers(2**32)), int(rng.integers(2**32))
    layer = int(rng.integers(1, 9))
    first_row = int(rng.choice([0, 1000, 2**32 - 3]))
    step = int(rng.choice([0, 1000, 2**32 + 9]))
    words = references.random_words(shape, key, layer, first_row, step)
    threshold = 2**31 if case.values == "integers" else int(np.sort(words, axis=None)[3 * words.size // 10])
    control = np.full(len(Control), np.nan)
    control[Control.STEP] = step
    return _Mask(Dropout(threshold / 2**32, key, layer, first_row), control, words >= threshold)


def _dropped(mask: _Mask | None, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return the options of a primitive with dropout; none without."""
    return {} if mask is None else {"dropout": mask.dropout, "control": arrays["control"]}


def _masked(found: Expected, mask: _Mask) -> Expected:
    """Return what must be where units are dropped: 0, and nothing beside it."""
    return Expected(np.where(mask.kept, found.reference, 0), np.where(mask.kept, found.bound, 0))


def _alpha(case: Case) -> tuple[float, dict[str, float]]:
    """Return α as the kernel has it, rounded to its dtype, and the option of a primitive; with integers it is exact."""
    alpha = 2.0 if case.values == "integers" else 1 / 0.7
    return float(pieces.rounded(np.array(alpha), case.master)), {"alpha": alpha}


def softmax(case: Case, rng: np.random.Generator) -> Problem:
    z = pieces.logits(case, rng, 5)
    dtype = case.master if case.mode == "master" else case.storage

    def expect() -> dict[str, Expected]:
        wide = pieces.wide(z)
        a = references.softmax(wide)
        return {"a": pieces.within(a, bounds.softmax_error(wide, a, case.master), dtype)}

    return Problem(
        {"z": z},
        lambda backend, arrays: backend.softmax(arrays["z"], arrays["a"]),
        expect,
        {"a": (case.shape, dtype)},
    )


def hidden_delta(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    activation = pieces.activation_of(case.option)
    delta_next, w_next = pieces.draw(case, rng, (m, k), case.scale), pieces.draw(case, rng, (k, n))
    saved = pieces.saved(case, rng, activation, (m, n))  # with dropout too: an output of 0 is no sign of a dropped unit
    mask = _dropout(case, rng, (m, n)) if case.mode == "dropout" else None

    def call(backend: Backend, arrays: Mapping[str, Array], **options: Any) -> None:
        options |= pieces.tf32(case) | _dropped(mask, arrays)
        backend.hidden_delta(
            arrays["delta_next"], arrays["w_next"], activation, arrays["saved"], arrays["delta"], **options
        )

    def expect() -> dict[str, Expected]:
        product, absolute = pieces.product(case, delta_next, w_next)
        error = bounds.product_error(absolute, k, case.dtype)
        if mask is None:
            return {"delta": _hadamard(case, activation, product, error, pieces.wide(saved))}
        factor = pieces.wide_like(np.array(mask.dropout.factor), case.dtype)
        # the factor's rounding to the kernel's dtype, and that of the product with it
        error = factor * (error + 2 * UNIT_ROUNDOFF[case.master] * np.abs(product))
        return {"delta": _masked(_hadamard(case, activation, factor * product, error, pieces.wide(saved)), mask)}

    inputs = {"delta_next": delta_next, "w_next": w_next, "saved": saved}
    made = {"delta": ((m, n), case.storage)}
    return Problem(inputs if mask is None else inputs | {"control": mask.control}, call, expect, made)


def transpose_product(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    delta_next, w_next = pieces.draw(case, rng, (m, k), case.scale), pieces.draw(case, rng, (k, n))

    def expect() -> dict[str, Expected]:
        product, absolute = pieces.product(case, delta_next, w_next)
        error = bounds.product_error(absolute, k, case.dtype)
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
    alpha, options = _alpha(case) if case.mode in ("scaled", "accumulate", "bias_scaled") else (1.0, {})
    started, made, added = _gradient(case, rng, (m, n))
    with_bias = case.mode.startswith("bias")
    bias_started, bias_made, bias_added = _gradient(case, rng, (m,), "bias_gradient") if with_bias else ({}, {}, None)

    def call(backend: Backend, arrays: Mapping[str, Array], **others: Any) -> None:
        beside = {"bias_gradient": arrays["bias_gradient"]} if with_bias else {}
        others |= pieces.tf32(case) | options | _adds(case) | beside
        backend.weight_gradient(arrays["delta"], arrays["a_prev"], arrays["gradient"], **others)

    def expect() -> dict[str, Expected]:
        product, absolute = pieces.product(case, delta.T, a_prev)
        error = bounds.product_error(alpha * absolute + np.abs(added), k, case.dtype)
        expected = {"gradient": pieces.summed(case, alpha * product + added, error, case.master)}
        if bias_added is not None:
            expected["bias_gradient"] = _column_sums(case, delta, bias_added)
        return expected

    return Problem({"delta": delta, "a_prev": a_prev}, call, expect, made | bias_made, started | bias_started)


def _gradient(
    case: Case, rng: np.random.Generator, shape: tuple[int, ...], name: str = "gradient"
) -> tuple[dict[str, np.ndarray], dict[str, tuple[tuple[int, ...], str]], np.ndarray]:
    """Return a gradient as what is started with or as what is made, and what is added to, in the reference's dtype: 0
    unless the mode says that gradients accumulate.
    """
    if not _adds(case):
        return {}, {name: (shape, case.master)}, pieces.wide_like(np.zeros(shape), case.dtype)
    gradient = pieces.draw(case, rng, shape, case.scale).astype(case.master)
    return {name: gradient}, {}, pieces.wide(gradient)


def _adds(case: Case) -> dict[str, bool]:
    """Return the option of a primitive that adds to what its output holds; none by another mode."""
    return {"accumulate": True} if case.mode.endswith("accumulate") else {}


def _column_sums(case: Case, delta: np.ndarray, added: np.ndarray) -> Expected:
    """Return what the sums of δ's columns must be, added to what was there."""
    wide = pieces.wide(delta)
    absolute = np.abs(wide).sum(axis=0) + np.abs(added)
    error = bounds.product_error(absolute, len(delta), case.master)
    return pieces.summed(case, wide.sum(axis=0) + added, error, case.master)


def weight_step(case: Case, rng: np.random.Generator) -> Problem:
    m, n, k = case.shape
    delta, a_prev, w = (
        pieces.draw(case, rng, (k, m), case.scale),
        pieces.draw(case, rng, (k, n)),
        pieces.draw(case, rng, (m, n)),
    )
    started = {"w": w}
    if case.mode == "bias":
        started["b"] = pieces.draw(case, rng, (m,))
    rate = 0.5 if case.values == "integers" else 0.01
    control = np.zeros(len(Control))
    control[Control.LEARNING_RATE] = rate

    def call(backend: Backend, arrays: Mapping[str, Array], **options: Any) -> None:
        options |= pieces.tf32(case) | ({"b": arrays["b"]} if "b" in started else {})
        backend.weight_step(arrays["delta"], arrays["a_prev"], arrays["control"], arrays["w"], **options)

    def after(before: np.ndarray, sum_: np.ndarray, error: np.ndarray) -> Expected:
        """Return what weights must be after a step by this sum, which has this error."""
        wide_rate = pieces.wide(pieces.rounded(np.array(rate), case.master))  # the kernel's η is rounded to its dtype
        step, u = wide_rate * sum_, UNIT_ROUNDOFF[case.master]
        error = wide_rate * error + 2 * u * np.abs(step) + u * np.abs(pieces.wide(before))
        return pieces.summed(case, pieces.wide(before) - step, error, case.master)

    def expect() -> dict[str, Expected]:
        product, absolute = pieces.product(case, delta.T, a_prev)
        expected = {"w": after(w, product, bounds.product_error(absolute, k, case.dtype))}
        if "b" in started:
            wide = pieces.wide(delta)
            error = bounds.product_error(np.abs(wide).sum(axis=0), k, case.master)
            expected["b"] = after(started["b"], wide.sum(axis=0), error)
        return expected

    return Problem({"delta": delta, "a_prev": a_prev, "control": control}, call, expect, started=started)


def bias_gradient(case: Case, rng: np.random.Generator) -> Problem:
    delta = pieces.draw(case, rng, case.shape, case.scale)
    started, made, added = _gradient(case, rng, (case.shape[1],))
    return Problem(
        {"delta": delta},
        lambda backend, arrays: backend.bias_gradient(arrays["delta"], arrays["gradient"], **_adds(case)),
        lambda: {"gradient": _column_sums(case, delta, added)},
        made,
        started,
    )
