"""The network: making one, training steps, predictions, evaluation, and what it says to bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpubp import Network
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.errors import ArgumentError
from gpubp.nn import activations
from gpubp.nn.activations import LeakyReLU, Tanh
from gpubp.nn.initializers import HeUniform
from gpubp.nn.losses import Huber
from gpubp.nn.network import CHUNK
from gpubp.nn.optimizers import OPTIMIZERS, SGD, Adam

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 4))
LABELS = RNG.integers(0, 3, 7)
VALUES = RNG.normal(size=(7, 3))


def network(sizes=(4, 6, 3), **chosen):
    return Network(sizes, backend="numpy", **chosen)


def regression(**chosen):
    return network(loss="half_squared_error", dtype="float64", **chosen)


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
    net.train_step(X, LABELS)
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
    net.train_step(X, LABELS)
    assert math.isfinite(net.last_loss())


# --- training ---------------------------------------------------------------------------------------------------------
def test_training_learns_xor():
    net = network([2, 8, 1], hidden_activation="tanh", loss="binary_cross_entropy", seed=1)
    net.optimizer = Adam(learning_rate=0.05)
    x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    for _ in range(200):
        net.train_step(x, y)
    assert net.steps == 200
    assert net.predict(x).tolist() == [0, 1, 1, 0]
    assert net.score(x, y) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_networks_of_one_seed_train_alike_bit_for_bit(optimizer):
    nets = [network(seed=9) for _ in range(2)]
    for net in nets:
        net.optimizer = optimizer
        for _ in range(3):
            net.train_step(X, LABELS)
    assert same_weights(*nets)


def test_a_step_makes_the_loss_of_the_batch_before_it():
    net = network()
    loss = net.evaluate(X, LABELS).loss
    net.train_step(X, LABELS)
    assert net.last_loss() == pytest.approx(loss, rel=1e-6)
    assert net.evaluate(X, LABELS).loss < loss


def test_the_total_loss_sums_the_examples_and_starts_again():
    net = network()
    total = 0.0
    for rows in (7, 3, 1):
        net.train_step(X[:rows], LABELS[:rows])
        total += rows * net.last_loss()
    assert net.take_total_loss() == pytest.approx(total, rel=1e-12)
    assert net.take_total_loss() == 0


def test_gradients_and_evaluations_between_steps_change_nothing():
    plain, watched = network(), network()
    for net in (plain, watched):
        net.optimizer = "momentum"
    for _ in range(3):
        plain.train_step(X, LABELS)
        watched.train_step(X, LABELS)
        watched.gradients(X[:2], LABELS[:2])
        watched.evaluate(X, LABELS)
        watched.predict(X[:5])
        watched.hidden_activations(X)
    assert same_weights(plain, watched)
    assert watched.last_loss() == plain.last_loss()
    assert watched.take_total_loss() == plain.take_total_loss()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_smaller_batch_uses_nothing_of_a_larger_one_before(optimizer):
    # the arrays are those of the largest batch; what it left in them must not count
    fresh, used = regression(), regression()
    used.gradients(1e3 * np.vstack([X, X]), 1e3 * np.vstack([VALUES, VALUES]))
    for rows in (7, 3, 1, 2):
        for net in (fresh, used):
            net.optimizer = optimizer
            net.train_step(X[:rows], VALUES[:rows])
        assert used.last_loss() == fresh.last_loss()
    assert same_weights(fresh, used)


def test_an_array_in_any_layout_or_kind_of_number_is_the_same_batch():
    expected = regression()
    expected.train_step(X, VALUES)
    wide = np.repeat(X, 2, axis=1)
    for x, y in (
        (X.tolist(), VALUES.tolist()),
        (np.asfortranarray(X), np.asfortranarray(VALUES)),
        (wide[:, ::2], VALUES[::-1][::-1]),
    ):
        net = regression()
        net.train_step(x, y)
        assert same_weights(net, expected)
    whole_numbers, floats = regression(), regression()
    whole_numbers.train_step(np.arange(8, dtype=np.uint8).reshape(2, 4), np.eye(3, dtype=bool)[:2])
    floats.train_step(np.arange(8.0).reshape(2, 4), np.eye(3)[:2])
    assert same_weights(whole_numbers, floats)


def test_the_callers_arrays_are_left_alone():
    x, y = X.copy(), VALUES.copy()
    net = regression()
    net.train_step(x, y)
    feed = net.feed(x, y)
    net.train_rows(feed, 0, 7)
    net.gradients(x, y)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, VALUES)


def test_one_column_of_targets_may_be_flat():
    flat, column = (network([4, 1], loss="half_squared_error") for _ in range(2))
    flat.train_step(X, VALUES[:, 0])
    column.train_step(X, VALUES[:, :1])
    assert same_weights(flat, column)


def test_labels_and_one_hot_rows_train_alike():
    by_label, by_row = network(dtype="float64"), network(dtype="float64")
    for labels in (LABELS, LABELS.astype(np.uint8), LABELS.tolist()):
        by_label.train_step(X, labels)
        by_row.train_step(X, np.eye(3)[LABELS])
    for name, value in by_label.weights().items():
        np.testing.assert_allclose(value, by_row.weights()[name], rtol=1e-13)
    assert by_label.score(X, LABELS) == by_row.score(X, np.eye(3)[LABELS])


# --- a feed -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_rows_of_a_feed_are_the_gathered_batch_with_a_ragged_end(loss, optimizer):
    y = LABELS if loss == "softmax_cross_entropy" else VALUES
    fed, stepped = network(loss=loss), network(loss=loss)
    feed = fed.feed(X, y)
    assert feed.rows == 7
    for net in (fed, stepped):
        net.optimizer = optimizer
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(7)
        feed.visit(order)
        for start in range(0, 7, 3):
            rows = min(3, 7 - start)  # 3, 3, 1
            fed.train_rows(feed, start, rows)
            chosen = order[start : start + rows]
            stepped.train_step(X[chosen], y[chosen])
            assert fed.last_loss() == stepped.last_loss()
    assert same_weights(fed, stepped)
    assert fed.steps == 9


def test_a_feed_starts_in_the_order_of_the_data():
    fed, stepped = network(), network()
    fed.train_rows(fed.feed(X, LABELS), 2, 4)
    stepped.train_step(X[2:6], LABELS[2:6])
    assert same_weights(fed, stepped)


def test_a_batch_of_all_the_data_is_one_step():
    net = network()
    net.train_rows(net.feed(X, LABELS), 0, 7)
    assert net.steps == 1


@pytest.mark.parametrize(("start", "rows"), [(-1, 2), (0, 0), (0, 8), (5, 3), (7, 1), (0, -1)])
def test_rows_outside_the_feed_are_refused(start, rows):
    net = network()
    with pytest.raises(ArgumentError, match="rows was"):
        net.train_rows(net.feed(X, LABELS), start, rows)


@pytest.mark.parametrize(("start", "rows"), [(0, 2.0), ("0", 1), (None, 1), (0, None)])
def test_rows_that_are_no_numbers_are_refused(start, rows):
    net = network()
    with pytest.raises(ArgumentError, match=r"rows was .* whole numbers"):
        net.train_rows(net.feed(X, LABELS), start, rows)


@pytest.mark.parametrize(
    "other",
    [
        network((4, 6, 5)).feed(X, LABELS + 2),  # labels beyond the outputs
        network((3, 6, 3)).feed(X[:, :3], LABELS),
        network(dtype="float64").feed(X, LABELS),
        regression().feed(X, VALUES),
        (X, LABELS),
        None,
    ],
)
def test_a_feed_of_another_network_is_refused_and_nothing_changes(other):
    net = network()
    for step in (net.train_rows, lambda feed, start, rows: net.capture(feed, rows)):
        with pytest.raises(ArgumentError, match=r"feed was .* one that this network's"):
            step(other, 0, 4)
    assert same_weights(net, network())
    assert net.steps == 0


@pytest.mark.parametrize(
    "order",
    [[0, 1, 2], [0, 1, 2, 3, 4, 5, 7], [-1, 1, 2, 3, 4, 5, 6], [[0, 1, 2, 3, 4, 5, 6]], [0.0] * 7, ["0"] * 7, None],
)
def test_an_order_of_other_rows_is_refused(order):
    feed = network().feed(X, LABELS)
    with pytest.raises(ArgumentError, match="order was"):
        feed.visit(np.array(order))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feed_of_numbers_that_are_none_is_refused(value):
    x, y = X.copy(), VALUES.copy()
    x[3, 2] = y[6, 0] = value
    with pytest.raises(ArgumentError, match="x was 'an array with NaN or infinity"):
        regression().feed(x, VALUES)
    with pytest.raises(ArgumentError, match="y was 'an array with NaN or infinity"):
        regression().feed(X, y)


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
    rows = 2 * CHUNK + 5
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
    ("change", "name"),
    [
        (lambda w: w.pop("layer2.weight"), "layer2.weight"),
        (lambda w: w.update({"layer1.bias": np.zeros(5)}), "layer1.bias"),
        (lambda w: w.update({"layer1.weight": w["layer1.weight"].T}), "layer1.weight"),
        (lambda w: w.update({"layer1.weight": 3.0}), "layer1.weight"),
        (lambda w: w.update({"layer2.weight": w["layer2.weight"] * 1j}), "layer2.weight"),
        (lambda w: w.update({"layer2.weight": w["layer2.weight"].astype(str)}), "layer2.weight"),
    ],
)
def test_weights_of_another_shape_are_refused_and_nothing_changes(change, name):
    net = network()
    before = net.weights()
    weights = net.weights()
    change(weights)
    with pytest.raises(ArgumentError, match=f"{name} was"):
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
        ({"sizes": [10**6, 10**6, 3]}, "sizes was .*the weights would take .* GiB"),
        ({"sizes": [10**20, 3]}, "sizes was .*the weights would take .* GiB"),
        ({"bias": "no"}, "bias was 'no'; it must be True or False"),
        ({"hidden_activation": "rleu"}, "hidden_activation was 'rleu'.*did you mean 'relu'"),
        ({"sizes": [4, 3], "hidden_activation": "rleu"}, "hidden_activation was 'rleu'"),
        ({"hidden_activation": ["relu", "tanh"]}, "hidden_activation was .* one activation, or 1: one a hidden layer"),
        ({"hidden_activation": []}, "hidden_activation was"),
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


@pytest.mark.parametrize("optimizer", ["sdg", None, {"name": "sgd", "learning_rate": -1}, {"name": "adam", "lr": 1}, 3])
def test_a_wrong_optimizer_is_an_error_and_the_old_one_stays(optimizer):
    net = network()
    net.optimizer = SGD(learning_rate=0.3)
    with pytest.raises(ArgumentError):
        net.optimizer = optimizer
    assert net.optimizer == SGD(learning_rate=0.3)
    net.train_step(X, LABELS)


# --- bad input: the data ----------------------------------------------------------------------------------------------
METHODS = {
    "train_step": lambda net, x, y: net.train_step(x, y),
    "feed": lambda net, x, y: net.feed(x, y),
    "gradients": lambda net, x, y: net.gradients(x, y),
    "evaluate": lambda net, x, y: net.evaluate(x, y),
    "score": lambda net, x, y: net.score(x, y),
    "predict": lambda net, x, y: net.predict(x),
    "predict_proba": lambda net, x, y: net.predict_proba(x),
}
WITH_TARGETS = [name for name in METHODS if not name.startswith("predict")]


LOOKS_AT_VALUES = [name for name in METHODS if name != "train_step"]


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_x_is_an_error_that_names_it(method):
    """test_inputs.py tries every kind of wrong x and y."""
    with pytest.raises(ArgumentError, match=r"x was 'an array of shape \(7, 5\)'; it must be of shape \(B, 4\)"):
        METHODS[method](network(), np.ones((7, 5)), LABELS)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (LABELS[:6], "y was 'an array of 6 rows'; it must be of as many rows as x, 7"),
        (np.eye(3)[LABELS][:6], "y was 'an array of 6 rows'"),
        (np.where(LABELS == 1, 3, LABELS), "y was 'labels from . to 3'; it must be labels from 0 to 2"),
    ],
)
@pytest.mark.parametrize("method", WITH_TARGETS)
def test_wrong_labels_are_an_error_that_names_them_and_nothing_changes(method, y, message):
    net = network()
    before = net.weights()
    with pytest.raises(ArgumentError, match=message):
        METHODS[method](net, X, y)
    assert same_weights_dict(before, net.weights())
    assert net.steps == 0


@pytest.mark.parametrize("method", LOOKS_AT_VALUES)
def test_nan_in_x_is_refused(method):
    x = X.copy()
    x[3, 2] = np.nan
    with pytest.raises(ArgumentError, match="x was 'an array with NaN or infinity in it'"):
        METHODS[method](network(), x, LABELS)


@pytest.mark.parametrize("method", [name for name in WITH_TARGETS if name != "train_step"])
def test_targets_that_the_loss_cannot_take_are_refused(method):
    y = np.eye(3)[LABELS]
    y[2, (LABELS[2] + 1) % 3] = 1.5
    with pytest.raises(ArgumentError, match=r"y was 'values from .* to 1\.5'; it must be from 0 to 1"):
        METHODS[method](network(loss="binary_cross_entropy"), X, y)


def test_one_dimension_of_targets_for_several_outputs_is_refused():
    with pytest.raises(ArgumentError, match=r"y was 'an array of shape \(7,\)'; it must be of shape \(B, 3\)"):
        regression().train_step(X, VALUES[:, 0])


def test_nan_in_a_training_step_shows_in_the_loss_and_the_weights():
    net = network()
    x = X.copy()
    x[0, 0] = np.nan
    net.train_step(x, LABELS)
    assert math.isnan(net.last_loss())
    assert np.isnan(net.w[2]).any()
