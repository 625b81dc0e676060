"""Initial weights: distributions, orthogonality, seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpubp import Network
from gpubp.errors import ArgumentError
from gpubp.nn import initializers
from gpubp.nn.activations import ACTIVATIONS
from gpubp.nn.initializers import INITIALIZERS, Normal, Orthogonal

FAN_OUT, FAN_IN = 300, 500
VARIANCES = {
    "glorot_uniform": 2 / (FAN_IN + FAN_OUT),
    "glorot_normal": 2 / (FAN_IN + FAN_OUT),
    "he_uniform": 2 / FAN_IN,
    "he_normal": 2 / FAN_IN,
    "lecun_uniform": 1 / FAN_IN,
    "lecun_normal": 1 / FAN_IN,
    "normal": 0.01**2,
    "orthogonal": 1 / FAN_IN,  # rows of norm 1
    "zeros": 0,
}


def draw(name, seed=0, shape=(FAN_OUT, FAN_IN)):
    return initializers.get(name).draw(*shape, np.random.default_rng(seed))


@pytest.mark.parametrize("name", INITIALIZERS)
def test_the_mean_is_0_and_the_variance_is_the_papers(name):
    w = draw(name)
    assert w.shape == (FAN_OUT, FAN_IN)
    assert w.dtype == np.float64
    assert abs(w.mean()) <= 4 * math.sqrt(VARIANCES[name] / w.size)
    # the sample variance of n normal numbers has relative deviation √(2/n) = 0.4 %
    assert w.var() == pytest.approx(VARIANCES[name], rel=0.02)


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name.endswith("_uniform")])
def test_uniform_draws_fill_their_interval_and_no_more(name):
    limit = math.sqrt(3 * VARIANCES[name])
    w = draw(name)
    assert 0.999 * limit < np.abs(w).max() <= limit


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name.endswith("normal")])
def test_normal_draws_have_normal_tails(name):
    w = draw(name) / math.sqrt(VARIANCES[name])
    assert np.mean(np.abs(w) > 1) == pytest.approx(0.3173, abs=0.01)
    assert np.mean(np.abs(w) > 3) == pytest.approx(0.0027, abs=0.001)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6), (1, 4), (4, 1), (1, 1)])
def test_orthogonal_weights_have_orthonormal_rows_or_columns(shape):
    w = Orthogonal(gain=3.0).draw(*shape, np.random.default_rng(4)) / 3
    product = w @ w.T if shape[0] <= shape[1] else w.T @ w
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=1e-14)


def test_orthogonal_weights_have_both_signs_on_the_diagonal():
    # without its sign correction, QR puts one sign on r's diagonal, and q is not uniform
    signs = [np.sign(draw("orthogonal", seed, (1, 1))[0, 0]) for seed in range(40)]
    assert 5 < signs.count(1) < 35


def test_parameters_are_used():
    assert Normal(sigma=0.5).draw(200, 200, np.random.default_rng(0)).std() == pytest.approx(0.5, rel=0.02)
    with pytest.raises(ArgumentError, match="sigma"):
        Normal(sigma=0)
    with pytest.raises(ArgumentError, match="gain"):
        Orthogonal(gain=-1)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_a_config_makes_the_same_initializer_again(name):
    initializer = initializers.get(name)
    assert initializer.name == name
    assert initializers.get(initializer.config()) == initializer


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_default_follows_the_activation(activation):
    rectifiers = {"relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu"}
    expected = "he_normal" if activation in rectifiers else "glorot_uniform"
    assert initializers.default_for(ACTIVATIONS[activation]()).name == expected


# --- in a network -----------------------------------------------------------------------------------------------------
def network(**settings):
    return Network([40, 30, 20, 5], backend="numpy", **settings)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(dtype):
    first, again, other = network(seed=3, dtype=dtype), network(seed=3, dtype=dtype), network(seed=4, dtype=dtype)
    for l in (1, 2, 3):
        np.testing.assert_array_equal(first.w[l], again.w[l])
        assert not np.any(first.w[l] == other.w[l])


def test_weights_are_drawn_in_float64_and_then_rounded():
    low, high = network(seed=3, dtype="float32"), network(seed=3, dtype="float64")
    for l in (1, 2, 3):
        np.testing.assert_array_equal(low.w[l], high.w[l].astype("float32"))


def test_layers_draw_different_weights_and_biases_start_at_0():
    net = network(initializer="normal", seed=0)
    assert not np.any(net.w[1].ravel()[:100] == net.w[2].ravel()[:100])
    assert all(not b.any() for b in net.b[1:])


def test_each_layer_takes_the_default_of_its_own_activation():
    net = Network([400, 300, 300, 200], hidden_activation=["relu", "tanh"], backend="numpy")
    assert net.w[1].var() == pytest.approx(2 / 400, rel=0.03)
    assert net.w[2].var() == pytest.approx(2 / 600, rel=0.03)
    assert np.abs(net.w[3]).max() <= math.sqrt(6 / 500)


def test_a_named_initializer_is_taken_for_every_layer():
    net = network(initializer={"name": "normal", "sigma": 0.5}, seed=1)
    assert np.concatenate([w.ravel() for w in net.w[1:]]).std() == pytest.approx(0.5, rel=0.05)
