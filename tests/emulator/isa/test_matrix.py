"""Fragment layouts element by element against the ISA's formulas, written out once more as loops over lanes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.isa import matrix

FORMS = [(4, "tf32"), (8, "tf32"), (8, "bf16"), (16, "bf16"), (8, "f16"), (16, "f16")]
WARPS = 3


def form(k: int, type_: str, accumulator: str = "f32") -> matrix.MatrixMultiply:
    return matrix.matrix_multiply(
        ("sync", "aligned", f"m16n8k{k}", "row", "col", accumulator, type_, type_, accumulator)
    )


# The ISA's formulas (9.7.14.5.6 to 9.7.14.5.8 of version 9.0), one element at a time.


def place_in_a(lane: int, i: int, k: int, type_: str) -> tuple[int, int]:
    group, thread = lane >> 2, lane % 4
    if type_ == "tf32" and k == 4:
        return (group if i == 0 else group + 8), thread
    if type_ == "tf32":
        return (group if i in (0, 2) else group + 8), (thread if i in (0, 1) else thread + 4)
    if k == 8:
        return (group if i in (0, 1) else group + 8), thread * 2 + (i & 1)
    row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
    column = thread * 2 + (i & 1) if i < 4 else thread * 2 + (i & 1) + 8
    return row, column


def place_in_b(lane: int, i: int, k: int, type_: str) -> tuple[int, int]:
    group, thread = lane >> 2, lane % 4
    if type_ == "tf32":
        return (thread if i == 0 else thread + 4), group
    if k == 8:
        return thread * 2 + i, group
    return (thread * 2 + (i & 1) if i < 2 else thread * 2 + (i & 1) + 8), group


def place_in_c(lane: int, i: int) -> tuple[int, int]:
    group, thread = lane >> 2, lane % 4
    return (group if i in (0, 1) else group + 8), thread * 2 + (i & 1)


def bits_of(value: float, type_: str) -> int:
    """A small value, exact in every type, as the bits of that type."""
    word = int(np.float32(value).view(np.uint32))
    if type_ == "f16":
        return int(np.float16(value).view(np.uint16))
    return word >> 16 if type_ == "bf16" else word


def registers_of(values: np.ndarray, place, elements: int, type_: str) -> np.ndarray:  # type: ignore[no-untyped-def]
    """A matrix of each warp, (warps, rows, columns), into the lanes' registers, by the formulas alone."""
    per_register = 1 if type_ in ("tf32", "f32") else 2
    registers = np.zeros((len(values), 32, elements // per_register), np.uint32)
    for w in range(len(values)):
        for lane in range(32):
            for i in range(elements):
                bits = bits_of(values[w][place(lane, i)], type_)
                registers[w, lane, i // per_register] |= np.uint32(bits << 16 * (i % per_register))
    return registers


@pytest.mark.parametrize(("k", "type_"), FORMS)
def test_every_place_of_a_and_b(k: int, type_: str) -> None:
    """One non-zero element of A and of B at a time would show any swap; small integers show them all at once."""
    rng = np.random.default_rng(k)
    a = rng.integers(-8, 9, (WARPS, 16, k)).astype(float)
    b = rng.integers(-8, 9, (WARPS, k, 8)).astype(float)
    c = rng.integers(-99, 99, (WARPS, 16, 8)).astype(float)
    per_lane = {"a": 16 * k // 32, "b": 8 * k // 32}
    multiply = form(k, type_)
    a_registers = registers_of(a, lambda lane, i: place_in_a(lane, i, k, type_), per_lane["a"], type_)
    b_registers = registers_of(b, lambda lane, i: place_in_b(lane, i, k, type_), per_lane["b"], type_)
    c_registers = registers_of(c, place_in_c, 4, "f32")
    assert a_registers.shape[2] == multiply.a_registers
    assert b_registers.shape[2] == multiply.b_registers
    assert c_registers.shape[2] == multiply.c_registers
    result = multiply.apply(a_registers, b_registers, c_registers)
    assert result.dtype == np.uint32
    assert result.shape == (WARPS, 32, 4)
    for w in range(WARPS):
        for lane in range(32):
            for i in range(4):
                row, column = place_in_c(lane, i)
                wanted = c[w, row, column] + sum(a[w, row, j] * b[w, j, column] for j in range(k))
                assert result[w, lane, i].view(np.float32) == wanted


@pytest.mark.parametrize("k", [8, 16])
def test_float16_accumulators(k: int) -> None:
    rng = np.random.default_rng(k)
    a = rng.integers(-4, 5, (WARPS, 16, k)).astype(float)
    b = rng.integers(-4, 5, (WARPS, k, 8)).astype(float)
    c = rng.integers(-99, 99, (WARPS, 16, 8)).astype(float)
    multiply = form(k, "f16", "f16")
    result = multiply.apply(
        registers_of(a, lambda lane, i: place_in_a(lane, i, k, "f16"), k // 2, "f16"),
        registers_of(b, lambda lane, i: place_in_b(lane, i, k, "f16"), k // 4, "f16"),
        registers_of(c, place_in_c, 4, "f16"),
    )
    wanted = registers_of(a @ b + c, place_in_c, 4, "f16")
    assert multiply.c_registers == 2
    assert (result == wanted).all()


def random_registers(rng: np.random.Generator, count: int, type_: str) -> np.ndarray:
    values = rng.standard_normal((WARPS, 32, count * (1 if type_ in ("tf32", "f32") else 2))).astype(np.float32)
    if type_ == "f16":
        return values.astype(np.float16).view(np.uint32)
    if type_ == "bf16":
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).view(np.uint32)
    return values.view(np.uint32)


def value_of(registers: np.ndarray, w: int, lane: int, i: int, type_: str) -> float:
    if type_ in ("tf32", "f32"):
        word = int(registers[w, lane, i])
        word = word & ~0x1FFF if type_ == "tf32" else word  # the hardware ignores the low 13 bits
    else:
        half = int(registers[w, lane, i // 2]) >> 16 * (i % 2) & 0xFFFF
        if type_ == "f16":
            return float(np.uint16(half).view(np.float16))
        word = half << 16
    return float(np.uint32(word).view(np.float32))


@pytest.mark.parametrize(("k", "type_"), FORMS)
def test_sums_are_rounded_once(k: int, type_: str) -> None:
    rng = np.random.default_rng(1)
    multiply = form(k, type_)
    a, b = random_registers(rng, multiply.a_registers, type_), random_registers(rng, multiply.b_registers, type_)
    c = random_registers(rng, 4, "f32")
    result = multiply.apply(a, b, c)
    for w in range(WARPS):
        a_at = {place_in_a(n, i, k, type_): value_of(a, w, n, i, type_) for n in range(32) for i in range(k // 2)}
        b_at = {place_in_b(n, i, k, type_): value_of(b, w, n, i, type_) for n in range(32) for i in range(k // 4)}
        for lane in range(32):
            for i in range(4):
                row, column = place_in_c(lane, i)
                terms = [a_at[row, j] * b_at[j, column] for j in range(k)]
                exact = math.fsum([*terms, value_of(c, w, lane, i, "f32")])
                got = float(result[w, lane, i].view(np.float32))
                assert abs(got - exact) <= abs(exact) * 2.0**-24 + 2.0**-60


def test_low_bits_of_tf32_are_ignored() -> None:
    rng = np.random.default_rng(2)
    multiply = form(8, "tf32")
    a, b, c = (random_registers(rng, n, "tf32") for n in (4, 2, 4))
    noise = rng.integers(0, 2**13, a.shape, dtype=np.uint32)
    clean = a & np.uint32(0xFFFFE000)
    assert (multiply.apply(clean | noise, b, c) == multiply.apply(clean, b, c)).all()


def test_nan_and_infinity() -> None:
    multiply = form(16, "bf16")
    a, b, c = (np.zeros((1, 32, n), np.uint32) for n in (4, 2, 4))
    a[0, 0, 0] = 0x7F80  # +infinity at (0, 0)
    b[0, 0, 0] = 0x3F80  # 1 at (0, 0)
    with np.errstate(invalid="ignore"):
        result = multiply.apply(a, b, c)
    assert result[0, 0, 0] == 0x7F800000  # infinity * 1
    assert result[0, 0, 1] == 0x7FFFFFFF  # infinity * 0, canonical
    assert result[0, 4, 0] == 0


def test_warps_do_not_mix() -> None:
    rng = np.random.default_rng(3)
    multiply = form(16, "f16")
    a, b = (random_registers(rng, n, "f16") for n in (4, 2))
    c = random_registers(rng, 4, "f32")
    together = multiply.apply(a, b, c)
    for w in range(WARPS):
        assert (multiply.apply(a[w : w + 1], b[w : w + 1], c[w : w + 1]) == together[w]).all()
    assert multiply.flops == 2 * 16 * 8 * 16


@pytest.mark.parametrize(
    "text",
    [
        "sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32",
        "sync.aligned.m16n8k4.row.col.f32.f16.f16.f32",
        "sync.aligned.m16n8k16.col.row.f32.f16.f16.f32",
        "sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16",
        "sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32",
        "sync.aligned.m16n8k16.row.col.f32.s8.s8.f32",
        "sync.aligned.m16n8k16.row.col.s32.s8.s4.s32",
        "sync.aligned.m16n8k16.row.col.f32.f16.f16",
        "sync.m16n8k16.row.col.f32.f16.f16.f32",
        "sync.aligned.m16n8k16.row.col.satfinite.f32.f16.f16.f32",
        "sync.aligned.m16n8k16.row.col.f32.e4m3.f16.f32",
        "sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.e2m1.e2m1.f32",
        "sync.aligned.m16n8k256.row.col.s32.b1.b1.s32",
        "sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.or.popc",
        "sync.aligned.m8n8k4.row.col.f16.f16.f16.f32",
        "sync.aligned.m8n8k4.col.row.f64.f64.f64.f64",
        "sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    ],
)
def test_other_products_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedInstruction, match="mma"):
        matrix.matrix_multiply(tuple(text.split(".")))


# --- ldmatrix, stmatrix


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(count: int, transposed: bool) -> None:
    rows = np.random.default_rng(count).integers(0, 2**16, (WARPS, count, 8, 8), dtype=np.uint16)
    registers = matrix.load_fragments(rows, transposed)
    assert registers.shape == (WARPS, 32, count)
    for w in range(WARPS):
        for lane in range(32):
            for m in range(count):
                row, first = lane // 4, 2 * (lane % 4)
                pair = [rows[w, m, first + i, row] if transposed else rows[w, m, row, first + i] for i in range(2)]
                assert registers[w, lane, m] == int(pair[0]) | int(pair[1]) << 16
    assert (matrix.store_rows(registers, transposed) == rows).all()


def test_matrix_moves() -> None:
    move = matrix.matrix_move("ldmatrix", ("sync", "aligned", "m8n8", "x4", "trans", "shared", "b16"))
    assert move == matrix.MatrixMove(4, True)
    move = matrix.matrix_move("stmatrix", ("sync", "aligned", "m8n8", "x1", "shared::cta", "b16"))
    assert move == matrix.MatrixMove(1, False)
    for text in ("sync.aligned.m16n16.x1.trans.b8", "sync.aligned.m8n8.x3.b16", "sync.aligned.m8n8.x1.b32", "m8n8.b16"):
        with pytest.raises(UnsupportedInstruction, match="ldmatrix"):
            matrix.matrix_move("ldmatrix", tuple(text.split(".")))
