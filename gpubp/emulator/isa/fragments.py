"""Which lane of a warp holds which element of a matrix, and what the bits of the element mean.

A lane's registers hold elements of one matrix, low bits first. Of mma.sync the places are the ISA's (PTX ISA, "Matrix
Fragments for mma.m8n8k4 with .f16 floating point type" to "... mma.m16n8k256"). But for the first of these shapes all
are one scheme: with

    g = groupID = lane >> 2,  t = threadID_in_group = lane % 4,  w = elements in a register,

a register of A holds row g of a block of eight rows, columns w t to w t + w - 1 of a block of 4 w; a register of B the
same with rows and columns exchanged; two elements of C or D lie in row g, columns 2 t and 2 t + 1. Blocks follow one
another down sixteen rows first, then from left to right, then to the next sixteen rows; those of B from top to bottom
first.

Of wmma the ISA leaves the places open. Here they are the same scheme, so that fragments of one type and use agree
between load, mma and store. f16 factors have registers for more elements than there are: they repeat the first ones,
which count.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.isa.rounding import E4M3, E5M2, bfloat16_to_float32, decode, tf32_to_float32

ELEMENT_BITS = {
    **dict.fromkeys(("f64",), 64),
    **dict.fromkeys(("f32", "tf32", "s32"), 32),
    **dict.fromkeys(("f16", "bf16"), 16),
    **dict.fromkeys(("s8", "u8", "e4m3", "e5m2"), 8),
    **dict.fromkeys(("s4", "u4"), 4),
    "b1": 1,
}

_LANE = np.arange(WARP)
_G, _T = _LANE >> 2, _LANE % 4


@dataclass(frozen=True, eq=False)
class Fragment:
    """Where the elements of each lane lie in a matrix: rows and columns, of shape (lanes, elements)."""

    rows: np.ndarray
    columns: np.ndarray

    @property
    def elements(self) -> int:
        return self.rows.shape[1]

    @functools.cached_property
    def width(self) -> int:
        return int(self.columns.max()) + 1

    @functools.cached_property
    def places(self) -> np.ndarray:
        """For each element, lane by lane, its place in the row-major matrix."""
        return (self.rows * self.width + self.columns).reshape(-1)

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """For each place of the row-major matrix the first element that lies there, in lane order."""
        positions = np.full(self.places.max() + 1, -1)
        positions[self.places[::-1]] = np.arange(self.places.size)[::-1]
        return positions

    def by_eight_columns(self) -> np.ndarray:
        """Return the positions in each block of eight columns, (blocks, 8 * rows), which is row-major."""
        blocks = self.positions.reshape(-1, self.width // 8, 8).swapaxes(0, 1)
        return np.ascontiguousarray(blocks).reshape(len(blocks), -1)

    def repeated(self, times: int) -> Fragment:
        """Return the fragment of lanes that hold all their elements several times."""
        return Fragment(np.tile(self.rows, times), np.tile(self.columns, times))


def _fragment(places: list[tuple[np.ndarray, np.ndarray]]) -> Fragment:
    rows, columns = (np.stack(side, axis=1) for side in zip(*places, strict=True))
    return Fragment(rows, columns)


@functools.cache
def factor_a(m: int, k: int, per_register: int) -> Fragment:
    """Return the fragment of an m x k matrix A of which a register holds some elements of one row."""
    w = per_register
    return _fragment(
        [
            (row + _G, column + w * _T + i)
            for top in range(0, m, 16)
            for column in range(0, k, 4 * w)
            for row in range(top, min(top + 16, m), 8)
            for i in range(w)
        ]
    )


@functools.cache
def factor_b(k: int, n: int, per_register: int) -> Fragment:
    """Return the fragment of a k x n matrix B of which a register holds some elements of one column."""
    w = per_register
    return _fragment(
        [(row + w * _T + i, column + _G) for column in range(0, n, 8) for row in range(0, k, 4 * w) for i in range(w)]
    )


@functools.cache
def accumulator(m: int, n: int) -> Fragment:
    """Return the fragment of an m x n matrix C or D."""
    return _fragment(
        [
            (row + _G, column + 2 * _T + i)
            for top in range(0, m, 16)
            for column in range(0, n, 8)
            for row in range(top, min(top + 16, m), 8)
            for i in range(2)
        ]
    )


# -- mma.m8n8k4 of f16: four products a warp, each of eight lanes ------------------------------------------------------

QUAD_PAIRS = np.array([[4 * quad + i + 16 * high for high in (0, 1) for i in range(4)] for quad in range(4)])
"""The lanes of each product: four below 16 and four from there on."""

_I, _HIGH = np.arange(8) % 4, np.arange(8) // 4


@functools.cache
def quad_factor(transposed: bool) -> Fragment:
    """Return the fragment of A (8 x 4), row-major; transposed it is that of A column-major."""
    if transposed:
        return _fragment([(4 * _HIGH + i, _I) for i in range(4)])
    return _fragment([(4 * _HIGH + _I, np.full(8, i)) for i in range(4)])


@functools.cache
def quad_factor_b(column_major: bool) -> Fragment:
    """Return the fragment of B (4 x 8), which is that of A with rows and columns exchanged."""
    of_a = quad_factor(not column_major)
    return Fragment(of_a.columns, of_a.rows)


@functools.cache
def quad_accumulator(type_: str) -> Fragment:
    """Return the fragment of C or D (8 x 8), which is another one in f16 than in f32."""
    if type_ == "f16":
        return _fragment([(4 * _HIGH + _I, np.full(8, i)) for i in range(8)])
    return _fragment([(4 * _HIGH + (_I & 1) + (i & 2), (i & 4) + (_I & 2) + (i & 1)) for i in range(8)])


# -- what the bits mean ------------------------------------------------------------------------------------------------


@functools.cache
def _half_values() -> np.ndarray:
    """Return the value of every float16; looking it up is faster than converting."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


@functools.cache
def _small_values(type_: str) -> np.ndarray:
    """Return the value of every byte in a float type of eight bits."""
    format_ = {"e4m3": E4M3, "e5m2": E5M2}[type_]
    return decode(np.arange(256, dtype=np.uint8), format_).astype(np.float32)


def element_values(registers: np.ndarray, type_: str) -> np.ndarray:
    """Return the values in raw registers (units, lanes, registers) as (units, lanes * elements).

    Factors are float32, which holds every one of them; accumulators have their own type.
    """
    registers = np.ascontiguousarray(registers)
    if type_ == "tf32":
        values = tf32_to_float32(registers)
    elif type_ == "bf16":
        values = bfloat16_to_float32(registers.view(np.uint16))
    elif type_ == "f16":
        values = np.take(_half_values(), registers.view(np.uint16))
    elif type_ in ("e4m3", "e5m2"):
        values = np.take(_small_values(type_), registers.view(np.uint8))
    elif type_ in ("s8", "u8"):
        values = registers.view(np.int8 if type_ == "s8" else np.uint8).astype(np.float32)
    elif type_ in ("s4", "u4"):
        values = _nibbles(registers, signed=type_ == "s4")
    elif type_ == "b1":
        values = np.unpackbits(registers.view(np.uint8), bitorder="little").astype(np.float32)
    else:
        values = registers.view({"f32": np.float32, "s32": np.int32, "f64": np.float64}[type_])
    return values.reshape(len(registers), -1)


def _nibbles(registers: np.ndarray, signed: bool) -> np.ndarray:
    pairs = registers.view(np.uint8)
    nibbles = np.stack((pairs & 15, pairs >> 4), axis=-1).astype(np.float32)
    return np.where(nibbles >= 8, nibbles - 16, nibbles).astype(np.float32) if signed else nibbles
