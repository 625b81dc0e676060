"""Device functions and closures: one kernel for each function that it is made with."""

import math

import numpy as np
from numba import cuda


@cuda.jit(device=True)
def clamp(x, low, high):
    return min(max(x, low), high)


def mapped(function, low):
    device_function = cuda.jit(device=True)(function)

    @cuda.jit
    def kernel(x, y):
        i = cuda.grid(1)
        if i >= x.size:  # planted: if i > x.size:
            return
        y[i] = clamp(device_function(x[i]), low, 1.0)  # found

    return kernel


x = np.linspace(-3, 3, 200)
for function, reference in ((math.sin, np.sin), (math.exp, np.exp)):
    y = np.zeros_like(x)
    mapped(lambda value, function=function: function(value), 0.25)[2, 128](x, y)
    np.testing.assert_allclose(y, np.clip(reference(x), 0.25, 1.0), rtol=1e-12)
