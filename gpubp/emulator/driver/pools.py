"""Pools of memory that is allocated in the order of streams: what they count. Memory itself is the arena's."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpubp.emulator.driver import allocations
from gpubp.emulator.driver.handles import Handles
from gpubp.emulator.driver.results import DriverError

REUSE = (1, 2, 3)
RELEASE_THRESHOLD, RESERVED, RESERVED_HIGH, USED, USED_HIGH = 4, 5, 6, 7, 8
ALLOCATION_TYPE, LOCATION_ID, LOCATION_TYPE, MAX_SIZE = 9, 11, 12, 13
"""The attributes of a pool, by the numbers of the documentation's enum CUmemPool_attribute."""
LONG = (RELEASE_THRESHOLD, RESERVED, RESERVED_HIGH, USED, USED_HIGH, MAX_SIZE)
"""Those whose values have 64 bits; the others have 32."""
_PINNED_TYPE, _DEVICE_LOCATION = 1, 1


@dataclass(eq=False)
class Pool:
    """A pool: its settings, the addresses that it has given, and the most bytes that were in use at once."""

    settings: dict[int, int]
    addresses: set[int] = field(default_factory=set)
    high: int = 0

    @property
    def used(self) -> int:
        """Return the bytes in use."""
        self.addresses = {each for each in self.addresses if allocations.kind_of(each)}
        return sum(allocations.extent(each)[1] for each in self.addresses)


_pools: Handles[Pool] = Handles("memory pool")


def create(location_type: int = _DEVICE_LOCATION, location: int = 0, most: int = 0) -> int:
    """Return the handle of a new pool.

    Args:
        location_type: 1, the device.
        location: its number.
        most: bytes that the pool may give at once; 0 sets no bound.

    Raises:
        DriverError: CUDA_ERROR_INVALID_DEVICE: the number is not 0. CUDA_ERROR_NOT_SUPPORTED: the memory is not to lie
            on the device.
    """
    if location_type != _DEVICE_LOCATION:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device has pools of device memory alone")
    if location:
        raise DriverError("CUDA_ERROR_INVALID_DEVICE", f"location.id is {location}: there is one device, number 0")
    settings = {
        **dict.fromkeys(REUSE, 1),
        RELEASE_THRESHOLD: 0,
        ALLOCATION_TYPE: _PINNED_TYPE,
        LOCATION_ID: location,
        LOCATION_TYPE: location_type,
        MAX_SIZE: most,
    }
    return _pools.add(Pool(settings))


DEFAULT = create()
_current = [DEFAULT]


def destroy(handle: int) -> None:
    """Forget a pool; its memory stays until it is freed.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: it is the default pool.
    """
    if handle == DEFAULT:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", "pool is the default pool of the device")
    _pools.remove(handle)
    if _current[0] == handle:
        _current[0] = DEFAULT


def current() -> int:
    """Return the handle of the pool that allocations without a pool come from."""
    return _current[0]


def set_current(handle: int) -> None:
    """Let allocations without a pool come from this one."""
    _pools[handle]
    _current[0] = handle


def allocate(handle: int, nbytes: int, stream: int) -> int:
    """Return the address of new memory of a pool; see `allocations.allocate_in`.

    Raises:
        DriverError: CUDA_ERROR_OUT_OF_MEMORY: the pool may not give as much.
    """
    pool = _pools[handle]
    most, used = pool.settings[MAX_SIZE], pool.used
    if most and used + nbytes > most:
        raise DriverError("CUDA_ERROR_OUT_OF_MEMORY", f"{nbytes} bytes: the pool gives {most}, and {used} are in use")
    address = allocations.allocate_in(stream, nbytes)
    pool.addresses.add(address)
    pool.high = max(pool.high, used + nbytes)
    return address


def attribute(handle: int, number: int) -> int:
    """Return an attribute of a pool. It reserves what is in use, and no more.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: there is no such attribute.
    """
    pool = _pools[handle]
    if number in (RESERVED, USED):
        return pool.used
    if number in (RESERVED_HIGH, USED_HIGH):
        return pool.high
    if number not in pool.settings:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"attr is {number}: a pool has no such attribute")
    return pool.settings[number]


def set_attribute(handle: int, number: int, value: int) -> None:
    """Set an attribute of a pool; the high marks can be set to 0, which makes them what is in use now.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: it cannot be set, or not to this.
    """
    pool = _pools[handle]
    if number in (RESERVED_HIGH, USED_HIGH) and value == 0:
        pool.high = pool.used
    elif number in (*REUSE, RELEASE_THRESHOLD):
        pool.settings[number] = value
    else:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"attr is {number}: it cannot be set to {value}")
