"""The sum of a vector: a tree in shared memory, then one atomic addition a block."""

import numpy as np
from numba import cuda, float32

THREADS = 64


@cuda.jit
def total(x, out):
    partial = cuda.shared.array(THREADS, float32)
    t = cuda.threadIdx.x
    i = cuda.grid(1)
    partial[t] = x[i] if i < x.size else 0
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if t < step:
            partial[t] += partial[t + step]  # found
        cuda.syncthreads()  # planted: pass
        step //= 2
    if t == 0:
        cuda.atomic.add(out, 0, partial[0])


x = np.arange(1000, dtype=np.float32)
out = cuda.to_device(np.zeros(1, dtype=np.float32))
total[-(-x.size // THREADS), THREADS](x, out)
assert out.copy_to_host()[0] == x.sum()
