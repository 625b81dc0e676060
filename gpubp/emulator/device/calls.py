"""Calls that are not inlined: recursion, function pointers, virtual functions.

Each lane has a stack of frames in its local memory, behind the kernel's own variables: the parameters, results and
local variables of the functions that it is in. Beside it lies, by lanes, what callers need again: their registers, and
which call to come back from. Where lanes are in their stacks differs, so the valid bytes of local memory are a table by
lanes here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gpubp.emulator import limits
from gpubp.emulator.device import native
from gpubp.emulator.device.memory import MEMORY, POISON, WINDOW_GRANULE_BITS, SpaceLayout, function_at, layout
from gpubp.emulator.device.state import Active, Array, Machine
from gpubp.emulator.errors import CallError
from gpubp.emulator.program.inlining import KERNEL, Call, Section
from gpubp.emulator.program.names import readable
from gpubp.emulator.program.ptx import Instruction, Register, Signature, Symbol
from gpubp.emulator.program.registers import Slot

_RETURN_BYTES = 8
_CHAIN = 3
"""Calls that a message tells, repeated ones once."""

Target = tuple[int, Array, int]  # the block where lanes go on, the lanes, and their number


class _Site(NamedTuple):
    """A call of the program, bound to a machine.

    Attributes:
        slots: the registers to save.
        saved: their arrays, and each one's place in the record.
        record: bytes of a record, whose last 8 say which site it is, and which section was called.
        extent: from the caller's frame to that of the function.
    """

    number: int
    call: Call
    resume: int
    slots: list[Slot]
    saved: list[tuple[Array, int]]
    record: int
    extent: int


class Calls:
    """The stacks of a machine's lanes.

    Args:
        machine: whose lanes call; its local memory gets room for the frames.
        frames: of each section of the program, its variables.
        saved: of each block that ends by a call, the registers to save.
        symbols: addresses of functions, and of other things.
    """

    def __init__(
        self,
        machine: Machine,
        frames: dict[str, SpaceLayout],
        saved: dict[int, list[str]],
        symbols: dict[str, int],
    ) -> None:
        self.machine = machine
        self.frames = frames
        self.offsets = {name: offset for frame in frames.values() for name, offset in frame.addresses.items()}
        self.section_at = {symbols[name]: section for name, section in machine.program.sections.items()}
        self._symbols = symbols
        self._registers = saved
        self._sections = list(machine.program.sections.values())
        self._own_bytes = {
            name: layout([v for v in section.variables.values() if v.space == "local"]).nbytes
            for name, section in machine.program.sections.items()
        }
        self._sites: list[_Site] = []
        self._site_of: dict[int, _Site] = {}
        aligned = [v.align for section in self._sections for v in section.variables.values()]
        self._period = max([1 << WINDOW_GRANULE_BITS, *aligned])  # frames begin at multiples of this
        self._first = self._rounded(machine.local_layout.extent)
        lanes = machine.lanes
        self.frame = np.zeros(lanes, np.uint64)
        """The address of each lane's frame in local memory; 0 in the kernel itself."""
        self.valid = np.zeros((lanes, 0), np.uint16)
        """The valid bytes of each granule of local memory, by lanes."""
        self._used = np.zeros(lanes, np.int64)  # bytes of the stack, by CUDA's count
        self._records = np.zeros((lanes, 256), np.uint8)
        self._top = np.zeros(lanes, np.int64)
        self._grow_local(self._first + 2 * max((frame.extent for frame in frames.values()), default=0))

    def begin(self) -> None:
        """Forget all frames."""
        self.frame[:] = 0
        self.valid[:, self._first >> WINDOW_GRANULE_BITS :] = 0
        self._top[:] = 0
        self._used[:] = 0

    def state(self) -> list[Array]:
        """Return copies of where the lanes are in their stacks, and of what their callers know."""
        return [self.frame.copy(), self._top.copy(), self._records[:, : int(self._top.max())].copy()]

    def offset(self, name: str, lanes: Array) -> Array:
        """Return the addresses in local memory of a parameter or local variable, by lanes."""
        if name in self.offsets:
            return self.frame[lanes].astype(np.int64) + self.offsets[name]
        return np.full(lanes.size, self.machine.local_layout.addresses[name])

    # -- calling ------------------------------------------------------------------------------------------------------

    def enter(self, position: int, call: Call, active: Active) -> list[Target]:
        """Let the active lanes call at the block `position`; return where they go on."""
        site = self._site(position, call)
        targets = self._targets(call, active)
        for section, lanes in targets:
            self._check_room(site, section, lanes)
        self._save(site, active.lanes)
        for section, lanes in targets:
            self._push(site, section, lanes)
        return [(section.entry, self._mask(lanes), lanes.size) for section, lanes in targets]

    def _site(self, position: int, call: Call) -> _Site:
        if position not in self._site_of:
            machine = self.machine
            saved, place = [], 0
            slots = [machine.slots[name] for name in self._registers[position]]
            for name in self._registers[position]:
                row = machine.row(Register(name))
                saved.append((row.view(np.uint8) if row.dtype == bool else row, place))
                place += row.itemsize
            caller = self._first if call.section == KERNEL else self._extent(call.section)
            resume = machine.program.blocks[position].successors[0]
            site = _Site(len(self._sites), call, resume, slots, saved, place + _RETURN_BYTES, caller)
            self._sites.append(site)
            self._site_of[position] = site
        return self._site_of[position]

    def _extent(self, section: str) -> int:
        return self._rounded(self.frames[section].extent)

    def _rounded(self, nbytes: int) -> int:
        return -(-nbytes // self._period) * self._period

    def _targets(self, call: Call, active: Active) -> list[tuple[Section, Array]]:
        """Return the functions that the active lanes call, and which lanes each.

        Raises:
            CallError: a lane calls what is no function, or one with other parameters.
        """
        sections = self.machine.program.sections
        if call.function is not None:
            return [(sections[call.function], active.lanes)]
        assert call.pointer is not None
        pointers = self.machine.row(call.pointer)[active.lanes]
        found = []
        for pointer in np.unique(pointers).tolist():
            lanes = active.lanes[pointers == pointer]
            section = self.section_at.get(pointer)
            if section is None or section.signature != call.signature:
                raise CallError(f"{self.machine.where(call, int(lanes[0]))}: {self._wrong(pointer, call)}")
            found.append((section, lanes))
        return found

    def _wrong(self, pointer: int, call: Call) -> str:
        sections = self.machine.program.sections
        name = function_at(pointer)
        if pointer == 0:
            return "a call through a null pointer"
        if name and self._symbols.get(name) == pointer:
            has = f", which has {_sizes(sections[name].signature)}" if name in sections else ""
            return f"a call of {readable(name)}{has} through a pointer for functions with {_sizes(call.signature)}"
        if pointer == _POISONED:
            return "a call through a pointer that nothing has written"
        return f"a call through {pointer:#x}, which is no function of this module: {MEMORY.describe(pointer)}"

    def _check_room(self, site: _Site, section: Section, lanes: Array) -> None:
        limit = limits.current().stack
        needed = self._own_bytes[section.name] + site.record
        over = np.flatnonzero(self._used[lanes] + needed > limit)
        if over.size:
            lane = int(lanes[over[0]])
            depth = sum(1 for _ in self._records_of(lane))
            raise CallError(
                f"{self.machine.where(site.call, lane)}: stack overflow: a call of {readable(section.name)} takes "
                f"{needed:,} bytes of the stack, and {self._used[lane]:,} of {limit:,} are in use by {depth:,} calls: "
                "emulator.limits(stack=...) sets another limit"
            )

    def _save(self, site: _Site, lanes: Array) -> None:
        """Write the caller's registers into a record for each lane."""
        deepest = int(self._top[lanes].max()) + site.record
        if deepest > self._records.shape[1]:
            grown = np.zeros((self._records.shape[0], 2 * deepest), np.uint8)
            grown[:, : self._records.shape[1]] = self._records
            self._records = grown
        records = self._pointers(lanes)
        for array, place in site.saved:
            native.scatter(records, place, array, lanes, False, lanes.size)
        if (followed := self._followed()) is not None:
            followed.saved(site.slots, lanes, self._top[lanes])
        self._top[lanes] += site.record

    def _pointers(self, lanes: Array) -> Array:
        """Return the host addresses of the ends of the lanes' records."""
        return self._records.ctypes.data + lanes * self._records.shape[1] + self._top[lanes]

    def _push(self, site: _Site, section: Section, lanes: Array) -> None:
        """Make a frame for each lane, and copy the arguments into it."""
        machine = self.machine
        number = site.number * len(self._sections) + self._sections.index(section)
        what = machine.constant(number, np.dtype(np.int64))
        native.scatter(self._pointers(lanes), -_RETURN_BYTES, what, lanes, False, lanes.size)
        extent = self.frames[section.name].extent
        frames = self.frame[lanes].astype(np.int64) + site.extent
        needed = int(frames.max()) + extent
        if needed > machine.local.shape[1]:
            self._grow_local(2 * needed)
        self._used[lanes] += self._own_bytes[section.name] + site.record
        granules = extent >> WINDOW_GRANULE_BITS
        columns = (frames >> WINDOW_GRANULE_BITS)[:, None] + np.arange(granules)
        self.valid[lanes[:, None], columns] = self.frames[section.name].valid[:granules]
        native.fill_halfwords(machine.local_bases[lanes] + frames, extent, lanes.size, POISON)
        if (followed := self._followed()) is not None:
            followed.made(lanes, frames, extent)
        for given, name, nbytes in zip(
            site.call.arguments, section.parameters, section.signature.parameters, strict=True
        ):
            self._copy(lanes, self.offset(given, lanes), frames + self.offsets[name], nbytes)
        self.frame[lanes] = frames

    def _copy(self, lanes: Array, source: Array, target: Array, nbytes: int) -> None:
        """Copy bytes of each lane's local memory."""
        machine = self.machine
        bases = machine.local_bases[lanes]
        native.copy_bytes(bases + source, bases + target, nbytes)
        if (followed := self._followed()) is not None:
            followed.copied(lanes, source, target, nbytes)

    def _grow_local(self, nbytes: int) -> None:
        machine = self.machine
        before = machine.local.shape[1]
        machine.grow_local(max(self._rounded(nbytes), before))
        valid = np.zeros((machine.lanes, machine.local.shape[1] >> WINDOW_GRANULE_BITS), np.uint16)
        if self.valid.shape[1]:
            valid[:, : self.valid.shape[1]] = self.valid
        else:
            granules = machine.local_layout.extent >> WINDOW_GRANULE_BITS
            valid[:, :granules] = machine.local_layout.valid[:granules]
        self.valid = valid
        if (followed := self._followed()) is not None:
            followed.grown(before)

    def _followed(self) -> Any:
        """Return what follows undefined values through the stacks, if an observer does."""
        observer = self.machine.observer
        tracker = None if observer is None else observer.tracker(self.machine)
        return None if tracker is None else tracker.frames

    # -- coming back --------------------------------------------------------------------------------------------------

    def leave(self, end: Instruction, active: Active) -> list[Target]:
        """Let the active lanes come back from a section; return where they go on."""
        operand = end.operands[0]
        assert isinstance(operand, Symbol)
        section = self.machine.program.sections[operand.name]
        numbers = np.zeros((active.count, 1), np.int64)
        native.read_rows(self._pointers(active.lanes) - _RETURN_BYTES, numbers)
        numbers = numbers[:, 0] // len(self._sections)
        found = []
        for number in np.unique(numbers).tolist():
            site = self._sites[number]
            lanes = active.lanes[numbers == number]
            self._pop(site, section, lanes)
            found.append((site.resume, self._mask(lanes), lanes.size))
        return found

    def _pop(self, site: _Site, section: Section, lanes: Array) -> None:
        extent = self.frames[section.name].extent
        frames = self.frame[lanes].astype(np.int64)
        self.frame[lanes] = 0 if site.call.section == KERNEL else frames - site.extent
        for taken, name, nbytes in zip(site.call.results, section.returns, section.signature.returns, strict=True):
            self._copy(lanes, frames + self.offsets[name], self.offset(taken, lanes), nbytes)
        columns = (frames >> WINDOW_GRANULE_BITS)[:, None] + np.arange(extent >> WINDOW_GRANULE_BITS)
        self.valid[lanes[:, None], columns] = 0
        self._used[lanes] -= self._own_bytes[section.name] + site.record
        self._top[lanes] -= site.record
        records = self._pointers(lanes)
        for array, place in site.saved:
            native.gather(records, place, array, lanes, False, lanes.size)
        if (followed := self._followed()) is not None:
            followed.restored(site.slots, lanes, self._top[lanes])

    def _mask(self, lanes: Array) -> Array:
        mask = np.zeros(self.machine.lanes, bool)
        mask[lanes] = True
        return mask

    # -- messages -----------------------------------------------------------------------------------------------------

    def _records_of(self, lane: int) -> Iterator[tuple[_Site, Section]]:
        """Return the calls that a lane is in, and the functions called, innermost first."""
        end = int(self._top[lane])
        while end:
            number, section = divmod(
                int(self._records[lane, end - _RETURN_BYTES : end].view(np.int64)[0]), len(self._sections)
            )
            yield self._sites[number], self._sections[section]
            end -= self._sites[number].record

    def chain(self, lane: int) -> list[str]:
        """Return texts that say where a lane's functions were called, innermost first."""
        places = (f"called at {site.call.location or site.call.text}" for site, _ in self._records_of(lane))
        calls = [(place, len(list(alike))) for place, alike in itertools.groupby(places)]
        told = [f"{place} ({times:,} times)" if times > 1 else place for place, times in calls[:_CHAIN]]
        more = sum(times for _, times in calls[_CHAIN:])
        return [*told, f"and {more:,} calls before"] if more else told

    def describe(self, lane: int, address: int) -> str:
        """Return a text that says where an address of a lane's local memory is."""
        frame = int(self.frame[lane])
        for site, section in self._records_of(lane):
            if address >= frame + self._extent(section.name):
                return "in the frame of a function that has returned, or that was never called"
            if address >= frame:
                place = _COPY.sub("", self.frames[section.name].describe(address - frame))
                return f"{place}, of a call of {readable(section.name)}"
            frame -= site.extent
        if address >= self._first:
            return "in the frame of a function that has returned, or that was never called"
        return self.machine.local_layout.describe(address)


_COPY = re.compile(r"[@#]\d+")
"""What tells the copies of a variable apart (inlining.py)."""


def _sizes(signature: Signature) -> str:
    """Return a text for the sizes of a function's parameters and results."""
    parameters, returns = (f"{' and '.join(map(str, sizes))} bytes" if sizes else "none" for sizes in signature)
    return f"parameters of {parameters} and results of {returns}"


_POISONED = int.from_bytes(POISON.to_bytes(2, "little") * 4, "little")
