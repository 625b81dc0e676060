"""Errors, versions, and how a program finds the other functions."""

from __future__ import annotations

from typing import Any

from gpubp.emulator.driver import devices, library, results
from gpubp.emulator.driver.api.values import lasting, write
from gpubp.emulator.driver.calls import (
    ENUM,
    INT,
    POINTER,
    TEXT,
    UINT,
    UINT64,
    export,
    find,
    is_known,
    to,
)
from gpubp.emulator.driver.results import DriverError


@export("cuGetErrorString", 6000, ENUM, to(POINTER))
def _(error: int, text: Any) -> None:
    if error not in results.NAMES:
        text[0] = 0
        raise DriverError("CUDA_ERROR_INVALID_VALUE")
    text[0] = lasting(results.explain(error))


@export("cuGetErrorName", 6000, ENUM, to(POINTER))
def _(error: int, text: Any) -> None:
    if error not in results.NAMES:
        text[0] = 0
        raise DriverError("CUDA_ERROR_INVALID_VALUE")
    text[0] = lasting(results.NAMES[error])


@export("cuInit", 2000, UINT)
def _(flags: int) -> None:
    if flags:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"Flags is {flags}: it must be 0")


@export("cuDriverGetVersion", 2020, to(INT))
def _(version: Any) -> None:
    version[0] = devices.DRIVER_VERSION


_FOUND, _NOT_FOUND, _TOO_OLD = 0, 1, 2
_LEGACY_STREAM, _PER_THREAD_STREAM = 1, 2


def _procedure(name: bytes, address: Any, version: int, flags: int) -> int:
    address[0] = 0
    if version > devices.DRIVER_VERSION:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"cudaVersion is {version}: it is {devices.DRIVER_VERSION} here")
    if flags not in (0, _LEGACY_STREAM, _PER_THREAD_STREAM):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags}: it must be 0, 1 or 2")
    base = name.decode()
    found = find(base, version, flags == _PER_THREAD_STREAM)
    if found is None:
        return _TOO_OLD if is_known(base) else _NOT_FOUND
    address[0] = library.address(found.name)
    return _FOUND


@export("cuGetProcAddress", 11030, TEXT, to(POINTER), INT, UINT64)
def _(name: bytes, address: Any, version: int, flags: int) -> None:
    if _procedure(name, address, version, flags) != _FOUND:
        raise DriverError("CUDA_ERROR_NOT_FOUND", f"the virtual device has no {name.decode()} of CUDA {version}")


@export("cuGetProcAddress_v2", 12000, TEXT, to(POINTER), INT, UINT64, POINTER)
def _(name: bytes, address: Any, version: int, flags: int, status: int) -> None:
    """As documented, a name that is not found is no error of this one: the address is null, and the status says so."""
    write(status, INT, _procedure(name, address, version, flags))


@export("cuGetExportTable", 3000, to(POINTER), POINTER)
def _(table: Any, identity: int) -> None:
    """Only what is documented is served; these tables are private."""
    table[0] = 0
    raise DriverError("CUDA_ERROR_NOT_FOUND", "the virtual device has no private tables of functions")
