"""Arrays of any library: whether they lie on a device, and their values on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.errors import StateError

HOST = (1, 3)
"""The devices of DLPack that are the host's memory: all of it, and what CUDA has pinned of it."""


def lies_on_device(x: Any) -> bool:
    """True if x is an array in the memory of a device, as it says by DLPack or by CUDA's array interface."""
    if isinstance(x, np.ndarray):
        return False
    device = getattr(x, "__dlpack_device__", None)
    if device is not None:
        return int(device()[0]) not in HOST
    return hasattr(x, "__cuda_array_interface__")


def dtype_of(x: Any) -> np.dtype:
    """Return NumPy's dtype for that of an array on a device, which may have a dtype of its library's own."""
    try:
        return np.dtype(x.dtype)
    except (AttributeError, TypeError):
        return np.dtype(x.__cuda_array_interface__["typestr"])


def on_host(argument: str, x: Any) -> Any:
    """Return an array that NumPy does not take by itself as one that it does; anything else as it is.

    That is an array on a device (CuPy, Numba, PyTorch, or what speaks DLPack), one that takes part in PyTorch's
    automatic differentiation, or one on the host that speaks DLPack alone. Raises ArgumentError, which names the
    argument, if its library does not hand over the values.
    """
    if isinstance(x, np.ndarray):
        return x
    try:
        if hasattr(x, "detach"):
            x = x.detach()
        if lies_on_device(x):
            for copy in ("get", "copy_to_host", "cpu"):  # of CuPy, of Numba, of PyTorch
                if hasattr(x, copy):
                    return np.asarray(getattr(x, copy)())
            return np.from_dlpack(x, device="cpu")
        return np.from_dlpack(x) if hasattr(x, "__dlpack__") and not hasattr(x, "__array__") else x
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise StateError(argument, f"is a {type(x).__name__} on a device ({error})", "be copied to the host") from error
