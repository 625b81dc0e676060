"""Runs one wave: which lanes execute which block next, and who waits at barriers.

Lanes that are at the same block form a group. The group furthest back in the program's running order runs first; groups
that meet merge. Lanes at a barrier wait until no group can run, and then every complete barrier opens at once, which
keeps the blocks of a wave together.
"""

from __future__ import annotations

import numpy as np

from gpubp.emulator.device.barriers import Barriers
from gpubp.emulator.device.executor import BoundBlock, bind_block
from gpubp.emulator.device.state import Active, Array, Machine
from gpubp.emulator.errors import TrapError
from gpubp.emulator.program.cfg import EXIT
from gpubp.emulator.program.ptx import Instruction, Register

#: After this many blocks the group furthest ahead gets a turn of some blocks, and complete barriers open: threads that
#: spin until another thread has done something must not keep that thread from doing it.
PATIENCE = 2_000
TURN = 200


class Wave:
    """Scheduling state of a machine; `run` executes the wave that the machine was made ready for."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.blocks = machine.program.blocks
        self.bound: list[BoundBlock | None] = [None] * len(self.blocks)
        self.groups: dict[int, Array] = {}
        self.live = machine.live
        self.live_count = 0
        self.barriers = machine.barriers = Barriers(machine)

    def run(self) -> None:
        """Run all lanes to their end. Raises what the kernel's faults raise."""
        machine = self.machine
        self.live[:] = machine.launched_lanes
        self.live_count = int(np.count_nonzero(self.live))
        self.groups = {0: self.live.copy()}
        self.barriers.begin()
        steps = 0
        while self.groups or self._open_barriers():
            if steps < PATIENCE:
                steps += self._run_group(min(self.groups), PATIENCE - steps, False)
            else:
                steps = 0
                self._open_barriers(required=False)
                self._run_group(max(self.groups), TURN, True)

    def _run_group(self, start: int, most: int, ahead: bool) -> int:
        """Run the group at a block for at most `most` blocks, as long as it stays together and (unless it may run
        ahead) nobody waits further back. Returns the number of blocks."""
        active = Active(self.groups.pop(start))
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
            if position is not None and (meets or steps >= most):
                self._join(position, active.mask)
                position = None
        return steps

    def _run_block(self, position: int, active: Active) -> int | None:
        """Execute a block; where the group goes as a whole, or None if it was taken apart, ended or parked."""
        machine = self.machine
        machine.active = active
        bound = self.bound[position]
        if bound is None:
            bound = self.bound[position] = bind_block(machine, self.blocks[position])
        if active.count == self.live_count:
            for function, arguments in bound.full:
                function(*arguments)
        else:
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
        if end.opcode == "trap":
            lane = int(active.lanes[0])
            raise TrapError(f"{machine.where(end, lane)}: the kernel executed a trap instruction")
        if self.barriers.arrive(end, active, block.successors[0], self.live_count):
            return self._go(block.successors[0], active)
        return None

    def _go(self, target: int, active: Active) -> int | None:
        if target != EXIT:
            return target
        self._end(active.mask, active.count)
        return None

    def _branch(self, guard: Register, successors: tuple[int, ...], active: Active) -> int | None:
        predicate = self.machine.row(guard)
        if active.whole:
            taken, count = predicate, int(np.count_nonzero(predicate))
        else:
            taken = predicate & active.mask
            count = int(np.count_nonzero(taken))
        if guard.negated:
            count = active.count - count
        if count == active.count:
            return self._go(successors[0], active)
        if count == 0:
            return self._go(successors[1], active)
        mask = active.mask & ~predicate if guard.negated else active.mask & predicate
        self._send(successors[0], mask, count)
        self._send(successors[1], active.mask & ~mask, active.count - count)
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

    def _send(self, target: int, mask: Array, count: int) -> None:
        if target == EXIT:
            self._end(mask, count)
        else:
            self._join(target, mask)

    def _join(self, position: int, mask: Array) -> None:
        there = self.groups.get(position)
        self.groups[position] = mask if there is None else there | mask

    def _end(self, mask: Array, count: int) -> None:
        self.live &= ~mask
        self.live_count -= count

    def _open_barriers(self, required: bool = True) -> bool:
        """Let the lanes at complete barriers go on; False if none is left to run.

        Raises:
            DeadlockError: lanes wait, none of their barriers is complete, and (`required`) nothing else can run.
        """
        for position, mask in self.barriers.open(required):
            self._send(position, mask, int(np.count_nonzero(mask)))
        return bool(self.groups) or (required and self.barriers.anyone)
