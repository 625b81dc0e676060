"""Matrix instructions of a warp: mma.sync and wmma.mma, ldmatrix, stmatrix and movmatrix.

Registers come and go as raw bits of shape (warps, 32, registers). Which lane holds which element is in fragments.py.

The products of factors of at most 32 bits are exact in float64. Those of floats are added to C in float64 in the order
of k, and the sum is rounded once. A tensor core keeps fewer bits and adds in an order of its own, so its results agree
with these within a tolerance, not bit for bit. tf32 operands lose their low 13 bits, as the hardware ignores them.
Integers and single bits are exact: the whole sum wraps around to 32 bits, or stops at their limits with .satfinite. In
f64 each element is a chain of fused multiply-adds in the order of k, from C on: the larger shapes give the bits of
several m8n8k4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.isa import fragments
from gpubp.emulator.isa.compiled import multiply_fragments
from gpubp.emulator.isa.floats import arithmetic
from gpubp.emulator.isa.fragments import ELEMENT_BITS, Fragment, element_values
from gpubp.emulator.isa.operations import Modifiers

Shape = tuple[int, int, int]

# The shapes (m, n, k) of mma and of wmma, by the type of their factors.
MMA_SHAPES: dict[str, tuple[Shape, ...]] = {
    "f16": ((8, 8, 4), (16, 8, 8), (16, 8, 16)),
    "bf16": ((16, 8, 8), (16, 8, 16)),
    "tf32": ((16, 8, 4), (16, 8, 8)),
    "f64": ((8, 8, 4), (16, 8, 4), (16, 8, 8), (16, 8, 16)),
    **dict.fromkeys(("e4m3", "e5m2"), ((16, 8, 16), (16, 8, 32))),
    **dict.fromkeys(("s8", "u8"), ((8, 8, 16), (16, 8, 16), (16, 8, 32))),
    **dict.fromkeys(("s4", "u4"), ((8, 8, 32), (16, 8, 32), (16, 8, 64))),
    "b1": ((8, 8, 128), (16, 8, 128), (16, 8, 256)),
}
WMMA_SHAPES: dict[str, tuple[Shape, ...]] = {
    **dict.fromkeys(("f16", "bf16", "s8", "u8"), ((16, 16, 16), (8, 32, 16), (32, 8, 16))),
    "tf32": ((16, 16, 8),),
    "f64": ((8, 8, 4),),
    **dict.fromkeys(("s4", "u4"), ((8, 8, 32),)),
    "b1": ((8, 8, 128),),
}
# The types that C and D may have.
ACCUMULATORS = {
    **dict.fromkeys(("f16", "e4m3", "e5m2"), ("f16", "f32")),
    **dict.fromkeys(("bf16", "tf32"), ("f32",)),
    "f64": ("f64",),
    **dict.fromkeys(("s8", "u8", "s4", "u4", "b1"), ("s32",)),
}
# Types of which mma takes one for A and another for B.
MIXED = ({"e4m3", "e5m2"}, {"s8", "u8"}, {"s4", "u4"})

Apply = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class MatrixMultiply:
    """An mma or wmma.mma instruction: apply(a, b, c) gives the registers of D = A B + C.

    a, b, c: `dtype` of shape (warps, 32, registers), with the numbers of registers given here.
    """

    dtype: np.dtype[np.unsignedinteger]
    a_registers: int
    b_registers: int
    c_registers: int
    d_registers: int
    flops: int  # a warp; of floating point
    apply: Apply


@dataclass(frozen=True)
class _Form:
    """What a product computes: its shape, its types, and the fragments of its matrices."""

    m: int
    n: int
    k: int
    types: tuple[str, ...]  # of D, A, B, C, as they stand in the instruction
    a: Fragment
    b: Fragment
    c: Fragment
    d: Fragment
    rounding: str = "rn"
    satfinite: bool = False
    logic: str = ""  # of single bits: "and" or "xor"
    quads: bool = False  # four products a warp, each of eight lanes


@functools.cache
def matrix_multiply(modifiers: tuple[str, ...]) -> MatrixMultiply:
    """Return the mma with these modifiers: ("sync", "aligned", "m16n8k8", "row", "col", "f32", "tf32", "tf32", "f32").

    Raises UnsupportedInstruction for every other shape or type.
    """
    given = Modifiers("mma", modifiers)
    given.flags("sync", "aligned")
    m, n, k = given.shape()
    layouts = given.take(), given.take()
    satfinite = given.flag("satfinite")
    logic = given.choice(("xor", "and"), default="")
    if logic:
        given.flags("popc")
    types = given.rest()
    if len(types) != 4:
        raise given.unsupported()
    d, a, b, c = types
    same = a == b or {a, b} in MIXED
    if not same or (m, n, k) not in MMA_SHAPES.get(a, ()) or not {c, d} <= set(ACCUMULATORS[a]):
        raise given.unsupported()
    if (satfinite and a not in ("s8", "u8", "s4", "u4")) or bool(logic) != (a == "b1"):
        raise given.unsupported()
    if a == "f16" and (m, n, k) == (8, 8, 4):
        if not set(layouts) <= {"row", "col"} or (d, c) == ("f16", "f32"):
            raise given.unsupported()
        factors = fragments.quad_factor(layouts[0] == "col"), fragments.quad_factor_b(layouts[1] == "col")
        sums = fragments.quad_accumulator(c), fragments.quad_accumulator(d)
        return _multiply(_Form(m, n, k, types, *factors, *sums, quads=True))
    if layouts != ("row", "col") or c != d:
        raise given.unsupported()
    factors = fragments.factor_a(m, k, _per_register(a)), fragments.factor_b(k, n, _per_register(b))
    sums = (fragments.accumulator(m, n),) * 2
    return _multiply(_Form(m, n, k, types, *factors, *sums, satfinite=satfinite, logic=logic))


def first_arch(modifiers: tuple[str, ...]) -> int:
    """Return the number of the first architecture that multiplies f64 by the mma or wmma.mma with these modifiers (PTX
    ISA, "Target ISA Notes"); 0 for other types."""
    if "f64" not in modifiers:
        return 0
    return 80 if "m8n8k4" in modifiers else 90


def _per_register(type_: str) -> int:
    return max(1, 32 // ELEMENT_BITS[type_])


@functools.cache
def wmma_multiply(modifiers: tuple[str, ...]) -> MatrixMultiply:
    """Return the wmma.mma with these modifiers: ("mma", "sync", "aligned", "row", "col", "m16n16k16", "f32", "f32").

    Raises UnsupportedInstruction for every other shape or type.
    """
    given = Modifiers("wmma", modifiers)
    given.flags("mma")
    logic = given.choice(("xor", "and"), default="")
    if logic:
        given.flags("popc")
    given.flags("sync", "aligned")
    layouts = given.take(), given.take()
    m, n, k = given.shape()
    rounding = given.choice(("rn", "rz", "rm", "rp"), default="")
    satfinite = given.flag("satfinite")
    types = given.rest()
    if len(types) == 2:
        types = (types[0], "f16", "f16", types[1])
    if len(types) != 4:
        raise given.unsupported()
    d, a, b, c = types
    if a != b or (m, n, k) not in WMMA_SHAPES.get(a, ()) or not {c, d} <= set(ACCUMULATORS[a]):
        raise given.unsupported()
    if (satfinite and ACCUMULATORS[a] != ("s32",)) or (rounding and a != "f64") or bool(logic) != (a == "b1"):
        raise given.unsupported()
    if not set(layouts) <= {"row", "col"} or (_per_register(a) > 4 and layouts != ("row", "col")):
        raise given.unsupported()
    factors = wmma_fragment("a", m, n, k, a), wmma_fragment("b", m, n, k, b)
    sums = (wmma_fragment("c", m, n, k, c),) * 2
    return _multiply(_Form(m, n, k, types, *factors, *sums, rounding or "rn", satfinite, logic))


def wmma_fragment(use: str, m: int, n: int, k: int, type_: str) -> Fragment:
    """Return the fragment of the matrix A, B or C ("a", "b", "c") of a wmma."""
    if use == "c":
        return fragments.accumulator(m, n)
    per_register = _per_register(type_)
    found = fragments.factor_a(m, k, per_register) if use == "a" else fragments.factor_b(k, n, per_register)
    # Factors of f16 have eight registers in every shape.
    return found.repeated(16 // found.elements) if type_ == "f16" else found


def _multiply(form: _Form) -> MatrixMultiply:
    d, a, b, c = form.types
    apply = _in_float64(form) if a == "f64" else _exactly(form)
    wide = a == "f64"

    def registers(fragment: Fragment, type_: str) -> int:
        return fragment.elements * ELEMENT_BITS[type_] // (64 if wide else 32)

    return MatrixMultiply(
        np.dtype(np.uint64 if wide else np.uint32),
        registers(form.a, a),
        registers(form.b, b),
        registers(form.c, c),
        registers(form.d, d),
        0 if ACCUMULATORS[a] == ("s32",) else 2 * form.m * form.n * form.k * (4 if form.quads else 1),
        _by_quads(apply) if form.quads else apply,
    )


def _by_quads(apply: Apply) -> Apply:
    """Return what computes four products of eight lanes each a warp."""
    lanes = fragments.QUAD_PAIRS.reshape(-1)
    back = np.argsort(lanes)

    def apply_by_quads(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        d = apply(*(registers[:, lanes].reshape(-1, 8, registers.shape[2]) for registers in (a, b, c)))
        return d.reshape(len(a), WARP, -1)[:, back]

    return apply_by_quads


def _exactly(form: _Form) -> Apply:
    """Return the product of factors of at most 32 bits, whose products float64 holds."""
    d_type, a_type, b_type, c_type = form.types
    a_order, b_order, d_order = form.a.positions, form.b.by_eight_columns(), form.d.by_eight_columns()
    # C in the lane order of D
    c_to_d = None if form.c is form.d else form.c.positions[form.d.places]
    finish = _finish_integers(form) if d_type == "s32" else _finish_floats(d_type)

    def apply(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        addend = element_values(c, c_type)
        if c_to_d is not None:
            addend = addend.take(c_to_d, axis=1)
        left, right = element_values(a, a_type), element_values(b, b_type)
        if form.logic == "xor":
            # As p q = (x xor y) - 1/2 for p = x - 1/2 and q = 1 - 2 y; the halves are added at the end.
            left, right = left - np.float32(0.5), np.float32(1) - 2 * right
        result = np.empty(addend.shape, np.float64)
        start = np.zeros(addend.shape, np.float32) if d_type == "s32" else addend
        multiply_fragments(left, right, start, a_order, b_order, d_order, result)
        return finish(result, addend).reshape(*a.shape[:2], -1)

    return apply


def _finish_floats(type_: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def finish(result: np.ndarray, _: np.ndarray) -> np.ndarray:
        nan = np.isnan(result)
        if type_ == "f32":
            bits = result.astype(np.float32).view(np.uint32)
            bits[nan] = 0x7FFFFFFF
            return bits
        half_bits = result.astype(np.float16).view(np.uint16)
        half_bits[nan] = 0x7FFF
        return half_bits.view(np.uint32)

    return finish


def _finish_integers(form: _Form) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    limits = np.iinfo(np.int32)

    def finish(result: np.ndarray, addend: np.ndarray) -> np.ndarray:
        total = (result + form.k / 2 if form.logic == "xor" else result).astype(np.int64) + addend
        if form.satfinite:
            total = np.clip(total, limits.min, limits.max)
        return total.astype(np.uint32)

    return finish


def _in_float64(form: _Form) -> Apply:
    """Return the product of f64 factors."""
    fma = arithmetic(Modifiers("fma", (form.rounding, "f64")))
    a_order, b_order = form.a.positions, form.b.positions
    rows, columns = form.d.rows.reshape(-1), form.d.columns.reshape(-1)
    # For each step of k the positions of the factors of every element of D.
    left = [a_order[rows * form.k + k] for k in range(form.k)]
    right = [b_order[k * form.n + columns] for k in range(form.k)]

    def apply(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        of_a, of_b = element_values(a, "f64"), element_values(b, "f64")
        sums = element_values(c, "f64").reshape(-1).copy()
        for of_left, of_right in zip(left, right, strict=True):
            fma.apply(sums, of_a.take(of_left, axis=1).ravel(), of_b.take(of_right, axis=1).ravel(), sums)
        return sums.view(np.uint64).reshape(c.shape)

    return apply


# --- ldmatrix, stmatrix, movmatrix


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


def transposed_fragment(registers: np.ndarray) -> np.ndarray:
    """Return what movmatrix leaves: the fragment of an 8 x 8 matrix, uint32 (warps, 32, 1), of the transposed one."""
    return load_fragments(store_rows(registers, transposed=False), transposed=True)


# --- wmma.load, wmma.store


@dataclass(frozen=True)
class TileMove:
    """wmma.load or wmma.store of one matrix, whose lines (rows, or columns) lie `stride` apart in memory.

    A warp accesses the lines in chunks, the lanes one chunk after another, `turns` times. Elements of less than a byte
    move as words.
    """

    load: bool
    element: np.dtype[np.unsignedinteger]
    lines: int
    line_bytes: int
    stride: int  # between the lines if the instruction names none, in elements
    element_bits: int
    by_column: bool
    registers: int
    fragment: Fragment

    @property
    def chunk(self) -> int:
        """Bytes that a lane accesses at once."""
        return min(16, self.lines * self.line_bytes // WARP)

    @property
    def turns(self) -> int:
        return self.lines * self.line_bytes // (WARP * self.chunk)

    @property
    def register_dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype(np.uint64 if self.element.itemsize == 8 else np.uint32)

    @property
    def alignment(self) -> int:
        """Bytes to which the first line must be aligned: a lane's registers, or 32 (PTX ISA, "Matrix Storage")."""
        return min(32, self.registers * self.register_dtype.itemsize)

    @property
    def stride_alignment(self) -> int:
        """Bytes to which every line must be aligned: a lane's registers, or 16 (CUDA C++ guide, load_matrix_sync)."""
        return min(16, self.registers * self.register_dtype.itemsize)

    def chunks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return for each chunk, of shape (turns, 32), its line and where it begins there, in bytes."""
        begin = np.arange(self.turns * WARP).reshape(self.turns, WARP) * self.chunk
        return begin // self.line_bytes, begin % self.line_bytes

    def to_registers(self, lines: np.ndarray) -> np.ndarray:
        """Return the registers (warps, 32, registers) of lines (warps, lines, elements)."""
        matrix = lines.swapaxes(1, 2) if self.by_column else lines
        held = matrix.reshape(len(lines), -1).take(self.fragment.places, axis=1)
        return held.view(self.register_dtype).reshape(len(lines), WARP, self.registers)

    def to_lines(self, registers: np.ndarray) -> np.ndarray:
        """Return the lines (warps, lines, elements) of registers (warps, 32, registers)."""
        held = np.ascontiguousarray(registers).view(self.element).reshape(len(registers), -1)
        matrix = held.take(self.fragment.positions, axis=1).reshape(len(registers), -1, self.fragment.width)
        return np.ascontiguousarray(matrix.swapaxes(1, 2) if self.by_column else matrix)


@functools.cache
def tile_move(modifiers: tuple[str, ...]) -> TileMove:
    """Return the move of ("load", "a", "sync", "aligned", "row", "m16n16k16", "shared", "f16"), for example.

    Raises UnsupportedInstruction for every other shape or type.
    """
    given = Modifiers("wmma", modifiers)
    load = given.choice(("load", "store")) == "load"
    use = given.choice(("a", "b", "c") if load else ("d",)).replace("d", "c")
    given.flags("sync", "aligned")
    layout = given.choice(("row", "col"))
    m, n, k = given.shape()
    given.choice(("global", "shared", "shared::cta"), default="")
    type_ = given.take()
    given.end()
    factors = [a for a, sums in ACCUMULATORS.items() if (type_ in sums if use == "c" else type_ == a)]
    if not any((m, n, k) in WMMA_SHAPES.get(a, ()) for a in factors):
        raise given.unsupported()
    bits = ELEMENT_BITS[type_]
    rows, columns = {"a": (m, k), "b": (k, n), "c": (m, n)}[use]
    by_column = layout == "col"
    if bits < 8 and by_column != (use == "b"):
        raise given.unsupported()
    in_line = rows if by_column else columns
    fragment = wmma_fragment(use, m, n, k * bits // 32 if bits < 8 else k, "s32" if bits < 8 else type_)
    element = np.dtype(f"u{bits // 8 or 4}")
    register_bits = 64 if bits == 64 else 32
    return TileMove(
        load=load,
        element=element,
        lines=columns if by_column else rows,
        line_bytes=in_line * bits // 8,
        stride=in_line,
        element_bits=bits,
        by_column=by_column,
        registers=fragment.elements * 8 * element.itemsize // register_bits,
        fragment=fragment,
    )
