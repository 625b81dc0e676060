"""Instructions to closures: binds each basic block of a program to a machine, once, when it is first reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpubp.emulator.device import accesses, async_copies, hints, mbarriers, runtime_calls, warp_instructions
from gpubp.emulator.device.lanewise import Action, Bound, always, bind_lanewise
from gpubp.emulator.device.state import Active, Machine
from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.program.cfg import Block
from gpubp.emulator.program.ptx import Instruction, Register, is_fence

#: Nothing that these do can be seen on a device that runs one wave in order and measures no time.
_NO_EFFECT = frozenset(("membar", "fence", "griddepcontrol", "pmevent"))


class BoundBlock(NamedTuple):
    """A block's instructions for when no living lane stands aside, and for when some do."""

    full: list[tuple[Callable[..., Any], tuple[Any, ...]]]
    masked: list[Action]


def bind_block(machine: Machine, block: Block) -> BoundBlock:
    """Bind the instructions of a block, without the one that ends it."""
    full: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    masked: list[Action] = []
    if machine.observer is not None:
        count = machine.observer.count_block(machine, block)
        full.append((count, ()))
        masked.append(count)
    for instruction in block.instructions:
        bound = bind(machine, instruction)
        if bound is None:
            continue
        if instruction.guard is not None:
            step = bound.masked
            if machine.observer is not None:
                step = machine.observer.counted(machine, instruction, step)
            step = _guarded(machine, instruction.guard, step)
            bound = Bound(step, (), step)
        full.append((bound.function, bound.arguments))
        masked.append(bound.masked)
    return BoundBlock(full, masked)


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
    ordered = machine.observer is not None and machine.observer.choices is not None

    def run() -> None:
        outer = machine.active
        if guard.negated:
            np.greater(outer.mask, predicate, chosen)
        else:
            np.logical_and(outer.mask, predicate, chosen)
        inner = outer.within(chosen) if ordered else Active(chosen)
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
    "mbarrier": mbarriers.bind_mbarrier,
    "call": runtime_calls.bind_call,
    "bar": _bind_arrive,
    "barrier": _bind_arrive,
    **hints.FACTORIES,
    **warp_instructions.FACTORIES,
}
