"""Exceptions of packages hold the emulator's whole message; Numba's kernels have their lines."""

import subprocess
import sys
import textwrap

import pytest


def run(code):
    """Return what a program prints that has the virtual device."""
    code = f"from gpubp.emulator import driver\ndriver.install()\ndriver.install()\n{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_numba_and_cuda_core_and_the_driver_itself():
    found = run(
        """
        from cuda.bindings import driver as cuda
        from cuda.core import Device
        from numba import cuda as numba
        import numpy as np

        def error_of(call, *arguments, **options):
            try:
                call(*arguments, **options)
            except Exception as error:
                print(type(error).__name__, error, sep=": ")

        device = Device()
        device.set_current()
        stream = device.create_stream()
        error_of(device.allocate, 1 << 60, stream=stream)
        error_of(numba.device_array, 1 << 60, np.uint8)
        result, = cuda.cuMemFree(12345)
        print(cuda.cuGetErrorString(result)[1].decode())
        print(cuda.cuGetErrorString(cuda.CUresult.CUDA_ERROR_NOT_FOUND)[1].decode())
        """
    )
    full = "the host is out of memory: 1,152,921,504,606,84"
    lines = found.splitlines()
    assert lines[0].startswith(f"CUDAError: CUDA_ERROR_OUT_OF_MEMORY: {full}")
    assert "unable to allocate enough memory" in lines[1]
    assert lines[2].startswith("CudaAPIError: [")
    assert f"Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY: {full}" in lines[2]
    assert found.count(full) == 2
    assert lines[3].startswith("invalid argument: 0x3039 is no allocation that can be freed so")
    assert lines[4] == "named symbol not found"


KERNEL = """
from numba import cuda
import numpy as np

@cuda.jit
def past_the_end(x):
    x[cuda.threadIdx.x + 1] = 0

@cuda.jit(debug=True, opt=False)
def debugged(x):
    x[cuda.threadIdx.x + 1] = 0

for kernel in (past_the_end, debugged):
    try:
        kernel[1, 4](np.zeros(4, np.float32))
    except Exception as error:  # of cuda.core, which numba-cuda launches by
        print(str(error).splitlines()[0])
"""


@pytest.mark.slow
def test_a_kernel_of_numba_is_named_with_its_line(tmp_path):
    (tmp_path / "program.py").write_text(KERNEL)
    found = run(f"import runpy; runpy.run_path({str(tmp_path / 'program.py')!r})").splitlines()
    assert len(found) == 2
    assert all("CUDA_ERROR_ILLEGAL_ADDRESS: kernel " in line for line in found)
    assert "kernel past_the_end, program.py:7, block (0, 0, 0), thread (3, 0, 0): access out of bounds" in found[0]
    assert "kernel debugged, program.py:11, block (0, 0, 0), thread (3, 0, 0)" in found[1]


INTERRUPTED = '''
import ctypes, os, signal, threading, time
import cupy as cp

x = cp.zeros(2, cp.uint32)
first = ctypes.c_uint32.from_address(x.data.ptr)  # which the kernel writes
kernel = cp.RawKernel(r"""
extern "C" __global__ void spin(volatile unsigned* x) {
    x[0] = 77;
    for (unsigned i = 0; i < 1000000000; i++) if (x[1] == 5) break;
}""", "spin")

def interrupt():
    while first.value != 77:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    kernel((1,), (1,), (x,))
except KeyboardInterrupt as interrupt:
    print(interrupt)
print(x.get())
'''


@pytest.mark.slow
def test_an_interrupt_passes_through_the_code_that_asks_for_the_error_s_text():
    """CuPy's compiled code calls the driver twice more before Python's code goes on."""
    first, second = run(INTERRUPTED).splitlines()
    assert first.startswith("the kernel was interrupted at kernel spin, kernel.cu:")
    assert second == "[77  0]"
