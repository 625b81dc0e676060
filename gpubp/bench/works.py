"""What is measured: one primitive at one shape, or one training step of a network; and the least work that it is."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from gpubp.chips import Roofline
from gpubp.costs import MATRICES, PRIMITIVES, PRODUCTS, Cost, checked_shape, cost
from gpubp.crosscheck.cases import mixed_dtypes
from gpubp.dtypes import ARITHMETIC, NAMES, PLAIN, canonical
from gpubp.errors import ArgumentError, StateError, unknown_name
from gpubp.registry import require_count, require_number

DTYPES = NAMES
"""The kinds of arithmetic, as NumPy names them; tf32, bfloat16 and float16 are those of tensor cores."""

LARGEST_DOUBLE = 512
"""Side up to which a sweep has products in float64: their reference is computed in long double, without a BLAS."""

LONGEST_NAME = 40
"""Characters of a network's name, which is a cell of a table."""

MOST_RANKS = 1024
"""Processes that make a step together, at most."""

SCALINGS: dict[str, Callable[[int], int]] = {"strong": lambda ranks: 1, "weak": lambda ranks: ranks}
"""The kinds of scaling, and how many times the rows of one rank's batch so many ranks have."""

OPTIMIZER = "adam"
"""The optimiser in which update is measured; see `crosscheck.cases.measured` for the other primitives."""


class Work(ABC):
    """What one call does. `group` and `label` together name it; works of one group differ in size.

    Attributes:
        kind: the name in files.
        dtype: the kind of arithmetic.
        group: what the work is.
        label: which of its group.
        size: the geometric mean of its sides.
        costs: of the primitives that it consists of.
    """

    kind: ClassVar[str]
    dtype: str

    @property
    @abstractmethod
    def group(self) -> str: ...

    @property
    @abstractmethod
    def label(self) -> str: ...

    @property
    @abstractmethod
    def size(self) -> float: ...

    @property
    @abstractmethod
    def costs(self) -> tuple[Cost, ...]: ...

    @property
    def title(self) -> str:
        """Return the name in one line."""
        return f"{self.group} {self.label} {self.dtype}"

    @property
    def flops(self) -> int:
        """Return the number of floating-point operations."""
        return sum(each.flops for each in self.costs)

    @property
    def bytes(self) -> int:
        """Return the least bytes: each primitive reads each input once and writes each output once."""
        return sum(each.bytes for each in self.costs)

    def least_seconds(self, limits: Roofline) -> float:
        """Return the least time on a machine with these limits, one primitive after the other."""
        return sum(each.least_seconds(limits) for each in self.costs)

    def to_dict(self) -> dict[str, Any]:
        """Return the work as JSON can hold it; `from_dict` reads it."""
        return {"kind": self.kind} | asdict(self)  # type: ignore[call-overload]


def _name_dtype(work: Work) -> None:
    """Give a work's dtype its canonical name. Raise ArgumentError if it has none."""
    object.__setattr__(work, "dtype", canonical("dtype", work.dtype))


@dataclass(frozen=True)
class Primitive(Work):
    """One primitive at a shape (see `gpubp.costs.cost`).

    Raises:
        ArgumentError: the name, the shape or the dtype is wrong.
    """

    kind = "primitive"

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.name not in PRIMITIVES:
            raise unknown_name("primitive", self.name, PRIMITIVES)
        checked_shape(self.name, self.shape)
        _name_dtype(self)
        if not _has_dtype(self.name, self.dtype):
            kinds = ", ".join((*PLAIN, *mixed_dtypes(self.name)))
            raise ArgumentError("dtype", self.dtype, f"one of {kinds} for {self.name}")

    @property
    def group(self) -> str:
        """Return the name of the primitive."""
        return self.name

    @property
    def label(self) -> str:
        """Return the shape as text."""
        return "x".join(map(str, self.shape))

    @property
    def size(self) -> float:
        """Return the side of a square of as many elements, or of a cube of as many multiplications."""
        return math.prod(self.shape) ** (1 / max(2, len(self.shape)))

    @property
    def costs(self) -> tuple[Cost, ...]:
        """Return the cost of the primitive."""
        return (cost(self.name, self.shape, self.dtype, optimizer=OPTIMIZER),)


@dataclass(frozen=True)
class TrainingStep(Work):
    """A training step: ReLU, plain SGD; softmax cross-entropy, or half squared error for regression.

    Attributes:
        name: of the network.
        sizes: the widths n_0, ..., n_L.
        rows: of the batch.
        regression: True for half squared error.
        learning_rate: of SGD.
        dtype: the kind of arithmetic.
    """

    kind = "step"

    name: str
    sizes: tuple[int, ...]
    rows: int
    regression: bool = False
    learning_rate: float = 0.01
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _name_dtype(self)
        if not isinstance(self.name, str) or not self.name.isprintable() or len(self.name) > LONGEST_NAME:
            raise ArgumentError("name", self.name, f"a text in one line, of at most {LONGEST_NAME} characters")
        if len(self.sizes) < 2:
            raise ArgumentError("sizes", self.sizes, "two widths or more")
        for side in (self.rows, *self.sizes):
            require_count("sizes", side)
        if not isinstance(self.regression, bool):
            raise ArgumentError("regression", self.regression, "True or False")
        require_number("learning_rate", self.learning_rate)

    @property
    def group(self) -> str:
        """Return "step": all steps are one group."""
        return "step"

    @property
    def label(self) -> str:
        """Return the name of the network."""
        return self.name

    @property
    def size(self) -> float:
        """Return the side of a cube of as many multiplications."""
        return (self.flops / 2) ** (1 / 3)

    @property
    def loss(self) -> str:
        """Return the name of the loss, which is the mean over the batch."""
        return "half_squared_error" if self.regression else "softmax_cross_entropy"

    @property
    def flops(self) -> int:
        """Return the flops of the products: forward, deltas (none for the input) and weight gradients."""
        products = [n * m for m, n in itertools.pairwise(self.sizes)]
        return 2 * self.rows * (3 * sum(products) - products[0])

    @property
    def costs(self) -> tuple[Cost, ...]:
        """Return the costs of the primitives, in the network's order."""
        return self.costs_of(self.primitives())

    def primitives(self, alone: bool = True) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return the primitives and their shapes, in the network's order.

        Args:
            alone: False for one of several processes: gradients are added up before the step, so that it cannot be
                folded into the product.
        """
        layers = list(itertools.pairwise(self.sizes))
        rows, widths = self.rows, self.sizes[1:]
        found: list[tuple[str, tuple[int, ...]]] = [("dense_forward", (rows, n, m)) for m, n in layers]
        found.append(("output_delta", (rows, widths[-1])))
        found += [("hidden_delta", (rows, m, n)) for m, n in layers[1:]]
        # with 16 bits the step is not folded into the product: the master weights are updated, and rounded
        folded = alone and ARITHMETIC[self.dtype].item_bytes > 2
        found += [("weight_step" if folded else "weight_gradient", (n, m, rows)) for m, n in layers]
        found += [("bias_gradient", (rows, n)) for n in widths]
        updated = sum(widths) + (0 if folded else sum(n * m for m, n in layers))
        return (*found, ("update", (updated,)))

    def costs_of(self, primitives: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[Cost, ...]:
        """Return the costs of these of its primitives."""
        return tuple(cost(name, shape, self.dtype, labels=not self.regression) for name, shape in primitives)

    @property
    def master(self) -> np.dtype:
        """Return the dtype of examples and of the weights that are updated."""
        return ARITHMETIC[self.dtype].accumulator

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x (B, n_0) and y: labels (B,), or values (B, n_L) for regression."""
        rng = np.random.default_rng(0)
        x = self._drawn(rng, self.rows, self.sizes[0])
        if self.regression:
            return x, self._drawn(rng, self.rows, self.sizes[-1])
        return x, rng.integers(0, self.sizes[-1], self.rows)

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return w (n_l, n_{l-1}) and b (n_l,) of each layer, the same for every contender."""
        rng = np.random.default_rng(1)
        return [
            (self._drawn(rng, n, m) * self.master.type((2 / m) ** 0.5), self._drawn(rng, n) / 10)
            for m, n in itertools.pairwise(self.sizes)
        ]

    def _drawn(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32).astype(self.master)


@dataclass(frozen=True)
class SharedStep(Work):
    """A training step that several processes make together, each on its share of the batch; `step.rows` is the whole.

    Attributes:
        step: as one process would make it.
        ranks: the processes.
    """

    kind = "shared step"

    step: TrainingStep
    ranks: int

    def __post_init__(self) -> None:
        if not isinstance(self.step, TrainingStep):
            raise StateError("step", f"is a {type(self.step).__name__}", "be a TrainingStep")
        require_count("ranks", self.ranks, most=MOST_RANKS)
        if self.step.rows < self.ranks:
            raise ArgumentError("ranks", self.ranks, f"≤ {self.step.rows}, the rows of {self.step.name}'s batch")

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """Return the kind of arithmetic."""
        return self.step.dtype

    @property
    def group(self) -> str:
        """Return "shared step": all of them are one group."""
        return self.kind

    @property
    def label(self) -> str:
        """Return the network, the ranks and the batch."""
        return f"{self.step.name}, {ranks_in_words(self.ranks)}, batch {self.step.rows}"

    @property
    def size(self) -> float:
        """Return the number of ranks."""
        return self.ranks

    @property
    def flops(self) -> int:
        """Return the flops of the products of all ranks together."""
        return self.step.flops

    @property
    def share(self) -> TrainingStep:
        """Return the step with the rows of the rank that has the most."""
        return replace(self.step, rows=-(-self.step.rows // self.ranks))

    @property
    def costs(self) -> tuple[Cost, ...]:
        """Return the costs of the primitives of all ranks, as if each had the largest share."""
        share = self.share
        return share.costs_of(share.primitives(alone=self.ranks == 1)) * self.ranks


@dataclass(frozen=True)
class Limit(Work):
    """What a machine can do at most, measured: a square product by the vendor's library, or a copy.

    Attributes:
        name: "product", of side × side matrices, or "copy", of side × side elements.
    """

    kind = "limit"

    name: str
    side: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _name_dtype(self)
        if self.name not in ("product", "copy"):
            raise unknown_name("limit", self.name, ("product", "copy"))
        require_count("side", self.side)

    @property
    def group(self) -> str:
        """Return "limit": both are one group."""
        return "limit"

    @property
    def label(self) -> str:
        """Return which of the two it is."""
        return self.name

    @property
    def size(self) -> float:
        """Return the side."""
        return self.side

    @property
    def costs(self) -> tuple[Cost, ...]:
        """Return the cost of the product or of the copy."""
        if self.name == "product":
            return (cost("transpose_product", (self.side,) * 3, self.dtype),)
        nbytes = self.side * self.side * ARITHMETIC[self.dtype].item_bytes
        return (Cost(0, nbytes, nbytes, self.dtype),)


KINDS: dict[str, type[Work]] = {work.kind: work for work in (Primitive, TrainingStep, SharedStep, Limit)}

STEPS = {
    step.name: step
    for step in (
        TrainingStep("tiny", (64, 32, 10), 32),
        TrainingStep("tiny-regression", (64, 32, 10), 32, regression=True),
        TrainingStep("small", (784, 128, 10), 64),
        TrainingStep("medium", (784, 512, 256, 10), 128),
        TrainingStep("wide", (784, 1024, 1024, 10), 256),
        TrainingStep("large", (1024, 2048, 2048, 1024), 512),
        TrainingStep("huge", (2048, 4096, 4096, 2048), 512),
    )
}
"""The networks whose step is measured."""


def step_of(name: str, dtype: str = "float32") -> TrainingStep:
    """Return the step of a network.

    Args:
        name: of `STEPS`, or NAME@ROWS for another batch. The learning rate goes down with the batch (Goyal et al.,
            "Accurate, large minibatch SGD", 2017): the losses that contenders must agree on are to stay above 0.

    Raises:
        ArgumentError: there is no such network, dtype or batch.
    """
    network, at, rows = name.partition("@")
    if network not in STEPS:
        raise unknown_name("network", network, STEPS)
    step = replace(STEPS[network], dtype=dtype)
    if not at:
        return step
    if not (rows.isascii() and rows.isdigit() and len(rows) < 10 and int(rows)):
        raise ArgumentError("network", name, f"{network}@ROWS, with a number of rows such as 16")
    rate = step.learning_rate * min(1.0, int(rows) / step.rows)
    return replace(step, name=name, rows=int(rows), learning_rate=rate)


@dataclass(frozen=True)
class Sweep:
    """The works of a run: primitives at square shapes with these sides, and steps of networks."""

    primitives: tuple[str, ...]
    product_sides: tuple[int, ...]
    matrix_sides: tuple[int, ...]
    steps: tuple[str, ...]

    def of(self, primitive: str, dtype: str) -> list[Primitive]:
        """Return the works of one primitive."""
        if primitive not in PRIMITIVES:
            raise unknown_name("primitive", primitive, PRIMITIVES)
        if primitive in PRODUCTS:
            largest = LARGEST_DOUBLE if dtype == "float64" else max(self.product_sides)
            return [Primitive(primitive, (side,) * 3, dtype) for side in self.product_sides if side <= largest]
        shapes = [(side, side) if primitive in MATRICES else (side * side,) for side in self.matrix_sides]
        return [Primitive(primitive, shape, dtype) for shape in shapes]


_USUAL = ("dense_forward", "output_delta", "hidden_delta", "weight_gradient", "bias_gradient", "update")
QUICK = Sweep(_USUAL, (64, 256), (64, 512), ("tiny", "small"))
DEFAULT = Sweep(_USUAL, (64, 128, 256, 512, 1024), (64, 512, 2048), ("tiny", "tiny-regression", "small", "medium"))
ON_GPU = Sweep(_USUAL, (256, 1024, 2048), (2048,), ("tiny", "small", "medium", "large"))
FULL = Sweep(PRIMITIVES, (32, 64, 128, 256, 512, 1024, 2048, 4096), (64, 128, 256, 512, 1024, 2048, 4096), tuple(STEPS))


def choose(
    sweep: Sweep,
    *,
    primitives: Sequence[str] = (),
    shapes: Sequence[tuple[int, ...]] = (),
    steps: Sequence[str] | None = None,
    dtypes: Sequence[str] = ("float32",),
) -> list[Work]:
    """Return the works of a run; without primitives and steps, all of the sweep.

    Args:
        sweep: what is chosen from.
        primitives: only these.
        shapes: of the primitives, in place of the sweep's.
        steps: only these networks, as in `step_of`; an empty sequence stands for the sweep's.
        dtypes: the kinds of arithmetic.

    Raises:
        ArgumentError: a name is unknown, or a shape fits no chosen primitive.
    """
    everything = not primitives and steps is None
    names = (sweep.primitives if everything or (shapes and not primitives) else tuple(primitives)) or ()
    found: list[Work] = []
    for dtype in dict.fromkeys(canonical("dtype", each) for each in dtypes):
        for name in names if primitives else [name for name in names if _has_dtype(name, dtype)]:
            found += [Primitive(name, shape, dtype) for shape in shapes if _fits(name, shape)]
            found += [] if shapes else sweep.of(name, dtype)
        if steps is not None or (everything and not shapes):
            found += [step_of(name, dtype) for name in steps or sweep.steps]
    for shape in shapes:
        if not any(isinstance(work, Primitive) and work.shape == shape for work in found):
            sides = "MxNxK for products, BxN for matrices, one number for update"
            raise ArgumentError(
                "shape", "x".join(map(str, shape)), f"of as many sides as a chosen primitive has: {sides}"
            )
    return found


def shared(steps: Sequence[Work], ranks: Sequence[int]) -> list[Work]:
    """Return the works that show how steps scale: with one rank, and with each number of ranks twice, on the same batch
    (strong scaling) and on as many times the rows (weak scaling). Those with as many ranks stand together.

    Args:
        steps: each a `TrainingStep`.
        ranks: numbers of ranks.

    Raises:
        ArgumentError: a number of ranks is wrong, or above a step's rows.
    """
    found: list[Work] = []
    for count in sorted({1, *ranks}):
        for step in steps:
            assert isinstance(step, TrainingStep)
            found += [SharedStep(replace(step, rows=step.rows * times(count)), count) for times in SCALINGS.values()]
    return list(dict.fromkeys(found))


def ranks_in_words(count: int) -> str:
    """Return the number of ranks as text."""
    return "1 rank" if count == 1 else f"{count} ranks"


def from_dict(values: Mapping[str, Any]) -> Work:
    """Return the work that `Work.to_dict` described.

    Raises:
        ValueError (ArgumentError too), TypeError, KeyError: `values` describes no work.
    """
    chosen = dict(values)
    name = chosen.pop("kind")
    if name not in KINDS:
        raise unknown_name("kind", name, KINDS)
    kind = KINDS[name]
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    for field in chosen:
        if field not in known:
            raise unknown_name(f"a field of a {name}", field, known)
    for field in ("shape", "sizes"):
        if field in chosen:
            chosen[field] = tuple(chosen[field])
    if "step" in chosen:
        chosen["step"] = from_dict({"kind": TrainingStep.kind, **chosen["step"]})
    return kind(**chosen)


def _has_dtype(primitive: str, dtype: str) -> bool:
    return dtype in PLAIN or dtype in mixed_dtypes(primitive)


def _fits(primitive: str, shape: tuple[int, ...]) -> bool:
    if primitive not in PRIMITIVES:
        raise unknown_name("primitive", primitive, PRIMITIVES)
    return len(shape) == (3 if primitive in PRODUCTS else 2 if primitive in MATRICES else 1)
