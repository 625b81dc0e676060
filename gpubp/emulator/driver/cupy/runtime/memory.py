"""Memory, copies and pools."""

from __future__ import annotations

from typing import Any

from gpubp.emulator.driver import allocations, contexts, devices, pools, streams
from gpubp.emulator.driver.cupy.runtime.serving import CUPY, serve
from gpubp.emulator.driver.results import DriverError


@serve()
def malloc(size: int) -> int:
    """Return the address of new device memory; 0 for no bytes."""
    contexts.make_primary_current()
    return allocations.allocate(size) if size else 0


@serve()
def mallocManaged(size: int, flags: int = 1) -> int:
    """Return the address of new managed memory."""
    contexts.make_primary_current()
    return allocations.allocate_managed(size, flags)


@serve()
def hostAlloc(size: int, flags: int) -> int:
    """Return the address of new pinned memory; 0 for no bytes."""
    contexts.make_primary_current()
    return allocations.allocate_host(size, flags) if size else 0


@serve()
def mallocAsync(size: int, stream: int) -> int:
    """Return the address of new memory of the device's pool."""
    return pools.allocate(pools.current(), size, stream)


@serve()
def mallocFromPoolAsync(size: int, pool: int, stream: int) -> int:
    """Return the address of new memory of a pool."""
    return pools.allocate(pool, size, stream)


@serve()
def free(ptr: int) -> None:
    """Free device or managed memory."""
    allocations.free(ptr)


@serve()
def freeAsync(ptr: int, stream: int) -> None:
    """Free memory in a stream, whose work so far is done."""
    allocations.free_in(stream, ptr)


@serve()
def freeHost(ptr: int) -> None:
    """Free pinned memory."""
    allocations.free(ptr, (allocations.HOST,))


@serve()
def hostRegister(ptr: int, size: int, flags: int) -> None:
    """Note memory of the host as page-locked."""
    allocations.register(ptr, size, flags)


@serve()
def hostUnregister(ptr: int) -> None:
    """Forget that memory of the host was registered."""
    allocations.unregister(ptr)


@serve()
def memGetInfo() -> tuple[int, int]:
    """Return the bytes that can still be allocated, and all bytes."""
    contexts.make_primary_current()
    return allocations.free_and_total()


HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, DEFAULT = range(5)
"""Where a copy leads, by the numbers of the documentation's enum cudaMemcpyKind."""


def _check_kind(dst: int, src: int, kind: int) -> None:
    """Refuse a copy whose kind is not that of its pointers."""
    if kind == DEFAULT:
        return
    if not 0 <= kind < DEFAULT:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"kind is {kind}: it must be 0 to 4")
    for name, address, is_device in (
        ("dst", dst, kind in (HOST_TO_DEVICE, DEVICE_TO_DEVICE)),
        ("src", src, kind in (DEVICE_TO_HOST, DEVICE_TO_DEVICE)),
    ):
        found = allocations.kind_of(address)
        if is_device and not allocations.is_device(address):
            raise DriverError("CUDA_ERROR_INVALID_VALUE", f"kind is {kind}, and {name}, {address:#x}, is of the host")
        if not is_device and found == allocations.DEVICE:
            raise DriverError("CUDA_ERROR_INVALID_VALUE", f"kind is {kind}, and {name}, {address:#x}, is device memory")


@serve()
def memcpy(dst: int, src: int, size: int, kind: int) -> None:
    """Copy bytes."""
    memcpyAsync(dst, src, size, kind, 0)


@serve()
def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    """Copy bytes in a stream."""
    if size:
        _check_kind(dst, src, kind)
    allocations.copy(dst, src, size, stream)


@serve()
def memcpyPeer(dst: int, dstDevice: int, src: int, srcDevice: int, size: int) -> None:
    """Copy bytes from a device to itself."""
    memcpyPeerAsync(dst, dstDevice, src, srcDevice, size, 0)


@serve()
def memcpyPeerAsync(dst: int, dstDevice: int, src: int, srcDevice: int, size: int, stream: int) -> None:
    """Copy bytes from a device to itself, in a stream."""
    devices.check_ordinal(dstDevice)
    devices.check_ordinal(srcDevice)
    allocations.copy(dst, src, size, stream)


@serve()
def memcpy2D(dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, kind: int) -> None:
    """Copy rows."""
    memcpy2DAsync(dst, dpitch, src, spitch, width, height, kind, 0)


@serve()
def memcpy2DAsync(
    dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, kind: int, stream: int
) -> None:
    """Copy rows in a stream."""
    if width and height:
        _check_kind(dst, src, kind)
    allocations.copy_rows(dst, dpitch, src, spitch, width, height, stream)


@serve()
def memset(ptr: int, value: int, size: int) -> None:
    """Set bytes."""
    allocations.fill(ptr, value, 1, size)


@serve()
def memsetAsync(ptr: int, value: int, size: int, stream: int) -> None:
    """Set bytes in a stream."""
    allocations.fill(ptr, value, 1, size, stream)


_CPU = -1  # cudaCpuDeviceId


@serve()
def memPrefetchAsync(devPtr: int, count: int, dstDevice: int, stream: int) -> None:
    """Do nothing to memory that there is: it is where it is used."""
    _check_place(dstDevice)
    streams.stream(stream)
    allocations.extent(devPtr)


@serve()
def memAdvise(devPtr: int, count: int, advice: int, device: int) -> None:
    """Do nothing to memory that there is."""
    _check_place(device)
    if not 1 <= advice <= 6:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"advice is {advice}: it must be 1 to 6")
    allocations.extent(devPtr)


def _check_place(device: int) -> None:
    if device != _CPU:
        devices.check_ordinal(device)


_UNREGISTERED, _HOST_MEMORY, _DEVICE_MEMORY, _MANAGED_MEMORY = range(4)
_TYPES = {
    "": _UNREGISTERED,
    allocations.HOST: _HOST_MEMORY,
    allocations.DEVICE: _DEVICE_MEMORY,
    allocations.MANAGED: _MANAGED_MEMORY,
}
_NO_DEVICE = -2  # cudaInvalidDeviceId


@serve()
def pointerGetAttributes(ptr: int) -> Any:
    """Return what is known of a pointer: nothing of memory of the host that is not pinned."""
    kind = allocations.kind_of(ptr)
    host = 0 if kind == allocations.DEVICE else ptr
    return CUPY[0].PointerAttributes(0 if kind else _NO_DEVICE, ptr if kind else 0, host, _TYPES[kind])


@serve()
def pointerGetMemoryType(ptr: int) -> int:
    """Return the type of the memory that a pointer leads to."""
    return _TYPES[allocations.kind_of(ptr)]


@serve()
def deviceGetDefaultMemPool(device: int) -> int:
    """Return the handle of the pool that a device has from the start."""
    devices.check_ordinal(device)
    return pools.DEFAULT


@serve()
def deviceGetMemPool(device: int) -> int:
    """Return the handle of the pool that `mallocAsync` takes memory from."""
    devices.check_ordinal(device)
    return pools.current()


@serve()
def deviceSetMemPool(device: int, pool: int) -> None:
    """Set the pool that `mallocAsync` takes memory from."""
    devices.check_ordinal(device)
    pools.set_current(pool)


@serve()
def memPoolCreate(props: Any) -> int:
    """Return the handle of a new pool."""
    return pools.create()


@serve()
def memPoolDestroy(pool: int) -> None:
    """Forget a pool; what was allocated from it stays."""
    pools.destroy(pool)


@serve()
def memPoolTrimTo(pool: int, size: int) -> None:
    """Do nothing to a pool that there is: freed memory is given back at once."""
    pools.attribute(pool, pools.USED)


@serve()
def memPoolGetAttribute(pool: int, attr: int) -> int:
    """Return an attribute of a pool."""
    return pools.attribute(pool, attr)


@serve()
def memPoolSetAttribute(pool: int, attr: int, value: int) -> None:
    """Set an attribute of a pool."""
    pools.set_attribute(pool, attr, value)
