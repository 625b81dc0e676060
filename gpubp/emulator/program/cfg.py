"""From functions to one flat program a kernel: device functions inlined, basic blocks, and the order they run in.

The order is topological with every loop contiguous (a loop's blocks stand before whatever follows the loop). Running
the group of threads that is furthest back in this order then brings diverged threads together again as early as the
graph allows.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field, replace

from gpubp.emulator.errors import EmulatorError, PTXSyntaxError, UnsupportedInstruction
from gpubp.emulator.program.ptx import (
    Address,
    Function,
    Instruction,
    Label,
    Location,
    Module,
    Operand,
    Pair,
    Register,
    Symbol,
    Variable,
    Vector,
)

#: Functions that the device runtime supplies; the executor implements them.
BUILTINS = ("vprintf", "__assertfail", "__assert_fail")

EXIT = -1


@dataclass
class Block:
    """Straight-line instructions, and where control goes after them.

    `end` is the instruction that ends the block: a branch (bra, brx), ret/exit, a barrier, or None to fall through.
    `successors` are block positions, EXIT for the end of the thread: for a guarded branch (taken, not taken); for brx
    the table; for a barrier the block after it.
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
    unwritten: frozenset[str] = frozenset()  # registers that may be read before they are written (registers.allocate)


def build(module: Module, kernel: Function) -> Program:
    """Return the flat program of `kernel`: calls inlined, split into blocks, in order.

    Raises:
        UnsupportedInstruction: a function calls itself.
    """
    flat = _Inliner(module, kernel).run()
    blocks = _split(flat)
    _skip_empty(blocks)
    order = _running_order(blocks)
    position = {old: new for new, old in enumerate(order)}
    position[EXIT] = EXIT
    ordered = [blocks[old] for old in order]
    for block in ordered:
        block.successors = tuple(position[successor] for successor in block.successors)
    return Program(kernel.name, ordered, flat.registers, kernel.parameters, flat.variables)


def ends_block(instruction: Instruction) -> bool:
    """True for branches, returns, and instructions at which threads may have to wait for others."""
    if instruction.opcode in ("bra", "brx", "ret", "exit", "trap"):
        return True
    if instruction.opcode in ("bar", "barrier"):
        return "arrive" not in instruction.modifiers
    return waits_for_mbarrier(instruction)


def waits_for_mbarrier(instruction: Instruction) -> bool:
    return instruction.opcode == "mbarrier" and instruction.modifiers[0] in ("test_wait", "try_wait")


# -- inlining ---------------------------------------------------------------------------------------------------------


class _Inliner:
    """Copies a kernel and all it calls into one Function with unique names."""

    def __init__(self, module: Module, kernel: Function) -> None:
        self.module = module
        self.kernel = kernel
        self.flat = Function(kernel.name, True, kernel.parameters, [], defined=True)
        self.copies = 0

    def run(self) -> Function:
        self._copy(self.kernel, "", {}, None, (self.kernel.name,), None)
        return self.flat

    def _copy(
        self,
        function: Function,
        suffix: str,
        bound: dict[str, str],
        after: str | None,
        stack: tuple[str, ...],
        call: Location | None,
    ) -> None:
        """Append `function`; `bound` renames its parameters to the caller's variables, `after` is where ret goes, and
        `call` where it is called."""
        flat = self.flat
        rename = _Renamer(function, suffix, bound, call)
        flat.registers.update((rename.register(name), kind) for name, kind in function.registers.items())
        for name, variable in function.variables.items():
            flat.variables[rename.variable(name)] = replace(variable, name=rename.variable(name))
        for name, targets in function.branch_targets.items():
            flat.branch_targets[name + suffix] = tuple(target + suffix for target in targets)
        labels: dict[int, list[str]] = {}
        for label, index in function.labels.items():
            labels.setdefault(index, []).append(label + suffix)
        for index, instruction in enumerate(function.instructions):
            for label in labels.get(index, ()):
                flat.labels[label] = len(flat.instructions)
            self._append(rename.instruction(instruction), after, stack)
        for label in labels.get(len(function.instructions), ()):
            flat.labels[label] = len(flat.instructions)
        if after is None:  # a label may stand behind the last instruction
            flat.instructions.append(Instruction("ret", (), (), None, None, "ret"))

    def _append(self, instruction: Instruction, after: str | None, stack: tuple[str, ...]) -> None:
        if instruction.opcode == "call":
            self._call(instruction, stack)
        elif instruction.opcode == "ret" and after is not None:
            jump = replace(instruction, opcode="bra", modifiers=(), operands=(Label(after),))
            self.flat.instructions.append(jump)
        else:
            self.flat.instructions.append(instruction)

    def _call(self, call: Instruction, stack: tuple[str, ...]) -> None:
        lists = [operand for operand in call.operands if isinstance(operand, Vector)]
        named = [operand for operand in call.operands if isinstance(operand, (Symbol, Label))]
        if not named or isinstance(call.operands[0], Register):
            raise self._unsupported(call, "an indirect call")
        name = named[0].name
        if name in BUILTINS:
            self.flat.instructions.append(call)
            return
        callee = self.module.functions.get(name)
        if callee is None or not callee.defined:
            raise self._unsupported(call, f"a call of {name}, which has no body in this module,")
        if name in stack:
            raise self._unsupported(call, f"recursion ({' -> '.join((*stack, name))})")
        before_name = next(i for i, operand in enumerate(call.operands) if operand is named[0])
        results = lists[0].items if before_name > 0 else ()
        arguments = lists[-1].items if len(lists) > (before_name > 0) else ()
        self._inline(call, callee, results, arguments, stack)

    def _inline(
        self,
        call: Instruction,
        callee: Function,
        results: tuple[Operand, ...],
        arguments: tuple[Operand, ...],
        stack: tuple[str, ...],
    ) -> None:
        if len(results) != len(callee.returns) or len(arguments) != len(callee.parameters):
            raise self._unsupported(call, f"a call of {callee.name} with another number of arguments than declared")
        self.copies += 1
        suffix = f"@{self.copies}"
        returned, after = f"$returned{suffix}", f"$after{suffix}"
        if call.guard is not None:
            skip = Register(call.guard.name, not call.guard.negated)
            jump = replace(call, opcode="bra", modifiers=(), operands=(Label(after),), guard=skip)
            self.flat.instructions.append(jump)
        bound: dict[str, str] = {}
        for formal, actual in zip(callee.parameters + callee.returns, (*arguments, *results), strict=True):
            if isinstance(actual, Symbol):
                bound[formal.name] = actual.name
            elif formal.space == "reg" and formal in callee.parameters:
                self._move(call, formal.type, Register(formal.name + suffix), actual)
            elif formal.space != "reg":
                raise self._unsupported(call, "a call with a register for a .param argument")
        self._copy(callee, suffix, bound, returned, (*stack, callee.name), call.location)
        self.flat.labels[returned] = len(self.flat.instructions)
        for formal, actual in zip(callee.returns, results, strict=True):
            if formal.space == "reg":
                self._move(call, formal.type, actual, Register(formal.name + suffix))
        self.flat.labels[after] = len(self.flat.instructions)

    def _move(self, call: Instruction, kind: str, to: Operand, value: Operand) -> None:
        move = Instruction("mov", (kind,), (to, value), None, call.location, call.text)
        self.flat.instructions.append(move)

    def _unsupported(self, call: Instruction, what: str) -> UnsupportedInstruction:
        return UnsupportedInstruction(
            f"kernel {self.kernel.name}, {call.location}: {what} is not supported: {call.text}"
        )


class _Renamer:
    """Gives the names of one inlined copy of a function their suffix."""

    def __init__(self, function: Function, suffix: str, bound: dict[str, str], call: Location | None) -> None:
        self.function = function
        self.call = call
        self.locations: dict[Location, Location] = {}
        self.suffix = suffix
        self.bound = bound

    def register(self, name: str) -> str:
        return name + self.suffix

    def variable(self, name: str) -> str:
        if name in self.bound:
            return self.bound[name]
        return name + self.suffix if name in self.function.variables else name

    def operand(self, operand: Operand) -> Operand:
        if isinstance(operand, Register):
            return Register(operand.name + self.suffix, operand.negated)
        if isinstance(operand, Symbol):
            name = operand.name
            if name in self.function.branch_targets:
                return Symbol(name + self.suffix)
            return Symbol(self.variable(name), operand.offset)
        if isinstance(operand, Label):
            return Label(operand.name + self.suffix)
        if isinstance(operand, Address):
            return Address(None if operand.base is None else self.operand(operand.base), operand.offset)  # type: ignore[arg-type]
        if isinstance(operand, Vector):
            return Vector(tuple(self.operand(item) for item in operand.items))
        if isinstance(operand, Pair):
            return Pair(self.operand(operand.first), self.operand(operand.second))
        return operand

    def location(self, location: Location | None) -> Location | None:
        if self.call is None or location is None:
            return location or self.call
        if location not in self.locations:
            self.locations[location] = location.called_at(self.call)
        return self.locations[location]

    def instruction(self, instruction: Instruction) -> Instruction:
        if not self.suffix:
            return instruction
        guard = instruction.guard
        return replace(
            instruction,
            location=self.location(instruction.location),
            operands=tuple(self.operand(operand) for operand in instruction.operands),
            guard=None if guard is None else Register(guard.name + self.suffix, guard.negated),
        )


# -- basic blocks -----------------------------------------------------------------------------------------------------


def _split(flat: Function) -> list[Block]:
    """Return the blocks in the order of the text; successors are indices into the list."""
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
    return _guarded_ends(blocks)


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


def _running_order(blocks: list[Block]) -> list[int]:
    """Return the blocks reachable from block 0 in topological order, loops contiguous, ties in the text's order."""
    edges = {index: {s for s in block.successors if s != EXIT} for index, block in enumerate(blocks)}
    reachable, pending = {0}, [0]
    while pending:
        for successor in edges[pending.pop()] - reachable:
            reachable.add(successor)
            pending.append(successor)
    return _order(sorted(reachable), 0, {node: edges[node] for node in reachable})


def _order(nodes: list[int], entry: int, edges: dict[int, set[int]]) -> list[int]:
    """Return the components of the graph in topological order, each loop from its header."""
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
        result += _order_loop(components[index], entry, nodes, edges)
        for target in outgoing[index]:
            incoming[target] -= 1
            if incoming[target] == 0:
                heapq.heappush(ready, (min(components[target]), target))
    return result


def _order_loop(members: list[int], entry: int, nodes: list[int], edges: dict[int, set[int]]) -> list[int]:
    if len(members) == 1:
        return members
    inside = set(members)
    entered = [node for node in members if node == entry or any(node in edges[n] for n in nodes if n not in inside)]
    header = entered[0] if entered else members[0]
    acyclic = {node: (edges[node] & inside) - {header} for node in members}
    return _order(members, header, acyclic)


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
