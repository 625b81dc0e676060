"""The networks whose training step is measured, and the work that a step is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """A network and a batch: float32, ReLU, plain SGD; softmax cross-entropy, or half squared error for regression."""

    name: str
    sizes: tuple[int, ...]
    rows: int
    regression: bool = False
    learning_rate: float = 0.01

    @property
    def loss(self) -> str:
        """Its name, with the mean over the batch."""
        return "half_squared_error" if self.regression else "softmax_cross_entropy"

    @property
    def flops(self) -> int:
        """Of one step's products: forward, deltas (none for the input), weight gradients; an addition is one."""
        products = [n * m for m, n in itertools.pairwise(self.sizes)]
        return 2 * self.rows * (3 * sum(products) - products[0])

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """x (B, n_0), and y: labels (B,), or values (B, n_L) for regression."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.rows, self.sizes[0]), dtype=np.float32)
        if self.regression:
            return x, rng.standard_normal((self.rows, self.sizes[-1]), dtype=np.float32)
        return x, rng.integers(0, self.sizes[-1], self.rows)

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each layer w (n_l, n_{l-1}) and b (n_l,), the same for every contender."""
        rng = np.random.default_rng(1)
        return [
            (
                rng.standard_normal((n, m), dtype=np.float32) * np.float32((2 / m) ** 0.5),
                rng.standard_normal(n, dtype=np.float32) * np.float32(0.1),
            )
            for m, n in itertools.pairwise(self.sizes)
        ]


CASES = {
    case.name: case
    for case in (
        Case("tiny", (64, 32, 10), 32),
        Case("tiny-regression", (64, 32, 10), 32, regression=True),
        Case("small", (784, 128, 10), 64),
        Case("medium", (784, 512, 256, 10), 128),
        Case("wide", (784, 1024, 1024, 10), 256),
        Case("large", (1024, 2048, 2048, 1024), 512),
        Case("huge", (2048, 4096, 4096, 2048), 512),
    )
}
