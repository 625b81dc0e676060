"""The kernels in Python with numba-cuda-mlir, NVIDIA's successor of numba-cuda: `make mlir`.

These tests need an environment that has it, so pytest does not find them by itself. They compare with NumPy, and run
cases of `gpubp check`.
"""

import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import gpubp.emulator
from gpubp.emulator import cuda
from gpubp.emulator.errors import MemoryAccessError
from gpubp.toolchain import numba_package
from gpubp.toolchain.numba_package import NUMBA_CUDA_MLIR


def run(*command, check=True):
    """Run a command with this Python, and return what it printed."""
    ended = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    if check:
        assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    return ended.stdout + ended.stderr


def test_it_is_the_package_in_use():
    assert numba_package.chosen() is NUMBA_CUDA_MLIR
    assert f"numba-cuda-mlir {NUMBA_CUDA_MLIR.version}" in " ".join(run("-m", "gpubp", "info").split())


# --- the emulator's own interface -------------------------------------------------------------------------------------


def test_a_kernel_with_a_device_function():
    @cuda.jit(device=True)
    def square(x):
        return x * x

    @cuda.jit
    def kernel(x, out):
        i = cuda.grid(1)
        if i < x.shape[0]:
            out[i] = square(x[i]) + math.exp(x[i])

    x = np.linspace(0, 1, 100)
    out = np.zeros(100)
    kernel[4, 32](x, out)
    np.testing.assert_allclose(out, x * x + np.exp(x), rtol=1e-12)


def test_shared_memory_and_atomics():
    @cuda.jit("void(float64[::1], float64[::1])")
    def total(x, out):
        part = cuda.shared.array(128, np.float64)
        t, i = cuda.threadIdx.x, cuda.grid(1)
        part[t] = x[i] if i < x.size else 0.0
        cuda.syncthreads()
        half = 64
        while half:
            if t < half:
                part[t] += part[t + half]
            cuda.syncthreads()
            half //= 2
        if t == 0:
            cuda.atomic.add(out, 0, part[0])

    out = np.zeros(1)
    total[8, 128](np.arange(1000.0), out)
    assert out[0] == 499500


@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_arguments_of_other_types(kind):
    @cuda.jit
    def kernel(x, pair, z, flag, out):
        i, j = cuda.grid(2)
        if flag:
            out[i, j] = x[i, j] + pair[0] * pair[1] + z

    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    out = cuda.to_device(np.zeros((3, 4), kind))
    kernel[(1, 1), (3, 4)](cuda.to_device(np.asfortranarray(x.T)), (2, 3.0), kind(1 + 2j), True, out)
    np.testing.assert_array_equal(out.copy_to_host(), x.T + 6 + (1 + 2j))


def test_strided_views():
    @cuda.jit
    def copy(x, out):
        i, j = cuda.grid(2)
        out[i, j] = x[i, j]

    x = cuda.to_device(np.arange(48).reshape(6, 8))
    out = cuda.to_device(np.zeros((3, 2), int))
    copy[(1, 1), (3, 2)](x[::2, 1::4], out)
    np.testing.assert_array_equal(out.copy_to_host(), np.arange(48).reshape(6, 8)[::2, 1::4])


def test_dynamic_shared_memory_and_a_barrier_of_the_grid():
    @cuda.jit
    def kernel(x):
        line, t = cuda.shared.array(0, np.float64), cuda.threadIdx.x
        line[t] = x[cuda.grid(1)]
        cuda.cg.this_grid().sync()
        x[cuda.grid(1)] = line[31 - t]

    x = np.arange(64.0)
    kernel[2, 32, 0, 256](x)
    np.testing.assert_array_equal(x, np.arange(64.0).reshape(2, 32)[:, ::-1].ravel())


def test_each_architecture_gets_its_own_code():
    @cuda.jit(device=True)
    def two(x):
        return 2 * x

    @cuda.jit
    def kernel(x):
        x[cuda.grid(1)] = two(x[cuda.grid(1)])

    for arch in ("sm_80", "sm_90"):
        with gpubp.emulator.use(arch):
            x = np.ones(32, np.float32)
            kernel[1, 32](x)
            assert (x == 2).all()
            (ptx,) = kernel.inspect_asm().values()
            assert f".target {arch}" in ptx


def test_an_overrun_is_named_by_its_line():
    @cuda.jit
    def overrun(x):
        x[cuda.grid(1) + 1] = 1

    with pytest.raises(
        MemoryAccessError, match=rf"successor.py:{overrun.py_func.__code__.co_firstlineno + 2}, .*out of"
    ):
        overrun[1, 32](np.zeros(32, np.float32))


def test_what_the_package_lacks_is_known():
    """If this fails the package has been mended, and what goes round the fault in the kernels may go."""

    @cuda.jit
    def shuffle(x, out):
        out[cuda.laneid] = cuda.shfl_xor_sync(0xFFFFFFFF, x[cuda.laneid], 1)

    @cuda.jit
    def planes(x):
        tiles = cuda.shared.array((2, 4, 8), np.float32)
        tile = tiles[1]
        tile[0, 0] = x[0]

    x, out = np.full(32, 1 / 3), np.zeros(32)
    shuffle[1, 32](x, out)
    assert (out == np.float32(1 / 3)).all()
    with pytest.raises(Exception, match="compiler bug"):
        planes[1, 1](np.zeros(1, np.float32))


# --- the virtual device: the package's own host code ------------------------------------------------------------------

PROGRAM = """
    import numpy as np
    from numba_cuda_mlir import cuda

    @cuda.jit
    def double(x):
        i = cuda.grid(1)
        if i < x.size:
            x[i] *= 2

    twice = cuda.declare_device("twice", "int32(int32)", link=cuda.CUSource(
        'extern "C" __device__ int twice(int* result, int x) { *result = 2 * x; return 0; }'
    ))

    @cuda.jit
    def reverse(x):
        line, t = cuda.shared.array(0, np.int32), cuda.threadIdx.x
        line[t] = twice(x[t])
        cuda.syncthreads()
        x[t] = line[31 - t]

    @cuda.jit
    def overrun(x):
        x[cuda.grid(1) + 1] = 1

    stream, done = cuda.stream(), cuda.event(timing=False)
    x = cuda.to_device(np.arange(100.0), stream)
    double[4, 32, stream](x)
    done.record(stream)
    done.synchronize()
    host = x.copy_to_host(stream=stream)
    stream.synchronize()
    assert (host == 2 * np.arange(100.0)).all()
    numbers = np.arange(10)
    double[1, 32](numbers)
    assert (numbers == 2 * np.arange(10)).all()
    numbers = np.arange(32, dtype=np.int32)
    reverse[1, 32, 0, 128](numbers)
    assert (numbers == 2 * np.arange(31, -1, -1)).all()
    print("right")
    overrun[1, 32](cuda.to_device(np.zeros(32, np.float32)))
"""


def test_a_program_runs_unmodified(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    output = run("-m", "gpubp.emulator", program, check=False)
    assert "right" in output
    assert "program.py:24" in output
    assert "access out of bounds: writes 4 bytes" in output


# --- the backend ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["emulator", "virtual"])
@pytest.mark.parametrize(
    "sample",
    [
        [*("--primitive", "softmax"), *("--primitive", "row_argmax"), *("--primitive", "prepare_update")],
        ["--case", "transpose_product:tiled:float32:33x17x65:-:-:1:random:0:0"],
        ["--case", "dense_forward:naive:float32:17x31x13:gelu:dropout:1:random:0:2"],
    ],
    ids=["reductions", "product", "dropout"],
)
def test_the_check_passes(device, sample):
    command = ["-m", "gpubp", "check", "--backend", "numba", "--device", device, "--jobs", os.cpu_count(), *sample]
    assert "passed: " in run(*command)
