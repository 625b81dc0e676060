"""Instructions to closures: binds each basic block of a program to a machine, once, when it is first reached."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from gpubp.emulator.device import accesses, async_copies, fused, hints, mbarriers, runtime_calls, warp_instructions
from gpubp.emulator.device.lanewise import Action, Bound, always, bind_lanewise
from gpubp.emulator.device.state import Active, Machine
from gpubp.emulator.device.steps import Computation, describe
from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.program.cfg import Block
from gpubp.emulator.program.ptx import Instruction, Register, is_fence

#: Nothing that these do can be seen on a device that runs one wave in order and measures no time.
_NO_EFFECT = frozenset(("membar", "fence", "griddepcontrol", "pmevent"))


#: What the emulated device does not have.
_MISSING = {
    **dict.fromkeys(("tex", "tld4", "txq"), "textures are not emulated"),
    **dict.fromkeys(("suld", "sust", "sured", "suq"), "surfaces are not emulated"),
}


class BoundBlock:
    """A block's instructions, without the one that ends it, bound to a machine.

    Attributes:
        full: calls with their arguments, for when no living lane stands aside.
        masked: steps for when some do, which write the active lanes only.
        until_full, until_masked: executions of each that are left before the instructions are fused for it.
    """

    __slots__ = ("_bound", "_first", "_last", "_machine", "full", "masked", "until_full", "until_masked")

    def __init__(self, machine: Machine, block: Block) -> None:
        observer = machine.observer
        tracker = None if observer is None else observer.tracker(machine)
        last = None if tracker is None else tracker.end_of(block)
        self._machine = machine
        self._bound = [(one, _bind_guarded(machine, one)) for one in block.instructions]
        self._first = [] if observer is None else [always(observer.count_block(machine, block))]
        self._last = [] if last is None else [always(last)]
        everything = [*self._first, *(bound for _, bound in self._bound if bound is not None), *self._last]
        self.full = [(one.function, one.arguments) for one in everything]
        self.masked = [one.masked for one in everything]
        self.until_full = self.until_masked = fused.HOT * max(1, len(block.instructions) // fused.SHORT)

    def fuse(self, masked: bool) -> None:
        """Compile the instructions, as far as they are steps, for one of the two cases."""
        everything = [*self._first, *self._fused(masked), *self._last]
        if masked:
            self.masked = [one.masked for one in everything]
        else:
            self.full = [(one.function, one.arguments) for one in everything]

    def _fused(self, masked: bool) -> Iterator[Bound]:
        machine = self._machine
        tracker = None if machine.observer is None else machine.observer.tracker(machine)
        steps = [(describe(machine, instruction), bound) for instruction, bound in self._bound]
        for is_run, group in itertools.groupby(steps, lambda pair: pair[0] is not None):
            members = list(group)
            run = [step for step, _ in members if step is not None]
            bound = [one for _, one in members if one is not None]
            if not is_run or (len(run) == 1 and isinstance(run[0], Computation)):
                yield from bound
                continue
            execute = fused.fuse(machine, run, masked)
            yield always(execute if tracker is None else tracker.unless_undefined(execute, bound))


def bind(machine: Machine, instruction: Instruction) -> Bound | None:
    """Bind one instruction, its guard apart; None if it has no effect. Raises UnsupportedInstruction."""
    if instruction.opcode in _NO_EFFECT:
        observer = machine.observer
        return always(lambda: observer.fence(machine)) if observer is not None and is_fence(instruction) else None
    if instruction.opcode in _MISSING:
        raise machine.unsupported(instruction, _MISSING[instruction.opcode])
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


def _bind_guarded(machine: Machine, instruction: Instruction) -> Bound | None:
    """Bind one instruction with its guard, and what the observer does with it; None if it has no effect."""
    bound = bind(machine, instruction)
    observer = machine.observer
    tracker = None if observer is None else observer.tracker(machine)
    if bound is not None and tracker is not None:
        bound = tracker.watched(instruction, bound)
    if bound is None or instruction.guard is None:
        return bound
    step = bound.masked
    if observer is not None:
        step = observer.counted(machine, instruction, step)
    step = _guarded(machine, instruction.guard, step)
    return always(step if tracker is None else tracker.guarded(instruction, step))


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
