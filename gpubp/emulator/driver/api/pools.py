"""Pools of memory."""

from __future__ import annotations

import ctypes
from typing import Any

from gpubp.emulator.driver import allocations, devices, pools
from gpubp.emulator.driver.api.values import required, write
from gpubp.emulator.driver.calls import (
    ENUM,
    HANDLE,
    INT,
    POINTER,
    SIZE,
    UINT64,
    export,
    to,
)
from gpubp.emulator.driver.results import DriverError


@export("cuDeviceGetDefaultMemPool", 11020, to(HANDLE), INT)
def _(pool: Any, device: int) -> None:
    devices.check_ordinal(device)
    pool[0] = pools.DEFAULT


@export("cuDeviceGetMemPool", 11020, to(HANDLE), INT)
def _(pool: Any, device: int) -> None:
    devices.check_ordinal(device)
    pool[0] = pools.current()


@export("cuDeviceSetMemPool", 11020, INT, HANDLE)
def _(device: int, pool: int) -> None:
    devices.check_ordinal(device)
    pools.set_current(pool)


class PoolProperties(ctypes.Structure):
    """CUmemPoolProps of the documentation, without what is reserved."""

    _fields_ = (
        ("allocType", INT),
        ("handleTypes", INT),
        ("locationType", INT),
        ("locationId", INT),
        ("win32SecurityAttributes", POINTER),
        ("maxSize", SIZE),
    )


@export("cuMemPoolCreate", 11020, to(HANDLE), to(PoolProperties))
def _(pool: Any, properties: Any) -> None:
    given = properties[0]
    if given.handleTypes:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device shares no memory with other processes")
    pool[0] = pools.create(given.locationType, given.locationId, given.maxSize)


@export("cuMemPoolDestroy", 11020, HANDLE)
def _(pool: int) -> None:
    pools.destroy(pool)


@export("cuMemPoolTrimTo", 11020, HANDLE, SIZE)
def _(pool: int, nbytes: int) -> None:
    pools.attribute(pool, pools.USED)


@export("cuMemPoolGetAttribute", 11020, HANDLE, ENUM, POINTER)
def _(pool: int, attribute: int, value: int) -> None:
    kind = UINT64 if attribute in pools.LONG else INT
    write(required(value, "value"), kind, pools.attribute(pool, attribute))


@export("cuMemPoolSetAttribute", 11020, HANDLE, ENUM, POINTER)
def _(pool: int, attribute: int, value: int) -> None:
    kind = UINT64 if attribute in pools.LONG else INT
    pools.set_attribute(pool, attribute, kind.from_address(required(value, "value")).value)


@export("cuMemPoolSetAccess", 11020, HANDLE, POINTER, SIZE)
def _(pool: int, descriptors: int, count: int) -> None:
    """There is one device, and it can always reach its own memory."""
    pools.attribute(pool, pools.USED)


@export("cuMemAllocAsync", 11020, to(UINT64), SIZE, HANDLE)
def _(address: Any, nbytes: int, stream: int) -> None:
    address[0] = pools.allocate(pools.current(), nbytes, stream)


@export("cuMemAllocFromPoolAsync", 11020, to(UINT64), SIZE, HANDLE, HANDLE)
def _(address: Any, nbytes: int, pool: int, stream: int) -> None:
    address[0] = pools.allocate(pool, nbytes, stream)


@export("cuMemFreeAsync", 11020, UINT64, HANDLE)
def _(address: int, stream: int) -> None:
    allocations.free_in(stream, address)
