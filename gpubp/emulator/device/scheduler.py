"""Runs one wave: which lanes execute which block next, and who waits at barriers.

Lanes that are at the same block form a group. The group furthest back in the program's running order runs first; groups
that meet merge. Lanes at a barrier wait until no group can run, and then every complete barrier opens at once, which
keeps the blocks of a wave together.

Threads may spin until another has done something, in their wave or in one that is not there yet. So every group gets a
turn now and then, and a wave in which nothing happens any more lets other waves go first.

With a seed (choices.py) the group that runs next is drawn instead, as are its warps and how long they run.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.accesses import place
from gpubp.emulator.device.barriers import Barriers
from gpubp.emulator.device.bulk_copies import BulkCopies
from gpubp.emulator.device.calls import Target
from gpubp.emulator.device.choices import Choices, Shuffled
from gpubp.emulator.device.clock import CLOCK, LEAPS
from gpubp.emulator.device.clusters import ClusterBarriers, is_cluster_barrier
from gpubp.emulator.device.executor import BoundBlock
from gpubp.emulator.device.mbarriers import Mbarriers
from gpubp.emulator.device.roles import Registers
from gpubp.emulator.device.state import Active, Array, Machine
from gpubp.emulator.device.warp_instructions import meets_others
from gpubp.emulator.device.warpgroup_products import Products
from gpubp.emulator.errors import TrapError
from gpubp.emulator.program.cfg import EXIT
from gpubp.emulator.program.inlining import Call
from gpubp.emulator.program.ptx import Address, Instruction, Register
from gpubp.emulator.program.registers import reads_and_writes

#: After so many blocks, few at first, the scheduler looks whether the group that runs only spins. If it does, every
#: other group gets a turn of some blocks, and complete barriers open: it may wait for what one of them will do. A group
#: that gets on keeps the others waiting, so that diverged threads meet again.
FIRST_PATIENCE, PATIENCE = 60, 2_000
TURN = 200

#: After so many blocks without a change in memory a group is taken to spin, even if its threads count as they do.
IDLE = 20_000
#: After so many blocks the other groups get a turn in any case.
LONG = 100_000


class Wave:
    """Scheduling state of a machine; `run` executes the wave that `begin` has made ready.

    Attributes:
        idle: blocks executed in the latest run since memory last changed or a thread ended.
        happened: True if memory has changed or a thread has ended in the latest run.
        repeats: True if the wave has come back to a state that it was in before: without a change from outside it will
            do so for ever.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.blocks = machine.program.blocks
        self.bound: list[BoundBlock | None] = [None] * len(self.blocks)
        self.groups: dict[int, Array] = {}
        self.live = machine.live
        self.live_count = 0
        self.barriers = machine.barriers = Barriers(machine)
        self.mbarriers = machine.mbarriers = Mbarriers(machine, self._resume) if machine.uses.mbarriers else None
        uses = machine.uses
        self.clusters = machine.cluster_barriers = ClusterBarriers(machine) if uses.cluster_barriers else None
        self.bulk = machine.bulk = BulkCopies(machine) if machine.uses.bulk_copies else None
        self.products = machine.products = Products(machine) if machine.uses.wgmma else None
        self.registers = machine.registers_of_warps = Registers(machine) if uses.roles else None
        parts = self.mbarriers, self.clusters, self.bulk, self.products, self.registers
        self._parts: list[Any] = [part for part in parts if part is not None]
        self.position = 0  # the block that runs
        self.steps = 0  # blocks executed
        self.idle = 0
        self.happened = False
        self.repeats = False
        self._in_vain = _History()  # states in which all that live wait at mbarriers, since anything changed
        self._leaps = 0  # of the clock, since anything changed
        self.extra: list[Wave] = []  # more waves of the same kind, for blocks that are resident beside this one's
        self.choices: Choices | None = None if machine.observer is None else machine.observer.choices

    def begin(self, grid: tuple[int, int, int], first: int, end: int) -> None:
        """Make ready to run the blocks of a grid from `first` to before `end`."""
        self.machine.begin(grid, first, end)
        if self.machine.observer is not None:
            self.machine.observer.begin_wave(self.machine)
        self.live[:] = self.machine.launched_lanes
        self.live_count = int(np.count_nonzero(self.live))
        self.groups = {self.machine.program.entry: self.live.copy()}
        self.barriers.begin()
        for part in self._parts:
            part.begin()
        self.steps = 0
        if self.choices is not None:
            self._lane_orders = self.choices.lane_orders(self.machine.lanes)
            self._gangs = self.choices.gangs(self.machine.lanes, self.machine.padded)

    def live_blocks(self) -> int:
        """Return the number of blocks of which some thread lives."""
        return int(np.count_nonzero(self.live.reshape(self.machine.blocks, -1).any(axis=1)))

    def run(self, most: int) -> bool:
        """Run all lanes to their end and return True, or False when nothing has happened for a while, or after about
        `most` blocks.

        Raises what the kernel's faults raise.
        """
        self.idle = steps = 0
        self.happened = self.repeats = self.machine.changed = False
        before = turned = self.steps
        patience = FIRST_PATIENCE
        alone, together = _History(), _History()
        if self.mbarriers is not None:
            self._in_vain = _History()
        while self.groups or self._open_barriers():
            if not self.groups:
                if self.repeats:
                    self._count(steps)
                    return False
            elif steps < patience:
                steps += self._run_any() if self.choices else self._run_group(min(self.groups), patience - steps, False)
                continue
            self._count(steps)
            steps, patience = 0, min(2 * patience, PATIENCE)
            spins = self.idle > 0 and alone.holds(self._state())
            if spins or self.idle >= IDLE or self.steps - turned >= LONG:
                others = self._take_turns()
                self._count(others)
                if self.idle and self._progress():
                    self._count(0)
                if self.idle:
                    self.repeats = spins and (not others or together.holds(self._state())) and not self._leap()
                    if self.repeats or self.idle >= IDLE:
                        return False
                turned, patience, alone = self.steps, FIRST_PATIENCE, _History()
            if self.steps - before >= most:
                return False
        for ended in (self.bulk, self.products, self.registers):
            if ended is not None:
                ended.finish()
        return True

    def _progress(self) -> bool:
        """Let asynchronous copies arrive that are under way, and return True if there were some."""
        return self.bulk is not None and self.bulk.progress()

    def _count(self, steps: int) -> None:
        """Note that blocks were executed, and whether anything changed by them."""
        self.steps += steps
        self.idle += steps
        if self.machine.changed:
            self.idle, self.happened, self.machine.changed = 0, True, False
            self._leaps = 0
            if self.mbarriers is not None:
                self._in_vain = _History()

    def _leap(self) -> bool:
        """Return True if time has gone by, for which some threads may have waited."""
        if not self.machine.uses.clocked or self._leaps == LEAPS:
            return False
        CLOCK.leap(self._leaps)
        self._leaps += 1
        return True

    def _take_turns(self) -> int:
        """Let complete barriers open and each group run a little, the furthest ahead first, unless there is but one.
        Returns the blocks run.

        Threads do not run into a warp instruction for which others of their warp are still under way, unless all would.
        """
        self._open_barriers(required=False)
        if len(self.groups) < 2 and self.choices is None:
            return 0
        steps, most = 0, max(1, TURN // len(self.groups))
        for every in (False, True):
            for position in sorted(self.groups, reverse=True):
                if position in self.groups and (every or self._is_ready(position, self.groups[position])):
                    steps += self._run_group(position, most, True)
            if steps:
                break
        return steps

    def _state(self) -> list[Array]:
        """Return copies of where all threads are and of what they know."""
        positions = np.array(sorted(self.groups))
        groups = [self.groups[position].copy() for position in positions]
        parked = [] if self.mbarriers is None else self.mbarriers.state()
        cluster = [] if self.clusters is None else self.clusters.state()
        return [positions, *groups, *self.barriers.state(), *cluster, *parked, *self.machine.thread_state()]

    def _run_any(self) -> int:
        """Run some warps at some block for a while, by choice. Returns the number of blocks."""
        assert self.choices is not None
        for start in self.choices.shuffled(sorted(self.groups)):
            ready = self._ready(start, self.groups[start])
            if ready.any():
                break
        else:  # threads of each warp wait for others of it: those furthest back go on, as without a choice
            start = min(self.groups)
            ready = self.groups[start]
        chosen = ready & (self._gangs == self.choices.one_of(self._gangs[ready]))
        left = self.groups.pop(start) & ~chosen
        if left.any():
            self.groups[start] = left
        steps = self._run_active(start, self._active(chosen), self.choices.turn(), True)
        if self.choices.below(8) == 0:
            self._open_barriers(required=False)
            self._gangs = self.choices.gangs(self.machine.lanes, self.machine.padded)
        return steps

    @functools.cached_property
    def _meeting(self) -> list[bool]:
        """By block: whether it has an instruction at which threads of a warp meet."""
        return [any(map(meets_others, block.instructions)) for block in self.blocks]

    def _ready(self, position: int, mask: Array) -> Array:
        """Return the lanes that may execute a block now: where a warp instruction waits for others of their warp, those
        whose warp is there as a whole, but for what has ended or waits at a barrier."""
        if not self._meeting[position]:
            return mask
        elsewhere = self.live & ~self.barriers.waiting & ~mask
        if self.clusters is not None:
            elsewhere &= ~self.clusters.parked
        return mask & ~np.repeat(elsewhere.reshape(-1, WARP).any(axis=1), WARP)

    def _is_ready(self, position: int, mask: Array) -> bool:
        return np.array_equal(self._ready(position, mask), mask)

    def _active(self, mask: Array) -> Active:
        if self.choices is None:
            return Active(mask)
        return Shuffled(mask, self._lane_orders[self.choices.below(len(self._lane_orders))])

    def _run_group(self, start: int, most: int, ahead: bool) -> int:
        """Run the group at a block for at most `most` blocks, as long as it stays together and (unless it may run
        ahead) nobody waits further back. Returns the number of blocks."""
        return self._run_active(start, self._active(self.groups.pop(start)), most, ahead)

    def _run_active(self, start: int, active: Active, most: int, ahead: bool) -> int:
        position: int | None = start
        steps = 0
        while position is not None:
            position = self._run_block(position, active)
            steps += 1
            meets = (
                position in self.groups
                if ahead
                else bool(self.groups) and position is not None and position >= min(self.groups)
            )
            if position is not None and (ahead or self.choices is not None):
                meets = meets or not self._is_ready(position, active.mask)
            if position is not None and (meets or steps >= most):
                self._join(position, active.mask)
                position = None
        return steps

    def _run_block(self, position: int, active: Active) -> int | None:
        """Execute a block; where the group goes as a whole, or None if it was taken apart, ended or parked."""
        machine = self.machine
        machine.active = active
        self.position = position
        bound = self.bound[position]
        if bound is None:
            bound = self.bound[position] = BoundBlock(machine, self.blocks[position])
        if active.count == self.live_count:
            bound.until_full -= 1
            if bound.until_full == 0:
                bound.fuse(masked=False)
            for function, arguments in bound.full:
                function(*arguments)
        else:
            bound.until_masked -= 1
            if bound.until_masked == 0:
                bound.fuse(masked=True)
            for step in bound.masked:
                step()
        return self._leave_block(position, active)

    def _leave_block(self, position: int, active: Active) -> int | None:
        """Execute the instruction that ends a block."""
        machine = self.machine
        block = self.blocks[position]
        end = block.end
        if end is None:
            return self._go(block.successors[0], active)
        if end.opcode in ("bra", "ret", "exit"):
            if end.guard is None:
                return self._go(block.successors[0], active)
            return self._branch(end.guard, block.successors, active)
        if end.opcode == "brx":
            return self._indexed_branch(end, block.successors, active)
        if isinstance(end, Call):
            return self._part(machine.calls.enter(position, end, active), active)
        if end.opcode == "return":
            return self._part(machine.calls.leave(end, active), active)
        if end.opcode in ("trap", "brkpt"):
            what = "trap instruction" if end.opcode == "trap" else "breakpoint, and no debugger is there"
            text = f"{machine.where(end, int(active.lanes[0]))}: the kernel executed a {what}"
            if machine.uses.grid and not any(machine.uses.workspace.registers):
                text += ": the grid has no barrier, as the launch is not cooperative"
            raise TrapError(text)
        if end.opcode == "mbarrier":
            assert self.mbarriers is not None
            return (
                self._go(block.successors[0], active) if self.mbarriers.wait(end, active, block.successors[0]) else None
            )
        if is_cluster_barrier(end):
            assert self.clusters is not None
            passed = self.clusters.wait(end, active, block.successors[0])
            return self._go(block.successors[0], active) if passed else None
        if self.barriers.arrive(end, active, block.successors[0], self.live_count):
            return self._go(block.successors[0], active)
        return None

    def _go(self, target: int, active: Active) -> int | None:
        if target != EXIT:
            return target
        self._end(active.mask, active.count)
        return None

    def _branch(self, guard: Register, successors: tuple[int, ...], active: Active) -> int | None:
        taken = active.mask & self.machine.row(guard)
        if guard.negated:
            taken ^= active.mask
        count = int(np.count_nonzero(taken))
        if count == active.count:
            return self._go(successors[0], active)
        if count == 0:
            return self._go(successors[1], active)
        self._send(successors[0], taken, count)
        self._send(successors[1], active.mask ^ taken, active.count - count)
        return None

    def _indexed_branch(self, end: Instruction, successors: tuple[int, ...], active: Active) -> int | None:
        machine = self.machine
        index = machine.lanes_of(end.operands[0], np.dtype(np.uint32))
        outside = active.mask & (index >= len(successors))
        if outside.any():
            lane = int(np.flatnonzero(outside)[0])
            raise TrapError(f"{machine.where(end, lane)}: branch index {index[lane]} of a table of {len(successors)}")
        for number in np.unique(index[active.mask]):
            mask = active.mask & (index == number)
            self._send(successors[number], mask, int(np.count_nonzero(mask)))
        return None

    def _part(self, targets: list[Target], active: Active) -> int | None:
        """Let the group go on at several blocks; where it goes as a whole, or None."""
        if len(targets) == 1:
            return self._go(targets[0][0], active)
        for target, mask, count in targets:
            self._send(target, mask, count)
        return None

    def _send(self, target: int, mask: Array, count: int) -> None:
        if target == EXIT:
            self._end(mask, count)
        else:
            self._join(target, mask)

    def _resume(self, target: int, mask: Array) -> None:
        self._send(target, mask, int(np.count_nonzero(mask)))

    def _join(self, position: int, mask: Array) -> None:
        there = self.groups.get(position)
        self.groups[position] = mask if there is None else there | mask

    def _end(self, mask: Array, count: int) -> None:
        self.machine.changed = True
        self.live &= ~mask
        self.live_count -= count
        if self.machine.observer is not None and self.machine.cluster_size > 1:
            self.machine.observer.threads_ended(self.machine)

    def _open_barriers(self, required: bool = True) -> bool:
        """Let the lanes at complete barriers go on; False if none is left to run.

        If nobody else can run, or in a turn of all (not `required`), those at an mbarrier get their answer. If they
        have had it in this very state, it is noted that the wave repeats itself.

        Raises:
            DeadlockError: lanes wait, none of their barriers is complete, and (`required`) nothing else can run.
        """
        mbarriers, clusters = self.mbarriers, self.clusters
        parked = mbarriers is not None and mbarriers.anyone
        alone = not self._parts  # nothing but barriers of blocks can let threads go on
        for position, mask in self.barriers.open(required and alone):
            self._send(position, mask, int(np.count_nonzero(mask)))
        if not alone:
            for position, mask in () if clusters is None else clusters.open():
                self._send(position, mask, int(np.count_nonzero(mask)))
            if required and not self.groups and self._progress():
                self._count(0)
                parked = mbarriers is not None and mbarriers.anyone
            if required and not self.groups and not parked:
                in_cluster = clusters is not None and clusters.anyone
                for _ in self.barriers.open(required=not in_cluster):
                    raise AssertionError("a barrier that was not complete is")
                if in_cluster:
                    raise clusters.deadlock()  # type: ignore[union-attr]
        if parked and not (required and self.groups):
            assert mbarriers is not None
            mbarriers.finish_copies()
            if required and not self.groups:
                self._count(0)
                self.repeats = self._in_vain.holds(self._state()) and not self._leap()
            if not self.repeats and not (required and self.groups):
                mbarriers.give_up()
        return bool(self.groups) or (required and (self.barriers.anyone or self.repeats))

    # -- who waits for what -------------------------------------------------------------------------------------------

    def where(self) -> str:
        """Return a text that says where the wave is: kernel, source line, block and thread."""
        machine, block = self.machine, self.blocks[self.position]
        running = self.groups.get(self.position, machine.active.mask)
        lanes = np.flatnonzero(running if running.any() else self.live)
        located = [i for i in (*block.instructions, block.end) if i is not None and i.location is not None]
        return machine.where(located[0] if located else None, int(lanes[0]) if lanes.size else None)

    def waits_for(self) -> str:
        """Return a text that says which thread goes round in a loop, where, and what it reads there.

        It runs the wave for another turn, to see what that executes.
        """
        machine = self.machine
        if self.mbarriers is not None and not self.groups and self.mbarriers.anyone:
            return self.mbarriers.waits_for()
        visited: set[int] = set()
        run_block = self._run_block

        def noting(position: int, active: Active) -> int | None:
            visited.add(position)
            return run_block(position, active)

        self._run_block = noting  # type: ignore[method-assign]
        try:
            self.run(IDLE)
        finally:
            del self._run_block
        start = min(self.groups, default=self.position)
        lane = int(np.flatnonzero(self.groups[start])[0]) if self.groups else 0
        loop = [instruction for position in sorted(visited) for instruction in self.blocks[position].instructions]
        reads = [i for i in loop if i.opcode in ("ld", "atom") and not _constant(i)]
        if not reads:
            self.position = start
            return f"{self.where()}: the kernel never ends: the thread goes round in a loop that reads no memory"
        written = {name for instruction in loop for name in reads_and_writes(instruction)[1]}
        text = f"{machine.where(reads[0], lane)}: the kernel never ends: the thread goes round in a loop, and nobody "
        text += f"changes what it reads there, {self._place(reads[0], lane, written)}"
        waiting = self.barriers.waiting & (machine.block_of_lane == machine.block_of_lane[lane])
        if waiting.any():
            at = self.barriers.instructions[self.barriers.at[int(np.flatnonzero(waiting)[0])]]
            text += f"; {np.count_nonzero(waiting)} threads of the block wait at {at.location or at.text}"
        if self.mbarriers is not None and self.mbarriers.anyone:
            text += f"; {self.mbarriers.waits_for()}"
        return text

    def _place(self, read: Instruction, lane: int, written: set[str]) -> str:
        """Return a text that says what a thread reads, by its address if the loop does not compute that anew."""
        operand = next(operand for operand in read.operands if isinstance(operand, Address))
        if isinstance(operand.base, Register) and operand.base.name in written:
            return f"`{read.text}`"
        addresses, offset = self.machine.addresses(operand)
        return place(self.machine, read, int(addresses[lane]) + offset)


class _History:
    """Whether a state has been there before. One state is kept, and replaced by a later one after 1, 2, 4, ... others
    (Brent, 1980), so that a cycle of any length is found."""

    def __init__(self) -> None:
        self._kept: list[Array] | None = None
        self._age = 0
        self._most = 1

    def holds(self, state: list[Array]) -> bool:
        kept = self._kept
        if kept is not None and len(kept) == len(state) and all(map(np.array_equal, kept, state)):
            return True
        self._age += 1
        if kept is None or self._age >= self._most:
            self._kept, self._age, self._most = state, 0, 2 * self._most
        return False


def _constant(instruction: Instruction) -> bool:
    """True for a load of what no thread can change."""
    return bool({"param", "param::entry", "const", "nc", "local"} & set(instruction.modifiers))
