"""What the backends with kernels share: checks of arguments before a launch, working memory, and grids.

An array, here, is anything with `shape`, `dtype`, `nbytes`, `flags["C_CONTIGUOUS"]` and an address on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gpubp.backends.base import Array
from gpubp.errors import ArgumentError
from gpubp.kernels.plans import Chip, Plan, choose

FLOATS = (np.dtype("float32"), np.dtype("float64"))
BLOCK = 256
"""Threads of a block in elementwise kernels."""
LAST_GRID_SIDE = 65535
"""Blocks that a grid may have in all sides but the first."""


class ArgumentChecker:
    """Checks the arguments of a primitive before its launch, so that a wrong one is named and nothing is written.

    kind: the type of array that the backend works on. device: the number of its device.
    address, device_of: how to ask an array where it lies.
    """

    def __init__(
        self, kind: type, device: int, address: Callable[[Array], int], device_of: Callable[[Array], int]
    ) -> None:
        self._kind = kind
        self._device = device
        self.address = address
        self._device_of = device_of

    def matrix(self, argument: str, x: Array) -> tuple[int, int]:
        """The two sides of a float matrix, the first argument that a primitive's shapes are derived from."""
        self._on_device(argument, x)
        if len(x.shape) != 2:
            raise ArgumentError(argument, tuple(x.shape), "a shape of two sides (rows, columns)")
        self.array(argument, x, x.shape, self.float_dtype(argument, x))
        if 0 in x.shape:
            raise ArgumentError(argument, tuple(x.shape), "a shape whose sides are all ≥ 1")
        return x.shape[0], x.shape[1]

    def float_dtype(self, argument: str, x: Array) -> np.dtype:
        """The dtype of x, which must be one that the kernels compute in."""
        self._on_device(argument, x)
        if x.dtype not in FLOATS:
            raise ArgumentError(f"{argument}.dtype", str(x.dtype), "float32 or float64")
        return np.dtype(x.dtype)

    def array(self, argument: str, x: Array, shape: tuple[int, ...], dtype: np.dtype | str) -> None:
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
                    raise ArgumentError(name, f"memory at {start:#x}", f"apart from {other}, which overlaps it")

    def _on_device(self, argument: str, x: Array) -> None:
        if not isinstance(x, self._kind):
            raise ArgumentError(
                argument, f"a {type(x).__name__}", "an array of this backend (see its asarray, empty and zeros)"
            )
        if self._device_of(x) != self._device:
            raise ArgumentError(f"{argument}.device", self._device_of(x), f"{self._device}, the backend's device")


class Workspace:
    """Device memory for what a primitive computes on its way: made at its first use, and grown when more is needed.

    Primitives run one after the other, so all of them share it. A replaced buffer lives on as long as someone, such as
    a captured graph, holds it.
    """

    def __init__(self, allocate: Callable[[int], Any]) -> None:
        self._allocate = allocate
        self.buffer: Any = None
        self._bytes = 0

    def take(self, nbytes: int) -> Any:
        """A buffer of at least this many bytes, with undefined contents."""
        if nbytes > self._bytes:
            self.buffer = self._allocate(nbytes)
            self._bytes = nbytes
        return self.buffer


def blocks(items: int, threads: int = BLOCK) -> int:
    """How many blocks give every item a thread."""
    return -(-items // threads)


def decide_plan(
    plan: Plan | None, variant: str | None, m: int, n: int, k: int, dtype: np.dtype, chip: Chip, aligned: bool
) -> Plan:
    """The caller's plan, held against the chip and the arrays, or the one that the rule chooses for the variant.

    aligned: whether all rows of the operands start on 16-byte boundaries; if not, copies move single elements.
    """
    if plan is None:
        return choose(m, n, k, str(dtype), chip, variant or "pipelined", aligned)
    if plan.dtype != dtype:
        raise ArgumentError("plan.dtype", plan.dtype, f"{dtype}, the dtype of the arrays")
    return (plan if aligned else replace(plan, vector=1)).on(chip)
