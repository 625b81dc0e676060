"""Several PTX modules made one: what a linker does, on the text.

Names of a module alone (without .visible, .weak, .common or .extern) are kept apart. Of .weak and .common definitions
the first is taken, unless there is one that is neither. A name that is declared .extern is what another module defines.
The sections of the PTX ISA are 4 (syntax), 5.4 (variables), 11.5 (debugging) and 11.6 (linking).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from gpubp.emulator.errors import EmulatorError

_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_WORD = re.compile(r"(?<![\w$%.])[A-Za-z_$%][\w$]*(?![\w$.])")
"""A name; an opcode with modifiers, such as add.s32, is none."""
_LINKAGE = r"(?:\.(?P<linkage>extern|visible|weak|common)\s+)?"
_FUNCTION = re.compile(rf"{_LINKAGE}\.(?P<kind>entry|func)\b\s*(?:\([^)]*\)\s*)?(?P<name>[\w$%]+)")
_VARIABLE = re.compile(
    rf"{_LINKAGE}(?P<kind>\.(?:global|const|shared)\b)[^=;]*?\s(?P<name>[\w$%]+)\s*(?:\[[^=;]*)?(?:=|;)"
)
_FILE = re.compile(r"\.file\s+(\d+)[^\n]*")
_LOC = re.compile(r"(\.loc\s+)(\d+)(\s+\d+\s+\d+)(?:(\s*,\s*function_name\s+)([\w$]+)([^\n]*?inlined_at\s+)(\d+))?")
_SECTION = re.compile(r"\.section\s+(\S+)\s*\{([^}]*)\}")
_LINES = re.compile(r"\.(?:version|target|address_size|pragma)\b[^\n]*")
_VERSION = re.compile(r"^\s*\.version\s+(\d+)\.(\d+)", re.MULTILINE)
_TARGET = re.compile(r"^\s*\.target\s+sm_(\d+)([af]?)", re.MULTILINE)
_SOMETHING = re.compile(r"\S")
_STRUCTURE = re.compile(r"[{};=]")


class LinkError(EmulatorError):
    """Modules that do not go together: a name that no module defines, or that two define."""


@dataclass(frozen=True)
class Unit:
    """A PTX module, and what messages call it."""

    text: str
    name: str


@dataclass
class _Item:
    """A function or variable of a module: declared, or defined with all that belongs to it.

    Attributes:
        linkage: "extern", "visible", "weak", "common" or "" (of its module alone).
        kind: "entry", "func", ".global", ".const" or ".shared".
    """

    name: str
    linkage: str
    kind: str
    text: str
    unit: str
    is_definition: bool

    @property
    def is_function(self) -> bool:
        return self.kind in ("entry", "func")

    @property
    def is_local(self) -> bool:
        return not self.linkage and self.kind != "entry"

    @property
    def is_strong(self) -> bool:
        return self.is_definition and self.linkage not in ("weak", "common", "extern")


class _Module:
    """The parts of a unit."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.version = self._header("version", _VERSION)
        self.target = self._header("target", _TARGET)
        self.files: list[tuple[int, str]] = []
        self.labels: list[str] = []
        self.items = list(self._items(unit.text))

    def _header(self, name: str, pattern: re.Pattern[str]) -> tuple[str, str]:
        match = pattern.search(self.unit.text)
        if match is None:
            raise LinkError(f"{self.unit.name}: the PTX has no .{name}")
        return match[1], match[2]

    def _items(self, text: str) -> Iterator[_Item]:
        blank = _blank(text)
        position = 0
        while match := _SOMETHING.search(blank, position):
            start = match.start()
            if found := _FILE.match(text, start):
                self.files.append((int(found[1]), found[0]))
                position = found.end()
            elif found := _LINES.match(text, start):
                position = found.end()
            elif found := _SECTION.match(blank, start):
                if found[1] == ".debug_str":
                    self.labels.append(text[found.start(2) : found.end(2)])
                position = found.end()
            else:
                position = _end(blank, start)
                yield self._item(blank[start:position], text[start:position])

    def _item(self, blank: str, text: str) -> _Item:
        found = _FUNCTION.match(blank) or _VARIABLE.match(blank)
        if found is None:
            raise LinkError(f"{self.unit.name}: {' '.join(text.split())[:80]!r} cannot be linked")
        linkage, name, kind = found["linkage"] or "", found["name"], found["kind"]
        is_definition = "{" in blank if kind in ("entry", "func") else linkage != "extern"
        return _Item(name, linkage, kind, text, self.unit.name, is_definition)


def _blank(text: str) -> str:
    """Return a text with blanks for its comments and quoted texts, of the same length."""
    return _QUOTED.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def _end(blank: str, start: int) -> int:
    """Return where an item ends: behind its semicolon, or behind the brace that closes it."""
    depth = 0
    is_value = False
    for match in _STRUCTURE.finditer(blank, start):
        if match[0] == ";" and not depth:
            return match.end()
        if match[0] == "=":
            is_value = is_value or not depth
        elif match[0] in "{}":
            depth += 1 if match[0] == "{" else -1
            if not depth and not is_value:  # the braces of a variable's values are followed by a semicolon
                return match.end()
    return len(blank)


def link(units: Sequence[Unit], supplied: Collection[str] = (), most_registers: int = 0) -> str:
    """Return one PTX module that has all functions and variables of several.

    Args:
        units: in the order in which the first of several weak definitions is taken.
        supplied: names of functions that need no definition.
        most_registers: of a thread, for each kernel that sets no bound itself; 0 sets none.

    Raises:
        LinkError: a name that is used is defined nowhere, or two units define it; names both and the unit.
    """
    modules = [_Module(unit) for unit in units]
    _check(modules, supplied)
    if len(modules) == 1 and not most_registers:
        return units[0].text
    _keep_apart(modules)
    items = [item for module in modules for item in module.items]
    chosen = _choose(items)
    defined = {item.name for item in chosen}
    kept = [*chosen, *(item for item in items if item.is_local and item.is_definition and item.name not in defined)]
    if most_registers:
        for item in kept:
            item.text = _bounded(item, most_registers)
    return _write(modules, kept, items)


def undefined(units: Sequence[Unit]) -> list[str]:
    """Return the names that units use and none of them defines."""
    modules = [_Module(unit) for unit in units]
    defined = {item.name for module in modules for item in module.items if item.is_definition and not item.is_local}
    return sorted({name for module in modules for name in _used_externs(module)} - defined)


def definitions(unit: Unit) -> set[str]:
    """Return the names that a unit defines for others."""
    return {item.name for item in _Module(unit).items if item.is_definition and not item.is_local}


def _keep_apart(modules: Sequence[_Module]) -> None:
    """Rename what a module has for itself alone, where another module has the name as well. Number all files anew."""
    names = [{item.name for item in module.items} for module in modules]
    count = 0
    for number, module in enumerate(modules, 1):
        others = set().union(*names[: number - 1], *names[number:])
        renamed = {item.name: f"{item.name}_unit{number}" for item in module.items if item.is_local}
        renamed = {old: new for old, new in renamed.items() if old in others}
        places = {old: count + index for index, (old, _) in enumerate(module.files, 1)}
        for item in module.items:
            item.name = renamed.get(item.name, item.name)
            item.text = _replace_words(item.text, renamed)
            item.text = _LOC.sub(_moved(places, number), item.text)
        module.files = [
            (places[old], re.sub(r"(\.file\s+)\d+", rf"\g<1>{places[old]}", text)) for old, text in module.files
        ]
        module.labels = [re.sub(r"([\w$]+)(?=:)", rf"\g<1>_unit{number}", text) for text in module.labels]
        count += len(module.files)


def _replace_words(text: str, renamed: dict[str, str]) -> str:
    """Replace words outside of comments and quoted texts."""
    if not renamed:
        return text
    blank, parts, position = _blank(text), [], 0
    for match in _WORD.finditer(blank):
        if match[0] in renamed:
            parts += [text[position : match.start()], renamed[match[0]]]
            position = match.end()
    return "".join([*parts, text[position:]])


def _moved(places: dict[int, int], number: int) -> Callable[[re.Match[str]], str]:
    def move(match: re.Match[str]) -> str:
        text = f"{match[1]}{places.get(int(match[2]), match[2])}{match[3]}"
        if match[4]:
            text += f"{match[4]}{match[5]}_unit{number}{match[6]}{places.get(int(match[7]), match[7])}"
        return text

    return move


def _choose(items: Sequence[_Item]) -> list[_Item]:
    """Return the definition of each name that modules share.

    Raises:
        LinkError: there are two that are not weak.
    """
    chosen: dict[str, _Item] = {}
    for item in items:
        before = chosen.get(item.name)
        if not item.is_definition or item.is_local:
            continue
        if before is not None and before.is_strong and item.is_strong:
            raise LinkError(f"{item.name} is defined in {before.unit} and in {item.unit}")
        if before is None or (item.is_strong and not before.is_strong):
            chosen[item.name] = item
    return list(chosen.values())


def _used_externs(module: _Module) -> set[str]:
    """Return the names that a module declares and does not define, as far as its code or its values use them."""
    declared = {
        item.name for item in module.items if not item.is_definition and not (item.kind == ".shared" or item.is_local)
    }
    used = {match[0] for item in module.items if item.is_definition for match in _WORD.finditer(_blank(item.text))}
    return declared & used


def _check(modules: Sequence[_Module], supplied: Collection[str]) -> None:
    defined = {item.name for module in modules for item in module.items if item.is_definition and not item.is_local}
    for module in modules:
        missing = sorted(_used_externs(module) - defined - set(supplied))
        if missing:
            raise LinkError(f"{module.unit.name}: undefined reference to {', '.join(missing)}")


def _write(modules: Sequence[_Module], kept: Sequence[_Item], items: Sequence[_Item]) -> str:
    """Return the text: functions are declared before the variables that hold their addresses, and defined last."""
    defined = {item.name for item in kept}
    version = max((module.version for module in modules), key=lambda each: tuple(map(int, each)))
    target = max((module.target for module in modules), key=lambda each: (int(each[0]), each[1]))
    functions = [item for item in kept if item.is_function]
    rest: dict[str, str] = {}
    for item in items:
        if not item.is_definition and item.name not in defined and not item.is_local:
            rest.setdefault(item.name, item.text)
    debug = "\n".join(text for module in modules for text in module.labels)
    return "\n".join(
        [
            f".version {'.'.join(version)}",
            f".target sm_{''.join(target)}",
            ".address_size 64",
            *(text for module in modules for _, text in module.files),
            *rest.values(),
            *(_declaration(item) for item in functions if item.kind == "func"),
            *(item.text for item in _in_order([item for item in kept if not item.is_function])),
            *(item.text for item in functions),
            *([f".section .debug_str\n{{{debug}\n}}"] if debug else []),
            "",
        ]
    )


def _declaration(function: _Item) -> str:
    head = function.text[: _blank(function.text).index("{")]
    return (
        re.sub(r"(?<=\))\s*\.(?:maxntid|reqntid|minnctapersm|maxnctapersm|maxnreg)\b[^;]*$", "", head).rstrip() + "\n;"
    )


def _bounded(item: _Item, most_registers: int) -> str:
    head = item.text.find("{")
    if item.kind != "entry" or ".maxnreg" in item.text[:head]:
        return item.text
    return f"{item.text[:head]}.maxnreg {most_registers}\n{item.text[head:]}"


def _in_order(variables: Sequence[_Item]) -> list[_Item]:
    """Return variables so that each comes behind those whose addresses it holds."""
    known = {item.name: item for item in variables}
    done: dict[str, _Item] = {}

    def add(item: _Item) -> None:
        if item.name in done:
            return
        _, _, values = _blank(item.text).partition("=")
        done[item.name] = item
        for match in _WORD.finditer(values):
            if match[0] in known and match[0] != item.name:
                add(known[match[0]])
        done[item.name] = done.pop(item.name)

    for item in variables:
        add(item)
    return list(done.values())
