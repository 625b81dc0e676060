"""Which memory is defined, and where undefined values come from and go: what all kernels of an observer share.

Memory that nothing has written is undefined. Copies carry that along (tracking.py), and only a use is reported: an
address, a branch, an atomic, printed text, and a result that the host may see. Such a result is a number computed from
undefined bits and stored in global memory, or a value without any defined bit that comes from where the host cannot
write: shared memory, local memory, a variable. A value in part undefined that is only copied is taken for a struct with
padding. A copy of global memory, which the host may have written in part, is reported when the host reads the copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpubp.emulator.device.memory import ARENA_BASE, GRANULE, MEMORY, POISON, sparse_grown
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.observe import shadow
from gpubp.emulator.program.ptx import Instruction, Location

UNWRITTEN, PENDING = "uninitialised read", "missing wait"

Report = Callable[[Machine | None, str, str, "Location | str", Callable[[], str]], None]
"""Called with the machine, the kind of finding, the kernel, the place, and what returns the message."""


@dataclass(frozen=True)
class Origin:
    """Where undefined bits come from: a read of memory, or a register that nothing has written (`read` is None).

    `computed` is the first instruction that computed a number from them, `share` how many bytes of its operand were
    undefined, and of how many; `stored` the instruction of `kernel` that copied the value to global memory.
    """

    space: str = ""
    read: Instruction | None = None
    place: str = ""
    computed: Instruction | None = None
    share: tuple[int, int] = (0, 0)
    stored: Instruction | None = None
    kernel: str = ""

    def describe(self, share: tuple[int, int], use: Instruction) -> str:
        """Return a text that says what is undefined; `use` is the instruction whose line the reader knows."""
        undefined, size = share
        what = f"{self.space} memory" if self.space else "a variable"
        text = f"{undefined} of {size} bytes of {what} that nothing has written"
        details = []
        if self.read is not None and self.read.location is not None and self.read.location != use.location:
            details.append(f"read at {self.read.location}")
        if self.place:
            details.append(self.place)
        return f"{text} ({', '.join(details)})" if details else text


class Definedness:
    """The shadow of global memory, and the origins of undefined values.

    Args:
        report: called for each finding.
        follows: follow undefined values; if not, only asynchronous copies that nobody has waited for are known.
    """

    def __init__(self, report: Report, follows: bool) -> None:
        self.report = report
        self.follows = follows
        self.origins: list[Origin] = [Origin()]  # 0: not read yet
        self._numbers: dict[tuple[Any, ...], int] = {}
        self.states = np.zeros(0, np.uint8)
        self.sources = np.zeros(0, np.int32)  # the origin of each word that has undefined bits
        if follows:
            self._note_present_memory()

    def release(self) -> None:
        """Let go of the shadow."""
        self.states = np.zeros(0, np.uint8)
        self.sources = np.zeros(0, np.int32)

    # -- origins ------------------------------------------------------------------------------------------------------

    def number(self, origin: Origin) -> int:
        """Return the number of an origin, the same for those that differ in details of the first time only."""
        key = (origin.space, id(origin.read), id(origin.computed), id(origin.stored))
        if key not in self._numbers:
            self._numbers[key] = len(self.origins)
            self.origins.append(origin)
        return self._numbers[key]

    def computed(self, number: int, instruction: Instruction, share: Callable[[], tuple[int, int]]) -> int:
        """Return the origin of what an instruction computes from a value."""
        origin = self.origins[number]
        if origin.computed is not None:
            return number
        return self.number(replace(origin, computed=instruction, share=share(), stored=None, kernel=""))

    def are_computed(self) -> Array:
        """Return by number which origins are those of computed values."""
        return np.array([origin.computed is not None for origin in self.origins])

    def stored(self, number: int, instruction: Instruction, kernel: str) -> int:
        """Return the origin of a value that a kernel has copied to global memory."""
        return self.number(replace(self.origins[number], stored=instruction, kernel=kernel))

    # -- global memory ------------------------------------------------------------------------------------------------

    def _note_present_memory(self) -> None:
        self.cover(MEMORY.extent)
        for allocation in MEMORY.allocations():
            data = MEMORY.view(allocation.address, allocation.nbytes)
            start = allocation.address - ARENA_BASE
            states = self.states[start : start + allocation.nbytes]
            # By words: a halfword of the pattern is common in random data, a whole word of it is a NaN that no one
            # makes.
            words = allocation.nbytes // 4
            pattern = np.full(2, POISON, np.uint16)
            written = data[: 4 * words].view(np.uint32) != pattern.view(np.uint32)[0]
            np.multiply(written, np.uint32(shadow.DEFINED * 0x01010101), out=states[: 4 * words].view(np.uint32))
            rest = data[4 * words :]
            states[4 * words :] = shadow.DEFINED if (rest != pattern.view(np.uint8)[: rest.size]).any() else 0

    def cover(self, extent: int) -> None:
        """Make the shadow of global memory reach this far."""
        if self.states.size >= extent:
            return
        size = -(-2 * extent // GRANULE) * GRANULE
        for name, kept, count in (("states", self.states, size), ("sources", self.sources, size // 4)):
            setattr(self, name, sparse_grown(kept, count))

    def memory_changed(self, address: int, nbytes: int, written: bool) -> None:
        """The host wrote memory, or allocated it afresh."""
        start = address - ARENA_BASE
        self.cover(start + nbytes)
        self.states[start : start + nbytes] = shadow.DEFINED if written else shadow.UNWRITTEN
        if not written:
            self.sources[start // 4 : -(-(start + nbytes) // 4)] = 0

    def host_reads(self, address: int, nbytes: int) -> None:
        """The host reads memory: report what kernels have copied there without its being defined."""
        start = address - ARENA_BASE
        self.cover(start + nbytes)
        undefined = np.flatnonzero(self.states[start : start + nbytes] != shadow.DEFINED)
        numbers = self.sources[(start + undefined) // 4]
        for number in np.unique(numbers):
            origin = self.origins[number]
            store = origin.stored
            if store is None:
                continue
            share = (int(np.count_nonzero(numbers == number)), nbytes)

            def message(origin: Origin = origin, store: Instruction = store, share: tuple[int, int] = share) -> str:
                place = store.location or f"`{store.text}`"
                return (
                    f"kernel {origin.kernel}, {place} stores what the host then reads: {origin.describe(share, store)}"
                )

            self.report(None, UNWRITTEN, origin.kernel, store.location or store.text, message)
