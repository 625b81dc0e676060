"""cuda.core: CUDA C++ compiled to PTX, loaded, and launched in a stream."""

import numpy as np
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch

CODE = r"""
template <typename T> __global__ void saxpy(T a, const T* x, T* out, size_t n) {
    for (size_t i = threadIdx.x + size_t(blockDim.x) * blockIdx.x; i < n; i += size_t(blockDim.x) * gridDim.x)
        out[i] = a * x[i] + T(1);  // planted: out[i + 1] = a * x[i] + T(1);  // found
}
"""
device = Device()
device.set_current()
stream = device.create_stream()
options = ProgramOptions(std="c++17", lineinfo=True, arch=f"compute_{''.join(map(str, device.compute_capability))}")
program = Program(CODE, code_type="c++", options=options)
kernel = program.compile("ptx", name_expressions=("saxpy<float>",)).get_kernel("saxpy<float>")

n = 500
buffers = [device.allocate(4 * n, stream=stream) for _ in range(2)]
host = np.arange(n, dtype=np.float32)
from cuda.bindings import driver  # noqa: E402 - plain copies are the driver's

assert driver.cuMemcpyHtoD(int(buffers[0].handle), host.ctypes.data, host.nbytes) == (0,)
launch(stream, LaunchConfig(grid=2, block=128), kernel, np.float32(3), buffers[0], buffers[1], np.uint64(n))
stream.sync()
got = np.zeros_like(host)
assert driver.cuMemcpyDtoH(got.ctypes.data, int(buffers[1].handle), got.nbytes) == (0,)
np.testing.assert_array_equal(got, 3 * host + 1)
