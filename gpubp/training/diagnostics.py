"""Looking at training: whether the gradients are right, and warnings about what stops it from working."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.errors import ArgumentError
from gpubp.nn.activations import ELU, LeakyReLU, ReLU
from gpubp.nn.losses import AbsoluteError, Huber, Quantile
from gpubp.nn.network import Network
from gpubp.registry import require_count, require_number

VANISHED = 1e-4
"""A first layer whose gradient norm is below this share of the last layer's hardly learns."""
EXPLODED = 1e4
"""A gradient norm above this makes steps that destroy the weights."""
DEAD = 0.1
"""A layer that has lost this share of its units to zero has lost much of its width; a few are lost in any network."""

SKIPPING = (
    "steps are skipped: gradients overflow float16 at a loss scale of 1 too; take precision bf16, or scale the data"
)
"""What `Watch` says of float16 that is too narrow."""

UNIT_ROUNDOFF = 2.0**-53
ROUNDING = 16
"""Unit roundoffs of |L| that rounding is taken to change a computed L by."""
KINKED = (ReLU, LeakyReLU, ELU)
"""Activations whose σ' or σ'' jumps at z = 0."""


class Watch:
    """Warns of what is wrong with training, each kind of trouble once in a run, with advice.

    given: the kinds that were said before, for a run that is resumed.
    """

    def __init__(self, given: Iterable[str] = ()) -> None:
        self.given = list(given)

    def look(
        self,
        loss: float,
        gradient_norms: Sequence[float],
        dead: Sequence[int] = (),
        widths: Sequence[int] = (),
        skipping: bool = False,
    ) -> list[str]:
        """Return what is newly wrong after an epoch.

        Args:
            loss: of the epoch.
            gradient_norms: of each layer, first to last.
            dead, widths: for each hidden layer, how many of its units gave 0 for every example, and how many it has.
            skipping: True if steps are skipped, and no loss scale is small enough to end that.
        """
        checks = {
            "skipping": SKIPPING if skipping else "",
            "exploding": _exploding(loss, gradient_norms),
            "vanishing": _vanishing(gradient_norms),
            "dead": _dead(dead, widths),
        }
        new = {kind: message for kind, message in checks.items() if message and kind not in self.given}
        self.given += new
        return list(new.values())


def _exploding(loss: float, norms: Sequence[float]) -> str:
    advice = "lower the learning rate, clip the gradient's norm, or add a warm-up"
    if not math.isfinite(loss):
        return f"the loss is {loss}: training has diverged; {advice}"
    for layer, norm in enumerate(norms, start=1):
        if not norm <= EXPLODED:
            return f"gradients explode: the norm of layer {layer} is {norm:.2g}, above {EXPLODED:g}; {advice}"
    return ""


def _vanishing(norms: Sequence[float]) -> str:
    first, last = norms[0], norms[-1]
    if not (math.isfinite(last) and last > 0 and first < VANISHED * last):
        return ""
    return (
        f"gradients vanish: the norm of layer 1 is {first:.2g}, that of layer {len(norms)} is {last:.2g}, a ratio "
        f"under {VANISHED:g}, so the first layers hardly learn; use relu or gelu, He or Glorot initial weights, "
        "or fewer layers"
    )


def _dead(dead: Sequence[int], widths: Sequence[int]) -> str:
    if not any(count >= DEAD * width for count, width in zip(dead, widths, strict=True)):
        return ""
    where = ", ".join(
        f"{count} of {width} in layer {layer}"
        for layer, (count, width) in enumerate(zip(dead, widths, strict=True), start=1)
        if count
    )
    return (
        f"dead units: {where} gave 0 for every example of an epoch and learn no more; "
        "lower the learning rate, or use leaky_relu, elu or gelu"
    )


# --- gradient check ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Difference:
    """One derivative both ways: ∂L/∂w of one parameter, or along one direction.

    error: |backpropagation − finite difference| as a share of the larger magnitude of the two; differences that
    rounding alone can make count little (see `gradient_check`). Infinite where either is not finite.
    """

    where: tuple[int, ...] | None
    """The parameter's index in its array; None for a random direction."""
    backpropagation: float
    finite_difference: float
    error: float


@dataclass(frozen=True)
class ArrayCheck:
    """The check of one layer's weights or bias."""

    layer: int
    kind: str
    """Which of the layer's arrays: "weights" or "bias"."""
    size: int
    """Parameters in the array."""
    method: str
    """What was compared: "every parameter" or "random directions"."""
    checked: int
    """Derivatives compared."""
    kinks: int
    """Derivatives left out, because the loss has no derivative within the step: a unit or an error changes its side."""
    worst: Difference | None
    """The comparison with the largest error; None where all were left out."""
    tolerance: float

    @property
    def error(self) -> float:
        """The largest relative error; infinite if nothing could be compared."""
        return math.inf if self.worst is None else self.worst.error

    @property
    def passed(self) -> bool:
        """True if something was compared, and no error is above the tolerance."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class GradientCheck:
    """What `gradient_check` found, array by array, first layer first."""

    loss: float
    arrays: tuple[ArrayCheck, ...]
    tolerance: float
    moved: bool
    """True if the weights were moved a little first, because an array had kinks only."""

    @property
    def passed(self) -> bool:
        """True if backpropagation agrees with finite differences in every array."""
        return all(array.passed for array in self.arrays)

    @property
    def error(self) -> float:
        """The largest relative error of all."""
        return max(array.error for array in self.arrays)


@dataclass(frozen=True)
class _Settings:
    tolerance: float
    step: float
    every: int
    directions: int

    def __post_init__(self) -> None:
        require_number("tolerance", self.tolerance, above=0)
        require_number("step", self.step, above=0)
        require_count("every", self.every, 0)
        require_count("directions", self.directions)


def gradient_check(
    net: Network,
    x: Any,
    y: Any,
    *,
    seed: int = 0,
    tolerance: float = 1e-6,
    step: float = 1e-5,
    every: int = 1000,
    directions: int = 20,
    sample_weight: Any = None,
    dropout_step: int = 0,
) -> GradientCheck:
    """Compare backpropagation with central differences, (L(w + h) − L(w − h)) / 2h, on the batch (x, y).

    Works on a copy of the network in float64 on the `numpy` backend, which is the reference for all others; `net` is
    not changed.

    seed: of the random directions.
    tolerance: the largest relative error that passes. An error is |p − q| / (max(|p|, |q|) + r / tolerance), with p
        from backpropagation, q from the difference, and r = 16 u |L| / h what rounding of L may add to q (u = 2⁻⁵³).
    step: h.
    every: an array of up to this many parameters is checked parameter by parameter, a larger one along random unit
        vectors.
    directions: how many of these.
    sample_weight: of the examples, as for `Network.gradients`.
    dropout_step: the training step whose units a network with dropout drops, in every loss that is compared.

    The loss has a kink where a ReLU's z or an absolute error is 0: there backpropagation takes one of the one-sided
    derivatives (or 0) and a central difference their mean. Where the two disagree and a unit or an output lies on
    other sides at w + h and w − h, h is made smaller, twice by 10; if that does not help, the derivative is left out
    and counted. Where that leaves nothing of an array (biases of 0, and an example that no unit of the layer before
    answers to, make z = 0 in a whole layer), all is checked afresh at weights moved by N(0, 0.01²).

    Raises ArgumentError for what `Network.gradients` refuses, for settings out of range, and for a network with a
    precision of its own, whose rounding a check in float64 would not see.
    """
    if net.precision_name is not None:
        expected = "None: check the same network without it, as the equations are the same"
        raise ArgumentError("precision", net.precision_name, expected)
    require_count("seed", seed, 0)
    copy = Network.from_config({**net.config(), "dtype": "float64"}, backend="numpy")
    copy.set_weights(net.weights())
    settings = _Settings(tolerance, step, every, directions)
    generator = np.random.default_rng(seed)
    batch = _Batch(x, y, sample_weight, dropout_step if net.drops else None)
    result = _check_arrays(copy, batch, settings, generator, moved=False)
    if any(array.checked == 0 for array in result.arrays):
        for parameters in (*copy.w[1:], *copy.b[1:]):
            if parameters is not None:
                parameters += generator.normal(0, 0.01, parameters.shape)
        result = _check_arrays(copy, batch, settings, generator, moved=True)
    return result


@dataclass(frozen=True, eq=False)
class _Batch:
    """What the loss is of: `dropout_step` is None in a network without dropout."""

    x: Any
    y: Any
    sample_weight: Any
    dropout_step: int | None

    def how(self) -> dict[str, Any]:
        """Return the arguments beside x and y of `Network.gradients` and `Network.batch_loss`."""
        return {"sample_weight": self.sample_weight, "dropout_step": self.dropout_step}


def _check_arrays(
    net: Network, batch: _Batch, settings: _Settings, generator: np.random.Generator, moved: bool
) -> GradientCheck:
    loss, gradients = net.gradients(batch.x, batch.y, **batch.how())
    probe = _Probe(net, batch, settings)
    arrays = []
    for layer in range(1, net.depth + 1):
        for kind, parameters, gradient in (
            ("weights", net.w[layer], gradients.w[layer]),
            ("bias", net.b[layer], gradients.b[layer]),
        ):
            if gradient is None:
                continue
            if gradient.size <= settings.every:
                method, moves = "every parameter", _single_parameters(gradient.shape)
            else:
                method, moves = "random directions", _random_directions(gradient.shape, settings.directions, generator)
            found = [probe.compare(parameters, gradient, where, move) for where, move in moves]
            compared = [each for each in found if each is not None]
            worst = max(compared, key=lambda each: each.error, default=None)
            kinks = len(found) - len(compared)
            arrays.append(
                ArrayCheck(layer, kind, gradient.size, method, len(compared), kinks, worst, settings.tolerance)
            )
    return GradientCheck(loss, tuple(arrays), settings.tolerance, moved)


Move = tuple[Any, "float | np.ndarray"]
"""An index into an array of parameters, and what a unit of h adds there."""


def _single_parameters(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...] | None, Move]]:
    for index in np.ndindex(shape):
        yield index, (index, 1.0)


def _random_directions(
    shape: tuple[int, ...], count: int, generator: np.random.Generator
) -> Iterator[tuple[tuple[int, ...] | None, Move]]:
    for _ in range(count):
        direction = generator.normal(size=shape)
        yield None, (..., direction / np.linalg.norm(direction))


class _Probe:
    """Compares derivatives of a network's loss, by changing its parameters in place and putting them back."""

    SHRINKS = (1.0, 0.1, 0.01)

    def __init__(self, net: Network, batch: _Batch, settings: _Settings) -> None:
        self.net, self.batch = net, batch
        self.step, self.tolerance = settings.step, settings.tolerance

    def compare(
        self, parameters: np.ndarray, gradient: np.ndarray, where: tuple[int, ...] | None, move: Move
    ) -> Difference | None:
        """Return the derivative along `move` both ways, or None if a kink makes the difference meaningless."""
        index, direction = move
        p = float(np.sum(gradient[index] * direction))
        for shrink in self.SHRINKS:
            h = self.step * shrink
            above, below = (self._loss_at(parameters, index, sign * h * direction) for sign in (1, -1))
            q = (above - below) / (2 * h)
            rounding = ROUNDING * UNIT_ROUNDOFF * max(abs(above), abs(below)) / h
            error = abs(p - q) / (max(abs(p), abs(q)) + rounding / self.tolerance) if p != q else 0.0
            if not math.isfinite(error):
                error = math.inf
            if error <= self.tolerance or not self._kink_within(parameters, index, h * direction):
                return Difference(where, p, q, error)
        return None

    def _loss_at(self, parameters: np.ndarray, index: Any, change: Any) -> float:
        with _moved(parameters, index, change):
            return self.net.batch_loss(self.batch.x, self.batch.y, **self.batch.how())

    def _kink_within(self, parameters: np.ndarray, index: Any, change: Any) -> bool:
        """True if any unit or error is on one side of its kink at w + change, and on another at w − change."""
        with _moved(parameters, index, change):
            above = self._sides()
        with _moved(parameters, index, -change):
            below = self._sides()
        return any(not np.array_equal(a, b) for a, b in zip(above, below, strict=True))

    def _sides(self) -> list[np.ndarray]:
        net, x, step = self.net, self.batch.x, self.batch.dropout_step
        outputs = net.predict_proba(x, step)
        values = [*net.hidden_activations(x, step), outputs]
        sides = [a > 0 for sigma, a in zip(net.activations[1:], values, strict=True) if isinstance(sigma, KINKED)]
        if isinstance(net.loss, AbsoluteError | Huber | Quantile):
            difference = outputs - np.reshape(self.batch.y, outputs.shape)
            edge = net.loss.threshold if isinstance(net.loss, Huber) else 0.0
            sides += [difference > edge, difference < -edge]
        return sides


@contextmanager
def _moved(parameters: np.ndarray, index: Any, change: Any) -> Iterator[None]:
    kept = np.copy(parameters[index])
    parameters[index] = kept + change
    try:
        yield
    finally:
        parameters[index] = kept
