"""print in a kernel: one line a thread, and none of those that are beyond the end."""

import numpy as np
from numba import cuda


@cuda.jit
def show(x):
    i = cuda.grid(1)
    if i < x.size:  # planted: if i <= x.size:
        print("thread", i, "has", x[i])  # found


show[2, 2](np.array([1.5, 2.5, 3.5], dtype=np.float32))
cuda.synchronize()
