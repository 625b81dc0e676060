"""The network: making one, predictions, evaluation, and what it says to bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from networks import LABELS, VALUES, X, network, regression

from gpubp import Network, Trainer
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.errors import ArgumentError
from gpubp.nn import activations
from gpubp.nn.activations import LeakyReLU, Tanh
from gpubp.nn.initializers import HeUniform
from gpubp.nn.losses import Huber


def same_weights(first, second):
    return all(np.array_equal(value, second.weights()[name]) for name, value in first.weights().items())


# --- making one -------------------------------------------------------------------------------------------------------
def test_shapes_and_names_are_the_books():
    net = network([4, 6, 5, 3], hidden_activation=["relu", LeakyReLU(0.2)])
    assert net.sizes == (4, 6, 5, 3)
    assert net.depth == 3
    assert [w.shape for w in net.w[1:]] == [(6, 4), (5, 6), (3, 5)]
    assert [b.shape for b in net.b[1:]] == [(6,), (5,), (3,)]
    assert (net.w[0], net.b[0]) == (None, None)
    assert [sigma.name for sigma in net.activations[1:]] == ["relu", "leaky_relu", "softmax"]
    assert net.parameter_count == 4 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3


def test_weights_are_views_of_one_aligned_array():
    for dtype in ("float32", "float64"):
        net = network([5, 7, 3, 1], loss="huber", dtype=dtype)
        for part in (*net.w[1:], *net.b[1:]):
            assert np.shares_memory(part, net.parameters)
            assert (part.ctypes.data - net.parameters.ctypes.data) % 128 == 0
            assert part.dtype == dtype


def test_without_bias_there_are_weights_alone():
    net = network(bias=False)
    assert net.b == [None, None, None]
    assert net.parameter_count == 4 * 6 + 6 * 3
    assert list(net.weights()) == ["layer1.weight", "layer2.weight"]
    before = net.weights()
    Trainer(net).step(X, LABELS)
    assert not same_weights_dict(before, net.weights())
    assert net.gradients(X, LABELS)[1].b == [None, None, None]


def same_weights_dict(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("loss", "output"),
    [
        ("softmax_cross_entropy", "softmax"),
        ("binary_cross_entropy", "sigmoid"),
        ("huber", "identity"),
        ("half_squared_error", "identity"),
    ],
)
def test_the_output_activation_follows_the_loss(loss, output):
    assert network(loss=loss).activations[-1].name == output
    assert network(loss=loss, output_activation=output).activations[-1].name == output


def test_choices_may_be_names_configs_or_objects():
    net = Network(
        [4, 6, 3],
        hidden_activation={"name": "elu", "alpha": 0.5},
        output_activation=Tanh(),
        loss=Huber(threshold=0.5),
        initializer=HeUniform(),
        backend=NumpyBackend(),
    )
    assert net.activations[1] == activations.ELU(0.5)
    assert net.activations[2] == Tanh()
    assert net.loss.threshold == 0.5
    assert net.backend.name == "numpy"


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32"), "f4"])
def test_a_dtype_may_be_numpys(dtype):
    net = network(dtype=dtype)
    assert net.dtype == "float32"
    assert net.config()["dtype"] == "float32"


def test_auto_takes_a_backend_that_runs_here():
    net = Network([4, 3])
    trainer = Trainer(net)
    trainer.step(X, LABELS)
    assert math.isfinite(trainer.last_loss())


# --- predictions ------------------------------------------------------------------------------------------------------
def test_classes_are_those_of_the_largest_probability():
    net = network()
    probabilities, classes = net.predict_proba(X), net.predict(X)
    assert probabilities.shape == (7, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(classes, probabilities.argmax(axis=1))
    assert classes.dtype == np.int64
    assert net.classifies


def test_binary_classes_are_those_above_one_half():
    for sizes, shape in (([4, 5, 1], (7,)), ([4, 5, 2], (7, 2))):
        net = network(sizes, loss="binary_cross_entropy", seed=3)
        probabilities, classes = net.predict_proba(X), net.predict(X)
        assert probabilities.shape == (7, sizes[-1])
        assert classes.shape == shape
        assert classes.dtype == np.int64
        np.testing.assert_array_equal(classes.reshape(7, -1), probabilities > 0.5)
        assert 0 < classes.mean() < 1


def test_values_are_the_output_activations():
    net = regression(output_activation="tanh")
    a = np.maximum(X @ net.w[1].T + net.b[1], 0)
    np.testing.assert_allclose(net.predict(X), np.tanh(a @ net.w[2].T + net.b[2]), rtol=1e-13)
    np.testing.assert_array_equal(net.predict(X), net.predict_proba(X))
    assert not net.classifies


def test_hidden_activations_are_those_of_each_layer():
    net = regression(hidden_activation="tanh")
    (a,) = net.hidden_activations(X)
    np.testing.assert_allclose(a, np.tanh(X @ net.w[1].T + net.b[1]), rtol=1e-13)
    assert network([4, 3]).hidden_activations(X) == []


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy", "huber"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_any_number_of_rows_is_predicted_and_evaluated_in_chunks(loss, reduction):
    rows = 2 * NumpyBackend.rows_at_once + 5
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(rows, 4)), rng.integers(0, 2, (rows, 3))
    if loss == "softmax_cross_entropy":
        y = rng.integers(0, 3, rows)
    net = network(loss={"name": loss, "reduction": reduction}, dtype="float64")
    whole, gradients = net.evaluate(x, y), net.gradients(x, y)  # the gradients take all rows at once
    assert whole.loss == pytest.approx(gradients[0], rel=1e-12)
    parts = np.concatenate([net.predict(x[i : i + 1000]) for i in range(0, rows, 1000)])
    np.testing.assert_array_equal(net.predict(x), parts)
    assert len(net.predict_proba(x)) == rows
    if net.classifies:
        assert whole.accuracy == np.mean(parts == y)
    else:
        assert whole.accuracy is None


def test_the_score_of_a_classifier_is_its_accuracy():
    net = network([2, 2], initializer="zeros")
    net.set_weights({"layer1.weight": [[1, 0], [0, 1]], "layer1.bias": [0, 0]})
    x = [[1, 0], [0, 1], [2, 3], [5, 4]]
    assert net.score(x, [0, 1, 1, 1]) == 0.75
    assert net.evaluate(x, [0, 1, 1, 1]).accuracy == 0.75


def test_the_score_of_a_regression_is_r_squared():
    net = network([1, 1], loss="half_squared_error", dtype="float64")
    net.set_weights({"layer1.weight": [[1.0]], "layer1.bias": [0.0]})
    x = [[0.0], [1.0], [2.0]]
    assert net.score(x, x) == 1
    # residuals 0, 1, −1; Σ 2; y = 0, 2, 1 about its mean: Σ 2
    assert net.score(x, [[0.0], [2.0], [1.0]]) == 0
    # residuals 1, 1, 1; y = −1, 0, 1: Σ 2
    assert net.score(x, [[-1.0], [0.0], [1.0]]) == pytest.approx(1 - 3 / 2)
    assert net.score([[1.0]], [[1.0]]) == 1
    assert net.score([[1.0]], [[2.0]]) == 0


# --- weights ----------------------------------------------------------------------------------------------------------
def test_weights_are_copies_and_come_back():
    net, other = network(seed=1), network(seed=2)
    copies = net.weights()
    copies["layer1.weight"][:] = 0
    assert net.w[1].any()
    other.set_weights(net.weights())
    assert same_weights(net, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layer2.weight"), r"layer2\.weight is missing; it must have shape \(3, 6\)"),
        (lambda w: w.update({"layer1.bias": np.zeros(5)}), r"layer1\.bias has shape \(5,\); it must have shape \(6,\)"),
        (lambda w: w.update({"layer1.weight": w["layer1.weight"].T}), r"layer1\.weight has shape \(4, 6\)"),
        (lambda w: w.update({"layer1.weight": 3.0}), r"layer1\.weight has shape \(\)"),
        (
            lambda w: w.update({"layer2.weight": w["layer2.weight"] * 1j}),
            r"layer2\.weight holds complex64; it must hold real",
        ),
        (lambda w: w.update({"layer2.weight": w["layer2.weight"].astype(str)}), r"layer2\.weight holds <U"),
    ],
)
def test_weights_of_another_shape_are_refused_and_nothing_changes(change, message):
    net = network()
    before = net.weights()
    weights = net.weights()
    change(weights)
    with pytest.raises(ArgumentError, match=message):
        net.set_weights(weights)
    assert same_weights_dict(before, net.weights())


# --- bad input: the network -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"sizes": []}, "sizes was .* at least two widths"),
        ({"sizes": [4]}, "sizes was .* at least two widths"),
        ({"sizes": 4}, "sizes was 4; it must be a sequence"),
        ({"sizes": None}, "sizes was None"),
        ({"sizes": "4,3"}, "sizes was '4'"),
        ({"sizes": [4, 0, 3]}, "sizes was 0; it must be a whole number ≥ 1"),
        ({"sizes": [4, -6, 3]}, "sizes was -6"),
        ({"sizes": [4, 2.5, 3]}, "sizes was 2.5"),
        ({"sizes": [4, True]}, "sizes was True"),
        ({"sizes": [10**6, 10**6, 3]}, "sizes would take .* GiB of weights"),
        ({"sizes": [10**18, 3]}, "sizes would take .* GiB of weights"),
        ({"bias": "no"}, "bias was 'no'; it must be True or False"),
        ({"hidden_activation": "rleu"}, "hidden_activation was 'rleu'.*did you mean 'relu'"),
        ({"sizes": [4, 3], "hidden_activation": "rleu"}, "hidden_activation was 'rleu'"),
        (
            {"hidden_activation": ["relu", "tanh"]},
            "hidden_activation names 2; it must name one, or 1: one a hidden layer",
        ),
        ({"hidden_activation": []}, "hidden_activation names 0"),
        ({"hidden_activation": None}, "hidden_activation was None"),
        ({"hidden_activation": 3}, "hidden_activation was 3"),
        ({"hidden_activation": "softmax"}, "hidden_activation was 'softmax'; .* softmax is for the output"),
        ({"hidden_activation": {"name": "leaky_relu", "slope": 0}}, "slope was 0"),
        ({"hidden_activation": {"name": "leaky_relu", "slop": 1}}, "did you mean 'slope'"),
        ({"output_activation": "sigmiod"}, "output_activation was 'sigmiod'.*did you mean 'sigmoid'"),
        ({"output_activation": "sigmoid"}, "output_activation was 'sigmoid'.*'softmax' with loss"),
        ({"output_activation": "softmax", "loss": "binary_cross_entropy"}, "'sigmoid' with loss 'binary"),
        ({"loss": "mse"}, "loss was 'mse'"),
        ({"loss": "mean_square_error"}, "did you mean 'mean_squared_error'"),
        ({"loss": {"name": "huber", "delta": 2}}, "a field of loss 'huber' was 'delta'"),
        ({"loss": {"name": "huber", "reduction": "average"}}, "reduction was 'average'"),
        ({"initializer": "glorot"}, "initializer was 'glorot'.*did you mean 'glorot"),
        ({"dtype": "float16"}, "dtype was 'float16'"),
        ({"dtype": "flaot64"}, "did you mean 'float64'"),
        ({"dtype": None}, "dtype was None"),
        ({"seed": -1}, "seed was -1"),
        ({"seed": 1.5}, "seed was 1.5"),
        ({"seed": None}, "seed was None"),
        ({"backend": "nunpy"}, "backend was 'nunpy'.*did you mean 'numpy'"),
        ({"backend": None}, "backend was None"),
        ({"device": "gpu"}, "device was 'gpu'"),
        ({"backend": NumpyBackend(), "device": "gpu"}, "device was 'gpu'"),
    ],
)
def test_a_wrong_choice_is_an_error_that_names_it(chosen, message):
    with pytest.raises(ArgumentError, match=message):
        Network(**{"sizes": [4, 6, 3], "backend": "numpy", **chosen})


# --- bad input: the data ----------------------------------------------------------------------------------------------
METHODS = {
    "step": lambda net, x, y: Trainer(net).step(x, y),
    "feed": lambda net, x, y: Trainer(net).feed(x, y),
    "gradients": lambda net, x, y: net.gradients(x, y),
    "evaluate": lambda net, x, y: net.evaluate(x, y),
    "score": lambda net, x, y: net.score(x, y),
    "predict": lambda net, x, y: net.predict(x),
    "predict_proba": lambda net, x, y: net.predict_proba(x),
}
WITH_TARGETS = [name for name in METHODS if not name.startswith("predict")]


LOOKS_AT_VALUES = [name for name in METHODS if name != "step"]


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_x_is_an_error_that_names_it(method):
    """test_checks.py tries every kind of wrong x and y."""
    with pytest.raises(ArgumentError, match=r"x has shape \(7, 5\); it must have shape \(B, 4\)"):
        METHODS[method](network(), np.ones((7, 5)), LABELS)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (LABELS[:6], "y has 6 rows; it must have as many as x, 7"),
        (np.eye(3)[LABELS][:6], "y has 6 rows"),
        (np.where(LABELS == 1, 3, LABELS), "y holds labels from . to 3; it must hold labels from 0 to 2"),
    ],
)
@pytest.mark.parametrize("method", WITH_TARGETS)
def test_wrong_labels_are_an_error_that_names_them_and_nothing_changes(method, y, message):
    net = network()
    before = net.weights()
    with pytest.raises(ArgumentError, match=message):
        METHODS[method](net, X, y)
    assert same_weights_dict(before, net.weights())


@pytest.mark.parametrize("method", LOOKS_AT_VALUES)
def test_nan_in_x_is_refused(method):
    x = X.copy()
    x[3, 2] = np.nan
    with pytest.raises(ArgumentError, match="x holds NaN or infinity"):
        METHODS[method](network(), x, LABELS)


@pytest.mark.parametrize("method", [name for name in WITH_TARGETS if name != "step"])
def test_targets_that_the_loss_cannot_take_are_refused(method):
    y = np.eye(3)[LABELS]
    y[2, (LABELS[2] + 1) % 3] = 1.5
    with pytest.raises(ArgumentError, match=r"y holds values from .* to 1\.5; it must be from 0 to 1"):
        METHODS[method](network(loss="binary_cross_entropy"), X, y)


def test_one_dimension_of_targets_for_several_outputs_is_refused():
    with pytest.raises(ArgumentError, match=r"y has shape \(7,\); it must have shape \(B, 3\)"):
        Trainer(regression()).step(X, VALUES[:, 0])
