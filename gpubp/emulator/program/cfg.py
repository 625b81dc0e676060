"""From functions to one flat program a kernel: device functions inlined, basic blocks, and the order they run in.

Functions that are not inlined stand before the kernel, so that threads that are in one run before those that have come
back.

The order is topological with every loop contiguous (a loop's blocks stand before whatever follows the loop). Running
the group of threads that is furthest back in this order then brings diverged threads together again as early as the
graph allows. A loop that goes back to its beginning from several places does so through one block more, an empty one at
its end: else threads that take an earlier way back would begin the next round without the others.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from gpubp.emulator.errors import EmulatorError, PTXSyntaxError, UnsupportedInstruction
from gpubp.emulator.program.inlining import Call, Section, inline
from gpubp.emulator.program.ptx import Function, Instruction, Module, Symbol, Variable

EXIT = -1


@dataclass
class Block:
    """Straight-line instructions, and where control goes after them.

    `end` is the instruction that ends the block: a branch (bra, brx), ret/exit, a barrier, a Call, the `return` of a
    section, or None to fall through. `successors` are block positions, EXIT for the end of the thread: for a guarded
    branch (taken, not taken); for brx the table; for a barrier or a Call the block after it; for `return` none.
    """

    instructions: list[Instruction] = field(default_factory=list)
    end: Instruction | None = None
    successors: tuple[int, ...] = ()


@dataclass
class Program:
    """A kernel, flat: its blocks in running order, registers with types, and the variables of its frame."""

    name: str
    blocks: list[Block]
    registers: dict[str, str]
    parameters: list[Variable]
    variables: dict[str, Variable]  # of this kernel and the functions inlined into it, under unique names
    sections: dict[str, Section]
    entry: int = 0
    max_threads: int | None = None
    max_registers: int | None = None
    min_blocks: int = 1  # of a multiprocessor
    unwritten: frozenset[str] = frozenset()  # registers that may be read before they are written (registers.allocate)

    def instructions(self) -> Iterator[Instruction]:
        """Yield all instructions, block by block, those that end a block last."""
        for block in self.blocks:
            yield from block.instructions
            if block.end is not None:
                yield block.end


def build(module: Module, kernel: Function) -> Program:
    """Return the flat program of `kernel`: calls inlined where they can be, split into blocks, in order.

    Raises:
        UnsupportedInstruction: a function is called that has no body.
    """
    flat, sections = inline(module, kernel)
    blocks, at = _split(flat)
    _skip_empty(blocks)
    order: list[int] = []
    for section in sections.values():
        section.entry = len(order)
        order += _running_order(blocks, at[section.label])
    entry = len(order)
    order += _running_order(blocks, 0)
    position = {old: new for new, old in enumerate(order)}
    position[EXIT] = EXIT
    ordered = [blocks[old] for old in order]
    for block in ordered:
        block.successors = tuple(position[successor] for successor in block.successors)
    limits = kernel.max_threads, kernel.max_registers, kernel.min_blocks
    return Program(kernel.label, ordered, flat.registers, kernel.parameters, flat.variables, sections, entry, *limits)


def ends_block(instruction: Instruction) -> bool:
    """True for branches, calls, returns, and instructions at which threads may have to wait for others."""
    if instruction.opcode in ("bra", "brx", "ret", "exit", "trap", "brkpt", "return"):
        return True
    if isinstance(instruction, Call):
        return True
    if instruction.opcode in ("bar", "barrier"):
        return "arrive" not in instruction.modifiers
    return waits_for_mbarrier(instruction)


def waits_for_mbarrier(instruction: Instruction) -> bool:
    return instruction.opcode == "mbarrier" and instruction.modifiers[0] in ("test_wait", "try_wait")


# -- basic blocks -----------------------------------------------------------------------------------------------------


def _split(flat: Function) -> tuple[list[Block], dict[str, int]]:
    """Return the blocks in the order of the text, and where the labels stand; successors are indices into the list."""
    instructions = flat.instructions
    starts = {0, *flat.labels.values()}
    for index, instruction in enumerate(instructions):
        if ends_block(instruction):
            starts.add(index + 1)
            if instruction.guard is not None and instruction.opcode not in ("bra", "ret", "exit"):
                starts.add(index)  # the guard becomes a branch around a block of its own
    bounds = [*sorted(start for start in starts if start < len(instructions)), len(instructions)]
    number = {start: index for index, start in enumerate(bounds[:-1])}
    at = {label: number.get(index, EXIT) for label, index in flat.labels.items()}
    blocks: list[Block] = []
    for index, (start, stop) in enumerate(itertools.pairwise(bounds)):
        following = index + 1 if index + 1 < len(bounds) - 1 else EXIT
        blocks.append(_block(instructions[start:stop], following, at, flat))
    return _guarded_ends(blocks), at


def _place(label: str, at: dict[str, int], branch: Instruction, flat: Function) -> int:
    """Return where a label leads. PTX without it is a compiler's fault, and ptxas refuses it too."""
    if label not in at:
        raise PTXSyntaxError(f"kernel {flat.name}, {branch.location}: {branch.text} leads to a label that is not there")
    return at[label]


def _block(instructions: list[Instruction], following: int, at: dict[str, int], flat: Function) -> Block:
    last = instructions[-1]
    if not ends_block(last):
        return Block(instructions, None, (following,))
    body = instructions[:-1]
    if last.opcode == "bra":
        target = _place(last.operands[0].name, at, last, flat)  # type: ignore[union-attr]
        return Block(body, last, (target,) if last.guard is None else (target, following))
    if last.opcode == "brx":
        table = last.operands[1]
        if not isinstance(table, Symbol) or table.name not in flat.branch_targets:
            raise EmulatorError(f"kernel {flat.name}, {last.location}: no branch table for {last.text}")
        targets = flat.branch_targets[table.name]
        return Block(body, last, tuple(_place(name, at, last, flat) for name in targets))
    if last.opcode in ("ret", "exit"):
        return Block(body, last, (EXIT,) if last.guard is None else (EXIT, following))
    if last.opcode == "return":
        return Block(body, last, ())
    return Block(body, last, (following,))


def _guarded_ends(blocks: list[Block]) -> list[Block]:
    """Put a branch in front of a guarded barrier, brx or trap, which then needs no guard."""
    extra: list[Block] = []
    for block in blocks:
        end = block.end
        if end is None or end.guard is None or end.opcode in ("bra", "ret", "exit"):
            continue
        if len(block.successors) != 1:
            raise UnsupportedInstruction(f"{end.location}: a guarded {end.opcode} is not supported: {end.text}")
        extra.append(Block([], replace(end, guard=None), block.successors))
        block.end = replace(end, opcode="bra", modifiers=(), operands=())
        block.successors = (len(blocks) + len(extra) - 1, *block.successors)
    return blocks + extra


def _skip_empty(blocks: list[Block]) -> None:
    """Lead edges past blocks that do nothing. A branch to a lone `ret` then ends its threads at once, so that after
    `if (i >= n) return` the remaining threads are all there are, and run without a mask."""

    def final(target: int) -> int:
        seen = set()
        while target != EXIT and target not in seen:
            seen.add(target)
            block = blocks[target]
            plain = block.end is None or (block.end.opcode in ("bra", "ret", "exit") and block.end.guard is None)
            if block.instructions or not plain:
                break
            target = block.successors[0]
        return target

    for block in blocks:
        block.successors = tuple(final(target) for target in block.successors)


# -- running order ----------------------------------------------------------------------------------------------------


def _running_order(blocks: list[Block], entry: int) -> list[int]:
    """Return the blocks reachable from block `entry` in topological order, loops contiguous, ties in the text's
    order."""
    edges = {index: {s for s in block.successors if s != EXIT} for index, block in enumerate(blocks)}
    reachable, pending = {entry}, [entry]
    while pending:
        for successor in edges[pending.pop()] - reachable:
            reachable.add(successor)
            pending.append(successor)
    return _order(sorted(reachable), entry, {node: edges[node] for node in reachable}, blocks)


def _order(nodes: list[int], entry: int, edges: dict[int, set[int]], blocks: list[Block]) -> list[int]:
    """Return the components of the graph in topological order, each loop from its header to its one way back."""
    component_of, components = _components(nodes, edges)
    incoming = [0] * len(components)
    outgoing: list[set[int]] = [set() for _ in components]
    for node in nodes:
        for successor in edges[node]:
            source, target = component_of[node], component_of[successor]
            if source != target and target not in outgoing[source]:
                outgoing[source].add(target)
                incoming[target] += 1
    ready = [(min(members), index) for index, members in enumerate(components) if incoming[index] == 0]
    heapq.heapify(ready)
    result: list[int] = []
    while ready:
        _, index = heapq.heappop(ready)
        result += _order_loop(components[index], entry, nodes, edges, blocks)
        for target in outgoing[index]:
            incoming[target] -= 1
            if incoming[target] == 0:
                heapq.heappush(ready, (min(components[target]), target))
    return result


def _order_loop(
    members: list[int], entry: int, nodes: list[int], edges: dict[int, set[int]], blocks: list[Block]
) -> list[int]:
    if len(members) == 1:
        return members
    inside = set(members)
    entered = [node for node in members if node == entry or any(node in edges[n] for n in nodes if n not in inside)]
    header = entered[0] if entered else members[0]
    acyclic = {node: (edges[node] & inside) - {header} for node in members}
    ends = [node for node in members if header in edges[node]]
    if len(ends) < 2:
        return _order(members, header, acyclic, blocks)
    back = len(blocks)
    blocks.append(Block([], None, (header,)))
    for node in ends:
        blocks[node].successors = tuple(back if each == header else each for each in blocks[node].successors)
        acyclic[node].add(back)
    acyclic[back] = set()
    return _order([*members, back], header, acyclic, blocks)


def _components(nodes: list[int], edges: dict[int, set[int]]) -> tuple[dict[int, int], list[list[int]]]:
    """Return the strongly connected components, members sorted (Tarjan 1972, without recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    component_of: dict[int, int] = {}
    components: list[list[int]] = []
    stack: list[int] = []
    for root in nodes:
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        work = [(root, iter(sorted(edges[root])))]
        while work:
            node, successors = work[-1]
            for successor in successors:
                if successor not in index:
                    index[successor] = low[successor] = len(index)
                    stack.append(successor)
                    work.append((successor, iter(sorted(edges[successor]))))
                    break
                if successor not in component_of:
                    low[node] = min(low[node], index[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    members = []
                    while True:
                        member = stack.pop()
                        component_of[member] = len(components)
                        members.append(member)
                        if member == node:
                            break
                    components.append(sorted(members))
    return component_of, components
