"""The memory of the emulated device: an arena for global and constant memory, and the layout of a block's own memories.

The arena is one range of reserved address space, of which only touched pages cost memory. It lies at the addresses that
programs see, if the process has those free: then a device pointer is a host pointer too. Every 256-byte granule has a
count of its valid bytes, so one look-up checks an access; the rest of an allocation's last granule and the granules
between two allocations are red zones. Freed ranges stay invalid for as long as fresh address space lasts.
"""

from __future__ import annotations

import bisect
import ctypes
import math
import mmap
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpubp.emulator.errors import EmulatorError, MemoryAccessError
from gpubp.emulator.program.ptx import Variable

#: The halfword that fresh memory is filled with: a NaN in float16, bfloat16, float32 and float64.
POISON = 0xFFF5

GRANULE_BITS = 8
GRANULE = 1 << GRANULE_BITS

#: Where the spaces begin in the generic address space. The low 32 bits of a generic shared or local address are the
#: address within the window, as on a GPU.
CODE_BASE = 0x0000_0001_0000_0000
ARENA_BASE = 0x0000_0007_0000_0000
SHARED_WINDOW = 0x0000_7F00_0000_0000
LOCAL_WINDOW = 0x0000_7F01_0000_0000


_FUNCTION_BYTES = 256
_functions: list[str] = []


def function_address(name: str) -> int:
    """Return an address for one more device function: it is there to be called, and no memory is behind it."""
    _functions.append(name)
    return CODE_BASE + _FUNCTION_BYTES * (len(_functions) - 1)


def function_at(address: int) -> str:
    """Return the name of the function that has an address, "" if none has."""
    index, rest = divmod(address - CODE_BASE, _FUNCTION_BYTES)
    return _functions[index] if 0 <= index < len(_functions) and not rest else ""


@dataclass
class Allocation:
    """`nbytes` bytes at `address`."""

    address: int
    nbytes: int
    name: str
    freed: bool = False
    internal: bool = False  # the emulator's own, which no message should speak of
    freed_at: str = ""  # the line of the kernel that freed it

    def __str__(self) -> str:
        what = self.name or "an allocation"
        return f"{what} of {self.nbytes:,} bytes at {self.address:#x}"


class DeviceMemory:
    """Global memory: allocation, freeing, host views, and what lies where."""

    def __init__(self, reserve: int = 1 << 36) -> None:
        self.host_base, self.capacity = _reserve(reserve, ARENA_BASE)
        self.bytes = _array_at(self.host_base, self.capacity)
        table, nbytes = _reserve(self.capacity // GRANULE * 2)
        #: Valid bytes of each granule, from its start.
        self.valid = _array_at(table, nbytes).view(np.uint16)
        self._next = GRANULE
        self._limit = self.capacity
        self._starts: list[int] = []
        self._allocations: dict[int, Allocation] = {}
        self.live_bytes = 0
        # Threads take turns. One may come in twice: Python may look for garbage meanwhile, and free what it finds.
        self._turn = threading.RLock()
        #: Set by the observer of uninitialised reads: called with (address, nbytes, written).
        self.watcher: Callable[[int, int, bool], None] | None = None
        #: Set by the same observer: called with (address, nbytes) of what the host reads.
        self.reader: Callable[[int, int], None] | None = None

    def allocate(self, nbytes: int, name: str = "", internal: bool = False) -> int:
        """Return the address of `nbytes` new bytes, aligned to 256 and poisoned.

        Raises:
            EmulatorError: the memory is full.
        """
        if nbytes < 0:
            raise EmulatorError(f"nbytes is {nbytes}; it must not be negative")
        with self._turn:
            return self._allocate(nbytes, name, internal)

    def _allocate(self, nbytes: int, name: str, internal: bool) -> int:
        granules = max(1, -(-nbytes // GRANULE)) + 1  # one granule of red zone
        if self._next + granules * GRANULE > self._limit:
            self._recycle(granules * GRANULE)
        offset = self._next
        self._next += granules * GRANULE
        address = ARENA_BASE + offset
        first, whole, rest = offset >> GRANULE_BITS, nbytes // GRANULE, nbytes % GRANULE
        self.valid[first : first + whole] = GRANULE
        self.valid[first + whole] = rest
        self.bytes[offset : offset + nbytes + (nbytes & 1)].view(np.uint16)[:] = POISON
        allocation = Allocation(address, nbytes, name, internal=internal)
        bisect.insort(self._starts, address)
        self._allocations[address] = allocation
        self.live_bytes += nbytes
        if self.watcher is not None:
            self.watcher(address, nbytes, False)
        return address

    def free(self, address: int, where: str = "") -> None:
        """Free an allocation; any later access to it is an error, which says `where` it was freed."""
        with self._turn:
            self._free(address, where)

    def _free(self, address: int, where: str) -> None:
        allocation = self._allocations.get(address)
        if allocation is None or allocation.freed:
            raise EmulatorError(f"address {address:#x} is not that of a live allocation: it cannot be freed")
        allocation.freed = True
        allocation.freed_at = where
        self.live_bytes -= allocation.nbytes
        offset = address - ARENA_BASE
        granules = max(1, -(-allocation.nbytes // GRANULE))
        self.valid[offset >> GRANULE_BITS : (offset >> GRANULE_BITS) + granules] = 0
        page = mmap.PAGESIZE
        first, last = -(-offset // page) * page, (offset + allocation.nbytes) // page * page
        if last > first:
            _libc.madvise(self.host_base + first, last - first, mmap.MADV_DONTNEED)

    def view(self, address: int, nbytes: int) -> np.ndarray:
        """Return the bytes at an address as a writable uint8 array, without a copy.

        Raises:
            MemoryAccessError: they are not inside one allocation.
        """
        allocation = self.find(address)
        if allocation is None or allocation.freed or address + nbytes > allocation.address + allocation.nbytes:
            raise MemoryAccessError(f"host access to {nbytes:,} bytes at {address:#x}: {self.describe(address)}")
        offset = address - ARENA_BASE
        return self.bytes[offset : offset + nbytes]

    def mark_written(self, address: int, nbytes: int) -> None:
        """Tell the observer of uninitialised reads that the host wrote these bytes."""
        if self.watcher is not None:
            self.watcher(address, nbytes, True)

    def mark_read(self, address: int, nbytes: int) -> None:
        """Tell the observer of uninitialised reads that the host reads these bytes."""
        if self.reader is not None:
            self.reader(address, nbytes)

    def find(self, address: int) -> Allocation | None:
        """Return the last allocation, live or freed, that begins at or before an address."""
        index = bisect.bisect_right(self._starts, address) - 1
        return self._allocations[self._starts[index]] if index >= 0 else None

    @property
    def extent(self) -> int:
        """Return the bytes of the arena up to the end of its last allocation."""
        last = self._allocations[self._starts[-1]] if self._starts else Allocation(ARENA_BASE, 0, "")
        end = last.address + last.nbytes
        return -(-(end - ARENA_BASE) // GRANULE) * GRANULE + GRANULE

    def allocations(self) -> list[Allocation]:
        """Return the live allocations, by address."""
        return [self._allocations[start] for start in self._starts if not self._allocations[start].freed]

    def describe(self, address: int) -> str:
        """Return a text that says where an address is."""
        if address < GRANULE:
            return "a null pointer"
        if function_at(address):
            return f"the function {function_at(address)}"
        allocation = self._neighbour(address, -1)
        if allocation is None or address >= ARENA_BASE + self.capacity:
            return "outside every allocation"
        distance = address - allocation.address
        if allocation.freed and distance < allocation.nbytes:
            return f"inside {allocation}, which was freed{_at(allocation)}"
        if distance < allocation.nbytes:
            return f"{distance:,} bytes into {allocation}"
        following = self._neighbour(address, 1)
        behind = f"{distance - allocation.nbytes:,} bytes past the end of {allocation}"
        if following is not None and following.address - address <= distance - allocation.nbytes:
            return f"{following.address - address:,} bytes before the start of {following}"
        return behind + (f", which was freed{_at(allocation)}" if allocation.freed else "")

    def _neighbour(self, address: int, step: int) -> Allocation | None:
        """Return the user's nearest allocation that begins at or before an address (step -1) or after it (step 1)."""
        index = bisect.bisect_right(self._starts, address) + (-1 if step < 0 else 0)
        while 0 <= index < len(self._starts):
            allocation = self._allocations[self._starts[index]]
            if not allocation.internal:
                return allocation
            index += step
        return None

    def _recycle(self, nbytes: int) -> None:
        """Forget freed allocations and go on in the lowest gap between live ones that is wide enough."""
        live = self.allocations()
        self._allocations = {allocation.address: allocation for allocation in live}
        self._starts = sorted(self._allocations)
        start = GRANULE
        for allocation in [*live, Allocation(ARENA_BASE + self.capacity, 0, "")]:
            end = allocation.address - ARENA_BASE
            if end - start >= nbytes:
                self._next, self._limit = start, end
                return
            start = end + (max(1, -(-allocation.nbytes // GRANULE)) + 1) * GRANULE
        raise EmulatorError(
            f"the emulated device is out of memory: {nbytes:,} bytes asked for, {self.live_bytes:,} in use of "
            f"{self.capacity:,} bytes of address space"
        )


def _at(allocation: Allocation) -> str:
    return f" at {allocation.freed_at}" if allocation.freed_at else ""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_NO_RESERVE, _FIXED_NO_REPLACE = (0x4000, 0x100000) if sys.platform == "linux" else (0, 0)
_FAILED = ctypes.c_void_p(-1).value
_COPIED_AT_ONCE = 1 << 16  # bytes


def _reserve(nbytes: int, wanted: int = 0) -> tuple[int, int]:
    """Return where zeroed address space begins, which costs memory only where it is touched, and its bytes.

    There are fewer than `nbytes` if the system gives less. It begins at `wanted` if that is free.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    while True:
        for address, fixed in ((wanted, _FIXED_NO_REPLACE), (0, 0)) if wanted else ((0, 0),):
            found = _libc.mmap(address, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, flags | fixed, -1, 0)
            if found not in (_FAILED, None):
                return found, nbytes
        if nbytes <= 1 << 28:
            raise OSError(ctypes.get_errno(), f"the system gives no {nbytes:,} bytes of address space")
        nbytes //= 2


def sparse_zeros(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """Return an array of zeros that costs memory only where it is touched, and may be larger than the memory."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    return np.frombuffer(pages, dtype).reshape(shape)


def sparse_grown(kept: np.ndarray, rows: int) -> np.ndarray:
    """Return `sparse_zeros` of this many rows with what an array holds, whose rows of zeros still cost no memory."""
    grown = sparse_zeros((rows, *kept.shape[1:]), kept.dtype.type)
    at_once = max(1, _COPIED_AT_ONCE // max(1, kept[:1].nbytes))
    for first in range(0, len(kept), at_once):
        some = kept[first : first + at_once]
        if some.any():
            grown[first : first + len(some)] = some
    return grown


def _array_at(address: int, nbytes: int) -> np.ndarray:
    """Return the bytes at an address of this process as an array."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


#: Global memory of the one emulated device of this process.
MEMORY = DeviceMemory()


# -- memories of a block and of a thread ------------------------------------------------------------------------------

#: Granules of shared and local memory, for the table of valid bytes.
WINDOW_GRANULE_BITS = 4
_RED_ZONE = 16
_BANKS_PERIOD = 128


@dataclass(frozen=True)
class SpaceLayout:
    """Addresses of the variables of one window (shared or local memory), with red zones between them.

    `nbytes` is what the variables take on a GPU; `extent` what they take here. A variable keeps its address modulo 128,
    so it lies in the same banks as on a GPU.
    """

    addresses: dict[str, int]
    nbytes: int
    extent: int
    valid: np.ndarray
    names: tuple[tuple[int, int, str], ...]  # start, nbytes, name
    dynamic_bytes: int = 0

    def describe(self, address: int) -> str:
        """Return a text that says where an address of this window is."""
        below = [entry for entry in self.names if entry[0] <= address]
        if not below:
            return "outside every variable"
        start, nbytes, name = below[-1]
        if address < start + nbytes:
            return f"{address - start:,} bytes into {name} of {nbytes:,} bytes"
        return f"{address - start - nbytes:,} bytes past the end of {name} of {nbytes:,} bytes"


RESERVED = "memory reserved for CUDA's own use"
RESERVED_BYTES = 1024
"""What a block has of it: multiprocessors keep so much shared memory for each, from sm_80 on."""


def layout(
    variables: Sequence[Variable],
    dynamic: Sequence[Variable] = (),
    dynamic_bytes: int = 0,
    reserved: bool = False,
    period: int = _BANKS_PERIOD,
) -> SpaceLayout:
    """Return the layout of variables in order; all `dynamic` ones begin at the same place behind the others.

    They keep their addresses modulo `period`, and modulo their own alignment. `reserved`: the shared memory that
    cooperative groups use lies behind all; it is no part of the block's.
    """
    addresses: dict[str, int] = {}
    entries: list[tuple[int, int, str]] = []
    real = here = 0
    for variable in variables:
        real = _align(real, variable.align)
        here = _congruent(here, real, max(period, variable.align))
        addresses[variable.name] = here
        entries.append((here, variable.nbytes, variable.name))
        real += variable.nbytes
        here += variable.nbytes + _RED_ZONE
    nbytes = real
    if dynamic or dynamic_bytes:
        align = max([16, *(variable.align for variable in dynamic)])
        real = _align(real, align)
        here = _congruent(here, real, max(period, align))
        addresses.update((variable.name, here) for variable in dynamic)
        entries.append((here, dynamic_bytes, dynamic[0].name if dynamic else "dynamic shared memory"))
        here += dynamic_bytes + _RED_ZONE
        nbytes = real + dynamic_bytes
    if reserved:
        here = _congruent(here, 0, period)
        addresses[RESERVED] = here
        entries.append((here, RESERVED_BYTES, RESERVED))
        here += RESERVED_BYTES + _RED_ZONE
    extent = _align(here, 1 << WINDOW_GRANULE_BITS)
    valid = np.zeros((extent >> WINDOW_GRANULE_BITS) + 1, np.uint16)
    granule = 1 << WINDOW_GRANULE_BITS
    for start, size, _ in entries:
        end = start + size
        valid[start >> WINDOW_GRANULE_BITS : end >> WINDOW_GRANULE_BITS] = granule
        if size and end % granule:
            valid[end >> WINDOW_GRANULE_BITS] = end % granule
    return SpaceLayout(addresses, nbytes, extent, valid, tuple(entries), dynamic_bytes)


def _align(address: int, align: int) -> int:
    return -(-address // align) * align


def _congruent(here: int, real: int, period: int) -> int:
    """Return the least address from `here` on that equals `real` modulo `period`."""
    return here + (real - here) % period
