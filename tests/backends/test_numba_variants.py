"""The numba backend's instances with weights, dropout, smoothing, penalties and accumulation, against NumPy.

Products are of small whole numbers and powers of two, so that they are exact: what differs is a mistake.
"""

import numpy as np
import pytest
from devices import DEVICE

from gpubp import Network, Trainer, backends
from gpubp.backends.numba_backend import NumbaBackend
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.backends.plans import Plan
from gpubp.errors import StateError
from gpubp.kernels.control import Control, Losses
from gpubp.nn import activations, losses, optimizers
from gpubp.nn.dropout import Dropout

NUMPY = NumpyBackend()
PLANS = {
    "naive": Plan("naive", "float32", 4, 8),
    "tiled": Plan("tiled", "float32", 16, 16, 16),
    "blocked": Plan("blocked", "float32", 64, 64, 8, 8, 8),
    "pipelined": Plan("pipelined", "float32", 32, 32, 16, 4, 4, 2),
    "pipelined64": Plan("pipelined", "float64", 32, 32, 16, 2, 4, 2),
    "split": Plan("pipelined", "float32", 32, 32, 8, 2, 2, 2, split_k=2),
}
MARKS = {"naive": (), "pipelined": pytest.mark.slow, "split": pytest.mark.slow}
"""Numba takes some seconds for each rung, so `make test` has the simplest and the two that differ most from it."""
RUNGS = [pytest.param(name, marks=MARKS.get(name, pytest.mark.exhaustive)) for name in PLANS]
KEY = (0xFFFFFFFF, 0x9E3779B9)
MANY_ROWS = 2**32 - 5
"""A first row from which the row's word overflows within the batch."""


@pytest.fixture(scope="module")
def backend():
    return NumbaBackend(DEVICE)


def whole(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float64)


def control(**values):
    numbers = np.zeros(len(Control))
    numbers[Control.LOSS_SCALE] = numbers[Control.GRADIENT_SCALE] = 1
    for name, value in values.items():
        numbers[Control[name]] = value
    return numbers


def both(backend, primitive, dtype, written, *arguments, **named):
    """Call a primitive on both backends. Return what each wrote: NumPy computes in float64.

    Arrays of floats get the dtype; `control` and `losses`, of float64, are told by their lengths.
    """
    fixed = {len(Control), len(Losses)}

    def on_device(x):
        if not isinstance(x, np.ndarray):
            return x
        keeps = x.dtype.kind == "i" or (x.ndim == 1 and x.size in fixed)
        return backend.asarray(x, x.dtype if keeps else dtype)

    def run(used, convert):
        placed = [convert(x) for x in arguments]
        keywords = {name: convert(x) for name, x in named.items()}
        getattr(used, primitive)(*placed, **keywords)
        return [used.asnumpy(placed[i]) for i in written]

    plan = named.pop("plan", None)
    expected = run(NUMPY, lambda x: x.copy() if isinstance(x, np.ndarray) else x)
    if plan is not None:
        named["plan"] = plan
    return run(backend, on_device), expected


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("step", [3, 2**32 + 7, 2**52 + 1])
def test_every_rung_draws_the_mask_of_the_reference(backend, rung, step):
    rng, plan = np.random.default_rng(1), PLANS[rung]
    m, n, k = 35, 41, 19
    dropout = Dropout(0.5, KEY, layer=3, first_row=MANY_ROWS)
    numbers = control(STEP=step)
    a_prev, w, b, relu = whole(rng, m, k), whole(rng, n, k), whole(rng, n) + 0.5, activations.get("relu")
    z, a = np.full((2, m, n), np.nan)
    found, expected = both(
        backend, "dense_forward", plan.dtype, (4, 5), a_prev, w, b, relu, z, a,
        alpha=2.0, dropout=dropout, control=numbers, plan=plan,
    )  # fmt: skip
    for x, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, right)
    mask = dropout.mask(m, n, step)
    assert 0.4 < mask.mean() < 0.6
    np.testing.assert_array_equal(found[1] != 0, mask & (found[0] > 0))  # b keeps z away from 0

    delta_next, w_next, saved = whole(rng, m, k), whole(rng, k, n), expected[1]
    found, expected = both(
        backend, "hidden_delta", plan.dtype, (4,), delta_next, w_next, relu, saved, np.full((m, n), np.nan),
        dropout=dropout, control=numbers, plan=plan,
    )  # fmt: skip
    np.testing.assert_array_equal(found[0], expected[0])
    assert (found[0] != 0).any()


def test_what_does_without_dropout_draws_nothing(backend):
    """α alone, of a layer whose inputs were dropped: `control` is not there."""
    rng = np.random.default_rng(2)
    a_prev, w, z, a = whole(rng, 5, 3), whole(rng, 7, 3), None, np.full((5, 7), np.nan)
    arguments = (a_prev, w, None, activations.get("identity"), z, a)
    found, expected = both(backend, "dense_forward", "float32", (5,), *arguments, alpha=4.0, plan=PLANS["naive"])
    np.testing.assert_array_equal(found[0], expected[0])


def test_a_dropped_unit_is_zero_whatever_is_in_it(backend):
    a_prev, w = np.full((9, 4), np.nan), np.full((8, 4), 1.0)
    relu, dropout, numbers = activations.get("relu"), Dropout(0.5, KEY, 1), control(STEP=1)
    for primitive, arguments in {
        "dense_forward": (a_prev, w, None, relu, None, np.full((9, 8), 7.0)),
        "hidden_delta": (a_prev, w.T.copy(), relu, np.ones((9, 8)), np.full((9, 8), 7.0)),
    }.items():
        last = len(arguments) - 1
        named = {"dropout": dropout, "control": numbers, "plan": PLANS["naive"]}
        found, expected = both(backend, primitive, "float32", (last,), *arguments, **named)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(np.isnan(found[0]), dropout.mask(9, 8, 1))


def test_what_changes_from_step_to_step_makes_no_other_kernel(backend):
    x, out = backend.zeros((8, 8), "float32"), backend.zeros((8, 8), "float32")
    labels, weights, sums = backend.zeros((8,), "int64"), backend.zeros((8,), "float32"), backend.zeros((2,), "float64")
    numbers, relu, softmax = backend.zeros((len(Control),), "float64"), *map(activations.get, ("relu", "softmax"))

    def step(dropout, alpha, gamma):
        dropped = {"dropout": dropout, "control": numbers, "plan": PLANS["naive"]}
        backend.dense_forward(x, x, None, relu, None, out, alpha=alpha, **dropped)
        backend.hidden_delta(x, x, relu, x, out, **dropped)
        loss = losses.get({"name": "softmax_focal_cross_entropy", "gamma": gamma})
        backend.output_delta(loss, softmax, x, x, labels, weights, numbers, sums, out)
        return len(backend._made)

    made = step(Dropout(0.5, KEY, 1), 1.0, 2.0)
    assert step(Dropout(0.25, (1, 2), 3, first_row=MANY_ROWS), 2.0, 1.0) == made


def test_what_reads_control_asks_for_it(backend):
    x = backend.zeros((4, 4), "float32")
    out, sums = backend.zeros((4, 4), "float32"), backend.zeros((2,), "float64")
    relu, dropout, weights = activations.get("relu"), Dropout(0.5, KEY, 1), backend.zeros((4,), "float32")
    with pytest.raises(StateError, match="control"):
        backend.dense_forward(x, x, None, relu, None, out, dropout=dropout)
    with pytest.raises(StateError, match="control"):
        backend.hidden_delta(x, x, relu, x, out, dropout=dropout)
    with pytest.raises(StateError, match="control"):
        backend.output_delta(losses.get("huber"), relu, x, x, x, weights, None, sums, out)


def case(name, activation, settings, labels=False, weighted=True, dtype="float32", slow=True):
    values = name, activation, settings, labels, weighted, dtype
    number = "".join(f"-{value}" for value in settings.values())
    what = "-".join([f"{name}{number}", activation, *["labels"] * labels, *["weights"] * weighted, dtype])
    return pytest.param(*values, id=what, marks=[pytest.mark.slow] if slow else [])


SMOOTHED, FOCAL, LOW = {"label_smoothing": 0.1}, {"gamma": 1.5}, {"quantile": 0.2}
CASES = [
    *[case(name, "tanh", {}) for name in ("half_squared_error", "mean_squared_error", "absolute_error")],
    case("huber", "tanh", {"threshold": 0.5}, slow=False),
    case("huber", "softmax", {"threshold": 0.1}),
    case("squared_error", "silu", {}),
    case("binary_cross_entropy", "sigmoid", {}),
    case("softmax_cross_entropy", "softmax", {}),
    case("softmax_cross_entropy", "softmax", {}, labels=True),
    # losses of their own: without weights too, and in either dtype
    *[
        case(*loss, weighted=weighted, dtype=dtype)
        for loss in (
            ("quantile", "identity", LOW),
            ("binary_focal_cross_entropy", "sigmoid", FOCAL),
            ("softmax_cross_entropy", "softmax", SMOOTHED, True),
            ("softmax_focal_cross_entropy", "softmax", FOCAL),
        )
        for weighted, dtype in ((False, "float32"), (True, "float64"))
    ],
    case("quantile", "softmax", LOW),
    case("quantile", "tanh", LOW, slow=False),
    case("binary_focal_cross_entropy", "sigmoid", {"gamma": 0.0}),
    case("softmax_cross_entropy", "softmax", SMOOTHED),
    case("softmax_focal_cross_entropy", "softmax", {"gamma": 0.0}, labels=True),
    case("softmax_focal_cross_entropy", "softmax", FOCAL, labels=True, slow=False),
]


def example(name, activation, settings, rows, width, labels, reduction="mean"):
    """Return the arguments of output_delta up to y."""
    rng = np.random.default_rng(3)
    loss = losses.get({"name": name, "reduction": reduction, **settings})
    sigma = activations.get(activation)
    z = rng.normal(size=(rows, width)) * 3
    saved, output = z, z
    if not loss.from_logits:
        output = np.empty_like(z)
        sigma.apply(z, output)
        saved = z if activation == "silu" else output
    if labels:
        y = rng.integers(0, width, rows)
    elif name.endswith("entropy"):
        y = rng.random((rows, width))
        y = y / y.sum(axis=1, keepdims=True) if activation == "softmax" else np.round(y)
    else:
        y = rng.normal(size=(rows, width))
    y = y if labels else y.astype(np.float32).astype(float)
    return loss, sigma, output.astype(np.float32).astype(float), saved.astype(np.float32).astype(float), y


def weights_of(rows):
    weights = np.random.default_rng(4).integers(0, 4, rows) / 2
    weights[: min(2, rows)] = (0, 1.5)[: min(2, rows)]
    return weights


@pytest.mark.parametrize(("name", "activation", "settings", "labels", "weighted", "dtype"), CASES)
def test_losses_and_their_weights(backend, name, activation, settings, labels, weighted, dtype):
    for rows, width in ((1, 1), (7, 5), (3, 67), (130, 3)):
        loss, sigma, output, saved, y = example(name, activation, settings, rows, width, labels)
        weights, numbers, factor = None, None, 1 / rows
        if weighted:
            weights = weights_of(rows)
            factor = loss.factor(weights.sum())
            numbers = control(LOSS_FACTOR=factor, LOSS_SCALE=4)
            # what stands in a row of weight 0 does not matter
            output[0], saved[0], y[0] = np.nan, np.nan, -1 if labels else np.nan
        sums, delta = np.array([np.nan, 1.0]), np.full((rows, width), np.nan)
        arguments = (loss, sigma, output, saved, y, weights, numbers, sums, delta)
        found, expected = both(backend, "output_delta", dtype, (7, 8), *arguments)
        assert np.isfinite(np.concatenate([x.ravel() for x in expected])).all()
        # to roundoff of terms that cancel each other: a − y, and y h − a Σ y h
        u, unit = np.finfo(dtype).eps, (4 * weights.max() if weighted else 1) * factor
        np.testing.assert_allclose(found[0], expected[0], rtol=20 * u, atol=20 * u)
        np.testing.assert_allclose(found[1], expected[1], rtol=20 * u, atol=10 * u * unit)
        if weighted:
            assert not found[1][0].any()


def test_a_batch_without_weight_is_a_step_without_gradient(backend):
    loss, sigma, output, saved, y = example("softmax_cross_entropy", "softmax", {}, 6, 4, True)
    arguments = (loss, sigma, output, saved, y, np.zeros(6), control(), np.array([5.0, 1.0]), np.full((6, 4), np.nan))
    found, _ = both(backend, "output_delta", "float32", (7, 8), *arguments)
    assert found[0].tolist() == [0, 1]
    assert not found[1].any()


PENALTIES = {
    "l1": {"l1": 0.25},
    "l2": {"l2": 0.5, "weight_decay": 0.125, "clip_value": 0.5},
    "decoupled": {"l1": 0.25, "l2": 0.5, "decoupled": True, "weight_decay": 0.125},
}


def penalties():
    """Each optimiser with each penalty. `make test` has all of them with SGD, and one with each of the others."""
    for i, optimizer in enumerate(optimizers.OPTIMIZERS):
        for j, (name, settings) in enumerate(PENALTIES.items()):
            others = pytest.mark.slow if i % len(PENALTIES) == j else pytest.mark.exhaustive
            marks = () if optimizer == "sgd" else others
            yield pytest.param(optimizer, settings, id=f"{name}-{optimizer}", marks=marks)


@pytest.mark.parametrize(("optimizer", "settings"), list(penalties()))
def test_penalties(backend, optimizer, settings):
    rng, size, decayed = np.random.default_rng(5), 300, 260
    optimizer = optimizers.get({"name": optimizer, "learning_rate": 0.25, **settings})
    gradients, parameters = rng.normal(size=(2, size)).astype(np.float32).astype(float)
    parameters[::7], parameters[1::7] = 0, rng.choice([-0.03125, 0.03125], size=parameters[1::7].shape)  # within η λ₁
    state = [np.square(rng.normal(size=size)).astype(np.float32).astype(float) for _ in optimizer.state]
    numbers = control(LEARNING_RATE=0.25, STEP=3, GRADIENT_SCALE=0.5)

    def run(used, convert):
        placed = [convert(x) for x in (gradients, numbers, *state, parameters)]
        g, where, *slots, w = placed
        used.update(optimizer, g, decayed, where, slots, w)
        return [used.asnumpy(x) for x in (w, *slots)]

    found = run(backend, lambda x: backend.asarray(x, "float64" if x is numbers else "float32"))
    expected = run(NUMPY, np.copy)
    for x, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, right, rtol=3e-6, atol=3e-7)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 3), (3000, 40)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_added_to_what_is_there(backend, rows, width, dtype):
    rng = np.random.default_rng(6)
    delta, gradient = whole(rng, rows, width), whole(rng, width)
    for accumulate in (True, False):
        found, expected = both(backend, "bias_gradient", dtype, (1,), delta, gradient, accumulate=accumulate)
        np.testing.assert_array_equal(found[0], expected[0])
    a_prev, gradient = whole(rng, rows, 4), whole(rng, width, 4)
    naive = Plan("naive", dtype, 4, 8)
    for alpha, accumulate in ((1.0, True), (2.0, True), (2.0, False)):
        found, expected = both(
            backend, "weight_gradient", dtype, (2,), delta, a_prev, gradient,
            alpha=alpha, accumulate=accumulate, plan=naive,
        )  # fmt: skip
        np.testing.assert_array_equal(found[0], expected[0])


# --- training ---------------------------------------------------------------------------------------------------------
def trained(name, at_once, dtype):
    """Return a network after some steps with dropout, weights, penalties, label smoothing and parts of batches."""
    rng = np.random.default_rng(7)
    used = name if name == "numpy" else backends.get(name, DEVICE)
    if name == "numba":
        used.variant = "naive"  # quick to compile
    net = Network(
        [6, 9, 7, 3],
        loss={"name": "softmax_cross_entropy", "label_smoothing": 0.1},
        hidden_activation="tanh",
        dropout=[0.5, 0.25],
        dtype=dtype,
        seed=3,
        backend=used,
    )
    trainer = Trainer(net, {"name": "adam", "learning_rate": 0.01, "l1": 1e-3, "l2": 1e-2, "decoupled": True}, at_once)
    for rows in (16, 16, 5):
        x, y, weights = rng.normal(size=(rows, 6)), rng.integers(0, 3, rows), rng.integers(0, 3, rows) / 2
        trainer.step(x, y, sample_weight=weights)
    return net, trainer.take_total_loss()


@pytest.mark.parametrize("at_once", [None, 7])
@pytest.mark.parametrize(
    ("dtype", "bound"),
    # the more exact one sees more, and Numba compiles every kernel of the step for each
    [
        pytest.param("float32", 1e-5, marks=pytest.mark.exhaustive),
        pytest.param("float64", 1e-12, marks=pytest.mark.slow),
    ],
)
def test_training_with_all_of_it_follows_numpy(at_once, dtype, bound):
    (found, loss), (expected, right) = (trained(name, at_once, dtype) for name in ("numba", "numpy"))
    assert loss == pytest.approx(right, rel=bound)
    for name, weights in expected.weights().items():
        difference = np.linalg.norm(found.weights()[name] - weights) / np.linalg.norm(weights)
        print(f"{dtype} {name}: {difference:.2g} of {bound:g}")
        assert difference <= bound
