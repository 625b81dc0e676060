"""A trace of one block of a launch, or of one warp of it: line by line, which threads took part and what they touched.

A step is a run of instructions that one source line made and that the same threads executed one after the other. The
compiler orders instructions as it likes: a line may come again, and between the instructions of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.bulk_copies import CHUNK
from gpubp.emulator.device.memory import ARENA_BASE, MEMORY
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.device.warpgroup_products import M, Product
from gpubp.emulator.observe import shadow
from gpubp.emulator.observe.classes import flops_of
from gpubp.emulator.observe.findings import Finding
from gpubp.emulator.program.ptx import Instruction, Location

MOST_STEPS = 20_000
"""Steps that a trace keeps; what comes after them is counted in `Trace.lost` alone."""

Index = tuple[int, int, int]

_PLACE = re.compile(r"(the same block|block (\(\d+, \d+, \d+\))), thread (\(\d+, \d+, \d+\))")
"""A block and a thread, as every message of the emulated device names them."""


class Place(NamedTuple):
    """A thread of the grid: the index of its block, and its own in the block."""

    block: Index
    thread: Index


def places_in(message: str) -> list[Place]:
    """Return the threads that a message of the emulated device names: who does it, and for a race who else."""
    found: list[Place] = []
    for match in _PLACE.finditer(message):
        block = _index(match[2]) if match[2] else found[-1].block
        found.append(Place(block, _index(match[3])))
    return found


def _index(text: str) -> Index:
    x, y, z = map(int, text.strip("()").split(","))
    return x, y, z


@dataclass(frozen=True)
class TracedAccess:
    """What one memory instruction of a step touched.

    Attributes:
        space: "global", "shared", "local" or "const".
        kind: "load", "store", "atomic", "async" (a copy to shared memory has begun), "arrived" (it is there), "leaves"
            (a bulk copy out of shared memory has begun) or "product" (a warpgroup multiplies what lies there).
        nbytes: of one thread.
        threads: numbers of the threads in their block, (n,); -1 for one of another block of the cluster.
        addresses: (n,) device addresses in global memory, offsets in the block's shared memory, else in the space.
        units, least_units: 32-byte sectors of global memory or passes through the banks of shared memory, and the
            fewest that could do; 0 in other spaces.
    """

    space: str
    kind: str
    nbytes: int
    threads: Array
    addresses: Array
    units: int = 0
    least_units: int = 0


@dataclass
class TracedStep:
    """A run of instructions of one source line, by the same threads.

    Attributes:
        launch: the number of the launch in `Trace.launches`.
        location: of the line; None without line information.
        kind: "code", "arrive" (threads come to a barrier) or "open" (all are there, and go on).
        threads: (threads of the block,) bool.
        instructions: how many, each once for all threads.
        flops: of one thread.
        accesses: in order.
    """

    launch: int
    location: Location | None
    kind: str
    threads: Array
    instructions: int = 0
    flops: int = 0
    accesses: list[TracedAccess] = field(default_factory=list)

    @property
    def line(self) -> tuple[str, int] | None:
        """Return file and number of the line: the user's own, if a library's code made it."""
        return None if self.location is None else (self.location.own.file, self.location.own.line)


@dataclass(frozen=True)
class TracedLaunch:
    """A launch of which the block was traced.

    Attributes:
        kernel: its name.
        grid, block: their sides.
        shared: the variables in shared memory: offset, bytes, name.
        source: name and text of the source if it is in no file, else two empty texts.
    """

    kernel: str
    grid: Index
    block: Index
    shared: tuple[tuple[int, int, str], ...]
    source: tuple[str, str]


@dataclass(frozen=True)
class TracedFinding:
    """A finding, and the step in which it was seen."""

    finding: Finding
    step: int


class Trace:
    """Records what one block does, or one warp of it, in each launch of an `observe(trace=...)`.

    Args:
        block: its index in the grid.
        warp: the number of the warp in the block; None: all of them.

    Attributes:
        steps, launches, findings: what was recorded.
        lost: steps that did not fit (`MOST_STEPS`).
    """

    def __init__(self, block: Index = (0, 0, 0), warp: int | None = None) -> None:
        self.block, self.warp = block, warp
        self.steps: list[TracedStep] = []
        self.launches: list[TracedLaunch] = []
        self.findings: list[TracedFinding] = []
        self.lost = 0
        self._launched = 0
        self._machine: Machine | None = None  # that has the block
        self._lanes: slice | None = None  # of the block in the wave that runs

    # -- what the observer tells --------------------------------------------------------------------------------------

    def begin_launch(self) -> None:
        """A launch begins."""
        self._lanes = None
        self._launched += 1

    def begin_wave(self, machine: Machine) -> None:
        """New blocks are there: the traced one may be among them."""
        x, y, z = self.block
        width, height, depth = machine.grid
        number = (z * height + y) * width + x
        inside = x < width and y < height and z < depth
        if not (inside and machine.first_block <= number < machine.end_block):
            if self._machine is machine:
                self._machine = None
            return
        first = (number - machine.first_block) * machine.padded
        self._machine = machine
        self._lanes = slice(first, first + machine.threads)
        if len(self.launches) < self._launched:
            names = tuple((start, size, name) for start, size, name in machine.shared_layout.names)
            self.launches += [
                TracedLaunch(machine.program.name, machine.grid, machine.block, names, machine.source_text)
            ] * (self._launched - len(self.launches))

    def executes(self, machine: Machine, instruction: Instruction) -> None:
        """The active threads execute an instruction."""
        active = self._chosen(machine, machine.active.mask)
        if active is None:
            return
        kind = "arrive" if instruction.opcode in ("bar", "barrier") else "code"
        step = self._step(instruction.location, kind, active)
        step.instructions += 1
        step.flops += flops_of(instruction)

    def opens(self, machine: Machine, mask: Array) -> None:
        """The threads of `mask` have passed a barrier."""
        active = self._chosen(machine, mask)
        if active is not None:
            location = next((step.location for step in reversed(self.steps) if step.kind == "arrive"), None)
            self._step(location, "open", active)

    def accesses(self, machine: Machine, space: str, nbytes: int, kind: str, lanes: Array, pointers: Array) -> None:
        """These lanes access memory at these pointers of the host."""
        here = self._within(machine, lanes)
        if here is None or not self.steps or not here.any():
            return
        assert self._lanes is not None
        own, places = lanes[here], pointers[here].copy()
        totals = np.zeros(3, np.int64)
        if space == "global" and kind != "arrived":
            shadow.count_sectors(places, nbytes, own, own.size, totals)
        elif space == "shared" and kind != "arrived":
            shadow.count_conflicts(places, machine.shared_bases, nbytes, own, own.size, totals)
        if space in ("global", "const"):
            addresses = places - MEMORY.host_base + ARENA_BASE
        else:
            addresses = places - (machine.shared_bases if space == "shared" else machine.local_bases)[own]
        found = TracedAccess(space, kind, nbytes, own - self._lanes.start, addresses, int(totals[1]), int(totals[2]))
        self.steps[-1].accesses.append(found)

    def copies(self, machine: Machine, kind: str, lane: int, places: Iterable[tuple[int, int]], nbytes: int) -> None:
        """A lane's bulk copy reads or writes shared memory at these places: block of the wave, and offset."""
        if self._machine is not machine or self._lanes is None or not self.steps:
            return
        block, own = self._lanes.start // machine.padded, lane - self._lanes.start
        thread = own if 0 <= own < machine.threads else -1
        if self.warp not in (None, thread // WARP):
            return
        for there, address in places:
            if there == block:
                found = TracedAccess("shared", kind, nbytes, np.array([thread]), np.array([address]))
                self.steps[-1].accesses.append(found)

    def multiplies(self, machine: Machine, product: Product, lanes: Array) -> None:
        """Warps of a warpgroup have issued a product of what lies in shared memory."""
        here = self._within(machine, lanes)
        if here is None or not here.any() or not self.steps:
            return
        assert self._lanes is not None
        form = product.form
        parts = [(product.b, form.n, form.b_k_major)]
        if product.a is not None:
            parts.append((product.a, M, form.a_k_major))
        chunks = []
        for given, rows, k_major in parts:
            places, base = machine.products.places(product, given, rows, k_major)
            chunks.append(np.unique((base + places * form.item) // CHUNK))
        offsets = np.unique(np.concatenate(chunks)) * CHUNK
        thread = int(lanes[here][0]) - self._lanes.start
        found = TracedAccess("shared", "product", CHUNK, np.full(offsets.size, thread), offsets)
        self.steps[-1].accesses.append(found)

    def found(self, finding: Finding) -> None:
        """The observer has found something, in the step that runs."""
        if self.steps:
            self.findings.append(TracedFinding(finding, len(self.steps) - 1))

    # -- the steps ----------------------------------------------------------------------------------------------------

    def _within(self, machine: Machine, lanes: Array) -> Array | None:
        """Return which of these lanes are traced; None if the block is not in this machine."""
        if self._machine is not machine or self._lanes is None:
            return None
        inside = (lanes >= self._lanes.start) & (lanes < self._lanes.stop)
        if self.warp is not None:
            inside &= (lanes - self._lanes.start) // WARP == self.warp
        return inside

    def _chosen(self, machine: Machine, mask: Array) -> Array | None:
        """Return which threads of the block are in a mask over lanes; None if none of those that are traced is."""
        if self._machine is not machine or self._lanes is None:
            return None
        found = mask[self._lanes].copy()
        if self.warp is not None:
            found[: self.warp * WARP] = False
            found[(self.warp + 1) * WARP :] = False
        return found if found.any() else None

    def _step(self, location: Location | None, kind: str, threads: Array) -> TracedStep:
        launch = self._launched - 1
        last = self.steps[-1] if self.steps else None
        line = None if location is None else (location.own.file, location.own.line)
        if (
            last is not None
            and (last.launch, last.kind, last.line) == (launch, kind, line)
            and np.array_equal(last.threads, threads)
        ):
            return last
        made = TracedStep(launch, location, kind, threads)
        if len(self.steps) < MOST_STEPS:
            self.steps.append(made)
        else:
            self.lost += 1
        return made

    def by_thread(self, step: int, thread: int) -> Iterator[tuple[TracedAccess, int]]:
        """Yield what a thread accessed in a step, and the addresses."""
        for access in self.steps[step].accesses:
            for position in np.flatnonzero(access.threads == thread):
                yield access, int(access.addresses[position])

    def other_party(self, step: int, thread: int, other: int) -> int | None:
        """Return the step, at or before this one, in which another thread last accessed what this thread accesses
        in it; None if there is none."""
        mine = [(a.space, address, address + a.nbytes) for a, address in self.by_thread(step, thread)]
        for before in range(step, -1, -1):
            for access, address in self.by_thread(before, other):
                end = address + access.nbytes
                if any(access.space == space and address < last and end > first for space, first, last in mine):
                    return before
        return None
