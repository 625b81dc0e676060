"""prepare_update: the norm of the gradient, and from it the scale of every gradient:
control[SQUARED_NORM] = Σ g² ; control[GRADIENT_SCALE] = min(1, max_norm / √Σ g²)

The norm is summed in float64, one part a block. The last block to arrive adds the parts, and one thread of it does the
rest, on the device, so that clipping needs no copy to the host. An infinite max_norm stands for none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.control import Control
from gpubp.kernels.numba import arrivals as arriving
from gpubp.kernels.numba import reductions
from gpubp.kernels.numba.arrivals import ARRIVALS
from gpubp.kernels.numba.reductions import SUM_THREADS
from gpubp.kernels.numba.signatures import CONTROL, array, kernel
from gpubp.toolchain.numba_package import cuda

SQUARED_NORM, GRADIENT_SCALE = int(Control.SQUARED_NORM), int(Control.GRADIENT_SCALE)


def make(jit: Callable, dtype: str) -> Any:
    """Return the kernel prepare_update(gradients, control, parts, arrivals, max_norm)."""
    reduce = reductions.team(jit, SUM_THREADS, "float64", reductions.total(jit))
    add = reductions.sum_of_parts(jit, SUM_THREADS)
    arrives_last = arriving.of_blocks(jit)

    def prepare_update(gradients, control, parts, arrivals, max_norm):
        total = 0.0
        i, step = cuda.grid(1), cuda.gridsize(1)
        while i < gradients.size:
            value = np.float64(gradients[i])
            total += value * value
            i += step
        total = reduce(total)
        if cuda.threadIdx.x == 0:
            parts[cuda.blockIdx.x] = total
        if arrives_last(arrivals, 0, cuda.gridDim.x):
            total = add(parts)
            if cuda.threadIdx.x == 0:
                control[SQUARED_NORM] = total
                scale = 1.0
                if max_norm < math.inf:
                    norm = math.sqrt(total)
                    if not norm <= max_norm:  # a NaN norm gives a NaN scale, which shows
                        scale = max_norm / norm
                control[GRADIENT_SCALE] = scale

    return jit(kernel(array(dtype, 1), CONTROL, array("float64", 1), ARRIVALS, "float64"))(prepare_update)
