"""Tensor maps: 128 bytes that describe an array in global memory, and the box of it that a copy moves.

`encode_tiled` takes the arguments of the driver's `cuTensorMapEncodeTiled`, by its names, and makes its checks. The
layout of the 128 bytes is the emulator's own, as that of a GPU is no public one: a magic number, the fields, and a sum
over both, by which a map that something has overwritten is found.
"""

from __future__ import annotations

import functools
import operator
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np

from gpubp.errors import ArgumentError

NBYTES = 128
ALIGNMENT = 64
"""Bytes to which a map must be aligned in memory."""
_MAGIC = 0x70A1_6D3E_5250_4D54
_FORMAT = struct.Struct("<QQ5I4Q5H8BI")
MOST_DIMENSIONS = 5
MOST_BOX = 256
MOST_PITCH = 1 << 40
MOST_ELEMENT_STRIDE = 8


class DataType(IntEnum):
    """CUtensorMapDataType, without the packed types of Blackwell."""

    UINT8 = 0
    UINT16 = 1
    UINT32 = 2
    INT32 = 3
    UINT64 = 4
    INT64 = 5
    FLOAT16 = 6
    FLOAT32 = 7
    FLOAT64 = 8
    BFLOAT16 = 9
    FLOAT32_FTZ = 10
    TFLOAT32 = 11
    TFLOAT32_FTZ = 12

    @property
    def nbytes(self) -> int:
        """Return the size of an element."""
        return (1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4)[self]

    @property
    def is_float(self) -> bool:
        return self >= DataType.FLOAT16


class Interleave(IntEnum):
    """CUtensorMapInterleave."""

    NONE = 0
    B16 = 1
    B32 = 2


class Swizzle(IntEnum):
    """CUtensorMapSwizzle, as far as chips of compute capability 9.0 have it."""

    NONE = 0
    B32 = 1
    B64 = 2
    B128 = 3

    @property
    def nbytes(self) -> int:
        """Return the width of the pattern: the inner side of a box is no wider. 0 without a pattern."""
        return (0, 32, 64, 128)[self]


class L2Promotion(IntEnum):
    """CUtensorMapL2promotion."""

    NONE = 0
    B64 = 1
    B128 = 2
    B256 = 3


class OutOfBoundsFill(IntEnum):
    """CUtensorMapFloatOOBfill: what elements outside of the array are."""

    NONE = 0
    NAN_REQUEST_ZERO_FMA = 1


@dataclass(frozen=True)
class TensorMap:
    """What a tensor map says. Sides and strides begin with the innermost one, strides in bytes."""

    type: DataType
    address: int
    sides: tuple[int, ...]
    strides: tuple[int, ...]  # of each dimension; that of the innermost is the size of an element
    box: tuple[int, ...]
    steps: tuple[int, ...]  # elements from one to the next that is moved
    swizzle: Swizzle
    fill: OutOfBoundsFill

    @property
    def rank(self) -> int:
        return len(self.sides)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Return the elements of a box in shared memory along each dimension."""
        return tuple(-(-side // step) for side, step in zip(self.box, self.steps, strict=True))

    @functools.cached_property
    def box_bytes(self) -> int:
        """Return the bytes of a box, parts outside of the array included."""
        return int(np.prod(self.shape)) * self.type.nbytes


def encode_tiled(
    tensorDataType: int,
    tensorRank: int,
    globalAddress: int,
    globalDim: Sequence[int],
    globalStrides: Sequence[int],
    boxDim: Sequence[int],
    elementStrides: Sequence[int],
    interleave: int = 0,
    swizzle: int = 0,
    l2Promotion: int = 0,
    oobFill: int = 0,
) -> np.ndarray:
    """Return a tensor map for the emulated device, as the driver's cuTensorMapEncodeTiled makes one for a GPU.

    Args:
        tensorDataType: a CUtensorMapDataType, such as 9 for bfloat16 (`DataType`).
        tensorRank: dimensions, 1 to 5.
        globalAddress: where the array begins on the device, a multiple of 16.
        globalDim: its sides, the contiguous one first.
        globalStrides: bytes from one element to the next along each dimension but the first, multiples of 16 below
            2**40.
        boxDim: the sides of a box, 1 to 256. The first one must take a multiple of 16 bytes, no more than the swizzle.
        elementStrides: steps from one element that is moved to the next, 1 to 8.
        interleave: a CUtensorMapInterleave; the emulated device knows none but 0.
        swizzle: a CUtensorMapSwizzle: 0 none, 1, 2 and 3 for patterns of 32, 64 and 128 bytes.
        l2Promotion: a CUtensorMapL2promotion; without effect here.
        oobFill: a CUtensorMapFloatOOBfill: 0 for zeros, 1 for NaN.

    Returns:
        128 bytes as uint8. On a GPU they mean nothing.

    Raises:
        ArgumentError: the driver would return CUDA_ERROR_INVALID_VALUE, or the emulated device does not know this.
    """
    kind = _one_of(DataType, "tensorDataType", tensorDataType)
    tensorRank = _whole("tensorRank", tensorRank)
    globalAddress = _whole("globalAddress", globalAddress)
    if not 1 <= tensorRank <= MOST_DIMENSIONS:
        raise ArgumentError("tensorRank", tensorRank, f"1 to {MOST_DIMENSIONS}")
    if _one_of(Interleave, "interleave", interleave) != Interleave.NONE:
        raise ArgumentError("interleave", interleave, "0 (none): the emulated device knows no other")
    pattern = _one_of(Swizzle, "swizzle", swizzle)
    promotion = _one_of(L2Promotion, "l2Promotion", l2Promotion)
    fill = _one_of(OutOfBoundsFill, "oobFill", oobFill)
    if fill and not kind.is_float:
        raise ArgumentError("oobFill", oobFill, f"0 for {kind.name}: only floats have a NaN")
    if not 0 < globalAddress < 1 << 64 or globalAddress % 16:
        raise ArgumentError("globalAddress", hex(globalAddress), "the address of an array, a multiple of 16")
    sides = _numbers("globalDim", globalDim, tensorRank, 1, 1 << 32)
    strides = _numbers("globalStrides", globalStrides, tensorRank - 1, 1, MOST_PITCH - 1)
    for index, stride in enumerate(strides):
        if stride % 16:
            raise ArgumentError(f"globalStrides[{index}]", stride, "a multiple of 16 bytes")
    box = _numbers("boxDim", boxDim, tensorRank, 1, MOST_BOX)
    steps = _numbers("elementStrides", elementStrides, tensorRank, 1, MOST_ELEMENT_STRIDE)
    steps = (1, *steps[1:])  # the first is ignored
    inner = box[0] * kind.nbytes
    if inner % 16:
        raise ArgumentError("boxDim[0]", box[0], f"a multiple of 16 bytes, and {box[0]} of {kind.name} are {inner}")
    if pattern and inner > pattern.nbytes:
        raise ArgumentError(
            "boxDim[0]",
            box[0],
            f"at most the swizzle's {pattern.nbytes} bytes, and {box[0]} of {kind.name} are {inner}",
        )
    pad = MOST_DIMENSIONS - tensorRank
    small = (kind, tensorRank, pattern, promotion, fill, *(0,) * 3)
    fields = (
        _MAGIC,
        globalAddress,
        *(side - 1 for side in sides),
        *(0,) * pad,
        *strides,
        *(0,) * (MOST_DIMENSIONS - 1 - len(strides)),
        *box,
        *(0,) * pad,
        *small,
        sum((step - 1) << 3 * index for index, step in enumerate(steps)),
    )
    body = _FORMAT.pack(*fields)
    data = body + bytes(NBYTES - 4 - len(body))
    return np.frombuffer(data + struct.pack("<I", zlib.crc32(data)), np.uint8).copy()


@functools.lru_cache(maxsize=1024)
def decode(data: bytes) -> TensorMap | None:
    """Return what a tensor map says, or None if the bytes are none that `encode_tiled` has made."""
    fields = _FORMAT.unpack_from(data)
    if fields[0] != _MAGIC or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        return None
    kind, rank, pattern, _, fill = fields[16:21]
    type_ = DataType(kind)
    return TensorMap(
        type_,
        fields[1],
        tuple(side + 1 for side in fields[2 : 2 + rank]),
        (type_.nbytes, *fields[7 : 6 + rank]),
        fields[11 : 11 + rank],
        tuple(1 + (fields[24] >> 3 * index & 7) for index in range(rank)),
        Swizzle(pattern),
        OutOfBoundsFill(fill),
    )


Kind = TypeVar("Kind", bound=IntEnum)


def _one_of(kind: type[Kind], name: str, value: int) -> Kind:
    try:
        return kind(operator.index(value))
    except (TypeError, ValueError):
        names = ", ".join(f"{int(one)} ({one.name})" for one in kind)
        raise ArgumentError(name, value, f"one of {names}") from None


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ArgumentError(name, value, "a whole number") from None


def _numbers(name: str, given: Sequence[int], count: int, least: int, most: int) -> tuple[int, ...]:
    """Return numbers that have been checked; more than `count` are ignored, as by the driver."""
    try:
        given = list(given)
    except TypeError:
        given = []
    if len(given) < count:
        raise ArgumentError(name, given, f"{count} numbers, one for each dimension that it is about")
    numbers = tuple(_whole(f"{name}[{index}]", number) for index, number in enumerate(given[:count]))
    for index, number in enumerate(numbers):
        if not least <= number <= most:
            raise ArgumentError(f"{name}[{index}]", number, f"{least} to {most:,}")
    return numbers
