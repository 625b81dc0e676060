"""Clusters of blocks: addresses of each other's shared memory, and the barrier of a cluster.

An address of shared memory of a cluster has the rank of a block, plus 1, above its low 24 bits (CLUSTER_BITS). Without
one it belongs to the block of the thread itself, so that every address of shared::cta is one of shared::cluster too
(PTX ISA, state spaces).

The barrier of a cluster has phases: one is over when all threads of the cluster that have not exited have arrived.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpubp.emulator.device.lanewise import Bound, compose
from gpubp.emulator.device.memory import SHARED_WINDOW
from gpubp.emulator.device.state import Active, Array, Machine
from gpubp.emulator.errors import BarrierError, DeadlockError
from gpubp.emulator.program.ptx import Instruction, Register

CLUSTER_BITS = 24
WITHIN = (1 << CLUSTER_BITS) - 1
_MODIFIERS = frozenset(("cluster", "arrive", "wait", "aligned", "release", "relaxed", "acquire"))


def bind_mapa(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of mapa: the address of the same place in another block's shared memory."""
    to, address, rank = instruction.operands
    base = _base(machine, instruction)
    assert isinstance(to, Register)
    row = machine.row(to)
    places, ranks = machine.lanes_of(address, row.dtype), machine.lanes_of(rank, np.dtype(np.uint32))
    scale = row.dtype.type(1 << CLUSTER_BITS)

    def apply(out: Array, place: Array, rank: Array) -> None:
        beyond = machine.active.mask & (ranks >= machine.cluster_size)
        if beyond.any():
            lane = int(np.flatnonzero(beyond)[0])
            raise BarrierError(
                f"{machine.where(instruction, lane)}: `{instruction.text}` names block {int(ranks[lane])} of a cluster "
                f"of {machine.cluster_size}"
            )
        above = (rank.astype(row.dtype) + row.dtype.type(1)) * scale  # first, as `out` may be one of the others
        out[...] = ((place - row.dtype.type(base)) & row.dtype.type(WITHIN)) + row.dtype.type(base) + above

    return compose(machine, apply, [row], [places, ranks], [], [])


def bind_rank(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of getctarank: the rank of the block to whose shared memory an address leads."""
    to, address = instruction.operands
    base = _base(machine, instruction)
    assert isinstance(to, Register)
    row = machine.row(to)
    width = np.dtype(f"u{int(instruction.modifiers[-1][1:]) // 8}")
    places = machine.lanes_of(address, width)

    def apply(out: Array, place: Array) -> None:
        rank = (place - width.type(base)) >> width.type(CLUSTER_BITS)
        out[...] = np.where(rank == 0, machine.rank_of_lane, rank.astype(np.int64) - 1)

    return compose(machine, apply, [row], [places], [], [])


def _base(machine: Machine, instruction: Instruction) -> int:
    """Return where shared memory begins in the addresses of mapa or getctarank."""
    *space, kind = instruction.modifiers
    if kind not in ("u32", "u64") or space not in ([], ["shared::cluster"]):
        raise machine.unsupported(instruction)
    return 0 if space else SHARED_WINDOW


def is_cluster_barrier(instruction: Instruction) -> bool:
    return instruction.opcode == "barrier" and "cluster" in instruction.modifiers


class ClusterBarriers:
    """Who has arrived at the barriers of the clusters of a wave, and who waits there."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        lanes = machine.lanes
        self.cluster_of_lane = machine.block_of_lane // machine.cluster_size
        self.phase = np.zeros(machine.blocks // machine.cluster_size, np.int64)
        self.arrived = np.zeros(lanes, bool)  # in the phase that is not over
        self.owes = np.zeros(lanes, bool)  # has arrived, and not waited yet
        self.phase_of = np.zeros(lanes, np.int64)  # the phase of each lane's latest arrival
        self.parked = np.zeros(lanes, bool)
        self.resume = np.zeros(lanes, np.int64)
        self.instruction_of: dict[int, Instruction] = {}  # that parked lanes wait at
        self.anyone = False

    def begin(self) -> None:
        for array in (self.phase, self.arrived, self.owes, self.phase_of, self.parked):
            array[:] = 0
        self.anyone = False

    def state(self) -> list[Array]:
        """Return copies of who waits where."""
        return [array.copy() for array in (self.arrived, self.parked, self.resume, self.phase)]

    def arrive(self, instruction: Instruction) -> None:
        """Let the active lanes arrive, and go on."""
        machine = self.machine
        self._check(instruction)
        lanes = machine.active.lanes
        twice = lanes[self.owes[lanes]]
        if twice.size:
            raise BarrierError(
                f"{machine.where(instruction, int(twice[0]))}: `{instruction.text}`: the thread has arrived at the "
                "barrier of the cluster before and has not waited there since: wait first"
            )
        self.owes[lanes] = self.arrived[lanes] = True
        self.phase_of[lanes] = self.phase[self.cluster_of_lane[lanes]]
        machine.changed = True
        if machine.observer is not None:
            releases = "relaxed" not in instruction.modifiers
            machine.observer.cluster_arrived(machine, lanes, self._numbers(lanes), self.phase_of[lanes], releases)
        self._complete()

    def wait(self, instruction: Instruction, active: Active, resume: int) -> bool:
        """Let the active lanes wait for the end of the phase in which they have arrived; True if all may go on."""
        machine = self.machine
        self._check(instruction)
        lanes = active.lanes
        without = lanes[~self.owes[lanes]]
        if without.size:
            raise BarrierError(
                f"{machine.where(instruction, int(without[0]))}: `{instruction.text}`: the thread has not arrived at "
                "the barrier of the cluster"
            )
        self._complete()
        over = self.phase[self.cluster_of_lane[lanes]] > self.phase_of[lanes]
        if over.all():
            self._passed(lanes)
            return True
        self.parked[lanes], self.resume[lanes] = True, resume
        self.anyone = True
        self.instruction_of.update(dict.fromkeys(lanes.tolist(), instruction))
        return False

    def open(self) -> Iterator[tuple[int, Array]]:
        """Yield where lanes go on whose phase is over, and which."""
        if not self.anyone:
            return
        self._complete()
        lanes = np.flatnonzero(self.parked)
        lanes = lanes[self.phase[self.cluster_of_lane[lanes]] > self.phase_of[lanes]]
        if not lanes.size:
            return
        self.parked[lanes] = False
        self.anyone = bool(self.parked.any())
        self._passed(lanes)
        for position in np.unique(self.resume[lanes]).tolist():
            mask = np.zeros(self.machine.lanes, bool)
            mask[lanes[self.resume[lanes] == position]] = True
            yield position, mask

    def _check(self, instruction: Instruction) -> None:
        if set(instruction.modifiers) - _MODIFIERS:
            raise self.machine.unsupported(instruction)

    def _numbers(self, lanes: Array) -> Array:
        """Return the numbers by which an observer knows the barriers of lanes: those of mbarriers are not negative."""
        return -1 - self.cluster_of_lane[lanes]

    def _complete(self) -> None:
        """End the phases at which all threads have arrived that have not exited."""
        machine = self.machine
        shape = (self.phase.size, -1)
        missing = (machine.live & ~self.arrived).reshape(shape).any(axis=1)
        over = self.arrived.reshape(shape).any(axis=1) & ~missing
        if over.any():
            self.phase[over] += 1
            self.arrived.reshape(shape)[over] = False

    def _passed(self, lanes: Array) -> None:
        self.owes[lanes] = False
        self.machine.changed = True
        if self.machine.observer is not None:
            self.machine.observer.cluster_passed(self.machine, lanes, self._numbers(lanes), self.phase_of[lanes] + 1)

    def deadlock(self) -> DeadlockError:
        """Return the error of lanes that wait for ever."""
        machine = self.machine
        lane = int(np.flatnonzero(self.parked)[0])
        cluster = self.cluster_of_lane == self.cluster_of_lane[lane]
        missing = np.flatnonzero(cluster & machine.live & ~self.arrived)
        first = int(missing[0]) if missing.size else lane
        return DeadlockError(
            f"{machine.where(self.instruction_of[lane], lane)}: barrier deadlock: {int((cluster & self.parked).sum())} "
            f"threads wait at the barrier of the cluster, and {missing.size} of its threads never arrive there, the "
            f"first of them block {machine.block_index(first)}, thread {machine.thread_index(first)}"
        )
