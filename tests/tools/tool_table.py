"""Compare what tools say of planted bugs: `python tests/tools/tool_table.py` prints the table of the emulator's README.

The emulator, Numba's simulator and, if it is installed, Oclgrind (Debian's package oclgrind) are run. What
compute-sanitizer does is taken from its manual.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from planted_bugs import PLANTED, Planted, marked_lines, variant

import gpubp.emulator as cp
from gpubp.emulator.observe.observers import observe

HERE = Path(__file__).parent
FOUND, SILENT, HANGS, ALIKE, NOT_RUN = "✓", "✗", "∞", "≈", "–"
LINE = re.compile(r"kernel\.cu:(\d+)")

# --- the emulator

CUDA = """#define GLOBAL
#define VOLATILE volatile
extern "C" __global__ void kernel(const int* x, int* y, int far) {{
const int t = threadIdx.x;
{body}
}}
"""


def emulate(run: Callable[[], None]) -> list[tuple[str, int | None]]:
    """Return (message, line) of all that the emulator says of the launches."""
    with observe(races=True, uninitialised=True) as report:
        try:
            run()
        except cp.EmulatorError as error:
            line = LINE.search(str(error))
            return [(f"{type(error).__name__}: {error}", int(line[1]) if line else None)]
    return [(f"{finding.kind}: {finding.message}", finding.line) for finding in report.findings]


def emulate_cuda(planted: Planted, wrong: bool) -> tuple[list[tuple[str, int | None]], set[int]]:
    """Run a kernel in CUDA C++ and return what the emulator says of it, and its marked lines."""
    source = CUDA.format(body=variant(planted.cuda, wrong))
    kernel = cp.RawKernel(source, "kernel")
    x, y = cp.asarray(np.arange(64, dtype=np.int32)), cp.zeros(256, np.int32)
    far = (y.data.ptr - x.data.ptr) // 4
    return emulate(lambda: kernel((planted.blocks,), (planted.threads,), (x, y, np.int32(far)))), marked_lines(source)


def cell(wrong: tuple[list[tuple[str, int | None]], set[int]], right: list[tuple[str, int | None]], says: str) -> str:
    """Return what a tool that was run gets: it must name the bug at its line, and say nothing of the right kernel."""
    reports, marked = wrong
    if not any(says in message and line in marked for message, line in reports):
        return SILENT
    return ALIKE if right else FOUND


def emulator_cell(planted: Planted) -> str:
    """Return the emulator's cell for a kernel."""
    return cell(emulate_cuda(planted, True), emulate_cuda(planted, False)[0], planted.says)


# --- bugs on the host's side of a launch, which the emulator alone has the API for


def use_after_free(wrong: bool) -> None:
    kernel = cp.RawKernel('extern "C" __global__ void kernel(const int* x, int* y) { y[threadIdx.x] = *x; }', "kernel")
    x, y = cp.zeros(64, np.int32), cp.zeros(64, np.int32)
    address = np.uint64(x.data.ptr)
    if wrong:
        del x
    kernel((1,), (64,), (address, y))


def scalar_of_another_size(wrong: bool) -> None:
    kernel = cp.RawKernel('extern "C" __global__ void kernel(float a, float* y) { y[threadIdx.x] = a; }', "kernel")
    kernel((1,), (32,), (np.float64(2) if wrong else np.float32(2), cp.zeros(32, np.float32)))


def array_of_another_dtype(wrong: bool) -> None:
    kernel = cp.RawKernel('extern "C" __global__ void kernel(float* y) { y[threadIdx.x] = 1; }', "kernel")
    kernel((1,), (32,), (cp.zeros(32, np.float64 if wrong else np.float32),))


def view_with_strides(wrong: bool) -> None:
    kernel = cp.RawKernel('extern "C" __global__ void kernel(float* y) { y[threadIdx.x] = 1; }', "kernel")
    kernel((1,), (8,), (cp.zeros((8, 8), np.float32)[:, 0 if wrong else slice(None)],))


def too_many_threads(wrong: bool) -> None:
    kernel = cp.RawKernel('extern "C" __global__ void kernel(float* y) { y[0] = 1; }', "kernel")
    kernel((1,), (2048 if wrong else 1,), (cp.zeros(1, np.float32),))


KEPT: list[Any] = []


def never_freed(wrong: bool) -> None:
    array = cp.zeros(64, np.float32)
    if wrong:
        KEPT.append(array)


def freed_before_another_stream_is_done(wrong: bool) -> None:
    kernel = cp.RawKernel('extern "C" __global__ void kernel(float* y) { y[threadIdx.x] = 1; }', "kernel")
    y, other = cp.zeros(64, np.float32), cp.cuda.Stream()
    with other:
        kernel((1,), (64,), (y,))
    if not wrong:
        other.synchronize()
    del y


HOST_BUGS: dict[str, tuple[Callable[[bool], None], str, str, str]] = {
    "memory used after it was freed": (use_after_free, "freed", "memcheck", "Stream-ordered race detection"),
    "a stream frees what another one still uses": (
        freed_before_another_stream_is_done,
        "stream",
        "memcheck",
        "Stream-ordered race detection",
    ),
    "memory that is never freed": (never_freed, "leak", "memcheck", "Leak Checking"),
    "a launch that the GPU refuses": (too_many_threads, "LaunchError: ", "memcheck", "CUDA API Error Checking"),
    "a scalar argument of another size": (scalar_of_another_size, "LaunchError: ", "?", ""),
    "an array of another dtype": (array_of_another_dtype, "dtype", "?", ""),
    "a view with strides, for a pointer": (view_with_strides, "strides: ", "?", ""),
}
"""Bug -> how to run it, part of what the emulator says, and compute-sanitizer's tool and section, as in `Planted`."""


def host_cell(run: Callable[[bool], None], says: str) -> str:
    """Return the emulator's cell for a bug that is no kernel's, and has no line."""
    wrong, right = (emulate(functools.partial(run, wrong)) for wrong in (True, False))
    if not any(says in message for message, _ in wrong):
        return SILENT
    return ALIKE if right else FOUND


# --- Numba's simulator


def simulator_cells() -> dict[str, str]:
    """Run every kernel in Python in the simulator, in a process of its own."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "OPENBLAS_NUM_THREADS": "1"}
    output = subprocess.run(
        [sys.executable, HERE / "simulator.py"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    cells = {}
    for name, (wrong, right) in json.loads(output).items():
        if right is not None:
            raise RuntimeError(f"the simulator fails on the right kernel of '{name}': {right}")
        cells[name] = SILENT if wrong is None else HANGS if wrong == "hangs" else FOUND if wrong[1] else SILENT
    return cells


# --- Oclgrind

OPENCL = """#define GLOBAL global
#define VOLATILE volatile
#define __shared__ local
#define __syncthreads() barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)
#define __threadfence() mem_fence(CLK_GLOBAL_MEM_FENCE)
#define __threadfence_block() mem_fence(CLK_LOCAL_MEM_FENCE)
#define atomicAdd(place, value) atomic_add(place, value)
typedef struct {{ int x; }} index;
kernel void run(global const int* x, global int* y, int far) {{
const int t = get_local_id(0);
const index blockIdx = {{get_group_id(0)}};
{body}
}}
"""
OPENCL_LAUNCH = """kernel.cl
run
{threads} 1 1
{block} 1 1

<size=256 range=0:1:63 int>
<size=1024 fill=0 int>
<size=4 fill=4096 int>
"""
OPENCL_LINE = re.compile(r"At line (\d+)")


def oclgrind(planted: Planted, wrong: bool, folder: Path) -> tuple[list[tuple[str, int | None]], set[int]] | None:
    """Run a kernel as OpenCL C; None if it does not end."""
    source = OPENCL.format(body=variant(planted.cuda, wrong))
    (folder / "kernel.cl").write_text(source)
    (folder / "kernel.sim").write_text(
        OPENCL_LAUNCH.format(threads=planted.threads * planted.blocks, block=planted.threads)
    )
    command = ["oclgrind-kernel", "--data-races", "--uniform-writes", "--uninitialized", "kernel.sim"]
    limit = 3 if planted.endless and wrong else 60
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit, errors="replace")
    except subprocess.TimeoutExpired:
        return None
    if done.returncode or "error" in done.stderr.lower():
        raise RuntimeError(f"Oclgrind cannot run the kernel:\n{source}\n{done.stdout}{done.stderr}")
    reports: list[tuple[str, int | None]] = []
    for text in done.stderr.strip().split("\n\n\n"):
        reports += [(text, int(line)) for line in OPENCL_LINE.findall(text)] or [(text, None)] * bool(text)
    return reports, marked_lines(source)


def oclgrind_cell(planted: Planted) -> str:
    """Return Oclgrind's cell for a kernel, run as OpenCL C."""
    if not planted.opencl:
        return NOT_RUN
    with tempfile.TemporaryDirectory() as folder:
        wrong, right = (oclgrind(planted, wrong, Path(folder)) for wrong in (True, False))
    if right is None:
        raise RuntimeError("Oclgrind does not end on a right kernel")
    return HANGS if wrong is None else cell(wrong, right[0], planted.opencl)


# --- the table


EMULATOR, SIMULATOR, OCLGRIND, CUDA_SANITIZER = "this emulator", "Numba's simulator", "Oclgrind", "compute-sanitizer"


def manual_cells() -> dict[str, str]:
    """Return what the manual of compute-sanitizer says."""
    return {name: planted.manual for name, planted in PLANTED.items()} | {
        name: tool for name, (_, _, tool, _) in HOST_BUGS.items()
    }


def columns() -> dict[str, dict[str, str]]:
    """Return column -> bug -> cell, of the tools that can be run here and of the manual."""
    own = {name: emulator_cell(planted) for name, planted in PLANTED.items()}
    made = {EMULATOR: own | {name: host_cell(run, says) for name, (run, says, _, _) in HOST_BUGS.items()}}
    made[SIMULATOR] = simulator_cells()
    if shutil.which("oclgrind-kernel"):
        made[OCLGRIND] = {name: oclgrind_cell(planted) for name, planted in PLANTED.items()}
    return made | {CUDA_SANITIZER: manual_cells()}


def table() -> list[list[str]]:
    """Return the rows of the table, headings first."""
    made = columns()
    rows = [[name, *(column.get(name, NOT_RUN) for column in made.values())] for name in [*PLANTED, *HOST_BUGS]]
    return [["bug", *made], *rows]


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        head, *rows = table()
        for row in [head, ["---"] + [":---:"] * (len(head) - 1), *rows]:
            print(f"| {' | '.join(row)} |")
