"""product: c = α A B + β c, in each of the three forms NT, NN, TN (see forms.py)

    c (M, N); A and B as the form says; c is not read where β = 0

The primitives' own products have files of their own; here are the general one and the first half of split-K, which
serves them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.numba import epilogues, ladder
from gpubp.kernels.numba.forms import Form
from gpubp.kernels.numba.ladder import Rung
from gpubp.kernels.numba.signatures import COUNT, array, kernel
from gpubp.toolchain.numba_package import cuda


def make(jit: Callable, rung: Rung, dtype: str, form: Form) -> Any:
    """Return the kernel general_product(a, b, c, depth, alpha, beta)."""
    product = rung.product(jit, form, dtype, epilogues.scaled_accumulate(jit, dtype))

    def general_product(a, b, c, depth, alpha, beta):
        product(a, b, c.shape[0], c.shape[1], 0, depth, (alpha, beta, c))

    return jit(kernel(*ladder.sources(rung, dtype), array(dtype, 2), COUNT, dtype, dtype))(general_product)


def partial(jit: Callable, rung: Rung, dtype: str, form: Form) -> Any:
    """Return the kernel partial_product(a, b, parts, depth, part), parts (S, M, N), for split-K: more blocks for the
    same tiles.

    Block (tile, s) sums over the depths s · part .. (s + 1) · part − 1 alone and stores that in parts[s]; then the
    primitive's own kernel, with the rung `Reduction`, adds the parts up. No part is empty.
    """
    product = rung.product(jit, form, dtype, epilogues.part(jit))

    def partial_product(a, b, parts, depth, part):
        first = np.int64(cuda.blockIdx.y) * part
        product(a, b, parts.shape[1], parts.shape[2], first, min(first + part, depth), (parts,))

    return jit(kernel(*ladder.sources(rung, dtype), array(dtype, 3), COUNT, COUNT))(partial_product)
