"""prepare_update: control[STEP] += 1, and the scale of every gradient:
control[GRADIENT_SCALE] = min(1, max_norm / √control[SQUARED_NORM])

By one thread, on the device, so that clipping needs no copy to the host. An infinite max_norm stands for none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gpubp.kernels.control import Control
from gpubp.kernels.numba.signatures import CONTROL, kernel

STEP, SQUARED_NORM, GRADIENT_SCALE = int(Control.STEP), int(Control.SQUARED_NORM), int(Control.GRADIENT_SCALE)


def make(jit: Callable) -> Any:
    """Return the kernel prepare_update(control, max_norm), by one thread."""

    def prepare_update(control, max_norm):
        control[STEP] += 1
        scale = 1.0
        if max_norm < math.inf:
            norm = math.sqrt(control[SQUARED_NORM])
            if not norm <= max_norm:  # a NaN norm gives a NaN scale, which shows
                scale = max_norm / norm
        control[GRADIENT_SCALE] = scale

    return jit(kernel(CONTROL, "float64"))(prepare_update)
