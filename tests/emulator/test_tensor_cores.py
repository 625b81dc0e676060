"""Kernels that use tensor cores, as people write them: wmma of <mma.h>, fp8 of <cuda_fp8.h>, and mma in assembly.

Each is compared with NumPy; bugs planted in them are reported at their line, and without them nothing is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator.errors import EmulatorError

Case = tuple[str, tuple[Any, ...]]


def product_arguments(m: int = 64, n: int = 96, k: int = 48) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m + n + k)
    return rng.standard_normal((m, k)).astype(np.float16), rng.standard_normal((k, n)).astype(np.float16)


def launch_product(kernel: Any, alpha: float = 0.5) -> np.ndarray:
    a, b = product_arguments()
    (m, k), n = a.shape, b.shape[1]
    c = cp.empty((m, n), np.float32)
    kernel((n // 32, m // 32), (128,), (n, k, np.float32(alpha), cp.asarray(a), cp.asarray(b), c))
    return c.get()


def launch_row_sums(kernel: Any) -> np.ndarray:
    rows = cp.empty(16, np.float32)
    kernel((1,), (32,), (cp.asarray(np.eye(16, dtype=np.float16)), rows))
    return rows.get()


LAUNCHES: dict[str, Callable[[Any], np.ndarray]] = {"wmma_product": launch_product, "wmma_row_sums": launch_row_sums}


def test_a_product_through_wmma(cuda_kernel: Callable[..., cp.RawKernel]) -> None:
    with cp.observe(races=True, uninitialised=True, traffic=True) as report:
        got = launch_product(cuda_kernel("wmma_product"), 0.5)
    a, b = (side.astype(np.float64) for side in product_arguments())
    wanted = np.maximum(0.5 * (a @ b), 0)
    bound = 4 * a.shape[1] * 2.0**-24 * (np.abs(a) @ np.abs(b))
    assert (np.abs(got - wanted) <= bound).all()
    assert report.findings == []
    (m, k), n = a.shape, b.shape[1]
    assert report.instructions["tensor"] == m * n * k // 16**3 * 32
    assert report.flops == 2 * m * n * k + m * n * 2  # alpha, and the maximum
    # The tiles of c are stored by wmma and read by ordinary loads; with those of a and b it is the other way round.
    warps = m * n // 16**2
    assert report.instructions["store shared"] == 32 * warps * (1 + k // 16 * 2 * 32 * 16 // 128)
    assert report.instructions["load shared"] == 32 * warps * (k // 16 * 2 + 32 * 32 // 128)
    tiles = [line for line in report.accesses if line.space == "shared" and "mma.hpp" in str(line.location)]
    assert {(line.kind, line.nbytes) for line in tiles} == {
        ("load", 2 * m * k * n // 16),
        ("store", 4 * m * n),
    }
    assert all(line.units >= line.least_units > 0 for line in tiles)


def test_row_sums_through_wmma(cuda_kernel: Callable[..., cp.RawKernel]) -> None:
    with cp.observe(races=True, uninitialised=True) as report:
        got = launch_row_sums(cuda_kernel("wmma_product", "wmma_row_sums"))
    assert (got == 1).all()
    assert report.findings == []


TILES = [
    ("16, 16, 16, half, float", np.float16, np.float32),
    ("8, 32, 16, half, half", np.float16, np.float16),
    ("32, 8, 16, __nv_bfloat16, float", ml_dtypes.bfloat16, np.float32),
    ("16, 16, 8, wmma::precision::tf32, float", np.float32, np.float32),
    ("8, 8, 4, double, double", np.float64, np.float64),
    ("8, 32, 16, signed char, int", np.int8, np.int32),
    ("16, 16, 16, unsigned char, int", np.uint8, np.int32),
]
PACKED = [("types::s4, 32", 4, True), ("types::u4, 32", 4, False), ("types::b1, 128", 1, False)]


@pytest.fixture(scope="module")
def tiles(kernel_folder: Path) -> cp.RawModule:
    expressions = [f"tile<{types}>" for types, _, _ in TILES] + [f"packed_tile<{types}>" for types, _, _ in PACKED]
    return cp.RawModule(code=(kernel_folder / "wmma_types.cu").read_text(), name_expressions=expressions)


@pytest.mark.parametrize(("types", "factor", "total"), TILES)
def test_wmma_of_every_type(tiles: cp.RawModule, types: str, factor: Any, total: Any) -> None:
    m, n, k = (int(side) for side in types.split(",")[:3])
    rng = np.random.default_rng(m)
    low = 0 if factor is np.uint8 else -8
    a, b = rng.integers(low, 9, (m, k)), rng.integers(low, 9, (k, n))
    c = rng.integers(-100, 100, (m, n))
    arrays = [as_device(a, factor), as_device(b.T, factor), as_device(c, total)]
    d = as_device(np.zeros((n, m)), total)
    tiles.get_function(f"tile<{types}>")((1,), (32,), (*arrays, d))
    assert (d.get().view(total).T.astype(np.float64) == 2 * (a @ b + c)).all()


def as_device(values: np.ndarray, dtype: Any) -> cp.ndarray:
    array = np.ascontiguousarray(values.astype(dtype))
    return cp.asarray(array.view(f"u{array.itemsize}"))


@pytest.mark.parametrize(("types", "bits", "signed"), PACKED)
def test_wmma_of_few_bits(tiles: cp.RawModule, types: str, bits: int, signed: bool) -> None:
    k = int(types.split(",")[1])
    rng = np.random.default_rng(bits)
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    a, b = rng.integers(low, high, (8, k)), rng.integers(low, high, (k, 8))
    c = rng.integers(-100, 100, (8, 8))
    stored = [
        np.packbits(((side[..., None] >> np.arange(bits)) & 1).astype(np.uint8).reshape(8, -1), 1, bitorder="little")
        for side in (a, np.ascontiguousarray(b.T))
    ]
    d = cp.empty((8, 8), np.int32)
    arguments = (*(cp.asarray(side) for side in stored), cp.asarray(c.astype(np.int32)), d)
    tiles.get_function(f"packed_tile<{types}>")((1,), (32,), arguments)
    np.testing.assert_array_equal(d.get().T, 2 * (a @ b + c))


# -- planted bugs: an edit, what is reported, and what the line of the report holds

BUGS = {
    "no barrier after the tiles are filled": (
        "wmma_product",
        "        __syncthreads();\n        wmma::fragment",
        "        wmma::fragment",
        "race: ",
        "load_matrix_sync",
    ),
    "no barrier before the tiles are filled again": (
        "wmma_product",
        "        __syncthreads();  // nobody may fill the tiles before all have read them\n",
        "",
        "race: ",
        "i % STEP] = a[|i % TILE] = b[",
    ),
    "no barrier after the sums are stored": (
        "wmma_product",
        "mem_row_major);\n    __syncthreads();\n",
        "mem_row_major);\n",
        "race: ",
        "= tile_c[",
    ),
    "two warps store to one tile": (
        "wmma_product",
        "tile_c + row * LDC + col, sums",
        "tile_c + row * LDC, sums",
        "race: ",
        "store_matrix_sync",
    ),
    "no __syncwarp after the sums are stored": (
        "wmma_row_sums",
        "    __syncwarp();\n",
        "",
        "race: ",
        "total += product[",
    ),
    "an edge of a tile is not filled": (
        "wmma_product",
        "i < TILE * STEP;",
        "i < TILE * STEP - 1;",
        "uninitialised read: ",
        "mma_sync",
    ),
    "the sums are stored with too large a stride": (
        "wmma_product",
        "sums, LDC, wmma",
        "sums, LDC + 8, wmma",
        "out of bounds: writes 16 bytes of shared memory",
        "store_matrix_sync",
    ),
    "the sums are stored beyond the result": (
        "wmma_row_sums",
        "store_matrix_sync(product, sums",
        "store_matrix_sync(rows, sums",
        "out of bounds: writes 16 bytes of global memory",
        "store_matrix_sync",
    ),
    "the result is half as long as the tile": (
        "wmma_row_sums",
        "product[16 * 16]",
        "product[16 * 8]",
        "out of bounds: writes 16 bytes of shared memory",
        "store_matrix_sync",
    ),
    "the tile is read beyond its end": (
        "wmma_product",
        "tile_a + row * LDA, LDA",
        "tile_a + row * LDA, LDA + 8",
        "out of bounds: reads 16 bytes of shared memory",
        "load_matrix_sync",
    ),
    "a stride that is not aligned": (
        "wmma_product",
        "LDA = STEP + 8",
        "LDA = STEP + 4",
        "misaligned access: the lines of the matrix",
        "load_matrix_sync(factor_a",
    ),
    "a stride of the sums that is not aligned": (
        "wmma_product",
        "LDC = TILE + 4",
        "LDC = TILE + 2",
        "lie 34 elements apart, 136 bytes",
        "store_matrix_sync",
    ),
    "a tile that does not begin at 32 bytes": (
        "wmma_product",
        "tile_b + col, LDB",
        "tile_b + col + 8, LDB",
        "the address must be a multiple of 32",
        "load_matrix_sync(factor_b",
    ),
    "half a warp loads": (
        "wmma_row_sums",
        "wmma::load_matrix_sync(left, a, 16);",
        "if (threadIdx.x < 16) wmma::load_matrix_sync(left, a, 16);",
        "lanes 16-31 of the warp do not execute it",
        "load_matrix_sync(left",
    ),
    "the lanes give different addresses": (
        "wmma_row_sums",
        "load_matrix_sync(right, a, 16)",
        "load_matrix_sync(right, a + 16 * (threadIdx.x / 16), 16)",
        "the lanes of the warp give different addresses",
        "load_matrix_sync(right",
    ),
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_planted_bugs_are_found(kernel_folder: Path, bug: tuple[str, str, str, str, str]) -> None:
    name, old, new, says, at = bug
    source = (kernel_folder / "wmma_product.cu").read_text()
    assert source.count(old) == 1
    source = source.replace(old, new)
    kernel = cp.RawKernel(source, name)
    message = ""
    with cp.observe(races=True, uninitialised=True) as report:
        try:
            LAUNCHES[name](kernel)
        except EmulatorError as error:
            message = str(error)
    if not message:
        assert report.findings, "nothing was reported"
        message = f"{report.findings[0].kind}: {report.findings[0].message}"
    assert says in message
    line = re.search(r"kernel\.cu:(\d+)", message)
    assert line is not None, message
    text = source.splitlines()[int(line[1]) - 1]
    assert any(part in text for part in at.split("|")), message


# -- floats of eight bits

FP8 = r"""
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

template <typename Byte, typename Value>
__global__ void to_bytes(int n, const Value* x, unsigned char* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = Byte(x[i]).__x;
}

template <typename Byte, typename Value>
__global__ void to_values(const unsigned char* x, Value* y) {
    Byte byte;
    byte.__x = x[threadIdx.x];
    y[threadIdx.x] = Value(byte);
}

template <typename Pair>
__global__ void to_pairs(const float2* x, unsigned short* y, __half2* back) {
    Pair pair(x[threadIdx.x]);
    y[threadIdx.x] = pair.__x;
    back[threadIdx.x] = __half2(pair);
}
"""
BYTES = {"e4m3": (ml_dtypes.float8_e4m3fn, 448.0), "e5m2": (ml_dtypes.float8_e5m2, 57344.0)}
VALUES = {"float": np.float32, "__half": np.float16, "__nv_bfloat16": ml_dtypes.bfloat16, "double": np.float64}
"""sm_80 has no instruction for them: the header computes with integers."""


def between(dtype: Any) -> np.ndarray:
    """All numbers of eight bits, what lies halfway between neighbours and beside it, and what is beyond them all."""
    numbers = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float64)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    halfway = (numbers[1:] + numbers[:-1]) / 2
    positive = np.concatenate([numbers, halfway])
    beside = np.concatenate([positive * (1 + 2.0**-7), positive * (1 - 2.0**-7)])
    return np.concatenate([positive, beside, [1e-30, -1e-30, 464.0, 465.0, 61440.0, 61500.0, 1e5, -1e5, np.inf]])


@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90"])
def test_conversions_of_the_header(arch: str) -> None:
    pairs = [(byte, value) for byte in BYTES for value in VALUES]
    expressions = [f"to_bytes<__nv_fp8_{byte}, {value}>" for byte, value in pairs]
    expressions += [f"to_values<__nv_fp8_{byte}, {value}>" for byte, value in pairs]
    expressions += [f"to_pairs<__nv_fp8x2_{byte}>" for byte in BYTES]
    with cp.use(arch):
        module = cp.RawModule(code=FP8, name_expressions=expressions, options=("-std=c++17",))
        for byte, value in pairs:
            dtype, most = BYTES[byte]
            with np.errstate(over="ignore"):
                x = between(dtype).astype(VALUES[value])
            got = cp.empty(x.size, np.uint8)
            encode = module.get_function(f"to_bytes<__nv_fp8_{byte}, {value}>")
            encode((-(-x.size // 256),), (256,), (x.size, as_device(x, VALUES[value]), got))
            wanted = np.clip(x.astype(np.float64), -most, most).astype(dtype)
            assert (got.get() == wanted.view(np.uint8)).all(), (byte, value)
            codes = np.arange(256, dtype=np.uint8)
            values = as_device(np.zeros(256), VALUES[value])
            decode = module.get_function(f"to_values<__nv_fp8_{byte}, {value}>")
            decode((1,), (256,), (cp.asarray(codes), values))
            exact = codes.view(dtype).astype(np.float64)
            np.testing.assert_array_equal(values.get().view(VALUES[value]).astype(np.float64), exact)
        for byte, (dtype, _) in BYTES.items():
            x = np.arange(-32, 32, dtype=np.float32).reshape(32, 2)
            packed, back = cp.empty((32, 1), np.uint16), cp.empty((32, 2), np.float16)
            module.get_function(f"to_pairs<__nv_fp8x2_{byte}>")((1,), (32,), (cp.asarray(x), packed, back))
            assert (packed.get().view(np.uint8) == x.astype(dtype).view(np.uint8)).all()
            assert (back.get() == x.astype(dtype).astype(np.float16)).all()


FP8_PRODUCT = r"""
#include <cuda_fp8.h>

// c = a b, 16 x 8, by one warp; a is 16 x 32 by rows, b 32 x 8 by columns, both rounded to eight bits.
extern "C" __global__ void product(const float4* a, const float4* b, float* c) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    unsigned int left[4], right[2];
    for (int i = 0; i < 4; i++) left[i] = __nv_fp8x4_e4m3(a[(g + 8 * (i % 2)) * 8 + t + 4 * (i / 2)]).__x;
    for (int i = 0; i < 2; i++) right[i] = __nv_fp8x4_e5m2(b[g * 8 + t + 4 * i]).__x;
    float d[4];
    asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %10, %10, %10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]), "f"(0.0f));
    for (int i = 0; i < 4; i++) c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = d[i];
}
"""


def test_a_product_in_eight_bits() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((16, 32)).astype(np.float32), rng.standard_normal((32, 8)).astype(np.float32)
    c = cp.empty((16, 8), np.float32)
    with cp.use("sm_89"):
        kernel = cp.RawKernel(FP8_PRODUCT, "product")
        kernel((1,), (32,), (cp.asarray(a), cp.asarray(np.ascontiguousarray(b.T)), c))
    left = a.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    right = b.astype(ml_dtypes.float8_e5m2).astype(np.float64)
    np.testing.assert_array_equal(c.get(), (left @ right).astype(np.float32))
