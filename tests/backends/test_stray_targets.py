"""Targets that a cross-entropy does not take: refused on the host, and NaN from there on if they lie on a device."""

import numpy as np
import pytest
from devices import DEVICE

from gpubp import backends
from gpubp.errors import ArgumentError
from gpubp.nn.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from gpubp.nn.network import Network
from gpubp.nn.trainer import Trainer

PLACES = [("numpy", "cpu"), ("cupy", DEVICE), ("numba", DEVICE)]
X = np.random.default_rng(0).normal(size=(4, 3))
LABELS = np.array([0, 1, 2, 1])
STRAY = {
    "labels": (SoftmaxCrossEntropy, LABELS, -1, r"y holds labels from -1 to 1; it must hold labels from 0 to 2"),
    "a label too many": (SoftmaxCrossEntropy, LABELS, 3, r"y holds labels from 0 to 3"),
    "rows": (SoftmaxCrossEntropy, np.eye(3)[LABELS], -1, r"from 0 to 1 for softmax_cross_entropy; row 2 is the first"),
    "sums": (SoftmaxCrossEntropy, np.eye(3)[LABELS], 0.5, r"do not sum to 1, the first is row 2 with"),
    "binary": (BinaryCrossEntropy, np.eye(3)[LABELS], 5, r"holds values from 0 to 5; it must be from 0 to 1"),
    "negative": (BinaryCrossEntropy, np.eye(3)[LABELS], -1, r"row 2 is the first that is not"),
}
"""A loss, targets, one that it does not take, and what is said of it."""


def strayed(y, value):
    y = y.copy()
    y[2, ...] = value
    return y


def trainer(place, loss, **options):
    return Trainer(Network([3, 3], loss=loss(), backend=backends.get(*place), **options), "sgd")


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[0])
@pytest.mark.parametrize("kind", STRAY)
def test_the_host_refuses_them_in_every_call(place, kind):
    loss, y, value, message = STRAY[kind]
    made = trainer(place, loss)
    before = made.network.weights()
    for call in (made.step, made.feed, made.network.gradients, made.network.evaluate, made.network.score):
        with pytest.raises(ArgumentError, match=message):
            call(X, strayed(y, value))
    for name, values in made.network.weights().items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize("place", [pytest.param(place, marks=pytest.mark.slow) for place in PLACES[1:]])
@pytest.mark.parametrize("kind", [kind for kind in STRAY if kind != "sums"])
def test_on_the_device_they_make_loss_and_weights_nan(place, kind):
    loss, y, value, _ = STRAY[kind]
    made = trainer(place, loss)
    on_device = made.network.backend.asarray(strayed(y, value), "int64" if y.ndim == 1 else "float32")
    made.step(X, on_device)
    assert np.isnan(made.last_loss())
    assert all(np.isnan(values).any() for values in made.network.weights().values())


@pytest.mark.slow
def test_with_loss_scaling_such_a_step_is_skipped_and_its_loss_is_nan():
    made = trainer(("cupy", DEVICE), SoftmaxCrossEntropy, precision="float16")
    before = made.network.weights()
    made.step(X, made.network.backend.asarray(strayed(LABELS, 7), "int64"))
    assert np.isnan(made.last_loss())
    for name, values in made.network.weights().items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("label", [-1, 3, 2**32, np.iinfo(np.int64).min])
def test_in_numpy_a_label_that_is_no_class_makes_its_row_nan_and_no_other(dtype, label):
    z = np.random.default_rng(0).normal(size=(4, 3)).astype(dtype)
    gradient, right = np.empty_like(z), np.empty_like(z)
    SoftmaxCrossEntropy().evaluate(z, LABELS, right)
    assert np.isnan(SoftmaxCrossEntropy().evaluate(z, strayed(LABELS, label), gradient))
    assert np.isnan(gradient[2]).all()
    np.testing.assert_array_equal(np.delete(gradient, 2, 0), np.delete(right, 2, 0))
