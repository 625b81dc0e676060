"""How the norm of δ changes from layer to layer, in networks of depth 2 to 20: what vanishes, and what explodes."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from gpubp.kernels.control import Control, Losses
from gpubp.nn.network import Network
from gpubp.nn.trainer import Trainer

WIDTH, ROWS = 32, 64
"""Of every layer, and examples of the batch."""

DEPTHS = range(2, 21, 2)
ACTIVATIONS = ("sigmoid", "tanh", "relu")

FACTORS = {"own": 1.0, "small": 1 / 3, "large": 3.0}
"""What the weights that gpubp draws by itself are multiplied by."""

CLIP_NORM = 1.0


@dataclass(frozen=True)
class DeepNetwork:
    """What one backward pass through a deep network leaves behind.

    Attributes:
        activation, scale: σ of all layers, and a key of `FACTORS`.
        depth: L.
        norms: (L,) the Euclidean norm of δ of layers 1 to L.
        gradient: the norm of the whole gradient.
        clipped: the same as a step takes it with `CLIP_NORM`.
    """

    activation: str
    scale: str
    depth: int
    norms: np.ndarray
    gradient: float
    clipped: float

    @property
    def kept(self) -> float:
        """Return the norm of the first layer's δ as a share of the output's."""
        return float(self.norms[0] / self.norms[-1])


@functools.cache
def deep_networks() -> tuple[DeepNetwork, ...]:
    """Return every combination of activation, scale and depth; always the same."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((ROWS, WIDTH)), rng.uniform(size=(ROWS, WIDTH))
    every = itertools.product(ACTIVATIONS, FACTORS, DEPTHS)
    return tuple(_passed(activation, scale, depth, x, y) for activation, scale, depth in every)


def _passed(activation: str, scale: str, depth: int, x: np.ndarray, y: np.ndarray) -> DeepNetwork:
    network = Network(
        (WIDTH,) * (depth + 1),
        hidden_activation=activation,
        output_activation=activation,
        loss="half_squared_error",
        dtype="float64",
        backend="numpy",
    )
    network.parameters *= FACTORS[scale]
    before = network.parameters.copy()
    batch, target = network.batches.place(x, y)
    network.forward(batch)
    losses, control = np.zeros(len(Losses)), np.zeros(len(Control))
    network.output_delta(batch, target, None, losses, control)
    network.backward(batch)
    gradient = float(np.linalg.norm(network.gradient))
    # with a learning rate of 1 a step is the gradient that is left after clipping
    Trainer(network, {"name": "sgd", "learning_rate": 1.0, "clip_norm": CLIP_NORM}).step(x, y)
    clipped = float(np.linalg.norm(network.parameters - before))
    norms = np.array([np.linalg.norm(delta) for delta in batch.delta[1:]])
    return DeepNetwork(activation, scale, depth, norms, gradient, clipped)
