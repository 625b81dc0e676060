"""Training in our own kernels on the emulated device: the digits are learnt, and the weights follow the reference."""

import numpy as np
import pytest
from devices import DEVICE

from gpubp import Network, Trainer, backends

BATCH = 64


def train(digits, backend, steps, optimizer, **settings):
    """A [64, 32, 10] network after so many steps on the digits, the same batches for every backend."""
    x, y, _, _ = digits
    net = Network([64, 32, 10], hidden_activation="tanh", backend=backend, **settings)
    trainer = Trainer(net, optimizer)
    feed = trainer.feed(x, y)
    feed.visit(np.random.default_rng(1).permutation(len(x)))
    for step in range(steps):
        start = step * BATCH % (len(x) - BATCH)
        trainer.step_rows(feed, start, BATCH)
    return net


@pytest.mark.parametrize(
    "backend",
    [pytest.param("cupy", marks=pytest.mark.slow), pytest.param("numba", marks=pytest.mark.exhaustive)],
)
def test_the_digits_are_learnt(digits, backend):
    one_epoch = len(digits[0]) // BATCH
    emulated = backends.get(backend, DEVICE)
    net = train(digits, emulated, one_epoch, {"name": "nesterov", "learning_rate": 0.1})
    _, _, x, y = digits
    # in batches of the size trained with: another one would get other tiles, which take Numba seconds to compile
    accuracies = [
        net.evaluate(x[i : i + BATCH], y[i : i + BATCH]).accuracy for i in range(0, len(x) - BATCH + 1, BATCH)
    ]
    assert np.mean(accuracies) >= 0.9


@pytest.mark.parametrize(
    ("backend", "dtype", "variant", "tolerance"),
    [
        ("cupy", "float32", None, 1e-5),
        pytest.param("cupy", "float64", None, 1e-12, marks=pytest.mark.slow),
        pytest.param("numba", "float32", None, 1e-5, marks=pytest.mark.slow),
        # the pipelined products take half a minute to compile once more
        pytest.param("numba", "float64", "tiled", 1e-12, marks=pytest.mark.slow),
    ],
)
def test_the_weights_follow_the_reference(digits, backend, dtype, variant, tolerance):
    emulated = backends.get(backend, DEVICE)
    emulated.variant = variant
    sgd = {"name": "sgd", "learning_rate": 0.01}
    expected = train(digits, "numpy", 20, sgd, dtype=dtype).weights()
    found = train(digits, emulated, 20, sgd, dtype=dtype).weights()
    for name, weights in expected.items():
        difference = np.linalg.norm(found[name] - weights) / np.linalg.norm(weights)
        print(f"{backend} {dtype} {name}: {difference:.2g} of {tolerance:g}")
        assert difference <= tolerance
