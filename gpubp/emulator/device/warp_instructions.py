"""Binding of the warp-wide instructions: shfl, vote, match, redux, elect, activemask, ldmatrix, stmatrix, mma.

The functions themselves are in warp.py and matrix.py; here lanes become (warps, 32) arrays, and threads that an
instruction needs but that do not execute it are reported.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device import native
from gpubp.emulator.device.accesses import bind_access
from gpubp.emulator.device.lanewise import Bound, always
from gpubp.emulator.device.state import Active, Array, Machine
from gpubp.emulator.errors import DivergenceError
from gpubp.emulator.isa import matrix, warp
from gpubp.emulator.program.ptx import Instruction, Operand, Pair, Register, Sink, Vector

_U32 = np.dtype(np.uint32)
_BOOL = np.dtype(bool)


def by_warp(values: Array) -> Array:
    return values.reshape(-1, WARP) if values.ndim else values


def _targets(operand: Operand) -> tuple[Operand, ...]:
    return (operand.first, operand.second) if isinstance(operand, Pair) else (operand,)


def _write(machine: Machine, target: Operand, values: Array) -> None:
    if not isinstance(target, Sink):
        assert isinstance(target, Register)
        row = machine.row(target)
        np.copyto(row, values.reshape(-1), where=machine.active.mask, casting="unsafe")


def _predicate(machine: Machine, operand: Operand) -> Callable[[], Array]:
    value = machine.lanes_of(operand, _BOOL)
    if isinstance(operand, Register) and operand.negated:
        return lambda: by_warp(~value)
    return lambda: by_warp(value)


def _check_members(machine: Machine, instruction: Instruction, members: Array) -> None:
    """Every thread that a lane's mask names must execute the instruction, or have exited."""
    active = machine.active
    if active.whole and members.ndim == 0 and int(members) == warp.FULL_MASK:
        return
    unmet = warp.unmet_members(by_warp(members), by_warp(active.mask), by_warp(~machine.live))
    if unmet.any():
        lane = int(np.flatnonzero(unmet.reshape(-1))[0])
        missing = int(unmet.reshape(-1)[lane])
        raise DivergenceError(
            f"{machine.where(instruction, lane)}: divergent warp instruction `{instruction.text}`: its mask names "
            f"lanes {_lane_list(missing)} of the warp, which do not execute it together with this thread"
        )


def _check_aligned(machine: Machine, instruction: Instruction) -> None:
    """All 32 threads of each warp must execute the instruction."""
    active = machine.active
    if active.whole:
        return
    present = by_warp(active.mask)
    partial = present.any(axis=1) & ~present.all(axis=1)
    if partial.any():
        number = int(np.flatnonzero(partial)[0])
        lane = number * WARP + int(np.flatnonzero(present[number])[0])
        missing = int(warp.lane_mask(~present[number]))
        raise DivergenceError(
            f"{machine.where(instruction, lane)}: divergent warp instruction `{instruction.text}`: lanes "
            f"{_lane_list(missing)} of the warp do not execute it"
        )


def _lane_list(mask: int) -> str:
    """Return [0, 1, 2, 5] as "0-2, 5"."""
    lanes = [lane for lane in range(WARP) if mask >> lane & 1]
    runs: list[list[int]] = []
    for lane in lanes:
        if runs and runs[-1][1] == lane - 1:
            runs[-1][1] = lane
        else:
            runs.append([lane, lane])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _bind_shuffle(machine: Machine, instruction: Instruction) -> Bound:
    modifiers = instruction.modifiers
    if len(modifiers) != 3 or modifiers[0] != "sync" or modifiers[2] != "b32" or len(instruction.operands) != 5:
        raise machine.unsupported(instruction)
    targets = _targets(instruction.operands[0])
    value, offset, clamp, members = (machine.source(operand, _U32) for operand in instruction.operands[1:])
    value = machine.lanes_of(instruction.operands[1], _U32)
    mode = modifiers[1]

    def shuffle() -> None:
        _check_members(machine, instruction, members)
        active = by_warp(machine.active.mask)
        result, valid, inactive = warp.shuffle(mode, by_warp(value), by_warp(offset), by_warp(clamp), active)
        if not machine.active.whole and inactive.any():
            lane = int(np.flatnonzero(inactive.reshape(-1))[0])
            raise DivergenceError(
                f"{machine.where(instruction, lane)}: `{instruction.text}` reads a lane that does not execute it"
            )
        _write(machine, targets[0], result)
        if len(targets) > 1:
            _write(machine, targets[1], valid)

    return always(shuffle)


def _bind_vote(machine: Machine, instruction: Instruction) -> Bound:
    modifiers = instruction.modifiers
    if len(modifiers) != 3 or modifiers[0] != "sync":
        raise machine.unsupported(instruction)
    target, predicate_operand, mask_operand = instruction.operands
    predicate = _predicate(machine, predicate_operand)
    members = machine.source(mask_operand, _U32)
    mode = modifiers[1]

    def vote() -> None:
        _check_members(machine, instruction, members)
        _write(machine, target, warp.vote(mode, predicate(), by_warp(members), by_warp(machine.active.mask)))

    return always(vote)


def _bind_match(machine: Machine, instruction: Instruction) -> Bound:
    modifiers = instruction.modifiers
    if len(modifiers) != 3 or modifiers[1] != "sync" or modifiers[2] not in ("b32", "b64"):
        raise machine.unsupported(instruction)
    targets = _targets(instruction.operands[0])
    value = machine.lanes_of(instruction.operands[1], np.dtype(f"u{int(modifiers[2][1:]) // 8}"))
    members = machine.source(instruction.operands[2], _U32)

    def match() -> None:
        _check_members(machine, instruction, members)
        arguments = (by_warp(value), by_warp(members), by_warp(machine.active.mask))
        if modifiers[0] == "any":
            _write(machine, targets[0], warp.match_any(*arguments))
            return
        mask, equal = warp.match_all(*arguments)
        _write(machine, targets[0], mask)
        if len(targets) > 1:
            _write(machine, targets[1], equal)

    return always(match)


def _bind_redux(machine: Machine, instruction: Instruction) -> Bound:
    reduce = warp.reduction(instruction.modifiers)
    target, value_operand, mask_operand = instruction.operands
    value, members = machine.lanes_of(value_operand, _U32), machine.source(mask_operand, _U32)

    def redux() -> None:
        _check_members(machine, instruction, members)
        _write(machine, target, reduce(by_warp(value), by_warp(members), by_warp(machine.active.mask)))

    return always(redux)


def _bind_elect(machine: Machine, instruction: Instruction) -> Bound:
    targets = _targets(instruction.operands[0])
    members = machine.source(instruction.operands[1], _U32)

    def elect() -> None:
        _check_members(machine, instruction, members)
        for target, values in zip(targets, warp.elect(by_warp(members), by_warp(machine.active.mask)), strict=True):
            _write(machine, target, values)

    return always(elect)


def _bind_activemask(machine: Machine, instruction: Instruction) -> Bound:
    target = instruction.operands[0]

    def activemask() -> None:
        _write(machine, target, np.repeat(warp.lane_mask(by_warp(machine.active.mask)), WARP))

    return always(activemask)


# -- matrices ---------------------------------------------------------------------------------------------------------


def _fragment(machine: Machine, operand: Operand) -> Callable[[], Array]:
    """Return the registers of a vector operand as (warps, 32, registers)."""
    items = operand.items if isinstance(operand, Vector) else (operand,)
    rows = [machine.lanes_of(item, _U32) for item in items]
    packed = np.zeros((machine.lanes // WARP, WARP, len(rows)), np.uint32)

    def gather() -> Array:
        for index, row in enumerate(rows):
            packed[:, :, index] = by_warp(row)
        return packed

    return gather


def _write_fragment(machine: Machine, operand: Operand, values: Array) -> None:
    items = operand.items if isinstance(operand, Vector) else (operand,)
    for index, item in enumerate(items):
        _write(machine, item, np.ascontiguousarray(values[:, :, index]))


def _size(operand: Operand) -> int:
    return len(operand.items) if isinstance(operand, Vector) else 1


def _bind_multiply(machine: Machine, instruction: Instruction) -> Bound:
    multiply = matrix.matrix_multiply(instruction.modifiers)
    target, *factors = instruction.operands
    if [_size(factor) for factor in factors] != [multiply.a_registers, multiply.b_registers, multiply.c_registers]:
        raise machine.unsupported(instruction, "an unexpected number of registers")
    a, b, c = (_fragment(machine, factor) for factor in factors)

    def mma() -> None:
        _check_aligned(machine, instruction)
        _write_fragment(machine, target, multiply.apply(a(), b(), c()))

    return always(mma)


def _row_access(
    machine: Machine, instruction: Instruction, address: Operand, count: int, kind: str
) -> Callable[[], Array]:
    """Return the pointers to the rows of ldmatrix and stmatrix (active warps, count, 8): lane i has row i % 8."""
    space = "shared" if {"shared", "shared::cta"} & set(instruction.modifiers) else "generic"
    access = bind_access(machine, instruction, address, space, 16, kind)
    addressing = np.tile(np.arange(WARP) < 8 * count, machine.lanes // WARP)

    def rows() -> Array:
        _check_aligned(machine, instruction)
        outer = machine.active
        machine.active = Active(outer.mask & addressing)
        pointers = access()[: machine.active.count].reshape(-1, count, 8)
        machine.active = outer
        return pointers

    return rows


def _bind_ldmatrix(machine: Machine, instruction: Instruction) -> Bound:
    move = matrix.matrix_move("ldmatrix", instruction.modifiers)
    target, address = instruction.operands
    if _size(target) != move.count:
        raise machine.unsupported(instruction, "an unexpected number of registers")
    rows = _row_access(machine, instruction, address, move.count, "load")

    def load() -> None:
        pointers = rows()
        data = np.empty((*pointers.shape, 8), np.uint16)
        native.read_rows(pointers.reshape(-1), data.reshape(-1, 8))
        whole = np.zeros((machine.lanes // WARP, WARP, move.count), np.uint32)
        whole[by_warp(machine.active.mask)[:, 0]] = matrix.load_fragments(data, move.transposed)
        _write_fragment(machine, target, whole)

    return always(load)


def _bind_stmatrix(machine: Machine, instruction: Instruction) -> Bound:
    move = matrix.matrix_move("stmatrix", instruction.modifiers)
    address, value = instruction.operands
    if _size(value) != move.count:
        raise machine.unsupported(instruction, "an unexpected number of registers")
    rows = _row_access(machine, instruction, address, move.count, "store")
    fragment = _fragment(machine, value)

    def store() -> None:
        pointers = rows()
        data = matrix.store_rows(fragment()[by_warp(machine.active.mask)[:, 0]], move.transposed)
        machine.changed = True
        native.write_rows(pointers.reshape(-1), np.ascontiguousarray(data).reshape(-1, 8))

    return always(store)


FACTORIES: dict[str, Callable[[Machine, Instruction], Bound]] = {
    "shfl": _bind_shuffle,
    "vote": _bind_vote,
    "match": _bind_match,
    "redux": _bind_redux,
    "elect": _bind_elect,
    "activemask": _bind_activemask,
    "mma": _bind_multiply,
    "ldmatrix": _bind_ldmatrix,
    "stmatrix": _bind_stmatrix,
}


def meets_others(instruction: Instruction) -> bool:
    """Return True for an instruction that a warp's threads must execute together."""
    return instruction.opcode in FACTORIES and instruction.opcode != "activemask"
