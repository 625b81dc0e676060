"""What to watch while kernels run: `observe(races=True, uninitialised=True, traffic=True)` and the report it gives.

Races follow the CUDA memory model's idea of order within a launch: two accesses to the same bytes, of which one writes
and not both are strong (atomics; in programs with fences also volatile and relaxed accesses), that nothing orders:
neither their thread, nor a barrier of both threads, nor a hand-over by fences and strong accesses (clocks.py). An
execution of an instruction is reported once with each other instruction that it races with. Two stores of one value are
a kind of their own. What a thread did before it exited counts as known to those that pass a later barrier of its block.

Undefined values are followed bit by bit from memory that nothing has written to where they are used (definedness.py).
What was allocated before the observer was turned on counts as unwritten where it still holds the poison pattern.

Traffic is exact for the PTX: what the machine code does after ptxas, and what caches absorb, is not in these numbers.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.emulator.device import native
from gpubp.emulator.device.async_copies import PendingCopy
from gpubp.emulator.device.barriers import BARRIERS
from gpubp.emulator.device.bulk_copies import CHUNK, Copy
from gpubp.emulator.device.choices import Choices
from gpubp.emulator.device.lanewise import Bound
from gpubp.emulator.device.memory import ARENA_BASE, MEMORY, RESERVED, sparse_grown, sparse_zeros
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.device.warpgroup_products import Product
from gpubp.emulator.observe import shadow
from gpubp.emulator.observe.async_proxy import AsyncProxy
from gpubp.emulator.observe.classes import flops_of, instruction_class
from gpubp.emulator.observe.clocks import Arrival, Clock, Clocks, is_of_mbarrier, is_strong, orders_by_memory, width_of
from gpubp.emulator.observe.definedness import Definedness
from gpubp.emulator.observe.findings import ASYNC_ORDERS, Bytes, Finding, LineAccesses, Report
from gpubp.emulator.observe.suppressions import Suppression, line_of, reason_in
from gpubp.emulator.observe.suppressions import load as load_suppressions
from gpubp.emulator.observe.trace import Trace
from gpubp.emulator.observe.tracking import Tracker
from gpubp.emulator.program.cfg import Block
from gpubp.emulator.program.ptx import TYPE_BYTES, Instruction, Location, Vector
from gpubp.errors import ArgumentError

_KINDS = {"load": shadow.LOAD, **dict.fromkeys(("store", "atomic", "async", "free"), shadow.STORE)}
_VERBS = {"load": "reads", "store": "writes", "atomic": "updates", "async": "copies to", "free": "frees"}
_ROOM = 1024
"""Races of one instruction that are looked at in one go, if a single access cannot have more."""
SECTOR = 32
"""Bytes that global memory moves at once."""
_PASS = 128
"""Bytes that the banks of shared memory move at once."""
_MOST_CELLS = 32
"""Cells of the shadow that one access covers: its bytes."""


# -- turning observers on ---------------------------------------------------------------------------------------------

_CURRENT: list[Observer] = []


def current() -> Observer | None:
    """Return the observer in force, if any."""
    return _CURRENT[-1] if _CURRENT else None


@contextlib.contextmanager
def observe(
    races: bool = False,
    uninitialised: bool = False,
    traffic: bool = False,
    suppressions: str | Path | None = None,
    order: int | None = None,
    async_order: str = ASYNC_ORDERS[0],
    strict: bool = False,
    trace: Trace | None = None,
) -> Iterator[Report]:
    """Watch the launches within the `with` block.

    Args:
        races: look for data races in shared and global memory, and for reads of unfinished asynchronous copies.
        uninitialised: look for uses of memory, and of variables, that nothing has written.
        traffic: count instructions, flops, bytes, sectors and bank conflicts.
        suppressions: a TOML file of findings that are intended; comments in kernels work without (suppressions.py).
        order: a seed ≥ 0, for threads, warps and blocks to take turns in another order that a GPU might take
            (choices.py). The same seed gives the same order again; errors and the report name it.
        async_order: when bulk copies and the products of warpgroups access memory: "late", when somebody waits for
            them and no thread can go on, or "early", when they are issued. Late is also the order without observers.
        strict: with `races`, ask for a proxy fence also between what threads read and a bulk copy that overwrites it,
            as the PTX ISA does and much code does not.
        trace: records what one block does, line by line (trace.py).

    Raises:
        ArgumentError: the file of suppressions is none, the seed is no whole number ≥ 0, or async_order is another.

    Yields the Report, which fills as launches end.
    """
    known = [] if suppressions is None else load_suppressions(suppressions)
    if async_order not in ASYNC_ORDERS:
        raise ArgumentError("async_order", async_order, " or ".join(map(repr, ASYNC_ORDERS)))
    choices = None if order is None else Choices(order)
    early = async_order != ASYNC_ORDERS[0]
    observer = Observer(races, uninitialised, traffic, known, choices, early, strict, trace)
    outer = MEMORY.watcher, MEMORY.reader
    if uninitialised:
        MEMORY.watcher, MEMORY.reader = observer.memory.memory_changed, observer.host_reads
    _CURRENT.append(observer)
    try:
        yield observer.report
    except Exception as error:
        if order is not None:
            error.add_note(f"The order of execution was that of observe(order={order}).")
        raise
    finally:
        _CURRENT.pop()
        MEMORY.watcher, MEMORY.reader = outer
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
    strong: bool
    threads: int = 0
    totals: Array = field(default_factory=lambda: np.zeros(3, np.int64))


class _Watched:
    """The observer's state for one machine."""

    def __init__(self, machine: Machine, memory: Definedness) -> None:
        # by line and class, flops a thread, threads so far
        self.counts: list[tuple[Counter[tuple[Location | None, str]], int, list[int]]] = []
        lanes = machine.lanes
        self.by_memory = orders_by_memory(machine.program)
        uses = machine.uses
        asynchronous = uses.bulk_copies or uses.wgmma or machine.cluster_size > 1
        self.unit = machine.padded * machine.cluster_size  # threads that share shared memory
        width = self.unit if asynchronous else width_of(machine.program, machine.padded, self.by_memory)
        self.clocks = Clocks(machine.blocks // machine.cluster_size, self.unit, width, asynchronous)
        self.threads = np.zeros(lanes, np.int32)  # of the grid, from 1
        self.firsts = np.zeros(lanes, np.int32)  # the first thread of each one's block
        self.bits = {space: _granularity(machine, space) for space in ("shared", "global")}
        # one access alone may fill so many: for each cell a writer, two readers, and every thread of the block
        self.found = np.zeros((max(_ROOM, _MOST_CELLS * (3 + self.unit)), shadow.FOUND), np.int64)
        self.no_reads = np.zeros((0, 0), np.int32)
        self.shared_reads = self.no_reads
        self.places: dict[int, Clock] = {}  # what was published where in shared memory, by host address
        shape = machine.shared.shape
        self.shared_cells = np.zeros((0, shadow.CELL), np.int32)
        self.shared_size = shape[0] * shape[1]
        self.tracker = Tracker(memory, machine)
        self.asynchronous = asynchronous
        self.proxy: AsyncProxy | None = None  # if races are looked for


def _granularity(machine: Machine, space: str) -> int:
    """Return log2 of the fewest bytes that an instruction of the program accesses at once in a space."""
    least = 8
    for block in machine.program.blocks:
        for instruction in block.instructions:
            if instruction.opcode not in ("ld", "ldu", "st", "atom", "red", "cp", "wmma"):
                continue
            spaces = {modifier.split("::")[0] for modifier in instruction.modifiers}
            named = spaces & {"shared", "global", "local", "param", "const"}
            if named and space not in named:
                continue
            least = min(least, TYPE_BYTES.get(instruction.modifiers[-1], 4) if instruction.opcode != "cp" else 4)
    return least.bit_length() - 1


class Observer:
    """Collects into a Report what the launches of one `observe` block do."""

    def __init__(
        self,
        races: bool,
        uninitialised: bool,
        traffic: bool,
        suppressions: Sequence[Suppression] = (),
        choices: Choices | None = None,
        early: bool = False,
        strict: bool = False,
        trace: Trace | None = None,
    ) -> None:
        self.early = early
        self.strict = strict
        self.suppressions = suppressions
        self.trace = trace
        self.choices = choices
        self.races = races
        self.uninitialised = uninitialised
        self.traffic = traffic
        self.report = Report(order=None if choices is None else choices.seed)
        self.waves: OrderedDict[tuple[object, ...], Any] = OrderedDict()  # of the launches under this observer
        self._watched: dict[Machine, _Watched] = {}
        self._sites: list[_Site] = []
        self._site_of: dict[tuple[int, str, str], _Site] = {}
        self._findings: dict[tuple[Any, ...], Finding] = {}
        self._lines: dict[tuple[Any, ...], LineAccesses] = {}
        self._places: dict[int, Clock] = {}  # what was published where in memory, by host address
        self._global_cells = np.zeros((0, shadow.CELL), np.int32)
        self._touched = {name: np.zeros(0, np.uint8) for name in ("read", "written")}  # sectors of global memory
        self._footprint = dict.fromkeys(self._touched, 0)  # how many of them
        self.memory = Definedness(self._found, uninitialised)
        self._global_bits = 0  # log2 of the bytes that a cell stands for

    def take_report(self) -> Report:
        """Return the report so far and begin another, in which what was found before may be found again."""
        taken = self.report
        self.report = Report(order=taken.order)
        self._findings, self._lines = {}, {}
        self._touched = {name: np.zeros(0, np.uint8) for name in self._touched}
        self._footprint = dict.fromkeys(self._touched, 0)
        return taken

    def release(self) -> None:
        """Let go of all but the report: machines and observer refer to each other, and their arrays are large."""
        self.waves.clear()
        self._watched.clear()
        self._global_cells = np.zeros((0, shadow.CELL), np.int32)
        self._touched.clear()
        self.memory.release()

    # -- the host -----------------------------------------------------------------------------------------------------

    def host_reads(self, address: int, nbytes: int) -> None:
        """The host reads memory."""
        self.memory.host_reads(address, nbytes)
        self._publish()

    def note_view(self, kernel: str, position: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        """A kernel is given an array as a pointer alone, which says nothing of its strides."""
        key = ("strides", kernel, position)
        if key not in self._findings:
            message = (
                f"kernel {kernel}: argument {position} is an array of shape {shape} and strides {strides}, of which "
                "the kernel gets the pointer alone: it must know the strides"
            )
            self._add_finding(None, key, Finding("strides", kernel, None, message, 0))
        self._findings[key].count += 1

    # -- launches and waves -------------------------------------------------------------------------------------------

    def begin_launch(self, machine: Machine) -> None:
        """Forget who accessed what in the launch before."""
        if self.trace is not None:
            self.trace.begin_launch()
        watched = self._state(machine)
        if self.uninitialised:
            self.memory.cover(MEMORY.extent)
            self.memory.memory_changed(machine.parameter_address, machine.parameter_bytes.size, True)
        if self.races:
            self._global_bits = watched.bits["global"]
            del self._global_cells  # before there are two of them
            cells = (2 * MEMORY.extent >> self._global_bits) + 1  # with room for what the kernel allocates
            self._global_cells = sparse_zeros((cells, shadow.CELL), np.int32)
            self._places.clear()
        self.report.launches[machine.program.name] += 1

    def begin_wave(self, machine: Machine) -> None:
        """New blocks: fresh shared and local memory, and barrier counts from zero."""
        if self.trace is not None:
            self.trace.begin_wave(machine)
        watched = self._state(machine)
        lane = np.arange(machine.lanes)
        watched.threads[:] = machine.first_block * machine.padded + lane + 1
        watched.firsts[:] = watched.threads - lane % watched.unit
        if self.races:
            watched.clocks.begin(machine.first_block // machine.cluster_size)
            watched.places.clear()
            cells = (watched.shared_size >> watched.bits["shared"]) + 1
            watched.shared_cells = np.zeros((cells, shadow.CELL), np.int32)
            if watched.clocks.known.shape[1]:
                watched.shared_reads = np.zeros((cells, watched.unit), np.int32)
            if watched.proxy is not None:
                watched.proxy.begin_wave()
        if self.races or self.uninitialised:
            watched.tracker.begin_wave()

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
        self.report.footprint = Bytes(**{name: SECTOR * count for name, count in self._footprint.items()})
        self._publish()

    def _publish(self) -> None:
        """Give the report what was found so far."""
        report = self.report
        found = self._findings.values()
        report.findings[:] = [finding for finding in found if not finding.reason]
        report.suppressed[:] = [finding for finding in found if finding.reason]

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
            watched = self._watched[machine] = _Watched(machine, self.memory)
            if self.races and watched.asynchronous:
                watched.proxy = AsyncProxy(
                    machine,
                    watched.clocks,
                    lambda: (watched.shared_cells, watched.bits["shared"], watched.shared_reads),
                    lambda number: self._sites[number].instruction,
                    self._async_found,
                    self.strict,
                )
        return self._watched[machine]

    # -- barriers and fences ------------------------------------------------------------------------------------------

    def block_barrier(self, machine: Machine, mask: Array, barriers: Array | None = None) -> None:
        """The threads of `mask` have passed barriers of their blocks.

        Those at a barrier that counts threads name it in `barriers`, which is -1 for the others: they are all.
        """
        if self.trace is not None:
            self.trace.opens(machine, mask)
        if not self.races:
            return
        clocks = self._state(machine).clocks
        if machine.cluster_size > 1:
            self._barriers_in_cluster(machine, clocks, mask, barriers)
            return
        if barriers is not None:
            mask = mask.copy()
            for block in np.unique(machine.block_of_lane[mask & (barriers >= 0)]):
                first = int(block) * machine.padded
                lanes = first + np.flatnonzero(mask[first : first + machine.padded])
                found = np.unique(barriers[lanes])
                if lanes.size == machine.threads and found.size == 1:
                    continue  # the whole block
                for barrier in found:
                    clocks.some_barrier(lanes[barriers[lanes] == barrier], int(barrier))
                mask[lanes] = False
        if mask.any():
            clocks.block_barrier(mask)

    def _barriers_in_cluster(self, machine: Machine, clocks: Clocks, mask: Array, barriers: Array | None) -> None:
        """The threads of `mask` have passed barriers of their blocks, which are parts of clusters."""
        for block in np.unique(machine.block_of_lane[mask]).tolist():
            first = block * machine.padded
            lanes = first + np.flatnonzero(mask[first : first + machine.padded])
            numbers = np.full(lanes.size, -1) if barriers is None else barriers[lanes]
            for number in np.unique(numbers).tolist():
                # A barrier that counts no threads has got no arrivals of others.
                key = number + BARRIERS * block if number >= 0 else -1 - block
                clocks.some_barrier(lanes[numbers == number], key)

    def barrier_arrived(self, machine: Machine, lanes: Array, barriers: Array) -> None:
        """Lanes have arrived at barriers, one each, without waiting."""
        if self.races:
            of_block = BARRIERS * machine.block_of_lane[lanes] if machine.cluster_size > 1 else 0
            self._state(machine).clocks.arrive(lanes, barriers + of_block)

    def cluster_arrived(self, machine: Machine, lanes: Array, numbers: Array, phases: Array, releases: bool) -> None:
        """Lanes have arrived at the barriers of their clusters, which are numbered below 0, in phases of theirs."""
        if self.races:
            clocks = self._state(machine).clocks
            clocks.arrive_in_phases(numbers, phases, clocks.arrivals(lanes, releases))

    def cluster_passed(self, machine: Machine, lanes: Array, numbers: Array, phases: Array) -> None:
        """Lanes have passed the barriers of their clusters, which are in these phases now."""
        if self.races:
            self._state(machine).clocks.pass_phases(lanes, numbers, phases)

    def warp_barrier(self, machine: Machine, mask: Array, members: Array) -> None:
        """The threads of `mask` have passed bar.warp.sync, each with those of its warp that `members` names."""
        if self.races:
            lanes = np.flatnonzero(mask)
            self._state(machine).clocks.warp_barrier(lanes, members[lanes])

    def mbarrier_clocks(self, machine: Machine, lanes: Array, releases: bool) -> list[Arrival] | None:
        """Return what lanes make known to others as they arrive at mbarriers; None if nobody wants to know."""
        return self._state(machine).clocks.arrivals(lanes, releases) if self.races else None

    def mbarrier_arrived(self, machine: Machine, slots: Array, phases: Array, clocks: list[Arrival] | None) -> None:
        """Threads with these clocks have arrived at mbarriers, which are numbered, in phases of theirs."""
        if clocks is not None:
            self._state(machine).clocks.arrive_in_phases(slots, phases, clocks)

    def mbarrier_waited(self, machine: Machine, lanes: Array, slots: Array, phases: Array) -> None:
        """Lanes have found that mbarriers are in these phases, and that theirs are over."""
        if self.races:
            watched = self._state(machine)
            if watched.proxy is not None:
                watched.proxy.first_waits(lanes, slots, phases)
            watched.clocks.pass_phases(lanes, slots, phases)
            if watched.proxy is not None:
                watched.proxy.phases_over(lanes, slots, phases)

    def mbarriers_made(self, machine: Machine, instruction: Instruction, lanes: Array, slots: Array) -> None:
        """Lanes have made new mbarriers, where others may have been."""
        if self.races:
            watched = self._state(machine)
            watched.clocks.forget_phases(slots)
            if watched.proxy is not None:
                watched.proxy.gone(lanes, slots, instruction)

    def mbarrier_arrives(
        self, machine: Machine, instruction: Instruction, lanes: Array, slots: Array, phases: Array
    ) -> None:
        """Lanes arrive at mbarriers, in phases of theirs."""
        if (proxy := self.proxy(machine)) is not None:
            proxy.arriving(instruction, lanes, slots, phases)

    # -- the async proxy ----------------------------------------------------------------------------------------------

    def proxy(self, machine: Machine) -> AsyncProxy | None:
        """Return what follows the machine's asynchronous operations, if this observer does."""
        return self._state(machine).proxy if self.races else None

    def _async_found(
        self, machine: Machine, kind: str, instruction: Instruction, key: tuple[Any, ...], message: Callable[[], str]
    ) -> None:
        """Add what async_proxy.py finds, once for each line and other party."""
        others = tuple(id(one) if isinstance(one, Instruction) else one for one in key)
        whole = (kind, machine.program.name, instruction.location or instruction.text, others)
        if whole not in self._findings:
            finding = Finding(kind, machine.program.name, instruction.location, message(), 0)
            self._add_finding(machine, whole, finding)
        self._findings[whole].count += 1

    def proxy_fence(self, machine: Machine, instruction: Instruction) -> None:
        """The active lanes have executed a fence of the async proxy, or of new mbarriers."""
        if (proxy := self.proxy(machine)) is None:
            return
        lanes = machine.active.lanes
        if "mbarrier_init" in instruction.modifiers:
            proxy.inits_fenced(lanes)
        elif "async" in instruction.modifiers:
            self._state(machine).clocks.proxy_fence(lanes)

    def hooks(self, machine: Machine, instruction: Instruction) -> bool:
        """Return True if the instruction accesses registers of a product of a warpgroup."""
        proxy = self.proxy(machine)
        return proxy is not None and proxy.names is not None and proxy.names.step(instruction, print) is not None

    def hooked(self, machine: Machine, instruction: Instruction, bound: Bound) -> Bound:
        """Return an instruction that first tells of accesses to registers of products."""
        proxy = self.proxy(machine)
        return bound if proxy is None else proxy.hooked(instruction, bound)

    def peer_accessed(self, machine: Machine, instruction: Instruction, lanes: Array, blocks: Array) -> None:
        """Lanes have accessed shared memory of other blocks of their cluster."""
        if (proxy := self.proxy(machine)) is not None:
            proxy.peer(instruction, lanes, blocks)

    def threads_ended(self, machine: Machine) -> None:
        """Threads of a machine with clusters have ended."""
        if (proxy := self.proxy(machine)) is None:
            return
        over = ~machine.live.reshape(machine.blocks, -1).any(axis=1) & ~proxy.ended
        proxy.ended |= over
        proxy.ends(np.flatnonzero(over).tolist())

    def bulk_issued(self, machine: Machine, copy: Copy) -> None:
        """A thread has issued a bulk copy, of which nothing has happened yet."""
        if self.trace is not None:
            self.trace.copies(machine, "leaves" if copy.stores else "async", copy.lane, copy.here, copy.nbytes)
        watched = self._state(machine)
        if self.traffic:
            self._count_copy(machine, copy)
        if watched.proxy is not None:
            watched.proxy.copy_issued(copy)
            watched.tracker.bulk_issued(copy)
            if not copy.stores and copy.box is not None:
                self._global_box(machine, copy, "load")

    def bulk_arrived(self, machine: Machine, copy: Copy) -> None:
        """A bulk copy has written shared memory."""
        if self.trace is not None:
            self.trace.copies(machine, "arrived", copy.lane, copy.here, copy.nbytes)
        if self.races or self.uninitialised:
            self._state(machine).tracker.bulk_arrived(copy)

    def bulk_bytes_arrived(self, machine: Machine, copy: Copy, slot: int, phase: int, found: int) -> None:
        """The bytes of a copy that was issued in a phase of an mbarrier have arrived in the phase `found`."""
        proxy = self.proxy(machine)
        if proxy is not None and phase != found:
            proxy.bytes_arrived(copy, slot, phase, found)

    def bulk_source_read(self, machine: Machine, copy: Copy) -> None:
        """A bulk copy to global memory has read its source."""
        if self.uninitialised:
            self._state(machine).tracker.bulk_read(copy)

    def bulk_stored(self, machine: Machine, copy: Copy) -> None:
        """A bulk copy has written global memory."""
        if self.uninitialised:
            self._state(machine).tracker.bulk_stored(copy)
        if self.races:
            self._global_box(machine, copy, "store" if copy.reduction is None else "atomic")

    def bulk_waited(self, machine: Machine, copy: Copy, reads: bool) -> None:
        """A thread has waited for its copy to global memory, or (`reads`) for its source to be read."""
        if (proxy := self.proxy(machine)) is not None:
            proxy.copy_waited(copy, reads)

    def bulk_over(self, machine: Machine) -> None:
        """All threads have ended, and with them all copies."""
        if (proxy := self.proxy(machine)) is not None:
            proxy.copies_over()

    def _count_copy(self, machine: Machine, copy: Copy) -> None:
        """Count what a bulk copy moves, in pieces of 16 bytes, as if a thread moved each."""
        reads = "atomic" if copy.reduction is not None else "store" if copy.stores else "load"
        shared = len(copy.here) * copy.nbytes
        self._count_moved(machine, copy, "shared", "load" if copy.stores else "store", shared, -(-shared // _PASS))
        if copy.box is None:
            self._count_moved(machine, copy, "shared", "load", copy.nbytes, -(-copy.nbytes // _PASS))
            return
        places = copy.box.places()
        sectors = np.unique(places // SECTOR) * SECTOR - ARENA_BASE + MEMORY.host_base
        self._count_moved(machine, copy, "global", reads, places.size * copy.box.item, sectors.size)
        for name in {"load": ("read",), "store": ("written",), "atomic": ("read", "written")}[reads]:
            self._touch(name, sectors, 1, sectors.size)

    def _count_moved(self, machine: Machine, copy: Copy, space: str, kind: str, nbytes: int, units: int) -> None:
        key = (id(copy.instruction), space, f"bulk {kind}")
        if key not in self._site_of:
            site = _Site(len(self._sites), machine.program.name, copy.instruction, space, kind, CHUNK, False)
            self._sites.append(site)
            self._site_of[key] = site
        site = self._site_of[key]
        site.threads += -(-nbytes // CHUNK)
        site.totals += (1, units, -(-nbytes // (SECTOR if space == "global" else _PASS)))

    def _global_box(self, machine: Machine, copy: Copy, kind: str) -> None:
        """Look for races of what a bulk copy does with global memory, as if its thread did it."""
        assert copy.box is not None
        pointers = copy.box.places() - ARENA_BASE + MEMORY.host_base
        watched = self._state(machine)
        nbytes = max(copy.box.item, 1 << watched.bits["global"])
        pointers = pointers[pointers % nbytes == 0]
        if pointers.size:
            site = self._site(machine, copy.instruction, "global", nbytes, kind)
            lanes = np.full(pointers.size, copy.lane)
            self._check_races(machine, watched, site, pointers, lanes, False, lanes.size)

    def product_fence(self, machine: Machine) -> None:
        """The active warps have executed wgmma.fence."""
        proxy = self.proxy(machine)
        if proxy is not None and proxy.names is not None:
            proxy.names.fence()

    def product_issued(self, machine: Machine, product: Product, lanes: Array) -> None:
        """Warps have issued a product of their warpgroup."""
        if (proxy := self.proxy(machine)) is not None:
            proxy.product_issued(product, lanes)
        if self.trace is not None:
            self.trace.multiplies(machine, product, lanes)

    def product_read(self, machine: Machine, product: Product) -> None:
        """A product has read its operands."""
        if self.uninitialised:
            self._state(machine).tracker.product_read(product)

    def product_waited(self, machine: Machine, product: Product, lanes: Array) -> None:
        """Warps have waited for a product."""
        if (proxy := self.proxy(machine)) is not None:
            proxy.product_waited(product, lanes)

    def product_left(self, machine: Machine, product: Product) -> None:
        """All threads have ended, and nobody has waited for a product."""
        if (proxy := self.proxy(machine)) is not None:
            proxy.product_left(product)

    def fence(self, machine: Machine) -> None:
        """The active lanes have executed a fence."""
        if self.races:
            self._state(machine).clocks.fence(machine.active.lanes)

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

    def traced(self, machine: Machine, instruction: Instruction) -> Callable[[], None] | None:
        """Return what is to be done before each execution of an instruction for the trace, None without one."""
        trace = self.trace
        return None if trace is None else lambda: trace.executes(machine, instruction)

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
            if watched.proxy is not None and not is_of_mbarrier(instruction):
                step_of = watched.proxy.thread_step if space == "shared" else watched.proxy.global_step
                steps.append(step_of(instruction, nbytes, kind))
        if self.uninitialised or self.races:
            step = watched.tracker.watch(instruction, space, nbytes, kind)
            steps += [] if step is None else [step]
        if self.trace is not None:
            # first: what is found of an access is found in its step
            steps.insert(0, self._trace_step(machine, space, nbytes, kind, self.trace))

        def run(pointers: Array) -> None:
            for step in steps:
                step(pointers)

        return run if steps else None

    def _trace_step(
        self, machine: Machine, space: str, nbytes: int, kind: str, trace: Trace
    ) -> Callable[[Array], None]:
        def note(pointers: Array) -> None:
            active = machine.active
            trace.accesses(machine, space, nbytes, kind, active.lanes, pointers[: active.count])

        return note

    def _site(self, machine: Machine, instruction: Instruction, space: str, nbytes: int, kind: str) -> _Site:
        """Return the site of an instruction, which the machines of a kernel share."""
        key = (id(instruction), space, kind)
        if key not in self._site_of:
            strong = kind == "atomic" or (is_strong(instruction) and self._state(machine).by_memory)
            if instruction.opcode == "mbarrier":
                # All but init. As for inval: libcu++'s pipelines leave it to a warp's convergence that nobody waits.
                strong = instruction.modifiers[0] != "init"
            site = _Site(len(self._sites), machine.program.name, instruction, space, kind, nbytes, strong)
            self._sites.append(site)
            self._site_of[key] = site
        return self._site_of[key]

    def _traffic_step(self, machine: Machine, site: _Site) -> Callable[[Array], None]:
        moves = {"load": ("read",), "atomic": ("read", "written")}.get(site.kind, ("written",))

        def count(pointers: Array) -> None:
            active = machine.active
            site.threads += active.count
            if site.space == "global":
                shadow.count_sectors(pointers, site.nbytes, active.lanes, active.count, site.totals)
                for name in moves:
                    self._touch(name, pointers, site.nbytes, active.count)
            elif site.space == "shared":
                shadow.count_conflicts(
                    pointers, machine.shared_bases, site.nbytes, active.lanes, active.count, site.totals
                )

        return count

    def _touch(self, name: str, pointers: Array, nbytes: int, count: int) -> None:
        """Note the sectors of global memory that accesses read or write."""
        sectors = -(-MEMORY.extent // SECTOR)
        if self._touched[name].size < sectors:
            self._touched[name] = sparse_grown(self._touched[name], 2 * sectors)
        touched = self._touched[name]
        self._footprint[name] += shadow.touch(pointers, MEMORY.host_base, nbytes, count, touched)

    def _race_step(self, machine: Machine, watched: _Watched, site: _Site) -> Callable[[Array], None]:
        orders = watched.by_memory and site.strong and not is_of_mbarrier(site.instruction)
        stored = _stored(machine, site)
        places = self._places if site.space == "global" else watched.places
        # Of CUDA's own use of shared memory, behind all other, only what it orders is looked at: cooperative groups
        # take a shuffle for a barrier.
        reserved = machine.shared_layout.addresses.get(RESERVED) if site.space == "shared" else None

        def check(pointers: Array) -> None:
            active = machine.active
            own = reserved is not None and self._in_block(machine, pointers[: active.count]).min() >= reserved
            if not own:
                self._check_races(machine, watched, site, pointers, active.lanes, active.whole, active.count, stored)
            if orders:
                watched.clocks.follow(places, site.instruction, site.kind, active.lanes, pointers)

        return check

    def _in_block(self, machine: Machine, pointers: Array) -> Array:
        """Return where in its block's shared memory each pointer is."""
        return (pointers - machine.shared.ctypes.data) % machine.shared.shape[1]

    def _check_races(
        self,
        machine: Machine,
        watched: _Watched,
        site: _Site,
        pointers: Array,
        lanes: Array,
        whole: bool,
        count: int,
        stored: list[Array] | None = None,
    ) -> None:
        shared = site.space == "shared"
        cells = watched.shared_cells if shared else self._global_cells
        base = machine.shared.ctypes.data if shared else MEMORY.host_base
        clocks = watched.clocks
        start = 0
        while start < count:
            start, races = shadow.check_races(
                cells,
                watched.bits[site.space],
                base,
                pointers,
                site.nbytes,
                watched.threads,
                watched.firsts,
                clocks.number,
                clocks.floor,
                clocks.known,
                watched.shared_reads if shared else watched.no_reads,
                watched.by_memory,
                watched.unit,
                lanes,
                whole,
                start,
                count,
                _KINDS[site.kind],
                2 * site.number + site.strong,
                watched.found,
            )
            if races:
                self._add_races(machine, watched, site, pointers, lanes, watched.found[:races], stored)

    def _add_races(
        self,
        machine: Machine,
        watched: _Watched,
        site: _Site,
        pointers: Array,
        lanes: Array,
        found: Array,
        stored: list[Array] | None,
    ) -> None:
        """Report what the race detector has found, but for what was handed over by memory."""
        if watched.by_memory:
            clocks = watched.clocks
            blocks, threads = np.divmod(found[:, shadow.OTHER] - 1, watched.unit)
            asking = lanes[found[:, shadow.POSITION]]
            details = zip(
                asking.tolist(), blocks.tolist(), threads.tolist(), found[:, shadow.NUMBER].tolist(), strict=True
            )
            ordered = np.array([clocks.knows(*detail) for detail in details])
            found = found[~ordered]
        same = found[:, shadow.WROTE] & (
            False if stored is None else _same_values(site, stored, pointers, lanes, found)
        )
        kinds = 2 * (found[:, shadow.SITE] >> 1) + same
        for kind in np.unique(kinds):
            alike = found[kinds == kind]
            self._add_race(machine, site, int(lanes[alike[0, shadow.POSITION]]), alike[0], bool(kind & 1), len(alike))

    def _add_race(
        self,
        machine: Machine,
        site: _Site,
        lane: int,
        found: Array,
        same: bool,
        times: int,
    ) -> None:
        other = self._sites[int(found[shadow.SITE]) >> 1]
        kind = "same-value race" if same else "race"
        key = (kind, machine.program.name, site.instruction, other.instruction)
        if key not in self._findings:
            thread, wrote = int(found[shadow.OTHER]) - 1, bool(found[shadow.WROTE])
            message = self._race_message(machine, site, other, lane, thread, wrote)
            if same:
                message += "; both write the same value"
            self._add_finding(machine, key, Finding(kind, site.kernel, site.instruction.location, message, 0))
        self._findings[key].count += times

    def _race_message(self, machine: Machine, site: _Site, other: _Site, lane: int, thread: int, wrote: bool) -> str:
        block, index = machine.thread_of_grid(thread)
        verb = _VERBS[site.kind]
        where = "the same block" if block == machine.block_index(lane) else f"block {block}"
        other_verb = "frees" if other.kind == "free" else "writes" if wrote else "reads"
        return (
            f"{machine.where(site.instruction, lane)} {verb} {site.space} memory that {where}, thread {index} "
            f"{other_verb} at {other.instruction.location or other.instruction.text}, with nothing to order the two"
        )

    def _found(
        self,
        machine: Machine | None,
        kind: str,
        kernel: str,
        place: Location | str,
        message: Callable[[], str],
    ) -> None:
        """Add what definedness.py and tracking.py find, once for each line."""
        key = (kind, kernel, place)
        if key not in self._findings:
            location = None if isinstance(place, str) else place
            self._add_finding(machine, key, Finding(kind, kernel, location, message(), 0))
        self._findings[key].count += 1

    def _add_finding(self, machine: Machine | None, key: tuple[Any, ...], finding: Finding) -> None:
        """Add a finding, with the reason if it is suppressed."""
        source = "" if machine is None or finding.location is None else machine.source_of(finding.location.own.file)
        finding.code = line_of(source, finding)
        reasons = (one.reason for one in self.suppressions if one.covers(finding))
        finding.reason = next(reasons, "") or reason_in(source, finding) or ""
        self._findings[key] = finding
        if self.trace is not None and not finding.reason:
            self.trace.found(finding)

    def tracker(self, machine: Machine) -> Tracker | None:
        """Return what follows the machine's undefined values, if this observer does."""
        return self._state(machine).tracker if self.uninitialised else None

    def block_allocated(self, address: int, nbytes: int) -> None:
        """A kernel has allocated memory: nobody has accessed it yet."""
        if self.races and self._global_cells.size:
            bits = self._global_bits
            first = (address - ARENA_BASE) >> bits
            end = first + (nbytes >> bits) + 1
            if end > self._global_cells.shape[0]:
                self._global_cells = sparse_grown(self._global_cells, 2 * end)
            self._global_cells[first:end] = 0

    def block_freed(self, machine: Machine, instruction: Instruction, lane: int, address: int, nbytes: int) -> None:
        """A lane has freed a block of the heap: to the detector of races it has written all of it."""
        if self.races:
            size = 1 << self._global_bits
            site = self._site(machine, instruction, "global", size, "free")
            first = MEMORY.host_base + address - ARENA_BASE
            pointers = np.arange(first, first + nbytes, size)
            lanes = np.full(pointers.size, lane)
            self._check_races(machine, self._state(machine), site, pointers, lanes, False, lanes.size)

    def copy_completed(self, machine: Machine, copy: PendingCopy, writes: bool) -> None:
        """Asynchronous copies of these lanes are complete: they have written now (`writes`), or when they were issued.

        A copy for which an mbarrier waits has written when it was issued, as far as others can know: its thread need
        not know that it is complete.
        """
        watched = self._state(machine)
        if self.trace is not None:
            self.trace.accesses(machine, "shared", copy.data.shape[1], "arrived", copy.lanes, copy.targets)
        if self.races or self.uninitialised:
            watched.tracker.copy_completed(copy.targets, copy.data.shape[1], copy.undefined)
        if self.races and writes:
            site = self._site(machine, copy.instruction, "shared", copy.data.shape[1], "async")
            self._check_races(machine, watched, site, copy.targets, copy.lanes, False, copy.lanes.size)


def _stored(machine: Machine, site: _Site) -> list[Array] | None:
    """Return what a plain store writes, item by item, as arrays over lanes; None for other instructions."""
    instruction = site.instruction
    if instruction.opcode != "st":
        return None
    value = instruction.operands[1]
    items = value.items if isinstance(value, Vector) else (value,)
    dtype = np.dtype(f"u{TYPE_BYTES[instruction.modifiers[-1]]}")
    return [machine.lanes_of(item, dtype) for item in items]


def _same_values(site: _Site, stored: list[Array], pointers: Array, lanes: Array, found: Array) -> Array:
    """Return which of the found writes wrote what the store writes now, whose lanes write one after the other."""
    position = found[:, shadow.POSITION]
    mine = np.concatenate([items[lanes].reshape(-1, 1).view(np.uint8) for items in stored], axis=1)
    theirs = np.empty((position.size, site.nbytes), np.uint8)
    native.read_bytes(pointers[position], np.full(position.size, site.nbytes), theirs)
    if (found[:, shadow.SITE] >> 1 == site.number).any():
        # The last lane before that wrote the place in this same step, if there is one, has not done it yet.
        last: dict[int, int] = {}
        before = np.full(lanes.size, -1)
        for index, pointer in enumerate(pointers[: lanes.size].tolist()):
            before[index] = last.get(pointer, -1)
            last[pointer] = index
        now = before[position]
        theirs[now >= 0] = mine[now[now >= 0]]
    return (mine[position] == theirs).all(axis=1)
