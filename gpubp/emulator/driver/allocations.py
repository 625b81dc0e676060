"""The driver's memory: allocations, copies, fills, and what is known of an address.

Device, managed and pinned memory are all of the emulator's arena, at addresses that the host can use as well.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import numpy as np

from gpubp.emulator.device.memory import ARENA_BASE, MEMORY, Allocation
from gpubp.emulator.driver import streams
from gpubp.emulator.driver.results import DriverError
from gpubp.emulator.errors import EmulatorError

DEVICE, HOST, MANAGED = "device memory", "pinned memory", "managed memory"
"""The kinds of allocations, as messages call them."""

_kinds: dict[int, str] = {}
_when_freed: dict[int, Callable[[], None]] = {}
_registered: dict[int, int] = {}


def allocate(nbytes: int, kind: str = DEVICE, when_freed: Callable[[], None] | None = None) -> int:
    """Return the address of new memory; `when_freed` is called when it is freed.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: nbytes is 0. CUDA_ERROR_OUT_OF_MEMORY. While a stream is capturing:
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED.
    """
    if nbytes <= 0:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"bytesize is {nbytes}: it must be at least 1")
    streams.check_not_capturing("an allocation")
    try:
        address = MEMORY.allocate(nbytes, "" if kind == DEVICE else kind)
    except (EmulatorError, MemoryError) as error:
        raise DriverError("CUDA_ERROR_OUT_OF_MEMORY", str(error)) from None
    _kinds[address] = kind
    if when_freed is not None:
        _when_freed[address] = when_freed
    if kind != DEVICE:
        MEMORY.mark_written(address, nbytes)  # the host writes there, which nobody sees
    return address


def free(address: int, kinds: tuple[str, ...] = (DEVICE, MANAGED)) -> None:
    """Free an allocation of one of these kinds; 0 is taken, and nothing is done.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: it is no such allocation.
    """
    if not address:
        return
    if _kinds.get(address) not in kinds:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"{address:#x} is no allocation that can be freed so: it is "
                          f"{MEMORY.describe(address)}")  # fmt: skip
    del _kinds[address]
    MEMORY.free(address)
    if address in _when_freed:
        _when_freed.pop(address)()


def owner(address: int) -> Allocation | None:
    """Return the live allocation that an address is in."""
    found = MEMORY.find(address) if is_device(address) else None
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
    """Return the bytes that can still be allocated, and all bytes."""
    return MEMORY.capacity - MEMORY.live_bytes, MEMORY.capacity


def register(address: int, nbytes: int) -> None:
    """Note memory of the host as page-locked; nothing is done to it."""
    if address in _registered or not address or nbytes <= 0:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"p is {address:#x}: null, or registered already")
    _registered[address] = nbytes


def unregister(address: int) -> None:
    """Forget that memory of the host was registered."""
    if _registered.pop(address, None) is None:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"p is {address:#x}: it is not registered")


def device_pointer(address: int) -> int:
    """Return the address by which kernels reach memory of the host: the same.

    Raises:
        DriverError: the memory was not allocated by the driver, so kernels cannot reach it.
    """
    if owner(address) is None:
        raise DriverError(
            "CUDA_ERROR_NOT_SUPPORTED",
            "kernels on the virtual device reach memory that the driver allocated (cuMemHostAlloc, cuMemAllocManaged), "
            "and none that was registered later",
        )
    return address


# --- copies -----------------------------------------------------------------------------------------------------------
def _place(address: int, nbytes: int, name: str) -> int:
    """Return where bytes lie in this process, after a check of those in the arena."""
    if is_device(address):
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
    """Set `height` rows of `width` items each to a value; rows begin `pitch` bytes apart."""
    if address % itemsize:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"dstDevice is {address:#x}: it must be a multiple of {itemsize}")
    if not width or not height:
        return
    nbytes = (height - 1) * pitch + width * itemsize
    _place(address, nbytes, "dstDevice")
    item = np.dtype(f"u{itemsize}").type(value & ((1 << 8 * itemsize) - 1))

    def run() -> None:
        for row in range(height):
            start = address + row * pitch
            MEMORY.view(start, width * itemsize).view(item.dtype)[:] = item
            MEMORY.mark_written(start, width * itemsize)

    streams.submit(stream, run, "memset")
