"""One kernel for several types: a template, whose instances are named by expressions."""

import cupy as cp

CODE = r"""
template <typename T>
__global__ void axpy(int n, T a, const T* x, T* y) {
    int i = blockDim.x * blockIdx.x + threadIdx.x;
    if (i < n)  // planted: if (i <= n)
        y[i] = a * x[i] + y[i];  // found
}
"""
TYPES = {"float": cp.float32, "double": cp.float64}
module = cp.RawModule(code=CODE, options=("--std=c++17",), name_expressions=[f"axpy<{name}>" for name in TYPES])

for name, dtype in TYPES.items():
    n = 1000
    x, y = cp.arange(n, dtype=dtype), cp.ones(n, dtype=dtype)
    module.get_function(f"axpy<{name}>")((4,), (256,), (cp.int32(n), dtype(2), x, y))
    cp.testing.assert_allclose(y, 2 * x + 1)
