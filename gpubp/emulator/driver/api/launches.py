"""Launches of kernels."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

from gpubp.emulator.driver import modules
from gpubp.emulator.driver.api.values import required
from gpubp.emulator.driver.calls import (
    HANDLE,
    INT,
    POINTER,
    SIZE,
    UINT,
    UINT64,
    export,
    to,
)
from gpubp.emulator.driver.results import DriverError

_BUFFER_POINTER, _BUFFER_SIZE = 1, 2


def _params(function: int, pointers: int, extra: int) -> list[bytes]:
    """Return the bytes of each parameter, from pointers to them or from one buffer."""
    wanted = modules.parameters(function)
    if pointers:
        array = (UINT64 * len(wanted)).from_address(pointers) if wanted else ()
        return [
            ctypes.string_at(required(address, f"kernelParams[{index}]"), each.size)
            for index, (address, each) in enumerate(zip(array, wanted, strict=True))
        ]
    if not extra:
        return []
    pairs: dict[int, int] = {}
    for index in itertools.count(0, 2):
        key, value = UINT64.from_address(extra + 8 * index).value, UINT64.from_address(extra + 8 * index + 8).value
        if not key:
            break
        pairs[key] = value
    for key in (_BUFFER_POINTER, _BUFFER_SIZE):
        if not pairs.get(key):
            raise DriverError("CUDA_ERROR_INVALID_VALUE", "extra has no buffer: pairs 1, its address, and 2, its bytes")
    data = ctypes.string_at(pairs[_BUFFER_POINTER], SIZE.from_address(pairs[_BUFFER_SIZE]).value)
    places = [modules.parameter(function, index) for index in range(len(wanted))]
    return [data[at : at + size] for at, size in places]


@export("cuLaunchKernel", 4000, HANDLE, UINT, UINT, UINT, UINT, UINT, UINT, UINT, HANDLE, POINTER, POINTER)
def _(
    function: int,
    gx: int,
    gy: int,
    gz: int,
    bx: int,
    by: int,
    bz: int,
    shared: int,
    stream: int,
    pointers: int,
    extra: int,
) -> None:
    modules.run(function, (gx, gy, gz), (bx, by, bz), _params(function, pointers, extra), shared, stream)


@export("cuLaunchCooperativeKernel", 9000, HANDLE, UINT, UINT, UINT, UINT, UINT, UINT, UINT, HANDLE, POINTER)
def _(
    function: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: int, pointers: int
) -> None:
    params = _params(function, pointers, 0)
    modules.run(function, (gx, gy, gz), (bx, by, bz), params, shared, stream, cooperative=True)


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig of the documentation."""

    _fields_ = (
        ("gridDimX", UINT),
        ("gridDimY", UINT),
        ("gridDimZ", UINT),
        ("blockDimX", UINT),
        ("blockDimY", UINT),
        ("blockDimZ", UINT),
        ("sharedMemBytes", UINT),
        ("hStream", HANDLE),
        ("attrs", POINTER),
        ("numAttrs", UINT),
    )


_ATTRIBUTE_BYTES, _VALUE_AT = 72, 8
_COOPERATIVE, _CLUSTER = 2, 4
_HINTS = (0, 1, 3, 5, 6, 8, 9, 10, 11, 14, 16)
"""Attributes of a launch that change no result here: policies of access and of scheduling, priorities, domains of
synchronization, the carveout, and the order of a stream's launches, of which each has ended before the next begins."""


@export("cuLaunchKernelEx", 11060, to(LaunchConfig), HANDLE, POINTER, POINTER)
def _(config: Any, function: int, pointers: int, extra: int) -> None:
    given, cooperative = config[0], False
    for index in range(given.numAttrs):
        at = given.attrs + index * _ATTRIBUTE_BYTES
        attribute = INT.from_address(at).value
        if attribute == _COOPERATIVE:
            cooperative = INT.from_address(at + _VALUE_AT).value != 0
        elif attribute == _CLUSTER and all(UINT.from_address(at + _VALUE_AT + 4 * i).value == 1 for i in range(3)):
            pass
        elif attribute not in _HINTS:
            raise DriverError("CUDA_ERROR_NOT_SUPPORTED", f"launch attribute {attribute} is not emulated")
    grid = given.gridDimX, given.gridDimY, given.gridDimZ
    block = given.blockDimX, given.blockDimY, given.blockDimZ
    params = _params(function, pointers, extra)
    modules.run(function, grid, block, params, given.sharedMemBytes, given.hStream, cooperative)
