"""A matrix product by tiles in shared memory, for sides that are no multiples of the tile."""

import numpy as np
from numba import cuda, float32

TILE = 8


@cuda.jit
def matmul(a, b, c):
    a_tile = cuda.shared.array((TILE, TILE), float32)
    b_tile = cuda.shared.array((TILE, TILE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    column, row = cuda.grid(2)
    value = float32(0)
    for k in range(0, a.shape[1], TILE):
        inside = row < a.shape[0] and k + tx < a.shape[1]
        a_tile[ty, tx] = a[row, k + tx] if inside else 0
        inside = k + ty < b.shape[0] and column < b.shape[1]
        b_tile[ty, tx] = b[k + ty, column] if inside else 0  # found
        cuda.syncthreads()
        for j in range(TILE):
            value += a_tile[ty, j] * b_tile[j, tx]
        cuda.syncthreads()  # planted: pass
    if row < c.shape[0] and column < c.shape[1]:
        c[row, column] = value


rng = np.random.default_rng(0)
a, b = rng.random((20, 13), dtype=np.float32), rng.random((13, 17), dtype=np.float32)
c = cuda.device_array((20, 17), dtype=np.float32)
matmul[(3, 3), (TILE, TILE)](cuda.to_device(a), cuda.to_device(b), c)
np.testing.assert_allclose(c.copy_to_host(), a @ b, rtol=1e-5)
