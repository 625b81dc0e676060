"""Instructions to closures: binds each basic block of a program to a machine, once, when it is first reached."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from gpubp.emulator.device import (
    accesses,
    async_copies,
    bulk_copies,
    clusters,
    fused,
    hints,
    mbarriers,
    roles,
    runtime_calls,
    warp_instructions,
    warpgroup_products,
)
from gpubp.emulator.device.lanewise import Action, Bound, always, bind_lanewise
from gpubp.emulator.device.state import Active, Machine
from gpubp.emulator.device.steps import Computation, describe
from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.program.cfg import Block
from gpubp.emulator.program.ptx import Instruction, Register, is_fence

#: Nothing that these do can be seen on a device that runs one wave in order and measures no time.
_NO_EFFECT = frozenset(("membar", "fence", "pmevent"))
_PROXY_FENCES = frozenset(
    [("proxy", "async", *space) for space in ((), ("global",), ("shared::cta",), ("shared::cluster",))]
    + [("proxy", "alias"), ("mbarrier_init", "release", "cluster")]
)
"""Fences of the async proxy, and of new mbarriers; others are refused by name."""


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
        ends = None if observer is None or block.end is None else observer.traced(machine, block.end)
        self._last += [] if ends is None else [always(ends)]
        everything = [*self._first, *(bound for _, bound in self._bound if bound is not None), *self._last]
        self.full = [(one.function, one.arguments) for one in everything]
        self.masked = [one.masked for one in everything]
        self.until_full = self.until_masked = fused.HOT * max(1, len(block.instructions) // fused.SHORT)
        if observer is not None and observer.trace is not None:
            self.until_full = self.until_masked = 0  # never fused: a trace has each instruction

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
        steps = [
            (None if self._is_hooked(instruction) else describe(machine, instruction), bound)
            for instruction, bound in self._bound
        ]
        for is_run, group in itertools.groupby(steps, lambda pair: pair[0] is not None):
            members = list(group)
            run = [step for step, _ in members if step is not None]
            bound = [one for _, one in members if one is not None]
            if not is_run or (len(run) == 1 and isinstance(run[0], Computation)):
                yield from bound
                continue
            execute = fused.fuse(machine, run, masked)
            yield always(execute if tracker is None else tracker.unless_undefined(execute, bound))

    def _is_hooked(self, instruction: Instruction) -> bool:
        """Return True for an instruction that an observer must see by itself."""
        observer = self._machine.observer
        return observer is not None and observer.hooks(self._machine, instruction)


def bind(machine: Machine, instruction: Instruction) -> Bound | None:
    """Bind one instruction, its guard apart; None if it has no effect. Raises UnsupportedInstruction."""
    if instruction.opcode in _NO_EFFECT:
        observer = machine.observer
        if instruction.opcode == "fence" and not is_fence(instruction):
            if instruction.modifiers not in _PROXY_FENCES:
                raise machine.unsupported(instruction)
            return None if observer is None else always(lambda: observer.proxy_fence(machine, instruction))
        return always(lambda: observer.fence(machine)) if observer is not None and is_fence(instruction) else None
    if instruction.opcode in _MISSING:
        raise machine.unsupported(instruction, _MISSING[instruction.opcode])
    if instruction.opcode == "griddepcontrol":
        return roles.bind_dependency(machine, instruction)
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
    if bound is not None and observer is not None:
        bound = observer.hooked(machine, instruction, bound)
    if bound is not None and tracker is not None:
        bound = tracker.watched(instruction, bound)
    noted = None if observer is None else observer.traced(machine, instruction)
    if bound is not None and noted is not None:
        bound = _after(noted, bound)
    if bound is None or instruction.guard is None:
        return bound
    step = bound.masked
    if observer is not None:
        step = observer.counted(machine, instruction, step)
    step = _guarded(machine, instruction.guard, step)
    return always(step if tracker is None else tracker.guarded(instruction, step))


def _after(first: Action, bound: Bound) -> Bound:
    """Return an instruction that does something else first."""

    def full() -> None:
        first()
        bound.function(*bound.arguments)

    def masked() -> None:
        first()
        bound.masked()

    return Bound(full, (), masked)


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
    if clusters.is_cluster_barrier(instruction):
        return always(lambda: machine.cluster_barriers.arrive(instruction))
    return always(lambda: machine.barriers.arrive_only(instruction))


def _bind_copy(machine: Machine, instruction: Instruction) -> Bound:
    bulk = "bulk" in instruction.modifiers
    return (bulk_copies.bind_bulk if bulk else async_copies.bind_async)(machine, instruction)


_FACTORIES: dict[str, Callable[[Machine, Instruction], Bound | None]] = {
    "ld": accesses.bind_load,
    "ldu": accesses.bind_load,
    "st": accesses.bind_store,
    "atom": accesses.bind_atomic,
    "red": accesses.bind_atomic,
    "cp": _bind_copy,
    "setmaxnreg": roles.bind_registers,
    "wgmma": warpgroup_products.bind_product,
    "mbarrier": mbarriers.bind_mbarrier,
    "call": runtime_calls.bind_call,
    "bar": _bind_arrive,
    "barrier": _bind_arrive,
    "mapa": clusters.bind_mapa,
    "getctarank": clusters.bind_rank,
    **hints.FACTORIES,
    **warp_instructions.FACTORIES,
}
