"""Binding of the warp-wide instructions: shfl, vote, match, redux, elect, activemask, and those on matrices.

The functions themselves are in warp.py and matrix.py; here lanes become (warps, 32) arrays, and threads that an
instruction needs but that do not execute it are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device import native
from gpubp.emulator.device.accesses import bind_access, bind_access_at, place
from gpubp.emulator.device.lanewise import Bound, always
from gpubp.emulator.device.state import Active, Array, Machine
from gpubp.emulator.errors import DivergenceError, MemoryAccessError
from gpubp.emulator.isa import matrix, warp
from gpubp.emulator.program.ptx import Immediate, Instruction, Operand, Pair, Register, Sink, Vector

_U32 = np.dtype(np.uint32)
_BOOL = np.dtype(bool)


def by_warp(values: Array) -> Array:
    """Return the lanes of each warp; one value for all stays one."""
    return values.reshape(-1, WARP) if values.size > 1 else values.reshape(())


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
    if active.whole and members.size == 1 and int(members.reshape(-1)[0]) == warp.FULL_MASK:
        return
    lane = warp.first_unmet(members.reshape(-1), active.mask, machine.live)
    if lane >= 0:
        unmet = warp.unmet_members(by_warp(members), by_warp(active.mask), by_warp(~machine.live))
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
    if modifiers[1] not in warp.SHUFFLES:
        raise machine.unsupported(instruction)
    mode = warp.SHUFFLES[modifiers[1]]
    targets = [
        machine.row(target) if isinstance(target, Register) else None for target in _targets(instruction.operands[0])
    ]
    result, valid = (*targets, None) if len(targets) == 1 else targets
    result = machine.scratch(_U32, 20) if result is None else result
    valid = machine.scratch(_BOOL, 20) if valid is None else valid
    value = machine.lanes_of(instruction.operands[1], _U32)
    offset, clamp, members = (machine.source(operand, _U32).reshape(-1) for operand in instruction.operands[2:])

    def shuffle() -> None:
        _check_members(machine, instruction, members)
        active = machine.active
        lane = warp.shuffle(mode, value, offset, clamp, active.mask, active.whole, result, valid)
        if lane >= 0:
            raise DivergenceError(
                f"{machine.where(instruction, lane)}: `{instruction.text}` reads a lane that does not execute it"
            )

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


def _fragment(machine: Machine, operand: Operand, dtype: np.dtype[Any] = _U32) -> Callable[[], Array]:
    """Return the registers of a vector operand as (warps, 32, registers)."""
    items = operand.items if isinstance(operand, Vector) else (operand,)
    rows = [machine.lanes_of(item, dtype) for item in items]
    packed = np.zeros((machine.lanes // WARP, WARP, len(rows)), dtype)

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
    find = matrix.matrix_multiply if instruction.opcode == "mma" else matrix.wmma_multiply
    multiply = find(instruction.modifiers)
    target, *factors = instruction.operands
    expected = [multiply.d_registers, multiply.a_registers, multiply.b_registers, multiply.c_registers]
    if [_size(operand) for operand in instruction.operands] != expected:
        raise machine.unsupported(instruction, "an unexpected number of registers")
    a, b, c = (_fragment(machine, factor, multiply.dtype) for factor in factors)

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


def _bind_movmatrix(machine: Machine, instruction: Instruction) -> Bound:
    if instruction.modifiers != ("sync", "aligned", "m8n8", "trans", "b16"):
        raise machine.unsupported(instruction)
    target, value = instruction.operands
    fragment = _fragment(machine, value)

    def transpose() -> None:
        _check_aligned(machine, instruction)
        _write_fragment(machine, target, matrix.transposed_fragment(fragment()))

    return always(transpose)


def _bind_wmma(machine: Machine, instruction: Instruction) -> Bound:
    bind = {"load": _bind_tile_move, "store": _bind_tile_move, "mma": _bind_multiply}.get(instruction.modifiers[0])
    if bind is None:
        raise machine.unsupported(instruction)
    return bind(machine, instruction)


def _bind_tile_move(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of wmma.load and wmma.store."""
    move = matrix.tile_move(instruction.modifiers)
    first, second, *stride = instruction.operands
    value, address = (first, second) if move.load else (second, first)
    if _size(value) != move.registers or len(stride) > 1:
        raise machine.unsupported(instruction, "an unexpected number of registers")
    chunks = _tile_access(machine, instruction, move, address, stride[0] if stride else Immediate(move.stride))
    halves = move.chunk // 2
    fragment = None if move.load else _fragment(machine, value, move.register_dtype)

    def load() -> None:
        warps = by_warp(machine.active.mask)[:, 0]
        data = np.empty((int(np.count_nonzero(warps)), move.turns, WARP, halves), np.uint16)
        for turn, pointers in enumerate(chunks()):
            part = np.empty((pointers.size, halves), np.uint16)
            native.read_rows(pointers, part)
            data[:, turn] = part.reshape(-1, WARP, halves)
        whole = np.zeros((machine.lanes // WARP, WARP, move.registers), move.register_dtype)
        whole[warps] = move.to_registers(data.view(move.element).reshape(len(data), move.lines, -1))
        _write_fragment(machine, value, whole)

    def store() -> None:
        assert fragment is not None
        lines = move.to_lines(fragment()[by_warp(machine.active.mask)[:, 0]])
        data = lines.view(np.uint16).reshape(-1, move.turns, WARP, halves)
        machine.changed = True
        for turn, pointers in enumerate(chunks()):
            native.write_rows(pointers, data[:, turn].reshape(-1, halves))

    return always(load if move.load else store)


def _tile_access(
    machine: Machine, instruction: Instruction, move: matrix.TileMove, address: Operand, stride: Operand
) -> Callable[[], Iterator[Array]]:
    """Return a function that gives the pointers to a matrix's chunks, turn by turn, a chunk for each active lane."""
    named = [modifier.split("::")[0] for modifier in instruction.modifiers]
    space = next((space for space in ("global", "shared") if space in named), "generic")
    bases, offset = machine.addresses(address)
    strides = machine.lanes_of(stride, _U32)
    places = np.zeros(machine.lanes, np.uint64)
    kind = "load" if move.load else "store"
    access = bind_access_at(machine, instruction, places, space, move.chunk, kind)
    lines, within = (np.tile(part, machine.lanes // WARP) for part in move.chunks())

    def chunks() -> Iterator[Array]:
        _check_aligned(machine, instruction)
        begin = bases.astype(np.int64) + offset
        step = strides.astype(np.int64) * move.element_bits // 8
        _check_tile(machine, instruction, move, begin, strides)
        for turn in range(move.turns):
            places[:] = (begin + lines[turn] * step + within[turn]).view(np.uint64)
            yield access()[: machine.active.count]

    return chunks


def _check_tile(
    machine: Machine, instruction: Instruction, move: matrix.TileMove, begin: Array, strides: Array
) -> None:
    """Check that the lanes of each warp give one address and one stride, and that both are aligned."""
    mask = machine.active.mask
    for what, values, form in (("addresses", begin, "#x"), ("strides", strides, "d")):
        differ = mask & (values != np.repeat(values[::WARP], WARP))
        if differ.any():
            lane = int(np.flatnonzero(differ)[0])
            raise DivergenceError(
                f"{machine.where(instruction, lane)}: the lanes of the warp give different {what} to "
                f"`{instruction.text}`: {values[lane]:{form}} here, {values[lane - lane % WARP]:{form}} in lane 0"
            )
    misaligned = mask & (begin % move.alignment != 0)
    if misaligned.any():
        lane = int(np.flatnonzero(misaligned)[0])
        raise MemoryAccessError(
            f"{machine.where(instruction, lane)}: misaligned access: the matrix of `{instruction.text}` begins at "
            f"{int(begin[lane]):#x} ({place(machine, instruction, int(begin[lane]))}); the address must be a multiple "
            f"of {move.alignment}"
        )
    bits = strides.astype(np.int64) * move.element_bits
    misaligned = mask & (bits % (8 * move.stride_alignment) != 0)
    if misaligned.any():
        lane = int(np.flatnonzero(misaligned)[0])
        raise MemoryAccessError(
            f"{machine.where(instruction, lane)}: misaligned access: the lines of the matrix of `{instruction.text}` "
            f"lie {int(strides[lane])} elements apart, {int(bits[lane]) / 8:g} bytes; they must be a multiple of "
            f"{move.stride_alignment} bytes apart"
        )


FACTORIES: dict[str, Callable[[Machine, Instruction], Bound]] = {
    "shfl": _bind_shuffle,
    "vote": _bind_vote,
    "match": _bind_match,
    "redux": _bind_redux,
    "elect": _bind_elect,
    "activemask": _bind_activemask,
    "mma": _bind_multiply,
    "wmma": _bind_wmma,
    "movmatrix": _bind_movmatrix,
    "ldmatrix": _bind_ldmatrix,
    "stmatrix": _bind_stmatrix,
}


def meets_others(instruction: Instruction) -> bool:
    """Return True for an instruction that a warp's threads must execute together."""
    together = instruction.opcode in FACTORIES and instruction.opcode != "activemask"
    return together or instruction.opcode in ("wgmma", "setmaxnreg")
