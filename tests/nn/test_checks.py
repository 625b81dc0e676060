"""What a network takes from its caller: arrays from the host, and arrays on a device."""

import numpy as np
import pytest

from gpubp import Network, Trainer
from gpubp.errors import ArgumentError
from gpubp.nn import losses
from gpubp.nn.checks import checked_examples, checked_targets, require_examples_on_device, require_targets_on_device

LABELS = np.array([2, 1, 1, 0, 0, 0, 2])


# --- arrays from the host ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("finite", [False, True])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((7, 5)), r"x has shape \(7, 5\); it must have shape \(B, 4\)"),
        (np.ones(4), r"x has shape \(4,\)"),
        (np.ones((7, 4, 1)), r"x has shape \(7, 4, 1\)"),
        (np.float64(3), "x has shape"),
        (np.ones((0, 4)), r"x has shape \(0, 4\).*B ≥ 1"),
        ([], "x has shape"),
        (None, "x holds object;"),
        ("text", "x holds"),
        ([["a", "b", "c", "d"]], "x holds"),
        ([[1, 2, 3, 4], [1, 2, 3]], "x is ragged; it must be an array of numbers"),
        (np.ones((7, 4), complex), "x holds complex128; it must hold real numbers"),
        (np.full((7, 4), None), "x holds object;"),
        (np.full((7, 4), np.datetime64("2020-01-01")), "x holds datetime64"),
    ],
)
def test_a_wrong_x_is_an_error_that_names_it(x, message, finite):
    with pytest.raises(ArgumentError, match=message):
        checked_examples(x, 4, "float32", finite)


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (LABELS.astype(float), "y holds float64 labels; it must hold integers, or one-hot rows"),
        (LABELS.astype(bool), "y holds bool labels"),
        (np.where(LABELS == 1, 3, LABELS), "y holds labels from 0 to 3; it must hold labels from 0 to 2"),
        (np.where(LABELS == 1, -1, LABELS), "y holds labels from -1 to 2;"),
        (np.full(7, 2**63, np.uint64), "y holds labels from"),
        (np.ones((7, 2)), r"y has shape \(7, 2\); it must have shape \(B, 3\), or be \(B,\) integer labels"),
        (np.ones((7, 1), int), "y has shape"),
        (np.zeros(0, int), "y is empty; it must have at least one label"),
        (np.zeros((0, 3)), "y has shape"),
        (["a"] * 7, "y holds"),
        (None, "y holds object;"),
    ],
)
def test_wrong_labels_are_an_error_that_names_them(y, message, values):
    with pytest.raises(ArgumentError, match=message):
        checked_targets(y, losses.get("softmax_cross_entropy"), 3, "float32", values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_nan_and_infinity_in_x_are_refused_and_too_large_for_float32_is_infinite(value):
    x = np.ones((7, 4))
    x[3, 2] = value
    with pytest.raises(ArgumentError, match="x holds NaN or infinity; it must be finite in float32"):
        checked_examples(x, 4, "float32", finite=True)
    np.testing.assert_array_equal(checked_examples(x, 4, "float64"), x)  # nobody asked to look


@pytest.mark.parametrize(
    ("loss", "value", "message"),
    [
        ("huber", np.nan, "NaN or infinity"),
        ("squared_error", np.inf, "NaN or infinity"),
        ("binary_cross_entropy", 1.5, "values from .* to 1.5; it must be from 0 to 1"),
        ("binary_cross_entropy", -0.1, "values from -0.1"),
        ("softmax_cross_entropy", 0.5, "rows that do not sum to 1"),
        ("softmax_cross_entropy", -1, "values from -1"),
        ("softmax_cross_entropy", np.nan, "NaN or infinity"),
    ],
)
def test_targets_that_the_loss_cannot_take_are_refused(loss, value, message):
    y = np.eye(3)[LABELS]
    y[2, (LABELS[2] + 1) % 3] = value
    with pytest.raises(ArgumentError, match=message):
        checked_targets(y, losses.get(loss), 3, "float32", values=True)


def test_one_output_has_one_class():
    np.testing.assert_array_equal(checked_targets([0, 0], losses.get("softmax_cross_entropy"), 1, "float32"), [0, 0])
    with pytest.raises(ArgumentError, match="y holds labels from 0 to 1; it must hold labels from 0 to 0"):
        checked_targets([0, 1], losses.get("softmax_cross_entropy"), 1, "float32")


def test_probabilities_are_looked_at_in_every_step_and_nan_passes():
    bce, cross_entropy = losses.get("binary_cross_entropy"), losses.get("softmax_cross_entropy")
    y = np.eye(3)[LABELS]
    y[4, 1] = 5
    for loss in (bce, cross_entropy):
        with pytest.raises(ArgumentError, match=r"holds values from 0 to 5; it must be .* row 4 is the first"):
            checked_targets(y, loss, 3, "float32")
    y[4, 1] = np.nan
    for loss in (bce, cross_entropy):
        assert np.isnan(checked_targets(y, loss, 3, "float32")[4, 1])
    y[2, 0] = -1
    with pytest.raises(ArgumentError, match=r"holds values from -1 to 1; it must be .* row 2 is the first"):
        checked_targets(y, bce, 3, "float32")


# --- arrays on a device -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((7, 5), "float32"),
        ((7, 4), "float64"),
        ((7, 4), "int64"),
        ((4,), "float32"),
        ((0, 4), "float32"),
        ((), "float32"),
    ],
)
def test_examples_of_another_shape_or_dtype_are_refused(shape, dtype):
    with pytest.raises(
        ArgumentError, match=r"x is an array of .*; it must be of float32 and shape \(B, 4\), with B ≥ 1"
    ):
        require_examples_on_device(np.empty(shape, dtype), 4, "float32")
    require_examples_on_device(np.empty((7, 4), "float32"), 4, "float32")


@pytest.mark.parametrize(
    ("loss", "shape", "dtype", "right"),
    [
        ("softmax_cross_entropy", (7,), "int64", True),
        ("softmax_cross_entropy", (7, 3), "float32", True),
        ("softmax_cross_entropy", (7,), "int32", False),
        ("softmax_cross_entropy", (7, 1), "int64", False),
        ("softmax_cross_entropy", (7, 4), "float32", False),
        ("softmax_cross_entropy", (7,), "float32", False),
        ("huber", (7, 3), "float32", True),
        ("huber", (7,), "int64", False),
        ("huber", (7, 3), "float64", False),
    ],
)
def test_targets_are_of_the_shape_and_dtype_that_the_loss_takes(loss, shape, dtype, right):
    y = np.empty(shape, dtype)
    if right:
        require_targets_on_device(y, losses.get(loss), 3, "float32")
    else:
        with pytest.raises(ArgumentError, match=r"y is an array of .*; it must be of float32"):
            require_targets_on_device(y, losses.get(loss), 3, "float32")


@pytest.mark.parametrize("name", ["x", "y"])
def test_a_step_looks_at_arrays_on_its_device(name):
    net = Network([4, 6, 3], backend="cupy", device="emulator")
    trainer = Trainer(net)
    before = net.weights()
    arrays = {"x": np.zeros((7, 4), "float32"), "y": np.zeros(7, "int64"), name: np.zeros((7, 2), "float32")}
    with pytest.raises(ArgumentError, match=f"{name} is an array of"):
        trainer.step(*(net.backend.asarray(array, array.dtype) for array in arrays.values()))
    assert trainer.steps == 0
    for key, weights in net.weights().items():
        np.testing.assert_array_equal(weights, before[key])
