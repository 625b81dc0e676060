"""Tensor maps, which the emulator encodes in a layout of its own."""

from __future__ import annotations

import ctypes
from typing import Any

from gpubp.emulator import tensor_maps
from gpubp.emulator.driver.api.values import required
from gpubp.emulator.driver.calls import ENUM, POINTER, UINT, UINT64, export
from gpubp.emulator.driver.results import DriverError
from gpubp.errors import ArgumentError


@export(
    "cuTensorMapEncodeTiled", 12000,
    POINTER, ENUM, UINT, POINTER, POINTER, POINTER, POINTER, POINTER, ENUM, ENUM, ENUM, ENUM,
)  # fmt: skip
def _(
    tensor_map: int,
    data_type: int,
    rank: int,
    address: int,
    sides: int,
    strides: int,
    box: int,
    steps: int,
    interleave: int,
    swizzle: int,
    promotion: int,
    fill: int,
) -> None:
    if required(tensor_map, "tensorMap") % tensor_maps.ALIGNMENT:
        raise DriverError(
            "CUDA_ERROR_INVALID_VALUE",
            f"tensorMap is {tensor_map:#x}: it must be a multiple of {tensor_maps.ALIGNMENT}",
        )

    def numbers(kind: Any, at: int, count: int, name: str) -> list[int]:
        return list((kind * count).from_address(required(at, name))) if count > 0 else []

    count = rank if rank <= tensor_maps.MOST_DIMENSIONS else 0
    try:
        made = tensor_maps.encode_tiled(
            data_type,
            rank,
            address,
            numbers(UINT64, sides, count, "globalDim"),
            numbers(UINT64, strides, count - 1, "globalStrides"),
            numbers(UINT, box, count, "boxDim"),
            numbers(UINT, steps, count, "elementStrides"),
            interleave,
            swizzle,
            promotion,
            fill,
        )
    except ArgumentError as error:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", str(error)) from None
    ctypes.memmove(tensor_map, made.tobytes(), tensor_maps.NBYTES)
