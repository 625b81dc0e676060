"""A generalised ufunc: the sums so far along the last axis, for arrays of any shape before it."""

import numpy as np
from numba import guvectorize


@guvectorize(["void(float64[:], float64[:])"], "(n)->(n)", target="cuda")
def running_sum(x, result):
    total = 0.0
    for i in range(x.shape[0]):  # planted: for i in range(x.shape[0] + 1):  # found in __gufunc_running_sum
        total += x[i]
        result[i] = total


x = np.arange(60, dtype=np.float64).reshape(3, 4, 5)
np.testing.assert_array_equal(running_sum(x), np.cumsum(x, axis=-1))
