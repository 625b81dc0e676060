"""The ladder: the rungs that a product can be computed with, each adding one idea to the one before.

    Naive        one thread, one output element
    Tiled        + tiles in shared memory that a block's threads share
    Blocked      + 64 sums a thread, in registers
    Pipelined    + loads that overlap with arithmetic, no guards in the main loop

A rung is a value, and an argument of the primitives' factories. `rung.product(jit, form, dtype, finish)` returns the
device function product(a, b, m, n, first, last, operands): it sums over the depths first .. last − 1, for this block's
elements of the M×N result, and hands each sum to `finish` (epilogues.py) with `operands`.

`Reduction` is no rung to climb, but has the same interface: the second half of a product whose depth was split.
"""

from __future__ import annotations

from gpubp.kernels.numba.product_blocked import Blocked
from gpubp.kernels.numba.product_naive import Naive
from gpubp.kernels.numba.product_pipelined import Pipelined
from gpubp.kernels.numba.product_reduce import Reduction
from gpubp.kernels.numba.product_tiled import Tiled
from gpubp.kernels.numba.signatures import array

Rung = Naive | Tiled | Blocked | Pipelined | Reduction


def sources(rung: Rung, dtype: str) -> tuple[str, str]:
    """Return the types of what a kernel is given for the two operands of a product."""
    return (array(dtype, 3 if isinstance(rung, Reduction) else 2),) * 2
