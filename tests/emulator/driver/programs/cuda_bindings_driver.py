"""The driver API and NVRTC by hand, as NVIDIA's own first example does it."""

import numpy as np
from cuda.bindings import driver, nvrtc

CODE = rb"""extern "C" __global__
void transpose(const float *in, float *out, int width, int height) {
    __shared__ float tile[16][17];
    int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 16 + threadIdx.y;
    if (x < width && y < height) tile[threadIdx.y][threadIdx.x] = in[y * width + x];
    __syncthreads();  // planted: ;
    x = blockIdx.y * 16 + threadIdx.x, y = blockIdx.x * 16 + threadIdx.y;
    if (x < height && y < width) out[y * height + x] = tile[threadIdx.x][threadIdx.y];  // found
}
"""


def check(result):
    """Return what a call returns beside its error, which must be none."""
    error, *values = result
    assert error == 0, error
    return values[0] if len(values) == 1 else values


check(driver.cuInit(0))
device = check(driver.cuDeviceGet(0))
context = check(driver.cuCtxCreate(None, 0, device))
program = check(nvrtc.nvrtcCreateProgram(CODE, b"transpose.cu", 0, [], []))
check(nvrtc.nvrtcCompileProgram(program, 2, [b"--gpu-architecture=compute_80", b"-lineinfo"]))
ptx = b" " * check(nvrtc.nvrtcGetPTXSize(program))
check(nvrtc.nvrtcGetPTX(program, ptx))
kernel = check(driver.cuModuleGetFunction(check(driver.cuModuleLoadData(ptx)), b"transpose"))

host = np.arange(40 * 23, dtype=np.float32).reshape(23, 40)
got = np.zeros((40, 23), dtype=np.float32)
source, target = check(driver.cuMemAlloc(host.nbytes)), check(driver.cuMemAlloc(host.nbytes))
check(driver.cuMemcpyHtoD(source, host.ctypes.data, host.nbytes))
values = [np.array([int(p)], dtype=np.uint64) for p in (source, target)] + [
    np.array([n], dtype=np.int32) for n in (40, 23)
]
pointers = np.array([each.ctypes.data for each in values], dtype=np.uint64)
check(driver.cuLaunchKernel(kernel, 3, 2, 1, 16, 16, 1, 0, 0, pointers.ctypes.data, 0))
check(driver.cuCtxSynchronize())
check(driver.cuMemcpyDtoH(got.ctypes.data, target, got.nbytes))
np.testing.assert_array_equal(got, host.T)
for pointer in (source, target):
    check(driver.cuMemFree(pointer))
check(driver.cuCtxDestroy(context))
