"""The trainer: steps, their losses, a feed of rows on the device, and what it says to bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from networks import LABELS, VALUES, X, network, regression

from gpubp import Trainer
from gpubp.errors import ArgumentError
from gpubp.nn.optimizers import OPTIMIZERS, SGD, Adam


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
