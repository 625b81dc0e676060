"""A ufunc of two arguments that broadcasts, as NumPy's do."""

import math

import numpy as np
from numba import vectorize


@vectorize(["float32(float32, float32)", "float64(float64, float64)"], target="cuda")
def distance(x, y):
    return math.sqrt(x * x + y * y)


for dtype in (np.float32, np.float64):
    x, y = np.arange(5, dtype=dtype)[None, :], np.arange(3, dtype=dtype)[:, None]
    got = distance(x, y)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, np.hypot(x, y), rtol=1e-6)
