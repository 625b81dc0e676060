"""An elementwise kernel that looks at its neighbours: a moving average."""

import cupy as cp
import numpy as np

average = cp.ElementwiseKernel(
    "raw float32 x, int32 n",
    "float32 y",
    """
    int left = i > 0 ? i - 1 : 0;
    int right = i < n - 1 ? i + 1 : i;  // planted: int right = i + 1;  // found in average
    y = (x[left] + x[i] + x[right]) / 3;
    """,
    "average",
)
x = cp.asarray(np.random.default_rng(1).random(1000, np.float32))
y = average(x, np.int32(x.size), size=x.size)
padded = np.pad(x.get(), 1, mode="edge")
np.testing.assert_allclose(y.get(), (padded[:-2] + padded[1:-1] + padded[2:]) / 3, rtol=1e-6)
