"""DLPack for emulated arrays: handing them to another library, and taking them, without a copy.

The structures are those of DLPack 1.0 (dlpack.h, `DLTensor`), in the capsule without a version that all libraries take.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CPU, CUDA = 1, 2
_KINDS = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}


class _Tensor(ctypes.Structure):
    """DLTensor, the first member of what a capsule points to."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("kind", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Holder:
    """Lets a NumPy view keep something else alive than the memory it shows."""

    def __init__(self, view: np.ndarray, owner: object) -> None:
        self.__array_interface__ = view.__array_interface__
        self.view, self.owner = view, owner


def export(host_view: np.ndarray, address: int, owner: object) -> object:
    """Return a capsule for the elements that `host_view` shows and that lie at `address` on the emulated device.

    Raises:
        BufferError: a dtype that DLPack has no code for.
    """
    capsule = np.asarray(_Holder(host_view, owner)).__dlpack__()
    tensor = _tensor(capsule)
    tensor.data, tensor.byte_offset = address, 0
    tensor.device_type, tensor.device_id = CUDA, 0
    return capsule


def describe(capsule: object) -> tuple[int, tuple[int, ...], np.dtype, tuple[int, ...] | None]:
    """Return address, shape, dtype and strides in bytes (None: C-contiguous) of a capsule.

    Raises:
        BufferError: it is not CUDA's memory, or a dtype that NumPy has not.
    """
    tensor = _tensor(capsule)
    if tensor.device_type != CUDA:
        raise BufferError(f"the array lies on DLPack device {tensor.device_type}, not on CUDA's ({CUDA})")
    if tensor.kind not in _KINDS or tensor.lanes != 1:
        raise BufferError(f"the array's dtype (DLPack code {tensor.kind}, {tensor.lanes} lanes) is not one of NumPy's")
    dtype = np.dtype(f"{_KINDS[tensor.kind]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim]) if tensor.ndim else ()
    strides = tuple(side * dtype.itemsize for side in tensor.strides[: tensor.ndim]) if tensor.strides else None
    return (tensor.data or 0) + tensor.byte_offset, shape, dtype, strides


def _tensor(capsule: object) -> Any:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return _Tensor.from_address(get(capsule, b"dltensor"))
