"""What orders threads and the engines that work for them: bulk copies and products of warpgroups.

Such an operation accesses shared memory from its issue on until some thread finds it complete: at the mbarrier that got
the last bytes of a copy, at the wait for a bulk group, or at the wait for a group of products. So a thread may touch
that memory if it knows of the completion: if it has found it itself, or knows of an access of one who has (clocks.py).
What threads have accessed before must be known to the one that issues, and what they have written must be handed to
the other proxy besides, by a fence that lies between the two (PTX ISA, "Async proxy"). None of this depends on when the
engines do their work.

A chunk of 16 bytes remembers the last operation that writes it, and those that read it since. How threads accessed it
stands in the cells of the race detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.bulk_copies import CHUNK, Copy
from gpubp.emulator.device.lanewise import Action, Bound
from gpubp.emulator.device.memory import ARENA_BASE, MEMORY
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.device.warpgroup_products import WARPS, M, Product, holders
from gpubp.emulator.loops import loop
from gpubp.emulator.observe import shadow
from gpubp.emulator.observe.clocks import Clocks
from gpubp.emulator.program.ptx import Instruction, Register, Vector
from gpubp.emulator.program.registers import reads_and_writes, registers_of

ASYNC_RACE = "async race"
PROXY = "missing proxy fence"
WAIT = "missing wait"
REGISTERS = "wgmma registers"
PHASE = "mbarrier phase"
BYTES = "mbarrier bytes"
EXIT = "early exit"
INIT = "mbarrier init"

NEVER = np.iinfo(np.int32).max
READERS = 4
"""Operations that a chunk remembers to be read by."""
_KEPT_PHASES = 8

Report = Callable[[Machine, str, Instruction, tuple[Any, ...], Callable[[], str]], None]
"""Called with the machine, the kind, the instruction, what tells one finding at it from another, and the message."""


class View(NamedTuple):
    """What a thread, or a warp, knows of the threads of its cluster: all below the floor, and each one's up to a
    number; the second half of the row is about what has been handed to the async proxy."""

    row: Array
    floor: int


class _Made(NamedTuple):
    """Who has made an mbarrier, when by the thread's number, and whether a fence.mbarrier_init has followed."""

    lane: int
    number: int
    fenced: bool
    instruction: Instruction


class Operation:
    """A part of an operation in one block's shared memory.

    Attributes:
        instruction, lane: what issued it, and who.
        writes: whether it writes shared memory.
        found: by threads of the cluster, their numbers when they found it complete.
        knows: lanes that are known to know of that.
    """

    __slots__ = ("found", "instruction", "knows", "lane", "writes")

    def __init__(self, instruction: Instruction, lane: int, writes: bool, found: Array, lanes: int) -> None:
        self.instruction, self.lane, self.writes, self.found = instruction, lane, writes, found
        self.knows = np.zeros(lanes, bool)


# What check_region finds: 0 nothing, else one of these, with the thread and the site of the other party.
_RACE_WRITE, _RACE_READ, _FENCE, _FENCE_READ = 1, 2, 3, 4


@loop
def _check_region(cells, bits, chunks, writes, strict, row, floor, first, width, reads):
    """Find an access by threads to chunks of 16 bytes that is not ordered before one of the async proxy.

    Returns what is wrong, the other thread, and its site; 0 if nothing is. A race comes before a missing fence.
    """
    each = 16 >> bits
    code, thread, site = 0, 0, 0
    for c in range(chunks.size):
        for index in range(chunks[c] * each, (chunks[c] + 1) * each):
            other = cells[index, shadow.WRITER]
            if other != 0:
                column, number = other - first, cells[index, shadow.WRITTEN]
                known = 0 <= column < width and (number < floor or number <= row[column])
                if not known:
                    return _RACE_WRITE, other, cells[index, shadow.WRITE_SITE]
                if code == 0 and number > row[width + column]:
                    code, thread, site = _FENCE, other, cells[index, shadow.WRITE_SITE]
            if not writes:
                continue
            for slot in (shadow.READER, shadow.OTHER_READER):
                other = cells[index, slot]
                if other != 0:
                    column, number = other - first, cells[index, slot + 1]
                    if not (0 <= column < width and (number < floor or number <= row[column])):
                        return _RACE_READ, other, cells[index, slot + 2]
                    if strict and code == 0 and number > row[width + column]:
                        code, thread, site = _FENCE_READ, other, cells[index, slot + 2]
            if cells[index, shadow.MANY] and reads.shape[0] != 0:
                for column in range(width):
                    number = reads[index, column] >> 1
                    if number != 0 and not (number < floor or number <= row[column]):
                        return _RACE_READ, first + column, cells[index, shadow.READ_SITE]
    return code, thread, site


@loop
def _clear_region(cells, bits, chunks):
    """Forget how threads accessed chunks."""
    each = 16 >> bits
    for c in range(chunks.size):
        for index in range(chunks[c] * each, (chunks[c] + 1) * each):
            for field in range(shadow.CELL):
                cells[index, field] = 0


@loop
def _touched(written, read, pointers, base, nbytes, stores, count, size):
    """The first position whose bytes an operation may access, or `count`."""
    for i in range(count):
        first = (pointers[i] - base) >> 4
        if first < 0 or first >= size:
            continue
        for chunk in range(first, min(size, ((pointers[i] - base + nbytes - 1) >> 4) + 1)):
            if written[chunk] != 0:
                return i
            if stores:
                for slot in range(read.shape[1]):
                    if read[chunk, slot] != 0:
                        return i
    return count


class AsyncProxy:
    """The operations of a machine's wave, and what its threads know of them.

    Args:
        machine: the machine.
        clocks: of its threads, by clusters.
        cells: returns the race detector's cells of shared memory, log2 of their bytes, and its table of readers.
        site: returns the instruction of a site by its number.
        report: called for each finding.
        strict: ask for a proxy fence also after reads of what a copy overwrites.
    """

    def __init__(
        self,
        machine: Machine,
        clocks: Clocks,
        cells: Callable[[], tuple[Array, int, Array]],
        site: Callable[[int], Instruction],
        report: Report,
        strict: bool = False,
    ) -> None:
        self.strict = strict
        self.machine, self.clocks, self.cells, self.site, self.report = machine, clocks, cells, site, report
        self.row = machine.shared.shape[1]
        self.width = clocks.width
        self.names = _Names(machine) if machine.uses.wgmma else None
        self._regions: dict[Any, Array] = {}  # that products read, in chunks of their block's memory
        self.begin_wave()

    def begin_wave(self) -> None:
        """New blocks: nothing is under way."""
        chunks = -(-self.machine.shared.size // CHUNK)
        self.written = np.zeros(chunks, np.int32)
        self.read = np.zeros((chunks, READERS), np.int32)
        self.operations: list[Operation] = []
        self.phases: dict[int, dict[int, Array]] = {}  # by mbarrier and phase: who has found it over, and when
        # by mbarrier and phase: the phases that threads of other blocks had found over as they issued copies for it
        self.carried: dict[tuple[int, int], list[Array]] = {}
        self.stores: dict[int, tuple[Copy, Array]] = {}  # to global memory, by id: the chunks that they write there
        self.made: dict[int, _Made] = {}  # mbarriers, by number
        self.peers: dict[int, dict[int, tuple[int, Instruction]]] = {}  # by block: who accessed it from others, when
        self.ended = np.zeros(self.machine.blocks, bool)
        if self.names is not None:
            self.names.begin_wave()

    # -- who knows what -----------------------------------------------------------------------------------------------

    def view(self, lanes: Array) -> View:
        """Return what lanes of one cluster know together."""
        clocks = self.clocks
        row = clocks.known[lanes].max(axis=0)
        columns = lanes % self.width
        row[columns] = np.maximum(row[columns], clocks.number[lanes])
        return View(row, int(clocks.floor[lanes].max()))

    def _knows(self, view: View, found: Array) -> bool:
        """Return True if who has this view knows an access of a thread from when it had found something on."""
        return bool(((view.row[: self.width] >= found) | (found < view.floor)).any())

    def known(self, operation: Operation, lanes: Array) -> Array:
        """Return which of some lanes know that an operation is complete."""
        result = operation.knows[lanes]
        clocks, found = self.clocks, operation.found
        if not result.all():
            left = lanes[~result]
            rows = clocks.known[left, : self.width]
            same = left // self.width == operation_cluster(operation, self.width)
            knows = (rows >= found).any(axis=1) | (found.min() < clocks.floor[left])
            knows |= found[left % self.width] != NEVER
            knows &= same
            operation.knows[left[knows]] = True
            result = operation.knows[lanes]
        return result

    def find(self, found: Array, lanes: Array) -> None:
        """Lanes of one cluster have found something over."""
        columns = lanes % self.width
        fresh = found[columns] == NEVER
        found[columns[fresh]] = self.clocks.number[lanes[fresh]]

    def _nobody(self) -> Array:
        return np.full(self.width, NEVER, np.int32)

    # -- accesses by the async proxy ----------------------------------------------------------------------------------

    def chunks(self, block: int, address: int, nbytes: int) -> Array:
        """Return the numbers of the chunks of a range of a block's shared memory."""
        first = (block * self.row + address) // CHUNK
        return np.arange(first, first + -(-nbytes // CHUNK))

    def access(self, operation: Operation, chunks: Array, view: View, what: str, again: bool = False) -> None:
        """An operation begins to access chunks; who has issued it, or (`again`) takes part too, knows what the view
        says."""
        number = 0 if again else self._number(operation)
        for other in _distinct(self.written[chunks]):
            if not self._ordered(self.operations[other - 1], operation, view):
                self._unordered(operation, self.operations[other - 1], what)
        if operation.writes:
            for other in _distinct(self.read[chunks]):
                if not self._ordered(self.operations[other - 1], operation, view):
                    self._unordered(operation, self.operations[other - 1], what)
        cells, bits, reads = self.cells()
        first = self._first_thread(operation.lane)
        code, thread, site = _check_region(
            cells, bits, chunks, operation.writes, self.strict, view.row, view.floor, first, self.width, reads
        )
        if code:
            self._thread_unordered(operation, code, int(thread), int(site), what)
        if again:
            return
        if operation.writes:
            _clear_region(cells, bits, chunks)
            self.written[chunks], self.read[chunks] = number, 0
            return
        here = self.read[chunks]
        for other in _distinct(here):
            if other != number and self._ordered(self.operations[other - 1], operation, view):
                here[here == other] = 0
        own = (here == number).any(axis=1)
        free = np.where((here == 0).any(axis=1), (here == 0).argmax(axis=1), READERS - 1)
        here[~own, free[~own]] = number
        self.read[chunks] = here

    def _number(self, operation: Operation) -> int:
        self.operations.append(operation)
        return len(self.operations)

    def _ordered(self, before: Operation, after: Operation, view: View) -> bool:
        same = operation_cluster(before, self.width) == operation_cluster(after, self.width)
        return same and self._knows(view, before.found)

    def _first_thread(self, lane: int) -> int:
        """Return the number of the first thread of a lane's cluster."""
        machine = self.machine
        return machine.first_block * machine.padded + lane // self.width * self.width + 1

    def _who(self, operation: Operation) -> str:
        machine = self.machine
        block, thread = machine.block_index(operation.lane), machine.thread_index(operation.lane)
        return (
            f"block {block}, thread {thread} issued at {operation.instruction.location or operation.instruction.text}"
        )

    def _unordered(self, operation: Operation, other: Operation, what: str) -> None:
        """Report two operations that nothing orders."""
        if other.writes and not operation.writes:
            text = f"{what} shared memory that a copy may still be writing, which {self._who(other)}"
            advice = "wait at the mbarrier that the copy completes, in its phase, before"
            kind = WAIT
        elif other.writes:
            text = f"{what} shared memory that another copy may still be writing, which {self._who(other)}"
            advice = "issue it when the other is known to be complete"
            kind = ASYNC_RACE
        else:
            reader = "a product" if other.instruction.opcode == "wgmma" else "a copy"
            text = f"{what} shared memory that {reader} may still be reading, which {self._who(other)}"
            wait = "wgmma.wait_group" if other.instruction.opcode == "wgmma" else "cp.async.bulk.wait_group.read"
            advice = f"hand the place back, by an arrival at an mbarrier or a barrier, after a {wait} that covers it"
            kind = ASYNC_RACE
        self._found(kind, operation, (other.instruction,), text, advice)

    def _thread_unordered(self, operation: Operation, code: int, thread: int, site: int, what: str) -> None:
        machine = self.machine
        other = self.site(site >> 1)
        block, index = machine.thread_of_grid(thread - 1)
        verb = "reads" if code in (_RACE_READ, _FENCE_READ) else "writes"
        who = f"block {block}, thread {index} {verb} at {_line(other)}"
        if code in (_FENCE, _FENCE_READ):
            text = f"{what} shared memory that {who}, with no proxy fence between the two"
            advice = "let that thread execute fence.proxy.async after it, before the barrier"
            self._found(PROXY, operation, (other,), text, advice)
            return
        text = f"{what} shared memory that {who}, with nothing to order the two"
        self._found(ASYNC_RACE, operation, (other,), text, "put a barrier, or an mbarrier, between the two")

    def _found(self, kind: str, operation: Operation, key: tuple[Any, ...], text: str, advice: str) -> None:
        machine = self.machine

        def message() -> str:
            return f"{machine.where(operation.instruction, operation.lane)} {text}: {advice}"

        self.report(machine, kind, operation.instruction, key, message)

    # -- accesses by threads ------------------------------------------------------------------------------------------

    def thread_step(self, instruction: Instruction, nbytes: int, kind: str) -> Callable[[Array], None]:
        """Return what looks at the host pointers of the active lanes' accesses to shared memory."""
        machine = self.machine
        stores = kind != "load"
        base = machine.shared.ctypes.data

        def check(pointers: Array) -> None:
            count = machine.active.count
            if not self.operations:
                return
            first = _touched(self.written, self.read, pointers, base, nbytes, stores, count, self.written.size)
            if first < count:
                self._check_threads(instruction, pointers[:count], nbytes, stores)

        return check

    def _check_threads(self, instruction: Instruction, pointers: Array, nbytes: int, stores: bool) -> None:
        machine = self.machine
        lanes = machine.active.lanes
        start = pointers - machine.shared.ctypes.data
        for step in range(0, max(nbytes, 1), CHUNK):
            chunk = (start + step) >> 4
            tables = [self.written[chunk], *(self.read[chunk].T if stores else ())]
            for table in tables:
                for number in _distinct(table):
                    operation = self.operations[number - 1]
                    here = lanes[table == number]
                    unknown = here[~self.known(operation, here)]
                    if unknown.size:
                        self._thread_found(instruction, int(unknown[0]), operation, stores)

    def _thread_found(self, instruction: Instruction, lane: int, operation: Operation, stores: bool) -> None:
        machine = self.machine
        verb = "writes" if stores else "reads"
        if operation.writes:
            kind = WAIT if not stores else ASYNC_RACE
            what = "a copy may still be writing"
            advice = "wait at the mbarrier that the copy completes, in its phase, before"
        else:
            product = operation.instruction.opcode == "wgmma"
            kind = ASYNC_RACE
            what = f"{'a product' if product else 'a copy to global memory'} may still be reading"
            wait = "wgmma.wait_group" if product else "cp.async.bulk.wait_group.read"
            advice = f"let the thread that has issued it execute a {wait} that covers it, and then order the two"

        def message() -> str:
            return (
                f"{machine.where(instruction, lane)} {verb} shared memory that {what}, which {self._who(operation)}: "
                f"{advice}"
            )

        self.report(machine, kind, instruction, (operation.instruction,), message)

    def global_step(self, instruction: Instruction, nbytes: int, kind: str) -> Callable[[Array], None]:
        """Return what looks at accesses to global memory that a copy is still writing."""
        machine = self.machine
        verb = "reads" if kind == "load" else "writes"

        def check(pointers: Array) -> None:
            if not self.stores:
                return
            here = (pointers[: machine.active.count] - MEMORY.host_base) // CHUNK
            for copy, chunks in self.stores.values():
                met = np.isin(here, chunks)
                if not met.any():
                    continue
                lane = int(machine.active.lanes[int(np.flatnonzero(met)[0])])

                def message(copy: Copy = copy, lane: int = lane) -> str:
                    return (
                        f"{machine.where(instruction, lane)} {verb} global memory that a copy may still be writing, "
                        f"which block {machine.block_index(copy.lane)}, thread {machine.thread_index(copy.lane)} "
                        f"issued at {_line(copy.instruction)}: let that thread execute cp.async.bulk.wait_group "
                        "without .read, which only says that sources have been read, and then order the two"
                    )

                self.report(machine, WAIT, instruction, (copy.instruction,), message)

        return check

    # -- bulk copies --------------------------------------------------------------------------------------------------

    def copy_issued(self, copy: Copy) -> None:
        lane = np.array([copy.lane])
        view = self.view(lane)
        lanes = self.machine.lanes
        made: list[Operation] = []
        if copy.slots:
            for (block, address), slot, phase in zip(copy.here, copy.slots, copy.phases, strict=True):
                one = Operation(copy.instruction, copy.lane, True, self._of_phase(slot, phase), lanes)
                self.access(one, self.chunks(block, address, copy.nbytes), view, "copies to")
                self._check_made(copy.instruction, copy.lane, slot, block)
                made.append(one)
                if block != int(self.machine.block_of_lane[copy.lane]):
                    self._carry(copy.lane, slot, phase)
                    self.peer(copy.instruction, lane, np.array([block]))
            if copy.source is not None:
                one = Operation(
                    copy.instruction, copy.lane, False, self._of_phase(copy.slots[0], copy.phases[0]), lanes
                )
                self.access(one, self.chunks(*copy.source, copy.nbytes), view, "copies")
        else:
            block, address = copy.here[0]
            one = Operation(copy.instruction, copy.lane, False, self._nobody(), lanes)
            self.access(one, self.chunks(block, address, copy.nbytes), view, "copies")
            made.append(one)
            assert copy.box is not None
            places = (copy.box.places() - ARENA_BASE) // CHUNK
            self.stores[id(copy)] = copy, np.unique(places)
        copy.watched = made

    def _carry(self, lane: int, slot: int, phase: int) -> None:
        """A copy is issued for a phase of another block's mbarrier. When that is over the copy has been issued, and so
        the phases are over that its thread has found over: in a ring of stages that blocks fill for each other, each
        block's consumers know so that the other's stage is free.
        """
        column = lane % self.width
        known = [found for phases in self.phases.values() for found in phases.values() if found[column] != NEVER]
        self.carried.setdefault((slot, phase), []).extend(known)

    def copy_waited(self, copy: Copy, reads: bool) -> None:
        """The thread of a copy to global memory has waited for it, or (`reads`) for its source to be read."""
        for operation in copy.watched:
            self.find(operation.found, np.array([copy.lane]))
        if not reads:
            self.stores.pop(id(copy), None)

    def copies_over(self) -> None:
        """All threads of the wave have ended: somebody must have found each copy complete."""
        machine = self.machine
        self.stores.clear()
        for operation in self.operations:
            if operation.instruction.opcode == "wgmma" or (operation.found != NEVER).any():
                continue

            def message(operation: Operation = operation) -> str:
                wait = "at its mbarrier" if operation.writes else "by cp.async.bulk.wait_group.read"
                return (
                    f"{machine.where(operation.instruction, operation.lane)}: the block ends while a copy that this "
                    f"thread has issued may still {'write' if operation.writes else 'read'} its shared memory: wait "
                    f"for it {wait}"
                )

            self.report(machine, EXIT, operation.instruction, (), message)

    def bytes_arrived(self, copy: Copy, slot: int, phase: int, found: int) -> None:
        """The bytes of a copy, issued in a phase of an mbarrier, have arrived in another one."""
        machine = self.machine

        def message() -> str:
            return (
                f"{machine.where(copy.instruction, copy.lane)}: the {copy.nbytes:,} bytes of the copy are counted in "
                f"phase {found} of their mbarrier, and it was issued in phase {phase}, which is over: let "
                "mbarrier.arrive.expect_tx expect the bytes of all copies of the phase, whole boxes, before it can end"
            )

        self.report(machine, BYTES, copy.instruction, (), message)

    # -- mbarriers ----------------------------------------------------------------------------------------------------

    def _of_phase(self, slot: int, phase: int) -> Array:
        phases = self.phases.setdefault(slot, {})
        if phase not in phases:
            phases[phase] = self._nobody()
            for old in [one for one in phases if one < phase - _KEPT_PHASES]:
                del phases[old]
                self.carried.pop((slot, old), None)
        return phases[phase]

    def phases_over(self, lanes: Array, slots: Array, phases: Array) -> None:
        """Lanes have found mbarriers in these phases: those before are over."""
        for slot in np.unique(slots).tolist():
            chosen = slots == slot
            now = int(phases[chosen][0])
            if now > 0:
                self._of_phase(slot, now - 1)
            for phase, found in self.phases.get(slot, {}).items():
                if phase < now:
                    self.find(found, lanes[chosen])
                    for carried in self.carried.get((slot, phase), ()):
                        self.find(carried, lanes[chosen])

    def arriving(self, instruction: Instruction, lanes: Array, slots: Array, phases: Array) -> None:
        """Lanes arrive at mbarriers in these phases: they must know that the ones before are over."""
        machine = self.machine
        for lane, slot, phase in zip(lanes.tolist(), slots.tolist(), phases.tolist(), strict=True):
            block = slot * 8 // self.row
            if block != int(machine.block_of_lane[lane]):
                self._check_made(instruction, lane, slot, block)
            if phase < 1:
                continue
            found = self._of_phase(slot, phase - 1)
            one = np.array([lane])
            if found[lane % self.width] != NEVER or self._knows(self.view(one), found):
                continue

            def message(lane: int = lane, slot: int = slot, phase: int = phase) -> str:
                return (
                    f"{machine.where(instruction, lane)} arrives in phase {phase} of the mbarrier "
                    f"{machine.shared_layout.describe(slot * 8 % self.row)}, and does not know that phase {phase - 1} "
                    "is over: let it wait for that phase before it arrives for the next one"
                )

            self.report(machine, PHASE, instruction, (), message)

    def gone(self, lanes: Array, slots: Array, instruction: Instruction) -> None:
        """Lanes have made new mbarriers."""
        for lane, slot in zip(lanes.tolist(), slots.tolist(), strict=True):
            for phase in self.phases.pop(slot, {}):
                self.carried.pop((slot, phase), None)
            self.made[slot] = _Made(lane, int(self.clocks.number[lane]), False, instruction)

    def inits_fenced(self, lanes: Array) -> None:
        """Lanes have executed fence.mbarrier_init."""
        chosen = set(lanes.tolist())
        self.made.update({slot: one._replace(fenced=True) for slot, one in self.made.items() if one.lane in chosen})

    def first_waits(self, lanes: Array, slots: Array, phases: Array) -> None:
        """Lanes have waited at mbarriers, and do not know yet what those know who have arrived there. Before the second
        phase, something else must tell them that the mbarrier has been made."""
        early, machine = phases <= 1, self.machine
        for lane, slot in zip(lanes[early].tolist(), slots[early].tolist(), strict=True):
            made = self.made.get(slot)
            if made is None or made.lane == lane or self._is_ordered(made, lane):
                continue

            def message(lane: int = lane, made: _Made = made) -> str:
                return (
                    f"{machine.where(made.instruction, made.lane)} makes an mbarrier, at which block "
                    f"{machine.block_index(lane)}, thread {machine.thread_index(lane)} waits with nothing to order the "
                    "two: let all threads that use it pass a barrier of the block, or of the cluster, in between"
                )

            self.report(machine, INIT, made.instruction, (), message)

    def _is_ordered(self, made: _Made, lane: int) -> bool:
        """Return True if a lane knows that an mbarrier has been made."""
        view = self.view(np.array([lane]))
        return bool(made.number < view.floor or made.number <= view.row[made.lane % self.width])

    def _check_made(self, instruction: Instruction, lane: int, slot: int, block: int) -> None:
        """An mbarrier is used by another block, whose own thread has made it."""
        machine = self.machine
        if slot not in self.made or int(machine.block_of_lane[lane]) == block:
            return
        made = self.made[slot]
        ordered = self._is_ordered(made, lane)
        if ordered and made.fenced:
            return
        why = "without a fence" if ordered else "with nothing to order the two"

        def message() -> str:
            return (
                f"{machine.where(instruction, lane)} uses an mbarrier of block {machine.block_index(made.lane)}, which "
                f"thread {machine.thread_index(made.lane)} has made at {_line(made.instruction)} {why}: let it "
                "execute fence.mbarrier_init.release.cluster after that, and both blocks then pass a barrier of the "
                "cluster"
            )

        self.report(machine, INIT, instruction, (made.instruction,), message)

    # -- blocks of a cluster ------------------------------------------------------------------------------------------

    def peer(self, instruction: Instruction, lanes: Array, blocks: Array) -> None:
        """Lanes access shared memory of other blocks."""
        for lane, block in zip(lanes.tolist(), blocks.tolist(), strict=True):
            self.peers.setdefault(block, {})[lane] = int(self.clocks.number[lane]), instruction

    def ends(self, blocks: Iterable[int]) -> None:
        """All threads of blocks have ended: they must have known of what others did in their shared memory."""
        machine = self.machine
        for block in blocks:
            accesses = self.peers.get(block)
            if not accesses:
                continue
            view = self.view(np.arange(block * machine.padded, (block + 1) * machine.padded))
            for lane, (number, instruction) in accesses.items():
                if number < view.floor or number <= view.row[lane % self.width]:
                    continue

                def message(lane: int = lane, block: int = block, instruction: Instruction = instruction) -> str:
                    return (
                        f"{machine.where(instruction, lane)} accesses shared memory of block "
                        f"{machine.block_index(block * machine.padded)}, which may have ended before: let the threads "
                        "of both blocks pass a barrier of the cluster after it, before they end"
                    )

                self.report(machine, EXIT, instruction, (), message)

    # -- products -----------------------------------------------------------------------------------------------------

    def product_issued(self, product: Product, lanes: Array) -> None:
        """Warps of a warpgroup have issued a product."""
        machine = self.machine
        fresh = product.watched is None
        if fresh:
            operation = Operation(product.instruction, int(lanes[0]), False, self._nobody(), machine.lanes)
            product.watched = operation, self._chunks_of(product)
        operation, chunks = product.watched
        for warp in range(0, lanes.size, WARP):
            self.access(operation, chunks, self.view(lanes[warp : warp + WARP]), "reads", not fresh or warp > 0)
        assert self.names is not None
        for text in self.names.issued(product, lanes):
            what, _, advice = text.partition(": ")
            self._found(REGISTERS, operation, (what,), what, advice)

    def _chunks_of(self, product: Product) -> Array:
        """Return the numbers of the chunks that a product reads."""
        key = product.a, product.b, product.form
        if key not in self._regions:
            parts = [(product.b, product.form.n, product.form.b_k_major)]
            if product.a is not None:
                parts.append((product.a, M, product.form.a_k_major))
            found = []
            for given, rows, major in parts:
                places, base = self.machine.products.places(product, given, rows, major)
                found.append(((base + places * product.form.item) // CHUNK).reshape(-1))
            self._regions[key] = np.unique(np.concatenate(found))
        return self._regions[key] + product.block * self.row // CHUNK

    def product_waited(self, product: Product, lanes: Array) -> None:
        if product.watched is not None:
            self.find(product.watched[0].found, lanes)

    def product_left(self, product: Product) -> None:
        """All threads have ended, and nobody has waited for this product."""
        machine = self.machine

        def message() -> str:
            return (
                f"{machine.where(product.instruction, product.first)}: nobody waits for this product before the block "
                "ends: commit its group and execute wgmma.wait_group"
            )

        self.report(machine, WAIT, product.instruction, (), message)

    def hooked(self, instruction: Instruction, bound: Bound) -> Bound:
        """Return an instruction that first tells who touches registers of products."""
        if self.names is None:
            return bound
        step = self.names.step(instruction, self._touches)
        if step is None:
            return bound
        function, arguments, masked = bound

        def full() -> None:
            step()
            function(*arguments)

        def partly() -> None:
            step()
            masked()

        return Bound(full, (), partly)

    def _touches(self, instruction: Instruction, lane: int, verb: str, what: str, product: Product | None) -> None:
        machine = self.machine
        issued = "" if product is None else f", issued at {_line(product.instruction)}"

        def message() -> str:
            return (
                f"{machine.where(instruction, lane)} {verb} {what} of a product that is under way{issued}: execute a "
                "wgmma.wait_group that covers it before"
            )

        key = () if product is None else (product.instruction,)
        self.report(machine, REGISTERS, instruction, key, message)


def _line(instruction: Instruction) -> str:
    return str(instruction.location or instruction.text)


def operation_cluster(operation: Operation, width: int) -> int:
    return operation.lane // width


class _Names:
    """When warps have last touched the registers of products, but for moves, which machine code has no need of."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.accumulators = holders(machine)
        self.factors: set[str] = set()
        for instruction in machine.program.instructions():
            multiplies = instruction.opcode == "wgmma" and instruction.modifiers[0] == "mma_async"
            if multiplies and isinstance(instruction.operands[1], Vector):
                self.factors.update(registers_of(instruction.operands[1]))
        moves = [
            (to.name, source.name)
            for to, source in (
                one.operands
                for one in machine.program.instructions()
                if one.opcode == "mov" and all(isinstance(each, Register) for each in one.operands)
            )
            if isinstance(to, Register) and isinstance(source, Register)
        ]
        watched = self.accumulators | self.factors
        before = -1
        while len(watched) > before:
            before = len(watched)
            watched.update(source for to, source in moves if to in watched)
        self.watched = watched
        self.begin_wave()

    def begin_wave(self) -> None:
        warps = self.machine.lanes // WARP
        self.now = 1
        self.fenced = np.zeros(warps, np.int64)
        self.touched: dict[str, Array] = {}

    def _of(self, name: str) -> Array:
        if name not in self.touched:
            self.touched[name] = np.zeros(self.machine.lanes // WARP, np.int64)
        return self.touched[name]

    def fence(self) -> None:
        """The active warps have executed wgmma.fence."""
        self.now += 1
        self.fenced[_warps(self.machine)] = self.now
        self.now += 1

    def issued(self, product: Product, lanes: Array) -> list[str]:
        """Return what is wrong with how warps issue a product, whose accumulators are still in their registers."""
        warps = np.unique(lanes // WARP)
        fenced = self.fenced[warps]
        if (fenced == 0).any():
            return [
                "starts a product, and its warps have executed no wgmma.fence: execute one before the first product, "
                "and after other accesses to its registers"
            ]
        operands = product.instruction.operands
        checked = list(registers_of(operands[1])) if isinstance(operands[1], Vector) else []
        if not product.total.under_way[_within(self.machine, warps)].any():
            checked += registers_of(operands[0])
        late = [name for name in checked if name in self.touched and (self.touched[name][warps] > fenced).any()]
        if late:
            what = "an operand in registers" if late[0] in self.factors else "its accumulators"
            return [
                f"starts a product, and {what} have been accessed since the last wgmma.fence: execute wgmma.fence "
                "after these accesses"
            ]
        return []

    def step(self, instruction: Instruction, touches: Callable[..., None]) -> Action | None:
        """Return what is to be noted before an instruction runs, or None."""
        if instruction.opcode == "wgmma":
            return None
        reads, writes = reads_and_writes(instruction)
        machine = self.machine
        moves = instruction.opcode == "mov" and len(instruction.operands) == 2
        if moves and isinstance(instruction.operands[0], Register):
            source = instruction.operands[1]
            names = [name for name in writes if name in self.watched]
            if not names or isinstance(source, Vector):
                return None
            from_ = source.name if isinstance(source, Register) and source.name in self.watched else None

            def move() -> None:
                warps = _warps(machine)
                self._of(names[0])[warps] = 0 if from_ is None else self._of(from_)[warps]

            return move
        noted = [name for name in {*reads, *writes} if name in self.watched]
        if not noted:
            return None
        read = [machine.row(Register(name)) for name in reads if name in self.accumulators]
        factors = [name for name in writes if name in self.factors]

        def note() -> None:
            active = machine.active
            warps = _warps(machine)
            self.now += 1
            for name in noted:
                self._of(name)[warps] = self.now
            products = machine.products
            if products.sums:
                for row in read:
                    lane, product = products.holder(row, active.lanes)
                    if lane >= 0:
                        touches(instruction, lane, "reads", "the accumulators", product)
            if factors and products.warpgroups:
                lane, product = products.uses(factors, active.lanes)
                if lane >= 0:
                    touches(instruction, lane, "writes", "an operand in registers", product)

        return note


def _distinct(numbers: Array) -> list[int]:
    """Return the different numbers that are not 0, which are few as a rule."""
    left = numbers[numbers != 0]
    found = []
    while left.size:
        found.append(int(left[0]))
        left = left[left != left[0]]
    return found


def _warps(machine: Machine) -> Array:
    """Return which warps have active lanes."""
    return np.asarray(machine.active.mask.reshape(-1, WARP).any(axis=1))


def _within(machine: Machine, warps: Array) -> Array:
    """Return the places of warps in their warpgroups."""
    return warps % (machine.padded // WARP) % WARPS
