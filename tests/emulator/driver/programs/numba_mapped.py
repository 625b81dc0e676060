"""Mapped memory: the kernel reads and writes what the host has, without a copy."""

import numpy as np
from numba import cuda


@cuda.jit
def reverse(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[x.size - 1 - i]  # planted: y[i] = x[x.size - i]  # found


x = cuda.mapped_array(100, dtype=np.int32)
y = cuda.mapped_array(100, dtype=np.int32)
x[:] = np.arange(100)
y[:] = -1
reverse[1, 128](x, y)
cuda.synchronize()
np.testing.assert_array_equal(y, np.arange(100)[::-1])
