"""What the arguments of each primitive must be on a backend with kernels: checked before anything is launched.

An array, here, is anything with `shape`, `strides`, `dtype`, `nbytes`, `flags["C_CONTIGUOUS"]` and an address on the
device. What a check says of an array depends on these facts alone, so arrays that have passed are not looked at again:
see `remembered`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from gpubp.backends.base import FORMS, Array
from gpubp.dtypes import FLOAT64, master_of
from gpubp.errors import ArgumentError, StateError, unknown_name
from gpubp.kernels.control import Control, Losses
from gpubp.nn.optimizers import Optimizer
from gpubp.nn.precision import require_master

INT64 = np.dtype(np.int64)
MOST_GATHERED = 3
"""Arrays whose rows are gathered at once: examples, targets, weights."""
MOST_REMEMBERED = 4096
"""Sets of arrays whose checks are remembered; with one more, all are forgotten."""

Found = TypeVar("Found")


class Product(NamedTuple):
    """What a product's operands say: C is (m, n), the depth is k, and all rows of A and B start on multiples of
    `alignment` bytes, at most 16."""

    m: int
    n: int
    k: int
    alignment: int
    dtype: np.dtype


def remembered(check: Callable[..., Found]) -> Callable[..., Found]:
    """Return the check, made once for each set of arguments that passes it.

    Arrays are told apart by their addresses, shapes, strides, dtypes and devices. Other arguments are compared as they
    are. What raises is not remembered.
    """

    @functools.wraps(check)
    def checked(self: ArgumentChecker, *arguments: Any) -> Found:
        key = (check, *map(self.facts, arguments))
        try:
            found = self.passed.get(key)
        except TypeError:  # an argument that has no hash is no array of the backend: the check will name it
            return check(self, *arguments)
        if found is None:
            found = check(self, *arguments)
            if len(self.passed) >= MOST_REMEMBERED:
                self.passed.clear()
            self.passed[key] = found
        return found

    return checked


class ArgumentChecker:
    """Checks the arguments of a primitive before its launch, so that a wrong one is named and nothing is written.

    Each method but the first few is the check of the primitive of that name. It raises ArgumentError, or returns what
    the arrays' shapes say.

    Args:
        kind: the type of array that the backend works on.
        device: the number of its device.
        address, device_of: how to ask an array where it lies.
        floats: the dtypes that the backend's kernels read.
    """

    def __init__(
        self,
        kind: type,
        device: int,
        address: Callable[[Array], int],
        device_of: Callable[[Array], int],
        floats: Sequence[np.dtype],
    ) -> None:
        self._floats = tuple(floats)
        self._kind = kind
        self._device = device
        self.address = address
        self._device_of = device_of
        self.passed: dict[Hashable, Any] = {}

    # --- one array --------------------------------------------------------------------------------------------------
    def facts(self, x: Any) -> Hashable:
        """Return all that a check may ask of an array; anything else as it is."""
        if not isinstance(x, self._kind):
            return x
        array: Array = x
        return self.address(array), array.shape, array.strides, array.dtype, self._device_of(array)

    def matrix(self, argument: str, x: Array) -> tuple[int, int]:
        """Return the sides of a float matrix, the first argument that a primitive's shapes are derived from."""
        self._on_device(argument, x)
        if len(x.shape) != 2:
            raise ArgumentError(argument, tuple(x.shape), "a shape of two sides (rows, columns)")
        self.array(argument, x, x.shape, self.float_dtype(argument, x))
        if 0 in x.shape:
            raise ArgumentError(argument, tuple(x.shape), "a shape whose sides are all ≥ 1")
        return x.shape[0], x.shape[1]

    def float_dtype(self, argument: str, x: Array) -> np.dtype:
        """Return the dtype of x, which must be one that the kernels read."""
        self._on_device(argument, x)
        if x.dtype not in self._floats:
            raise ArgumentError(f"{argument}.dtype", str(x.dtype), " or ".join(map(str, self._floats)))
        return np.dtype(x.dtype)

    def array(self, argument: str, x: Array, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Raise ArgumentError unless x is a C-contiguous array of this shape and dtype on the backend's device."""
        self._on_device(argument, x)
        if tuple(x.shape) != tuple(shape):
            raise ArgumentError(f"{argument}.shape", tuple(x.shape), f"{tuple(shape)}, as the other arguments say")
        if x.dtype != dtype:
            raise ArgumentError(f"{argument}.dtype", str(x.dtype), str(np.dtype(dtype)))
        if not x.flags["C_CONTIGUOUS"]:
            raise ArgumentError(f"{argument}.strides", tuple(x.strides), f"C-contiguous for the shape {tuple(x.shape)}")

    def disjoint(self, written: dict[str, Array | None], read: dict[str, Array | None]) -> None:
        """Raise ArgumentError if an array that is written overlaps another argument in memory; None is no array."""
        spans = [
            (name, self.address(x), self.address(x) + x.nbytes)
            for arrays in (written, read)
            for name, x in arrays.items()
            if x is not None
        ]
        for position, (name, start, end) in enumerate(spans[: sum(x is not None for x in written.values())]):
            for other, other_start, other_end in spans[position + 1 :]:
                if start < other_end and other_start < end:
                    raise StateError(name, f"overlaps {other}, at {start:#x}", "lie in memory of its own")

    def _on_device(self, argument: str, x: Array) -> None:
        if not isinstance(x, self._kind):
            expected = "be an array of this backend (see its asarray, empty and zeros)"
            raise StateError(argument, f"is a {type(x).__name__}", expected)
        if self._device_of(x) != self._device:
            raise ArgumentError(f"{argument}.device", self._device_of(x), f"{self._device}, the backend's device")

    def _control(self, control: Array) -> None:
        self.array("control", control, (len(Control),), FLOAT64)

    def _given(self, argument: str, control: Array | None, reason: str) -> None:
        """Raise ArgumentError unless `control` is there, and as it must be: `reason`, another argument, asks for it."""
        if control is None:
            raise StateError(argument, "is None", f"be given with {reason}")
        self._control(control)

    def _product(self, m: int, n: int, k: int, a: Array, b: Array) -> Product:
        starts = (number for x in (a, b) for number in (x.shape[1] * x.dtype.itemsize, self.address(x)))
        return Product(m, n, k, math.gcd(16, *starts), np.dtype(a.dtype))

    # --- array functions --------------------------------------------------------------------------------------------
    @remembered
    def copy(self, source: Array, out: Array) -> int:
        self.array("source", source, source.shape, source.dtype)
        self.array("out", out, source.shape, source.dtype)
        self.disjoint({"out": out}, {"source": source})
        return source.size

    @remembered
    def cast(self, source: Array, out: Array) -> int:
        from_dtype, to_dtype = self.float_dtype("source", source), self.float_dtype("out", out)
        self.array("source", source, source.shape, from_dtype)
        self.array("out", out, source.shape, to_dtype)
        self.disjoint({"out": out}, {"source": source})
        return source.size

    @remembered
    def gather_rows(self, order: Array, control: Array, count: int, *arrays: Array) -> int:
        """arrays: `count` sources, and as many to be written."""
        self._on_device("order", order)
        self.array("order", order, (math.prod(order.shape),), INT64)
        self._control(control)
        if not 1 <= count <= MOST_GATHERED:
            raise ArgumentError("sources", count, f"1 to {MOST_GATHERED} arrays")
        if len(arrays) != 2 * count:
            raise StateError("out", f"has {len(arrays) - count} arrays", f"have {count}, one for each source")
        sources = {f"sources[{i}]": x for i, x in enumerate(arrays[:count])}
        out = {f"out[{i}]": x for i, x in enumerate(arrays[count:])}
        self._on_device("out[0]", arrays[count])
        rows = len(arrays[count])
        for (name, source), (written, x) in zip(sources.items(), out.items(), strict=True):
            self.array(name, source, source.shape, source.dtype)
            self.array(written, x, (rows, *source.shape[1:]), source.dtype)
        if rows > len(order):
            raise ArgumentError("out[0].shape", tuple(arrays[count].shape), f"at most the {len(order)} rows of order")
        self.disjoint(out, {**sources, "order": order, "control": control})
        return rows

    @remembered
    def scale(self, x: Array) -> int:
        self.array("x", x, x.shape, self.float_dtype("x", x))
        return x.size

    @remembered
    def row_argmax(self, x: Array, out: Array) -> tuple[int, int]:
        rows, width = self.matrix("x", x)
        self.array("out", out, (rows,), INT64)
        self.disjoint({"out": out}, {"x": x})
        return rows, width

    # --- forward ----------------------------------------------------------------------------------------------------
    @remembered
    def dense_forward(
        self, a_prev: Array, w: Array, b: Array | None, z: Array | None, a: Array, drops: bool, control: Array | None
    ) -> Product:
        rows, width_prev = self.matrix("a_prev", a_prev)
        width, dtype = self.matrix("w", w)[0], a_prev.dtype
        self.array("w", w, (width, width_prev), dtype)
        if b is not None:
            self.array("b", b, (width,), master_of(dtype))
        if z is not None:
            self.array("z", z, (rows, width), dtype)
        self.array("a", a, (rows, width), dtype)
        if drops:
            self._given("control", control, "dropout")
        self.disjoint({"z": z, "a": a}, {"a_prev": a_prev, "w": w, "b": b, "control": control})
        return self._product(rows, width, width_prev, a_prev, w)

    @remembered
    def softmax(self, z: Array, a: Array) -> tuple[int, int]:
        rows, width = self.matrix("z", z)
        master = master_of(z.dtype)
        self.array("a", a, (rows, width), master if a.dtype == master else z.dtype)
        self.disjoint({"a": a}, {"z": z})
        return rows, width

    # --- backward ---------------------------------------------------------------------------------------------------
    @remembered
    def output_delta(
        self,
        output: Array,
        saved: Array,
        y: Array,
        labels: bool,
        weights: Array | None,
        control: Array | None,
        losses: Array,
        delta: Array,
    ) -> tuple[int, int]:
        rows, width = self.matrix("output", output)
        dtype = output.dtype
        self.array("saved", saved, (rows, width), dtype)
        self.array("y", y, (rows,) if labels else (rows, width), INT64 if labels else master_of(dtype))
        if weights is not None:
            self.array("weights", weights, (rows,), master_of(dtype))
            self._given("control", control, "weights")
        elif control is not None:
            self._control(control)
        self.array("losses", losses, (len(Losses),), FLOAT64)
        self.array("delta", delta, (rows, width), dtype)
        read = {"output": output, "saved": saved, "y": y, "weights": weights, "control": control}
        self.disjoint({"losses": losses, "delta": delta}, read)
        return rows, width

    @remembered
    def hidden_delta(
        self, delta_next: Array, w_next: Array, saved: Array, delta: Array, drops: bool, control: Array | None
    ) -> Product:
        rows, width_next = self.matrix("delta_next", delta_next)
        width, dtype = self.matrix("w_next", w_next)[1], delta_next.dtype
        self.array("w_next", w_next, (width_next, width), dtype)
        self.array("saved", saved, (rows, width), dtype)
        self.array("delta", delta, (rows, width), dtype)
        if drops:
            self._given("control", control, "dropout")
        read = {"delta_next": delta_next, "w_next": w_next, "saved": saved, "control": control}
        self.disjoint({"delta": delta}, read)
        return self._product(rows, width, width_next, delta_next, w_next)

    @remembered
    def transpose_product(self, delta_next: Array, w_next: Array, product: Array) -> Product:
        rows, width_next = self.matrix("delta_next", delta_next)
        width, dtype = self.matrix("w_next", w_next)[1], delta_next.dtype
        self.array("w_next", w_next, (width_next, width), dtype)
        self.array("product", product, (rows, width), dtype)
        self.disjoint({"product": product}, {"delta_next": delta_next, "w_next": w_next})
        return self._product(rows, width, width_next, delta_next, w_next)

    @remembered
    def hadamard_derivative(self, product: Array, saved: Array, delta: Array) -> int:
        rows, width = self.matrix("product", product)
        self.array("saved", saved, (rows, width), product.dtype)
        self.array("delta", delta, (rows, width), product.dtype)
        self.disjoint({"delta": delta}, {"product": product, "saved": saved})
        return rows * width

    @remembered
    def weight_gradient(self, delta: Array, a_prev: Array, gradient: Array, bias_gradient: Array | None) -> Product:
        found = self._over_the_batch(delta, a_prev)
        self.array("gradient", gradient, (found.m, found.n), master_of(delta.dtype))
        if bias_gradient is not None:
            self.array("bias_gradient", bias_gradient, (found.m,), master_of(delta.dtype))
        self.disjoint({"gradient": gradient, "bias_gradient": bias_gradient}, {"delta": delta, "a_prev": a_prev})
        return found

    @remembered
    def bias_gradient(self, delta: Array, gradient: Array) -> tuple[int, int]:
        rows, width = self.matrix("delta", delta)
        self.array("gradient", gradient, (width,), master_of(delta.dtype))
        self.disjoint({"gradient": gradient}, {"delta": delta})
        return rows, width

    # --- update -----------------------------------------------------------------------------------------------------
    @remembered
    def weight_step(self, delta: Array, a_prev: Array, control: Array, w: Array, b: Array | None) -> Product:
        require_master("w", w)
        found = self._over_the_batch(delta, a_prev)
        self._control(control)
        self.array("w", w, (found.m, found.n), delta.dtype)
        if b is not None:
            self.array("b", b, (found.m,), delta.dtype)
        self.disjoint({"w": w, "b": b}, {"delta": delta, "a_prev": a_prev, "control": control})
        return found

    def _over_the_batch(self, delta: Array, a_prev: Array) -> Product:
        rows, width = self.matrix("delta", delta)
        width_prev = self.matrix("a_prev", a_prev)[1]
        self.array("a_prev", a_prev, (rows, width_prev), delta.dtype)
        return self._product(width, width_prev, rows, delta, a_prev)

    @remembered
    def prepare_update(self, gradients: Array, control: Array) -> int:
        require_master("gradients", gradients)
        self.array("gradients", gradients, gradients.shape, self.float_dtype("gradients", gradients))
        self._control(control)
        self.disjoint({"control": control}, {"gradients": gradients})
        return gradients.size

    @remembered
    def update(
        self,
        optimizer: Optimizer,
        gradients: Array,
        decayed: int,
        control: Array,
        parameters: Array,
        stored: Array | None,
        *state: Array,
    ) -> int:
        dtype = self.float_dtype("gradients", gradients)
        require_master("gradients", gradients)
        shape = (gradients.size,)
        self.array("gradients", gradients, shape, dtype)
        self._control(control)
        if len(state) != len(optimizer.state):
            raise StateError("state", f"has {len(state)} arrays", f"have {len(optimizer.state)} for {optimizer.name}")
        named = {f"state[{i}] ({name})": x for i, (name, x) in enumerate(zip(optimizer.state, state, strict=True))}
        for name, slot in named.items():
            self.array(name, slot, shape, dtype)
        self.array("parameters", parameters, shape, dtype)
        if stored is not None:
            self.array("stored", stored, shape, self.float_dtype("stored", stored))
        if not 0 <= decayed <= gradients.size:
            raise ArgumentError("decayed", decayed, f"within 0 and {gradients.size}, the number of parameters")
        written = {**named, "parameters": parameters, "stored": stored}
        self.disjoint(written, {"gradients": gradients, "control": control})
        return gradients.size

    # --- products ---------------------------------------------------------------------------------------------------
    @remembered
    def product(self, form: str, a: Array, b: Array, c: Array) -> Product:
        if form not in FORMS:
            raise unknown_name("form", form, FORMS)
        a_sides, b_sides = self.matrix("a", a), self.matrix("b", b)
        m, k = a_sides[::-1] if form == "TN" else a_sides
        n = b_sides[0] if form == "NT" else b_sides[1]
        self.array("b", b, (n, k) if form == "NT" else (k, n), a.dtype)
        self.array("c", c, (m, n), master_of(a.dtype))
        self.disjoint({"c": c}, {"a": a, "b": b})
        return self._product(m, n, k, a, b)
