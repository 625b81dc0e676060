"""The `numpy` backend: every primitive against its equation, in arrays that the caller made, and nothing but these."""

from __future__ import annotations

import inspect
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubp import Network, Trainer
from gpubp.backends import numpy_backend
from gpubp.backends.base import Backend
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.errors import ArgumentError
from gpubp.kernels.control import Control, Losses
from gpubp.nn import activations, losses, optimizers
from gpubp.nn.activations import ACTIVATIONS, Identity
from gpubp.nn.losses import LOSSES
from gpubp.nn.optimizers import OPTIMIZERS, SGD

ELEMENTWISE = [name for name in ACTIVATIONS if name != "softmax"]
few = settings(max_examples=40, deadline=None, derandomize=True, database=None)
sides = st.integers(1, 12)
dtypes = st.sampled_from(["float32", "float64"])


@pytest.fixture
def backend():
    return NumpyBackend()


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that every array here spans several, and the last one is ragged."""
    monkeypatch.setattr(numpy_backend, "BLOCK", 7)


def numbers(rng, *shape, dtype="float64"):
    return rng.normal(size=shape).astype(dtype)


def poisoned(*shape, dtype="float64"):
    return np.full(shape, np.nan, dtype)


def tolerance(dtype):
    return {"float32": 2e-5, "float64": 1e-12}[str(np.dtype(dtype))]


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=tolerance(found.dtype), atol=tolerance(found.dtype))


# --- arrays -----------------------------------------------------------------------------------------------------------
def test_asarray_copies_only_what_it_must(backend):
    x = np.ones((2, 3), "float32")
    assert backend.asarray(x, "float32") is x
    assert backend.asarray(x.T, "float32").flags.c_contiguous
    assert backend.asarray([[1, 2]], "float64").dtype == np.float64


def test_asnumpy_gives_a_copy(backend):
    x = np.zeros(3)
    backend.asnumpy(x)[0] = 1
    assert x[0] == 0


def test_zeros_copy_cast_upload_and_scale(backend):
    out = backend.zeros((2, 3), "float32")
    assert (out.dtype, out.tolist()) == (np.float32, [[0, 0, 0]] * 2)
    backend.cast(np.full((2, 3), 1 / 3), out)
    assert out[0, 0] == np.float32(1 / 3)
    backend.copy(np.full((2, 3), 2, "float32"), out)
    backend.scale(out, 0.25)
    assert out.tolist() == [[0.5] * 3] * 2
    backend.upload(np.full((2, 3), 9, "float32"), out)
    assert out.tolist() == [[9] * 3] * 2
    assert backend.empty((4, 1), "float64").shape == (4, 1)


@pytest.mark.parametrize("target", ["rows", "labels"])
def test_gather_rows_starts_at_the_offset(backend, target):
    source = np.arange(12.0).reshape(6, 2) if target == "rows" else np.arange(6)
    order = np.array([5, 0, 3, 1, 4, 2])
    control = np.zeros(len(Control))
    for offset, rows in ((0, 3), (3, 3), (2, 1), (0, 6)):
        control[Control.BATCH_OFFSET] = offset
        out = np.zeros((rows, *source.shape[1:]), source.dtype)
        numbers, chosen = np.arange(6.0), np.zeros(rows)
        backend.gather_rows((source, numbers), order, control, (out, chosen))
        np.testing.assert_array_equal(out, source[order[offset : offset + rows]])
        np.testing.assert_array_equal(chosen, order[offset : offset + rows])


def test_the_norm_is_summed_in_float64(backend, small_blocks):
    control = np.zeros(len(Control))
    backend.prepare_update(np.full((5, 6), 1e30, "float32"), None, control)  # squares overflow float32
    assert control[Control.SQUARED_NORM] == pytest.approx(30 * float(np.float32(1e30)) ** 2, rel=1e-14)


def test_row_argmax_takes_the_first_of_equals_and_nan_before_all(backend):
    out = np.zeros(4, np.int64)
    backend.row_argmax(np.array([[1.0, 3, 3], [2, 2, 1], [1, np.nan, 9], [-3, -2, -1]]), out)
    assert out.tolist() == [1, 0, 1, 2]


# --- forward ----------------------------------------------------------------------------------------------------------
@few
@given(sides, sides, sides, dtypes, st.booleans(), st.booleans(), st.sampled_from(ELEMENTWISE))
def test_dense_forward(rows, n, k, dtype, bias, keep_z, name):
    rng = np.random.default_rng(rows * 169 + n * 13 + k)
    a_prev, w = numbers(rng, rows, k, dtype=dtype), numbers(rng, n, k, dtype=dtype)
    b = numbers(rng, n, dtype=dtype) if bias else None
    a, z = poisoned(rows, n, dtype=dtype), poisoned(rows, n, dtype=dtype) if keep_z else None
    activation = activations.get(name)
    NumpyBackend().dense_forward(a_prev, w, b, activation, z, a)
    expected_z = np.array([[sum(a_prev[i] * w[j]) + (b[j] if bias else 0) for j in range(n)] for i in range(rows)])
    expected_a = np.empty_like(expected_z)
    activation.apply(expected_z, expected_a)
    assert_close(a, expected_a)
    if keep_z:
        assert_close(z, expected_z)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activations_in_blocks_equal_those_at_once(backend, small_blocks, name):
    rng = np.random.default_rng(0)
    z, activation = numbers(rng, 5, 6), activations.get(name)
    a, expected = poisoned(5, 6), poisoned(5, 6)
    backend.dense_forward(z, np.eye(6), None, activation, None, a)
    activation.apply(z, expected)
    assert_close(a, expected)


def test_identity_keeps_z_apart_from_a(backend):
    a, z = poisoned(2, 2), poisoned(2, 2)
    backend.dense_forward(np.eye(2), np.eye(2), np.ones(2), Identity(), z, a)
    assert a.tolist() == z.tolist() == [[2, 1], [1, 2]]


# --- backward ---------------------------------------------------------------------------------------------------------
@few
@given(sides, sides, sides, dtypes, st.sampled_from(ELEMENTWISE))
def test_hidden_delta_is_its_two_halves(rows, n, n_next, dtype, name):
    rng = np.random.default_rng(rows * 169 + n * 13 + n_next)
    activation = activations.get(name)
    delta_next, w_next = numbers(rng, rows, n_next, dtype=dtype), numbers(rng, n_next, n, dtype=dtype)
    z = numbers(rng, rows, n, dtype=dtype)
    saved = z.copy()
    if activation.reads == "a":
        activation.apply(z, saved)
    backend = NumpyBackend()
    delta, product, halves = (poisoned(rows, n, dtype=dtype) for _ in range(3))
    backend.hidden_delta(delta_next, w_next, activation, saved, delta)
    backend.transpose_product(delta_next, w_next, product)
    backend.hadamard_derivative(product, activation, saved, halves)

    slope = np.empty_like(saved)
    activation.derivative(saved, slope)
    expected = [[sum(delta_next[i] * w_next[:, j]) * slope[i, j] for j in range(n)] for i in range(rows)]
    assert_close(delta, expected)
    np.testing.assert_array_equal(halves, delta)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_in_blocks_equal_those_at_once(backend, small_blocks, name):
    rng = np.random.default_rng(0)
    product, saved, activation = numbers(rng, 5, 6), numbers(rng, 5, 6), activations.get(name)
    delta, slope = poisoned(5, 6), poisoned(5, 6)
    backend.hadamard_derivative(product, activation, saved, delta)
    activation.derivative(saved, slope)
    assert_close(delta, product * slope)


@few
@given(sides, sides, sides, dtypes)
def test_weight_and_bias_gradients(rows, n, k, dtype):
    rng = np.random.default_rng(rows * 169 + n * 13 + k)
    delta, a_prev = numbers(rng, rows, n, dtype=dtype), numbers(rng, rows, k, dtype=dtype)
    dw, db = poisoned(n, k, dtype=dtype), poisoned(n, dtype=dtype)
    NumpyBackend().weight_gradient(delta, a_prev, dw, bias_gradient=db)
    NumpyBackend().bias_gradient(delta, alone := poisoned(n, dtype=dtype))
    assert alone.tolist() == db.tolist()
    assert_close(dw, [[sum(delta[:, i] * a_prev[:, j]) for j in range(k)] for i in range(n)])
    assert_close(db, [sum(delta[:, i]) for i in range(n)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bias_gradient_of_batches_of_any_size_in_turn(backend, dtype):
    rng = np.random.default_rng(0)
    for rows in (3, 700, 2):
        delta = numbers(rng, rows, 5, dtype=dtype)
        backend.bias_gradient(delta, db := poisoned(5, dtype=dtype))
        assert_close(db, delta.sum(axis=0, dtype=np.float64))


def test_a_bias_gradient_that_blas_cannot_write_is_an_error(backend):
    with pytest.raises(ArgumentError, match="C-contiguous"):
        backend.bias_gradient(np.ones((3, 4)), np.zeros((4, 2))[:, 0])


@few
@given(sides, sides, sides, dtypes)
def test_weight_step_is_made_in_place_whatever_the_shape(rows, n, k, dtype):
    rng = np.random.default_rng(rows * 169 + n * 13 + k)
    delta, a_prev, w = (numbers(rng, *shape, dtype=dtype) for shape in ((rows, n), (rows, k), (n, k)))
    control = np.zeros(len(Control))
    control[Control.LEARNING_RATE] = 0.25
    expected = w - 0.25 * (delta.T @ a_prev)
    # as in a network: leading rows of a larger array, and a view into a flat one
    flat = np.zeros(n * k + 32, dtype)
    flat[32:] = w.ravel()
    view = flat[32:].reshape(n, k)
    larger_delta, larger_a = np.vstack([delta, poisoned(3, n)]), np.vstack([a_prev, poisoned(3, k)])
    NumpyBackend().weight_step(larger_delta.astype(dtype)[:rows], larger_a.astype(dtype)[:rows], control, view)
    assert_close(view, expected)
    assert not flat[:32].any()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_output_delta_in_blocks_equals_that_at_once(name, reduction, monkeypatch):
    rng = np.random.default_rng(3)
    loss = losses.get({"name": name, "reduction": reduction})
    output = numbers(rng, 9, 3)
    y = np.eye(3)[rng.integers(0, 3, 9)] if name != "binary_cross_entropy" else rng.random((9, 3))
    for activation in [Identity()] if loss.from_logits else [activations.get(kind) for kind in ACTIVATIONS]:
        saved = np.abs(numbers(rng, 9, 3)) / 3
        results = []
        for block in (7, 1_000, 1):
            monkeypatch.setattr(numpy_backend, "BLOCK", block)
            found, delta = np.array([np.nan, 10.0]), poisoned(9, 3)
            NumpyBackend().output_delta(loss, activation, output, saved, y, None, None, found, delta)
            results.append((found, delta))
        divisor = 9 if reduction == "mean" else 1
        for found, delta in results:
            np.testing.assert_allclose(found, results[0][0], rtol=1e-14)
            np.testing.assert_allclose(delta, results[0][1], rtol=1e-13, atol=1e-16)
            assert found[Losses.TOTAL] - 10 == pytest.approx(found[Losses.BATCH] * divisor, rel=1e-13)


def test_results_are_the_same_from_run_to_run():
    rng = np.random.default_rng(0)
    x, y = numbers(rng, 65, 33, dtype="float32"), rng.integers(0, 10, 65)
    results = []
    for _ in range(2):
        net = Network([33, 129, 65, 10], backend="numpy")
        trainer = Trainer(net)
        for _ in range(3):
            trainer.step(x, y)
        results.append(net.parameters.tobytes())
    assert results[0] == results[1]


# --- update -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("max_norm", "norm", "scale"),
    [(None, 10.0, 1), (5.0, 10.0, 0.5), (10.0, 10.0, 1), (20.0, 10.0, 1), (1.0, 0.0, 1), (1.0, np.inf, 0)],
)
def test_prepare_update_sets_the_norm_and_the_scale(backend, max_norm, norm, scale):
    control = np.arange(100.0, 100 + len(Control))
    expected = control.copy()
    expected[Control.SQUARED_NORM], expected[Control.GRADIENT_SCALE] = norm**2, scale
    backend.prepare_update(np.array([[0.6 * norm], [-0.8 * norm]]), max_norm, control)
    np.testing.assert_allclose(control, expected, rtol=1e-15)


def test_a_norm_of_nan_gives_a_scale_of_nan(backend):
    control = np.ones(len(Control))
    backend.prepare_update(np.array([1.0, np.nan]), 1.0, control)
    assert np.isnan(control[Control.GRADIENT_SCALE])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decayed", [0, 10, 14, 30])
def test_an_update_in_blocks_equals_that_at_once(name, decayed, monkeypatch):
    rng = np.random.default_rng(1)
    optimizer = optimizers.get({"name": name, "weight_decay": 0.1, "clip_value": 1.0})
    gradients, parameters = numbers(rng, 30), numbers(rng, 30)
    state = [np.abs(numbers(rng, 30)) for _ in optimizer.state]
    control = np.zeros(len(Control))
    control[Control.LEARNING_RATE], control[Control.STEP], control[Control.GRADIENT_SCALE] = 0.01, 5, 0.5
    results = []
    for block in (7, 1000):
        monkeypatch.setattr(numpy_backend, "BLOCK", block)
        w, slots = parameters.copy(), [slot.copy() for slot in state]
        NumpyBackend().update(optimizer, gradients, decayed, control, slots, w)
        results.append((w, *slots))
    for blocked, at_once in zip(*results, strict=True):
        np.testing.assert_allclose(blocked, at_once, rtol=1e-14)
    assert not np.any(results[0][0] == parameters)


# --- memory -----------------------------------------------------------------------------------------------------------
SIZES, ROWS = [460, 600, 510, 500], 560
SMALLEST = 510 * 500
"""Elements of the smallest weight matrix; every batch × layer is larger, and a block of the backend is smaller."""


GENTLE = SGD(learning_rate=1e-5)


def peak_of_a_step(dtype="float32", optimizer=GENTLE, from_feed=False, **chosen):
    """The most bytes that the second training step holds at once, beyond what was held before it."""
    net = Network(SIZES, dtype=dtype, backend="numpy", **chosen)
    trainer = Trainer(net, optimizer)
    rng = np.random.default_rng(0)
    x = rng.random((ROWS, SIZES[0])).astype(dtype)
    labels = rng.integers(0, SIZES[-1], ROWS)
    y = labels if net.loss.takes_labels else np.eye(SIZES[-1], dtype=dtype)[labels]
    feed = trainer.feed(x, y)

    def step():
        if from_feed:
            trainer.step_rows(feed, 0, ROWS)
        else:
            trainer.step(x, y)

    step()
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def assert_makes_no_large_array(dtype="float32", **chosen):
    smallest = SMALLEST * np.dtype(dtype).itemsize
    peak = peak_of_a_step(dtype=dtype, **chosen)
    assert peak < smallest, f"{peak:,} bytes in a step; the smallest large array has {smallest:,}"


def test_a_block_is_smaller_than_the_arrays_of_these_tests():
    assert numpy_backend.BLOCK < SMALLEST / 4
    assert min(ROWS * n for n in SIZES) > SMALLEST


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_optimizer_makes_a_large_array(optimizer):
    assert_makes_no_large_array(optimizer=optimizer)
    assert_makes_no_large_array(
        optimizer={"name": optimizer, "clip_norm": 0.1, "clip_value": 0.1, "weight_decay": 0.01}
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_makes_a_large_array(loss):
    assert_makes_no_large_array(loss=loss)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_activation_makes_a_large_array(activation):
    if activation != "softmax":
        assert_makes_no_large_array(hidden_activation=activation)
    assert_makes_no_large_array(output_activation=activation, loss="half_squared_error")


@pytest.mark.parametrize("bias", [True, False])
def test_gathering_rows_makes_no_large_array(bias):
    assert_makes_no_large_array(from_feed=True, bias=bias)
    assert_makes_no_large_array(from_feed=True, bias=bias, optimizer=SGD(clip_norm=1.0), loss="squared_error")


def test_the_measure_sees_a_large_array(monkeypatch):
    # such as the one that a plain `delta.T @ a_prev` would make
    monkeypatch.setattr(
        NumpyBackend, "weight_gradient", lambda self, delta, a_prev, gradient, *_: np.copyto(gradient, delta.T @ a_prev)
    )
    assert peak_of_a_step(optimizer="momentum") > SMALLEST * 4


CONTROL = np.zeros(len(Control))
CONTROL[[Control.LEARNING_RATE, Control.STEP, Control.GRADIENT_SCALE]] = 0.1, 1, 1


# --- NaN --------------------------------------------------------------------------------------------------------------
def test_nan_goes_through_every_primitive(backend):
    nan = np.array([[np.nan, 1.0]])
    a, out = poisoned(1, 2), np.zeros((1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.dense_forward(nan, np.eye(2), None, activations.get("relu"), None, a)
        assert np.isnan(a[0]).all()  # NaN · 0 is NaN in the product
        backend.hidden_delta(nan, np.eye(2), Identity(), np.ones((1, 2)), out)
        assert np.isnan(out[0, 0])
        backend.weight_gradient(nan, np.ones((1, 1)), column := np.zeros((2, 1)))
        assert np.isnan(column[:, 0]).tolist() == [True, False]
        backend.bias_gradient(nan, sums := np.zeros(2))
        assert np.isnan(sums).tolist() == [True, False]
        backend.prepare_update(nan, None, control := np.zeros(len(Control)))
        assert np.isnan(control[Control.SQUARED_NORM])
        for name in OPTIMIZERS:
            optimizer = optimizers.get({"name": name, "clip_value": 1.0})
            w, state = np.ones(2), [np.ones(2) for _ in optimizer.state]
            backend.update(optimizer, nan[0], 2, CONTROL, state, w)
            assert np.isnan(w).tolist() == [True, False], name


# --- the protocol -----------------------------------------------------------------------------------------------------
def test_the_backend_has_every_method_of_the_protocol_with_its_parameters():
    methods = {name: method for name, method in vars(Backend).items() if inspect.isfunction(method) and name[0] != "_"}
    assert len(methods) > 20
    for name, method in methods.items():
        expected = list(inspect.signature(method).parameters)
        assert list(inspect.signature(getattr(NumpyBackend, name)).parameters) == expected, name


# --- other precisions -------------------------------------------------------------------------------------------------
HALF = np.ones((2, 2), np.float16)
RELU, LOSS = activations.get("relu"), losses.get("half_squared_error")


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("x", lambda numpy: numpy.scale(HALF.copy(), 2.0)),
        ("z", lambda numpy: numpy.softmax(HALF, np.ones((2, 2), np.float32))),
        ("product", lambda numpy: numpy.hadamard_derivative(HALF, RELU, HALF, HALF.copy())),
        ("delta", lambda numpy: numpy.bias_gradient(HALF, np.ones(2, np.float32))),
        (
            "output",
            lambda numpy: numpy.output_delta(LOSS, RELU, HALF, HALF, HALF, None, None, np.zeros(2), HALF.copy()),
        ),
        ("a", lambda numpy: numpy.dense_forward(HALF, HALF, None, RELU, None, HALF.copy())),
        ("a", lambda numpy: numpy.weight_gradient(HALF, HALF, np.ones((2, 2), np.float32))),
        ("w", lambda numpy: numpy.weight_step(HALF, HALF, CONTROL, HALF.copy())),
    ],
)
def test_the_plain_backend_takes_no_arrays_of_16_bits(argument, call):
    with pytest.raises(ArgumentError, match=rf"{argument}\.dtype was 'float16'; it must be float32 or float64"):
        call(NumpyBackend())


@pytest.mark.parametrize(
    "name", ["dense_forward", "hidden_delta", "transpose_product", "weight_gradient", "weight_step"]
)
def test_the_plain_backend_rounds_to_no_tf32(name):
    x, out = np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)
    arguments = {
        "dense_forward": (x, x, None, RELU, None, out),
        "hidden_delta": (x, x, RELU, x, out),
        "transpose_product": (x, x, out),
        "weight_gradient": (x, x, out),
        "weight_step": (x, x, CONTROL, out),
    }[name]
    with pytest.raises(ArgumentError, match=r"tf32 was True; .*for_precision"):
        getattr(NumpyBackend(), name)(*arguments, tf32=True)
    getattr(NumpyBackend().for_precision("tf32"), name)(*arguments, tf32=True)


def test_a_backend_for_every_precision():
    plain = NumpyBackend()
    assert plain.for_precision("float64") is plain.for_precision("fp32") is plain
    rounded = plain.for_precision("bf16")
    assert isinstance(rounded, NumpyBackend)
    assert rounded.for_precision("float16") is rounded
    assert type(rounded.for_precision("float64")) is NumpyBackend
    assert (rounded.name, rounded.device) == (plain.name, plain.device)
    assert type(rounded) is type(plain.for_precision("tf32"))
    for backend in (plain, rounded):
        with pytest.raises(ArgumentError, match="precision was 'fp8'"):
            backend.for_precision("fp8")
