"""A graph: steps of a heat equation are captured once and replayed."""

import cupy as cp
import numpy as np

step = cp.RawKernel(
    r"""
extern "C" __global__ void step(const float* u, float* v, int n) {
    int i = blockDim.x * blockIdx.x + threadIdx.x;
    if (i == 0 || i >= n - 1) return;  // planted: if (i == 0 || i >= n) return;
    v[i] = u[i] + 0.25f * (u[i - 1] - 2 * u[i] + u[i + 1]);  // found
}
""",
    "step",
)
n = 250
u = cp.asarray(np.random.default_rng(5).random(n, dtype=np.float32))
expected = u.get()
v = u.copy()
stream = cp.cuda.Stream(non_blocking=True)
with stream:
    step((2,), (128,), (u, v, np.int32(n)))  # compiled and loaded before the capture
    stream.begin_capture()
    for _ in range(2):
        step((2,), (128,), (u, v, np.int32(n)))
        step((2,), (128,), (v, u, np.int32(n)))
    graph = stream.end_capture()
    np.testing.assert_array_equal(u.get(), expected)  # nothing has run
    for _ in range(3):
        graph.launch()
    stream.synchronize()
for _ in range(12):
    expected[1:-1] += np.float32(0.25) * (expected[:-2] - 2 * expected[1:-1] + expected[2:])
np.testing.assert_allclose(u.get(), expected, rtol=1e-5)
