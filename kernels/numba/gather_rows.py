"""gather_rows: out[i] = source[order[o + i]], o = control[BATCH_OFFSET], of up to three arrays: x, y and the weights

    x (N, width), order (N,), x_out (B, width); a flat array is gathered as rows of width 1

So a data set stays on the device, and a batch is made of any of its rows in one launch, without a copy from the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.control import Control
from gpubp.kernels.numba.signatures import CONTROL, LABELS, array, kernel
from gpubp.toolchain.numba_package import cuda

BATCH_OFFSET = int(Control.BATCH_OFFSET)


def make(jit: Callable, x_dtype: str, y_dtype: str | None = None, weights_dtype: str | None = None) -> Any:
    """Return the kernel gather_rows(x, y, weights, order, control, x_out, y_out, weights_out), one thread an element.

    Arrays without a dtype are those of x again, and not looked at.
    """
    has_y, has_weights = y_dtype is not None, weights_dtype is not None

    @jit(device=True, inline="always")
    def gather(source, out, order, start, i):
        row, j = i // out.shape[1], i % out.shape[1]
        out[row, j] = source[order[start + row], j]

    def gather_rows(x, y, weights, order, control, x_out, y_out, weights_out):
        i = np.int64(cuda.grid(1))
        start = np.int64(control[BATCH_OFFSET])
        y_begin, weights_begin = np.int64(x_out.size), np.int64(x_out.size)
        if has_y:
            weights_begin += y_out.size
        if i < y_begin:
            gather(x, x_out, order, start, i)
        elif has_y and i < weights_begin:
            gather(y, y_out, order, start, i - y_begin)
        elif has_weights and i < weights_begin + weights_out.size:
            gather(weights, weights_out, order, start, i - weights_begin)

    rows = [array(dtype or x_dtype, 2) for dtype in (x_dtype, y_dtype, weights_dtype)]
    return jit(kernel(*rows, LABELS, CONTROL, *rows))(gather_rows)
