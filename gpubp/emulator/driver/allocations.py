"""The driver's memory: allocations, copies, fills, and what is known of an address.

Device, managed and pinned memory are all of the emulator's arena, at addresses that the host can use as well.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from pathlib import Path

import numpy as np

from gpubp.emulator.device.memory import ARENA_BASE, MEMORY, Allocation
from gpubp.emulator.driver import streams
from gpubp.emulator.driver.results import DriverError
from gpubp.emulator.errors import EmulatorError

DEVICE, HOST, MANAGED = "device memory", "pinned memory", "managed memory"
"""The kinds of allocations, as messages call them."""

_kinds: dict[int, str] = {}
_host_flags: dict[int, int] = {}
"""The flags that pinned memory was allocated or registered with, by its address."""
_registered: dict[int, int] = {}


def allocate(nbytes: int, kind: str = DEVICE) -> int:
    """Return the address of new memory.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: nbytes is 0. CUDA_ERROR_OUT_OF_MEMORY. While a stream is capturing:
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED.
    """
    streams.check_not_capturing("an allocation")
    return _allocate(nbytes, kind)


def _allocate(nbytes: int, kind: str) -> int:
    if nbytes <= 0:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"bytesize is {nbytes}: it must be at least 1")
    if _LARGE <= nbytes <= MEMORY.capacity:
        _check_host_has(nbytes)
    try:
        address = MEMORY.allocate(nbytes, "" if kind == DEVICE else kind)
    except (EmulatorError, MemoryError) as error:
        raise DriverError("CUDA_ERROR_OUT_OF_MEMORY", str(error)) from None
    _kinds[address] = kind
    if kind != DEVICE:
        MEMORY.mark_written(address, nbytes)  # the host writes there, which nobody sees
    return address


def allocate_host(nbytes: int, flags: int = 0) -> int:
    """Return the address of new pinned memory, which kernels reach by the same address.

    Raises:
        DriverError: as in `allocate`; CUDA_ERROR_INVALID_VALUE: a flag is unknown.
    """
    if flags & ~_HOST_ALLOC_FLAGS:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"Flags is {flags:#x}: it must be of {_HOST_ALLOC_FLAGS:#x}")
    address = allocate(nbytes, HOST)
    _host_flags[address] = flags | _DEVICEMAP
    return address


_HOST_ALLOC_FLAGS, _DEVICEMAP = 0b111, 2  # portable, mapped, write-combined


def allocate_managed(nbytes: int, flags: int) -> int:
    """Return the address of new managed memory.

    Raises:
        DriverError: as in `allocate`; CUDA_ERROR_INVALID_VALUE: flags is neither 1 (all streams) nor 2 (the host).
    """
    if flags not in (1, 2):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags}: it must be 1 (global) or 2 (host)")
    return allocate(nbytes, MANAGED)


def free(address: int, kinds: tuple[str, ...] = (DEVICE, MANAGED)) -> None:
    """Free an allocation of one of these kinds; 0 is taken, and nothing is done.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: it is no such allocation. While a stream is capturing:
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED.
    """
    if address:
        _check_can_be_freed(address, kinds)
        streams.check_not_capturing("a free")
        _free(address)


def _check_can_be_freed(address: int, kinds: tuple[str, ...]) -> None:
    if _kinds.get(address) not in kinds:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"{address:#x} is no allocation that can be freed so: it is "
                          f"{MEMORY.describe(address)}")  # fmt: skip


def _free(address: int) -> None:
    del _kinds[address]
    _host_flags.pop(address, None)
    MEMORY.free(address)


def allocate_in(stream: int, nbytes: int) -> int:
    """Return the address of new device memory, in the order of a stream: there at once, as the stream's work is done.

    Raises:
        DriverError: as in `allocate`; CUDA_ERROR_NOT_SUPPORTED: the stream is capturing.
    """
    _refuse_nodes(stream, "an allocation")
    return _allocate(nbytes, DEVICE)


def free_in(stream: int, address: int) -> None:
    """Free device memory in the order of a stream: now, as the stream's work is done.

    Raises:
        DriverError: as in `free`; CUDA_ERROR_NOT_SUPPORTED: the stream is capturing.
    """
    _refuse_nodes(stream, "a free")
    if address:
        _check_can_be_freed(address, (DEVICE,))
        _free(address)


def _refuse_nodes(stream: int, what: str) -> None:
    """Refuse what would become a node of a graph that owns memory."""
    if streams.stream(stream).capture is not None:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", f"{what} in a capturing stream: the virtual device's graphs "
                          "own no memory")  # fmt: skip


def owner(address: int) -> Allocation | None:
    """Return the live allocation that an address is in."""
    found = MEMORY.find(address) if ARENA_BASE <= address < ARENA_BASE + MEMORY.capacity else None
    if found is None or found.freed or address >= found.address + max(1, found.nbytes):
        return None
    return found


def kind_of(address: int) -> str:
    """Return what kind of memory an address is in, "" if it is none of the driver's."""
    found = owner(address)
    return "" if found is None else _kinds.get(found.address, DEVICE)


def extent(address: int) -> tuple[int, int]:
    """Return where the allocation that an address is in begins, and its bytes.

    Raises:
        DriverError: CUDA_ERROR_NOT_FOUND.
    """
    found = owner(address)
    if found is None:
        raise DriverError("CUDA_ERROR_NOT_FOUND", f"{address:#x} is {MEMORY.describe(address)}")
    return found.address, found.nbytes


def free_and_total() -> tuple[int, int]:
    """Return the bytes that can still be allocated, and all bytes: the host has as many."""
    total = min(MEMORY.capacity, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(0, total - MEMORY.live_bytes), total


_LARGE = 1 << 28


def _check_host_has(nbytes: int) -> None:
    """Refuse what the host cannot give: new memory is filled, and the system would end the process for it."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found and nbytes > int(found[1]) << 10:
        raise DriverError(
            "CUDA_ERROR_OUT_OF_MEMORY",
            f"the host is out of memory: {nbytes:,} bytes asked for, {int(found[1]) << 10:,} are free",
        )


_REGISTER_FLAGS, _IO_MEMORY, _READ_ONLY = 0b1111, 4, 8


def register(address: int, nbytes: int, flags: int = 0) -> None:
    """Note memory of the host as page-locked; nothing is done to it.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: a null pointer, no bytes, or an unknown flag.
            CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED: a part of it is. CUDA_ERROR_NOT_SUPPORTED: it is to be read-only
            or memory of a device.
    """
    if not address or nbytes <= 0 or flags & ~_REGISTER_FLAGS:
        raise DriverError(
            "CUDA_ERROR_INVALID_VALUE",
            f"p is {address:#x}, bytesize is {nbytes}, Flags is {flags:#x}: p must not be null, bytesize at least 1, "
            f"Flags of {_REGISTER_FLAGS:#x}",
        )
    if flags & (_IO_MEMORY | _READ_ONLY):
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device has no I/O memory and no read-only memory")
    if any(start < address + nbytes and address < start + size for start, size in _registered.items()) or (
        kind_of(address)
    ):
        raise DriverError(
            "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", f"p is {address:#x}: a part of it is pinned already"
        )
    _registered[address] = nbytes
    _host_flags[address] = flags


def unregister(address: int) -> None:
    """Forget that memory of the host was registered.

    Raises:
        DriverError: CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED.
    """
    if _registered.pop(address, None) is None:
        raise DriverError("CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", f"p is {address:#x}: it is not registered")
    del _host_flags[address]


def host_flags(address: int) -> int:
    """Return the flags that pinned memory was allocated or registered with.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: it is no pinned memory.
    """
    found = owner(address)
    start = found.address if found is not None else address
    if start not in _host_flags:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"p is {address:#x}: it is no pinned memory")
    return _host_flags[start]


def device_pointer(address: int) -> int:
    """Return the address by which kernels reach memory of the host: the same.

    Raises:
        DriverError: CUDA_ERROR_NOT_SUPPORTED: the memory was registered, and kernels cannot reach it.
            CUDA_ERROR_INVALID_VALUE: it is no pinned memory.
    """
    if kind_of(address) in (HOST, MANAGED):
        return address
    if any(start <= address < start + size for start, size in _registered.items()):
        raise DriverError(
            "CUDA_ERROR_NOT_SUPPORTED",
            "kernels on the virtual device reach memory that the driver allocated (cuMemHostAlloc, cuMemAllocManaged), "
            "and none that was registered later",
        )
    raise DriverError("CUDA_ERROR_INVALID_VALUE", f"p is {address:#x}: it is no pinned memory")


# --- copies -----------------------------------------------------------------------------------------------------------
def _place(address: int, nbytes: int, name: str) -> int:
    """Return where bytes lie in this process, after a check of those in the arena."""
    if ARENA_BASE <= address < ARENA_BASE + MEMORY.capacity:
        try:
            MEMORY.view(address, nbytes)
        except EmulatorError as error:
            raise DriverError("CUDA_ERROR_INVALID_VALUE", f"{name}: {error}") from None
        return MEMORY.host_base + address - ARENA_BASE
    if not address:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"{name} is a null pointer")
    return address


def is_device(address: int) -> bool:
    """Return True if kernels can reach an address."""
    return ARENA_BASE <= address < ARENA_BASE + MEMORY.capacity


def _copy_now(target: int, source: int, nbytes: int) -> None:
    ctypes.memmove(_place(target, nbytes, "dst"), _place(source, nbytes, "src"), nbytes)
    if is_device(source):
        MEMORY.mark_read(source, nbytes)
    if is_device(target):
        MEMORY.mark_written(target, nbytes)


def check_device(address: int, name: str) -> None:
    """Check that an address is one of the device's, or of pinned memory, that a program may take for one.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: it is none.
    """
    if not is_device(address) and not any(start <= address < start + n for start, n in _registered.items()):
        raise DriverError(
            "CUDA_ERROR_INVALID_VALUE", f"{name} is {address:#x}: it is no address of the device's memory"
        )


def copy(target: int, source: int, nbytes: int, stream: int = 0) -> None:
    """Copy bytes between any two of host memory and device memory.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: they are not in one allocation.
    """
    if nbytes:
        _place(target, nbytes, "dst")
        _place(source, nbytes, "src")
        streams.submit(stream, functools.partial(_copy_now, target, source, nbytes), "copy")


def copy_rows(
    target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int, stream: int = 0
) -> None:
    """Copy `height` rows of `width` bytes; rows begin `target_pitch` and `source_pitch` bytes apart.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: a pitch is below the width, or rows are not in one allocation.
    """
    for name, pitch in (("dst pitch", target_pitch), ("src pitch", source_pitch)):
        if pitch < width and height > 1:
            raise DriverError("CUDA_ERROR_INVALID_VALUE", f"{name} is {pitch}: it must be at least the width, {width}")
    if not width or not height:
        return
    _place(target, (height - 1) * target_pitch + width, "dst")
    _place(source, (height - 1) * source_pitch + width, "src")

    def run() -> None:
        for row in range(height):
            _copy_now(target + row * target_pitch, source + row * source_pitch, width)

    streams.submit(stream, run, "copy")


def fill(address: int, value: int, itemsize: int, count: int, stream: int = 0) -> None:
    """Set `count` items of 1, 2 or 4 bytes to a value.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: they are not in one allocation, or the address is misaligned.
    """
    fill_rows(address, count * itemsize, value, itemsize, count, 1, stream)


def fill_rows(address: int, pitch: int, value: int, itemsize: int, width: int, height: int, stream: int = 0) -> None:
    """Set `height` rows of `width` items each to a value; rows begin `pitch` bytes apart.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: as in `fill`; the pitch is below a row's bytes, or no
            multiple of an item's.
    """
    if address % itemsize:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"dstDevice is {address:#x}: it must be a multiple of {itemsize}")
    if not width or not height:
        return
    if height > 1 and (pitch < width * itemsize or pitch % itemsize):
        raise DriverError(
            "CUDA_ERROR_INVALID_VALUE",
            f"dstPitch is {pitch}: it must be a multiple of {itemsize}, and at least {width * itemsize}",
        )
    check_device(address, "dstDevice")
    nbytes = (height - 1) * pitch + width * itemsize
    _place(address, nbytes, "dstDevice")
    item = np.dtype(f"u{itemsize}").type(value & ((1 << 8 * itemsize) - 1))

    def run() -> None:
        for row in range(height):
            start = address + row * pitch
            MEMORY.view(start, width * itemsize).view(item.dtype)[:] = item
            MEMORY.mark_written(start, width * itemsize)

    streams.submit(stream, run, "memset")
