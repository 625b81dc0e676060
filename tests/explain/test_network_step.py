"""One step of backpropagation: its numbers beside formulas written by hand, and beside finite differences."""

import numpy as np
import pytest

from gpubp import Network
from gpubp.errors import ArgumentError
from gpubp.explain import one_step
from gpubp.explain.network_step import MOST_MOVED, default_example

X, Y = np.array([1.0, 0.5]), np.array([1.0])


def network(sizes=(2, 3, 1), activation="sigmoid", loss="half_squared_error", **options):
    options = {"output_activation": activation, "dtype": "float64", "backend": "numpy", **options}
    return Network(sizes, hidden_activation=activation, loss=loss, **options)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize(("loss", "factor"), [("half_squared_error", 1), ("squared_error", 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_every_number_is_that_of_the_formulas(loss, factor, bias):
    made = network(loss=loss, bias=bias, seed=3)
    if bias:
        made.b[1][:], made.b[2][:] = [0.1, -0.2, 0.3], [0.4]
    step = one_step(made, X, Y, 0.25)
    w1, w2 = made.w[1], made.w[2]
    b1, b2 = (made.b[1], made.b[2]) if bias else (np.zeros(3), np.zeros(1))
    z1 = w1 @ X + b1
    a1 = sigmoid(z1)
    a2 = sigmoid(w2 @ a1 + b2)
    delta2 = factor * (a2 - Y) * a2 * (1 - a2)
    delta1 = (w2.T @ delta2) * a1 * (1 - a1)
    first, second = step.layers
    assert step.loss_before == pytest.approx(0.5 * factor * float((a2 - Y) @ (a2 - Y)))
    for found, expected in (
        (first.z, z1),
        (first.a, a1),
        (first.slope, a1 * (1 - a1)),
        (second.incoming, factor * (a2 - Y)),
        (second.delta, delta2),
        (first.incoming, w2.T @ delta2),
        (first.delta, delta1),
        (second.dw, np.outer(delta2, a1)),
        (first.dw, np.outer(delta1, X)),
        (first.w_after, w1 - 0.25 * np.outer(delta1, X)),
        (second.w_after, w2 - 0.25 * np.outer(delta2, a1)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    if bias:
        np.testing.assert_allclose(first.db, delta1, rtol=1e-12)
        np.testing.assert_allclose(second.b_after, b2 - 0.25 * delta2, rtol=1e-12)
    else:
        assert first.b is first.db is first.b_after is None
    a1 = sigmoid(first.w_after @ X + (first.b_after if bias else 0))
    after = sigmoid(second.w_after @ a1 + (second.b_after if bias else 0))
    np.testing.assert_allclose(step.a_after[-1], after, rtol=1e-12)
    assert step.loss_after == pytest.approx(0.5 * factor * float((after - Y) @ (after - Y)))
    assert step.loss_after < step.loss_before


@pytest.mark.parametrize(
    ("activation", "output", "loss"),
    [
        ("tanh", "identity", "huber"),
        ("gelu", None, "softmax_cross_entropy"),
        ("silu", "softmax", "squared_error"),
        ("elu", None, "binary_cross_entropy"),
    ],
)
def test_moving_a_number_says_what_backpropagation_says(activation, output, loss):
    made = network((3, 4, 2), activation, loss, output_activation=output, seed=1)
    step = one_step(made, *default_example(made.sizes))
    assert len(step.nodes) == 6
    assert len(step.weights) == 3 * 4 + 4 * 2
    for each in (*step.nodes, *step.weights):
        layer = step.layers[each.layer - 1]
        assert each.derivative == (layer.delta if len(each.place) == 1 else layer.dw)[each.place]
        assert each.difference == pytest.approx(each.derivative, abs=1e-9)
        assert each.losses[len(each.losses) // 2] == pytest.approx(step.loss_before)


def test_the_network_stays_as_it_is():
    made = Network([2, 3, 2], dropout=0.5, backend="numpy", seed=2)
    before = {name: value.copy() for name, value in made.weights().items()}
    step = one_step(made, [1, 2], 1, 0.5)
    assert all(np.array_equal(value, before[name]) for name, value in made.weights().items())
    assert step.layers[0].w.dtype == np.float64
    np.testing.assert_array_equal(step.layers[0].w, before["layer1.weight"])
    np.testing.assert_array_equal(step.targets, [0, 1])


def test_a_network_of_many_weights_is_not_moved_one_by_one():
    step = one_step(network((30, 40, 30)), *default_example((30, 40, 30)))
    assert step.sizes[0] * step.sizes[1] > MOST_MOVED
    assert step.nodes == step.weights == ()


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        ([1], [1], "x has 1 numbers; it must have 2"),
        ([1, 2], [1, 2], "y has 2 numbers; it must have 1"),
        ([1, np.nan], [1], "x holds NaN"),
        ([1, 2], 3, "y has 1 numbers"),
    ],
)
def test_a_wrong_example_is_refused(x, y, text):
    with pytest.raises(ArgumentError, match=text):
        one_step(network((2, 3, 1 if np.ndim(y) else 2)), x, y)


@pytest.mark.parametrize(("x", "learning_rate"), [([1e200, 1.0], 0.5), ([1.0, 1.0], 1e300)])
def test_numbers_beyond_float64_are_refused(x, learning_rate):
    network = Network(
        [2, 3, 1], hidden_activation="relu", output_activation="identity", loss="half_squared_error", seed=0
    )
    with pytest.raises(ArgumentError, match="x leads to numbers that float64 cannot hold"):
        one_step(network, x, [1.0], learning_rate)
