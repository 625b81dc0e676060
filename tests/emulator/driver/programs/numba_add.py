"""The first program of every tutorial: two vectors are added."""

import numpy as np
from numba import cuda


@cuda.jit
def add(a, b, c):
    i = cuda.grid(1)
    if i < c.size:  # planted: if i <= c.size:
        c[i] = a[i] + b[i]  # found


n = 1_000
a, b = np.arange(n, dtype=np.float32), np.ones(n, dtype=np.float32)
c = np.zeros_like(a)
threads = 128
add[(n + threads - 1) // threads, threads](a, b, c)
np.testing.assert_array_equal(c, a + b)
