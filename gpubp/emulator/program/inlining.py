"""Calls: device functions are inlined into the kernel, but for those that cannot be.

Functions that call themselves or are called through a pointer stand once in the program: they are its sections, and a
Call leads to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpubp.emulator.errors import UnsupportedInstruction
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
    Signature,
    Symbol,
    Variable,
    Vector,
)

#: Functions that the device runtime supplies; the executor implements them.
ALLOCATORS = ("malloc", "__cuda_syscall_aligned_malloc", "free")
BUILTINS = ("vprintf", "__assertfail", "__assert_fail", *ALLOCATORS)

NO_SIGNATURE = Signature((), ())
KERNEL = ""
"""The section of the kernel itself; the others are named after their functions."""


@dataclass(frozen=True)
class Call(Instruction):
    """A call that is not inlined; it ends its block.

    Attributes:
        function: what is called; None: what the address in `pointer` says.
        signature: of what may be called so.
        arguments, results: variables of the caller.
        section: the section of the caller.
    """

    function: str | None = None
    pointer: Register | None = None
    signature: Signature = NO_SIGNATURE
    arguments: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    section: str = KERNEL


@dataclass
class Section:
    """A function that is not inlined: where it begins, and the variables of its frame, under unique names."""

    name: str
    signature: Signature
    parameters: tuple[str, ...]
    returns: tuple[str, ...]
    variables: dict[str, Variable]
    entry: int = 0

    @property
    def label(self) -> str:
        return f"$section {self.name}"


def inline(module: Module, kernel: Function) -> tuple[Function, dict[str, Section]]:
    """Return a kernel with all that it calls as one Function with unique names, and its sections.

    Raises:
        UnsupportedInstruction: a function is called that has no body.
    """
    inliner = _Inliner(module, kernel)
    return inliner.run(), inliner.sections


class _Inliner:
    """Copies a kernel and all it calls into one Function with unique names."""

    def __init__(self, module: Module, kernel: Function) -> None:
        self.module = module
        self.kernel = kernel
        self.flat = Function(kernel.label, True, kernel.parameters, [], defined=True)
        self.sections: dict[str, Section] = {}  # callees before their callers, as far as that goes
        self.section = KERNEL
        self.copies = 0
        self.recursive = _recursive(module)
        self.wanted: list[str] = []  # functions that are called, and not inlined
        self.addressed: list[str] | None = None

    def run(self) -> Function:
        self._copy(self.kernel, "", {}, None)
        for name in self.wanted:  # which grows here
            self._add_section(name)
        self.sections = {name: self.sections[name] for name in reversed(self.wanted)}
        return self.flat

    def _add_section(self, name: str) -> None:
        function = self.module.functions[name]
        self.copies += 1
        self.section = name
        suffix = f"@{self.copies}"
        formals = function.parameters + function.returns
        bound = {formal.name: formal.name + suffix for formal in formals}
        variables = {bound[formal.name]: replace(formal, name=bound[formal.name]) for formal in formals}
        parameters, returns = ([bound[v.name] for v in which] for which in (function.parameters, function.returns))
        section = Section(name, function.signature, tuple(parameters), tuple(returns), variables)
        self.sections[name] = section
        self.flat.labels[section.label] = len(self.flat.instructions)
        returned = f"$returned{suffix}"
        self._copy(function, suffix, bound, returned)
        self.flat.labels[returned] = len(self.flat.instructions)
        last = function.instructions[-1] if function.instructions else None
        end = Instruction("return", (), (Symbol(name),), None, last.location if last else None, "ret")
        self.flat.instructions.append(end)

    def _copy(
        self,
        function: Function,
        suffix: str,
        bound: dict[str, str],
        after: str | None,
        call: Location | None = None,
    ) -> None:
        """Append `function`; `bound` renames its parameters, `after` is where ret goes, and `call` where it is
        called."""
        flat = self.flat
        rename = _Renamer(function, suffix, bound, call)
        flat.registers.update((rename.register(name), kind) for name, kind in function.registers.items())
        frame = self.sections[self.section].variables if self.section != KERNEL else flat.variables
        for name, variable in function.variables.items():
            table = frame if variable.space in ("local", "param") else flat.variables
            table[rename.variable(name)] = replace(variable, name=rename.variable(name))
        for name, targets in function.branch_targets.items():
            flat.branch_targets[name + suffix] = tuple(target + suffix for target in targets)
        labels: dict[int, list[str]] = {}
        for label, index in function.labels.items():
            labels.setdefault(index, []).append(label + suffix)
        for index, instruction in enumerate(function.instructions):
            for label in labels.get(index, ()):
                flat.labels[label] = len(flat.instructions)
            self._append(rename.instruction(instruction), after, function)
        for label in labels.get(len(function.instructions), ()):
            flat.labels[label] = len(flat.instructions)
        if after is None:  # a label may stand behind the last instruction
            flat.instructions.append(Instruction("ret", (), (), None, None, "ret"))

    def _append(self, instruction: Instruction, after: str | None, function: Function) -> None:
        if instruction.opcode == "call":
            self._call(instruction, function)
        elif instruction.opcode == "ret" and after is not None:
            jump = replace(instruction, opcode="bra", modifiers=(), operands=(Label(after),))
            self.flat.instructions.append(jump)
        else:
            self.flat.instructions.append(instruction)

    def _call(self, call: Instruction, caller: Function) -> None:
        """Append a call: call (results), target, (arguments), prototype or table; the lists may be missing."""
        rest = list(call.operands)
        results = _take_list(rest)
        target = rest.pop(0) if rest else None
        arguments = _take_list(rest)
        if isinstance(target, Register):
            self._call_pointer(call, caller, target, results, arguments, rest)
            return
        if not isinstance(target, (Symbol, Label)):
            raise self._unsupported(call, "a call of no function")
        callee = self.module.functions.get(target.name)
        defined = callee is not None and callee.defined
        if target.name in BUILTINS and not defined:
            self.flat.instructions.append(call)
        elif callee is None or not defined:
            why = "dynamic parallelism" if target.name.startswith(_DEVICE_LAUNCHES) else "it has no body in this module"
            raise self._unsupported(call, f"a call of {target.name} ({why})")
        elif callee.name in self.recursive:
            self._check_arguments(call, callee.name, callee.signature, results, arguments)
            self._add_call(call, callee.name, None, callee.signature, results, arguments)
            self._want(callee.name)
        else:
            self._inline(call, callee, results, arguments)

    def _call_pointer(
        self,
        call: Instruction,
        caller: Function,
        pointer: Register,
        results: tuple[Operand, ...],
        arguments: tuple[Operand, ...],
        rest: list[Operand],
    ) -> None:
        """Append a call through a pointer: it may reach each function whose address is taken and that fits."""
        table = rest[0].name if rest and isinstance(rest[0], Symbol) else ""
        if table in caller.call_targets:
            targets = [name for name in caller.call_targets[table] if name in self.module.functions]
            signature = self.module.functions[targets[0]].signature if targets else NO_SIGNATURE
        elif table in caller.prototypes:
            signature = caller.prototypes[table]
            if self.addressed is None:
                self.addressed = list(_addressed(self.module))
            targets = self.addressed
        else:
            raise self._unsupported(call, "an indirect call without a prototype")
        self._check_arguments(call, "the prototype", signature, results, arguments)
        self._add_call(call, None, pointer, signature, results, arguments)
        for name in targets:
            if self.module.functions[name].signature == signature:
                self._want(name)

    def _want(self, name: str) -> None:
        """See that a function becomes a section: once, and behind the one that calls it."""
        if name not in self.wanted:
            self.wanted.append(name)

    def _add_call(
        self,
        call: Instruction,
        function: str | None,
        pointer: Register | None,
        signature: Signature,
        results: tuple[Operand, ...],
        arguments: tuple[Operand, ...],
    ) -> None:
        given = [operand.name for operand in arguments if isinstance(operand, Symbol)]
        taken = [operand.name for operand in results if isinstance(operand, Symbol)]
        if len(given) != len(arguments) or len(taken) != len(results):
            raise self._unsupported(call, "a call with registers as arguments that is not inlined")
        operands = () if pointer is None else (pointer,)
        whole = (function, pointer, signature, tuple(given), tuple(taken), self.section)
        self.flat.instructions.append(
            Call("call", call.modifiers, operands, call.guard, call.location, call.text, *whole)
        )

    def _check_arguments(
        self,
        call: Instruction,
        name: str,
        signature: Signature,
        results: tuple[Operand, ...],
        arguments: tuple[Operand, ...],
    ) -> None:
        if len(results) != len(signature.returns) or len(arguments) != len(signature.parameters):
            raise self._unsupported(call, f"a call of {name} with another number of arguments than declared")

    def _inline(
        self, call: Instruction, callee: Function, results: tuple[Operand, ...], arguments: tuple[Operand, ...]
    ) -> None:
        self._check_arguments(call, callee.name, callee.signature, results, arguments)
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
        self._copy(callee, suffix, bound, returned, call.location)
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
            f"kernel {self.kernel.label}, {call.location}: {what} is not supported: {call.text}"
        )


def _take_list(operands: list[Operand]) -> tuple[Operand, ...]:
    """Take the list that operands begin with, if they do."""
    if not operands or not isinstance(operands[0], Vector):
        return ()
    first = operands.pop(0)
    assert isinstance(first, Vector)
    return first.items


_DEVICE_LAUNCHES = ("__cudaCDP", "cudaLaunchDevice", "cudaGetParameterBuffer", "cudaStreamCreate", "cudaDevice")


def _recursive(module: Module) -> set[str]:
    """Return the device functions that call themselves, directly or through others by name."""
    called: dict[str, set[str]] = {}
    for name, function in module.functions.items():
        calls = [i for i in function.instructions if i.opcode == "call" and not function.entry]
        called[name] = {o.name for call in calls for o in call.operands if isinstance(o, (Symbol, Label))}

    def reaches_itself(name: str) -> bool:
        seen: set[str] = set()
        todo = [name]
        while todo:
            new = called.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return name in seen

    return {name for name in called if reaches_itself(name)}


def _addressed(module: Module) -> Iterator[str]:
    """Return the functions whose address the module takes, in its order."""
    found = {
        value.name
        for variable in module.variables.values()
        for value in variable.initial or ()
        if isinstance(value, Symbol)
    }
    for function in module.functions.values():
        for instruction in function.instructions:
            for operand in instruction.operands if instruction.opcode != "call" else ():
                if isinstance(operand, Symbol):
                    found.add(operand.name)
    known = ((name, function) for name, function in module.functions.items() if name in found)
    return (name for name, function in known if function.defined and not function.entry)


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
