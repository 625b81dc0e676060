"""Matrix instructions of a warp: ldmatrix, stmatrix and mma.sync, with their fragment layouts.

Registers come and go as raw uint32 of shape (warps, 32, registers). The layouts are the ISA's formulas (PTX ISA,
"Matrix Fragments for mma.m16n8k4", "... mma.m16n8k8", "... mma.m16n8k16 with floating point type"), in which

    g = groupID = lane >> 2,  t = threadID_in_group = lane % 4.

The products of tf32, bf16 and f16 factors are exact in float64; they are added to C in float64 in the order of k, and
the sum is rounded once. A tensor core keeps fewer bits and adds in an order of its own, so its results agree with these
within a tolerance, not bit for bit. tf32 operands lose their low 13 bits, as the hardware ignores them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.isa.compiled import multiply_fragments
from gpubp.emulator.isa.rounding import bfloat16_to_float32, tf32_to_float32

LANE = np.arange(32)
G, T = LANE >> 2, LANE % 4

# For each element i of a lane's fragment: (row, column) in the matrix, of every lane at once.
Fragment = tuple[tuple[np.ndarray, np.ndarray], ...]

ACCUMULATOR: Fragment = tuple((G + 8 * (i >= 2), 2 * T + (i & 1)) for i in range(4))

# "Matrix Fragments for mma.m16n8k4" and "mma.m16n8k8", .tf32: one element a register.
TF32_A: dict[int, Fragment] = {
    4: ((G, T), (G + 8, T)),
    8: ((G, T), (G + 8, T), (G, T + 4), (G + 8, T + 4)),
}
TF32_B: dict[int, Fragment] = {4: ((T, G),), 8: ((T, G), (T + 4, G))}

# "Matrix Fragments for mma.m16n8k8" and "mma.m16n8k16", .f16 and .bf16: two elements a register, the lower half first.
HALF_A: dict[int, Fragment] = {
    8: tuple((G + 8 * (i >= 2), 2 * T + (i & 1)) for i in range(4)),
    16: tuple((G + 8 * (i in (2, 3, 6, 7)), 2 * T + (i & 1) + 8 * (i >= 4)) for i in range(8)),
}
HALF_B: dict[int, Fragment] = {
    8: tuple((2 * T + i, G) for i in range(2)),
    16: tuple((2 * T + (i & 1) + 8 * (i >= 2), G) for i in range(4)),
}

FACTOR_TYPES = ("tf32", "bf16", "f16")


@functools.cache
def _gathering(kind: str, k: int) -> np.ndarray:
    """For each place of the row-major matrix, the place in a warp's elements (lane-major) that holds it."""
    layouts = {"tf32 a": TF32_A, "tf32 b": TF32_B, "half a": HALF_A, "half b": HALF_B}
    layout = ACCUMULATOR if kind == "c" else layouts[kind][k]
    columns = k if kind.endswith("a") else 8
    order = np.full(32 * len(layout), -1)
    for i, (row, column) in enumerate(layout):
        order[row * columns + column] = LANE * len(layout) + i
    return order


@functools.cache
def _half_values() -> np.ndarray:
    """The value of every float16; looking it up is faster than converting."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _elements(registers: np.ndarray, type_: str) -> np.ndarray:
    """The float32 values in raw registers, shape (warps, 32 * elements)."""
    registers = np.ascontiguousarray(registers)
    if type_ == "tf32":
        values = tf32_to_float32(registers)
    elif type_ == "bf16":
        values = bfloat16_to_float32(registers.view(np.uint16))
    elif type_ == "f16":
        values = np.take(_half_values(), registers.view(np.uint16))
    else:
        values = registers.view(np.float32)
    return values.reshape(len(registers), -1)


@dataclass(frozen=True)
class MatrixMultiply:
    """An mma instruction: apply(a, b, c) gives the registers of D = A B + C.

    a, b, c: uint32 of shape (warps, 32, registers), with the numbers of registers given here; D has as many as C.
    """

    m: int
    n: int
    k: int
    a_registers: int
    b_registers: int
    c_registers: int
    apply: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

    @property
    def flops(self) -> int:
        """Floating point operations a warp."""
        return 2 * self.m * self.n * self.k


@functools.cache
def matrix_multiply(modifiers: tuple[str, ...]) -> MatrixMultiply:
    """The mma with these modifiers, such as ("sync", "aligned", "m16n8k8", "row", "col", "f32", "tf32", "tf32", "f32").

    Raises UnsupportedInstruction for every other shape or type.
    """
    unsupported = UnsupportedInstruction(".".join(("mma", *modifiers)))
    if len(modifiers) != 9 or modifiers[:2] != ("sync", "aligned") or modifiers[3:5] != ("row", "col"):
        raise unsupported
    shape, (d_type, a_type, b_type, c_type) = modifiers[2], modifiers[5:]
    if a_type != b_type or a_type not in FACTOR_TYPES or d_type != c_type:
        raise unsupported
    if d_type != "f32" and not (d_type == "f16" and a_type == "f16"):
        raise unsupported
    layouts = TF32_A if a_type == "tf32" else HALF_A
    depths = {f"m16n8k{k}": k for k in layouts}
    if shape not in depths:
        raise unsupported
    k = depths[shape]
    family = "tf32" if a_type == "tf32" else "half"
    orders = [_gathering(f"{family} a", k), _gathering(f"{family} b", k), _gathering("c", k)]

    def apply(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        addend = _elements(c, c_type)
        result = np.empty(addend.shape, np.float64)
        multiply_fragments(_elements(a, a_type), _elements(b, a_type), addend, *orders, result)
        nan = np.isnan(result)
        if d_type == "f32":
            bits = result.astype(np.float32).view(np.uint32)
            bits[nan] = 0x7FFFFFFF
            return bits.reshape(len(a), 32, 4)
        half_bits = result.astype(np.float16).view(np.uint16)
        half_bits[nan] = 0x7FFF
        return half_bits.view(np.uint32).reshape(len(a), 32, 2)

    per_register = 1 if a_type == "tf32" else 2
    return MatrixMultiply(
        16, 8, k, 16 * k // 32 // per_register, 8 * k // 32 // per_register, 4 if d_type == "f32" else 2, apply
    )


# --- ldmatrix, stmatrix


@dataclass(frozen=True)
class MatrixMove:
    """ldmatrix or stmatrix of `count` 8 x 8 matrices of 16-bit elements.

    Lane i gives the address of row i % 8 of matrix i // 8, for i < 8 * count; a row is 16 bytes, aligned to 16.
    """

    count: int
    transposed: bool


def matrix_move(opcode: str, modifiers: tuple[str, ...]) -> MatrixMove:
    """("ldmatrix", ("sync", "aligned", "m8n8", "x4", "trans", "shared", "b16")); raises UnsupportedInstruction."""
    left = [modifier for modifier in modifiers if modifier not in ("shared", "shared::cta", "trans")]
    counts = {"x1": 1, "x2": 2, "x4": 4}
    if len(left) != 5 or left[:3] != ["sync", "aligned", "m8n8"] or left[3] not in counts or left[4] != "b16":
        raise UnsupportedInstruction(".".join((opcode, *modifiers)))
    return MatrixMove(counts[left[3]], "trans" in modifiers)


def load_fragments(rows: np.ndarray, transposed: bool) -> np.ndarray:
    """The registers that ldmatrix leaves.

    Args:
        rows: uint16 of shape (warps, count, 8, 8): what the addresses point at, matrix by matrix, row by row.
        transposed: with .trans each matrix is read by columns.

    Returns uint32 of shape (warps, 32, count): lane 4 r + t holds elements 2 t (lower half) and 2 t + 1 of row r.
    """
    if transposed:
        rows = rows.swapaxes(2, 3)
    pairs = np.ascontiguousarray(rows).view(np.uint32)
    return np.ascontiguousarray(pairs.reshape(len(rows), -1, 32).swapaxes(1, 2))


def store_rows(registers: np.ndarray, transposed: bool) -> np.ndarray:
    """The inverse of load_fragments, for stmatrix: uint32 (warps, 32, count) to uint16 (warps, count, 8, 8)."""
    pairs = np.ascontiguousarray(registers.swapaxes(1, 2))
    rows = pairs.view(np.uint16).reshape(len(registers), -1, 8, 8)
    return np.ascontiguousarray(rows.swapaxes(2, 3)) if transposed else rows
