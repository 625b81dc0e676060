"""One step of backpropagation on one example, number by number, as the NumPy reference computes it.

Everything is computed in float64 by the network's own passes and by the primitives of its backend: nothing of the
mathematics is written here again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gpubp.errors import StateError
from gpubp.kernels.control import Control, Losses
from gpubp.nn import optimizers
from gpubp.nn.activations import Activation, Identity, Softmax
from gpubp.nn.losses import Loss
from gpubp.nn.network import Network
from gpubp.nn.optimizers import SGD
from gpubp.nn.trainer import Trainer

HALF_STEP = 1e-5
"""Half the distance of the two points of a central difference."""

REACH = 1.0
"""How far a curve moves z or a weight to each side."""

POINTS = 21
"""Points of such a curve."""

MOST_MOVED = 64
"""Weights of a network up to which each of them is moved by itself: more would be more than can be drawn."""

MOST_NODES = 64
"""Neurons of all layers up to which each of them is moved by itself."""


@dataclass(frozen=True)
class LayerStep:
    """What a layer computes in one step, all of it float64.

    Attributes:
        number: l, from 1.
        activation: σ.
        w, b: (n_l, n_{l-1}) and (n_l,), before the update; b is None without bias.
        a_prev: (n_{l-1},).
        z, a: (n_l,). Of the output layer of a loss from logits, a is σ(z), which the passes leave out.
        slope: σ'(z), (n_l,); None for softmax, which is not elementwise.
        incoming: what δ is made of: ∂L/∂a of the output layer, (w^{l+1})ᵀ δ^{l+1} of a hidden one, (n_l,); None if the
            loss reads the logits, whose δ is ∂L/∂z itself.
        delta: ∂L/∂z, (n_l,).
        dw, db: the gradients, shaped like w and b.
        w_after, b_after: after the update.
    """

    number: int
    activation: Activation
    w: np.ndarray
    b: np.ndarray | None
    a_prev: np.ndarray
    z: np.ndarray
    a: np.ndarray
    slope: np.ndarray | None
    incoming: np.ndarray | None
    delta: np.ndarray
    dw: np.ndarray
    db: np.ndarray | None
    w_after: np.ndarray
    b_after: np.ndarray | None


@dataclass(frozen=True)
class Moved:
    """How the loss answers when one number is moved, all others kept.

    Attributes:
        layer: l.
        place: (j,) of a neuron, or (j, i) of a weight.
        derivative: what backpropagation says: δ_j, or (∂L/∂w)_ji.
        difference: (L(+h) − L(−h)) / 2h, h = `HALF_STEP`.
        shifts, losses: (POINTS,) the curve of L.
    """

    layer: int
    place: tuple[int, ...]
    derivative: float
    difference: float
    shifts: np.ndarray
    losses: np.ndarray


@dataclass(frozen=True)
class OneStep:
    """One step of plain gradient descent on one example.

    Attributes:
        sizes: n_0 .. n_L.
        x, y: the example: (n_0,), and (n_L,) or () for the label of a class.
        learning_rate: η.
        loss: L.
        layers: 1 to L.
        loss_before, loss_after: L of this example, before and after the update.
        a_after: a^1 .. a^L of this example after the update, each (n_l,).
        nodes, weights: what moving a neuron's z, or a weight, does to L; empty if there are more than `MOST_NODES` or
            `MOST_MOVED`.
    """

    sizes: tuple[int, ...]
    x: np.ndarray
    y: np.ndarray
    learning_rate: float
    loss: Loss
    layers: tuple[LayerStep, ...]
    loss_before: float
    loss_after: float
    a_after: tuple[np.ndarray, ...]
    nodes: tuple[Moved, ...]
    weights: tuple[Moved, ...]

    @property
    def output(self) -> LayerStep:
        """Return the output layer."""
        return self.layers[-1]

    @property
    def has_bias(self) -> bool:
        """True if the layers have a bias."""
        return self.output.b is not None

    @cached_property
    def targets(self) -> np.ndarray:
        """Return y as numbers, (n_L,): of the label of a class, 1 in its place."""
        return self.y if self.y.ndim else np.eye(self.sizes[-1])[int(self.y)]


def default_example(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the example that is taken if none is given: x = 1, 1/2, 1/3, ... and y = 1, 0, 0, ..."""
    return 1 / np.arange(1.0, sizes[0] + 1), np.eye(1, sizes[-1])[0]


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def one_step(network: Network, x: Any, y: Any, learning_rate: float = 0.5) -> OneStep:
    """Return one step of plain gradient descent on the example (x, y), all numbers of it.

    The network stays as it is: what moves is a copy in float64, on backend numpy, with all units (no dropout).

    Args:
        x: (n_0,).
        y: (n_L,), or the label of a class if the loss takes labels.
        learning_rate: η > 0.

    Raises:
        ArgumentError: x or y does not fit the network, the loss does not take y, or a number of the step is beyond
            float64.
    """
    optimizer = optimizers.get({"name": "sgd", "learning_rate": learning_rate})
    assert isinstance(optimizer, SGD)
    copy = _in_float64(network)
    rows_x, rows_y = _as_batch(copy, x, y)
    passed = _Pass(copy, rows_x, rows_y)
    layers = passed.layers()
    before = passed.loss
    nodes, weights = passed.moved_nodes(layers), passed.moved_weights(layers)
    Trainer(copy, optimizer).step(rows_x, rows_y)
    stepped = tuple(
        LayerStep(**fields, w_after=copy.w[l].copy(), b_after=None if copy.b[l] is None else copy.b[l].copy())
        for l, fields in enumerate(layers, 1)
    )
    after = copy.batch_loss(rows_x, rows_y)
    moved = [array for each in (*nodes, *weights) for array in (each.losses, each.derivative * each.shifts)]
    if not all(np.isfinite(array).all() for array in (before, after, *moved)):
        raise StateError("x", "leads to numbers that float64 cannot hold", "be smaller, or the learning rate and y")
    return OneStep(
        copy.sizes,
        rows_x[0],
        rows_y[0],
        float(learning_rate),
        copy.loss,
        stepped,
        before,
        after,
        tuple(a[0] for a in (*copy.hidden_activations(rows_x), copy.predict_proba(rows_x))),
        nodes,
        weights,
    )


def _in_float64(network: Network) -> Network:
    """Return a copy of the network that computes in float64 by NumPy, and drops no units."""
    left_out = ("dropout", "precision", "loss_scaling")
    config = {name: value for name, value in network.config().items() if name not in left_out}
    copy = Network(**(config | {"dtype": "float64"}), backend="numpy")
    copy.set_weights({name: np.asarray(value, np.float64) for name, value in network.weights().items()})
    return copy


def _as_batch(network: Network, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the example as a batch of one row, checked."""
    x, y = np.asarray(x), np.asarray(y)
    if x.shape != (network.sizes[0],):
        raise StateError("x", f"has {x.size} numbers", f"have {network.sizes[0]}, one for each input")
    if y.shape != (network.sizes[-1],) and not (y.ndim == 0 and network.loss.takes_labels):
        raise StateError("y", f"has {y.size} numbers", f"have {network.sizes[-1]}, one for each output")
    return network.batches.checked(x[None], y[None])


class _Pass:
    """A forward and a backward pass over one example, and what moving a number does to the loss."""

    def __init__(self, network: Network, x: np.ndarray, y: np.ndarray) -> None:
        self.network, self.x, self.y = network, x, y
        backend = network.backend
        self.batch, target = network.batches.place(x, y)
        losses, control = backend.zeros((len(Losses),), "float64"), backend.zeros((len(Control),), "float64")
        network.forward(self.batch)
        network.output_delta(self.batch, target, None, losses, control)
        network.backward(self.batch)
        self.loss = float(losses[Losses.BATCH])

    def layers(self) -> list[dict[str, Any]]:
        """Return the fields of each layer's `LayerStep`, but for what comes after the update."""
        network, batch = self.network, self.batch
        dw, db = network.layout.layers(network.gradient)
        return [
            {
                "number": l,
                "activation": network.activations[l],
                "w": network.w[l].copy(),
                "b": None if network.b[l] is None else network.b[l].copy(),
                "a_prev": batch.a[l - 1][0].copy(),
                "z": (z := self._pre_activation(l)),
                "a": _applied(network.activations[l], z),
                "slope": _slope(network.activations[l], z),
                "incoming": self._incoming(l),
                "delta": batch.delta[l][0].copy(),
                "dw": dw[l].copy(),
                "db": None if db[l] is None else db[l].copy(),
            }
            for l in range(1, network.depth + 1)
        ]

    def _pre_activation(self, l: int) -> np.ndarray:
        """Return z^l: the product of `dense_forward` with σ(z) = z."""
        network = self.network
        z = np.empty((1, network.sizes[l]))
        network.backend.dense_forward(self.batch.a[l - 1], network.w[l], network.b[l], Identity(), None, z)
        return z[0]

    def _incoming(self, l: int) -> np.ndarray | None:
        network, batch = self.network, self.batch
        found = np.empty((1, network.sizes[l]))
        if l < network.depth:
            network.backend.transpose_product(batch.delta[l + 1], network.w[l + 1], found)
        elif network.loss.from_logits:
            return None
        else:
            network.loss.terms(batch.a[l], self.y, found)
        return found[0]

    # --- moving one number --------------------------------------------------------------------------------------------
    def moved_nodes(self, layers: list[dict[str, Any]]) -> tuple[Moved, ...]:
        """Return what moving z does, for each neuron, if there are at most `MOST_NODES`."""
        if sum(self.network.sizes[1:]) > MOST_NODES:
            return ()
        shifts = _shifts()
        found = []
        for l, layer in enumerate(layers, 1):
            for j, delta in enumerate(layer["delta"]):
                z = np.repeat(layer["z"][None], len(shifts), axis=0)
                z[:, j] += shifts
                found.append(_moved(l, (j,), float(delta), shifts, self._losses_from(l, z)))
        return tuple(found)

    def _losses_from(self, l: int, z: np.ndarray) -> np.ndarray:
        """Return L of each row of z^l (rows, n_l), as the layers above compute it."""
        network, rows = self.network, len(z)
        a = z
        for layer in range(l, network.depth + 1):
            if layer > l:
                z = np.empty((rows, network.sizes[layer]))
                network.backend.dense_forward(a, network.w[layer], network.b[layer], Identity(), None, z)
            a = np.stack([_applied(network.activations[layer], row) for row in z])
        output, y = z if network.loss.from_logits else a, np.repeat(self.y, rows, axis=0)
        terms = network.loss.terms(output, y, np.empty_like(output))
        return terms if terms.ndim == 1 else terms.sum(axis=1)

    def moved_weights(self, layers: list[dict[str, Any]]) -> tuple[Moved, ...]:
        """Return what moving a weight does, for each of them, if there are at most `MOST_MOVED`."""
        if sum(layer["w"].size for layer in layers) > MOST_MOVED:
            return ()
        shifts = _shifts()
        found = []
        for l, layer in enumerate(layers, 1):
            for place, derivative in np.ndenumerate(layer["dw"]):
                losses = np.array([self._loss_with(l, place, float(shift)) for shift in shifts])
                found.append(_moved(l, place, float(derivative), shifts, losses))
        return tuple(found)

    def _loss_with(self, l: int, place: tuple[int, ...], shift: float) -> float:
        """Return L with one weight moved."""
        w, before = self.network.w[l], self.network.w[l][place]
        w[place] = before + shift
        try:
            return self.network.batch_loss(self.x, self.y)
        finally:
            w[place] = before


def _shifts() -> np.ndarray:
    """Return how far a number is moved: the points of the curve, then the two of the central difference."""
    return np.concatenate([np.linspace(-REACH, REACH, POINTS), [-HALF_STEP, HALF_STEP]])


def _moved(l: int, place: tuple[int, ...], derivative: float, shifts: np.ndarray, losses: np.ndarray) -> Moved:
    below, above = losses[-2:]
    return Moved(l, place, derivative, float((above - below) / (2 * HALF_STEP)), shifts[:-2], losses[:-2])


def _applied(activation: Activation, z: np.ndarray) -> np.ndarray:
    """Return σ(z) of one row."""
    out = np.empty((1, z.size))
    activation.apply(z[None].copy(), out)
    return out[0]


def _slope(activation: Activation, z: np.ndarray) -> np.ndarray | None:
    """Return σ'(z) of one row; None for softmax."""
    if isinstance(activation, Softmax):
        return None
    saved = z if activation.reads == "z" else _applied(activation, z)
    out = np.empty(z.size)
    activation.derivative(saved, out)
    return out
