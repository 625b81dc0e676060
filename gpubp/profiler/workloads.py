"""A primitive with arguments of a shape: what `gpubp profile` runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpubp import costs
from gpubp.backends import plans
from gpubp.backends.base import Array
from gpubp.backends.gpu_backend import GpuBackend
from gpubp.backends.plans import Plan
from gpubp.costs import Cost
from gpubp.errors import ArgumentError, unknown_name
from gpubp.kernels.control import Control
from gpubp.nn import activations, losses, optimizers
from gpubp.nn.activations import Activation


@dataclass(frozen=True)
class Workload:
    """One primitive at one shape.

    primitive: one of `gpubp.costs.PRIMITIVES`. shape: as `gpubp.costs.cost` says. dtype: the kind of arithmetic, of
    `gpubp.costs.RATES`. variant: the rung of a product; None: what the backend takes. activation: σ of the products
    that have one, and of hadamard_derivative. optimizer: of update. plan: how a product is computed; None: by the rule.

    Raises ArgumentError for a wrong name or shape, or a variant where there are none.
    """

    primitive: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    variant: str | None = None
    activation: str = "relu"
    optimizer: str = "sgd"
    plan: Plan | None = None

    def __post_init__(self) -> None:
        self.cost()
        if self.variant is not None and not self.is_product:
            raise ArgumentError("variant", self.variant, f"left out for {self.primitive}, which comes in one way")
        if self.variant is not None and self.variant not in plans.VARIANTS:
            raise unknown_name("variant", self.variant, plans.VARIANTS)
        if self.variant is not None and (self.variant == "tensorcore") != self.tensor_cores:
            own = "left out, or tensorcore," if self.tensor_cores else f"one of {', '.join(plans.THREAD_VARIANTS)},"
            other = "" if self.tensor_cores else "; or dtype tf32, bfloat16 or float16"
            raise ArgumentError("variant", self.variant, f"{own} with dtype {self.dtype}{other}")
        if activations.get(self.activation).name == "softmax":
            raise ArgumentError("activation", self.activation, "an elementwise activation")
        optimizers.get(self.optimizer)
        if self.primitive == "weight_step" and self.stored.itemsize == 2:
            raise ArgumentError(
                "dtype", self.dtype, "float32, float64 or tf32: in 16 bits the step would be rounded away"
            )

    @property
    def is_product(self) -> bool:
        """Whether it is computed by a plan."""
        return self.primitive in costs.PRODUCTS

    @property
    def tensor_cores(self) -> bool:
        """Whether the kind of arithmetic is that of tensor cores."""
        return self.dtype not in ("float32", "float64")

    @property
    def stored(self) -> np.dtype:
        """Of the arrays that products read."""
        if self.dtype == "bfloat16":
            from gpubp.nn.precision import BFLOAT16

            return BFLOAT16
        return np.dtype("float32" if self.dtype == "tf32" else self.dtype)

    def cost(self) -> Cost:
        """Its least work."""
        return costs.cost(self.primitive, self.shape, self.dtype, activation=self.activation, optimizer=self.optimizer)

    def at(self, shape: Sequence[int]) -> Workload:
        """The same at another shape."""
        return replace(self, shape=tuple(shape))

    def run(self, backend: GpuBackend) -> None:
        """Call the primitive with normal random arguments."""
        backend.variant = self.variant
        _RUNS[self.primitive](_Arguments(backend, self))


class _Arguments:
    """Arrays for one call, each drawn when it is asked for."""

    def __init__(self, backend: GpuBackend, work: Workload) -> None:
        self.backend: Any = backend  # the arrays' methods are those of its own class
        self.work = work
        self.stored = work.stored
        self.master = np.dtype("float32") if self.stored.itemsize == 2 else self.stored
        self._rng = np.random.default_rng(0)

    @property
    def activation(self) -> Activation:
        return activations.get(self.work.activation)

    @property
    def options(self) -> dict[str, Any]:
        """Of a product."""
        return {"tf32": self.work.dtype == "tf32", "plan": self.work.plan}

    def array(self, *shape: int, dtype: np.dtype | str | None = None) -> Array:
        """Normal random numbers, of the storage dtype if nothing else is said."""
        chosen = np.dtype(dtype or self.stored)
        return self.backend.asarray(self._rng.standard_normal(shape, np.float32).astype(chosen), chosen)

    def control(self) -> Array:
        """As in the third step of a training."""
        values = np.zeros(len(Control))
        values[[Control.LEARNING_RATE, Control.STEP, Control.GRADIENT_SCALE, Control.LOSS_SCALE]] = 0.01, 3, 1, 1
        return self.backend.asarray(values, "float64")


def _dense_forward(x: _Arguments) -> None:
    m, n, k = x.work.shape
    z = x.array(m, n) if x.activation.reads == "z" else None
    b = x.array(n, dtype=x.master)
    x.backend.dense_forward(x.array(m, k), x.array(n, k), b, x.activation, z, x.array(m, n), **x.options)


def _hidden_delta(x: _Arguments) -> None:
    m, n, k = x.work.shape
    x.backend.hidden_delta(x.array(m, k), x.array(k, n), x.activation, x.array(m, n), x.array(m, n), **x.options)


def _transpose_product(x: _Arguments) -> None:
    m, n, k = x.work.shape
    x.backend.transpose_product(x.array(m, k), x.array(k, n), x.array(m, n), **x.options)


def _weight_gradient(x: _Arguments) -> None:
    m, n, k = x.work.shape
    x.backend.weight_gradient(x.array(k, m), x.array(k, n), x.array(m, n, dtype=x.master), **x.options)


def _weight_step(x: _Arguments) -> None:
    m, n, k = x.work.shape
    x.backend.weight_step(x.array(k, m), x.array(k, n), x.control(), x.array(m, n), **x.options)


def _hadamard_derivative(x: _Arguments) -> None:
    shape = x.work.shape
    x.backend.hadamard_derivative(x.array(*shape), x.activation, x.array(*shape), x.array(*shape))


def _softmax(x: _Arguments) -> None:
    x.backend.softmax(x.array(*x.work.shape), x.array(*x.work.shape))


def _output_delta(x: _Arguments) -> None:
    rows, width = x.work.shape
    loss, softmax = losses.get("softmax_cross_entropy"), activations.get("softmax")
    z, delta = x.array(rows, width), x.array(rows, width)
    labels = x.backend.asarray(np.arange(rows) % width, "int64")
    sums = x.array(2, dtype="float64")
    x.backend.output_delta(loss, softmax, z, z, labels, None, sums, delta)


def _bias_gradient(x: _Arguments) -> None:
    x.backend.bias_gradient(x.array(*x.work.shape), x.array(x.work.shape[1], dtype=x.master))


def _update(x: _Arguments) -> None:
    (size,) = x.work.shape
    rule = optimizers.get(x.work.optimizer)
    gradients, parameters = (x.array(size, dtype=x.master) for _ in range(2))
    state = [x.array(size, dtype=x.master) for _ in rule.state]
    stored = x.array(size) if x.stored != x.master else None
    x.backend.update(rule, gradients, size, x.control(), state, parameters, stored)


_RUNS: dict[str, Callable[[_Arguments], None]] = {
    "dense_forward": _dense_forward,
    "hidden_delta": _hidden_delta,
    "transpose_product": _transpose_product,
    "weight_gradient": _weight_gradient,
    "weight_step": _weight_step,
    "hadamard_derivative": _hadamard_derivative,
    "softmax": _softmax,
    "output_delta": _output_delta,
    "bias_gradient": _bias_gradient,
    "update": _update,
}
