"""Tensor maps: what the copy engine of sm_90 must know of a matrix, in 128 bytes that a kernel takes as a parameter.

The driver encodes them, on the emulated device the emulator.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence

import numpy as np

from gpubp.backends.plans import SWIZZLE_WIDTH, Box
from gpubp.dtypes import ARITHMETIC
from gpubp.errors import BackendError

PARAMETER = np.dtype("V128")
"""A tensor map as an argument of a kernel, by value."""

DATA_TYPES = {"float16": 6, "float32": 7, "bfloat16": 9, "tf32": 11}
"""CUtensorMapDataType by the kind of arithmetic.

By a map of TF32 the copy engine rounds floats as it brings them. The driver's reference does not say so. NVIDIA's
CUTLASS does, in its main loops for sm_90: "TMA converts f32 input to tf32 when copying from GMEM to SMEM". That ties go
to even is what a pull request of Triton tests (number 11751), which reports that it is so on a chip of sm_120.
"""
NO_INTERLEAVE, SWIZZLE_128, PROMOTE_256, FILL_ZEROS = 0, 3, 3, 0
"""CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill."""
ALIGNMENT = 64
"""Of the map's address, in bytes."""

Encode = Callable[..., np.ndarray]
"""Takes cuTensorMapEncodeTiled's arguments, but for the first one, and returns 128 bytes."""


def matrix_map(encode: Encode, address: int, shape: Sequence[int], box: Box) -> np.ndarray:
    """Return the map of a C-contiguous matrix, as an array of one element of `PARAMETER`.

    Args:
        encode: `encoder` of the device.
        address: of the matrix on the device, a multiple of 16.
        shape: its rows and columns; a row is a multiple of 16 bytes.
        box: rows and columns of what a copy moves, and the kind of its elements, of `DATA_TYPES`; a row of it is
            `SWIZZLE_WIDTH` bytes wide.
    """
    rows, columns = shape
    item_bytes = ARITHMETIC[box.kind].item_bytes
    if box.columns * item_bytes != SWIZZLE_WIDTH:
        raise ValueError(f"a box of {box.columns} columns of {box.kind} is not {SWIZZLE_WIDTH} bytes wide")
    sides, pitches = (columns, rows), (columns * item_bytes,)
    patterns = NO_INTERLEAVE, SWIZZLE_128, PROMOTE_256, FILL_ZEROS
    return encode(DATA_TYPES[box.kind], 2, address, sides, pitches, (box.columns, box.rows), (1, 1), *patterns).view(
        PARAMETER
    )


def encoder(device: str) -> Encode:
    """Return what encodes tensor maps for a device, "gpu", "emulator" or "virtual"."""
    if device == "emulator":
        from gpubp.emulator.tensor_maps import encode_tiled

        return encode_tiled
    return _driver_encode


def _driver_encode(
    kind: int,
    rank: int,
    address: int,
    sides: Sequence[int],
    pitches: Sequence[int],
    box: Sequence[int],
    steps: Sequence[int],
    *patterns: int,
) -> np.ndarray:
    """Return the map that the driver encodes."""
    room = np.zeros(PARAMETER.itemsize + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    made = room[start : start + PARAMETER.itemsize]
    status = _driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(made.ctypes.data),
        ctypes.c_int(kind),
        ctypes.c_uint32(rank),
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * rank)(*sides),
        (ctypes.c_uint64 * (rank - 1))(*pitches),
        (ctypes.c_uint32 * rank)(*box),
        (ctypes.c_uint32 * rank)(*steps),
        *map(ctypes.c_int, patterns),
    )
    if status:
        raise BackendError(f"the driver's cuTensorMapEncodeTiled returns error {status}")
    return made


def _driver() -> ctypes.CDLL:
    """Return the driver's library, which CuPy has loaded already."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
