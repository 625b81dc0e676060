"""Gradients that vanish and explode: the norms are those of networks built by hand."""

import numpy as np
import pytest

from gpubp import Network
from gpubp.explain import depths


@pytest.fixture(scope="module")
def found():
    return {(each.activation, each.scale, each.depth): each for each in depths.deep_networks()}


def test_every_combination_is_there(found):
    assert len(found) == len(depths.ACTIVATIONS) * len(depths.FACTORS) * len(depths.DEPTHS)
    assert (min(depths.DEPTHS), max(depths.DEPTHS)) == (2, 20)
    assert all(len(each.norms) == each.depth for each in found.values())


def test_a_tenfold_product_of_slopes_vanishes(found):
    """A sigmoid's slope is at most 1/4, so that δ shrinks by more than half in each layer from weights of norm 2."""
    sigmoid = found["sigmoid", "own", 20].norms
    assert (sigmoid[:-1] < sigmoid[1:] / 2).all()
    assert found["relu", "large", 20].kept > 1e6 > 1e-6 > found["relu", "small", 20].kept


def test_norms_are_those_of_the_recursion_by_hand(found):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((depths.ROWS, depths.WIDTH)), rng.uniform(size=(depths.ROWS, depths.WIDTH))
    sizes = (depths.WIDTH,) * 5
    network = Network(
        sizes, hidden_activation="relu", output_activation="relu", loss="half_squared_error", dtype="float64",
        backend="numpy",
    )  # fmt: skip
    w = [None, *(depths.FACTORS["small"] * each for each in network.w[1:])]
    a = [x]
    for each in w[1:]:
        a.append(np.maximum(a[-1] @ each.T, 0))
    delta = (a[-1] - y) * (a[-1] > 0) / len(x)
    norms = [np.linalg.norm(delta)]
    for layer in (3, 2, 1):
        delta = (delta @ w[layer + 1]) * (a[layer] > 0)
        norms.append(np.linalg.norm(delta))
    np.testing.assert_allclose(found["relu", "small", 4].norms, norms[::-1], rtol=1e-12)


def test_clipping_shortens_the_step_and_nothing_else(found):
    for each in found.values():
        assert each.clipped == pytest.approx(min(each.gradient, depths.CLIP_NORM), rel=1e-6)
