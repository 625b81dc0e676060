"""What instructions do to each lane, in a form that loops over lanes can be written from (fused.py).

A step is an instruction on registers that has code for one lane (isa/lanecode.py), or a load or store of a known space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from gpubp.emulator.device import accesses
from gpubp.emulator.device.clock import SPECIALS as CLOCKS
from gpubp.emulator.device.lanewise import cvta_base
from gpubp.emulator.device.memory import WINDOW_GRANULE_BITS
from gpubp.emulator.device.state import Array, Machine, immediate
from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.isa.arithmetic import operation
from gpubp.emulator.isa.lanecode import Emit, Value, lane_code, llvm_type
from gpubp.emulator.program.ptx import Immediate, Instruction, Operand, Pair, Register, Sink, Special, Symbol, Vector


class Given(NamedTuple):
    """A source that is no register: an array of one element for all lanes, or of one a lane."""

    array: Array
    uniform: bool


Source = Register | Given | int
"""Of a step; an int is the bits of a constant."""


class Computation(NamedTuple):
    """An instruction on registers: its sources and results in the dtypes that its code takes; None is not kept."""

    emit: Emit
    sources: list[tuple[Source, np.dtype[Any]]]
    results: list[tuple[Register | None, np.dtype[Any]]]
    guard: Register | None


class Access(NamedTuple):
    """A load or store of as many `items` as it moves, each of `dtype`, at an address plus `offset`."""

    instruction: Instruction
    memory: accesses.Memory
    address: Source
    offset: int
    dtype: np.dtype[Any]
    items: list[Source | None]
    stores: bool
    guard: Register | None

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * len(self.items)


Step = Computation | Access


def describe(machine: Machine, instruction: Instruction) -> Step | None:
    """Return an instruction as a step, or None if it is none."""
    if instruction.guard is not None and machine.observer is not None:
        return None  # the observer counts the threads that execute it
    make = _DESCRIPTIONS.get(instruction.opcode, _describe_operation)
    try:
        return make(machine, instruction)
    except UnsupportedInstruction:
        return None  # an operand that no step has: the instruction runs by itself, bound before


# -- instructions on registers ----------------------------------------------------------------------------------------


def _describe_operation(machine: Machine, instruction: Instruction) -> Step | None:
    if not instruction.operands:
        return None
    first, *operands = instruction.operands
    pair = isinstance(first, Pair)
    emit = lane_code(instruction.opcode, instruction.modifiers, pair)
    found = operation(instruction.opcode, instruction.modifiers, pair) if emit is not None else None
    targets = (first.first, first.second) if isinstance(first, Pair) else (first,)
    if emit is None or found is None or len(found.sources) != len(operands) or len(found.results) != len(targets):
        return None
    sources = [(_source(machine, one, dtype), dtype) for one, dtype in zip(operands, found.sources, strict=True)]
    if instruction.opcode == "lop3" and not isinstance(sources[-1][0], int):
        return None
    return _computation(machine, instruction, emit, sources, list(zip(targets, found.results, strict=True)))


def _source(machine: Machine, operand: Operand, dtype: np.dtype[Any]) -> Source:
    """Return a source; raise UnsupportedInstruction for an operand that is none."""
    if isinstance(operand, Register):
        machine.source(operand, dtype)  # raises if the register is too narrow
        return operand
    if isinstance(operand, Immediate):
        value = immediate(operand, dtype)
        return int(value.view(f"u{value.itemsize}"))
    if isinstance(operand, Symbol):
        return Given(machine.source(operand, dtype), True)
    raise UnsupportedInstruction(f"operand {operand}")


def _computation(
    machine: Machine,
    instruction: Instruction,
    emit: Emit,
    sources: list[tuple[Source, np.dtype[Any]]],
    results: Sequence[tuple[Operand, np.dtype[Any]]],
) -> Step | None:
    """Return the step, or None if a result does not fit its register."""
    kept: list[tuple[Register | None, np.dtype[Any]]] = []
    for target, dtype in results:
        if isinstance(target, Register):
            if dtype.kind in "fb" and machine.row(target).itemsize != dtype.itemsize:
                return None
        elif not isinstance(target, Sink):
            return None
        kept.append((target if isinstance(target, Register) else None, dtype))
    return Computation(emit, sources, kept, instruction.guard)


def _same(_: Any, *values: Value) -> Sequence[Value]:
    return values


def _describe_move(machine: Machine, instruction: Instruction) -> Step | None:
    to, value = instruction.operands
    if isinstance(to, Vector) and isinstance(value, Register):
        return _describe_unpacking(machine, instruction, to, value)
    if isinstance(value, Vector) and isinstance(to, Register):
        return _describe_packing(machine, instruction, to, value)
    if isinstance(value, Special) and isinstance(to, Register):
        if value.name in CLOCKS:
            return None
        array = machine.special_register(value.name)
        source = Given(array, array.ndim == 0)
        return _computation(machine, instruction, _same, [(source, array.dtype)], [(to, array.dtype)])
    if isinstance(value, Symbol) and isinstance(to, Register):
        dtype = machine.row(to).dtype
        return _computation(machine, instruction, _same, [(_source(machine, value, dtype), dtype)], [(to, dtype)])
    return _describe_operation(machine, instruction)


def _describe_unpacking(machine: Machine, instruction: Instruction, to: Vector, value: Register) -> Step | None:
    whole = machine.row(value).dtype
    if whole.itemsize % len(to.items):
        return None
    part = np.dtype(f"u{whole.itemsize // len(to.items)}")

    def emit(b: Any, x: Value) -> Sequence[Value]:
        shifts = (ir.Constant(x.type, 8 * part.itemsize * index) for index in range(len(to.items)))
        return [b.trunc(b.lshr(x, shift), llvm_type(part)) for shift in shifts]

    return _computation(machine, instruction, emit, [(value, whole)], [(item, part) for item in to.items])


def _describe_packing(machine: Machine, instruction: Instruction, to: Register, value: Vector) -> Step | None:
    whole = machine.row(to).dtype
    if whole.itemsize % len(value.items):
        return None
    part = np.dtype(f"u{whole.itemsize // len(value.items)}")

    def emit(b: Any, *parts: Value) -> Sequence[Value]:
        packed = ir.Constant(llvm_type(whole), 0)
        for index, x in enumerate(parts):
            shift = ir.Constant(packed.type, 8 * part.itemsize * index)
            packed = b.or_(packed, b.shl(b.zext(x, packed.type), shift))
        return (packed,)

    sources = [(_source(machine, item, part), part) for item in value.items]
    return _computation(machine, instruction, emit, sources, [(to, whole)])


def _describe_cvta(machine: Machine, instruction: Instruction) -> Step | None:
    to, value = instruction.operands
    assert isinstance(to, Register)
    dtype = machine.row(to).dtype
    base = cvta_base(machine, instruction) * (-1 if "to" in instruction.modifiers else 1)

    def emit(b: Any, x: Value) -> Sequence[Value]:
        return (b.add(x, ir.Constant(x.type, base % (1 << x.type.width))),)

    return _computation(machine, instruction, emit, [(_source(machine, value, dtype), dtype)], [(to, dtype)])


# -- loads and stores -------------------------------------------------------------------------------------------------


def _describe_load(machine: Machine, instruction: Instruction) -> Step | None:
    values = accesses.parameter_values(machine, instruction)
    if values is not None:
        sources: list[tuple[Source, np.dtype[Any]]] = [(Given(value, True), value.dtype) for _, value in values]
        return _computation(machine, instruction, _same, sources, [(item, value.dtype) for item, value in values])
    modifiers = accesses.AccessModifiers(machine, instruction)
    to, operand = instruction.operands[:2]
    targets = to.items if isinstance(to, Vector) else (to,)
    if not all(isinstance(target, Register | Sink) for target in targets):
        return None
    items: list[Source | None] = [target if isinstance(target, Register) else None for target in targets]
    return _access(machine, instruction, modifiers, operand, items, False)


def _describe_store(machine: Machine, instruction: Instruction) -> Step | None:
    modifiers = accesses.AccessModifiers(machine, instruction)
    operand, value = instruction.operands[:2]
    dtype = np.dtype(f"u{modifiers.item}")
    items: list[Source | None] = [
        _source(machine, item, dtype) for item in (value.items if isinstance(value, Vector) else (value,))
    ]
    return _access(machine, instruction, modifiers, operand, items, True)


def _access(
    machine: Machine,
    instruction: Instruction,
    modifiers: accesses.AccessModifiers,
    operand: Operand,
    items: list[Source | None],
    stores: bool,
) -> Step | None:
    """Return the step, or None if an observer must see it, its space is unknown, or the general way must refuse it."""
    memory = accesses.memory_of(machine, modifiers.space)
    if stores and modifiers.space == "const":
        return None
    if machine.observer is not None or memory is None or modifiers.rest or len(items) != modifiers.vector:
        return None
    if memory.granule_bits == WINDOW_GRANULE_BITS and modifiers.item * modifiers.vector > 1 << WINDOW_GRANULE_BITS:
        return None
    array, offset = machine.addresses(operand)
    base = getattr(operand, "base", None)
    address: Source = base if isinstance(base, Register) else Given(array, False)
    dtype = accesses.memory_dtype(modifiers)
    return Access(instruction, memory, address, offset, dtype, items, stores, instruction.guard)


_DESCRIPTIONS: dict[str, Callable[[Machine, Instruction], Step | None]] = {
    "mov": _describe_move,
    "cvta": _describe_cvta,
    "ld": _describe_load,
    "st": _describe_store,
}
