"""setmaxnreg: registers that warpgroups hand to each other, and the launches that depend on each other.

A block has the registers that it was launched with: those of .maxnreg, or else as many as .maxntid threads of
.minnctapersm blocks can have. A warpgroup that asks for more waits until others have released theirs, so a block whose
warps ask for more than there are never ends; that is found when its threads have ended here, where nobody waits.
"""

from __future__ import annotations

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.lanewise import Bound, always
from gpubp.emulator.device.state import Machine
from gpubp.emulator.errors import DeadlockError, DivergenceError, RegisterError
from gpubp.emulator.program.ptx import Immediate, Instruction

LEAST, MOST, STEP = 24, 256, 8
FILE = 65536
"""Registers of a multiprocessor, of every chip that has setmaxnreg."""
MOST_OF_THREAD = 255
WARPS = 4


def launched_with(machine: Machine) -> int:
    """Return the registers of a thread at the launch, 0 if the kernel does not say."""
    program = machine.program
    if program.max_registers:
        return program.max_registers
    if not program.max_threads:
        return 0
    registers = FILE // (program.max_threads * program.min_blocks)
    return min(MOST_OF_THREAD, registers) // STEP * STEP


class Registers:
    """How many registers each warp of a wave has asked for; 0 for those that have not executed setmaxnreg."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        warps = machine.lanes // WARP
        self.now = np.zeros(warps, np.int64)
        self.times = np.zeros(warps, np.int64)
        self.last: dict[int, Instruction] = {}  # by block

    def begin(self) -> None:
        self.now[:] = self.times[:] = 0
        self.last.clear()

    def set(self, instruction: Instruction, count: int) -> None:
        """The active warps ask for this number of registers a thread.

        Raises:
            DivergenceError: threads of a warp do not execute it.
            RegisterError: `.inc` is to raise the number, or `.dec` to lower it, and would do the opposite (PTX ISA).
        """
        machine = self.machine
        present = machine.active.mask.reshape(-1, WARP)
        some = present.any(axis=1)
        alive = machine.live.reshape(-1, WARP)
        for warp in np.flatnonzero(some & (alive & ~present).any(axis=1)).tolist():
            lane = warp * WARP + int(np.flatnonzero(present[warp])[0])
            raise DivergenceError(
                f"{machine.where(instruction, lane)}: `{instruction.text}`: all threads of the warp must execute it"
            )
        had = np.where(self.now, self.now, launched_with(machine))
        more = instruction.modifiers[0] == "inc"
        for warp in np.flatnonzero(some & (had > count if more else had < count)).tolist():
            rule = ".inc asks for more" if more else ".dec gives some back"
            raise RegisterError(
                f"{machine.where(instruction, warp * WARP)}: `{instruction.text}`: {rule}, "
                f"and the warp has {had[warp]} registers a thread"
            )
        self.now[some] = count
        self.times[some] += 1
        blocks = np.flatnonzero(some) // (machine.padded // WARP)
        self.last.update(dict.fromkeys(blocks.tolist(), instruction))

    def finish(self) -> None:
        """All threads have ended.

        Raises:
            DivergenceError: some warps of a warpgroup have not done as the others.
            DeadlockError: a block has asked for more registers than it has.
        """
        machine = self.machine
        per_block = machine.padded // WARP
        launched = launched_with(machine)
        for block, instruction in self.last.items():
            first = block * per_block
            lane = block * machine.padded
            for group in range(0, per_block, WARPS):
                warps = slice(first + group, first + min(group + WARPS, per_block))
                if np.ptp(self.times[warps]) or np.ptp(self.now[warps]):
                    raise DivergenceError(
                        f"{machine.where(instruction, lane + group * WARP)}: `{instruction.text}`: the warps {group} "
                        f"to {warps.stop - 1 - first} of the block are a warpgroup and must execute the same "
                        "setmaxnreg; "
                        f"they have asked {', '.join(map(str, self.times[warps].tolist()))} times, last for "
                        f"{', '.join(map(str, self.now[warps].tolist()))} registers"
                    )
            asked = np.where(self.now[first : first + per_block], self.now[first : first + per_block], launched)
            if launched and int(asked.sum()) > launched * per_block:
                raise DeadlockError(
                    f"{machine.where(instruction, lane)}: `{instruction.text}`: the warps of the block ask for "
                    f"{int(asked.sum()) * WARP:,} registers, and it was launched with {launched} a thread, "
                    f"{launched * per_block * WARP:,}: those that ask for more wait for ever"
                )


def bind_registers(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of setmaxnreg."""
    (amount,) = instruction.operands
    change, *rest = instruction.modifiers
    if change not in ("inc", "dec") or rest != ["sync", "aligned", "u32"] or not isinstance(amount, Immediate):
        raise machine.unsupported(instruction)
    count = amount.value
    if not LEAST <= count <= MOST or count % STEP:
        raise machine.unsupported(instruction, f"{count} registers: {LEAST} to {MOST} in steps of {STEP}")
    if not launched_with(machine):
        raise machine.unsupported(
            instruction, "the kernel does not say how many registers it is launched with: give __launch_bounds__"
        )
    registers = machine.registers_of_warps
    return always(lambda: registers.set(instruction, count))


def bind_dependency(machine: Machine, instruction: Instruction) -> Bound | None:
    """Return no step for griddepcontrol: a launch has ended here before the next one begins."""
    if instruction.modifiers not in (("launch_dependents",), ("wait",)):
        raise machine.unsupported(instruction)
    return None
