"""What is taken from a caller's own arrays on a device; arrays from the host are tested with the network."""

import numpy as np
import pytest

from gpubp import Network, losses
from gpubp.errors import ArgumentError
from gpubp.inputs import require_examples_on_device, require_targets_on_device


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
    with pytest.raises(ArgumentError, match=r"x was .*; it must be of float32 and shape \(B, 4\), with B ≥ 1"):
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
        with pytest.raises(ArgumentError, match=r"y was 'an array of .* it must be of float32"):
            require_targets_on_device(y, losses.get(loss), 3, "float32")


@pytest.mark.parametrize("name", ["x", "y"])
def test_a_step_looks_at_arrays_on_its_device(name):
    net = Network([4, 6, 3], backend="cupy", device="emulator")
    before = net.weights()
    arrays = {"x": np.zeros((7, 4), "float32"), "y": np.zeros(7, "int64"), name: np.zeros((7, 2), "float32")}
    with pytest.raises(ArgumentError, match=f"{name} was"):
        net.train_step(*(net.backend.asarray(array, array.dtype) for array in arrays.values()))
    assert net.steps == 0
    for key, weights in net.weights().items():
        np.testing.assert_array_equal(weights, before[key])
