"""PTX text to dataclasses: modules, variables, functions, instructions with their source locations.

The grammar is that of the PTX ISA, sections 4 (syntax), 5 (state spaces, types, variables) and 11 (directives), as far
as NVRTC and Numba emit it. Registers, variables and labels of nested scopes (inline assembly, call sequences) get
unique names here, so that no later stage knows of scopes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gpubp.emulator.errors import PTXSyntaxError
from gpubp.emulator.program.names import kernel_name

TYPE_BYTES = {
    **{kind + bits: int(bits) // 8 for kind in "bus" for bits in ("8", "16", "32", "64")},
    "f16": 2,
    "bf16": 2,
    "f16x2": 4,
    "bf16x2": 4,
    "f32": 4,
    "f64": 8,
    "b128": 16,
    "pred": 1,
    "s16x2": 4,
    "u16x2": 4,
    "f32x2": 8,
}

_DIRECTIVES = frozenset(
    ("maxntid", "reqntid", "minnctapersm", "maxnctapersm", "maxnreg", "noreturn", "explicitcluster",
     "reqnctapercluster", "maxclusterrank")
)  # fmt: skip
"""Directives of functions that are understood: all but .reqntid and .reqnctapercluster only limit what may be
launched."""

_SPACES = ("global", "const", "shared", "local", "param", "reg")


@dataclass(frozen=True)
class Location:
    """A line of the kernel's source, and where it was inlined or called."""

    file: str
    line: int
    inlined_at: Location | None = None

    @property
    def own(self) -> Location:
        """Return the innermost place outside of the toolkit's and Numba's files; this one if there is none."""
        return next((place for place in self.chain() if not _LIBRARY.search(place.file)), self)

    def chain(self) -> Iterator[Location]:
        """Return this place, the one where it was inlined, and so on, outwards."""
        place: Location | None = self
        while place is not None:
            yield place
            place = place.inlined_at

    def called_at(self, call: Location) -> Location:
        """Return this place in a function that is called from another place."""
        outer = call if self.inlined_at is None else self.inlined_at.called_at(call)
        return Location(self.file, self.line, outer)

    def __str__(self) -> str:
        own = self.own
        notes = [] if own is self else [f"in {self._short()}"]
        notes += [f"inlined at {place._short()}" for place in list(own.chain())[1:]]
        return f"{own._short()} ({', '.join(notes)})" if notes else own._short()

    def _short(self) -> str:
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line}"


_LIBRARY = re.compile(
    r"/(cuda-headers|cub|thrust|cccl|libcudacxx|cutlass|cooperative_groups|numba_cuda)/"
    r"|/(site|dist)-packages/(nvidia|numba|cupy)/|/cuda(-[\d.]+)?/include/|\b__nv_nvrtc_builtin_header\.h$"
)
"""Files that a user of the toolkit, of its libraries, or of Numba has not written."""


class Register(NamedTuple):
    """A register; `negated` for a predicate operand written as !p."""

    name: str
    negated: bool = False


class Immediate(NamedTuple):
    """A constant as written: an integer, or the bits of a floating point number with their width."""

    value: int
    float_bits: int = 0  # 0: an integer; 32 or 64: `value` holds the bits of a float of that width


class Special(NamedTuple):
    """A special register such as tid.x (without the percent sign)."""

    name: str


class Symbol(NamedTuple):
    """The address of a variable, or the name of a function or table, plus an offset in bytes."""

    name: str
    offset: int = 0


class Address(NamedTuple):
    """A memory operand [base + offset]; base None: an absolute address."""

    base: Register | Symbol | None
    offset: int


class Vector(NamedTuple):
    """A vector operand {a, b, ...}; also a parenthesised argument list."""

    items: tuple[Operand, ...]


class Pair(NamedTuple):
    """Two destinations written a|b."""

    first: Operand
    second: Operand


class Label(NamedTuple):
    """A branch target."""

    name: str


class Sink(NamedTuple):
    """The operand _, which takes or gives nothing."""


Operand = Register | Immediate | Special | Symbol | Address | Vector | Pair | Label | Sink


@dataclass(frozen=True)
class Instruction:
    """One PTX instruction: `@guard opcode.modifiers operands;`."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | None
    location: Location | None
    text: str


def is_fence(instruction: Instruction) -> bool:
    """Return True for an instruction that orders the accesses of its thread."""
    return instruction.opcode in ("membar", "fence") and not {"proxy", "mbarrier_init"} & set(instruction.modifiers)


@dataclass(frozen=True)
class Variable:
    """A variable in memory: `count` elements of `type` in `space`."""

    name: str
    space: str
    type: str
    align: int
    count: int
    initial: tuple[int | float | Symbol, ...] | None = None
    external: bool = False
    is_array: bool = False

    @property
    def nbytes(self) -> int:
        return self.count * TYPE_BYTES[self.type]


class Signature(NamedTuple):
    """The bytes of each parameter and of each result of a function."""

    parameters: tuple[int, ...]
    returns: tuple[int, ...]


@dataclass
class Function:
    """A kernel (`entry`) or device function; scopes are flattened into unique names."""

    name: str
    entry: bool
    parameters: list[Variable]
    returns: list[Variable]
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # label -> index of the instruction it stands before
    registers: dict[str, str] = field(default_factory=dict)  # register -> type
    variables: dict[str, Variable] = field(default_factory=dict)
    branch_targets: dict[str, tuple[str, ...]] = field(default_factory=dict)  # .branchtargets tables
    prototypes: dict[str, Signature] = field(default_factory=dict)  # .callprototype
    call_targets: dict[str, tuple[str, ...]] = field(default_factory=dict)  # .calltargets
    max_threads: int | None = None
    required_block: tuple[int, int, int] | None = None
    required_cluster: tuple[int, int, int] | None = None
    max_registers: int | None = None
    min_blocks: int = 1  # of a multiprocessor
    defined: bool = False

    @property
    def label(self) -> str:
        """Return what messages call it: of a function of Numba its name in Python, without the types."""
        return kernel_name(self.name)

    @property
    def signature(self) -> Signature:
        return Signature(tuple(p.nbytes for p in self.parameters), tuple(r.nbytes for r in self.returns))


@dataclass
class Module:
    """One PTX module."""

    version: str = ""
    target: str = ""
    variables: dict[str, Variable] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)


def parse(text: str) -> Module:
    """Parse PTX text. Raises PTXSyntaxError with the PTX line of what it does not understand."""
    return _Parser(text).module()


_COMMENT = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/', re.S)
_SPACE = re.compile(r"\s+")
_NAME = r"[%$_A-Za-z][\w$]*"
_LABEL = re.compile(rf"({_NAME})\s*:(?!:)")
_LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)([^\n]*)")
_INLINED = re.compile(r"inlined_at\s+(\d+)\s+(\d+)\s+(\d+)")
_FILE = re.compile(r'\.file\s+(\d+)\s+"([^"]*)"')
_LINE_DIRECTIVE = re.compile(r"\.(version|target|address_size|file|loc)\b([^\n]*)")
_SECTION = re.compile(r"\.section\s+\S+\s*\{[^}]*\}", re.S)
_FUNCTION = re.compile(r"(?:\.(?:visible|extern|weak|common)\s+)*\.(entry|func)\b")
_STATEMENT = re.compile(r'((?:[^;"]|"(?:[^"\\]|\\.)*")*);')
_PERFORMANCE = re.compile(r"\.(\w+)\s*([^.{;]*)")
_INSTRUCTION = re.compile(rf"(?:@(!?)({_NAME})\s+)?([a-z][\w]*)((?:\.[\w:]+)*)\s*(.*)", re.S)
_REG = re.compile(r"\.reg\s*\.(\w+)\s+(.*)", re.S)
_ATTRIBUTES = r"(?:\s*\.(?:align|ptr|global|const|shared|local)\b(?:\s+\d+)?|\s*\.attribute\([^)]*\))*"
_VARIABLE = re.compile(
    rf"(?P<prefix>(?:\.[\w]+(?:\([^)]*\))?\s+)*?)\.(?P<space>{'|'.join(_SPACES)})\b"
    rf"(?P<attributes>{_ATTRIBUTES})\s*(?:\.v(?P<vector>\d)\s*)?\.(?P<type>\w+){_ATTRIBUTES}"
    rf"\s+(?P<name>{_NAME})(?P<dims>(?:\s*\[\s*\d*\s*\])*)"
    r"(?:\s*=\s*(?P<initial>.*))?$",
    re.S,
)
_ALIGN = re.compile(r"\.align\s+(\d+)")
_INTEGER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)[uU]?$")
_HEX_FLOAT = re.compile(r"([-+]?)0([fFdD])([0-9a-fA-F]+)$")
_DECIMAL_FLOAT = re.compile(r"[-+]?\d*\.\d+(?:[eE][-+]?\d+)?$")
_SPLIT_NAME = re.compile(r"(.*?)(\d+)$")
_MEMORY = re.compile(rf"\s*({_NAME})?\s*(?:([-+]?)\s*([-+]?\w+))?\s*$")
_PROTOTYPE = re.compile(r"\s*(?:\((?P<returns>[^)]*)\))?\s*_\s*(?:\((?P<parameters>[^)]*)\))?")
_FUNCTION_NAME = re.compile(rf"\s*({_NAME})")


class _Scope:
    """The names declared between two braces."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.registers: dict[str, str] = {}  # name or range prefix -> type
        self.ranges: dict[str, tuple[int, str]] = {}
        self.variables: set[str] = set()

    def unique(self, name: str) -> str:
        return name if self.number == 0 else f"{name}#{self.number}"


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = _COMMENT.sub(_blank_comment, text)
        self.files = {int(number): name for number, name in _FILE.findall(self.text)}
        self.position = 0
        self.result = Module()

    # -- the module level ---------------------------------------------------------------------------------------------

    def module(self) -> Module:
        while self._skip_space():
            if (match := self._take(_LINE_DIRECTIVE)) is not None:
                if match[1] in ("version", "target"):
                    setattr(self.result, match[1], match[2].strip())
            elif self._take(_SECTION) is not None:
                continue
            elif (match := self._take(_FUNCTION)) is not None:
                self._function(match[1] == "entry")
            else:
                self._module_statement(self._statement())
        return self.result

    def _module_statement(self, statement: str) -> None:
        if not statement or statement.startswith((".pragma", ".alias")):
            if statement.startswith(".alias"):
                raise self._error(f"unsupported directive: {statement}")
            return
        variable = self._variable(statement)
        if variable.name not in self.result.variables or not variable.external:
            self.result.variables[variable.name] = variable

    def _function(self, entry: bool) -> None:
        returns: list[Variable] = []
        self._skip_space()
        if self.text[self.position] == "(":
            returns = self._parameters()
        name = self._expect(_FUNCTION_NAME)[1]
        self._skip_space()
        parameters = self._parameters() if self.text[self.position] == "(" else []
        function = Function(name, entry, parameters, returns)
        self._performance_directives(function)
        if self.text[self.position] == ";":
            self.position += 1
            self.result.functions.setdefault(name, function)
            return
        self.result.functions[name] = function
        function.defined = True
        _Body(self, function).parse()

    def _performance_directives(self, function: Function) -> None:
        while self._skip_space() and self.text[self.position] == ".":
            match = self._expect(_PERFORMANCE)
            if match[1] not in _DIRECTIVES:
                raise self._error(f"unsupported directive .{match[1]}")
            if match[1] in ("maxntid", "reqntid", "reqnctapercluster"):
                sides = [int(side) for side in match[2].split(",")]
                sides += [1] * (3 - len(sides))
                if match[1] == "reqnctapercluster":
                    function.required_cluster = (sides[0], sides[1], sides[2])
                    continue
                function.max_threads = sides[0] * sides[1] * sides[2]
                if match[1] == "reqntid":
                    function.required_block = (sides[0], sides[1], sides[2])
            elif match[1] == "maxnreg":
                function.max_registers = int(match[2])
            elif match[1] == "minnctapersm":
                function.min_blocks = int(match[2])

    def _parameters(self) -> list[Variable]:
        end = self.text.index(")", self.position)
        inside = self.text[self.position + 1 : end]
        self.position = end + 1
        return self._variables(inside)

    def _variables(self, text: str) -> list[Variable]:
        return [self._variable(part.strip()) for part in text.split(",")] if text.strip() else []

    def _variable(self, statement: str) -> Variable:
        match = _VARIABLE.match(statement)
        if match is None:
            raise self._error(f"not understood: {statement.splitlines()[0][:120]!r}")
        kind, size = match["type"], TYPE_BYTES.get(match["type"])
        if size is None:
            raise self._error(f"unknown type .{kind} of variable {match['name']}")
        sides = re.findall(r"\[\s*(\d*)\s*\]", match["dims"])
        count = int(match["vector"] or 1)
        for side in sides:
            count *= int(side or 0)
        initial = None if match["initial"] is None else self._initial(match["initial"])
        if initial is not None and sides and sides[0] == "":
            count = len(initial)
        align = _ALIGN.search(match["attributes"])
        natural = size * int(match["vector"] or 1)
        return Variable(
            name=match["name"],
            space=match["space"],
            type=kind,
            align=int(align[1]) if align else natural,
            count=count,
            initial=initial,
            external=".extern" in match["prefix"],
            is_array=bool(sides),
        )

    def _initial(self, text: str) -> tuple[int | float | Symbol, ...]:
        values: list[int | float | Symbol] = []
        for part in text.replace("{", " ").replace("}", " ").split(","):
            item = part.strip()
            if not item:
                continue
            generic = re.match(r"generic\((.*)\)$", item)
            constant = _constant(item)
            if constant is not None:
                values.append(_float_value(constant) if constant.float_bits else constant.value)
            elif (match := _MEMORY.match(generic[1] if generic else item)) is not None and match[1]:
                offset = int(match[3], 0) * (-1 if match[2] == "-" else 1) if match[3] else 0
                values.append(Symbol(match[1], offset))
            else:
                raise self._error(f"initialiser {item!r} is not understood")
        return tuple(values)

    # -- pieces shared with function bodies ---------------------------------------------------------------------------

    def _skip_space(self) -> bool:
        match = _SPACE.match(self.text, self.position)
        if match is not None:
            self.position = match.end()
        return self.position < len(self.text)

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.position)
        if match is not None:
            self.position = match.end()
        return match

    def _expect(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = self._take(pattern)
        if match is None:
            raise self._error(f"not understood: {self.text[self.position : self.position + 60].splitlines()[0]!r}")
        return match

    def _statement(self) -> str:
        return self._expect(_STATEMENT)[1].strip()

    def _error(self, what: str) -> PTXSyntaxError:
        line = self.text.count("\n", 0, self.position) + 1
        return PTXSyntaxError(f"PTX line {line}: {what}")


class _Body:
    """Parses one function's body into its Function."""

    def __init__(self, parser: _Parser, function: Function) -> None:
        self.parser = parser
        self.function = function
        self.scopes = [_Scope(0)]
        self.opened = 0
        self.location: Location | None = None
        self.places: dict[tuple[int, int, int], Location] = {}  # file, line and column -> the last place there
        self.labels: dict[tuple[int, str], str] = {}
        self.unresolved: list[tuple[int, tuple[int, ...]]] = []  # instruction index, scope numbers
        for parameter in function.parameters + function.returns:
            if parameter.space == "reg":
                self.scopes[0].registers[parameter.name] = parameter.type
                function.registers[parameter.name] = parameter.type
            else:
                self.scopes[0].variables.add(parameter.name)

    def parse(self) -> None:
        parser = self.parser
        parser.position += 1
        while self.scopes:
            if not parser._skip_space():
                raise parser._error(f"function {self.function.name} does not end")
            character = parser.text[parser.position]
            if character == "{":
                parser.position += 1
                self.opened += 1
                self.scopes.append(_Scope(self.opened))
            elif character == "}":
                parser.position += 1
                self.scopes.pop()
            elif character == ".":
                self._directive()
            elif (match := parser._take(_LABEL)) is not None:
                self._label(match[1])
            else:
                self._instruction(parser._statement())
        self._resolve_labels()

    def _directive(self) -> None:
        parser = self.parser
        if (match := parser._take(_LOC)) is not None:
            self.location = self._source_location((int(match[1]), int(match[2]), int(match[3])), match[4])
            return
        if parser._take(_LINE_DIRECTIVE) is not None or parser._take(_SECTION) is not None:
            return
        statement = parser._statement()
        if (declared := _REG.match(statement)) is not None:
            self._registers(declared[1], declared[2])
        elif statement.startswith(".pragma"):
            return
        else:
            self._local_variable(parser._variable(statement))

    def _source_location(self, place: tuple[int, int, int], rest: str) -> Location | None:
        """Return the location of a .loc. What inlines it is the last .loc of that place, inlined elsewhere in turn."""
        if place[1] == 0:  # code of no line: the line before it is nearest
            return self.location
        outer = None
        if (inlined := _INLINED.search(rest)) is not None:
            at = (int(inlined[1]), int(inlined[2]), int(inlined[3]))
            outer = self.places.get(at) or Location(self.parser.files.get(at[0], "?"), at[1])
        self.places[place] = Location(self.parser.files.get(place[0], "?"), place[1], outer)
        return self.places[place]

    def _registers(self, kind: str, names: str) -> None:
        scope = self.scopes[-1]
        if kind.startswith("v") and kind not in TYPE_BYTES:
            raise self.parser._error(f"vector registers (.reg .{kind}) are not supported")
        if kind not in TYPE_BYTES:
            raise self.parser._error(f"unknown register type .{kind}")
        for name in (part.strip() for part in names.split(",")):
            if name.endswith(">"):
                prefix, count = name[:-1].split("<")
                scope.ranges[prefix.strip()] = (int(count), kind)
            else:
                scope.registers[name] = kind

    def _local_variable(self, variable: Variable) -> None:
        scope = self.scopes[-1]
        scope.variables.add(variable.name)
        name = scope.unique(variable.name)
        values = {**variable.__dict__, "name": name}
        self.function.variables[name] = Variable(**values)

    def _label(self, name: str) -> None:
        match = re.compile(r"\s*\.(branchtargets|calltargets|callprototype)\s+").match(
            self.parser.text, self.parser.position
        )
        if match is not None:
            self.parser.position = match.end()
            names = self.parser._statement()
            if match[1] == "branchtargets":
                self.function.branch_targets[name] = tuple(part.strip() for part in names.split(","))
                return
            self.scopes[-1].variables.add(name)
            unique = self.scopes[-1].unique(name)
            if match[1] == "calltargets":
                self.function.call_targets[unique] = tuple(part.strip() for part in names.split(","))
            else:
                self.function.prototypes[unique] = self._prototype(names)
            return
        unique = self.scopes[-1].unique(name)
        self.labels[self.scopes[-1].number, name] = unique
        self.function.labels[unique] = len(self.function.instructions)

    def _prototype(self, text: str) -> Signature:
        match = _PROTOTYPE.match(text)
        if match is None:
            raise self.parser._error(f"prototype {text!r} is not understood")
        lists = (self.parser._variables(match[part] or "") for part in ("parameters", "returns"))
        return Signature(*(tuple(variable.nbytes for variable in variables) for variables in lists))

    # -- instructions -------------------------------------------------------------------------------------------------

    def _instruction(self, statement: str) -> None:
        match = _INSTRUCTION.match(statement)
        if match is None:
            raise self.parser._error(f"not understood: {statement[:120]!r}")
        negated, guard_name, opcode, modifiers, rest = match.groups()
        guard = None
        if guard_name is not None:
            register = self._register(guard_name)
            if register is None:
                raise self.parser._error(f"unknown predicate {guard_name}")
            guard = Register(register.name, bool(negated))
        operands = tuple(self._operand(part) for part in _split(rest))
        if opcode in ("bra", "brx", "call"):
            self.unresolved.append((len(self.function.instructions), tuple(s.number for s in reversed(self.scopes))))
        text = " ".join(statement.split())
        instruction = Instruction(opcode, tuple(modifiers.split(".")[1:]), operands, guard, self.location, text)
        self.function.instructions.append(instruction)

    def _operand(self, text: str) -> Operand:
        register = self._register(text)
        if register is not None:
            return register
        first = text[0]
        if first in "{(":
            return Vector(tuple(self._operand(part) for part in _split(text[1:-1])))
        if first == "[":
            return self._address(text[1:-1])
        if first == "!":
            inner = self._operand(text[1:].strip())
            if not isinstance(inner, Register):
                raise self.parser._error(f"operand {text!r} is not understood")
            return Register(inner.name, True)
        if text == "_":
            return Sink()
        if "|" in text:
            one, other = text.split("|")
            return Pair(self._operand(one.strip()), self._operand(other.strip()))
        constant = _constant(text)
        if constant is not None:
            return constant
        if first == "%":
            return Special(text[1:])
        if text == "WARP_SZ":
            return Immediate(32)
        match = _MEMORY.match(text)
        if match is None or not match[1]:
            raise self.parser._error(f"operand {text!r} is not understood")
        offset = int(match[3], 0) * (-1 if match[2] == "-" else 1) if match[3] else 0
        return Symbol(self._variable_name(match[1]), offset)

    def _address(self, text: str) -> Address | Vector:
        if "," in text:
            return Vector(tuple(self._operand(part) for part in _split(text)))
        match = _MEMORY.match(text)
        if match is None:
            constant = _constant(text.strip())
            if constant is None:
                raise self.parser._error(f"address [{text}] is not understood")
            return Address(None, constant.value)
        offset = int(match[3].rstrip("uU"), 0) * (-1 if match[2] == "-" else 1) if match[3] else 0
        if not match[1]:
            return Address(None, offset)
        register = self._register(match[1])
        return Address(register or Symbol(self._variable_name(match[1])), offset)

    def _register(self, name: str) -> Register | None:
        for scope in reversed(self.scopes):
            kind = scope.registers.get(name)
            if kind is None and scope.ranges:
                split = _SPLIT_NAME.match(name)
                if split is not None and split[1] in scope.ranges:
                    count, range_kind = scope.ranges[split[1]]
                    kind = range_kind if int(split[2]) < count else None
            if kind is not None:
                unique = scope.unique(name)
                self.function.registers[unique] = kind
                return Register(unique)
        return None

    def _variable_name(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope.variables:
                return scope.unique(name)
        return name

    def _resolve_labels(self) -> None:
        """Turn the Symbols that name labels into Labels, innermost scope first."""
        instructions = self.function.instructions
        for index, scopes in self.unresolved:
            old = instructions[index]
            operands = tuple(self._label_operand(operand, scopes) for operand in old.operands)
            instructions[index] = Instruction(old.opcode, old.modifiers, operands, old.guard, old.location, old.text)
        for table, names in self.function.branch_targets.items():
            self.function.branch_targets[table] = tuple(
                self._unique_label(name, range(self.opened + 1)) for name in names
            )

    def _label_operand(self, operand: Operand, scopes: tuple[int, ...]) -> Operand:
        if isinstance(operand, Symbol) and any((scope, operand.name) in self.labels for scope in scopes):
            return Label(self._unique_label(operand.name, scopes))
        return operand

    def _unique_label(self, name: str, scopes: tuple[int, ...] | range) -> str:
        for scope in scopes:
            if (scope, name) in self.labels:
                return self.labels[scope, name]
        raise PTXSyntaxError(f"function {self.function.name}: unknown label {name}")


def _blank_comment(match: re.Match[str]) -> str:
    text = match[0]
    return text if text.startswith('"') else "\n" * text.count("\n")


def _split(text: str) -> list[str]:
    """Return the operands, split at the commas outside of brackets."""
    if not text.strip():
        return []
    if "[" not in text and "{" not in text and "(" not in text:
        return [part.strip() for part in text.split(",")]
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        if character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


def _constant(text: str) -> Immediate | None:
    if _INTEGER.match(text):
        body = text.rstrip("uU")
        if re.match(r"[-+]?0\d+$", body):
            return Immediate(int(body, 8))
        return Immediate(int(body, 0))
    if (match := _HEX_FLOAT.match(text)) is not None:
        bits = 32 if match[2] in "fF" else 64
        value = int(match[3], 16)
        return Immediate(value ^ (1 << (bits - 1)) if match[1] == "-" else value, bits)
    if _DECIMAL_FLOAT.match(text):
        import struct

        return Immediate(int.from_bytes(struct.pack("<d", float(text)), "little"), 64)
    return None


def _float_value(constant: Immediate) -> float:
    import struct

    code, size = ("<f", 4) if constant.float_bits == 32 else ("<d", 8)
    return float(struct.unpack(code, constant.value.to_bytes(size, "little"))[0])
