"""gather_rows: out[i] = source[order[o + i]], o = control[BATCH_OFFSET]

    source (N, width), order (N,), out (B, width); a flat array of labels is gathered as rows of width 1

So a data set stays on the device, and a batch is made of any of its rows without a copy from the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.control import Control
from gpubp.kernels.numba.signatures import CONTROL, LABELS, array, kernel
from gpubp.toolchain.numba_package import cuda

BATCH_OFFSET = int(Control.BATCH_OFFSET)


def make(jit: Callable, dtype: str) -> Any:
    """Return the kernel gather_rows(source, order, control, out), one thread an element."""

    def gather_rows(source, order, control, out):
        i = cuda.grid(1)
        if i < out.size:
            row, j = i // out.shape[1], i % out.shape[1]
            out[row, j] = source[order[np.int64(control[BATCH_OFFSET]) + row], j]

    return jit(kernel(array(dtype, 2), LABELS, CONTROL, array(dtype, 2)))(gather_rows)
