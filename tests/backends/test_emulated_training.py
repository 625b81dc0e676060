"""Training in our own kernels on the emulated device: the digits are learnt, and the weights follow the reference."""

import numpy as np
import pytest

from gpubp import Network, data
from gpubp.data import Scaler

BACKENDS = ["cupy", "numba"]
BATCH = 64


@pytest.fixture(scope="module")
def digits():
    found = data.load("digits")
    scaler = Scaler.fit(found.x_train)
    return scaler.apply(found.x_train), found.y_train, scaler.apply(found.x_test), found.y_test


def train(digits, backend, device, steps, optimizer, **settings):
    """A [64, 32, 10] network after so many steps on the digits, the same batches for every backend."""
    x, y, _, _ = digits
    net = Network([64, 32, 10], backend=backend, device=device, **settings)
    net.optimizer = optimizer
    feed = net.feed(x, y)
    feed.visit(np.random.default_rng(1).permutation(len(x)))
    for step in range(steps):
        start = step * BATCH % (len(x) - BATCH)
        net.train_rows(feed, start, BATCH)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_digits_are_learnt(digits, backend):
    one_epoch = len(digits[0]) // BATCH
    net = train(digits, backend, "emulator", one_epoch, {"name": "nesterov", "learning_rate": 0.1})
    assert net.evaluate(digits[2], digits[3]).accuracy >= 0.9


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), pytest.param("float64", 1e-12, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("backend", ["cupy", pytest.param("numba", marks=pytest.mark.slow)])
def test_the_weights_follow_the_reference(digits, backend, dtype, tolerance):
    settings = {"hidden_activation": "tanh", "dtype": dtype}
    sgd = {"name": "sgd", "learning_rate": 0.01}
    reference = train(digits, "numpy", "cpu", 20, sgd, **settings).weights()
    emulated = train(digits, backend, "emulator", 20, sgd, **settings).weights()
    for name, weights in reference.items():
        difference = np.linalg.norm(emulated[name] - weights) / np.linalg.norm(weights)
        print(f"{backend} {dtype} {name}: {difference:.2g} of {tolerance:g}")
        assert difference <= tolerance
