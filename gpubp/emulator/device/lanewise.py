"""Binding of lane-wise instructions to the arrays of one machine.

A bound instruction has two forms: a call with fixed arguments for when every living lane executes it, and a step that
writes the active lanes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpubp.emulator.device.clock import CLOCK, READ, SPECIALS
from gpubp.emulator.device.memory import LOCAL_WINDOW, SHARED_WINDOW
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.isa.arithmetic import Operation, operation
from gpubp.emulator.program.ptx import Instruction, Operand, Pair, Register, Sink, Special, Symbol, Vector

Action = Callable[[], None]


class Bound(NamedTuple):
    """A call for when no living lane stands aside, and a step for when some do."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    masked: Action


def always(step: Action) -> Bound:
    """Return a step in its full and masked form that looks at the active lanes itself."""
    return Bound(step, (), step)


def bind_lanewise(machine: Machine, instruction: Instruction) -> Bound | None:
    """Bind an instruction that works on each lane by itself; None if it is not of that kind."""
    special = _SPECIAL.get(instruction.opcode)
    if special is not None:
        bound = special(machine, instruction)
        if bound is not None:
            return bound
    pair = bool(instruction.operands) and isinstance(instruction.operands[0], Pair)
    found = operation(instruction.opcode, instruction.modifiers, pair)
    return None if found is None else _bind_operation(machine, instruction, found)


def _bind_operation(machine: Machine, instruction: Instruction, found: Operation) -> Bound:
    first = instruction.operands[0]
    targets = (first.first, first.second) if isinstance(first, Pair) else (first,)
    operands = instruction.operands[1:]
    if len(operands) != len(found.sources) or len(targets) != len(found.results):
        raise machine.unsupported(instruction, "an unexpected number of operands")
    sources, before = _sources(machine, operands, found)
    outs, after = _outs(machine, targets, found)
    if found.carry_in:
        sources.append(machine.carry)
    results = [*outs, machine.carry] if found.carry_out else outs
    bound = compose(machine, found.apply, results, sources, before, after)
    # NumPy wants the out of these two by name, which only apply gives.
    by_name = found.ufunc in (np.maximum, np.minimum)
    if found.ufunc is not None and not by_name and bound.function is found.apply:
        return Bound(found.ufunc, (*sources, *results), bound.masked)
    return bound


def compose(
    machine: Machine,
    apply: Callable[..., None],
    outs: list[Array],
    sources: list[Array],
    before: list[Action],
    after: list[tuple[Array, Array]],
) -> Bound:
    """Return the full and the masked form of apply(*outs, *sources).

    `before` prepares the sources; `after` lists pairs of target and value to convert.
    """
    converted = {id(value) for _, value in after}
    stores = [
        (out, machine.scratch(out.dtype, 4 + index)) for index, out in enumerate(outs) if id(out) not in converted
    ]
    scratch_of = {id(out): scratch for out, scratch in stores}
    temporaries = [scratch_of.get(id(out), out) for out in outs]

    def masked() -> None:
        for step in before:
            step()
        apply(*temporaries, *sources)
        mask = machine.active.mask
        for target, value in stores:
            np.copyto(target, value, where=mask)
        for target, value in after:
            np.copyto(target, value, where=mask, casting="unsafe")

    if not before and not after:
        return Bound(apply, (*outs, *sources), masked)

    def full() -> None:
        for step in before:
            step()
        apply(*outs, *sources)
        for target, value in after:
            np.copyto(target, value, casting="unsafe")

    return Bound(full, (), masked)


def _sources(machine: Machine, operands: tuple[Operand, ...], found: Operation) -> tuple[list[Array], list[Action]]:
    sources: list[Array] = []
    before: list[Action] = []
    for index, (operand, dtype) in enumerate(zip(operands, found.sources, strict=True)):
        value = machine.source(operand, dtype)
        if isinstance(operand, Register) and operand.negated:
            flipped = machine.scratch(np.dtype(bool), index)
            before.append(lambda value=value, flipped=flipped: np.logical_not(value, flipped))  # type: ignore[misc]
            value = flipped
        elif value.ndim and not value.flags.c_contiguous:
            packed = machine.scratch(dtype, index)
            before.append(lambda value=value, packed=packed: np.copyto(packed, value))  # type: ignore[misc]
            value = packed
        sources.append(value)
    return sources, before


def _outs(
    machine: Machine, targets: tuple[Operand, ...], found: Operation
) -> tuple[list[Array], list[tuple[Array, Array]]]:
    outs: list[Array] = []
    after: list[tuple[Array, Array]] = []
    for index, (target, dtype) in enumerate(zip(targets, found.results, strict=True)):
        if isinstance(target, Sink):
            outs.append(machine.scratch(dtype, 8 + index))
            continue
        assert isinstance(target, Register)
        row = machine.row(target)
        if row.itemsize == dtype.itemsize:
            outs.append(row.view(dtype))
        else:
            value = machine.scratch(dtype, 8 + index)
            outs.append(value)
            after.append((row.view(f"{dtype.kind}{row.itemsize}" if dtype.kind in "iu" else row.dtype), value))
    return outs, after


# -- moves that are more than a copy, and addresses -------------------------------------------------------------------


def _copy(out: Array, value: Array) -> None:
    out[...] = value


def _bind_move(machine: Machine, instruction: Instruction) -> Bound | None:
    to, value = instruction.operands
    if isinstance(to, Vector):
        return _unpack(machine, instruction, to, value)
    if isinstance(value, Vector):
        return _pack(machine, instruction, to, value)
    assert isinstance(to, Register)
    if isinstance(value, Special):
        return _bind_special(machine, to, value.name)
    if isinstance(value, Symbol):
        row = machine.row(to)
        if machine.in_frame(value):
            offset = np.uint64(machine.calls.offsets[value.name] + value.offset)

            def add(out: Array, frame: Array) -> None:
                np.add(frame, offset, out, casting="unsafe")

            return compose(machine, add, [row], [machine.calls.frame], [], [])
        return compose(machine, _copy, [row], [machine.source(value, row.dtype)], [], [])
    return None


def _bind_special(machine: Machine, to: Register, name: str) -> Bound:
    row = machine.row(to)
    if name in SPECIALS:
        shift = 32 if name.endswith("_hi") else 0

        def read_clock(out: Array) -> None:
            CLOCK.now += READ
            out[...] = (CLOCK.now >> shift) & ((1 << 8 * out.itemsize) - 1)

        return compose(machine, read_clock, [row], [], [], [])
    value = machine.special_register(name)
    if value.itemsize == row.itemsize:
        return compose(machine, _copy, [row], [value.view(row.dtype)], [], [])

    def widen(out: Array) -> None:
        np.copyto(out, value, casting="unsafe")

    return compose(machine, widen, [row], [], [], [])


def _unpack(machine: Machine, instruction: Instruction, to: Vector, value: Operand) -> Bound:
    parts = len(to.items)
    if not isinstance(value, Register) or machine.row(value).itemsize % parts:
        raise machine.unsupported(instruction)
    whole = machine.row(value)
    pieces = whole.view(f"u{whole.itemsize // parts}").reshape(-1, parts)
    targets = [machine.row(item) if isinstance(item, Register) else None for item in to.items]
    kept = [(target, pieces[:, index]) for index, target in enumerate(targets) if target is not None]
    outs = [target for target, _ in kept]
    # Copied first: a target may share the storage of the source.
    copies = [machine.scratch(piece.dtype, 12 + index) for index, (_, piece) in enumerate(kept)]

    def apply(*results: Array) -> None:
        for copy, (_, piece) in zip(copies, kept, strict=True):
            np.copyto(copy, piece)
        for result, copy in zip(results, copies, strict=True):
            np.copyto(result, copy)

    return compose(machine, apply, outs, [], [], [])


def _pack(machine: Machine, instruction: Instruction, to: Operand, value: Vector) -> Bound:
    parts = len(value.items)
    if not isinstance(to, Register) or machine.row(to).itemsize % parts:
        raise machine.unsupported(instruction)
    row = machine.row(to)
    dtype = np.dtype(f"u{row.itemsize // parts}")
    sources = [machine.source(item, dtype) for item in value.items]
    packed = machine.scratch(row.dtype, 12)
    pieces = packed.view(dtype).reshape(-1, parts)

    def apply(out: Array) -> None:
        for index, source in enumerate(sources):
            np.copyto(pieces[:, index], source)
        np.copyto(out, packed)

    return compose(machine, apply, [row], [], [], [])


def cvta_base(machine: Machine, instruction: Instruction) -> int:
    """Return where the space of a cvta begins in the generic address space."""
    modifiers = [modifier for modifier in instruction.modifiers if modifier not in ("to", "u64", "u32")]
    space = modifiers[0].split("::")[0] if modifiers else ""
    if space not in ("global", "const", "param", "shared", "local") or len(modifiers) > 1:
        raise machine.unsupported(instruction)
    return {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space, 0)


def _bind_cvta(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of cvta: shared and local addresses move in or out of their window, the others are generic."""
    base = cvta_base(machine, instruction)
    to, value = instruction.operands
    assert isinstance(to, Register)
    row = machine.row(to)
    amount = np.array(base & ((1 << 8 * row.itemsize) - 1), row.dtype)
    source = machine.source(value, row.dtype)
    move = np.subtract if "to" in instruction.modifiers else np.add

    def apply(out: Array, address: Array) -> None:
        move(address, amount, out)

    return compose(machine, apply, [row], [source], [], [])


def _bind_isspacep(machine: Machine, instruction: Instruction) -> Bound:
    space = instruction.modifiers[0].split("::")[0]
    bounds = {
        "global": (0, SHARED_WINDOW),
        "const": (0, 0),
        "shared": (SHARED_WINDOW, LOCAL_WINDOW),
        "local": (LOCAL_WINDOW, 1 << 63),
    }
    if space not in bounds:
        raise machine.unsupported(instruction)
    low, high = (np.uint64(bound) for bound in bounds[space])
    to, value = instruction.operands
    assert isinstance(to, Register)
    address = machine.source(value, np.dtype(np.uint64))

    def apply(out: Array, where: Array) -> None:
        out[...] = (where >= low) & (where < high)

    return compose(machine, apply, [machine.row(to)], [address], [], [])


_SPECIAL: dict[str, Callable[[Machine, Instruction], Bound | None]] = {
    "mov": _bind_move,
    "cvta": _bind_cvta,
    "isspacep": _bind_isspacep,
}
