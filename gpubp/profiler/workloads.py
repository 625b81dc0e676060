"""One primitive at one shape, as `gpubp profile` runs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpubp import costs
from gpubp.backends import plans
from gpubp.backends.gpu_backend import GpuBackend
from gpubp.backends.plans import Plan
from gpubp.costs import Cost
from gpubp.crosscheck import problems
from gpubp.crosscheck.cases import measured, modes
from gpubp.dtypes import ARITHMETIC, canonical
from gpubp.errors import ArgumentError, unknown_name
from gpubp.kernels.control import Control
from gpubp.nn import activations, optimizers


@dataclass(frozen=True)
class KernelLaunch:
    """One launch of any kernel, as it is run to count.

    Attributes:
        kernel: its name.
        grid, block: their sides.
        dtype: the kind of arithmetic, of `gpubp.chips.Gpu.rates`.
        shared_mem: bytes of shared memory that the launch asks for.
        arguments: each in words, such as "float32 (1024,)".
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    dtype: str
    shared_mem: int = 0
    arguments: tuple[str, ...] = ()

    @property
    def primitive(self) -> str:
        """Return what is run, as for a primitive: the kernel."""
        return self.kernel

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the size of it: blocks, and threads of a block."""
        return math.prod(self.grid), math.prod(self.block)

    def __str__(self) -> str:
        sides = ["×".join(f"{side:,}" for side in _trimmed(each)) for each in (self.grid, self.block)]
        return f"{self.kernel}, {sides[0]} blocks of {sides[1]} threads, {self.dtype}"


def _trimmed(sides: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sides without those of 1 at the end, but for the first."""
    while len(sides) > 1 and sides[-1] == 1:
        sides = sides[:-1]
    return sides


@dataclass(frozen=True)
class Workload:
    """One primitive at one shape.

    Attributes:
        primitive: one of `gpubp.costs.PRIMITIVES`.
        shape: as `gpubp.costs.cost` says.
        dtype: the kind of arithmetic, of `gpubp.dtypes.ARITHMETIC`.
        variant: the rung of a product; None: what the backend takes.
        activation: of the products that have one, and of hadamard_derivative.
        optimizer: of update.
        mode: what else it is asked, of `gpubp.crosscheck.cases.modes`, such as "dropout"; None: nothing.
        plan: how a product is computed; None: as `backends.plans` chooses.

    Raises:
        ArgumentError: a name or the shape is wrong, or a variant or a mode is given for a primitive that has none.
    """

    primitive: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    variant: str | None = None
    activation: str = "relu"
    optimizer: str = "sgd"
    mode: str | None = None
    plan: Plan | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", canonical("dtype", self.dtype))
        self.cost()
        known = modes(self.primitive, self.dtype)
        if self.mode is not None and self.mode not in known:
            raise unknown_name("mode", self.mode, known)
        if self.variant is not None and not self.is_product:
            raise ArgumentError("variant", self.variant, f"left out for {self.primitive}, which comes in one way")
        if self.variant is not None and self.variant not in plans.VARIANTS:
            raise unknown_name("variant", self.variant, plans.VARIANTS)
        able = plans.variants_of(self.dtype, form=self.form)
        if self.variant is not None and self.variant not in able:
            others = ", ".join(
                each for each in plans.kinds_of(self.variant) if self.form in plans.forms_of(self.variant, each)
            )
            own = "left out, or" if self.tensor_cores else "one of"
            must = f"{own} {', '.join(able)}, with dtype {self.dtype}; or dtype {others}"
            raise ArgumentError("variant", self.variant, must)
        if activations.get(self.activation).name == "softmax":
            raise ArgumentError("activation", self.activation, "an elementwise activation")
        optimizers.get(self.optimizer)
        if self.primitive == "weight_step" and self.stored.itemsize == 2:
            raise ArgumentError(
                "dtype", self.dtype, "float32, float64 or tf32: in 16 bits the step would be rounded away"
            )

    @property
    def is_product(self) -> bool:
        """True if the primitive is computed by a plan."""
        return self.primitive in costs.PRODUCTS

    @property
    def tensor_cores(self) -> bool:
        """True if products run on tensor cores."""
        return ARITHMETIC[self.dtype].tensor_cores

    @property
    def row_alignment(self) -> int:
        """Return the bytes, at most 16, that all rows of a product's operands start on multiples of."""
        m, n, k = self.shape
        return plans.row_alignment(self.form, m, n, k, self.stored.itemsize)

    @property
    def form(self) -> str:
        """Return how a product's operands lie in memory, of `plans.FORMS`."""
        return {"dense_forward": "NT", "weight_gradient": "TN", "weight_step": "TN"}.get(self.primitive, "NN")

    @property
    def stored(self) -> np.dtype:
        """Return the dtype of the arrays that products read."""
        return ARITHMETIC[self.dtype].storage

    def cost(self) -> Cost:
        """Return the least work of the primitive."""
        asked = self.mode or ""
        return costs.cost(
            self.primitive,
            self.shape,
            self.dtype,
            activation=self.activation,
            optimizer=self.optimizer,
            weighted=asked.startswith("weighted"),
            accumulate=asked == "accumulate",
            penalties=asked in ("penalties", "decoupled"),
        )

    def at(self, shape: Sequence[int]) -> Workload:
        """Return the same workload at another shape."""
        return replace(self, shape=tuple(shape))

    def run(self, backend: GpuBackend) -> None:
        """Call the primitive on this backend with the arguments of the cross-check's case.

        Numbers are normal random ones, always the same: where the path of a thread depends on the data, the counts are
        those of one sample.
        """
        backend.variant = self.variant
        case = measured(
            self.primitive,
            self.shape,
            self.dtype,
            activation=self.activation,
            optimizer=self.optimizer,
            mode=self.mode,
        )
        problem = problems.make(case)
        given = {**problem.inputs, **problem.started}
        shapes = {name: (x.shape, str(x.dtype)) for name, x in given.items()} | dict(problem.made)
        rng = np.random.default_rng(0)
        device: Any = backend  # the arrays' methods are those of its own class
        arrays = {}
        # z and b come first: the stored profiles are of this sample
        for name in sorted(shapes, key=lambda name: ("z", "b", name).index(name)):
            shape, dtype = shapes[name]
            if name == "control":
                values = third_step()
            elif np.dtype(dtype).kind == "i":
                values = given[name]
            else:
                values = rng.standard_normal(shape, np.float32).astype(dtype)
                if name == "weights":  # of which none is 0: such a row is left out
                    values = np.abs(values)
            arrays[name] = device.asarray(values, dtype)
        problem.call(backend, arrays, **({"plan": self.plan} if self.is_product else {}))


def third_step() -> np.ndarray:
    """Return `control` as it is in the third step of a training."""
    values = np.zeros(len(Control))
    values[[Control.LEARNING_RATE, Control.STEP, Control.GRADIENT_SCALE, Control.LOSS_SCALE]] = 0.01, 2, 1, 1
    values[Control.LOSS_FACTOR] = 1
    return values
