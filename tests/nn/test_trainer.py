"""The trainer: steps, their losses, a feed of rows on the device, and what it says to bad input."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from networks import LABELS, VALUES, X, network, regression

from gpubp import Network, Trainer
from gpubp.errors import ArgumentError
from gpubp.kernels.control import Control
from gpubp.nn.optimizers import OPTIMIZERS, SGD, Adam

WEIGHTS = np.array([1.0, 2, 0, 3, 1, 0, 2])


def test_a_trainer_takes_a_network():
    with pytest.raises(ArgumentError, match=r"network is a list; it must be a Network"):
        Trainer([4, 3])


def same_weights(first, second):
    return all(np.array_equal(value, second.network.weights()[name]) for name, value in first.network.weights().items())


# --- training ---------------------------------------------------------------------------------------------------------
def test_training_learns_xor():
    net = network([2, 8, 1], hidden_activation="tanh", loss="binary_cross_entropy", seed=1)
    trainer = Trainer(net, Adam(learning_rate=0.05))
    x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    for _ in range(200):
        trainer.step(x, y)
    assert trainer.steps == 200
    assert net.predict(x).tolist() == [0, 1, 1, 0]
    assert net.score(x, y) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_networks_of_one_seed_train_alike_bit_for_bit(optimizer):
    trainers = [Trainer(network(seed=9), optimizer) for _ in range(2)]
    for trainer in trainers:
        for _ in range(3):
            trainer.step(X, LABELS)
    assert same_weights(*trainers)


def test_a_step_makes_the_loss_of_the_batch_before_it():
    net = network()
    loss = net.evaluate(X, LABELS).loss
    trainer = Trainer(net)
    trainer.step(X, LABELS)
    assert trainer.last_loss() == pytest.approx(loss, rel=1e-6)
    assert net.evaluate(X, LABELS).loss < loss


def test_the_total_loss_sums_the_examples_and_starts_again():
    trainer = Trainer(network())
    total = 0.0
    for rows in (7, 3, 1):
        trainer.step(X[:rows], LABELS[:rows])
        total += rows * trainer.last_loss()
    assert trainer.total_loss() == pytest.approx(total, rel=1e-12)
    assert trainer.take_total_loss() == pytest.approx(total, rel=1e-12)
    assert trainer.take_total_loss() == 0


def test_gradients_and_evaluations_between_steps_change_nothing():
    plain, watched = (Trainer(network(), "momentum") for _ in range(2))
    for _ in range(3):
        plain.step(X, LABELS)
        watched.step(X, LABELS)
        watched.network.gradients(X[:2], LABELS[:2])
        watched.network.evaluate(X, LABELS)
        watched.network.predict(X[:5])
        watched.network.hidden_activations(X)
    assert same_weights(plain, watched)
    assert watched.last_loss() == plain.last_loss()
    assert watched.take_total_loss() == plain.take_total_loss()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_smaller_batch_uses_nothing_of_a_larger_one_before(optimizer):
    # the arrays are those of the largest batch; what it left in them must not count
    fresh, used = regression(), regression()
    used.gradients(1e3 * np.vstack([X, X]), 1e3 * np.vstack([VALUES, VALUES]))
    for rows in (7, 3, 1, 2):
        trainers = [Trainer(net, optimizer) for net in (fresh, used)]
        for trainer in trainers:
            trainer.step(X[:rows], VALUES[:rows])
        assert trainers[0].last_loss() == trainers[1].last_loss()
    assert same_weights(*trainers)


def test_an_array_in_any_layout_or_kind_of_number_is_the_same_batch():
    expected = Trainer(regression())
    expected.step(X, VALUES)
    wide = np.repeat(X, 2, axis=1)
    for x, y in (
        (X.tolist(), VALUES.tolist()),
        (np.asfortranarray(X), np.asfortranarray(VALUES)),
        (wide[:, ::2], VALUES[::-1][::-1]),
    ):
        trainer = Trainer(regression())
        trainer.step(x, y)
        assert same_weights(trainer, expected)
    whole_numbers, floats = Trainer(regression()), Trainer(regression())
    whole_numbers.step(np.arange(8, dtype=np.uint8).reshape(2, 4), np.eye(3, dtype=bool)[:2])
    floats.step(np.arange(8.0).reshape(2, 4), np.eye(3)[:2])
    assert same_weights(whole_numbers, floats)


def test_the_callers_arrays_are_left_alone():
    x, y = X.copy(), VALUES.copy()
    trainer = Trainer(regression())
    trainer.step(x, y)
    feed = trainer.feed(x, y)
    trainer.step_rows(feed, 0, 7)
    trainer.network.gradients(x, y)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, VALUES)


def test_one_column_of_targets_may_be_flat():
    flat, column = (Trainer(network([4, 1], loss="half_squared_error")) for _ in range(2))
    flat.step(X, VALUES[:, 0])
    column.step(X, VALUES[:, :1])
    assert same_weights(flat, column)


def test_labels_and_one_hot_rows_train_alike():
    by_label, by_row = network(dtype="float64"), network(dtype="float64")
    for labels in (LABELS, LABELS.astype(np.uint8), LABELS.tolist()):
        Trainer(by_label).step(X, labels)
        Trainer(by_row).step(X, np.eye(3)[LABELS])
    for name, value in by_label.weights().items():
        np.testing.assert_allclose(value, by_row.weights()[name], rtol=1e-13)
    assert by_label.score(X, LABELS) == by_row.score(X, np.eye(3)[LABELS])


# --- a feed -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_rows_of_a_feed_are_the_gathered_batch_with_a_ragged_end(loss, optimizer):
    y = LABELS if loss == "softmax_cross_entropy" else VALUES
    fed, stepped = (Trainer(network(loss=loss), optimizer) for _ in range(2))
    feed = fed.feed(X, y)
    assert feed.rows == 7
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(7)
        feed.visit(order)
        for start in range(0, 7, 3):
            rows = min(3, 7 - start)  # 3, 3, 1
            fed.step_rows(feed, start, rows)
            chosen = order[start : start + rows]
            stepped.step(X[chosen], y[chosen])
            assert fed.last_loss() == stepped.last_loss()
    assert same_weights(fed, stepped)
    assert fed.steps == 9


def test_a_feed_starts_in_the_order_of_the_data():
    fed, stepped = Trainer(network()), Trainer(network())
    fed.step_rows(fed.feed(X, LABELS), 2, 4)
    stepped.step(X[2:6], LABELS[2:6])
    assert same_weights(fed, stepped)


def test_a_batch_of_all_the_data_is_one_step():
    trainer = Trainer(network())
    trainer.step_rows(trainer.feed(X, LABELS), 0, 7)
    assert trainer.steps == 1


def test_a_feed_serves_every_trainer_of_its_network():
    net = network()
    feed = Trainer(net).feed(X, LABELS)
    second = Trainer(net, "adam")
    second.step_rows(feed, 0, 7)
    assert second.steps == 1


def test_a_feed_gathers_the_weights_of_its_rows():
    fed, stepped = (Trainer(network(dtype="float64"), "adam") for _ in range(2))
    feed = fed.feed(X, LABELS, WEIGHTS)
    for epoch in range(2):
        order = np.random.default_rng(epoch).permutation(7)
        feed.visit(order)
        for start in (0, 3, 6):
            chosen = order[start : start + 3]
            fed.step_rows(feed, start, len(chosen))
            stepped.step(X[chosen], LABELS[chosen], WEIGHTS[chosen])
            assert fed.last_loss() == stepped.last_loss()
    assert same_weights(fed, stepped)


# --- weights ----------------------------------------------------------------------------------------------------------
def test_a_step_with_weights_is_the_step_on_repeated_rows():
    weighted, repeated = (Trainer(network(dtype="float64"), "momentum") for _ in range(2))
    for _ in range(4):
        weighted.step(X, LABELS, WEIGHTS)
        repeated.step(np.repeat(X, WEIGHTS.astype(int), axis=0), np.repeat(LABELS, WEIGHTS.astype(int)))
    for name, value in repeated.network.weights().items():
        np.testing.assert_allclose(weighted.network.weights()[name], value, rtol=1e-12, atol=1e-14, err_msg=name)
    assert weighted.total_loss() == pytest.approx(repeated.total_loss(), rel=1e-12)
    evaluated = weighted.network.evaluate(X, LABELS, WEIGHTS)
    expected = weighted.network.evaluate(
        np.repeat(X, WEIGHTS.astype(int), axis=0), np.repeat(LABELS, WEIGHTS.astype(int))
    )
    assert (evaluated.loss, evaluated.accuracy) == pytest.approx((expected.loss, expected.accuracy), rel=1e-12)


def test_a_batch_of_zero_weight_is_a_step_that_moves_nothing():
    trainer = Trainer(network())
    trainer.step(X, LABELS, np.zeros(7))
    assert same_weights(trainer, Trainer(network()))
    assert (trainer.last_loss(), trainer.steps) == (0, 1)


def test_scores_are_weighted():
    net = regression()
    y = net.predict(X) + np.array([0, 0, 0, 0, 0, 0, 5.0])[:, None]
    weights = np.array([1.0, 1, 1, 1, 1, 1, 0])
    assert net.score(X, y) < 1
    assert net.score(X, y, weights) == pytest.approx(1)
    classes = network()
    labels = classes.predict(X)
    labels[2] = (labels[2] + 1) % 3
    assert classes.score(X, labels, [1, 1, 2, 0, 0, 0, 0]) == 0.5


def test_one_evaluation_in_several_chunks_weighs_each_row_once():
    net = network(dtype="float64")
    rows = 5000  # more than a chunk
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(rows, 4)), rng.integers(0, 3, rows), rng.random(rows)
    each = [net.evaluate(x[i : i + 1], y[i : i + 1]).loss for i in range(rows)]
    assert net.evaluate(x, y, weights).loss == pytest.approx(np.average(each, weights=weights), rel=1e-10)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(6), r"sample_weight has shape \(6,\); it must have shape \(7,\)"),
        (np.ones((7, 1)), r"sample_weight has shape \(7, 1\)"),
        ([1, 1, 1, -0.5, 1, 1, 1], "sample_weight is -0.5 in row 3; it must be at least 0"),
        ([1, 1, 1, np.nan, 1, 1, 1], "sample_weight holds NaN or infinity"),
        ([1e39] * 7, "sample_weight holds NaN or infinity"),  # beyond float32
        (["1"] * 7, "sample_weight holds"),
    ],
)
def test_weights_that_are_none_are_refused_and_nothing_changes(weights, message):
    trainer = Trainer(network())
    for call in (
        trainer.step,
        trainer.feed,
        trainer.network.evaluate,
        lambda x, y, w: trainer.network.gradients(x, y, sample_weight=w),
    ):
        with pytest.raises(ArgumentError, match=message):
            call(X, LABELS, weights)
    assert same_weights(trainer, Trainer(network()))
    assert trainer.steps == 0


def test_there_is_no_mean_over_nothing():
    with pytest.raises(ArgumentError, match="sample_weight is 0 in every row"):
        network().evaluate(X, LABELS, np.zeros(7))


# --- in parts ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("chosen", "optimizer"),
    [
        ({}, "sgd"),
        ({"bias": False}, {"name": "adam", "clip_norm": 0.1}),
        ({"dropout": 0.4}, "momentum"),
        ({"loss": {"name": "softmax_cross_entropy", "reduction": "sum"}}, "sgd"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 3, 7, 100])
@pytest.mark.parametrize("weights", [None, [1.0, 2, 0, 0, 0, 0.5, 3]])
def test_a_batch_in_parts_is_the_whole_batch(chosen, optimizer, at_once, weights):
    whole = Trainer(network(dtype="float64", **chosen), optimizer)
    parts = Trainer(network(dtype="float64", **chosen), optimizer, at_once=at_once)
    fed = Trainer(network(dtype="float64", **chosen), optimizer, at_once=at_once)
    feed = fed.feed(X, LABELS, weights)
    for _ in range(3):
        whole.step(X, LABELS, weights)
        parts.step(X, LABELS, weights)
        fed.step_rows(feed, 0, 7)
    assert same_weights(parts, fed)
    assert parts.total_loss() == pytest.approx(whole.total_loss(), rel=1e-12)
    for name, value in whole.network.weights().items():
        np.testing.assert_allclose(parts.network.weights()[name], value, rtol=1e-11, atol=1e-13, err_msg=name)
    assert parts.steps == 3


def test_a_batch_in_parts_scales_its_loss_once():
    whole, parts = (Trainer(network(precision="fp16"), "adam", at_once=rows) for rows in (None, 2))
    for _ in range(3):
        whole.step(X, LABELS)
        parts.step(X, LABELS)
    assert parts.loss_scale == whole.loss_scale
    assert parts.state()["updates"] == 3
    for name, value in whole.network.weights().items():
        np.testing.assert_allclose(parts.network.weights()[name], value, rtol=0.02, atol=2e-3, err_msg=name)


def test_a_batch_in_parts_needs_no_more_memory_than_a_part():
    net = network()
    Trainer(net, at_once=2).step(X, LABELS)
    assert net.batches._rows == 2


def test_a_wrong_target_in_the_last_part_is_refused_before_the_first_is_learnt_from():
    trainer = Trainer(network(), at_once=2)
    with pytest.raises(ArgumentError, match="labels"):
        trainer.step(X, np.array([0, 1, 2, 0, 1, 2, 3]))
    assert same_weights(trainer, Trainer(network()))
    assert trainer.total_loss() == 0


@pytest.mark.parametrize("at_once", [0, -1, 2.5, "2"])
def test_a_part_of_no_rows_is_an_error(at_once):
    with pytest.raises(ArgumentError, match="at_once"):
        Trainer(network(), at_once=at_once)


@pytest.mark.parametrize(("start", "rows"), [(-1, 2), (0, 0), (0, 8), (5, 3), (7, 1), (0, -1)])
def test_rows_outside_the_feed_are_refused(start, rows):
    trainer = Trainer(network())
    with pytest.raises(ArgumentError, match=r"rows go from .* it must be one or more of the feed's 7"):
        trainer.step_rows(trainer.feed(X, LABELS), start, rows)


@pytest.mark.parametrize(("start", "rows"), [(0, 2.0), ("0", 1), (None, 1), (0, None)])
def test_rows_that_are_no_numbers_are_refused(start, rows):
    trainer = Trainer(network())
    with pytest.raises(ArgumentError, match=r"rows are .*; it must be whole numbers"):
        trainer.step_rows(trainer.feed(X, LABELS), start, rows)


@pytest.mark.parametrize(
    "other",
    [
        Trainer(network((4, 6, 5))).feed(X, LABELS + 2),  # labels beyond the outputs
        Trainer(network((3, 6, 3))).feed(X[:, :3], LABELS),
        Trainer(network(dtype="float64")).feed(X, LABELS),
        Trainer(regression()).feed(X, VALUES),
        (X, LABELS),
        None,
    ],
)
def test_a_feed_of_another_network_is_refused_and_nothing_changes(other):
    trainer = Trainer(network())
    for step in (trainer.step_rows, lambda feed, start, rows: trainer.capture(feed, rows)):
        with pytest.raises(ArgumentError, match=r"feed is .* one that a trainer of this network made"):
            step(other, 0, 4)
    assert same_weights(trainer, Trainer(network()))
    assert trainer.steps == 0


@pytest.mark.parametrize(
    "order",
    [[0, 1, 2], [0, 1, 2, 3, 4, 5, 7], [-1, 1, 2, 3, 4, 5, 6], [[0, 1, 2, 3, 4, 5, 6]], [0.0] * 7, ["0"] * 7, None],
)
def test_an_order_of_other_rows_is_refused(order):
    feed = Trainer(network()).feed(X, LABELS)
    with pytest.raises(ArgumentError, match=r"order is an array of .*; it must hold 7 row numbers"):
        feed.visit(np.array(order))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feed_of_numbers_that_are_none_is_refused(value):
    x, y = X.copy(), VALUES.copy()
    x[3, 2] = y[6, 0] = value
    with pytest.raises(ArgumentError, match="x holds NaN or infinity"):
        Trainer(regression()).feed(x, VALUES)
    with pytest.raises(ArgumentError, match="y holds NaN or infinity"):
        Trainer(regression()).feed(X, y)


# --- bad input --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", ["sdg", None, {"name": "sgd", "learning_rate": -1}, {"name": "adam", "lr": 1}, 3])
def test_a_wrong_optimizer_is_an_error(optimizer):
    with pytest.raises(ArgumentError):
        Trainer(network(), optimizer)


def test_the_optimizer_is_plain_sgd_if_none_is_named():
    assert Trainer(network()).optimizer == SGD()
    assert Trainer(network(), {"name": "sgd", "learning_rate": 0.3}).optimizer == SGD(learning_rate=0.3)


@pytest.mark.parametrize(("x", "y"), [(np.ones((7, 5)), LABELS), (X, LABELS[:6]), (X, LABELS + 1)])
def test_a_refused_batch_is_no_step_and_changes_nothing(x, y):
    trainer = Trainer(network(), "adam")
    before = trainer.state()
    with pytest.raises(ArgumentError):
        trainer.step(x, y)
    for name, value in trainer.state().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_nan_in_a_training_step_shows_in_the_loss_and_the_weights():
    trainer = Trainer(network())
    x = X.copy()
    x[0, 0] = np.nan
    trainer.step(x, LABELS)
    assert math.isnan(trainer.last_loss())
    assert np.isnan(trainer.network.w[2]).any()


def test_epsilon_before_the_correction_is_the_order_of_scikit_learn():
    rng = np.random.default_rng(3)
    # w ← w − η √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√s + ε), with an ε that shows
    network = Network([3, 4, 2], loss="mean_squared_error", dtype="float64", backend="numpy", seed=1)
    trainer = Trainer(network, {"name": "adam", "epsilon": 0.1, "epsilon_hat": True, "learning_rate": 0.02})
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    w, m, s = network.weights()["layer1.weight"], 0.0, 0.0
    for t in range(1, 5):
        g = network.gradients(x, y)[1].w[1]
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
        w = w - 0.02 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(s) + 0.1)
        trainer.step(x, y)
        np.testing.assert_allclose(network.weights()["layer1.weight"], w, rtol=1e-12)
        again = Trainer(network, trainer.optimizer.config())
        again.restore(trainer.state())
        trainer = again


def test_a_velocity_keeps_its_step_when_the_rate_changes():
    rng = np.random.default_rng(3)
    network = Network([3, 4, 2], loss="mean_squared_error", dtype="float64", backend="numpy", seed=1)
    trainer = Trainer(network, {"name": "momentum", "learning_rate": 0.1})
    trainer.step(rng.normal(size=(6, 3)), rng.normal(size=(6, 2)))
    before = trainer.state()["optimizer.velocity"]
    trainer.scale_state(0.1 / 0.02)
    np.testing.assert_allclose(trainer.state()["optimizer.velocity"], 5 * before)


def test_the_weights_sum_of_squares_leaves_the_biases_out():
    network = Network([3, 40, 2], dtype="float64", backend="numpy", seed=1)
    weights = network.weights()
    network.set_weights(weights | {"layer1.bias": np.full(40, 7.0)})
    control = np.zeros(len(Control))
    network.sum_squared_weights(control)
    expected = sum(np.sum(w**2) for name, w in weights.items() if name.endswith("weight"))
    assert control[Control.SQUARED_NORM] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "make_another", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize(("backend", "precision"), [("numpy", None), ("numpy", "fp16"), ("cpu", None), ("cpu", "bf16")])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_copy_goes_on_as_the_original_and_apart_from_it(make_another, backend, precision, optimizer):
    x, y = np.eye(3), np.array([0, 1, 0])
    trainer = Trainer(Network((3, 4, 2), backend=backend, precision=precision), optimizer, at_once=2)
    trainer.step(x, y)
    before = trainer.state()
    another = make_another(trainer)
    assert (another.optimizer, another.at_once) == (trainer.optimizer, 2)
    another.step(x, y)
    for name, values in trainer.state().items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)
    trainer.step(x, y)
    for name, values in trainer.state().items():
        np.testing.assert_array_equal(another.state()[name], values, err_msg=name)
    np.testing.assert_array_equal(another.network.predict_proba(x), trainer.network.predict_proba(x))
