"""Two streams of CuPy with an event between them, a function of the host, and pinned memory."""

import cupy as cp
import cupyx
import numpy as np

cumulate = cp.RawKernel(
    r"""
extern "C" __global__ void differences(const double* x, double* y, int n) {
    int i = blockDim.x * blockIdx.x + threadIdx.x;
    if (i + 1 < n) y[i] = x[i + 1] - x[i];  // planted: if (i < n) y[i] = x[i + 1] - x[i];  // found
}
""",
    "differences",
)

first, second = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
host = cupyx.empty_pinned(256, dtype=np.float64)
host[:] = np.arange(256) ** 2
with first:
    x = cp.empty(256)
    x.set(host, stream=first)
    ready = first.record()
with second:
    second.wait_event(ready)
    y = cp.empty(255)
    cumulate((2,), (128,), (x, y, np.int32(256)))
seen = []
second.launch_host_func(seen.append, "done")
second.synchronize()
assert seen == ["done"]
np.testing.assert_array_equal(y.get(stream=second), np.diff(host))
