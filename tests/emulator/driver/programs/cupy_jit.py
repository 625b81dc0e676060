"""A kernel written in Python with cupyx.jit: blocks turn round their parts of a vector in shared memory."""

import cupy as cp
import numpy as np
from cupyx import jit


@jit.rawkernel()
def reverse_blocks(source, target):
    t = jit.threadIdx.x
    i = jit.blockIdx.x * jit.blockDim.x + t
    tile = jit.shared_memory(np.int32, 128)
    tile[t] = source[i]
    jit.syncthreads()  # planted: pass  # found in reverse_blocks
    target[i] = tile[jit.blockDim.x - 1 - t]


source = cp.arange(512, dtype=cp.int32)
target = cp.zeros_like(source)
reverse_blocks((4,), (128,), (source, target))
expected = source.reshape(4, 128)[:, ::-1].ravel()
assert (target == expected).all()
