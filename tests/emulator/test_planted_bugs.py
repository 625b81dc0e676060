"""Bugs planted in the test kernels: each is reported, as what it is and at its line; correct kernels report nothing.

A bug is an edit of a kernel's source. `at` is what the reported line holds, after the edit.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator.observe.observers import observe


@dataclass(frozen=True)
class Report:
    """What the emulator said of a run, by an error or by an observer."""

    line: int | None
    message: str


@dataclass(frozen=True)
class Bug:
    kernel: str
    edits: tuple[tuple[str, str], ...]
    says: str
    at: str | tuple[str, ...]


def bug(kernel: str, old: str, new: str, *, says: str, at: str | tuple[str, ...]) -> Bug:
    return Bug(kernel, ((old, new),), says, at)


# --- running a kernel, right or wrong, on a small case with ragged edges


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def run_saxpy(kernel: Any) -> None:
    x, y = cp.asarray(normal(1000)), cp.asarray(normal(1000))
    kernel((8,), (128,), (1000, np.float32(2.5), x, y))


def run_sgemm(kernel: Any) -> None:
    m, n, k = 150, 201, 37
    kernel((2, 2), (256,), (m, n, k, cp.asarray(normal(m, k)), cp.asarray(normal(k, n)), cp.empty((m, n), np.float32)))


def run_block_sum(kernel: Any) -> None:
    kernel((4,), (256,), (1000, cp.asarray(normal(1000)), cp.empty(4, np.float32)))


def run_histogram(kernel: Any) -> None:
    x = np.random.default_rng(0).integers(0, 256, 2000).astype(np.uint8)
    kernel((3,), (128,), (x.size, cp.asarray(x), cp.zeros(256, np.uint32)))


def run_transpose(kernel: Any) -> None:
    """There and back: what the first launch leaves out, the second copies, and the host reads."""
    x, y, back = cp.asarray(normal(70, 45)), cp.empty((45, 70), np.float32), cp.empty((70, 45), np.float32)
    kernel((2, 3), (32, 8), (70, 45, x, y))
    kernel((3, 2), (32, 8), (45, 70, y, back))
    back.get()


def run_softmax(kernel: Any) -> None:
    kernel((3,), (128,), (200, cp.asarray(normal(3, 200)), cp.empty((3, 200), np.float32)))


def run_exponential(kernel: Any) -> None:
    kernel((2,), (128,), (200, cp.asarray(normal(200)), cp.empty(200, np.float32)))


def run_collatz(kernel: Any) -> None:
    kernel((2,), (128,), (200, cp.asarray(np.arange(1, 201)), cp.empty(200, np.int32)))


def run_tensor_product(kernel: Any) -> None:
    m, n, k = 70, 65, 160
    a, b = cp.asarray(normal(m, k).astype(np.float16)), cp.asarray(normal(n, k).astype(np.float16))
    kernel((2, 2), (128,), (m, n, k, a, b, cp.empty((m, n), np.float32)))


# kernel -> its file and how it is run
KERNELS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "saxpy": ("saxpy", run_saxpy),
    "sgemm": ("sgemm", run_sgemm),
    "tree_sum": ("reductions", run_block_sum),
    "shuffle_sum": ("reductions", run_block_sum),
    "histogram": ("histogram", run_histogram),
    "transpose": ("transpose", run_transpose),
    "softmax": ("softmax", run_softmax),
    "exp_float": ("elementwise", run_exponential),
    "collatz": ("collatz", run_collatz),
    "tensor_product<__half>": ("tensor_product", run_tensor_product),
}


def reports_of(run: Callable[[], None], file: str) -> list[Report]:
    """Everything that the emulator says while the launches run, the line being one of the file."""
    with observe(races=True, uninitialised=True) as report:
        try:
            run()
        except cp.EmulatorError as error:
            found = re.search(re.escape(file) + r":(\d+)", str(error))
            return [Report(int(found[1]) if found else None, f"{type(error).__name__}: {error}")]
    return [Report(finding.line, f"{finding.kind}: {finding.message}") for finding in report.findings]


def edited(source: str, edits: tuple[tuple[str, str], ...]) -> str:
    for old, new in edits:
        assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in the kernel"
        source = source.replace(old, new)
    return source


def lines_with(source: str, texts: str | tuple[str, ...]) -> set[int]:
    texts = (texts,) if isinstance(texts, str) else texts
    lines = {i for i, line in enumerate(source.splitlines(), 1) if any(text in line for text in texts)}
    assert lines, texts
    return lines


def run_cuda(name: str, source: str) -> list[Report]:
    _, run = KERNELS[name]
    kernel = cp.RawModule(code=source, name_expressions=[name] if "<" in name else None).get_function(name)
    return reports_of(lambda: run(kernel), "kernel.cu")


def assert_found(planted: Bug, source: str, reports: list[Report]) -> None:
    assert reports, "nothing was reported"
    lines = lines_with(source, planted.at)
    assert planted.says in reports[0].message, reports[0]
    assert reports[0].line in lines, f"{reports[0]}, but the bug is on {sorted(lines)}"


BARRIER = "__syncthreads();"
RACE = "race: "
UNWRITTEN = "uninitialised read: "
OUTSIDE = "MemoryAccessError: "
LOAD_OF_A = "? a[(size_t)row * k + inner] : 0.0f;"
STORE_OF_C = "c[(size_t)row * n + col] = sums[i][j];"
READS_OF_TILES = ("= tile_a[inner]", "= tile_b[inner]")
WRITES_OF_TILES = ("tile_a[i % STEP]", "tile_b[i / TILE]")
LDMATRIX = ("ldmatrix", ': "r"(address));')
"""Its first and its last line: NVRTC gives the last line of an asm statement before 13.3, the first one since."""

BUGS = {
    # bounds and addresses
    "the last thread goes one too far": bug("saxpy", "i < n", "i <= n", says="out of bounds", at="y[i] = a * x[i]"),
    "no bound at all": bug("exp_float", "if (i < n) y[i]", "y[i]", says="out of bounds", at="ELEMENTWISE(exp_float"),
    "one element before the first": bug("saxpy", "a * x[i]", "a * x[i - 1]", says="out of bounds", at="x[i - 1]"),
    "a vector load where only floats are aligned": bug(
        "saxpy",
        "if (i < n) y[i] = a * x[i] + y[i];",
        "if (i < n - 3) { float4 v = *(const float4*)(x + i); y[i] = a * (v.x + v.y + v.z + v.w); }",
        says="misaligned",
        at="float4",
    ),
    "a double read through a float pointer": bug(
        "saxpy", "a * x[i] +", "a * (float)((const double*)x)[i] +", says="out of bounds", at="double"
    ),
    "threads past the end do not return": bug(
        "collatz", "if (i >= n) return;", "if (i > n) return;", says="out of bounds", at="start[i]"
    ),
    "the tile of A is loaded beyond K": bug(
        "sgemm", "row < m && inner < k ? a", "row < m ? a", says="out of bounds", at=LOAD_OF_A
    ),
    "the stride of B is that of A": bug(
        "sgemm", "b[(size_t)inner * n + col]", "b[(size_t)inner * (n + k) + col]", says="out of bounds", at="n + k"
    ),
    "the store of C checks no row": bug(
        "sgemm", "if (row < m && col < n) c", "if (col < n) c", says="out of bounds", at=STORE_OF_C
    ),
    "the transpose is stored with the stride of its input": bug(
        "transpose", "col * rows + row] = tile", "col * cols + row] = tile", says=OUTSIDE, at="col * cols + row] = tile"
    ),
    "a shared array is too short": bug(
        "shuffle_sum", "warps[THREADS / 32]", "warps[THREADS / 64]", says="out of bounds", at="warps[warp] = total"
    ),
    "a whole warp reads what eight lanes wrote": bug(
        "shuffle_sum",
        "lane < THREADS / 32 ? warps[lane] : 0.0f",
        "warps[lane]",
        says="out of bounds",
        at="warp_total(warps[lane])",
    ),
    "a counter beyond the table": bug(
        "histogram", "atomicAdd(&own[x[i]], 1u)", "atomicAdd(&own[x[i] + 1], 1u)", says="out of bounds", at="x[i] + 1"
    ),
    # races in shared memory
    "no barrier after the tiles are loaded": bug(
        "sgemm",
        "    __syncthreads();\n#pragma unroll\n        for (int inner",
        "    \n#pragma unroll\n        for (int inner",
        says=RACE,
        at=READS_OF_TILES,
    ),
    "no barrier before the tiles are loaded again": bug(
        "sgemm", "        __syncthreads();\n    }\n", "    }\n", says=RACE, at=WRITES_OF_TILES
    ),
    "no barrier between the steps of a tree": bug(
        "tree_sum",
        "sums[threadIdx.x + half];\n        __syncthreads();",
        "sums[threadIdx.x + half];",
        says=RACE,
        at="+= sums[threadIdx.x + half]",
    ),
    "one thread too many in a step of a tree": bug(
        "tree_sum", "threadIdx.x < half", "threadIdx.x <= half", says=OUTSIDE, at="+= sums[threadIdx.x + half]"
    ),
    "a warp's total is read before it is there": bug(
        "shuffle_sum", "total;\n    __syncthreads();", "total;\n", says=RACE, at="? warps[lane]"
    ),
    "scratch is used again while others read it": bug(
        "softmax",
        "__syncthreads();  // nobody may overwrite scratch[0] before all have read it",
        "",
        says=RACE,
        at=("scratch[threadIdx.x] = value", "result = scratch[0]"),
    ),
    "counting without atomics": bug(
        "histogram", "atomicAdd(&own[x[i]], 1u)", "own[x[i]] += 1u", says=RACE, at="own[x[i]] += 1u"
    ),
    "a transposed tile is read before it is written": bug(
        "transpose", "    __syncthreads();\n    int row", "    int row", says=RACE, at="= tile[threadIdx.x][i]"
    ),
    # races in global memory
    "overlapping writes of two blocks": bug(
        "saxpy", "blockIdx.x * blockDim.x", "blockIdx.x * (blockDim.x - 1)", says=RACE, at="y[i] = a * x[i]"
    ),
    "every block writes the same total": bug(
        "tree_sum", "partial[blockIdx.x] = sums", "partial[0] = sums", says=RACE, at="partial[0] = sums[0]"
    ),
    "every thread writes its block's total": bug(
        "tree_sum", "if (threadIdx.x == 0) partial", "partial", says=RACE, at="partial[blockIdx.x] = sums[0]"
    ),
    "blocks add to one table without atomics": bug(
        "histogram", "atomicAdd(&counts[i], own[i])", "counts[i] += own[i]", says=RACE, at="counts[i] += own[i]"
    ),
    # memory that nothing wrote
    "an edge of a tile is not written": bug(
        "sgemm",
        "i < TILE * STEP; i += 256) {\n            const int row",
        "i < TILE * STEP - 8; i += 256) {\n            const int row",
        says=UNWRITTEN,
        at="sums[i][j] += column[i] * row[j]",
    ),
    "threads past the end leave their place empty": bug(
        "tree_sum",
        "sums[threadIdx.x] = i < n ? x[i] : 0.0f;",
        "if (i < n) sums[threadIdx.x] = x[i];",
        says=UNWRITTEN,
        at="+= sums[threadIdx.x + half]",
    ),
    "a table that is not set to zero": bug("histogram", "own[i] = 0;", ";", says=UNWRITTEN, at="&own[x[i]]"),
    "an edge of the result is not written": bug(
        "transpose",
        "if (row < rows && col < cols) y",
        "if (row < rows - 1 && col < cols) y",
        says=UNWRITTEN,
        at="= tile[threadIdx.x][i]",
    ),
    # barriers and warps
    "a barrier that not all reach": bug(
        "tree_sum",
        "sums[threadIdx.x + half];\n        __syncthreads();",
        "sums[threadIdx.x + half];\n        if (threadIdx.x < half) __syncthreads();  // some\n"
        '        asm volatile("barrier.sync 1;" ::: "memory");  // others',
        says="DeadlockError: ",
        at=("// some", "// others"),
    ),
    "a barrier that counts threads which have returned": bug(
        "tree_sum",
        "sums[threadIdx.x] = i < n ? x[i] : 0.0f;\n    __syncthreads();",
        "if (threadIdx.x >= 192) return;\n    sums[threadIdx.x] = i < n ? x[i] : 0.0f;\n"
        '    asm volatile("barrier.sync 0, %0;" ::"r"(THREADS) : "memory");',
        says="DeadlockError: ",
        at="barrier.sync 0, %0;",
    ),
    "a barrier inside of a loop of different lengths": bug(
        "histogram",
        "atomicAdd(&own[x[i]], 1u);\n    __syncthreads();",
        "{ atomicAdd(&own[x[i]], 1u); __syncthreads(); }  // some\n    __syncthreads();  // others",
        says="DivergenceError: ",
        at=("// some", "// others"),
    ),
    "a shuffle that not all lanes reach": bug(
        "shuffle_sum",
        "total = warp_total(lane < THREADS / 32 ? warps[lane] : 0.0f);",
        "if (lane < THREADS / 32) total = warp_total(warps[lane]);",
        says="DivergenceError: ",
        at="__shfl_down_sync",
    ),
    "a shuffle from lanes that have returned": bug(
        "shuffle_sum",
        "    float total",
        "    if (i >= n) return;\n    float total",
        says="DivergenceError: ",
        at="__shfl_down_sync",
    ),
    # asynchronous copies and matrices
    "no wait for the copies": bug(
        "tensor_product<__half>",
        'asm volatile("cp.async.wait_group 1;" ::: "memory");',
        "",
        says="missing wait: ",
        at=LDMATRIX,
    ),
    "a wait for one group too few": bug(
        "tensor_product<__half>", "wait_group 1", "wait_group 2", says="missing wait: ", at=LDMATRIX
    ),
    "no barrier after the wait": bug(
        "tensor_product<__half>",
        "__syncthreads();  // the stage has arrived for all, and all have done with the one that is filled next",
        "",
        says=RACE,
        at=LDMATRIX,
    ),
    "a stage is filled while it is read": bug(
        "tensor_product<__half>",
        "load_stage(step + STAGES - 1);",
        "load_stage(step + STAGES);",
        says=RACE,
        at=LDMATRIX,
    ),
    "a row of the matrix is not 16-byte aligned": bug(
        "tensor_product<__half>",
        "* row_bytes + byte :",
        "* row_bytes + byte + 2 :",
        says="misaligned",
        at="cp.async.cg",
    ),
    "rows beyond the matrix are copied": bug(
        "tensor_product<__half>", "row0 + row < rows && byte", "byte", says="out of bounds", at="cp.async.cg"
    ),
    "a row of a tile is not aligned for ldmatrix": bug(
        "tensor_product<__half>", "chunk + lane / 16));", "chunk + lane / 16) + 8);", says="misaligned", at=LDMATRIX
    ),
    "the tile of B is never loaded": bug(
        "tensor_product<__half>",
        "            load_tile(stage + TILE * ROW, (const char*)b, n, row_bytes, col0, step * ROW);\n",
        "",
        says=UNWRITTEN,
        at="MULTIPLY(__half",
    ),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_correct_kernels_report_nothing(kernel_folder: Path, kernel: str) -> None:
    source = (kernel_folder / f"{KERNELS[kernel][0]}.cu").read_text()
    assert run_cuda(kernel, source) == []


@pytest.mark.parametrize("planted", BUGS.values(), ids=BUGS.keys())
def test_planted_bugs_are_found(kernel_folder: Path, planted: Bug) -> None:
    source = edited((kernel_folder / f"{KERNELS[planted.kernel][0]}.cu").read_text(), planted.edits)
    assert_found(planted, source, run_cuda(planted.kernel, source))


def test_memory_used_after_it_was_freed(kernel_folder: Path) -> None:
    source = (kernel_folder / "saxpy.cu").read_text()
    kernel = cp.RawKernel(source, "saxpy")
    x, y = cp.asarray(normal(1000)), cp.asarray(normal(1000))
    address = x.data.ptr
    del x
    reports = reports_of(lambda: kernel((8,), (128,), (1000, np.float32(1), np.uint64(address), y)), "kernel.cu")
    assert "freed" in reports[0].message
    assert reports[0].line in lines_with(source, "y[i] = a * x[i]")


# --- the same in Python

NUMBA_BUGS = {
    "the last thread goes one too far": bug(
        "saxpy",
        "if i < x.size:\n        y[i] = a",
        "if i <= x.size:\n        y[i] = a",
        says="out of bounds",
        at="y[i] = a * x[i]",
    ),
    "no barrier after the tiles are loaded": bug(
        "sgemm",
        "        cuda.syncthreads()\n        for inner in range(STEP):",
        "        for inner in range(STEP):",
        says=RACE,
        at=("column[i] = tile_a", "row[i] = tile_b"),
    ),
    "the store checks no column": bug(
        "sgemm",
        "if row0 + thread_row + i < m and col0 + thread_col + j < n:",
        "if row0 + thread_row + i < m:",
        says=OUTSIDE,
        at="] = sums[i, j]",
    ),
    "no barrier between the steps of a tree": bug(
        "tree_sum",
        "            sums[thread] += sums[thread + half]\n        cuda.syncthreads()",
        "            sums[thread] += sums[thread + half]",
        says=RACE,
        at="sums[thread] += sums[thread + half]",
    ),
    "a barrier that not all reach": bug(
        "tree_sum",
        "            sums[thread] += sums[thread + half]\n        cuda.syncthreads()",
        "            sums[thread] += sums[thread + half]\n            cuda.syncthreads()  # some\n"
        "        else:\n            cuda.syncthreads()  # others",
        says="DivergenceError: ",
        at=("# some", "# others"),
    ),
    "counting without atomics": bug(
        "histogram", "cuda.atomic.add(own, x[i], 1)", "own[x[i]] += 1", says=RACE, at="own[x[i]] += 1"
    ),
    "a shuffle that not all lanes reach": bug(
        "shuffle_sum",
        "        total = warp_total(warps[lane] if lane < WARPS else np.float32(0))",
        "        if lane < WARPS:\n            total = warp_total(warps[lane])",
        says="DivergenceError: ",
        at=("cuda.shfl_down_sync", "warp_total(warps[lane])"),
    ),
    "a transposed tile is read before it is written": bug(
        "transpose",
        "    cuda.syncthreads()\n    row = cuda.blockIdx.y * 32 + cuda.threadIdx.x",
        "    row = cuda.blockIdx.y * 32 + cuda.threadIdx.x",
        says=RACE,
        at="= tile[cuda.threadIdx.x, i]",
    ),
}
NUMBA_ARGUMENTS: dict[str, dict[str, Any]] = {
    "saxpy": {"a": np.float32(2.5), "x": normal(1000), "y": normal(1000)},
    "sgemm": {"a": normal(150, 37), "b": normal(37, 201)},
    "tree_sum": {"x": normal(1000)},
    "shuffle_sum": {"x": normal(1000)},
    "histogram": {"x": np.random.default_rng(0).integers(0, 256, 2000).astype(np.uint8)},
    "transpose": {"x": normal(70, 45)},
    "softmax": {"x": normal(3, 200)},
    "elementwise": {"x": normal(200)},
    "collatz": {"start": np.arange(1, 201)},
}


def run_numba(name: str, source: str, folder: Path) -> list[Report]:
    path = folder / "planted_kernels.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("planted_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return reports_of(lambda: module.RUNS[name](**NUMBA_ARGUMENTS[name]), path.name)


@pytest.mark.parametrize("kernel", NUMBA_ARGUMENTS)
def test_correct_numba_kernels_report_nothing(numba_kernels: ModuleType, kernel: str) -> None:
    assert reports_of(lambda: numba_kernels.RUNS[kernel](**NUMBA_ARGUMENTS[kernel]), "numba_kernels.py") == []


# Compiling and observing the large product in Python takes seconds.
NUMBA_CASES = [
    pytest.param(planted, id=name, marks=[pytest.mark.slow] if planted.kernel == "sgemm" else [])
    for name, planted in NUMBA_BUGS.items()
]


@pytest.mark.parametrize("planted", NUMBA_CASES)
def test_planted_bugs_in_numba_kernels_are_found(kernel_folder: Path, tmp_path: Path, planted: Bug) -> None:
    source = edited((kernel_folder / "numba_kernels.py").read_text(), planted.edits)
    assert_found(planted, source, run_numba(planted.kernel, source, tmp_path))
