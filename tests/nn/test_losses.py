"""Losses: values and derivatives against formulas written apart from gpubp's, limits, kinks, NaN."""

from __future__ import annotations

import math
import warnings

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad

from gpubp.errors import ArgumentError
from gpubp.nn import losses
from gpubp.nn.losses import LOSSES, AbsoluteError, Huber, MeanSquaredError, SquaredError


def sigmoid(z):
    return 1 / (1 + anp.exp(-z))


def softmax(z):
    e = anp.exp(z)
    return e / anp.sum(e, axis=1, keepdims=True)


def huber(a, y, threshold=1.0):
    d = anp.abs(a - y)
    return anp.sum(anp.where(d <= threshold, d**2 / 2, threshold * (d - threshold / 2)))


FORMULAS = {
    "half_squared_error": lambda a, y: anp.sum((a - y) ** 2) / 2,
    "squared_error": lambda a, y: anp.sum((y - a) ** 2),
    "mean_squared_error": lambda a, y: anp.sum(anp.mean((y - a) ** 2, axis=1)),
    "absolute_error": lambda a, y: anp.sum(anp.abs(a - y)),
    "huber": huber,
    "binary_cross_entropy": lambda z, y: -anp.sum(y * anp.log(sigmoid(z)) + (1 - y) * anp.log(1 - sigmoid(z))),
    "softmax_cross_entropy": lambda z, y: -anp.sum(y * anp.log(softmax(z))),
}
"""Σ over the examples of ℓ by the definition; z are logits."""

OUTPUT = np.array([[0.3, -1.2, 2.0], [0.0, 0.7, -3.0], [1.5, 0.1, 0.2], [-0.4, 0.4, 0.9]])


def targets(name):
    if name == "softmax_cross_entropy":
        return np.array([[0.0, 1, 0], [0.2, 0.3, 0.5], [1, 0, 0], [0, 0, 1]])
    if name == "binary_cross_entropy":
        return np.array([[0.0, 1, 0.25], [1, 1, 0], [0, 0, 0], [0.5, 1, 0]])
    return np.array([[0.1, -1.0, 0.0], [0.5, 0.5, 0.5], [-1, 2, 3.0], [0.2, 0.3, 0.4]])


def evaluate(loss, output, y):
    gradient = np.full_like(output, np.nan)
    return loss.evaluate(output.copy(), y, gradient), gradient


def test_every_loss_has_a_formula_here():
    assert set(FORMULAS) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_the_value_is_the_sum_over_the_examples_of_the_textbooks(name):
    y = targets(name)
    value, _ = evaluate(losses.get(name), OUTPUT, y)
    assert value == pytest.approx(float(FORMULAS[name](OUTPUT, y)), rel=1e-13)


@pytest.mark.parametrize("name", LOSSES)
def test_the_derivative_is_that_of_automatic_differentiation(name):
    y = targets(name)
    _, gradient = evaluate(losses.get(name), OUTPUT, y)
    np.testing.assert_allclose(gradient, grad(FORMULAS[name])(OUTPUT, y), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_reduction_is_a_divisor_that_the_value_does_not_hold(name, reduction):
    loss = losses.get({"name": name, "reduction": reduction})
    assert loss.divisor(7) == (7 if reduction == "mean" else 1)
    assert evaluate(loss, OUTPUT, targets(name))[0] == evaluate(losses.get(name), OUTPUT, targets(name))[0]


def test_both_conventions_of_squared_error_by_hand():
    a, y = np.array([[3.0, 1.0]]), np.array([[1.0, 2.0]])
    value, gradient = evaluate(losses.get("half_squared_error"), a, y)
    assert (value, gradient.tolist()) == (2.5, [[2.0, -1.0]])  # ½ (2² + 1²); a − y
    value, gradient = evaluate(SquaredError(), a, y)
    assert (value, gradient.tolist()) == (5.0, [[4.0, -2.0]])  # 2² + 1²; −2 (y − a)
    value, gradient = evaluate(MeanSquaredError(), a, y)
    assert (value, gradient.tolist()) == (2.5, [[2.0, -1.0]])  # (2² + 1²) / 2; −2 (y − a) / 2


def test_integer_labels_are_one_hot_rows():
    labels = np.array([1, 0, 2, 2])
    loss = losses.get("softmax_cross_entropy")
    by_label, by_row = evaluate(loss, OUTPUT, labels), evaluate(loss, OUTPUT, np.eye(3)[labels])
    assert by_label[0] == pytest.approx(by_row[0], rel=1e-15)
    np.testing.assert_allclose(by_label[1], by_row[1], rtol=1e-15)


def test_huber_is_quadratic_within_its_threshold_and_linear_outside():
    a, y = np.array([[0.5, 2.0, -3.0, 4.0]]), np.zeros((1, 4))
    value, gradient = evaluate(Huber(threshold=2.0), a, y)
    assert value == 0.5 * 0.25 + 0.5 * 4 + 2 * (3 - 1) + 2 * (4 - 1)
    assert gradient.tolist() == [[0.5, 2.0, -2.0, 2.0]]


def test_absolute_error_has_derivative_0_at_0():
    value, gradient = evaluate(AbsoluteError(), np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 3.0, 1.0]]))
    assert value == 3
    assert gradient.tolist() == [[0.0, -1.0, 1.0]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_outputs_of_1e4_give_finite_losses_without_a_warning(name, dtype, scale):
    output = np.array([[scale, 0, -scale], [scale, scale, scale], [-scale, -scale, scale]], dtype)
    y = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, gradient = evaluate(losses.get(name), output, y)
    assert math.isfinite(value)
    assert np.isfinite(gradient).all()


def test_cross_entropy_of_wrong_large_logits_is_their_distance():
    assert evaluate(losses.get("binary_cross_entropy"), np.array([[1e4]]), np.array([[0.0]]))[0] == 1e4
    assert evaluate(losses.get("binary_cross_entropy"), np.array([[1e4]]), np.array([[1.0]]))[0] == 0
    assert evaluate(losses.get("softmax_cross_entropy"), np.array([[1e4, -1e4]]), np.array([1]))[0] == 2e4


def test_a_nearly_certain_right_answer_keeps_its_small_loss():
    value, _ = evaluate(losses.get("binary_cross_entropy"), np.array([[40.0]]), np.array([[1.0]]))
    assert value == pytest.approx(math.exp(-40), rel=1e-12, abs=0)


@pytest.mark.parametrize("name", LOSSES)
def test_nan_goes_through_to_value_and_derivative(name):
    output = OUTPUT.copy()
    output[1, 1] = np.nan
    value, gradient = evaluate(losses.get(name), output, targets(name))
    assert math.isnan(value)
    assert np.isnan(gradient[1, 1])
    assert np.isfinite(gradient[[0, 2, 3]]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_close_to_float64(name):
    y = targets(name)
    low = evaluate(losses.get(name), OUTPUT.astype("float32"), y.astype("float32"))
    high = evaluate(losses.get(name), OUTPUT, y)
    assert low[0] == pytest.approx(high[0], rel=1e-6)
    assert low[1].dtype == np.float32
    np.testing.assert_allclose(low[1], high[1], atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_config_makes_the_same_loss_again(name):
    loss = losses.get({"name": name, "reduction": "sum"})
    assert loss.name == name
    assert losses.get(loss.config()) == loss


def test_a_config_keeps_the_threshold():
    assert losses.get(Huber(threshold=0.25).config()) == Huber(threshold=0.25)


def test_only_the_cross_entropies_fix_the_output_activation():
    fixed = {name: kind.output_activation for name, kind in LOSSES.items() if kind.output_activation}
    assert fixed == {"binary_cross_entropy": "sigmoid", "softmax_cross_entropy": "softmax"}


@pytest.mark.parametrize("threshold", [0, -1, math.inf, math.nan])
def test_the_threshold_must_be_above_0(threshold):
    with pytest.raises(ArgumentError, match="threshold"):
        Huber(threshold=threshold)


def test_an_unknown_reduction_is_an_error():
    with pytest.raises(ArgumentError, match=r"reduction was 'means'.*did you mean 'mean'\?"):
        losses.get({"name": "huber", "reduction": "means"})
