"""Arrays of CuPy in a kernel of Numba, and arrays of Numba in CuPy: the same memory, no copies."""

import cupy as cp
import numpy as np
from numba import cuda


@cuda.jit
def outer(x, y, out):
    row, column = cuda.grid(2)
    if row < out.shape[0] and column < out.shape[1]:  # planted: if row < out.shape[0]:
        out[row, column] = x[row] * y[column]  # found


x, y = cp.arange(5, dtype=cp.float32), cp.arange(14, dtype=cp.float32)[::2]
out = cp.empty((5, 7), dtype=cp.float32)
outer[(1, 1), (8, 8)](x, y, out)
cp.testing.assert_array_equal(out, cp.outer(x, y))

device = cuda.to_device(np.arange(10))
view = cp.asarray(device)
view += 1
assert view.data.ptr == device.device_ctypes_pointer.value
np.testing.assert_array_equal(device.copy_to_host(), np.arange(1, 11))
