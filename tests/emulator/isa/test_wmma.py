"""wmma of every type, shape and layout, as PTX: a matrix product from memory to memory, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpubp.emulator.errors import EmulatorError, UnsupportedInstruction
from gpubp.emulator.isa import matrix
from gpubp.emulator.isa.directed import round_fraction
from gpubp.emulator.program.ptx import Address, Instruction, Register, Vector
from gpubp.emulator.program.registers import reads_and_writes

RunPTX = Callable[..., list[np.ndarray]]
DTYPES: dict[str, Any] = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "tf32": np.float32,
    "f32": np.float32,
    "f64": np.float64,
    "s8": np.int8,
    "u8": np.uint8,
    "s32": np.int32,
}
# Registers of A, B and C by the ISA's table ("Matrix Fragments for WMMA"), of f16 and f32 sums.
REGISTERS = {
    **{("f16", shape): (8, 8, 8) for shape in ("m16n16k16", "m8n32k16", "m32n8k16")},
    ("bf16", "m16n16k16"): (4, 4, 8),
    ("bf16", "m8n32k16"): (2, 8, 8),
    ("bf16", "m32n8k16"): (8, 2, 8),
    ("tf32", "m16n16k8"): (4, 4, 8),
    ("f64", "m8n8k4"): (1, 1, 2),
    **{(type_, "m16n16k16"): (2, 2, 8) for type_ in ("s8", "u8")},
    **{(type_, "m8n32k16"): (1, 4, 8) for type_ in ("s8", "u8")},
    **{(type_, "m32n8k16"): (4, 1, 8) for type_ in ("s8", "u8")},
    **{(type_, "m8n8k32"): (1, 1, 2) for type_ in ("s4", "u4")},
    ("b1", "m8n8k128"): (1, 1, 2),
}
LAYOUTS = [("row", "row"), ("row", "col"), ("col", "row"), ("col", "col")]


def sides(shape: str) -> tuple[int, int, int]:
    m, n, k = shape[1:].replace("n", " ").replace("k", " ").split()
    return int(m), int(n), int(k)


def names(prefix: str, first: int, count: int) -> str:
    return "{" + ", ".join(f"{prefix}{first + i}" for i in range(count)) + "}"


def body(
    type_: str,
    shape: str,
    layouts: tuple[str, str],
    sums: tuple[str, str],
    product: str,
    strides: tuple[int, ...],
    c_layouts: tuple[str, str],
    space: str = "",
) -> str:
    """Return PTX that loads A, B and C at %rd1 to %rd3, multiplies, and stores D at %rd4.

    sums: the types of C and D.
    """
    a, b, c = REGISTERS[type_, shape]
    c_count, d_count = (c // 2 if sum_ == "f16" else c for sum_ in sums)
    prefix = "%fd" if type_ == "f64" else "%r"
    at = [names(prefix, first, count) for first, count in ((10, a), (20, b), (30, c_count), (40, d_count))]
    return f"""
wmma.load.a.sync.aligned.{layouts[0]}.{shape}{space}.{type_} {at[0]}, [%rd1], {strides[0]};
wmma.load.b.sync.aligned.{layouts[1]}.{shape}{space}.{type_} {at[1]}, [%rd2], {strides[1]};
wmma.load.c.sync.aligned.{c_layouts[0]}.{shape}{space}.{sums[0]} {at[2]}, [%rd3], {strides[2]};
{product} {at[3]}, {at[0]}, {at[1]}, {at[2]};
wmma.store.d.sync.aligned.{c_layouts[1]}.{shape}{space}.{sums[1]} [%rd4], {at[3]}, {strides[3]};
""".replace("%fd", "%dd")


A, B, D = names("%r", 10, 8), names("%r", 20, 8), names("%r", 40, 4)
MORE_REGISTERS = ".reg .f64 %dd<60>;"


def in_memory(values: np.ndarray, layout: str, pad: int, fill: Any = 0) -> tuple[np.ndarray, int]:
    """A matrix as its lines lie in memory, `pad` elements between them, and the stride."""
    lines = values if layout == "row" else values.T
    padded = np.full((lines.shape[0], lines.shape[1] + pad), fill, values.dtype)
    padded[:, : lines.shape[1]] = lines
    return padded, padded.shape[1]


def of_memory(lines: np.ndarray, layout: str, pad: int) -> np.ndarray:
    values = lines[:, : lines.shape[1] - pad]
    return values if layout == "row" else values.T


FLOATING = [
    (type_, shape, layouts, sums)
    for type_, shape in REGISTERS
    if type_ in ("f16", "bf16", "tf32", "f64")
    for layouts in LAYOUTS
    for sums in ([("f32", "f32"), ("f16", "f16"), ("f16", "f32"), ("f32", "f16")] if type_ == "f16" else [None])
]


@pytest.mark.parametrize(("type_", "shape", "layouts", "sums"), FLOATING)
def test_floats(run_ptx: RunPTX, type_: str, shape: str, layouts: tuple[str, str], sums: Any) -> None:
    """Small integers, exact in every type; C by rows and D by columns, or the other way round."""
    m, n, k = sides(shape)
    sums = sums or (("f64", "f64") if type_ == "f64" else ("f32", "f32"))
    rng = np.random.default_rng(len(type_) + m)
    a, b = (rng.integers(-4, 5, side).astype(DTYPES[type_]) for side in ((m, k), (k, n)))
    c = rng.integers(-99, 99, (m, n)).astype(DTYPES[sums[0]])
    c_layouts = ("row", "col") if layouts[0] == "row" else ("col", "row")
    pad = 16
    (a_lines, a_step), (b_lines, b_step) = in_memory(a, layouts[0], pad), in_memory(b, layouts[1], pad)
    c_lines, c_step = in_memory(c, c_layouts[0], pad)
    d_lines, d_step = in_memory(np.zeros((m, n), DTYPES[sums[1]]), c_layouts[1], pad, fill=77)
    types = {"f16": f"{sums[1]}.{sums[0]}", "f64": "f64.f64.f64.f64"}.get(type_, f"f32.{type_}.{type_}.f32")
    text = body(
        type_, shape, layouts, sums, f"wmma.mma.sync.aligned.{layouts[0]}.{layouts[1]}.{shape}.{types}",
        (a_step, b_step, c_step, d_step), c_layouts, ".global" if layouts[1] == "row" else "",
    )  # fmt: skip
    text = MORE_REGISTERS + text if type_ == "f64" else text
    arrays = [array.view(f"u{array.itemsize}") for array in (a_lines, b_lines, c_lines, d_lines)]
    result = run_ptx(text, *arrays)[3].view(DTYPES[sums[1]])
    wanted = a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64)
    assert (of_memory(result, c_layouts[1], pad).astype(np.float64) == wanted).all()
    assert (result[:, -pad:] == 77).all()


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Lines of small integers as bytes, low bits first."""
    ones = (values[..., np.newaxis] >> np.arange(bits)) & 1
    return np.packbits(ones.reshape(len(values), -1).astype(np.uint8), axis=1, bitorder="little")


INTEGERS = [
    (type_, shape, layouts, satfinite)
    for type_, shape in REGISTERS
    if type_ in ("s8", "u8", "s4", "u4")
    for layouts in (LAYOUTS if type_ in ("s8", "u8") else LAYOUTS[1:2])
    for satfinite in (("", ".satfinite") if layouts == LAYOUTS[1] else ("",))
]


@pytest.mark.parametrize(("type_", "shape", "layouts", "satfinite"), INTEGERS)
def test_integers(run_ptx: RunPTX, type_: str, shape: str, layouts: tuple[str, str], satfinite: str) -> None:
    m, n, k = sides(shape)
    bits = int(type_[1])
    low, high = (-(1 << bits - 1), 1 << bits - 1) if type_[0] == "s" else (0, 1 << bits)
    rng = np.random.default_rng(m)
    a, b = rng.integers(low, high, (m, k)), rng.integers(low, high, (k, n))
    c = rng.integers(2**31 - 100, 2**31, (m, n))
    lines = [side if layout == "row" else side.T for side, layout in zip((a, b), layouts, strict=True)]
    stored = [packed(each & ((1 << bits) - 1), bits) for each in lines]
    steps = [each.shape[1] for each in lines]
    text = body(
        type_, shape, layouts, ("s32", "s32"),
        f"wmma.mma.sync.aligned.{layouts[0]}.{layouts[1]}.{shape}.s32.{type_}.{type_}.s32{satfinite}",
        (*steps, n, m), ("row", "col"),
    )  # fmt: skip
    result = run_ptx(text, *stored, c.astype(np.int32), np.zeros((n, m), np.int32))[3].T
    exact = a @ b + c
    assert (exact >= 2**31).any()
    wanted = np.clip(exact, -(2**31), 2**31 - 1) if satfinite else (exact + 2**31) % 2**32 - 2**31
    assert (result == wanted).all()


@pytest.mark.parametrize("logic", ["xor", "and"])
def test_single_bits(run_ptx: RunPTX, logic: str) -> None:
    rng = np.random.default_rng(8)
    a, b = rng.integers(0, 2, (8, 128)), rng.integers(0, 2, (128, 8))
    c = rng.integers(-999, 999, (8, 8)).astype(np.int32)
    text = body(
        "b1", "m8n8k128", ("row", "col"), ("s32", "s32"),
        f"wmma.mma.{logic}.popc.sync.aligned.row.col.m8n8k128.s32.b1.b1.s32",
        (128, 128, 8, 8), ("row", "row"),
    )  # fmt: skip
    result = run_ptx(text, packed(a, 1), packed(b.T, 1), c, np.zeros((8, 8), np.int32))[3]
    combine = np.bitwise_xor if logic == "xor" else np.bitwise_and
    ones = combine(a[:, np.newaxis, :], b.T[np.newaxis]).sum(axis=2)
    assert (result == c + ones).all()


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_float64_rounds_as_told(run_ptx: RunPTX, mode: str) -> None:
    rng = np.random.default_rng(9)
    a, b, c = rng.standard_normal((8, 4)), rng.standard_normal((4, 8)), rng.standard_normal((8, 8))
    text = body(
        "f64", "m8n8k4", ("row", "row"), ("f64", "f64"),
        f"wmma.mma.sync.aligned.row.row.m8n8k4.{mode}.f64.f64.f64.f64", (4, 8, 8, 8), ("row", "row"),
    )  # fmt: skip
    result = run_ptx(MORE_REGISTERS + text, a, b, c, np.zeros((8, 8)))[3]
    for row in range(8):
        for column in range(8):
            wanted = float(c[row, column])
            for k in range(4):
                exact = Fraction(float(a[row, k])) * Fraction(float(b[k, column])) + Fraction(wanted)
                wanted = float(exact) if mode == "rn" else round_fraction(exact, mode)
            assert result[row, column] == wanted


def test_strides_may_be_left_out_and_addresses_have_offsets(run_ptx: RunPTX) -> None:
    """The default stride is the length of a line: of a row, or of a column."""
    values = np.arange(16 * 8, dtype=np.float32).reshape(16, 8)
    text = """
wmma.load.a.sync.aligned.row.m16n16k8.global.tf32 {%r1, %r2, %r3, %r4}, [%rd1];
wmma.load.b.sync.aligned.col.m16n16k8.global.tf32 {%r5, %r6, %r7, %r8}, [%rd1+512];
wmma.load.c.sync.aligned.row.m16n16k8.global.f32 C, [%rd2];
wmma.mma.sync.aligned.row.col.m16n16k8.f32.tf32.tf32.f32 C, {%r1, %r2, %r3, %r4}, {%r5, %r6, %r7, %r8}, C;
wmma.store.d.sync.aligned.col.m16n16k8.global.f32 [%rd2+1024], C;
""".replace("C", names("%r", 9, 8))
    both = np.concatenate([values, -values])
    sums = np.concatenate([np.ones((16, 16), np.float32), np.zeros((16, 16), np.float32)])
    result = run_ptx(text, both, sums)[1]
    np.testing.assert_array_equal(result[16:].T, 1 - values @ values.T)


def test_shared_memory_by_its_own_and_by_generic_addresses(run_ptx: RunPTX) -> None:
    values = np.arange(256, dtype=np.float32).reshape(16, 16)
    text = """
.shared .align 32 .b8 tile[1024];
mov.u64 %rd10, tile;
cvta.shared.u64 %rd11, %rd10;
wmma.load.c.sync.aligned.row.m16n16k16.global.f32 C, [%rd1];
wmma.store.d.sync.aligned.col.m16n16k16.f32 [%rd11], C;
bar.sync 0;
wmma.load.c.sync.aligned.row.m16n16k16.shared::cta.f32 C, [tile];
wmma.store.d.sync.aligned.row.m16n16k16.global.f32 [%rd2], C;
""".replace("C", names("%r", 9, 8))
    result = run_ptx(text, values, np.zeros_like(values))[1]
    np.testing.assert_array_equal(result, values.T)


def test_warps_of_several_blocks_do_not_mix(run_ptx: RunPTX) -> None:
    """Each warp multiplies its own matrices, whatever the number of lanes that run at once."""
    warps = 6
    rng = np.random.default_rng(10)
    a, b = (rng.integers(-4, 5, (warps, 16, 16)).astype(np.float16) for _ in range(2))
    text = f"""
mov.u32 %r1, %ctaid.x;
mad.lo.u32 %r1, %r1, 64, %r0;
shr.u32 %r1, %r1, 5;
mul.wide.u32 %rd10, %r1, 512;
add.u64 %rd11, %rd1, %rd10;
add.u64 %rd12, %rd2, %rd10;
add.u64 %rd13, %rd3, %rd10;
wmma.load.a.sync.aligned.row.m16n16k16.f16 {A}, [%rd11], 16;
wmma.load.b.sync.aligned.row.m16n16k16.f16 {B}, [%rd12], 16;
mov.b32 %r30, 0;
wmma.mma.sync.aligned.row.row.m16n16k16.f16.f16 {D}, {A}, {B}, {{%r30, %r30, %r30, %r30}};
wmma.store.d.sync.aligned.row.m16n16k16.f16 [%rd13], {D}, 16;
"""
    arrays = [a.view(np.uint16), b.view(np.uint16), np.zeros((warps, 16, 16), np.uint16)]
    for lanes in (None, 64):
        result = run_ptx(text, *arrays, grid=3, block=64, lanes=lanes)[2].view(np.float16)
        assert (result.astype(float) == a.astype(float) @ b.astype(float)).all()


def test_a_store_reads_its_address_and_writes_no_register() -> None:
    address, values = Address(Register("%rd1"), 0), Vector((Register("%r1"), Register("%r2")))
    stride = Register("%r3")
    store = Instruction("wmma", ("store", "d"), (address, values, stride), None, None, "")
    load = Instruction("wmma", ("load", "a"), (values, address, stride), None, None, "")
    assert reads_and_writes(store) == (["%rd1", "%r1", "%r2", "%r3"], [])
    assert reads_and_writes(load) == (["%rd1", "%r3"], ["%r1", "%r2"])


# -- what is refused


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"wmma.load.a.sync.aligned.row.m16n16k16.f16 {A}, [%rd1+16], 16;", "must be a multiple of 32"),
        (f"wmma.load.a.sync.aligned.row.m16n16k16.f16 {A}, [%rd1], 20;", "20 elements apart, 40 bytes; they must be a"),
        (f"wmma.load.a.sync.aligned.row.m16n16k16.f16 {A}, [%rd1], 24;", "out of bounds: reads 16 bytes of global"),
        (f"wmma.load.a.sync.aligned.row.m16n16k16.f16 {A}, [%rd1], %r0;", "give different strides to"),
        (f"add.u64 %rd1, %rd1, %rd0; wmma.load.a.sync.aligned.row.m16n16k16.f16 {A}, [%rd1];", "different addresses"),
        (f"@%p1 wmma.load.a.sync.aligned.row.m16n16k16.f16 {A}, [%rd1], 16;", "lanes 16-31 of the warp do not execute"),
        (f"wmma.store.d.sync.aligned.row.m16n16k16.f32 [%rd1], {A}, 16;", "out of bounds: writes 16 bytes of global"),
        ("wmma.load.a.sync.aligned.row.m8n8k128.b1 %r10, [%rd1], 136;", "136 elements apart, 17 bytes"),
        ("wmma.load.a.sync.aligned.row.m16n16k16.f16 {%r1, %r2}, [%rd1], 16;", "unexpected number of registers"),
    ],
)  # fmt: skip
def test_faults(run_ptx: RunPTX, line: str, says: str) -> None:
    with pytest.raises(EmulatorError, match=says) as caught:
        run_ptx(f"setp.lt.u32 %p1, %r0, 16;\n{line}", np.zeros((16, 16), np.uint16))
    assert "test.cu:2" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "load.a.sync.aligned.row.m16n16k16.f32",
        "load.a.sync.aligned.row.m16n16k8.f16",
        "load.d.sync.aligned.row.m16n16k16.f32",
        "load.c.sync.aligned.row.m16n16k16.tf32",
        "load.a.sync.aligned.col.m8n8k32.s4",
        "load.b.sync.aligned.row.m8n8k128.b1",
        "load.a.sync.row.m16n16k16.f16",
        "load.a.sync.aligned.row.m16n16k16.local.f16",
        "store.c.sync.aligned.row.m16n16k16.f32",
        "store.d.sync.aligned.row.m16n16k16.bf16",
    ],
)
def test_other_moves_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedInstruction, match="wmma"):
        matrix.tile_move(tuple(text.split(".")))


@pytest.mark.parametrize(
    "text",
    [
        "mma.sync.aligned.row.col.m16n16k16.f32",
        "mma.sync.aligned.row.col.m16n16k8.f32.f32",
        "mma.sync.aligned.row.col.m16n16k16.f32.bf16.f16.f32",
        "mma.sync.aligned.row.col.m16n16k16.f16.bf16.bf16.f16",
        "mma.sync.aligned.row.col.m16n16k16.rz.f32.f32",
        "mma.sync.aligned.row.col.m16n16k16.f32.f32.satfinite",
        "mma.sync.aligned.row.col.m16n16k16.s32.s8.u8.s32",
        "mma.sync.aligned.col.col.m8n8k32.s32.s4.s4.s32",
        "mma.sync.aligned.row.col.m8n8k128.s32.b1.b1.s32",
        "mma.or.popc.sync.aligned.row.col.m8n8k128.s32.b1.b1.s32",
        "mma.xor.popc.sync.aligned.row.col.m16n16k16.s32.s8.s8.s32",
        "mma.sync.row.col.m16n16k16.f32.f32",
    ],
)
def test_other_products_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedInstruction, match="wmma"):
        matrix.wmma_multiply(tuple(text.split(".")))
