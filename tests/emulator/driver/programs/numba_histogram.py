"""A histogram: atomic additions to bins in shared memory, then to those of the grid."""

import numpy as np
from numba import cuda, int32

BINS = 32


@cuda.jit
def histogram(values, bins):
    own = cuda.shared.array(BINS, int32)
    t = cuda.threadIdx.x
    if t < BINS:
        own[t] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        cuda.atomic.add(own, values[i], 1)  # planted: own[values[i]] += 1  # found
    cuda.syncthreads()
    if t < BINS:
        cuda.atomic.add(bins, t, own[t])


values = np.random.default_rng(2).integers(0, BINS, 3000, dtype=np.int32)
bins = np.zeros(BINS, dtype=np.int32)
histogram[4, 128](values, bins)
np.testing.assert_array_equal(bins, np.bincount(values, minlength=BINS))
