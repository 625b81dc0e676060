"""Small networks on the NumPy backend, and examples for them."""

import numpy as np

from gpubp import Network

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 4))
LABELS = RNG.integers(0, 3, 7)
VALUES = RNG.normal(size=(7, 3))


def network(sizes=(4, 6, 3), **chosen):
    return Network(sizes, backend="numpy", **chosen)


def regression(**chosen):
    return network(loss="half_squared_error", dtype="float64", **chosen)
