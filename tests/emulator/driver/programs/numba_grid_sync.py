"""A barrier of the whole grid: each step of a diffusion reads what all blocks wrote in the step before."""

import numpy as np
from numba import cuda


@cuda.jit("void(float32[:], float32[:], int32)")
def diffuse(a, b, steps):
    grid = cuda.cg.this_grid()
    i = cuda.grid(1)
    for _ in range(steps):
        if 0 < i < a.size - 1:
            b[i] = (a[i - 1] + a[i] + a[i + 1]) / 3  # found
        grid.sync()
        if 0 < i < a.size - 1:
            a[i] = b[i]
        grid.sync()  # planted: cuda.syncthreads()


a = np.zeros(256, dtype=np.float32)
a[100] = 1
expected = a.copy()
device_a, device_b = cuda.to_device(a), cuda.to_device(a)
assert diffuse.overloads[diffuse.signatures[0]].max_cooperative_grid_blocks(64) >= 4
diffuse[4, 64](device_a, device_b, 5)
for _ in range(5):
    expected[1:-1] = (expected[:-2] + expected[1:-1] + expected[2:]) / np.float32(3)
np.testing.assert_allclose(device_a.copy_to_host(), expected, rtol=1e-5)
