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
from gpubp.nn.losses import (
    LOSSES,
    AbsoluteError,
    BinaryFocalCrossEntropy,
    Huber,
    MeanSquaredError,
    Quantile,
    SoftmaxCrossEntropy,
    SoftmaxFocalCrossEntropy,
    SquaredError,
)


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
    "quantile": lambda a, y: anp.sum(anp.maximum(0.5 * (y - a), -0.5 * (y - a))),
    "binary_cross_entropy": lambda z, y: -anp.sum(y * anp.log(sigmoid(z)) + (1 - y) * anp.log(1 - sigmoid(z))),
    "binary_focal_cross_entropy": lambda z, y: (
        -anp.sum(y * (1 - sigmoid(z)) ** 2 * anp.log(sigmoid(z)) + (1 - y) * sigmoid(z) ** 2 * anp.log(1 - sigmoid(z)))
    ),
    "softmax_cross_entropy": lambda z, y: -anp.sum(y * anp.log(softmax(z))),
    "softmax_focal_cross_entropy": lambda z, y: -anp.sum(y * (1 - softmax(z)) ** 2 * anp.log(softmax(z))),
}
"""Σ over the examples of ℓ by the definition; z are logits."""

OUTPUT = np.array([[0.3, -1.2, 2.0], [0.0, 0.7, -3.0], [1.5, 0.1, 0.2], [-0.4, 0.4, 0.9]])


def targets(name):
    if name.startswith("softmax"):
        return np.array([[0.0, 1, 0], [0.2, 0.3, 0.5], [1, 0, 0], [0, 0, 1]])
    if name.startswith("binary"):
        return np.array([[0.0, 1, 0.25], [1, 1, 0], [0, 0, 0], [0.5, 1, 0]])
    return np.array([[0.1, -1.0, 0.0], [0.5, 0.5, 0.5], [-1, 2, 3.0], [0.2, 0.3, 0.4]])


def evaluate(loss, output, y, weights=None):
    gradient = np.full_like(output, np.nan)
    return loss.evaluate(output.copy(), y, gradient, weights), gradient


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


@pytest.mark.parametrize(
    "loss",
    [
        "softmax_cross_entropy",
        SoftmaxCrossEntropy(label_smoothing=0.2),
        "softmax_focal_cross_entropy",
        SoftmaxFocalCrossEntropy(gamma=0.5),
    ],
    ids=str,
)
def test_integer_labels_are_one_hot_rows(loss):
    labels = np.array([1, 0, 2, 2])
    loss = losses.get(loss)
    by_label, by_row = evaluate(loss, OUTPUT, labels), evaluate(loss, OUTPUT, np.eye(3)[labels])
    assert by_label[0] == pytest.approx(by_row[0], rel=1e-15)
    np.testing.assert_allclose(by_label[1], by_row[1], rtol=1e-14)


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


@pytest.mark.parametrize(
    "loss",
    [
        Huber(threshold=0.25),
        Quantile(quantile=0.9),
        BinaryFocalCrossEntropy(gamma=1),
        SoftmaxFocalCrossEntropy(gamma=0.5),
        SoftmaxCrossEntropy(label_smoothing=0.1),
    ],
)
def test_a_config_keeps_the_losss_own_number(loss):
    assert losses.get(loss.config()) == loss
    assert loss.parameter in loss.config().values()


def test_a_cross_entropy_without_smoothing_is_saved_as_before_there_was_any():
    assert SoftmaxCrossEntropy().config() == {"name": "softmax_cross_entropy", "reduction": "mean"}


def test_only_the_cross_entropies_fix_the_output_activation():
    fixed = {name: kind.output_activation for name, kind in LOSSES.items() if kind.output_activation}
    assert fixed == {
        "binary_cross_entropy": "sigmoid",
        "binary_focal_cross_entropy": "sigmoid",
        "softmax_cross_entropy": "softmax",
        "softmax_focal_cross_entropy": "softmax",
    }


@pytest.mark.parametrize("threshold", [0, -1, math.inf, math.nan])
def test_the_threshold_must_be_above_0(threshold):
    with pytest.raises(ArgumentError, match="threshold"):
        Huber(threshold=threshold)


def test_an_unknown_reduction_is_an_error():
    with pytest.raises(ArgumentError, match=r"reduction was 'means'.*did you mean 'mean'\?"):
        losses.get({"name": "huber", "reduction": "means"})


# --- quantile, focal, smoothing ---------------------------------------------------------------------------------------
def test_the_quantile_loss_is_least_at_the_quantile():
    y = np.arange(101.0)[:, None]  # its 0.9-quantile is 90
    loss = Quantile(quantile=0.9)
    values = [evaluate(loss, np.full_like(y, a), y)[0] for a in range(101)]
    assert int(np.argmin(values)) == 90


def test_the_quantile_loss_by_hand():
    value, gradient = evaluate(Quantile(quantile=0.75), np.array([[1.0, 2.0, 3.0]]), np.array([[3.0, 2.0, 1.0]]))
    assert value == 0.75 * 2 + 0.25 * 2
    assert gradient.tolist() == [[-0.75, 0.0, 0.25]]


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
def test_the_binary_focal_loss_is_the_papers(gamma):
    y = targets("binary_focal_cross_entropy")

    def formula(z):
        p = sigmoid(z)
        return -anp.sum(y * (1 - p) ** gamma * anp.log(p) + (1 - y) * p**gamma * anp.log(1 - p))

    value, gradient = evaluate(BinaryFocalCrossEntropy(gamma=gamma), OUTPUT, y)
    assert value == pytest.approx(float(formula(OUTPUT)), rel=1e-12)
    np.testing.assert_allclose(gradient, grad(formula)(OUTPUT), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
def test_the_softmax_focal_loss_is_the_papers(gamma):
    y = targets("softmax_focal_cross_entropy")

    def formula(z):
        p = softmax(z)
        return -anp.sum(y * (1 - p) ** gamma * anp.log(p))

    value, gradient = evaluate(SoftmaxFocalCrossEntropy(gamma=gamma), OUTPUT, y)
    assert value == pytest.approx(float(formula(OUTPUT)), rel=1e-12)
    np.testing.assert_allclose(gradient, grad(formula)(OUTPUT), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", [BinaryFocalCrossEntropy, SoftmaxFocalCrossEntropy])
def test_a_focal_loss_of_exponent_0_is_the_cross_entropy(kind):
    plain = losses.get(kind.name.replace("focal_", ""))
    y = targets(plain.name)
    value, gradient = evaluate(kind(gamma=0), OUTPUT, y)
    expected, expected_gradient = evaluate(plain, OUTPUT, y)
    assert value == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("loss", [BinaryFocalCrossEntropy(gamma=0.5), SoftmaxFocalCrossEntropy(gamma=0.5)])
def test_a_focal_loss_of_a_certain_right_answer_has_no_slope_and_no_nan(loss):
    # 1 − p is 0, and its power γ − 1 infinite
    value, gradient = evaluate(loss, np.array([[800.0, -800.0]]), np.array([[1.0, 0.0]]))
    assert value == 0
    assert gradient.tolist() == [[0.0, 0.0]]


def test_label_smoothing_is_cross_entropy_with_softer_targets():
    y = targets("softmax_cross_entropy")
    value, gradient = evaluate(SoftmaxCrossEntropy(label_smoothing=0.3), OUTPUT, y)
    expected, expected_gradient = evaluate(SoftmaxCrossEntropy(), OUTPUT, 0.7 * y + 0.3 / 3)
    assert value == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Quantile(quantile=0), "quantile"),
        (lambda: Quantile(quantile=1), "quantile"),
        (lambda: Quantile(quantile=math.nan), "quantile"),
        (lambda: BinaryFocalCrossEntropy(gamma=-1), "gamma"),
        (lambda: SoftmaxFocalCrossEntropy(gamma=math.inf), "gamma"),
        (lambda: SoftmaxCrossEntropy(label_smoothing=1), "label_smoothing"),
        (lambda: SoftmaxCrossEntropy(label_smoothing=-0.1), "label_smoothing"),
    ],
)
def test_a_number_out_of_range_is_an_error_that_names_it(make, name):
    with pytest.raises(ArgumentError, match=name):
        make()


# --- weights ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_multiplies_its_rows_loss_and_derivative(name):
    y, weights = targets(name), np.array([0.5, 2.0, 0.0, 3.0])
    value, gradient = evaluate(losses.get(name), OUTPUT, y, weights)
    rows = [evaluate(losses.get(name), OUTPUT[i : i + 1], y[i : i + 1]) for i in range(4)]
    assert value == pytest.approx(sum(w * each for w, (each, _) in zip(weights, rows, strict=True)), rel=1e-14)
    expected = np.concatenate([w * each for w, (_, each) in zip(weights, rows, strict=True)])
    np.testing.assert_allclose(gradient, expected, rtol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_of_weight_0_adds_0_whatever_its_target_is(name):
    y = targets(name)
    y[1] = np.nan
    value, gradient = evaluate(losses.get(name), OUTPUT, y, np.array([1.0, 0, 1, 1]))
    others = [0, 2, 3]
    expected, expected_gradient = evaluate(losses.get(name), OUTPUT[others], y[others])
    assert value == pytest.approx(expected, rel=1e-14)
    np.testing.assert_array_equal(gradient[1], 0)
    np.testing.assert_allclose(gradient[others], expected_gradient, rtol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_of_weight_0_is_multiplied_by_0(reduction):
    loss = losses.get({"name": "huber", "reduction": reduction})
    assert loss.factor(0) == (0 if reduction == "mean" else 1)
    assert loss.factor(4) == (0.25 if reduction == "mean" else 1)
