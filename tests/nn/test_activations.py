"""Activation functions: values and derivatives against formulas written apart from gpubp's, limits, kinks, NaN."""

from __future__ import annotations

import math
import warnings

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import elementwise_grad
from autograd.scipy.special import erf

from gpubp.errors import ArgumentError
from gpubp.nn import activations
from gpubp.nn.activations import ACTIVATIONS, ELU, LeakyReLU, ReLU, Softmax

FORMULAS = {
    "identity": lambda z: z * 1.0,
    "relu": lambda z: anp.where(z > 0, z, 0.0),
    "leaky_relu": lambda z: anp.where(z > 0, z, 0.01 * z),
    "elu": lambda z: anp.where(z > 0, z, anp.exp(z) - 1),
    "softplus": lambda z: anp.log(1 + anp.exp(z)),
    "sigmoid": lambda z: 1 / (1 + anp.exp(-z)),
    "tanh": lambda z: (anp.exp(2 * z) - 1) / (anp.exp(2 * z) + 1),
    "gelu": lambda z: 0.5 * z * (1 + erf(z / math.sqrt(2))),
    "gelu_tanh": lambda z: 0.5 * z * (1 + anp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "silu": lambda z: z / (1 + anp.exp(-z)),
}
"""The definitions as textbooks have them; fine for moderate z."""

ELEMENTWISE = [name for name in ACTIVATIONS if name != "softmax"]
Z = np.array([-6.0, -2.5, -1.0, -0.3, -1e-3, 1e-3, 0.3, 1.0, 2.5, 6.0])


def apply(activation, z):
    out = np.full_like(z, np.nan)
    activation.apply(z.copy(), out)
    return out


def derivative(activation, z):
    saved = z.copy() if activation.reads == "z" else apply(activation, z)
    out = np.full_like(z, np.nan)
    activation.derivative(saved, out)
    return out


def test_every_elementwise_activation_has_a_formula_here():
    assert set(FORMULAS) == set(ELEMENTWISE)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_are_the_textbooks(name):
    np.testing.assert_allclose(apply(activations.get(name), Z), FORMULAS[name](Z), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_are_those_of_automatic_differentiation(name):
    expected = elementwise_grad(FORMULAS[name])(Z)
    np.testing.assert_allclose(derivative(activations.get(name), Z), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        (LeakyReLU(slope=0.3), lambda z: anp.where(z > 0, z, 0.3 * z)),
        (ELU(alpha=1.7), lambda z: anp.where(z > 0, z, 1.7 * (anp.exp(z) - 1))),
    ],
)
def test_parameters_are_used_in_value_and_derivative(activation, formula):
    np.testing.assert_allclose(apply(activation, Z), formula(Z), rtol=1e-12)
    np.testing.assert_allclose(derivative(activation, Z), elementwise_grad(formula)(Z), rtol=1e-11)


def test_sigma_prime_reads_the_output_where_it_can():
    reads_z = {name for name, kind in ACTIVATIONS.items() if kind.reads == "z"}
    assert reads_z == {"gelu", "gelu_tanh", "silu"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_large_arguments_give_the_limits_without_a_warning(name, dtype):
    z = np.array([-1e4, 1e4], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a, slope = apply(activations.get(name), z), derivative(activations.get(name), z)
    limits = {
        "identity": ([-1e4, 1e4], [1, 1]),
        "leaky_relu": ([-1e2, 1e4], [0.01, 1]),
        "elu": ([-1, 1e4], [0, 1]),
        "sigmoid": ([0, 1], [0, 0]),
        "tanh": ([-1, 1], [0, 0]),
    }
    expected = limits.get(name, ([0, 1e4], [0, 1]))  # the others are like ReLU
    np.testing.assert_allclose(a, expected[0], rtol=1e-6)
    np.testing.assert_allclose(slope, expected[1], rtol=1e-6)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nothing_overflows_anywhere_up_to_1e4(name):
    z = np.concatenate([-np.geomspace(1e4, 1e-30, 400), [0], np.geomspace(1e-30, 1e4, 400)]).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(apply(activations.get(name), z)).all()
        assert np.isfinite(derivative(activations.get(name), z)).all()


@pytest.mark.parametrize(
    ("name", "z", "a", "slope"),
    [
        ("softplus", -30.0, math.exp(-30) - math.exp(-60) / 2, math.exp(-30) - math.exp(-60)),
        ("sigmoid", -40.0, math.exp(-40), math.exp(-40)),
        ("silu", -40.0, -40 * math.exp(-40), -39 * math.exp(-40)),
        ("elu", -1e-12, -1e-12, 1 - 1e-12),
        ("gelu", -8.0, -8 * math.erfc(8 / math.sqrt(2)) / 2, None),
        ("tanh", 1e-12, 1e-12, 1.0),
    ],
)
def test_small_values_keep_their_digits(name, z, a, slope):
    activation = activations.get(name)
    assert apply(activation, np.array([z]))[0] == pytest.approx(a, rel=2e-12, abs=0)
    if slope is not None:
        assert derivative(activation, np.array([z]))[0] == pytest.approx(slope, rel=2e-12, abs=0)


def test_at_its_kink_relu_has_derivative_0_and_leaky_relu_its_slope():
    zero = np.zeros(1)
    assert derivative(ReLU(), zero) == 0
    assert derivative(LeakyReLU(0.2), zero) == 0.2
    assert derivative(ELU(1.5), zero) == 1.5


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_float32_is_close_to_float64(name):
    activation = activations.get(name)
    low, high = apply(activation, Z.astype("float32")), apply(activation, Z)
    assert low.dtype == np.float32
    np.testing.assert_allclose(low, high, rtol=3e-6, atol=1e-7)
    np.testing.assert_allclose(derivative(activation, Z.astype("float32")), derivative(activation, Z), atol=1e-6)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_goes_through(name):
    a = apply(activations.get(name), np.array([1.0, np.nan, -1.0]))
    assert np.isnan(a).tolist() == [False, True, False]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_output_may_be_the_input(name):
    activation = activations.get(name)
    z = Z.copy()
    activation.apply(z, z)
    np.testing.assert_array_equal(z, apply(activation, Z))
    saved = Z.copy() if activation.reads == "z" else z
    expected = derivative(activation, Z)
    activation.derivative(saved, saved)
    np.testing.assert_array_equal(saved, expected)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("in_place", [False, True])
def test_the_derivative_multiplies_a_product(name, in_place):
    activation = activations.get(name)
    saved = Z.copy() if activation.reads == "z" else apply(activation, Z)
    product = np.linspace(-2, 3, Z.size)
    expected = product * derivative(activation, Z)
    out = product if in_place else np.full_like(Z, np.nan)
    activation.multiply_derivative(saved, product, out, np.full_like(Z, np.nan))
    np.testing.assert_allclose(out, expected, rtol=1e-15)


# --- softmax ----------------------------------------------------------------------------------------------------------
def test_softmax_is_the_textbooks_row_by_row():
    z = np.array([[0.0, 1.0, 2.0], [3.0, 3.0, 3.0]])
    e = np.exp(z)
    np.testing.assert_allclose(apply(Softmax(), z), e / e.sum(axis=1, keepdims=True), rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_of_large_logits_neither_overflows_nor_warns(dtype):
    z = np.array([[1e4, -1e4, 0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a = apply(Softmax(), z)
    np.testing.assert_allclose(a, [[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3], rtol=1e-6)


def test_softmax_lets_nan_spoil_its_own_row_alone():
    a = apply(Softmax(), np.array([[1.0, np.nan], [1.0, 1.0]]))
    assert np.isnan(a[0]).all()
    assert a[1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("in_place", [False, True])
def test_softmax_multiplies_by_its_jacobian(in_place):
    a = apply(Softmax(), np.array([[0.3, -1.0, 2.0], [0.0, 0.5, 0.1]]))
    g = np.array([[1.0, -2.0, 0.5], [0.2, 0.0, -1.0]])
    expected = np.array([(np.diag(row) - np.outer(row, row)) @ up for row, up in zip(a, g, strict=True)])
    out = g if in_place else np.full_like(g, np.nan)
    Softmax().multiply_derivative(a, g, out, np.full_like(g, np.nan))
    np.testing.assert_allclose(out, expected, rtol=1e-12)


# --- configuration ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_config_makes_the_same_activation_again(name):
    activation = activations.get(name)
    assert activation.name == name
    assert activations.get(activation.config()) == activation


def test_a_config_keeps_the_parameter():
    assert activations.get(LeakyReLU(0.25).config()) == LeakyReLU(0.25)
    assert (LeakyReLU(0.25).parameter, ELU(3.0).parameter, ReLU().parameter) == (0.25, 3.0, 0.0)


@pytest.mark.parametrize("value", [0, -0.1, math.nan, math.inf, "0.1"])
def test_slope_and_alpha_must_be_above_0(value):
    with pytest.raises(ArgumentError, match="slope"):
        LeakyReLU(value)
    with pytest.raises(ArgumentError, match="alpha"):
        ELU(value)


@pytest.mark.parametrize("in_place", [False, True])
def test_sigmoid_keeps_the_smallest_floats(in_place):
    z = np.array([-87.5, -91, -103, -200, 91, np.nan], np.float32)
    expected = 1 / (1 + np.exp(-z.astype(np.float64)))
    out = z if in_place else np.empty_like(z)
    activations.get("sigmoid").apply(z, out)
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=2.0**-149)
    assert out[2] > 0
