"""Pools of memory that streams allocate from. Freed memory is given back at once: a pool holds none for later."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from gpubp.emulator.driver import allocations, streams
from gpubp.emulator.driver.handles import Handles
from gpubp.emulator.driver.results import DriverError

RESERVED, RESERVED_HIGH, USED, USED_HIGH = 5, 6, 7, 8
"""The attributes that a pool counts, in bytes, by the numbers of the documentation's enum CUmemPool_attribute."""


@dataclass(eq=False)
class Pool:
    """What was set for a pool, the bytes in use, and the most that ever were."""

    settings: dict[int, int] = field(default_factory=lambda: {1: 1, 2: 1, 3: 1})  # memory may be used again
    used: int = 0
    most: int = 0

    def take(self, nbytes: int) -> None:
        """Count bytes that are in use from now on; less than 0 if they were freed."""
        self.used += nbytes
        self.most = max(self.most, self.used)


_pools: Handles[Pool] = Handles("memory pool")
DEFAULT = _pools.add(Pool())
"""The handle of the pool that the device has from the start."""
_current = [DEFAULT]


def create() -> int:
    """Return the handle of a new pool."""
    return _pools.add(Pool())


def pool(handle: int) -> Pool:
    """Return the pool of a handle.

    Raises:
        DriverError: CUDA_ERROR_INVALID_HANDLE.
    """
    return _pools[handle]


def destroy(handle: int) -> None:
    """Forget a pool; what was allocated from it stays.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: it is the device's own.
    """
    if handle == DEFAULT:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", "pool is the device's default pool: it cannot be destroyed")
    _pools.remove(handle)
    if _current[0] == handle:
        _current[0] = DEFAULT


def current() -> int:
    """Return the handle of the pool that allocations in streams take memory from."""
    return _current[0]


def set_current(handle: int) -> None:
    """Let allocations in streams take memory from a pool."""
    pool(handle)
    _current[0] = handle


def allocate(nbytes: int, handle: int, stream: int) -> int:
    """Return the address of new memory of a pool."""
    target = pool(handle)
    streams.stream(stream)
    address = allocations.allocate(nbytes, when_freed=functools.partial(target.take, -nbytes))
    target.take(nbytes)
    return address


def attribute(handle: int, number: int) -> int:
    """Return an attribute of a pool, by the numbers of CUmemPool_attribute; 0 if it was not set."""
    found = pool(handle)
    if number in (RESERVED, USED):
        return found.used
    if number in (RESERVED_HIGH, USED_HIGH):
        return found.most
    return found.settings.get(number, 0)


def set_attribute(handle: int, number: int, value: int) -> None:
    """Set an attribute of a pool; the two greatest numbers of bytes can only be set to 0, to count anew.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: it cannot be set, or not to this.
    """
    found = pool(handle)
    if number in (RESERVED_HIGH, USED_HIGH):
        if value:
            raise DriverError("CUDA_ERROR_INVALID_VALUE", f"value is {value}: this attribute can only be set to 0")
        found.most = found.used
    elif number in (RESERVED, USED):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"attr is {number}: it cannot be set")
    else:
        found.settings[number] = value
