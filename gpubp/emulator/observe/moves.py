"""How undefined bits move from the registers that an instruction reads to those that it writes.

Memory instructions are tracking.py's. An instruction that is not known here is reported if it reads undefined bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.lanewise import Action
from gpubp.emulator.device.state import Array
from gpubp.emulator.isa import matrix, warp
from gpubp.emulator.isa.arithmetic import operation
from gpubp.emulator.isa.fragments import ELEMENT_BITS
from gpubp.emulator.isa.operations import BOOL
from gpubp.emulator.observe import propagation
from gpubp.emulator.observe.undefined import CARRY, Registers, by_warp
from gpubp.emulator.program.ptx import Instruction, Operand, Pair, Register, Vector
from gpubp.emulator.program.registers import Slot, reads_and_writes


def step_of(registers: Registers, instruction: Instruction) -> Action:
    """Return the step that moves the undefined bits of an instruction's operands to its results."""
    opcode = instruction.opcode
    reads, writes = (
        [registers.machine.slots[name] for name in names]
        for names in reads_and_writes(replace(instruction, guard=None))
    )
    if opcode in _OF_WARPS:
        return _unless_defined(registers, reads, writes, _OF_WARPS[opcode](registers, instruction))
    if opcode == "mov" and any(isinstance(operand, Vector) for operand in instruction.operands):
        return _unless_defined(registers, reads, writes, _move_vector(registers, instruction))
    if opcode == "cvta":
        return _unless_defined(registers, reads, writes, _cvta(registers, instruction))
    if opcode == "mov" and not reads:
        return lambda: registers.clear(writes)
    pair = isinstance(instruction.operands[0], Pair) if instruction.operands else False
    found = None if opcode == "isspacep" else operation(opcode, instruction.modifiers, pair)
    if found is not None:
        carry = [CARRY] if found.carry_in else []
        return _unless_defined(registers, [*reads, *carry], writes, _lanewise(registers, instruction))

    def other() -> None:
        registers.check(instruction, reads, "uses")
        registers.clear(writes)

    return other


def _unless_defined(registers: Registers, reads: list[Slot], writes: list[Slot], move: Action) -> Action:
    sources = frozenset(reads)

    def step() -> None:
        if registers.dirty.isdisjoint(sources):
            registers.clear((*writes, CARRY) if CARRY in registers.dirty else writes)
        else:
            move()

    return step


# -- instructions that work on each lane by itself -----------------------------------------------------------------


def _lanewise(registers: Registers, instruction: Instruction) -> Action:
    machine = registers.machine
    first = instruction.operands[0]
    pair = isinstance(first, Pair)
    found = operation(instruction.opcode, instruction.modifiers, pair)
    assert found is not None
    targets: tuple[Operand, ...] = (first.first, first.second) if isinstance(first, Pair) else (first,)
    operands = instruction.operands[1:]
    rule = propagation.rule(instruction, found)
    computes = propagation.computes(instruction)
    types = [propagation.unsigned(dtype) for dtype in found.sources]
    values = [machine.source(operand, dtype) for operand, dtype in zip(operands, found.sources, strict=True)]
    values = [value.view(dtype) for value, dtype in zip(values, types, strict=True)]
    negated = [isinstance(operand, Register) and operand.negated for operand in operands]
    slots = registers.slots(operands) + ([CARRY] if found.carry_in else [])

    def move() -> None:
        masks = [registers.mask_of(operand, dtype) for operand, dtype in zip(operands, types, strict=True)]
        if found.carry_in:
            masks.append(registers.row(CARRY) if CARRY in registers.dirty else np.zeros((), bool))
        now = [~value if flip else value for value, flip in zip(values, negated, strict=True)]
        results = rule(now, masks)
        origin = registers.origin_of(slots)
        if computes:
            origin = registers.computed(instruction, origin, masks)
        for target, dtype, result in zip(targets, found.results, results, strict=False):
            if isinstance(target, Register):
                registers.write(machine.slots[target.name], result, origin, dtype.kind == "i")
        if found.carry_out:
            registers.write(CARRY, results[-1], origin)

    return move


def _cvta(registers: Registers, instruction: Instruction) -> Action:
    to, value = registers.slots(instruction.operands)
    return lambda: registers.write(to, registers.row(value).copy(), registers.origin_of([value]))


def _move_vector(registers: Registers, instruction: Instruction) -> Action:
    to, value = instruction.operands

    def unpack() -> None:
        assert isinstance(to, Vector)
        (whole,) = registers.slots([value])
        row = registers.row(whole)
        parts = row.view(f"u{row.itemsize // len(to.items)}").reshape(-1, len(to.items)).copy()
        origin = registers.origin_of([whole])
        for index, item in enumerate(to.items):
            for slot in registers.slots([item]):
                registers.write(slot, parts[:, index], origin)

    def pack() -> None:
        assert isinstance(value, Vector)
        (whole,) = registers.slots([to])
        size = registers.row(whole).itemsize // len(value.items)
        parts = np.empty((registers.machine.lanes, len(value.items)), f"u{size}")
        for index, item in enumerate(value.items):
            parts[:, index] = registers.mask_of(item, parts.dtype)
        origin = registers.origin_of(registers.slots(value.items))
        registers.write(whole, parts.view(registers.row(whole).dtype)[:, 0], origin)

    return unpack if isinstance(to, Vector) else pack


# -- instructions of a warp ----------------------------------------------------------------------------------------


def _shfl(registers: Registers, instruction: Instruction) -> Action:
    machine = registers.machine
    first, value, *controls = instruction.operands
    u32 = np.dtype(np.uint32)
    mode = warp.SHUFFLES[instruction.modifiers[1]]
    offset, clamp = (machine.source(operand, u32).reshape(-1) for operand in controls[:2])
    targets = registers.slots([first])
    valid = np.zeros(machine.lanes, bool)

    def shuffled(values: Array) -> Array:
        result = np.zeros(machine.lanes, np.uint32)
        active = machine.active
        warp.shuffle(mode, values.view(np.uint32), offset, clamp, active.mask, active.whole, result, valid)
        return result.view(values.dtype)

    def move() -> None:
        registers.check(instruction, registers.slots(controls), "shuffles by")
        origin = registers.origin_of(registers.slots([value]))
        registers.write(targets[0], shuffled(registers.lanes_of(value, u32)), shuffled(origin))
        registers.clear(targets[1:])

    return move


def _of_all_lanes(registers: Registers, instruction: Instruction, combine: Callable[[Array, Array], Array]) -> Action:
    """Return the step of an instruction that combines a value of all lanes of a warp under a mask of members.

    `combine` gets the undefined lanes and those that take part, by warp.
    """
    machine = registers.machine
    first, value, members = instruction.operands
    targets, sources = registers.slots([first]), registers.slots([value])
    dtype = (
        BOOL
        if instruction.opcode == "vote"
        else np.dtype(f"u{machine.slots[value.name][0] if isinstance(value, Register) else 4}")
    )

    def move() -> None:
        registers.check(instruction, registers.slots([members]), "combines lanes by")
        mask = registers.lanes_of(value, dtype)
        active = machine.active.mask
        undefined = by_warp((mask != 0) & active)
        origin = registers.computed(instruction, registers.origin_of(sources), [mask])
        spread = np.repeat(by_warp(origin).max(axis=1), WARP)
        result = combine(undefined, by_warp(active))
        for slot in targets:
            row = registers.row(slot)
            registers.write(slot, result.reshape(-1).astype(row.dtype), spread)

    return move


def _vote(registers: Registers, instruction: Instruction) -> Action:
    machine = registers.machine
    _, predicate, members = instruction.operands
    mode = instruction.modifiers[1]
    value = machine.lanes_of(predicate, BOOL)
    mask = machine.source(members, np.dtype(np.uint32))

    def combine(undefined: Array, active: Array) -> Array:
        now = by_warp(value)
        if isinstance(predicate, Register) and predicate.negated:
            now = ~now
        if mode == "uni":
            return np.repeat(undefined.any(axis=1, keepdims=True), WARP, axis=1)
        # The others grow with every lane: what they give for all undefined lanes alike says what may come.
        least, most = (warp.vote(mode, lanes, by_warp(mask), active) for lanes in (now & ~undefined, now | undefined))
        return least ^ most

    return _of_all_lanes(registers, instruction, combine)


def _redux(registers: Registers, instruction: Instruction) -> Action:
    ones = np.uint32(0xFFFFFFFF)
    return _of_all_lanes(
        registers,
        instruction,
        lambda undefined, _: np.repeat(undefined.any(axis=1, keepdims=True) * ones, WARP, axis=1),
    )


def _product(registers: Registers, instruction: Instruction) -> Action:
    """Return the step of mma and wmma.mma."""
    machine = registers.machine
    find = matrix.matrix_multiply if instruction.opcode == "mma" else matrix.wmma_multiply
    multiply = find(instruction.modifiers)
    target, *factors = instruction.operands[:4]
    kinds = [kind for kind in instruction.modifiers if kind in ELEMENT_BITS]
    # wmma does not name halves, and names the types of D and C, or of D, A, B and C.
    types = kinds if len(kinds) == 4 else [kinds[0], "f16", "f16", kinds[-1]]
    floats = not any(kind[0] in "usb" and kind != "bf16" for kind in types)
    targets = registers.slots([target])
    sources = [registers.slots([factor]) for factor in factors]

    def fragment(slots: list[Slot], kind: str) -> Array:
        """Return the masks of registers, of whole elements, as (warps, 32, registers)."""
        element = np.dtype(f"u{ELEMENT_BITS[kind] // 8}")
        rows = [registers.row(slot) if slot in registers.dirty else zeros for slot in slots]
        elements = np.stack(rows, axis=1).view(element)
        whole = propagation.all_or_none(elements != 0, element)
        return whole.view(multiply.dtype).reshape(machine.lanes // WARP, WARP, -1)

    zeros = np.zeros(machine.lanes, multiply.dtype)

    def move() -> None:
        origin = registers.origin_of(slot for slots in sources for slot in slots)
        masks = [registers.row(slot) for slots in sources for slot in slots if slot in registers.dirty]
        origin = registers.computed(instruction, origin, masks)
        spread = np.repeat(by_warp(origin).max(axis=1), WARP)
        if floats:
            # All ones are a NaN in each of these types: a NaN reaches what depends on it, and zeros nothing.
            values = [fragment(slots, kind) for slots, kind in zip(sources, types[1:], strict=True)]
            element = np.dtype(f"u{ELEMENT_BITS[types[0]] // 8}")
            parts = np.ascontiguousarray(multiply.apply(*values)).view(element)
            result = propagation.all_or_none(parts != 0, element).view(multiply.dtype).reshape(machine.lanes, -1)
            for index, slot in enumerate(targets):
                registers.write(slot, np.ascontiguousarray(result[:, index]), spread)
            return
        for slot in targets:
            registers.write(slot, propagation.all_or_none(spread > 0, registers.row(slot).dtype), spread)

    return move


def _movmatrix(registers: Registers, instruction: Instruction) -> Action:
    to, value = registers.slots(instruction.operands)

    def move() -> None:
        mask = registers.row(value).reshape(-1, WARP, 1)
        spread = np.repeat(by_warp(registers.origin_of([value])).max(axis=1), WARP)
        registers.write(to, np.ascontiguousarray(matrix.transposed_fragment(mask)).reshape(-1), spread)

    return move


def _async_product(registers: Registers, instruction: Instruction) -> Action:
    """Return the step of an instruction of wgmma: accumulators that are replaced need not be defined."""
    if instruction.modifiers[0] != "mma_async":
        return lambda: None
    sums, *others = instruction.operands
    targets, rest = registers.slots([sums]), registers.slots(others)
    keeps = registers.machine.lanes_of(instruction.operands[3], BOOL)
    negated = isinstance(instruction.operands[3], Register) and instruction.operands[3].negated

    def move() -> None:
        registers.check(instruction, rest, "multiplies by")
        if (keeps != negated)[registers.machine.active.mask].any():
            registers.check(instruction, targets, "adds a product to")
        registers.clear(targets)

    return move


_OF_WARPS: dict[str, Callable[[Registers, Instruction], Action]] = {
    "shfl": _shfl,
    "vote": _vote,
    "redux": _redux,
    "match": _redux,
    "mma": _product,
    "wmma": _product,
    "movmatrix": _movmatrix,
    "wgmma": _async_product,
}
