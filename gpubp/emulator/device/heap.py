"""The device heap: malloc, free, new and delete in kernels.

A block is an allocation of global memory, so accesses to it are checked like any other. It lives until a kernel frees
it, across launches too.
"""

from __future__ import annotations

from gpubp.emulator import limits
from gpubp.emulator.device.memory import GRANULE, MEMORY
from gpubp.emulator.errors import MemoryAccessError

_UNIT = 16
"""Blocks take multiples of this from the heap."""


class Heap:
    """The blocks that kernels have allocated and not yet freed.

    Attributes:
        used: bytes in use of those that `limits(heap=...)` gives.
    """

    def __init__(self) -> None:
        self.used = 0
        self._blocks: dict[int, int] = {}  # address -> bytes

    def allocate(self, nbytes: int, align: int, where: str) -> int:
        """Return the address of a new block, or 0 if the heap has no room for it.

        Args:
            nbytes: may be 0; such a block is there to be freed.
            align: up to 256; as on a GPU, a block is aligned to 16 bytes at least.
            where: the line that asks, for messages.

        Raises:
            ValueError: `align` is above 256, or no power of two.
        """
        if align > GRANULE or align & (align - 1):
            raise ValueError(f"an alignment of {align} bytes: it must be a power of two, {GRANULE} at most")
        taken = _taken(nbytes)
        if self.used + taken > limits.current().heap:
            return 0
        address = MEMORY.allocate(nbytes, f"a block of malloc or new ({where})")
        self._blocks[address] = nbytes
        self.used += taken
        return address

    def free(self, address: int, where: str) -> int:
        """Free a block, and return its size in bytes; nothing for a null pointer.

        Raises:
            MemoryAccessError: the address is not that of a block that a kernel allocated and has not freed.
        """
        if address == 0:
            return 0
        if address not in self._blocks:
            found = MEMORY.find(address)
            again = found is not None and found.freed and found.address == address
            what = "double free" if again else "invalid free"
            raise MemoryAccessError(f"{what}: the pointer {address:#x} is {MEMORY.describe(address)}")
        nbytes = self._blocks.pop(address)
        self.used -= _taken(nbytes)
        MEMORY.free(address, where)
        return nbytes


def _taken(nbytes: int) -> int:
    return max(_UNIT, -(-nbytes // _UNIT) * _UNIT)


HEAP = Heap()
"""The heap of the one emulated device of this process."""
