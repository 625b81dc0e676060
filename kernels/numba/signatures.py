"""The types of kernel arguments, as Numba writes signatures. Every array is C-contiguous."""

from __future__ import annotations

CONTROL = "float64[::1]"
LABELS = "int64[::1]"
COUNT = "int64"


def array(dtype: str, ndim: int) -> str:
    """An array of this dtype and number of dimensions."""
    return f"{dtype}[{':, ' * (ndim - 1)}::1]"


def kernel(*arguments: str) -> str:
    """A kernel with these arguments."""
    return f"void({', '.join(arguments)})"
