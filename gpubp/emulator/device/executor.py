"""Instructions to closures: binds each basic block of a program to a machine, once, when it is first reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.emulator.device import accesses, async_copies, fused, runtime_calls, warp_instructions
from gpubp.emulator.device.fused import fuse
from gpubp.emulator.device.lanewise import Action, Bound, always, bind_lanewise
from gpubp.emulator.device.state import Active, Machine
from gpubp.emulator.device.steps import runs
from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.program.cfg import Block
from gpubp.emulator.program.ptx import Instruction, Register, is_fence

#: Nothing that these do can be seen on a device that runs one wave in order and measures no time.
_NO_EFFECT = frozenset(
    ("membar", "fence", "prefetch", "prefetchu", "nanosleep", "discard", "applypriority", "griddepcontrol", "pmevent")
)


Call = tuple[Callable[..., Any], tuple[Any, ...]]


class BoundBlock:
    """A block's instructions for when no living lane stands aside, and for when some do.

    Attributes:
        full: calls with their arguments.
        masked: steps that write the active lanes only.
        until_full, until_masked: executions of each that are left before its lane-wise instructions are fused.
    """

    __slots__ = ("full", "masked", "until_full", "until_masked")

    def __init__(self, full: list[Call], masked: list[Action]) -> None:
        self.full = full
        self.masked = masked
        self.until_full = self.until_masked = fused.HOT


def bind_block(machine: Machine, block: Block) -> BoundBlock:
    """Bind the instructions of a block, without the one that ends it."""
    full, masked = _counting(machine, block)
    for instruction in block.instructions:
        bound = _bind_guarded(machine, instruction)
        if bound is not None:
            full.append((bound.function, bound.arguments))
            masked.append(bound.masked)
    return BoundBlock(full, masked)


def fuse_block(machine: Machine, block: Block, bound: BoundBlock, masked: bool) -> None:
    """Compile the instructions of a block, as far as they are steps, in its full or masked form."""
    full, steps = _counting(machine, block)
    for run in runs(machine, block.instructions):
        one = _bind_guarded(machine, run) if isinstance(run, Instruction) else always(fuse(machine, run, masked))
        if one is not None:
            full.append((one.function, one.arguments))
            steps.append(one.masked)
    if masked:
        bound.masked = steps
    else:
        bound.full = full


def _counting(machine: Machine, block: Block) -> tuple[list[Call], list[Action]]:
    """Return the beginning of a block in both forms: nothing, or the observer's count."""
    if machine.observer is None:
        return [], []
    count = machine.observer.count_block(machine, block)
    return [(count, ())], [count]


def _bind_guarded(machine: Machine, instruction: Instruction) -> Bound | None:
    """Bind one instruction with its guard; None if it has no effect."""
    bound = bind(machine, instruction)
    if bound is None or instruction.guard is None:
        return bound
    step = bound.masked
    if machine.observer is not None:
        step = machine.observer.counted(machine, instruction, step)
    step = _guarded(machine, instruction.guard, step)
    return Bound(step, (), step)


def bind(machine: Machine, instruction: Instruction) -> Bound | None:
    """Bind one instruction, its guard apart; None if it has no effect. Raises UnsupportedInstruction."""
    if instruction.opcode in _NO_EFFECT:
        observer = machine.observer
        return always(lambda: observer.fence(machine)) if observer is not None and is_fence(instruction) else None
    factory = _FACTORIES.get(instruction.opcode, bind_lanewise)
    try:
        bound = factory(machine, instruction)
    except UnsupportedInstruction as error:
        if str(error).startswith("kernel "):
            raise
        raise machine.unsupported(instruction, str(error)) from None
    if bound is None:
        raise machine.unsupported(instruction)
    return bound


def _guarded(machine: Machine, guard: Register, step: Action) -> Action:
    predicate = machine.row(guard)
    chosen = np.empty(machine.lanes, bool)

    def run() -> None:
        outer = machine.active
        if guard.negated:
            np.greater(outer.mask, predicate, chosen)
        else:
            np.logical_and(outer.mask, predicate, chosen)
        inner = Active(chosen)
        if inner.count:
            machine.active = inner
            step()
            machine.active = outer

    return run


def _bind_arrive(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of bar.arrive. Barriers at which threads wait end their block, and belong to the scheduler."""
    return always(lambda: machine.barriers.arrive_only(instruction))


_FACTORIES: dict[str, Callable[[Machine, Instruction], Bound | None]] = {
    "ld": accesses.bind_load,
    "ldu": accesses.bind_load,
    "st": accesses.bind_store,
    "atom": accesses.bind_atomic,
    "red": accesses.bind_atomic,
    "cp": async_copies.bind_async,
    "call": runtime_calls.bind_call,
    "bar": _bind_arrive,
    "barrier": _bind_arrive,
    **warp_instructions.FACTORIES,
}
