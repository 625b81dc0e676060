"""What the backends with kernels share: checks of arguments before a launch, working memory, and grids.

An array, here, is anything with `shape`, `dtype`, `nbytes`, `flags["C_CONTIGUOUS"]` and an address on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.backends.base import Array
from gpubp.backends.plans import TENSOR_ITEM_BYTES, Chip, Plan, choose
from gpubp.errors import ArgumentError, StateError

FLOATS = (np.dtype("float32"), np.dtype("float64"))
BLOCK = 256
"""Threads of a block in elementwise kernels."""
LAST_GRID_SIDE = 65535
"""Blocks that a grid may have in all sides but the first."""


class ArgumentChecker:
    """Checks the arguments of a primitive before its launch, so that a wrong one is named and nothing is written.

    kind: the type of array that the backend works on. device: the number of its device.
    address, device_of: how to ask an array where it lies. floats: the dtypes that the backend's kernels read.
    """

    def __init__(
        self,
        kind: type,
        device: int,
        address: Callable[[Array], int],
        device_of: Callable[[Array], int],
        floats: tuple[np.dtype, ...] = FLOATS,
    ) -> None:
        self._floats = floats
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
        """The dtype of x, which must be one that the kernels read."""
        self._on_device(argument, x)
        if x.dtype not in self._floats:
            raise ArgumentError(f"{argument}.dtype", str(x.dtype), " or ".join(map(str, self._floats)))
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
                    raise StateError(name, f"overlaps {other}, at {start:#x}", "lie in memory of its own")

    def _on_device(self, argument: str, x: Array) -> None:
        if not isinstance(x, self._kind):
            expected = "be an array of this backend (see its asarray, empty and zeros)"
            raise StateError(argument, f"is a {type(x).__name__}", expected)
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


class Uploads:
    """Host memory that is on its way to the device, kept until it has arrived.

    A chip that shares the host's page tables reads pageable memory itself, after the call that asked for the copy has
    returned: what it reads must neither be changed nor freed meanwhile, and the caller's array is free to be both.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], bool], np.ndarray]] = deque()

    def keep(self, host: np.ndarray, arrived: Callable[[], bool]) -> None:
        """Keep this array until `arrived` says so; those before it that have arrived are let go."""
        self._waiting.append((arrived, host))
        while self._waiting and self._waiting[0][0]():
            self._waiting.popleft()


def blocks(items: int, threads: int = BLOCK) -> int:
    """How many blocks give every item a thread."""
    return -(-items // threads)


def decide_plan(
    plan: Plan | None, variant: str | None, m: int, n: int, k: int, operands: str, chip: Chip, alignment: int = 16
) -> Plan:
    """The caller's plan, held against the chip and the arrays, or the one that the rule chooses for the variant.

    operands: what is multiplied: the arrays' dtype, or "tf32". alignment: bytes that all rows of the operands start on
    multiples of; copies move less at a time where it is below 16.
    """
    on_tensor_cores = operands in TENSOR_ITEM_BYTES
    if plan is None:
        variant = variant or ("tensorcore" if on_tensor_cores else "pipelined")
        if on_tensor_cores and variant != "tensorcore":
            raise ArgumentError("variant", variant, f"'tensorcore', or None, to multiply in {operands}")
        if variant == "tensorcore" and not on_tensor_cores:
            hint = "tensor cores would round it to TF32 (tf32=True, a network's precision='tf32')"
            raise ArgumentError("variant", variant, f"another one to multiply in {operands}", hint)
        return choose(m, n, k, operands, chip, variant, alignment)
    if plan.dtype != operands:
        raise ArgumentError("plan.dtype", plan.dtype, f"{operands}, which is what is multiplied")
    return plan.for_alignment(alignment).on(chip)


def operands_of(dtype: np.dtype, tf32: bool) -> str:
    """What a product of arrays of this dtype multiplies, as plans name it.

    Raises ArgumentError for TF32 of anything but float32.
    """
    if tf32 and dtype != np.float32:
        raise ArgumentError("tf32", tf32, f"False with arrays of {dtype}: TF32 is what float32 is rounded to")
    return "tf32" if tf32 else str(dtype)
