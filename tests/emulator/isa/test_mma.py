"""mma.sync of every type and shape beside those of test_matrix.py, against the ISA's tables and plain Python numbers.

The tables are written out lane by lane and element by element, as the ISA has them ("Matrix Fragments for mma....").
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest

from gpubp.emulator import launch
from gpubp.emulator.errors import LaunchError, UnsupportedInstruction
from gpubp.emulator.isa import matrix

WARPS = 2
Place = Callable[[int, int], tuple[int, int]]  # of a lane and an element: (row, column)


def modifiers(text: str) -> tuple[str, ...]:
    return ("sync", "aligned", *text.split("."))


def g(lane: int) -> int:
    return lane >> 2


def t(lane: int) -> int:
    return lane % 4


class Layout(NamedTuple):
    """Elements of a lane in A, B and C, and where they lie."""

    counts: tuple[int, int, int]
    a: Place
    b: Place
    c: Place


def c_of_8(lane: int, i: int) -> tuple[int, int]:
    return g(lane), t(lane) * 2 + (i & 1)


def c_of_16(lane: int, i: int) -> tuple[int, int]:
    return (g(lane) if i < 2 else g(lane) + 8), t(lane) * 2 + (i & 1)


BYTES_K16 = Layout(
    (8, 4, 4),
    lambda lane, i: (g(lane) if i < 4 else g(lane) + 8, t(lane) * 4 + (i & 3)),
    lambda lane, i: (t(lane) * 4 + i, g(lane)),
    c_of_16,
)
BYTES_K32 = Layout(
    (16, 8, 4),
    lambda lane, i: (
        g(lane) if 0 <= i < 4 or 8 <= i < 12 else g(lane) + 8,
        t(lane) * 4 + (i & 3) + (0 if i < 8 else 16),
    ),
    lambda lane, i: (t(lane) * 4 + (i & 3) + (0 if i < 4 else 16), g(lane)),
    c_of_16,
)
LAYOUTS = {
    ("f64", "m8n8k4"): Layout((1, 1, 2), lambda n, i: (g(n), t(n)), lambda n, i: (t(n), g(n)), c_of_8),
    ("f64", "m16n8k4"): Layout(
        (2, 1, 4), lambda n, i: (g(n) if i == 0 else g(n) + 8, t(n)), lambda n, i: (t(n), g(n)), c_of_16
    ),
    ("f64", "m16n8k8"): Layout(
        (4, 2, 4),
        lambda n, i: (g(n) if i in (0, 2) else g(n) + 8, t(n) if i in (0, 1) else t(n) + 4),
        lambda n, i: (t(n) if i == 0 else t(n) + 4, g(n)),
        c_of_16,
    ),
    ("f64", "m16n8k16"): Layout(
        (8, 4, 4),
        lambda n, i: (g(n), i * 2 + t(n)) if i % 2 == 0 else (g(n) + 8, i * 2 - 2 + t(n)),
        lambda n, i: (t(n) + i * 4, g(n)),
        c_of_16,
    ),
    ("byte", "m16n8k16"): BYTES_K16,
    ("byte", "m16n8k32"): BYTES_K32,
    ("byte", "m8n8k16"): Layout(
        (4, 4, 2), lambda n, i: (g(n), t(n) * 4 + i), lambda n, i: (t(n) * 4 + i, g(n)), c_of_8
    ),
    ("nibble", "m8n8k32"): Layout(
        (8, 8, 2), lambda n, i: (g(n), t(n) * 8 + i), lambda n, i: (t(n) * 8 + i, g(n)), c_of_8
    ),
    ("nibble", "m16n8k32"): Layout(
        (16, 8, 4),
        lambda n, i: (g(n) if i < 8 else g(n) + 8, t(n) * 8 + (i & 7)),
        lambda n, i: (t(n) * 8 + i, g(n)),
        c_of_16,
    ),
    ("nibble", "m16n8k64"): Layout(
        (32, 16, 4),
        lambda n, i: (
            g(n) if 0 <= i < 8 or 16 <= i < 24 else g(n) + 8,
            t(n) * 8 + (i & 7) + (0 if i < 16 else 32),
        ),
        lambda n, i: (t(n) * 8 + (i & 7) + (0 if i < 8 else 32), g(n)),
        c_of_16,
    ),
    ("bit", "m8n8k128"): Layout(
        (32, 32, 2), lambda n, i: (g(n), t(n) * 32 + i), lambda n, i: (t(n) * 32 + i, g(n)), c_of_8
    ),
    ("bit", "m16n8k128"): Layout(
        (64, 32, 4),
        lambda n, i: (g(n) if i < 32 else g(n) + 8, t(n) * 32 + (i & 31)),
        lambda n, i: (t(n) * 32 + i, g(n)),
        c_of_16,
    ),
    ("bit", "m16n8k256"): Layout(
        (128, 64, 4),
        lambda n, i: (
            g(n) if 0 <= i < 32 or 64 <= i < 96 else g(n) + 8,
            t(n) * 32 + (i & 31) + (0 if i < 64 else 128),
        ),
        lambda n, i: (t(n) * 32 + (i & 31) + (0 if i < 32 else 128), g(n)),
        c_of_16,
    ),
}
FAMILY = {
    "f64": "f64",
    **dict.fromkeys(("s8", "u8", "e4m3", "e5m2"), "byte"),
    **dict.fromkeys(("s4", "u4"), "nibble"),
    "b1": "bit",
}
BITS = {"f64": 64, "byte": 8, "nibble": 4, "bit": 1}


def number(code: int, type_: str) -> float:
    """The value of an element's bits."""
    if type_ in ("s8", "s4"):
        bits = 8 if type_ == "s8" else 4
        return code - (1 << bits) if code >> (bits - 1) else code
    if type_ in ("e4m3", "e5m2"):
        dtype = ml_dtypes.float8_e4m3fn if type_ == "e4m3" else ml_dtypes.float8_e5m2
        return float(np.uint8(code).view(dtype))
    return float(np.uint64(code).view(np.float64)) if type_ == "f64" else code


def element(registers: list[int], i: int, bits: int, register_bits: int) -> int:
    per_register = register_bits // bits
    return registers[i // per_register] >> bits * (i % per_register) & ((1 << bits) - 1)


def matrix_of(registers: np.ndarray, place: Place, count: int, type_: str, bits: int) -> dict[tuple[int, int], float]:
    """The matrix that the registers (32, n) of a warp hold, by the tables alone."""
    found: dict[tuple[int, int], float] = {}
    for lane in range(32):
        words = [int(word) for word in registers[lane]]
        for i in range(count):
            found[place(lane, i)] = number(element(words, i, bits, 8 * registers.itemsize), type_)
    assert len(found) == 32 * count
    return found


def signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def random_words(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2**32, (WARPS, 32, count), dtype=np.uint32)


INTEGER_FORMS = [
    *((shape, a, b, sat) for shape in ("m8n8k16", "m16n8k16", "m16n8k32") for a, b, sat in
      (("s8", "s8", ""), ("u8", "u8", ".satfinite"), ("s8", "u8", ".satfinite"), ("u8", "s8", ""))),
    *((shape, a, b, sat) for shape in ("m8n8k32", "m16n8k32", "m16n8k64") for a, b, sat in
      (("s4", "s4", ".satfinite"), ("u4", "u4", ""), ("s4", "u4", ""), ("u4", "s4", ".satfinite"))),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "a_type", "b_type", "sat"), INTEGER_FORMS)
def test_integers(shape: str, a_type: str, b_type: str, sat: str) -> None:
    """C near the limits of 32 bits: the sums wrap around, or stop there with .satfinite."""
    rng = np.random.default_rng(1)
    text = f"sync.aligned.{shape}.row.col{sat}.s32.{a_type}.{b_type}.s32"
    multiply = matrix.matrix_multiply(tuple(text.split(".")))
    layout, bits = LAYOUTS[FAMILY[a_type], shape], BITS[FAMILY[a_type]]
    counts = [count * bits // 32 for count in layout.counts[:2]]
    assert [multiply.a_registers, multiply.b_registers] == counts
    assert [multiply.c_registers, multiply.d_registers, multiply.flops] == [layout.counts[2]] * 2 + [0]
    a, b = (random_words(rng, count) for count in counts)
    c = random_words(rng, layout.counts[2])
    c[0, ::2] = 0x7FFFFF00
    c[0, 1::2] = 0x80000100
    d = multiply.apply(a, b, c)
    beyond = 0
    for w in range(WARPS):
        a_at = matrix_of(a[w], layout.a, layout.counts[0], a_type, bits)
        b_at = matrix_of(b[w], layout.b, layout.counts[1], b_type, bits)
        depth = len(a_at) // (8 if shape.startswith("m8") else 16)
        for lane in range(32):
            for i in range(layout.counts[2]):
                row, column = layout.c(lane, i)
                exact = signed(int(c[w, lane, i])) + sum(int(a_at[row, k] * b_at[k, column]) for k in range(depth))
                beyond += not -(2**31) <= exact < 2**31
                wanted = max(-(2**31), min(2**31 - 1, exact)) if sat else exact
                assert int(d[w, lane, i]) == wanted % 2**32
    assert beyond


@pytest.mark.parametrize("logic", ["xor", "and"])
@pytest.mark.parametrize("shape", ["m8n8k128", "m16n8k128", "m16n8k256"])
def test_single_bits(shape: str, logic: str) -> None:
    rng = np.random.default_rng(2)
    multiply = matrix.matrix_multiply(tuple(f"sync.aligned.{shape}.row.col.s32.b1.b1.s32.{logic}.popc".split(".")))
    layout = LAYOUTS["bit", shape]
    a, b = (random_words(rng, count // 32) for count in layout.counts[:2])
    c = random_words(rng, layout.counts[2])
    d = multiply.apply(a, b, c)
    for w in range(WARPS):
        a_at = matrix_of(a[w], layout.a, layout.counts[0], "b1", 1)
        b_at = matrix_of(b[w], layout.b, layout.counts[1], "b1", 1)
        depth = len(a_at) // (8 if shape.startswith("m8") else 16)
        for lane in range(32):
            for i in range(layout.counts[2]):
                row, column = layout.c(lane, i)
                pairs = [(int(a_at[row, k]), int(b_at[k, column])) for k in range(depth)]
                ones = sum(x ^ y if logic == "xor" else x & y for x, y in pairs)
                assert int(d[w, lane, i]) == (int(c[w, lane, i]) + ones) % 2**32


@pytest.mark.parametrize("shape", ["m8n8k4", "m16n8k4", "m16n8k8", "m16n8k16"])
def test_float64_is_a_chain_of_fused_multiply_adds(shape: str) -> None:
    rng = np.random.default_rng(3)
    multiply = matrix.matrix_multiply(tuple(f"sync.aligned.{shape}.row.col.f64.f64.f64.f64".split(".")))
    layout = LAYOUTS["f64", shape]
    registers = (multiply.a_registers, multiply.b_registers, multiply.c_registers)
    assert registers == layout.counts
    m, k = (int(side) for side in shape[1:].replace("n8k", " ").split())
    assert multiply.flops == 2 * m * 8 * k
    a, b, c = (rng.standard_normal((WARPS, 32, count)).view(np.uint64) for count in layout.counts)
    d = multiply.apply(a, b, c)
    assert d.dtype == np.uint64
    for w in range(WARPS):
        a_at = matrix_of(a[w], layout.a, layout.counts[0], "f64", 64)
        b_at = matrix_of(b[w], layout.b, layout.counts[1], "f64", 64)
        for lane in range(32):
            for i in range(layout.counts[2]):
                row, column = layout.c(lane, i)
                wanted = number(int(c[w, lane, i]), "f64")
                for step in range(k):
                    wanted = float(Fraction(a_at[row, step]) * Fraction(b_at[step, column]) + Fraction(wanted))
                assert d[w, lane, i].view(np.float64) == wanted


def test_larger_shapes_of_float64_have_the_bits_of_several_small_ones() -> None:
    """By hand-made fragments: an m16n8k8 is four m8n8k4 of its registers, one after another."""
    rng = np.random.default_rng(5)
    small, large = (
        matrix.matrix_multiply(tuple(f"sync.aligned.{shape}.row.col.f64.f64.f64.f64".split(".")))
        for shape in ("m8n8k4", "m16n8k8")
    )
    left, right, sums = (rng.standard_normal(shape) for shape in ((16, 8), (8, 8), (16, 8)))
    lanes = range(32)
    a = np.array([[left[g(n) + 8 * h, t(n) + 4 * d] for d in (0, 1) for h in (0, 1)] for n in lanes])[None]
    b = np.array([[right[t(n) + 4 * d, g(n)] for d in (0, 1)] for n in lanes])[None]
    c = np.array([[sums[g(n) + 8 * h, 2 * t(n) + e] for h in (0, 1) for e in (0, 1)] for n in lanes])[None]
    found = large.apply(a.view(np.uint64), b.view(np.uint64), c.view(np.uint64)).view(np.float64)
    expected = c.copy()
    for h, d in itertools.product((0, 1), (0, 1)):
        factors = (np.ascontiguousarray(x).view(np.uint64) for x in (a[:, :, [h + 2 * d]], b[:, :, [d]]))
        own = np.ascontiguousarray(expected[:, :, 2 * h : 2 * h + 2]).view(np.uint64)
        expected[:, :, 2 * h : 2 * h + 2] = small.apply(*factors, own).view(np.float64)
    np.testing.assert_array_equal(found, expected)
    product = left @ right + sums
    for n, h, e in itertools.product(lanes, (0, 1), (0, 1)):
        assert found[0, n, 2 * h + e] == pytest.approx(product[g(n) + 8 * h, 2 * t(n) + e], rel=1e-13, abs=1e-13)


@pytest.mark.parametrize(
    ("shape", "counts", "first"),
    [("m8n8k4", (1, 1, 2), 80), ("m16n8k4", (2, 1, 4), 90), ("m16n8k8", (4, 2, 4), 90), ("m16n8k16", (8, 4, 4), 90)],
)
def test_an_architecture_without_this_mma_of_float64_refuses_it(
    ptx_text: Callable[..., str], shape: str, counts: tuple[int, int, int], first: int
) -> None:
    a, b, c = (f"{{{', '.join(['%fd1'] * count)}}}" for count in counts)
    d = f"{{{', '.join(f'%fd{10 + i}' for i in range(counts[2]))}}}"
    text = f"mov.f64 %fd1, 0d3FF0000000000000;\nmma.sync.aligned.{shape}.row.col.f64.f64.f64.f64 {d}, {a}, {b}, {c};"
    kernel = launch.load(ptx_text(text, 0)).kernel("test")
    launch.launch(kernel, (1, 1, 1), (32, 1, 1), [], arch=f"sm_{first}")
    older = {80: "sm_75", 90: "sm_89"}[first]
    with pytest.raises(LaunchError, match=f"kernel test: its mma of f64 needs sm_{first}; the device is {older}"):
        launch.launch(kernel, (1, 1, 1), (32, 1, 1), [], arch=older)


EIGHT_BIT_FORMS = [
    (shape, a, b, sums)
    for shape in ("m16n8k16", "m16n8k32")
    for a, b in (("e4m3", "e4m3"), ("e5m2", "e5m2"), ("e4m3", "e5m2"), ("e5m2", "e4m3"))
    for sums in ("f32", "f16")
]


def halves(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).view(np.uint32)


@pytest.mark.parametrize(("shape", "a_type", "b_type", "sums"), EIGHT_BIT_FORMS)
def test_floats_of_eight_bits(shape: str, a_type: str, b_type: str, sums: str) -> None:
    """Small codes alone, whose products and sums are exact: any element in a wrong place shows."""
    rng = np.random.default_rng(4)
    text = f"sync.aligned.{shape}.row.col.{sums}.{a_type}.{b_type}.{sums}"
    multiply = matrix.matrix_multiply(tuple(text.split(".")))
    layout = LAYOUTS["byte", shape]
    assert [multiply.a_registers, multiply.b_registers] == [count // 4 for count in layout.counts[:2]]
    whole = {"e4m3": (0x38, 0x50), "e5m2": (0x3C, 0x48)}  # one, and eight
    a, b = (
        (rng.integers(*whole[type_], (WARPS, 32, count)) | 0x80 * rng.integers(0, 2, (WARPS, 32, count)))
        .astype(np.uint8)
        .view(np.uint32)
        for type_, count in zip((a_type, b_type), layout.counts[:2], strict=True)
    )
    start = rng.integers(-99, 99, (WARPS, 32, 4)).astype(np.float32)
    d = multiply.apply(a, b, start.view(np.uint32) if sums == "f32" else halves(start))
    values = d.view(np.float32 if sums == "f32" else np.float16)
    for w in range(WARPS):
        a_at = matrix_of(a[w], layout.a, layout.counts[0], a_type, 8)
        b_at = matrix_of(b[w], layout.b, layout.counts[1], b_type, 8)
        for lane in range(32):
            for i in range(4):
                row, column = layout.c(lane, i)
                terms = [a_at[row, k] * b_at[k, column] for k in range(len(a_at) // 16)]
                exact = math.fsum([float(start[w, lane, i]), *terms])
                assert values[w, lane, i] == (np.float32(exact) if sums == "f32" else np.float16(exact))


def test_nan_of_eight_bits() -> None:
    multiply = matrix.matrix_multiply(modifiers("m16n8k32.row.col.f32.e4m3.e5m2.f32"))
    a, b, c = (np.zeros((1, 32, n), np.uint32) for n in (4, 2, 4))
    a[0, 0, 0] = 0x7F  # NaN at (0, 0)
    b[0, 4, 0] = 0x7C  # infinity at (0, 1)
    with np.errstate(invalid="ignore"):
        d = multiply.apply(a, b, c)
    assert (d[0, :4][:, :2] == 0x7FFFFFFF).all()  # the whole first row
    assert d[0, 4, 1] == 0x7FFFFFFF
    assert d[0, 4, 0] == d[0, 5, 1] == 0


# -- m8n8k4 of f16: four products a warp


def quad_a(lane: int, i: int, layout: str) -> tuple[int, int]:
    if layout == "row":
        return (lane % 4 if lane < 16 else lane % 4 + 4), i
    return (i % 4 if lane < 16 else i % 4 + 4), lane % 4


def quad_b(lane: int, i: int, layout: str) -> tuple[int, int]:
    if layout == "row":
        return lane % 4, (i if lane < 16 else i + 4)
    return i, (lane % 4 if lane < 16 else lane % 4 + 4)


def quad_c(lane: int, i: int, type_: str) -> tuple[int, int]:
    if type_ == "f16":
        return (lane % 4 if lane < 16 else lane % 4 + 4), i
    x = (lane & 0b1) + (i & 0b10)
    return (x if lane < 16 else x + 4), (i & 0b100) + (lane & 0b10) + (i & 0b1)


@pytest.mark.parametrize(("d_type", "c_type"), [("f32", "f32"), ("f16", "f16"), ("f32", "f16")])
@pytest.mark.parametrize("b_layout", ["row", "col"])
@pytest.mark.parametrize("a_layout", ["row", "col"])
def test_four_products_a_warp(a_layout: str, b_layout: str, d_type: str, c_type: str) -> None:
    rng = np.random.default_rng(5)
    text = f"sync.aligned.m8n8k4.{a_layout}.{b_layout}.{d_type}.f16.f16.{c_type}"
    multiply = matrix.matrix_multiply(tuple(text.split(".")))
    assert (multiply.a_registers, multiply.b_registers, multiply.flops) == (2, 2, 4 * 2 * 8 * 8 * 4)
    assert multiply.c_registers == (8 if c_type == "f32" else 4)
    assert multiply.d_registers == (8 if d_type == "f32" else 4)
    a, b = (rng.integers(-8, 9, (WARPS, 32, 4)).astype(np.float16) for _ in range(2))
    c = rng.integers(-99, 99, (WARPS, 32, 8)).astype(np.float32)
    given = c.view(np.uint32) if c_type == "f32" else halves(c)
    d = multiply.apply(a.view(np.uint32), b.view(np.uint32), given)
    values = d.view(np.float32 if d_type == "f32" else np.float16)
    for w in range(WARPS):
        for quad in range(4):
            lanes = [4 * quad + n for n in range(4)] + [16 + 4 * quad + n for n in range(4)]
            a_at = {quad_a(n, i, a_layout): float(a[w, n, i]) for n in lanes for i in range(4)}
            b_at = {quad_b(n, i, b_layout): float(b[w, n, i]) for n in lanes for i in range(4)}
            c_at = {quad_c(n, i, c_type): float(c[w, n, i]) for n in lanes for i in range(8)}
            assert len(a_at) == len(b_at) == 32
            assert len(c_at) == 64
            for lane in lanes:
                for i in range(8):
                    row, column = quad_c(lane, i, d_type)
                    exact = c_at[row, column] + sum(a_at[row, k] * b_at[k, column] for k in range(4))
                    assert values[w, lane, i] == exact


# -- movmatrix


def test_movmatrix_transposes() -> None:
    registers = np.random.default_rng(6).integers(0, 2**32, (WARPS, 32, 1), dtype=np.uint32)
    moved = matrix.transposed_fragment(registers)
    for w in range(WARPS):
        for lane in range(32):
            for i in range(2):
                row, column = lane // 4, 2 * (lane % 4) + i
                source = int(registers[w, 4 * column + row // 2, 0]) >> 16 * (row % 2) & 0xFFFF
                assert int(moved[w, lane, 0]) >> 16 * i & 0xFFFF == source


def test_instructions_run_on_the_device(run_ptx: Callable[..., list[np.ndarray]]) -> None:
    """mma in f64 and in integers, and movmatrix, by registers of their own kinds."""
    text = """
cvt.rn.f64.u32 %fd1, %r0;
mov.f64 %fd2, 0d3FF0000000000000;
mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%fd3, %fd4}, {%fd1}, {%fd2}, {%fd2, %fd1};
mul.wide.u32 %rd10, %r0, 16;
add.u64 %rd11, %rd1, %rd10;
st.global.v2.f64 [%rd11], {%fd3, %fd4};
mov.b32 %r1, 0x01010101;
mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%r2, %r3}, {%r0}, {%r1}, {%r0, %r0};
movmatrix.sync.aligned.m8n8.trans.b16 %r4, %r0;
mul.wide.u32 %rd12, %r0, 12;
add.u64 %rd13, %rd2, %rd12;
st.global.u32 [%rd13], %r2;
st.global.u32 [%rd13+4], %r3;
st.global.u32 [%rd13+8], %r4;
"""
    doubles, words = run_ptx(text, np.zeros((32, 2)), np.zeros((32, 3), np.uint32))
    for lane in range(32):
        row_sum = sum(4 * g(lane) + k for k in range(4))
        assert doubles[lane].tolist() == [row_sum + 1, row_sum + lane]
        assert words[lane].tolist()[:2] == [row_sum + lane] * 2
        # Lane 4 r + c / 2 holds its number at column c, even, and 0 at the odd one beside.
        row, column = lane // 4, 2 * (lane % 4)
        low, high = (4 * (column + i) + row // 2 if row % 2 == 0 else 0 for i in range(2))
        assert words[lane, 2] == low | high << 16


def test_movmatrix_of_other_kinds_is_refused(run_ptx: Callable[..., list[np.ndarray]]) -> None:
    with pytest.raises(UnsupportedInstruction, match=r"test\.cu:1.*movmatrix"):
        run_ptx("movmatrix.sync.aligned.m8n8.b16 %r4, %r0;", np.zeros(1))
