"""Which registers share storage: liveness over the blocks of a program, then a linear scan.

PTX is in static single assignment form: an unrolled product has thousands of registers, of which some hundred are live
at a time. Sharing keeps the register file in the CPU's cache. A thread's registers are its own, so what is live is
decided as for one thread; threads that diverged write under a mask.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator

from gpubp.emulator.program.cfg import EXIT, Block, Program
from gpubp.emulator.program.inlining import ALLOCATORS
from gpubp.emulator.program.ptx import (
    TYPE_BYTES,
    Address,
    Instruction,
    Operand,
    Pair,
    Register,
    Special,
    Symbol,
    Vector,
)

_MEMORY = ("st", "red", "stmatrix", "cp", "prefetch", "prefetchu", "discard", "applypriority", "membar", "fence")
_CONTROL = (
    "bra",
    "brx",
    "ret",
    "exit",
    "call",
    "return",
    "trap",
    "brkpt",
    "nanosleep",
    "griddepcontrol",
    "setmaxnreg",
    "pmevent",
)
_WITHOUT_DESTINATION = frozenset((*_MEMORY, *_CONTROL))

GRID_WORKSPACE = ("envreg1", "envreg2")
"""Special registers with the address of a cooperative launch's workspace, its upper half first; 0 in other launches."""

Slot = tuple[int, int]  # bytes of the register (0 for a predicate), number


def has_destination(instruction: Instruction) -> bool:
    if instruction.opcode in ("bar", "barrier"):
        return "red" in instruction.modifiers
    if instruction.opcode == "wmma":
        return instruction.modifiers[0] != "store"
    if instruction.opcode == "wgmma":
        return instruction.modifiers[0] == "mma_async"
    if instruction.opcode == "mbarrier":
        return instruction.modifiers[0] not in ("init", "inval", "expect_tx", "complete_tx")
    return instruction.opcode not in _WITHOUT_DESTINATION


def registers_of(operand: Operand) -> Iterator[str]:
    """The names of the registers in an operand."""
    if isinstance(operand, Register):
        yield operand.name
    elif isinstance(operand, Address):
        if isinstance(operand.base, Register):
            yield operand.base.name
    elif isinstance(operand, Vector):
        for item in operand.items:
            yield from registers_of(item)
    elif isinstance(operand, Pair):
        yield from registers_of(operand.first)
        yield from registers_of(operand.second)


def address_of(operand: Operand) -> Iterator[str]:
    """The name of the register in a memory operand."""
    if isinstance(operand, Address):
        yield from registers_of(operand)


def reads_and_writes(instruction: Instruction) -> tuple[list[str], list[str]]:
    """Return the registers that an instruction reads and writes. A guarded write keeps old values, so it also reads."""
    first = 1 if has_destination(instruction) else 0
    writes = [name for operand in instruction.operands[:first] for name in registers_of(operand)]
    reads = [name for operand in instruction.operands[first:] for name in registers_of(operand)]
    if instruction.opcode == "wgmma":
        reads += writes  # accumulators
    if instruction.guard is not None:
        reads.append(instruction.guard.name)
        reads += writes
    return reads, writes


def computed_from(program: Program, specials: Collection[str]) -> set[str]:
    """Return the registers whose values are computed from special registers, such as the clock's."""
    instructions = [instruction for block in program.blocks for instruction in _all(block)]
    found: set[str] = set()
    before = -1
    while len(found) > before:
        before = len(found)
        for instruction in instructions:
            reads, writes = reads_and_writes(instruction)
            named = any(isinstance(operand, Special) and operand.name in specials for operand in instruction.operands)
            if named or not found.isdisjoint(reads):
                found.update(writes)
    return found


#: Atomic operations whose outcome does not depend on the order in which threads come, if on integers.
_ORDER_FREE = frozenset(("add", "min", "max", "and", "or", "xor"))


def depends_on_atomic_order(program: Program) -> bool:
    """True if the order of atomics may show: they add floats, overwrite, or return a value that is used. So does
    that of malloc and free, in addresses and in who finds the heap full.

    Atomics on the workspace of a grid's barrier decide nothing but who waits.
    """
    instructions = [instruction for block in program.blocks for instruction in _all(block)]
    read = {name for instruction in instructions for name in reads_and_writes(instruction)[0]}
    barriers = computed_from(program, GRID_WORKSPACE)
    for instruction in instructions:
        if any(isinstance(operand, Symbol) and operand.name in ALLOCATORS for operand in instruction.operands):
            return True
        if not barriers.isdisjoint(name for operand in instruction.operands[:2] for name in address_of(operand)):
            continue
        if instruction.opcode not in ("atom", "red") or instruction.modifiers[0].startswith("shared"):
            continue
        free = instruction.modifiers[-1][0] in "usb" and instruction.modifiers[-1][:2] != "bf"
        free = free and bool(_ORDER_FREE & set(instruction.modifiers))
        if not free or read & set(reads_and_writes(instruction)[1]):
            return True
    return False


def allocate(program: Program, apart: Collection[str] = ()) -> dict[str, Slot]:
    """Return a slot for every register that the program names; registers that are live together never share one, nor do
    those that are to be kept `apart` and others.

    Notes in the program which registers may be read before they are written.
    """
    first, last, shared_start = _intervals(program)
    free: dict[tuple[int, bool], list[int]] = {}
    used: dict[int, int] = {}
    active: list[tuple[int, int, bool, int]] = []  # end, class, whether kept apart, number
    slots: dict[str, Slot] = {}
    for name in sorted(first, key=first.__getitem__):
        start = first[name]
        while active and (active[0][0] < start or (active[0][0] == start and name in shared_start)):
            _, kind, separate, number = heapq.heappop(active)
            heapq.heappush(free[kind, separate], number)
        register_type = program.registers[name]
        kind = 0 if register_type == "pred" else TYPE_BYTES[register_type]
        separate = name in apart
        available = free.setdefault((kind, separate), [])
        if available:
            number = heapq.heappop(available)
        else:
            number = used.get(kind, 0)
            used[kind] = number + 1
        slots[name] = (kind, number)
        heapq.heappush(active, (last[name], kind, separate, number))
    return slots


def saved(program: Program) -> dict[int, list[str]]:
    """Return for each call the registers that the caller needs afterwards: the functions called may overwrite them, as
    they share their storage."""
    calls = [
        index for index, block in enumerate(program.blocks) if block.end is not None and block.end.opcode == "call"
    ]
    live_out = _liveness(program.blocks)[1] if calls else []
    return {index: sorted(live_out[index]) for index in calls}


def _intervals(program: Program) -> tuple[dict[str, int], dict[str, int], set[str]]:
    """Return the first and last point of each register's life in running order, and the names whose first instruction
    may reuse the slot of a source that dies there (instructions with one result work in place).
    """
    live_in, live_out = _liveness(program.blocks)
    program.unwritten = frozenset(live_in[program.entry])
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    in_place: set[str] = set()

    def extend(name: str, point: int) -> None:
        first[name] = min(first.get(name, point), point)
        last[name] = max(last.get(name, point), point)

    point = 0
    for index, block in enumerate(program.blocks):
        for name in live_in[index]:
            extend(name, point)
        for instruction in _all(block):
            point += 1
            reads, writes = reads_and_writes(instruction)
            for name in reads:
                extend(name, point)
            if len(writes) == 1 and writes[0] not in first:
                in_place.add(writes[0])
            for name in writes:
                extend(name, point)
        point += 1
        for name in live_out[index]:
            extend(name, point)
    return first, last, in_place


def _all(block: Block) -> list[Instruction]:
    return block.instructions if block.end is None else [*block.instructions, block.end]


def _liveness(blocks: list[Block]) -> tuple[list[set[str]], list[set[str]]]:
    """Return the registers live at each block's start and end (backward data flow to a fixed point)."""
    needs: list[set[str]] = []
    gives: list[set[str]] = []
    for block in blocks:
        need: set[str] = set()
        given: set[str] = set()
        for instruction in _all(block):
            reads, writes = reads_and_writes(instruction)
            need.update(name for name in reads if name not in given)
            given.update(writes)
        needs.append(need)
        gives.append(given)
    live_in = [set(need) for need in needs]
    live_out: list[set[str]] = [set() for _ in blocks]
    changed = True
    while changed:
        changed = False
        for index in range(len(blocks) - 1, -1, -1):
            out: set[str] = set()
            for successor in blocks[index].successors:
                if successor != EXIT:
                    out |= live_in[successor]
            if out != live_out[index]:
                live_out[index] = out
                live_in[index] = needs[index] | (out - gives[index])
                changed = True
    return live_in, live_out
