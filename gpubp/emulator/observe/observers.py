"""What to watch while kernels run: `observe(races=True, uninitialised=True, traffic=True)` and the report it gives.

Races follow the CUDA memory model's idea of order within a launch: two accesses to the same bytes, of which one writes
and not both are atomic, by two threads of a block with no barrier of the block (or __syncwarp within a warp) between
them, or by two blocks. A barrier of some of a block's threads is taken to order them all, which hides races between
the others. Ordering by atomics and fences alone is not followed: a kernel that hands data from block to block within a
launch is reported.

Reads of unwritten memory are known byte by byte. What was allocated before the observer was turned on counts as
unwritten where it still holds the poison pattern.

Traffic is exact for the PTX: what the machine code does after ptxas, and what caches absorb, is not in these numbers.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.memory import ARENA_BASE, MEMORY, POISON
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.isa import matrix
from gpubp.emulator.isa.arithmetic import operation
from gpubp.emulator.observe import shadow
from gpubp.emulator.observe.findings import Bytes, Finding, LineAccesses, Report
from gpubp.emulator.program.cfg import Block
from gpubp.emulator.program.ptx import TYPE_BYTES, Instruction, Location, Pair

_KINDS = {"load": shadow.LOAD, "store": shadow.STORE, "atomic": shadow.ATOMIC, "async": shadow.STORE}


# -- turning observers on ---------------------------------------------------------------------------------------------

_CURRENT: list[Observer] = []


def current() -> Observer | None:
    """Return the observer in force, if any."""
    return _CURRENT[-1] if _CURRENT else None


@contextlib.contextmanager
def observe(races: bool = False, uninitialised: bool = False, traffic: bool = False) -> Iterator[Report]:
    """Watch the launches within the `with` block.

    Args:
        races: look for data races in shared and global memory, and for reads of unfinished asynchronous copies.
        uninitialised: look for reads of memory that nothing has written.
        traffic: count instructions, flops, bytes, sectors and bank conflicts.

    Yields the Report, which fills as launches end.
    """
    observer = Observer(races, uninitialised, traffic)
    outer = MEMORY.watcher
    if uninitialised:
        MEMORY.watcher = observer.memory_changed
    _CURRENT.append(observer)
    try:
        yield observer.report
    finally:
        _CURRENT.pop()
        MEMORY.watcher = outer
        observer.release()


# -- observing --------------------------------------------------------------------------------------------------------


@dataclass
class _Site:
    """A memory instruction of a kernel, and what was counted at it."""

    number: int
    kernel: str
    instruction: Instruction
    space: str
    kind: str
    nbytes: int
    threads: int = 0
    totals: Array = field(default_factory=lambda: np.zeros(3, np.int64))


class _Watched:
    """The observer's state for one machine."""

    def __init__(self, machine: Machine) -> None:
        # by line and class, flops a thread, threads so far
        self.counts: list[tuple[Counter[tuple[Location | None, str]], int, list[int]]] = []
        lanes = machine.lanes
        self.epoch = np.zeros(machine.blocks, np.int32)
        self.warp_epoch = np.zeros(lanes // WARP, np.int32)
        self.when = np.zeros(lanes, np.int32)
        self.threads = np.zeros(lanes, np.int32)
        self.bits = {space: _granularity(machine, space) for space in ("shared", "global")}
        self.found = np.zeros(5, np.int64)
        shape = machine.shared.shape
        self.shared_cells = np.zeros((0, shadow.CELL), np.int32)
        self.shared_states = np.zeros(0, np.uint8)
        self.local_states = np.zeros(0, np.uint8)
        self.shared_size = shape[0] * shape[1]
        self.local_size = machine.local.size

    def renew_when(self, machine: Machine) -> None:
        epochs = self.epoch[machine.block_of_lane] << shadow.WARP_BITS
        np.add(epochs, np.repeat(self.warp_epoch & ((1 << shadow.WARP_BITS) - 1), WARP), out=self.when)


def _granularity(machine: Machine, space: str) -> int:
    """Return log2 of the fewest bytes that an instruction of the program accesses at once in a space."""
    least = 8
    for block in machine.program.blocks:
        for instruction in block.instructions:
            if instruction.opcode not in ("ld", "ldu", "st", "atom", "red", "cp") or instruction.opcode == "call":
                continue
            spaces = {modifier.split("::")[0] for modifier in instruction.modifiers}
            named = spaces & {"shared", "global", "local", "param", "const"}
            if named and space not in named:
                continue
            least = min(least, TYPE_BYTES.get(instruction.modifiers[-1], 4) if instruction.opcode != "cp" else 4)
    return least.bit_length() - 1


class Observer:
    """Collects into a Report what the launches of one `observe` block do."""

    def __init__(self, races: bool, uninitialised: bool, traffic: bool) -> None:
        self.races = races
        self.uninitialised = uninitialised
        self.traffic = traffic
        self.report = Report()
        self.waves: OrderedDict[tuple[object, ...], Any] = OrderedDict()  # of the launches under this observer
        self._watched: dict[Machine, _Watched] = {}
        self._sites: list[_Site] = []
        self._site_of: dict[tuple[int, str, str], _Site] = {}
        self._findings: dict[tuple[Any, ...], Finding] = {}
        self._lines: dict[tuple[Any, ...], LineAccesses] = {}
        self._global_cells = np.zeros((0, shadow.CELL), np.int32)
        self._global_states = np.zeros(0, np.uint8)
        if uninitialised:
            self._note_present_memory()

    def release(self) -> None:
        """Let go of all but the report: machines and observer refer to each other, and their arrays are large."""
        self.waves.clear()
        self._watched.clear()
        self._global_cells = np.zeros((0, shadow.CELL), np.int32)
        self._global_states = np.zeros(0, np.uint8)

    # -- memory that the host changes ---------------------------------------------------------------------------------

    def _note_present_memory(self) -> None:
        self._cover(MEMORY.extent)
        for allocation in MEMORY.allocations():
            data = MEMORY.view(allocation.address, allocation.nbytes)
            start = allocation.address - ARENA_BASE
            states = self._global_states[start : start + allocation.nbytes]
            # By words: a halfword of the pattern is common in random data, a whole word of it is a NaN that no one
            # makes.
            words = allocation.nbytes // 4
            pattern = np.full(2, POISON, np.uint16)
            states[: 4 * words] = np.repeat(data[: 4 * words].view(np.uint32) != pattern.view(np.uint32)[0], 4)
            rest = data[4 * words :]
            states[4 * words :] = (rest != pattern.view(np.uint8)[: rest.size]).any()

    def memory_changed(self, address: int, nbytes: int, written: bool) -> None:
        """The host wrote memory, or allocated it afresh."""
        start = address - ARENA_BASE
        self._cover(start + nbytes)
        self._global_states[start : start + nbytes] = shadow.DEFINED if written else shadow.UNWRITTEN

    def _cover(self, extent: int) -> None:
        """Make the states of global memory reach so far."""
        if self._global_states.size < extent:
            grown = np.zeros(max(extent, 2 * self._global_states.size), np.uint8)
            grown[: self._global_states.size] = self._global_states
            self._global_states = grown

    # -- launches and waves -------------------------------------------------------------------------------------------

    def begin_launch(self, machine: Machine) -> None:
        """Forget who accessed what in the launch before."""
        watched = self._state(machine)
        if self.uninitialised:
            self._cover(MEMORY.extent)
            start = machine.parameter_address - ARENA_BASE
            self._global_states[start : start + machine.parameter_bytes.size] = shadow.DEFINED
        if self.races:
            self._global_cells = np.zeros(((MEMORY.extent >> watched.bits["global"]) + 1, shadow.CELL), np.int32)
        self.report.launches[machine.program.name] += 1

    def begin_wave(self, machine: Machine) -> None:
        """New blocks: fresh shared and local memory, and barrier counts from zero."""
        watched = self._state(machine)
        lane = np.arange(machine.lanes)
        watched.threads[:] = machine.first_block * machine.padded + lane + 1
        watched.epoch[:] = 0
        watched.warp_epoch[:] = 0
        watched.when[:] = 0
        if self.races:
            watched.shared_cells = np.zeros(
                ((watched.shared_size >> watched.bits["shared"]) + 1, shadow.CELL), np.int32
            )
        if self.races or self.uninitialised:
            watched.shared_states = np.zeros(watched.shared_size, np.uint8)
        if self.uninitialised:
            watched.local_states = np.zeros(watched.local_size, np.uint8)

    def end_launch(self, machine: Machine) -> None:
        """Add what was counted to the report."""
        watched = self._state(machine)
        report = self.report
        for classes, flops, threads in watched.counts:
            if not threads[0]:
                continue
            for (location, name), count in classes.items():
                report.instructions[name] += count * threads[0]
                report.lines.setdefault((machine.program.name, location), Counter())[name] += count * threads[0]
            report.flops += flops * threads[0]
            threads[0] = 0
        for site in self._sites:
            self._add_site(site)
        report.findings[:] = self._findings.values()

    def _add_site(self, site: _Site) -> None:
        if not self.traffic or not site.threads:
            return
        where = (site.kernel, site.instruction.location, site.space, site.kind)
        if where not in self._lines:
            self._lines[where] = LineAccesses(*where)
            self.report.accesses.append(self._lines[where])
        line = self._lines[where]
        total = self.report.bytes.setdefault(site.space, Bytes())
        nbytes = site.threads * site.nbytes
        if site.kind in ("load", "atomic"):
            total.read += nbytes
        if site.kind != "load":
            total.written += nbytes
        line.threads += site.threads
        line.nbytes += nbytes
        line.warps += int(site.totals[0])
        line.units += int(site.totals[1])
        line.least_units += int(site.totals[2])
        site.threads = 0
        site.totals[:] = 0

    def _state(self, machine: Machine) -> _Watched:
        if machine not in self._watched:
            self._watched[machine] = _Watched(machine)
        return self._watched[machine]

    # -- barriers -----------------------------------------------------------------------------------------------------

    def block_barrier(self, machine: Machine, mask: Array) -> None:
        """The threads of `mask` have passed a barrier of their block."""
        if self.races:
            watched = self._state(machine)
            watched.epoch[mask.reshape(machine.blocks, -1).any(axis=1)] += 1
            watched.renew_when(machine)

    def warp_barrier(self, machine: Machine, mask: Array) -> None:
        """The threads of `mask` have passed bar.warp.sync."""
        if self.races:
            watched = self._state(machine)
            watched.warp_epoch[mask.reshape(-1, WARP).any(axis=1)] += 1
            watched.renew_when(machine)

    # -- instructions -------------------------------------------------------------------------------------------------

    def count_block(self, machine: Machine, block: Block) -> Callable[[], None]:
        """Return a step that counts the instructions of a block, those with a guard apart."""
        everything = [*block.instructions, *([] if block.end is None else [block.end])]
        return self._counter(machine, [i for i in everything if i.guard is None or i is block.end])

    def counted(self, machine: Machine, instruction: Instruction, step: Callable[[], None]) -> Callable[[], None]:
        """Return the step of a guarded instruction, counted for the lanes that the guard lets run."""
        count = self._counter(machine, [instruction])

        def counted_step() -> None:
            count()
            step()

        return counted_step

    def _counter(self, machine: Machine, instructions: list[Instruction]) -> Callable[[], None]:
        classes = Counter((instruction.location, instruction_class(instruction)) for instruction in instructions)
        threads = [0]
        self._state(machine).counts.append((classes, sum(flops_of(i) for i in instructions), threads))

        def count() -> None:
            threads[0] += machine.active.count

        return count if self.traffic else lambda: None

    # -- memory accesses ----------------------------------------------------------------------------------------------

    def watch(
        self, machine: Machine, instruction: Instruction, space: str, nbytes: int, kind: str
    ) -> Callable[[Array], None] | None:
        """Return a function of the checked host pointers of the active lanes, called each time the instruction runs."""
        watched = self._state(machine)
        site = self._site(machine, instruction, space, nbytes, kind)
        steps: list[Callable[[Array], None]] = []
        if self.traffic:
            steps.append(self._traffic_step(machine, site))
        if self.races and space in ("shared", "global"):
            steps.append(self._race_step(machine, watched, site))
        if self.uninitialised or (self.races and space == "shared"):
            steps.append(self._state_step(machine, watched, site))

        def run(pointers: Array) -> None:
            for step in steps:
                step(pointers)

        return run if steps else None

    def _site(self, machine: Machine, instruction: Instruction, space: str, nbytes: int, kind: str) -> _Site:
        """Return the site of an instruction, which the machines of a kernel share."""
        key = (id(instruction), space, kind)
        if key not in self._site_of:
            site = _Site(len(self._sites), machine.program.name, instruction, space, kind, nbytes)
            self._sites.append(site)
            self._site_of[key] = site
        return self._site_of[key]

    def _traffic_step(self, machine: Machine, site: _Site) -> Callable[[Array], None]:
        def count(pointers: Array) -> None:
            active = machine.active
            site.threads += active.count
            if site.space == "global":
                shadow.count_sectors(pointers, site.nbytes, active.lanes, active.count, site.totals)
            elif site.space == "shared":
                shadow.count_conflicts(
                    pointers, machine.shared_bases, site.nbytes, active.lanes, active.count, site.totals
                )

        return count

    def _race_step(self, machine: Machine, watched: _Watched, site: _Site) -> Callable[[Array], None]:
        kind = _KINDS[site.kind]

        def check(pointers: Array) -> None:
            active = machine.active
            self._check_races(machine, watched, site, kind, pointers, active.lanes, active.whole, active.count)

        return check

    def _check_races(
        self,
        machine: Machine,
        watched: _Watched,
        site: _Site,
        kind: int,
        pointers: Array,
        lanes: Array,
        whole: bool,
        count: int,
    ) -> None:
        shared = site.space == "shared"
        cells = watched.shared_cells if shared else self._global_cells
        base = machine.shared.ctypes.data if shared else MEMORY.host_base
        races = shadow.check_races(
            cells,
            watched.bits[site.space],
            base,
            pointers,
            site.nbytes,
            watched.threads,
            watched.when,
            machine.padded,
            lanes,
            whole,
            count,
            kind,
            site.number,
            watched.found,
        )
        if races:
            position, other, other_site, wrote, _ = (int(value) for value in watched.found)
            lane = int(lanes[position])
            self._add_race(machine, site, self._sites[other_site], lane, other - 1, bool(wrote), races)

    def _add_race(
        self, machine: Machine, site: _Site, other: _Site, lane: int, thread: int, wrote: bool, times: int
    ) -> None:
        key = ("race", machine.program.name, site.instruction, other.instruction)
        if key not in self._findings:
            message = self._race_message(machine, site, other, lane, thread, wrote)
            self._findings[key] = Finding("race", machine.program.name, site.instruction.location, message, 0)
        self._findings[key].count += times

    def _race_message(self, machine: Machine, site: _Site, other: _Site, lane: int, thread: int, wrote: bool) -> str:
        block, index = machine.thread_of_grid(thread)
        verb = {"load": "reads", "store": "writes", "atomic": "updates", "async": "copies to"}[site.kind]
        where = "the same block" if block == machine.block_index(lane) else f"block {block}"
        other_verb = "writes" if wrote else "reads"
        return (
            f"{machine.where(site.instruction, lane)} {verb} {site.space} memory that {where}, thread {index} "
            f"{other_verb} at {other.instruction.location or other.instruction.text}, with nothing to order the two"
        )

    def _state_step(self, machine: Machine, watched: _Watched, site: _Site) -> Callable[[Array], None]:
        """Check that bytes read were written, and note the bytes written."""

        def check(pointers: Array) -> None:
            active = machine.active
            states, base = self._states(machine, watched, site.space)
            if site.kind in ("load", "atomic"):
                position = shadow.check_written(states, base, pointers, site.nbytes, active.count)
                if position >= 0:
                    first = int(pointers[position]) - base
                    pending = bool((states[first : first + site.nbytes] == shadow.PENDING).any())
                    self._add_unwritten(machine, site, int(active.lanes[position]), pending)
            if site.kind != "load":
                state = shadow.PENDING if site.kind == "async" else shadow.DEFINED
                shadow.set_state(states, base, pointers, site.nbytes, active.count, state)

        return check

    def _states(self, machine: Machine, watched: _Watched, space: str) -> tuple[Array, int]:
        if space == "shared":
            return watched.shared_states, machine.shared.ctypes.data
        if space == "local":
            return watched.local_states, machine.local.ctypes.data
        return self._global_states, MEMORY.host_base

    def _add_unwritten(self, machine: Machine, site: _Site, lane: int, pending: bool) -> None:
        if not pending and not self.uninitialised:
            return
        kind = "missing wait" if pending else "uninitialised read"
        key = (kind, machine.program.name, site.instruction)
        if key not in self._findings:
            what = "a cp.async writes and that no thread has waited for" if pending else "nothing has written"
            message = f"{machine.where(site.instruction, lane)} reads {site.space} memory that {what}"
            self._findings[key] = Finding(kind, machine.program.name, site.instruction.location, message, 0)
        self._findings[key].count += 1

    def local_written(self, machine: Machine, lane: int, offset: int, nbytes: int) -> None:
        """The device runtime has written local memory of a thread."""
        if self.uninitialised:
            start = lane * machine.local.shape[1] + offset
            self._state(machine).local_states[start : start + nbytes] = shadow.DEFINED

    def copy_completed(
        self, machine: Machine, instruction: Instruction, lanes: Array, targets: Array, nbytes: int
    ) -> None:
        """Asynchronous copies of these lanes have been waited for: now they have written their targets."""
        watched = self._state(machine)
        if self.races or self.uninitialised:
            shadow.set_state(
                watched.shared_states, machine.shared.ctypes.data, targets, nbytes, lanes.size, shadow.DEFINED
            )
        if self.races:
            site = self._site(machine, instruction, "shared", nbytes, "async")
            self._check_races(machine, watched, site, shadow.STORE, targets, lanes, False, lanes.size)


# -- classes of instructions ------------------------------------------------------------------------------------------

_LANEWISE_CLASSES = {
    "fma": "FMA",
    "float": "other float",
    "special": "special function",
    "integer": "integer",
    "logic": "integer",
    "compare": "compare and select",
    "conversion": "conversion",
    "move": "move",
}
_CLASSES = {
    **dict.fromkeys(("shfl", "vote", "match", "redux", "elect", "activemask"), "warp"),
    **dict.fromkeys(("bar", "barrier", "membar", "fence"), "barrier"),
    **dict.fromkeys(("bra", "brx", "ret", "exit", "call", "trap"), "control"),
    **dict.fromkeys(("cvta", "isspacep"), "integer"),
    "mma": "tensor",
    "ldmatrix": "load shared",
    "stmatrix": "store shared",
    "cp": "asynchronous copy",
}
_ACCESSES = {"ld": "load", "ldu": "load", "st": "store", "atom": "atomic", "red": "atomic"}


def instruction_class(instruction: Instruction) -> str:
    """Return the class under which an instruction is counted, such as "FMA", "integer", "load global" or "tensor"."""
    opcode = instruction.opcode
    if opcode in _ACCESSES:
        spaces = ("global", "shared", "local", "param", "const")
        named = [m.split("::")[0] for m in instruction.modifiers if m.split("::")[0] in spaces]
        return f"{_ACCESSES[opcode]} {named[0] if named else 'generic'}"
    if opcode in _CLASSES:
        return _CLASSES[opcode]
    found = operation(opcode, instruction.modifiers, _has_pair(instruction))
    return "other" if found is None else _LANEWISE_CLASSES[found.kind]


def flops_of(instruction: Instruction) -> int:
    """Return the floating point operations of a thread; those of a matrix instruction are shared by its 32 threads."""
    if instruction.opcode == "mma":
        return matrix.matrix_multiply(instruction.modifiers).flops // WARP
    if instruction.opcode in _CLASSES or instruction.opcode in _ACCESSES:
        return 0
    found = operation(instruction.opcode, instruction.modifiers, _has_pair(instruction))
    return 0 if found is None else found.flops


def _has_pair(instruction: Instruction) -> bool:
    return bool(instruction.operands) and isinstance(instruction.operands[0], Pair)
