"""weight_step: w ← w − η δᵀ a_prev

    delta (B, n), a_prev (B, n_prev), control: η at its place LEARNING_RATE, w (n, n_prev)

The weight gradient and plain SGD in one product of the form TN (M = n, N = n_prev, K = B): the gradient never goes to
memory. η is read from the device, so that a step needs no new kernel argument when η changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.kernels.numba import epilogues, ladder
from gpubp.kernels.numba.forms import TN
from gpubp.kernels.numba.ladder import Rung
from gpubp.kernels.numba.signatures import CONTROL, array, kernel


def make(jit: Callable, rung: Rung, dtype: str) -> Any:
    """Return the kernel weight_step(delta, a_prev, control, w)."""
    product = rung.product(jit, TN, dtype, epilogues.step(jit, dtype))

    def weight_step(delta, a_prev, control, w):
        product(delta, a_prev, w.shape[0], w.shape[1], 0, delta.shape[0], (control, w))

    return jit(kernel(*ladder.sources(rung, dtype), CONTROL, array(dtype, 2)))(weight_step)
