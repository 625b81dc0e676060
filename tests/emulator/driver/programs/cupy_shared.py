"""Dynamic shared memory: an inclusive scan of each block's part."""

import cupy as cp
import numpy as np

scan = cp.RawKernel(
    r"""
extern "C" __global__ void scan(const int* in, int* out) {
    extern __shared__ int sums[];
    int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    sums[t] = in[i];
    __syncthreads();
    for (int step = 1; step < blockDim.x; step *= 2) {
        int left = t >= step ? sums[t - step] : 0;
        __syncthreads();  // planted: ;
        sums[t] += left;  // found
        __syncthreads();
    }
    out[i] = sums[t];
}
""",
    "scan",
)
values = cp.asarray(np.random.default_rng(6).integers(0, 9, (3, 128), dtype=np.int32))
out = cp.empty_like(values)
scan((3,), (128,), (values, out), shared_mem=128 * 4)
cp.testing.assert_array_equal(out, cp.asarray(np.cumsum(values.get(), axis=1)))
