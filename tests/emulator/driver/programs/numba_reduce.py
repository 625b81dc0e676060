"""A reduction made of a Python function: the largest of many numbers, and their sum."""

import numpy as np
from numba import cuda


@cuda.reduce
def largest(a, b):
    return max(a, b)


@cuda.reduce
def total(a, b):
    return a + b


values = np.random.default_rng(3).permutation(2000).astype(np.int64)
assert largest(values) == 1999
assert total(values) == values.sum()
assert total(values, init=5) == values.sum() + 5
