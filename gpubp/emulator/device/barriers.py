"""Barriers of a wave: bar.sync, bar.red, bar.arrive (barrier.cta.*) and bar.warp.sync, with deadlocks reported."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.state import Active, Array, Machine
from gpubp.emulator.errors import DeadlockError, DivergenceError
from gpubp.emulator.program.ptx import Immediate, Instruction, Operand, Register

BARRIERS = 16  # a block has barriers 0 to 15 (PTX ISA, bar)
_WARP_BARRIER = BARRIERS  # the number under which lanes wait at bar.warp.sync
_EVERYONE = 0  # expected threads of a barrier without a count
_OFTEN = 1 << 30


class Barriers:
    """Which lanes wait where. Lanes wait one by one, as on a GPU since Volta.

    A barrier without a count of threads is complete when all threads of the block that have not exited wait at it; so
    an exit may complete it. One with a count takes whole warps: a warp has arrived, with 32 threads, when all its
    threads that have not exited have (PTX ISA, barrier and exit). A warp that has exited without arriving is missing.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        lanes = machine.lanes
        self.anyone = False
        self.waiting = np.zeros(lanes, bool)
        self.resume = np.zeros(lanes, np.int64)  # the block to go on with
        self.number = np.zeros(lanes, np.int64)
        self.expected = np.zeros(lanes, np.int64)  # a count of threads, or _EVERYONE; for bar.warp the member mask
        self.at = np.zeros(lanes, np.int64)  # index into `instructions`
        self.instructions: list[Instruction] = []
        self.arrivals = np.zeros((lanes, BARRIERS), np.uint8)  # by bar.arrive, since the barrier was last complete
        self.live = machine.live

    def begin(self) -> None:
        self.waiting[:] = False
        self.anyone = False
        self.arrivals[:] = 0

    def state(self) -> list[Array]:
        """Return copies of who waits where."""
        return [a.copy() for a in (self.waiting, self.resume, self.number, self.at, self.arrivals)]

    # -- arriving -----------------------------------------------------------------------------------------------------

    def arrive(self, instruction: Instruction, active: Active, resume: int, live_count: int) -> bool:
        """Let the active lanes arrive at a barrier, and return True if all may go on at once."""
        if "warp" in instruction.modifiers:
            return self._arrive_warp(instruction, active, resume)
        # Everybody is here: the usual case.
        if len(instruction.operands) == 1 and active.count == live_count and _is_immediate(instruction.operands[0]):
            self._synchronized(active.mask)
            return True
        numbers, expected = self._operands(instruction, active)
        self._park(instruction, active, resume, numbers, expected)
        return False

    def arrive_only(self, instruction: Instruction) -> None:
        """bar.arrive: counts, and goes on."""
        active = self.machine.active
        numbers, _ = self._operands(instruction, active)
        lanes = active.lanes
        self.arrivals[lanes, numbers[lanes]] += 1
        if self.machine.observer is not None:
            self.machine.observer.barrier_arrived(self.machine, lanes, numbers[lanes])

    def _operands(self, instruction: Instruction, active: Active) -> tuple[Array, Array]:
        """Return barrier number and expected threads (or _EVERYONE) of each lane.

        bar.red has a destination before them and a predicate after.
        """
        machine = self.machine
        reduces = "red" in instruction.modifiers
        operands = instruction.operands[1:-1] if reduces else instruction.operands
        numbers = self._lanes(operands[0]) if operands else machine.zeros
        if len(operands) > 1:
            expected = self._lanes(operands[1])
        else:
            expected = machine.zeros
        if (numbers[active.lanes] >= BARRIERS).any():
            raise machine.unsupported(instruction, "a barrier number above 15")
        return numbers, expected

    def _lanes(self, operand: Operand) -> Array:
        value = self.machine.lanes_of(operand, np.dtype(np.uint32))
        return value.astype(np.int64)

    def _park(self, instruction: Instruction, active: Active, resume: int, numbers: Array, expected: Array) -> None:
        mask = active.mask
        self.waiting |= mask
        self.anyone = True
        self.resume[mask] = resume
        np.copyto(self.number, numbers, where=mask)
        np.copyto(self.expected, expected, where=mask)
        known = [index for index, one in enumerate(self.instructions) if one is instruction]
        if not known:  # by identity: two barriers may stand on one line
            self.instructions.append(instruction)
        self.at[mask] = known[0] if known else len(self.instructions) - 1

    # -- bar.warp.sync ------------------------------------------------------------------------------------------------

    def _arrive_warp(self, instruction: Instruction, active: Active, resume: int) -> bool:
        machine = self.machine
        members = self._lanes(instruction.operands[0])
        outside = active.lanes[members[active.lanes] >> (active.lanes % WARP) & 1 == 0]
        if outside.size:
            lane = int(outside[0])
            raise DivergenceError(
                f"{machine.where(instruction, lane)}: bar.warp.sync by a thread that its mask "
                f"({members[lane]:#010x}) leaves out"
            )
        if active.count == int(np.count_nonzero(self.live)) or self._warps_complete(members, active.mask):
            self._warp_synchronized(active.mask, members)
            return True
        self._park(instruction, active, resume, np.full(machine.lanes, _WARP_BARRIER), members)
        return False

    def _warps_complete(self, members: Array, present: Array) -> bool:
        """True if every lane named by a present lane is present or has ended."""
        there = warp_bits(present)
        ended = warp_bits(~self.live)
        missing = members.reshape(-1, WARP) & ~(there | ended)[:, None]
        return not (missing.ravel()[present]).any()

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self, required: bool) -> Iterator[tuple[int, Array]]:
        """The lanes that may go on, with where; raises DeadlockError if lanes wait, none may go on, and some must."""
        if not self.anyone:
            return
        opened = self._complete_warps() | self._complete_blocks()
        if not opened.any():
            if required:
                raise self._deadlock()
            return
        self.waiting &= ~opened
        self.anyone = bool(self.waiting.any())
        for position in np.unique(self.resume[opened]):
            yield int(position), opened & (self.resume == position)

    def _complete_warps(self) -> Array:
        """Return the lanes at bar.warp.sync whose members all wait there too."""
        here = self.waiting & (self.number == _WARP_BARRIER)
        if not here.any():
            return here
        missing = self.expected.reshape(-1, WARP) & ~(warp_bits(here) | warp_bits(~self.live))[:, None]
        opened = here & (missing.ravel() == 0)
        if opened.any():
            self._warp_synchronized(opened, self.expected)
        return opened

    def _complete_blocks(self) -> Array:
        """Return the lanes at barriers of their block that are complete."""
        machine = self.machine
        opened = np.zeros(machine.lanes, bool)
        lanes = np.flatnonzero(self.waiting & (self.number != _WARP_BARRIER))
        if not lanes.size:
            return opened
        block, number, expected = machine.block_of_lane[lanes], self.number[lanes], self.expected[lanes]
        places = machine.blocks * BARRIERS
        here = np.bincount(block * BARRIERS + number, minlength=places).reshape(-1, BARRIERS)
        live = np.count_nonzero(self.live.reshape(machine.blocks, -1), axis=1)
        complete = here[block, number] == live[block]
        counted = expected != _EVERYONE
        if counted.any():
            complete[counted] = (self._arrived(lanes)[block, number] >= expected)[counted]
        opened[lanes[complete]] = True
        if complete.any():
            self._check_aligned(opened)
            self._reduce(opened)
            self.arrivals.reshape(machine.blocks, -1, BARRIERS)[block[complete], :, number[complete]] = 0
            self._synchronized(opened, np.where(self.expected == _EVERYONE, -1, self.number) if counted.any() else None)
        return opened

    def _arrived(self, waiting: Array) -> Array:
        """Return the threads that have arrived at each barrier (blocks, BARRIERS), by whole warps."""
        times = self.arrivals.astype(np.int64)
        times[waiting, self.number[waiting]] += 1
        by_warp = times.reshape(-1, WARP, BARRIERS)
        live = self.live.reshape(-1, WARP, 1)
        # A warp that has exited as a whole arrived as often as any of its threads.
        warps = np.where(live.any(axis=1), by_warp.min(axis=1, where=live, initial=_OFTEN), by_warp.max(axis=1))
        return WARP * warps.reshape(self.machine.blocks, -1, BARRIERS).sum(axis=1)

    def _check_aligned(self, opened: Array) -> None:
        """bar.sync and barrier.*.aligned must be one and the same instruction for all threads of a warp."""
        at = self.at.reshape(-1, WARP)
        mask = opened.reshape(-1, WARP)
        highest = np.where(mask, at, -1).max(axis=1)
        lowest = np.where(mask, at, len(self.instructions)).min(axis=1)
        for warp in np.flatnonzero((highest > lowest) & mask.any(axis=1)):
            one, other = self.instructions[lowest[warp]], self.instructions[highest[warp]]
            if one.opcode == "bar" or "aligned" in one.modifiers:
                lane = int(warp * WARP + np.flatnonzero(mask[warp] & (at[warp] == highest[warp]))[0])
                raise DivergenceError(
                    f"{self.machine.where(other, lane)}: barrier under divergence: threads of one warp wait at "
                    f"different barriers, others at {one.location}"
                )

    def _synchronized(self, mask: Array, barriers: Array | None = None) -> None:
        if self.machine.observer is not None:
            self.machine.observer.block_barrier(self.machine, mask, barriers)

    def _warp_synchronized(self, mask: Array, members: Array) -> None:
        if self.machine.observer is not None:
            self.machine.observer.warp_barrier(self.machine, mask, members)

    # -- bar.red ------------------------------------------------------------------------------------------------------

    def _reduce(self, opened: Array) -> None:
        """The result of bar.red: popc, and, or of the predicate over the threads that took part."""
        machine = self.machine
        for index, instruction in enumerate(self.instructions):
            if "red" not in instruction.modifiers:
                continue
            mask = opened & (self.at == index)
            if not mask.any():
                continue
            target, predicate = instruction.operands[0], instruction.operands[-1]
            assert isinstance(target, Register)
            value = machine.lanes_of(predicate, np.dtype(bool))
            if isinstance(predicate, Register) and predicate.negated:
                value = ~value
            key = machine.block_of_lane * BARRIERS + self.number
            votes = np.bincount(key[mask & value], minlength=machine.blocks * BARRIERS)[key]
            voters = np.bincount(key[mask], minlength=machine.blocks * BARRIERS)[key]
            result = {"popc": votes, "and": votes == voters, "or": votes > 0}[
                next(modifier for modifier in instruction.modifiers if modifier in ("popc", "and", "or"))
            ]
            np.copyto(machine.row(target), result, where=mask, casting="unsafe")

    # -- deadlock -----------------------------------------------------------------------------------------------------

    def _deadlock(self) -> DeadlockError | DivergenceError:
        machine = self.machine
        lane = int(np.flatnonzero(self.waiting)[0])
        instruction = self.instructions[self.at[lane]]
        if self.number[lane] == _WARP_BARRIER:
            return DivergenceError(
                f"{machine.where(instruction, lane)}: bar.warp.sync names threads (mask {self.expected[lane]:#010x}) "
                f"that never reach it: {self._elsewhere(lane)}"
            )
        if self.expected[lane] == _EVERYONE:
            waits = "the threads of the block that have not exited"
        else:
            waits = f"{self.expected[lane]} threads of the block"
        return DeadlockError(
            f"{machine.where(instruction, lane)}: barrier deadlock: the barrier waits for {waits}: "
            f"{self._elsewhere(lane)}"
        )

    def _elsewhere(self, lane: int) -> str:
        """Return a text that says where the threads of a lane's block are."""
        machine = self.machine
        block = machine.block_of_lane == machine.block_of_lane[lane]
        parts = []
        for index, instruction in enumerate(self.instructions):
            count = int(np.count_nonzero(block & self.waiting & (self.at == index)))
            if count:
                parts.append(f"{count} wait at {instruction.location or instruction.text}")
        exited = int(np.count_nonzero(block & machine.is_thread & ~self.live))
        if exited:
            parts.append(f"{exited} have exited (a barrier with a count of threads waits for them in vain)")
        return ", ".join(parts)


def _is_immediate(operand: Operand) -> bool:
    return isinstance(operand, Immediate)


def warp_bits(mask: Array) -> Array:
    """Return each warp's lanes as a 32-bit mask (int64)."""
    packed = np.packbits(mask.reshape(-1, WARP), axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view(np.uint32).ravel().astype(np.int64)
