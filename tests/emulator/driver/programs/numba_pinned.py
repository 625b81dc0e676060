"""Pinned memory and a stream: copies and kernels in order, the host waits once."""

import numpy as np
from numba import cuda


@cuda.jit
def scale(x, factor):
    i = cuda.grid(1)
    if i < x.size:  # planted: if i < 2 * x.size:
        x[i] *= factor  # found


stream = cuda.stream()
values = cuda.pinned_array(300, dtype=np.float64)
values[:] = np.arange(300)
got = np.zeros(300)
with cuda.pinned(got):
    device = cuda.to_device(values, stream=stream)
    for _ in range(3):
        scale[3, 128, stream](device, 2.0)
    device.copy_to_host(got, stream=stream)
    stream.synchronize()
np.testing.assert_array_equal(got, 8.0 * np.arange(300))
