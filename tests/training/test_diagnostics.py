"""The gradient check: that it passes what is right, finds what is wrong and where, and is fair at kinks; the watch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpubp import Network, Trainer
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.errors import ArgumentError
from gpubp.nn.activations import ACTIVATIONS, ReLU, Sigmoid
from gpubp.nn.losses import LOSSES, SoftmaxCrossEntropy
from gpubp.training.diagnostics import Watch, gradient_check


def problem(net, rows=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, net.sizes[0]))
    if net.loss.takes_labels:
        return x, rng.integers(0, net.sizes[-1], rows)
    return x, rng.random((rows, net.sizes[-1]))


def network(sizes=(4, 5, 3, 2), **chosen):
    return Network(sizes, backend="numpy", **{"hidden_activation": "tanh", **chosen})


# --- what is right passes ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("hidden", [name for name in ACTIVATIONS if name != "softmax"])
def test_right_gradients_pass(hidden, loss):
    for bias in (True, False):
        net = network(hidden_activation=hidden, loss=loss, bias=bias, seed=1)
        found = gradient_check(net, *problem(net))
        assert found.passed, found
        assert found.error <= found.tolerance == 1e-6
        names = [(array.layer, array.kind) for array in found.arrays]
        kinds = ("weights", "bias") if bias else ("weights",)
        assert names == [(layer, kind) for layer in (1, 2, 3) for kind in kinds]


def test_small_arrays_are_checked_whole_and_large_ones_along_directions():
    net = network([40, 30, 3])
    found = gradient_check(net, *problem(net), every=100, directions=7)
    assert found.passed
    assert [(array.size, array.method, array.checked) for array in found.arrays] == [
        (1200, "random directions", 7),
        (30, "every parameter", 30),
        (90, "every parameter", 90),
        (3, "every parameter", 3),
    ]
    assert found.arrays[0].worst.where is None
    assert len(found.arrays[2].worst.where) == 2


def test_the_network_is_not_changed():
    net = network(dtype="float32", hidden_activation="relu")
    trainer = Trainer(net, "adam")
    trainer.step(*problem(net))
    before, loss = trainer.state(), trainer.last_loss()
    gradient_check(net, *problem(net, seed=1))
    after = trainer.state()
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    assert (trainer.last_loss(), net.dtype) == (loss, "float32")


def test_the_same_seed_gives_the_same_directions():
    net = network([20, 20, 3])
    batch = problem(net)
    first, again = (gradient_check(net, *batch, seed=3, every=0) for _ in range(2))
    other = gradient_check(net, *batch, seed=4, every=0)
    assert first == again
    assert first.arrays[0].worst != other.arrays[0].worst


def test_the_loss_is_that_of_the_batch():
    net = network(dtype="float64")
    x, y = problem(net)
    assert gradient_check(net, x, y).loss == net.gradients(x, y)[0]


def test_any_number_of_rows_and_the_sum_over_them():
    for rows in (1, 17):
        net = network(loss={"name": "squared_error", "reduction": "sum"})
        assert gradient_check(net, *problem(net, rows)).passed


@pytest.mark.parametrize("hidden", [name for name in ACTIVATIONS if name != "softmax"])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "quantile", "binary_focal_cross_entropy"])
def test_right_gradients_with_weights_and_dropout_pass(hidden, loss):
    net = network((4, 7, 6, 2), hidden_activation=hidden, loss=loss, dropout=[0.5, 0.25], seed=1)
    x, y = problem(net, 7)
    weights = [1, 0, 2, 0.5, 3, 1e-3, 1]
    found = gradient_check(net, x, y, sample_weight=weights, dropout_step=2)
    assert found.passed, found
    assert found.loss == pytest.approx(net.gradients(x, y, sample_weight=weights, dropout_step=2)[0], rel=1e-5)
    assert found.loss != gradient_check(net, x, y, sample_weight=weights, dropout_step=3).loss


def test_a_row_of_weight_2_is_the_row_twice_in_the_check():
    net = network()
    x, y = problem(net)
    weighted = gradient_check(net, x, y, sample_weight=[2, 1, 0, 1, 3])
    repeated = gradient_check(net, np.repeat(x, [2, 1, 0, 1, 3], axis=0), np.repeat(y, [2, 1, 0, 1, 3]))
    assert weighted.passed
    assert repeated.passed
    assert weighted.loss == pytest.approx(repeated.loss, rel=1e-12)


# --- what is wrong fails ----------------------------------------------------------------------------------------------
def failing(found):
    return [(array.layer, array.kind) for array in found.arrays if not array.passed]


ALL_BELOW_THE_OUTPUT = [(1, "weights"), (1, "bias"), (2, "weights"), (2, "bias")]
ALL = [*ALL_BELOW_THE_OUTPUT, (3, "weights"), (3, "bias")]


@pytest.mark.parametrize("every", [1000, 0])
def test_a_transposed_product_without_the_derivative_is_found(monkeypatch, every):
    monkeypatch.setattr(
        NumpyBackend,
        "hidden_delta",
        lambda self, delta_next, w_next, activation, saved, delta, *_: np.matmul(delta_next, w_next, out=delta),
    )
    net = network()
    assert failing(gradient_check(net, *problem(net), every=every)) == ALL_BELOW_THE_OUTPUT


@pytest.mark.parametrize("every", [1000, 0])
def test_sigma_in_place_of_its_derivative_is_found(monkeypatch, every):
    monkeypatch.setattr(Sigmoid, "derivative", lambda self, saved, out: np.copyto(out, saved))
    monkeypatch.setattr(
        Sigmoid,
        "multiply_derivative",
        lambda self, saved, product, out, work: np.multiply(product, saved, out=out),
    )
    net = network(hidden_activation=["tanh", "sigmoid"])
    assert failing(gradient_check(net, *problem(net), every=every)) == ALL_BELOW_THE_OUTPUT


def test_a_missing_division_by_the_batch_is_found(monkeypatch):
    divisor = SoftmaxCrossEntropy.divisor
    right = NumpyBackend.output_delta

    def wrong(self, loss, activation, output, *others):
        right(self, loss, activation, output, *others)
        delta = others[-2]
        delta *= divisor(loss, len(output))

    monkeypatch.setattr(NumpyBackend, "output_delta", wrong)
    net = network()
    assert failing(gradient_check(net, *problem(net))) == ALL


@pytest.mark.parametrize("every", [1000, 0])
def test_a_delta_without_its_mask_is_found(monkeypatch, every):
    right = NumpyBackend.hidden_delta

    def wrong(self, delta_next, w_next, activation, saved, delta, tf32, dropout, control):
        right(self, delta_next, w_next, activation, saved, delta, tf32)
        delta *= 1 if dropout is None else dropout.factor

    monkeypatch.setattr(NumpyBackend, "hidden_delta", wrong)
    net = network((4, 9, 8, 2), dropout=0.5)
    assert failing(gradient_check(net, *problem(net), every=every)) == ALL_BELOW_THE_OUTPUT


def test_a_row_that_is_not_weighted_is_found(monkeypatch):
    right = NumpyBackend.output_delta

    def wrong(self, loss, activation, output, saved, y, weights, *others):
        right(self, loss, activation, output, saved, y, weights, *others)
        others[-2][0] /= weights[0]

    monkeypatch.setattr(NumpyBackend, "output_delta", wrong)
    net = network()
    found = gradient_check(net, *problem(net), sample_weight=[2, 1, 1, 1, 1])
    assert failing(found) == ALL


@pytest.mark.parametrize("every", [1000, 0])
def test_one_wrong_weight_is_found_and_named(monkeypatch, every):
    right = NumpyBackend.weight_gradient

    def wrong(self, delta, a_prev, gradient, *others):
        right(self, delta, a_prev, gradient, *others)
        if gradient.shape == (3, 5):
            gradient[2, 4] *= 1.001

    monkeypatch.setattr(NumpyBackend, "weight_gradient", wrong)
    net = network()
    found = gradient_check(net, *problem(net), every=every)
    assert failing(found) == [(2, "weights")]
    if every:
        worst = found.arrays[2].worst
        assert worst.where == (2, 4)
        assert worst.error == pytest.approx(1e-3, rel=0.1)
        assert worst.backpropagation == pytest.approx(1.001 * worst.finite_difference, rel=1e-5)


def test_a_bias_gradient_without_the_last_example_is_found(monkeypatch):
    monkeypatch.setattr(
        NumpyBackend, "bias_gradient", lambda self, delta, gradient, _: np.sum(delta[:-1], axis=0, out=gradient)
    )
    net = network()
    assert failing(gradient_check(net, *problem(net))) == [(1, "bias"), (2, "bias"), (3, "bias")]


def test_gradients_of_0_are_found(monkeypatch):
    right = NumpyBackend.weight_gradient

    def without_weights(self, delta, a_prev, gradient, *others):
        right(self, delta, a_prev, gradient, *others)
        gradient.fill(0)

    monkeypatch.setattr(NumpyBackend, "weight_gradient", without_weights)
    net = network()
    found = gradient_check(net, *problem(net))
    assert failing(found) == [(1, "weights"), (2, "weights"), (3, "weights")]
    assert found.error == pytest.approx(1, rel=0.01)


def test_nan_fails():
    net = network()
    net.w[2][0, 0] = np.nan
    found = gradient_check(net, *problem(net))
    assert not found.passed
    assert found.error == math.inf


# --- kinks ------------------------------------------------------------------------------------------------------------
def test_a_unit_at_its_kink_is_left_out_and_counted():
    net = network([1, 2, 1], hidden_activation="relu", loss="half_squared_error", dtype="float64")
    net.set_weights(
        {
            "layer1.weight": [[1.0], [2.0]],
            "layer1.bias": [-1.0, 1.0],  # z1 = 0 and 3 for x = 1
            "layer2.weight": [[1.0, 1.0]],
            "layer2.bias": [0.0],
        }
    )
    found = gradient_check(net, [[1.0]], [[0.0]])
    assert found.passed
    assert not found.moved
    assert [(array.checked, array.kinks) for array in found.arrays] == [(1, 1), (1, 1), (2, 0), (1, 0)]


def test_where_an_array_has_kinks_only_the_weights_are_moved():
    # the first layer's units are all dead for x = −1, so that z2 = b2 = 0
    net = network([1, 2, 2, 1], hidden_activation="relu", loss="half_squared_error", dtype="float64", seed=0)
    net.set_weights(
        {**net.weights(), "layer1.weight": [[1.0], [2.0]], "layer3.weight": [[1.0, 2.0]]},
    )
    found = gradient_check(net, [[-1.0]], [[1.0]])
    assert found.moved
    assert found.passed
    assert all(array.checked for array in found.arrays)
    np.testing.assert_array_equal(net.b[2], 0)


@pytest.mark.parametrize(
    ("error", "kinks"),
    [
        (0.0, 0),  # MAE'(0) = 0 is the mean of −1 and 1
        (1e-9, 1),  # the kink lies within the smallest step
        (3e-6, 0),  # within the first step, and not the second
        (0.1, 0),
    ],
)
def test_kinks_of_the_absolute_error(error, kinks):
    net = network([2, 1], loss="absolute_error", bias=False, dtype="float64")
    net.set_weights({"layer1.weight": [[1.5, 1.0]]})
    # the first weight makes the first error alone
    found = gradient_check(net, np.eye(2), [[1.5 - error], [0.0]])
    assert found.passed
    assert [(array.checked, array.kinks) for array in found.arrays] == [(2 - kinks, kinks)]


@pytest.mark.parametrize("hidden", ["relu", "leaky_relu"])
@pytest.mark.parametrize("loss", ["absolute_error", "huber"])
def test_kinks_by_chance_do_not_fail_right_gradients(hidden, loss):
    # so many rows, and such a step, that some unit or error crosses its kink in seven of the steps
    net = network([6, 20, 20, 4], hidden_activation=hidden, loss=loss)
    found = gradient_check(net, *problem(net, rows=150), step=1e-4)
    assert found.passed, found
    assert sum(array.kinks for array in found.arrays) == 0  # a smaller step was clear of them
    assert not found.moved


def test_a_kink_is_no_excuse_for_other_parameters(monkeypatch):
    # ReLU'(z) taken as 1 for z > ½ only: no kink lies within a step at 0 < z < ½, so that it fails
    monkeypatch.setattr(ReLU, "derivative", lambda self, saved, out: np.greater(saved, 0.5, out=out))
    monkeypatch.setattr(
        ReLU,
        "multiply_derivative",
        lambda self, saved, product, out, work: np.multiply(product, saved > 0.5, out=out),
    )
    net = network([6, 20, 4], hidden_activation="relu")
    found = gradient_check(net, *problem(net, rows=20))
    assert not found.passed


# --- bad input --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"tolerance": 0}, "tolerance"),
        ({"tolerance": -1e-6}, "tolerance"),
        ({"step": 0}, "step"),
        ({"step": math.nan}, "step"),
        ({"every": -1}, "every"),
        ({"directions": 0}, "directions"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(settings, argument):
    net = network()
    with pytest.raises(ArgumentError, match=f"{argument} was"):
        gradient_check(net, *problem(net), **settings)


@pytest.mark.parametrize("x", [np.ones((2, 3)), np.full((2, 4), np.nan), np.ones((0, 4)), "x"])
def test_a_wrong_batch_is_an_error(x):
    with pytest.raises(ArgumentError, match=r"x (has|holds)"):
        gradient_check(network(), x, [0, 1])


# --- the watch --------------------------------------------------------------------------------------------------------
def test_healthy_training_gets_no_warning():
    assert Watch().look(0.5, [0.1, 0.2, 0.3], dead=[0, 0], widths=[8, 8]) == []


@pytest.mark.parametrize(
    ("loss", "norms", "words"),
    [
        (0.5, [0.9e-5, 0.1, 0.1], ["vanish", "0.1", "9e-06"]),
        (0.5, [1e3, 2e4], ["explode", "layer 2", "2e+04"]),
        (math.nan, [1.0, 1.0], ["diverged", "nan"]),
        (math.inf, [1.0, 1.0], ["diverged", "inf"]),
        (0.5, [math.nan, 1.0], ["explode", "layer 1", "nan"]),
    ],
)
def test_what_is_wrong_is_said_with_advice(loss, norms, words):
    (message,) = Watch().look(loss, norms)
    assert all(word in message for word in words), message
    assert ";" in message  # what to do about it


@pytest.mark.parametrize("norms", [[1.1e-4, 1.0], [0.0, 0.0], [9e3, 9e3]])
def test_the_limits_are_not_warned_of(norms):
    assert Watch().look(0.5, norms) == []


def test_dead_units_are_counted_by_layer():
    (message,) = Watch().look(0.5, [1.0, 1.0, 1.0], dead=[0, 3], widths=[16, 8])
    assert "3 of 8 in layer 2" in message
    assert "layer 1" not in message


def test_each_kind_of_trouble_is_said_once_in_a_run():
    watch = Watch()
    assert len(watch.look(0.5, [1e-9, 1.0])) == 1
    assert watch.look(0.5, [1e-9, 1.0]) == []
    assert len(watch.look(math.nan, [1e-9, 1.0])) == 1
    assert Watch(given=watch.given).look(math.nan, [1e-9, 1.0]) == []


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"loss": math.nan, "gradient_norms": [1, 1]}, "exploding"),
        ({"loss": math.inf, "gradient_norms": [1, 1]}, "exploding"),
        ({"loss": 1.0, "gradient_norms": [10, 1.01e4]}, "exploding"),
        ({"loss": 1.0, "gradient_norms": [math.nan, 1]}, "exploding"),
        ({"loss": 1.0, "gradient_norms": [0.99e-4, 1, 1]}, "vanishing"),
        ({"loss": 1.0, "gradient_norms": [0.0, 1]}, "vanishing"),
        ({"loss": 1.0, "gradient_norms": [1, 1], "dead": [1], "widths": [10]}, "dead"),
    ],
)
def test_the_watch_sees_each_kind_once(arguments, kind):
    watch = Watch()
    assert len(watch.look(**arguments)) == 1
    assert watch.given == [kind]
    assert watch.look(**arguments) == []
    assert Watch(watch.given).look(**arguments) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"loss": 1.0, "gradient_norms": [1.01e-4, 1]},
        {"loss": 1.0, "gradient_norms": [0.99e4, 1]},
        {"loss": 1.0, "gradient_norms": [0.0, 0.0]},
        {"loss": 1.0, "gradient_norms": [1.0]},
        {"loss": 1.0, "gradient_norms": [1, 1], "dead": [1], "widths": [11]},
    ],
)
def test_the_watch_keeps_quiet_when_all_is_well(arguments):
    assert Watch().look(**arguments) == []
