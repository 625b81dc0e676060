"""Which accesses of a wave's threads are ordered: vector clocks (Lamport 1978, Mattern 1989), with a short cut.

Each thread counts the points at which it tells others what it has done; this number stands with every access. A thread
knows an access if the number is below its block's floor, which a barrier of the whole block raises for all of its
threads, or below what the thread's row of `known` says of the other thread. The rows are of the threads of a warp if
the program has no more than warp barriers between those of the block, else of the whole block.

A fence before a strong access (an atomic, or a volatile, relaxed, acquire or release load or store) publishes what the
thread knows at the place that is written; a strong read there, and a fence or a barrier after it, takes it over (PTX
ISA, memory consistency model: release and acquire patterns). As much code relies on what every GPU does, a barrier
stands for the second fence, and after a barrier a thread publishes what any thread had fenced before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.state import Array
from gpubp.emulator.program.cfg import Program
from gpubp.emulator.program.ptx import Immediate, Instruction, is_fence

_STRONG = frozenset(("volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"))
_FULL_WARP = (1 << WARP) - 1


class Known(NamedTuple):
    """What is known of a block's accesses: all below the floor, and those of each thread up to a number."""

    block: int  # its number in the grid
    floor: int
    row: Array
    top: int  # the highest number of the row

    def covers(self, other: Known) -> bool:
        """Return True if a barrier of their whole block lies between all of the other and this."""
        return other.top < self.floor and other.floor <= self.floor

    def joined(self, other: Known) -> Known:
        """Return what this or the other says."""
        row = np.maximum(self.row, other.row)
        return Known(self.block, max(self.floor, other.floor), row, max(self.top, other.top))


class Clock:
    """What a thread knows or has published: something of its own block, if anything, and all that came before.

    Joined only when somebody asks, which few do: most of what is published orders nothing that could race.
    """

    __slots__ = ("_all", "before", "own")

    def __init__(self, own: Known | None, before: Iterable[Clock]) -> None:
        self.own = own
        self.before = tuple(before)
        self._all: dict[int, Known] | None = None

    def all(self) -> dict[int, Known]:
        """Return what is known of each block."""
        if self._all is None:
            found: dict[int, Known] = {}
            seen: set[Clock] = set()
            todo = [self]
            while todo:
                clock = todo.pop()
                if clock in seen:
                    continue
                seen.add(clock)
                own = clock.own
                if own is not None and own.block in found and found[own.block].covers(own):
                    continue  # whoever passed that barrier has also taken over what came before
                if clock._all is None:
                    todo.extend(clock.before)
                for known in clock._all.values() if clock._all is not None else filter(None, (own,)):
                    there = found.get(known.block)
                    if there is None:
                        found[known.block] = known
                    elif there is not known and not there.covers(known):
                        found[known.block] = there.joined(known)
            self._all = found
        return self._all


def orders_by_memory(program: Program) -> bool:
    """Return True if threads may be ordered by what they write and read: the program has fences, or accesses that
    release or acquire."""
    return any(
        is_fence(instruction)
        or (not is_of_mbarrier(instruction) and {"acquire", "release", "acq_rel"} & set(instruction.modifiers))
        for block in program.blocks
        for instruction in block.instructions
    )


def is_of_mbarrier(instruction: Instruction) -> bool:
    """True if the instruction accesses an mbarrier, which orders threads in its own way."""
    return instruction.opcode == "mbarrier" or "mbarrier" in instruction.modifiers


def is_strong(instruction: Instruction) -> bool:
    return instruction.opcode in ("atom", "red") or bool(_STRONG & set(instruction.modifiers))


def width_of(program: Program, padded: int, by_memory: bool) -> int:
    """Return how many threads each thread must know of one by one, between two barriers of its whole block.

    by_memory: what `orders_by_memory` says of the program.
    """
    width = padded if by_memory else 0
    for block in program.blocks:
        for instruction in (*block.instructions, *([] if block.end is None else [block.end])):
            if is_of_mbarrier(instruction):
                width = padded
            elif instruction.opcode in ("bar", "barrier"):
                width = max(width, WARP if "warp" in instruction.modifiers else padded * _some(instruction))
    return width


def _some(instruction: Instruction) -> bool:
    """True for a barrier that some of a block's threads may pass without the others."""
    operands = instruction.operands[1:-1] if "red" in instruction.modifiers else instruction.operands
    return len(operands) > 1 and operands[1] != Immediate(0)


class Arrival(NamedTuple):
    """What a thread that arrives at an mbarrier makes known: of its own block, and what it has taken over."""

    row: Array
    taken: Clock | None


class _Phases:
    """What is known of an mbarrier's arrivals: of all phases that are over, and of each later one."""

    def __init__(self, width: int) -> None:
        self.over = 0
        self.row = np.zeros(width, np.int32)
        self.taken: Clock | None = None
        self.later: dict[int, list[Arrival]] = {}

    def end(self, phase: int) -> None:
        """The phases before this one are over."""
        for number in range(self.over, phase):
            arrivals = self.later.pop(number, [])
            for arrival in arrivals:
                np.maximum(self.row, arrival.row, out=self.row)
            clocks = {arrival.taken for arrival in arrivals if arrival.taken is not None}
            if clocks - {self.taken}:
                self.taken = Clock(None, filter(None, (self.taken, *clocks)))
        self.over = max(self.over, phase)


class Clocks:
    """The clocks of the threads of one wave.

    Args:
        blocks: of the wave.
        padded: threads of a block, in whole warps.
        width: threads that each thread knows one by one; see `width_of`.
        proxies: keep besides what of each thread's accesses has been handed to the async proxy.

    The blocks of a cluster count as one here: `blocks` are clusters then, and `padded` are a cluster's threads.
    """

    def __init__(self, blocks: int, padded: int, width: int, proxies: bool = False) -> None:
        self.width = width
        self.proxies = proxies
        lanes = blocks * padded
        self.blocks = blocks
        self.padded = padded
        self.first_block = 0
        self.number = np.ones(lanes, np.int32)
        self.floor = np.ones(lanes, np.int32)
        # In the second half of a row, if there is one, the numbers up to which a proxy fence has come.
        self.known = np.zeros((lanes, width * (1 + proxies)), np.int32)
        self._column = np.arange(lanes) % max(1, width)
        self._arrived: dict[tuple[int, int], list[Array]] = {}  # rows published by bar.arrive, by block and barrier
        self._arrived_clocks: dict[tuple[int, int], list[Clock]] = {}
        self._phases: dict[int, _Phases] = {}  # of mbarriers
        self._taken: dict[int, Clock] = {}  # what lanes have taken over from memory
        self._read: dict[int, list[Clock]] = {}  # what lanes have read there, and not yet taken over
        # What lanes knew at their last fence (floor 0: none): of their own block, and what they had taken over.
        self._fenced = self.known[:0]
        self._fenced_floor = np.zeros(lanes, np.int32)
        self._fenced_taken: dict[int, Clock] = {}
        self._ready: dict[int, Clock] = {}  # the same as clocks, once they are needed

    def begin(self, first_block: int) -> None:
        """Make ready for new blocks, from this number in the grid on."""
        self.first_block = first_block
        self.number[:] = self.floor[:] = 1
        self.known[:] = 0
        self._fenced_floor[:] = 0
        self._fenced = self._fenced[:0]
        for table in (
            self._arrived, self._arrived_clocks, self._phases, self._taken, self._read, self._fenced_taken, self._ready
        ):  # fmt: skip
            table.clear()

    # -- barriers -----------------------------------------------------------------------------------------------------

    def block_barrier(self, mask: Array) -> None:
        """All threads of the blocks of `mask` that live have passed a barrier together."""
        chosen = np.asarray(mask.reshape(self.blocks, -1).any(axis=1))
        number = self.number.reshape(self.blocks, -1)
        floor = number.max(axis=1, keepdims=True) + 1
        where = chosen.reshape(-1, 1)
        np.copyto(number, floor, where=where)
        np.copyto(self.floor.reshape(self.blocks, -1), floor, where=where)
        if self.proxies:
            handed = self.known.reshape(self.blocks, self.padded, -1)[:, :, self.width :]
            handed[chosen] = handed[chosen].max(axis=1, keepdims=True)
        if self._by_memory():
            for block in np.flatnonzero(chosen):
                start = int(block) * self.padded
                self._share(start + np.flatnonzero(mask[start : start + self.padded]))

    def arrive(self, lanes: Array, barriers: Array) -> None:
        """Lanes have arrived at barriers of their blocks, and go on."""
        for lane, barrier in zip(lanes.tolist(), barriers.tolist(), strict=True):
            key = (lane // self.padded, barrier)
            if lane in self._taken:
                self._arrived_clocks.setdefault(key, []).append(self._taken[lane])
            self._arrived.setdefault(key, []).append(self._publish(np.array([lane])))

    def some_barrier(self, lanes: Array, barrier: int) -> None:
        """Lanes of one block have passed a barrier, for which others may have arrived before."""
        key = (int(lanes[0]) // self.padded, barrier)
        rows = [self._publish(lanes), *self._arrived.pop(key, [])]
        self.known[lanes] = np.concatenate(rows).max(axis=0)
        self._share(lanes, self._arrived_clocks.pop(key, []))

    def warp_barrier(self, lanes: Array, members: Array) -> None:
        """Lanes have passed a barrier of the threads of their warp that `members` (a mask each) names."""
        if lanes.size == self.number.size and (members == _FULL_WARP).all():
            self._publish(slice(None))
            warps = self.known.reshape(-1, WARP, self.known.shape[1])
            warps[:] = warps.max(axis=1, keepdims=True)
            starts = np.arange(0, lanes.size, WARP)
        else:
            groups = (lanes // WARP) << 32 | members
            order = np.argsort(groups, kind="stable")
            lanes, groups = lanes[order], groups[order]
            starts = np.concatenate([[0], np.flatnonzero(groups[1:] != groups[:-1]) + 1])
            joined = np.maximum.reduceat(self._publish(lanes), starts, axis=0)
            self.known[lanes] = np.repeat(joined, np.diff(starts, append=lanes.size), axis=0)
        if self._by_memory():
            for group in np.split(lanes, starts[1:]):
                self._share(group)

    def arrivals(self, lanes: Array, releases: bool) -> list[Arrival]:
        """Return what lanes that arrive at mbarriers make known: what they know, or (not `releases`) have fenced."""
        if releases:
            return [
                Arrival(row, self._taken.get(lane))
                for lane, row in zip(lanes.tolist(), self._publish(lanes), strict=True)
            ]
        fenced = self._fenced if self._fenced.size else np.zeros_like(self.known)
        return [Arrival(fenced[lane].copy(), self._fenced_taken.get(lane)) for lane in lanes.tolist()]

    def arrive_in_phases(self, slots: Array, phases: Array, arrivals: Sequence[Arrival]) -> None:
        """Threads have arrived at mbarriers, by number, in phases of theirs."""
        for slot, phase, arrival in zip(slots.tolist(), phases.tolist(), arrivals, strict=False):
            self._of_mbarrier(slot).later.setdefault(phase, []).append(arrival)

    def pass_phases(self, lanes: Array, slots: Array, phases: Array) -> None:
        """Lanes know that mbarriers are in these phases: they know what arrived in those before."""
        for slot in np.unique(slots).tolist():
            chosen = slots == slot
            known = self._of_mbarrier(slot)
            known.end(int(phases[chosen][0]))
            own = lanes[chosen]
            self.known[own] = np.maximum(self.known[own], known.row)
            if known.taken is not None:
                for lane in own.tolist():
                    if self._taken.get(lane) is not known.taken:
                        self._taken[lane] = Clock(None, filter(None, (self._taken.get(lane), known.taken)))

    def forget_phases(self, slots: Array) -> None:
        """New mbarriers stand where others may have been."""
        for slot in slots.tolist():
            self._phases.pop(slot, None)

    def _of_mbarrier(self, slot: int) -> _Phases:
        if slot not in self._phases:
            self._phases[slot] = _Phases(self.known.shape[1])
        return self._phases[slot]

    def _by_memory(self) -> bool:
        """True if threads have fenced, or taken something over."""
        return bool(self._fenced.size or self._taken or self._read)

    def _publish(self, lanes: Array | slice) -> Array:
        """Return the rows of lanes with their own numbers, which then go on."""
        self.known[np.arange(self.number.size)[lanes], self._column[lanes]] = self.number[lanes]
        self.number[lanes] += 1
        return self.known[lanes]

    def _share(self, lanes: Array, others: Iterable[Clock] = ()) -> None:
        """Lanes know what any of them has taken over, and what one has fenced any may publish."""
        every = lanes.tolist()
        if self._read:
            for lane in every:
                self._take_over(lane)
        for table, more in ((self._taken, others), (self._fenced_taken, ())):
            clocks = {table[lane] for lane in every if lane in table} | {*more} if table or more else None
            if clocks:
                joined = clocks.pop() if len(clocks) == 1 else Clock(None, clocks)
                table.update(dict.fromkeys(every, joined))
        if self._fenced.size:
            self._fenced[lanes] = self._fenced[lanes].max(axis=0)
            self._fenced_floor[lanes] = self._fenced_floor[lanes].max()
            self._forget_ready(every)

    # -- fences, and what is written and read in order ----------------------------------------------------------------

    def proxy_fence(self, lanes: Array) -> None:
        """Lanes have executed a fence of the async proxy: all that they know of is handed to it."""
        width = self.width
        handed = np.maximum(self.known[lanes, :width], self.floor[lanes, np.newaxis] - 1)
        self.known[lanes, width:] = np.maximum(self.known[lanes, width:], handed)
        self.known[lanes, width + self._column[lanes]] = self.number[lanes]
        self.number[lanes] += 1

    def fence(self, lanes: Array) -> None:
        """Lanes have executed a fence."""
        every = lanes.tolist()
        if self._read:
            for lane in every:
                self._take_over(lane)
        if not self._fenced.size:
            self._fenced = np.zeros_like(self.known)
        self._fenced[lanes] = self._publish(lanes)
        self._fenced_floor[lanes] = self.floor[lanes]
        if self._taken:
            self._fenced_taken.update((lane, self._taken[lane]) for lane in every if lane in self._taken)
        self._forget_ready(every)

    def follow(
        self, places: dict[int, Clock], instruction: Instruction, kind: str, lanes: Array, pointers: Array
    ) -> None:
        """Lanes have made a strong access: they take over what was published there, and publish what they know.

        `places` is what was published so far, by pointer; `kind` is "load", "store" or "atomic".
        """
        modifiers = set(instruction.modifiers)
        acquires, releases = bool({"acquire", "acq_rel"} & modifiers), bool({"release", "acq_rel"} & modifiers)
        reads = kind != "store" and instruction.opcode != "red"
        for lane, pointer in zip(lanes.tolist(), pointers.tolist(), strict=False):
            there = places.get(pointer)
            if reads and there is not None:
                read = self._read.setdefault(lane, [])
                if not read or read[-1] is not there:
                    read.append(there)
                if acquires:
                    self._take_over(lane)
            if kind == "load":
                continue
            clock = self._clock(lane, releases)
            if kind == "atomic" and there is not None:
                # It goes on with what the place has from others (a release sequence).
                if clock is not None and clock is not there and clock not in there.before:
                    known = any(there is one or there in one.before for one in clock.before)
                    places[pointer] = clock if known else Clock(None, (there, clock))
            elif clock is not None:
                places[pointer] = clock
            elif there is not None:
                del places[pointer]

    def knows(self, lane: int, block: int, thread: int, number: int) -> bool:
        """Return True if a lane has taken over an access of a thread of a block of the grid, by the thread's number."""
        taken = self._taken.get(lane)
        known = None if taken is None else taken.all().get(block)
        return known is not None and (number < known.floor or number <= known.row[thread])

    def _clock(self, lane: int, now: bool) -> Clock | None:
        """Return what a lane publishes: what it knows `now`, or what it knew at its last fence, if there was one."""
        block = self.first_block + lane // self.padded
        if now:
            row = self._publish(np.array([lane]))[0]
            known = Known(block, int(self.floor[lane]), row, int(row.max()))
            return Clock(known, filter(None, (self._taken.get(lane),)))
        if not self._fenced_floor[lane]:
            return None
        if lane not in self._ready:
            row = self._fenced[lane].copy()
            known = Known(block, int(self._fenced_floor[lane]), row, int(row.max()))
            self._ready[lane] = Clock(known, filter(None, (self._fenced_taken.get(lane),)))
        return self._ready[lane]

    def _forget_ready(self, lanes: list[int]) -> None:
        if self._ready:
            for lane in lanes:
                self._ready.pop(lane, None)

    def _take_over(self, lane: int) -> None:
        read, taken = self._read.pop(lane, None), self._taken.get(lane)
        if read is None:
            return
        # Who spins reads the same over and over.
        new = read if taken is None else [one for one in read if one is not taken and one not in taken.before]
        if new:
            self._taken[lane] = Clock(None, filter(None, (taken, *new)))
