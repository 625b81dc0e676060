"""Reductions with maps of one's own: the norm of each row, and a sum in which each number is weighted by its place."""

import cupy as cp
import numpy as np

norms = cp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "norms")
weighted = cp.ReductionKernel(
    "T weight, raw T x",
    "T y",
    "weight * x[_j]",  # planted: "weight * x[_j + 1]",  # found in weighted
    "a + b",
    "y = a",
    "0",
    "weighted",
)
x = cp.asarray(np.random.default_rng(7).random((6, 50)))
np.testing.assert_allclose(norms(x, axis=1).get(), np.linalg.norm(x.get(), axis=1))

flat, places = x.ravel(), cp.arange(300.0)
np.testing.assert_allclose(weighted(places, flat).get(), (np.arange(300) * flat.get()).sum())
