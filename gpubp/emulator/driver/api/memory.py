"""Memory: allocations, copies, fills, and what is known of a pointer."""

from __future__ import annotations

import ctypes
from typing import Any

from gpubp.emulator.driver import allocations, streams
from gpubp.emulator.driver.api.values import required, write
from gpubp.emulator.driver.calls import (
    ENUM,
    HANDLE,
    INT,
    LOCATION,
    POINTER,
    SIZE,
    UINT,
    UINT8,
    UINT16,
    UINT64,
    export,
    to,
)
from gpubp.emulator.driver.contexts import PRIMARY
from gpubp.emulator.driver.results import DriverError


@export("cuMemGetInfo_v2", 3020, to(SIZE), to(SIZE))
def _(free: Any, total: Any) -> None:
    free[0], total[0] = allocations.free_and_total()


@export("cuMemAlloc_v2", 3020, to(UINT64), SIZE)
def _(address: Any, nbytes: int) -> None:
    address[0] = allocations.allocate(nbytes)


_PITCH = 512


@export("cuMemAllocPitch_v2", 3020, to(UINT64), to(SIZE), SIZE, SIZE, UINT)
def _(address: Any, pitch: Any, width: int, height: int, itemsize: int) -> None:
    if itemsize not in (4, 8, 16):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"ElementSizeBytes is {itemsize}: it must be 4, 8 or 16")
    pitch[0] = -(-width // _PITCH) * _PITCH
    address[0] = allocations.allocate(pitch[0] * height)


@export("cuMemAllocManaged", 6000, to(UINT64), SIZE, UINT)
def _(address: Any, nbytes: int, flags: int) -> None:
    address[0] = allocations.allocate_managed(nbytes, flags)


@export("cuMemAllocHost_v2", 3020, to(UINT64), SIZE)
def _(address: Any, nbytes: int) -> None:
    address[0] = allocations.allocate_host(nbytes)


@export("cuMemHostAlloc", 2020, to(UINT64), SIZE, UINT)
def _(address: Any, nbytes: int, flags: int) -> None:
    address[0] = allocations.allocate_host(nbytes, flags)


@export("cuMemFree_v2", 3020, UINT64)
def _(address: int) -> None:
    allocations.free(address)


@export("cuMemFreeHost", 2000, UINT64)
def _(address: int) -> None:
    allocations.free(address, (allocations.HOST,))


@export("cuMemHostRegister_v2", 6050, UINT64, SIZE, UINT)
def _(address: int, nbytes: int, flags: int) -> None:
    allocations.register(address, nbytes, flags)


@export("cuMemHostUnregister", 4000, UINT64)
def _(address: int) -> None:
    allocations.unregister(address)


@export("cuMemHostGetDevicePointer_v2", 3020, to(UINT64), UINT64, UINT)
def _(device: Any, host: int, flags: int) -> None:
    if flags:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"Flags is {flags}: it must be 0")
    device[0] = allocations.device_pointer(host)


@export("cuMemHostGetFlags", 2030, to(UINT), UINT64)
def _(flags: Any, host: int) -> None:
    flags[0] = allocations.host_flags(host)


@export("cuMemGetAddressRange_v2", 3020, POINTER, POINTER, UINT64)
def _(base: int, nbytes: int, address: int) -> None:
    start, size = allocations.extent(address)
    write(base, UINT64, start)
    write(nbytes, SIZE, size)


def _check_managed(address: int, nbytes: int) -> None:
    """Check that bytes are managed memory: to say where it should lie changes nothing here."""
    start, size = allocations.extent(address)
    if allocations.kind_of(address) != allocations.MANAGED or address + nbytes > start + size:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"devPtr is {address:#x}: {nbytes} bytes there must be managed")


@export("cuMemAdvise", 8000, UINT64, SIZE, ENUM, INT)
@export("cuMemAdvise_v2", 12020, UINT64, SIZE, ENUM, LOCATION)
def _(address: int, nbytes: int, advice: int, location: int) -> None:
    _check_managed(address, nbytes)


@export("cuMemPrefetchAsync", 8000, UINT64, SIZE, INT, HANDLE)
def _(address: int, nbytes: int, device: int, stream: int) -> None:
    _check_managed(address, nbytes)
    streams.stream(stream)


@export("cuMemPrefetchAsync_v2", 12020, UINT64, SIZE, LOCATION, UINT, HANDLE)
def _(address: int, nbytes: int, location: int, flags: int, stream: int) -> None:
    if flags:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags}: it must be 0")
    _check_managed(address, nbytes)
    streams.stream(stream)


_CONTEXT, _MEMORY_TYPE, _DEVICE_POINTER, _HOST_POINTER = 1, 2, 3, 4
_SYNC, _BUFFER_ID, _IS_MANAGED, _ORDINAL = 6, 7, 8, 9
_START, _RANGE_SIZE, _MAPPED = 11, 12, 13
_HOST_TYPE, _DEVICE_TYPE = 1, 2


def _pointer_attribute(attribute: int, address: int) -> tuple[Any, int]:
    kind = allocations.kind_of(address)
    if not kind:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"ptr is {address:#x}: it is no memory of the driver's")
    start, size = allocations.extent(address)
    is_host = kind == allocations.HOST
    values = {
        _CONTEXT: (HANDLE, PRIMARY),
        _MEMORY_TYPE: (UINT, _HOST_TYPE if is_host else _DEVICE_TYPE),
        _DEVICE_POINTER: (UINT64, address),
        _HOST_POINTER: (UINT64, 0 if kind == allocations.DEVICE else address),
        _SYNC: (INT, 0),
        _BUFFER_ID: (UINT64, start),
        _IS_MANAGED: (INT, int(kind == allocations.MANAGED)),
        _ORDINAL: (INT, 0),
        _START: (UINT64, start),
        _RANGE_SIZE: (SIZE, size),
        _MAPPED: (INT, 1),
    }
    if attribute not in values:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", f"attribute is {attribute}: the virtual device does not know it")
    return values[attribute]


@export("cuPointerGetAttribute", 4000, POINTER, ENUM, UINT64)
def _(data: int, attribute: int, address: int) -> None:
    kind, value = _pointer_attribute(attribute, address)
    write(required(data, "data"), kind, value)


@export("cuPointerGetAttributes", 7000, UINT, to(INT), to(POINTER), UINT64)
def _(count: int, attributes: Any, data: Any, address: int) -> None:
    """As documented, a pointer that is none of the driver's is no error: its attributes are 0."""
    known = allocations.kind_of(address)
    for index in range(count):
        kind, value = _pointer_attribute(attributes[index], address) if known else (UINT, 0)
        if not known and attributes[index] in (
            _DEVICE_POINTER,
            _HOST_POINTER,
            _CONTEXT,
            _BUFFER_ID,
            _START,
            _RANGE_SIZE,
        ):
            kind = UINT64
        if not known and attributes[index] == _ORDINAL:
            kind, value = INT, -2  # CU_DEVICE_INVALID
        write(data[index], kind, value)


def _copy(name: str, since: int, *devices: str) -> None:
    """Export a copy and its asynchronous twin, whose last argument is a stream; `devices`: which sides must be."""

    @export(name, since, UINT64, UINT64, SIZE)
    @export(_async(name), since, UINT64, UINT64, SIZE, HANDLE)
    def _(target: int, source: int, nbytes: int, stream: int = 0) -> None:
        if nbytes:
            if "dst" in devices:
                allocations.check_device(target, "dstDevice")
            if "src" in devices:
                allocations.check_device(source, "srcDevice")
        allocations.copy(target, source, nbytes, stream)


def _async(name: str) -> str:
    """Return the name of the asynchronous twin of a function: "cuMemcpyHtoDAsync_v2" for "cuMemcpyHtoD_v2"."""
    base, version, number = name.partition("_v")
    return f"{base}Async{version}{number}"


_copy("cuMemcpy", 4000)
_copy("cuMemcpyHtoD_v2", 3020, "dst")
_copy("cuMemcpyDtoH_v2", 3020, "src")
_copy("cuMemcpyDtoD_v2", 3020, "dst", "src")


@export("cuMemcpyPeer", 4000, UINT64, HANDLE, UINT64, HANDLE, SIZE)
@export("cuMemcpyPeerAsync", 4000, UINT64, HANDLE, UINT64, HANDLE, SIZE, HANDLE)
def _(target: int, _to: int, source: int, _from: int, nbytes: int, stream: int = 0) -> None:
    allocations.copy(target, source, nbytes, stream)


class Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D of the documentation."""

    _fields_ = (
        ("srcXInBytes", SIZE),
        ("srcY", SIZE),
        ("srcMemoryType", INT),
        ("srcHost", POINTER),
        ("srcDevice", UINT64),
        ("srcArray", HANDLE),
        ("srcPitch", SIZE),
        ("dstXInBytes", SIZE),
        ("dstY", SIZE),
        ("dstMemoryType", INT),
        ("dstHost", POINTER),
        ("dstDevice", UINT64),
        ("dstArray", HANDLE),
        ("dstPitch", SIZE),
        ("WidthInBytes", SIZE),
        ("Height", SIZE),
    )


@export("cuMemcpy2D_v2", 3020, to(Copy2D))
@export("cuMemcpy2DUnaligned_v2", 3020, to(Copy2D))
@export("cuMemcpy2DAsync_v2", 3020, to(Copy2D), HANDLE)
def _(what: Any, stream: int = 0) -> None:
    given = what[0]

    def place(side: str) -> tuple[int, int]:
        kind = getattr(given, f"{side}MemoryType")
        if kind == 3:  # CU_MEMORYTYPE_ARRAY
            raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device has no CUDA arrays")
        base = getattr(given, f"{side}Host" if kind == _HOST_TYPE else f"{side}Device")
        column = getattr(given, f"{side}XInBytes")
        pitch = getattr(given, f"{side}Pitch") or given.WidthInBytes
        if given.Height > 1 and pitch < given.WidthInBytes + column:
            raise DriverError(
                "CUDA_ERROR_INVALID_VALUE",
                f"{side}Pitch is {pitch}: it must be at least {side}XInBytes + WidthInBytes, "
                f"{given.WidthInBytes + column}",
            )
        return base + getattr(given, f"{side}Y") * pitch + column, pitch

    allocations.copy_rows(*place("dst"), *place("src"), given.WidthInBytes, given.Height, stream)


def _fills() -> None:
    for itemsize, kind in ((1, UINT8), (2, UINT16), (4, UINT)):
        bits = 8 * itemsize

        @export(f"cuMemsetD{bits}_v2", 3020, UINT64, kind, SIZE)
        @export(f"cuMemsetD{bits}Async", 3020, UINT64, kind, SIZE, HANDLE)
        def _(address: int, value: int, count: int, stream: int = 0, itemsize: int = itemsize) -> None:
            allocations.fill(address, value, itemsize, count, stream)

        @export(f"cuMemsetD2D{bits}_v2", 3020, UINT64, SIZE, kind, SIZE, SIZE)
        @export(f"cuMemsetD2D{bits}Async", 3020, UINT64, SIZE, kind, SIZE, SIZE, HANDLE)
        def _(
            address: int, pitch: int, value: int, width: int, height: int, stream: int = 0, itemsize: int = itemsize
        ) -> None:
            allocations.fill_rows(address, pitch, value, itemsize, width, height, stream)


_fills()
