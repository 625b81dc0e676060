"""The three forms of a product C = A B, by how its operands lie in memory (rows are examples).

    NT: A is (M, K), B is stored as (N, K):  dense_forward      z = a_prev wᵀ
    NN: A is (M, K), B is stored as (K, N):  hidden_delta       δ w
    TN: A is stored as (K, M), B as (K, N):  weight_gradient    δᵀ a_prev

An operand has a side (M or N) and the depth K; what differs is which of the two is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Form:
    """Whether each operand is depth-contiguous, (side, K), or side-contiguous, (K, side)."""

    a_by_depth: bool
    b_by_depth: bool


NT = Form(True, True)
NN = Form(True, False)
TN = Form(False, False)


def element(jit: Callable, by_depth: bool) -> Any:
    """Return the device function at(x, s, k): the operand's element at this side and depth.

    Indices are unsigned: of a signed one Numba asks whether it is negative, and so counted from the end.
    """
    if by_depth:

        @jit(device=True, inline="always")
        def at(x, s, k):
            return x[np.uint64(s), np.uint64(k)]

    else:

        @jit(device=True, inline="always")
        def at(x, s, k):
            return x[np.uint64(k), np.uint64(s)]

    return at
