"""Weights from a state dict of PyTorch's; the tests with PyTorch itself are in tests/peers.py."""

import numpy as np
import pytest

from gpubp import Network
from gpubp.errors import ArgumentError

RNG = np.random.default_rng(1)
STATE = {
    "10.weight": RNG.normal(size=(5, 3)).astype(np.float32),
    "10.bias": RNG.normal(size=5).astype(np.float32),
    "body.2.weight": RNG.normal(size=(2, 5)).astype(np.float32),
    "body.2.bias": RNG.normal(size=2).astype(np.float32),
}
"""In PyTorch's order, which is that of the modules and not of their names."""


def without(*names):
    return {name: array for name, array in STATE.items() if name not in names}


def test_the_network_computes_with_the_layers_in_their_order():
    network = Network.from_torch(STATE, hidden_activation="tanh", loss="mean_squared_error", backend="numpy")
    assert (network.sizes, network.bias, network.dtype) == ((3, 5, 2), True, "float32")
    x = RNG.normal(size=(7, 3))
    hidden = np.tanh(x @ STATE["10.weight"].T + STATE["10.bias"])
    np.testing.assert_allclose(network.predict(x), hidden @ STATE["body.2.weight"].T + STATE["body.2.bias"], rtol=1e-5)


def test_the_dtype_is_the_tensors_unless_it_is_given():
    wide = {name: array.astype(np.float64) for name, array in STATE.items()}
    assert Network.from_torch(wide, backend="numpy").dtype == "float64"
    assert Network.from_torch(wide, backend="numpy", dtype="float32").dtype == "float32"
    assert Network.from_torch(wide, backend="numpy", precision="bf16").precision_name == "bf16"


def test_layers_without_bias():
    network = Network.from_torch(without("10.bias", "body.2.bias"), backend="numpy")
    assert not network.bias
    np.testing.assert_array_equal(network.weights()["layer2.weight"], STATE["body.2.weight"])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "state_dict is empty"),
        ([1, 2], "state_dict is a list"),
        (without("10.bias"), "state_dict has 2 weights and 1 biases"),
        (without("10.weight"), "10.weight is missing"),
        (STATE | {"body.2.weight": np.ones((2, 4))}, r"body.2.weight has shape \(2, 4\) after a layer of 5 outputs"),
        (STATE | {"10.weight": np.ones((5, 3, 3, 3))}, "10.weight has shape .* two sides"),
        (STATE | {"10.bias": np.ones(4)}, r"10.bias has shape \(4,\); it must have shape \(5,\)"),
        (STATE | {"10.running_mean": np.ones(5)}, "10.running_mean is of no Linear layer"),
        (STATE | {"10.bias": np.array(["a"] * 5)}, "10.bias holds"),
    ],
)
def test_what_is_no_stack_of_linear_layers_is_refused(state, message):
    with pytest.raises(ArgumentError, match=message):
        Network.from_torch(state, backend="numpy")


@pytest.mark.parametrize("name", ["sizes", "bias"])
def test_what_the_state_dict_has_is_not_given(name):
    with pytest.raises(ArgumentError, match=f"{name} was given; it must be left out"):
        Network.from_torch(STATE, **{name: True}, backend="numpy")
