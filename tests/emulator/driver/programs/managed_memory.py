"""Managed memory: host and device use the same array in turn."""

import numpy as np
from numba import cuda


@cuda.jit
def count_down(x):
    i = cuda.grid(1)
    if i < x.size:  # planted: if i < x.size + 8:
        x[i] = x.size - i  # found


x = cuda.managed_array(200, dtype=np.int64)
x[:] = -1
count_down[2, 128](x)
cuda.synchronize()
assert x.sum() == 200 * 201 // 2
x[0] = 7
count_down[1, 32](x)
cuda.synchronize()
assert x[0] == 200
