"""A polynomial whose coefficients are in constant memory, which the host sets by the variable's name."""

import cupy as cp
import numpy as np

CODE = r"""
extern "C" {
__constant__ float coefficients[4];
__device__ unsigned int calls;

__global__ void polynomial(const float* x, float* y, int n) {
    int i = blockDim.x * blockIdx.x + threadIdx.x;
    if (i >= n) return;
    float value = 0;
    for (int k = 3; k >= 0; k--)  // planted: for (int k = 4; k >= 0; k--)
        value = value * x[i] + coefficients[k];  // found
    y[i] = value;
    atomicAdd(&calls, 1);
}
}
"""
module = cp.RawModule(code=CODE)
coefficients = cp.ndarray(4, cp.float32, module.get_global("coefficients"))
coefficients[:] = cp.asarray([1, 2, 0, -1], dtype=cp.float32)

x = cp.linspace(-1, 1, 100, dtype=cp.float32)
y = cp.empty_like(x)
module.get_function("polynomial")((1,), (128,), (x, y, np.int32(100)))
cp.testing.assert_allclose(y, 1 + 2 * x - x**3, rtol=1e-5, atol=1e-6)
assert cp.ndarray(1, cp.uint32, module.get_global("calls")).item() == 100
