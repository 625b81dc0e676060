"""The edits: each is one small mistake in the text of a kernel, made in every place where the text allows it.

The kernels in CUDA C++ and in Python are cut into the same kinds of tokens, and one set of rules edits both:

    relation    `<` for `<=`, `==` for `!=`, and their kin; a range that ends one earlier or later
    arithmetic  `+` for `-`, `*` for `+`, `/` for `%`, also in `+=`; shifts and bits; a sign or a `!` left out
    logic       `&&` for `||`; one side of an `&&` or `||` left out
    constant    a whole number one more or one less, another number 0.1 % more, true for false
    condition   the condition of an `if` or of a choice (`? :`, `if else`) always true, or always false
    name        the name of the other side: row for column, m for n, a for b, x for y
    arguments   two neighbouring arguments of a call exchanged
    statement   an assignment, a call, an assembly instruction or a `return` left out
    step        a loop's counter goes up by two
    assembly    an operand of an assembly instruction for its neighbour; another way of rounding

What no run can show is left out: comments, `#pragma` and `#include`; `#if`, which says on which chips a text is
compiled; `__launch_bounds__`, `BLOCKS`, `__align__`, `alignment=` and the options of `jit`, which say how fast the code
is and not what it computes; `static_assert`, which is there for whoever changes the sizes; and types, which say what
compiles.
"""

from __future__ import annotations

import ast
import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from zlib import crc32


@dataclass(frozen=True)
class Edit:
    """One edit of a file: the text from `start` to `end` becomes `new`.

    Attributes:
        file: path below the folder of kernels, such as "cuda/forms.cuh".
        kind: the rule that made it, as the head of this module names it.
        line: number of the line in which it begins.
        before, after: that line without and with the edit, without its indentation.
        nth: which of the file's lines of the same text it is, from 1.
    """

    file: str
    kind: str
    start: int
    end: int
    new: str
    line: int
    before: str
    after: str
    nth: int

    def apply(self, text: str) -> str:
        """Return the file's text with the edit."""
        return text[: self.start] + self.new + text[self.end :]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind}: {self.before}  =>  {self.after or '(left out)'}"


@dataclass(frozen=True)
class Token:
    """A piece of text. kind: "name", "number", "string", "operator", "comment" or "directive"."""

    kind: str
    text: str
    start: int
    end: int


OPERATORS = (
    r"<<=|>>=|\.\.\.|//=|\*\*|->|::|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||\+=|-=|\*=|/=|%=|&=|\|=|\^=|:="
    r"|[-+*/%<>=!&|^~?:;,.(){}\[\]@]"
)
NUMBER = r"0[xX][0-9a-fA-F]+[uUlL]*|(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?[fFuUlL]*"
TOKENS = {
    "cuda": (
        r"(?P<comment>//[^\n]*|/\*.*?\*/)"
        r"|(?P<directive>^[ \t]*\#[ \t]*(?:include|pragma|if|ifdef|ifndef|else|elif|endif|undef)\b[^\n]*"
        r"|^[ \t]*\#[ \t]*define[ \t]+\w+(?:\([^)]*\))?)"
        r'|(?P<string>"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\')'
        rf"|(?P<number>{NUMBER})|(?P<name>[^\W\d]\w*)|(?P<operator>{OPERATORS})"
    ),
    "numba": (
        r"(?P<comment>\#[^\n]*)"
        r'|(?P<string>[rbfRBF]?(?:"""(?:\\.|.)*?"""|"(?:\\.|[^"\\\n])*"))'
        rf"|(?P<number>{NUMBER})|(?P<name>[^\W\d]\w*)|(?P<operator>//|{OPERATORS})"
    ),
}


def tokens_of(text: str, language: str) -> list[Token]:
    """Return the tokens of a kernel's file. language: "cuda" or "numba"."""
    found = re.finditer(TOKENS[language], text, re.MULTILINE | re.DOTALL)
    return [Token(match.lastgroup or "", match[0], match.start(), match.end()) for match in found]


# --- rules ------------------------------------------------------------------------------------------------------------
RELATIONS = {
    "<": ("<=", ">"),
    "<=": ("<", ">"),
    ">": (">=", "<"),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
}
ARITHMETIC = {
    "+": ("-",),
    "-": ("+",),
    "*": ("+",),
    "/": ("*",),
    "//": ("%",),
    "%": ("+",),
    "&": ("|",),
    "|": ("&",),
    "^": ("|", "+"),
    "<<": (">>",),
    ">>": ("<<",),
    "+=": ("-=", "="),
    "-=": ("+=", "="),
    "*=": ("/=", "="),
    "/=": ("*=",),
    "//=": ("*=",),
}
LOGIC = {"&&": ("||",), "||": ("&&",), "and": ("or",), "or": ("and",)}
WORDS = {"true": "false", "false": "true", "True": "False", "False": "True"}

SIDES = (
    ("a", "b"),
    ("m", "n"),
    ("i", "j"),
    ("s", "k"),
    ("x", "y"),
    ("row", "column"),
    ("rows", "columns"),
    ("rows", "width"),
    ("side", "depth"),
    ("sides", "depths"),
    ("first", "last"),
    ("first", "second"),
    ("reading", "writing"),
    ("mean", "square"),
)
"""Parts of names that stand for the two sides of something."""

ROUNDINGS = (("rn", "rz"), ("rna", "rz"))
"""How an assembly instruction rounds, and another way."""

HINTS = ("__launch_bounds__", "__align__", "static_assert", "jit", "dataclass", "decltype")
"""Calls whose arguments no run can show."""

KEYWORDS = {"alignment", "inline", "forceinline", "device", "frozen", "BLOCKS"}
"""Names whose value, after an `=`, no run can show."""

OPENING, CLOSING = {"(": ")", "[": "]", "{": "}"}, {")", "]", "}"}


class Source:
    """The text of one file, in tokens, and the edits that each rule makes of it."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.language = file.split("/")[0]
        self.tokens = [token for token in tokens_of(text, self.language) if token.kind not in ("comment", "directive")]
        self._starts = [token.start for token in self.tokens]
        self._partner = self._match_brackets()
        self._skipped = set(self._unseen())

    # --- the text -----------------------------------------------------------------------------------------------------
    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer("\n", self.text))]

    def line_of(self, position: int) -> int:
        """Return the number of the line, from 1."""
        return bisect.bisect_right(self._line_starts, position)

    @cached_property
    def _lines(self) -> list[str]:
        return [line.strip() for line in self.text.split("\n")]

    @cached_property
    def _equal_lines(self) -> dict[str, list[int]]:
        """The numbers of the lines of each text."""
        found: dict[str, list[int]] = {}
        for number, line in enumerate(self._lines, 1):
            found.setdefault(line, []).append(number)
        return found

    def edit(self, kind: str, start: int, end: int, new: str) -> Edit:
        """Return the edit of a place. Lines keep their number: line breaks of what is left out stay."""
        new += "\n" * (self.text[start:end].count("\n") - new.count("\n"))
        line = self.line_of(start)
        before = self._lines[line - 1]
        rest = new + self.text[end : self._end_of_line(end)]
        after = (self.text[self._line_starts[line - 1] : start] + rest).split("\n")[0].strip()
        return Edit(self.file, kind, start, end, new, line, before, after, self._equal_lines[before].index(line) + 1)

    def _end_of_line(self, position: int) -> int:
        end = self.text.find("\n", position)
        return len(self.text) if end < 0 else end

    def _match_brackets(self) -> dict[int, int]:
        partner, waiting = {}, []
        for number, token in enumerate(self.tokens):
            if token.kind != "operator":
                continue
            if token.text in OPENING:
                waiting.append(number)
            elif token.text in CLOSING:
                opening = waiting.pop()
                partner[opening], partner[number] = number, opening
        return partner

    def _unseen(self) -> Iterator[int]:
        """Yield the numbers of tokens whose change no run can show."""
        for number, token in enumerate(self.tokens):
            if token.kind == "name" and token.text in HINTS and self._is(number + 1, "("):
                yield from range(number, self._partner[number + 1] + 1)
            elif token.text in KEYWORDS and self._is(number + 1, "="):
                yield from range(number, number + 3)
        if self.language == "numba":
            yield from self._unseen_in_python()

    def _unseen_in_python(self) -> Iterator[int]:
        """Yield the tokens of imports, of decorators, and of what a `def` or `class` says before its body."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from self._between(*self._span(node))
            elif isinstance(node, ast.AnnAssign):
                yield from self._between(*self._span(node.annotation))
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                first = min([node, *node.decorator_list], key=lambda each: each.lineno)
                yield from self._between(self._line_starts[first.lineno - 1], self._span(node.body[0])[0])

    @cached_property
    def _tree(self) -> ast.Module:
        return ast.parse(self.text)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        """Return where the text of a node begins and ends; the columns that `ast` gives count bytes."""

        def position(line: int, column: int) -> int:
            start = self._line_starts[line - 1]
            return start + len(self.text[start:].split("\n", 1)[0].encode()[:column].decode())

        return position(node.lineno, node.col_offset), position(node.end_lineno, node.end_col_offset)  # type: ignore

    def _between(self, start: int, end: int) -> range:
        """Return the numbers of the tokens that begin between two positions."""
        return range(bisect.bisect_left(self._starts, start), bisect.bisect_left(self._starts, end))

    def _is(self, number: int, *texts: str) -> bool:
        return 0 <= number < len(self.tokens) and self.tokens[number].text in texts

    def _is_binary(self, number: int) -> bool:
        """True if the operator stands between blanks, as in the style of both languages: `a * b`, not `T* a`."""
        token = self.tokens[number]
        return self.text[token.start - 1 : token.start].isspace() and self._before_blank(number)

    def _before_blank(self, number: int) -> bool:
        """True if a blank follows the token."""
        end = self.tokens[number].end
        return self.text[end : end + 1].isspace()

    def _text_of(self, first: int, last: int) -> str:
        """Return the text of the tokens from `first` up to and with `last`."""
        return self.text[self.tokens[first].start : self.tokens[last].end]

    # --- the edits ----------------------------------------------------------------------------------------------------
    def edits(self) -> list[Edit]:
        """Return all edits, each text once, in the order of the lines."""
        found = [*self._of_tokens(), *self._of_sides(), *self._of_conditions(), *self._of_arguments()]
        found += self._of_python_statements() if self.language == "numba" else self._of_statements()
        unlike = {edit.apply(self.text): edit for edit in reversed(found)}
        unlike.pop(self.text, None)
        return sorted(unlike.values(), key=lambda edit: (edit.start, edit.end, edit.new))

    def _of_tokens(self) -> Iterator[Edit]:
        """Edits of single operators, constants, names, and assembly instructions."""
        for number, token in enumerate(self.tokens):
            if number in self._skipped:
                continue
            for kind, new in self._replacements(number):
                yield self.edit(kind, token.start, token.end, new)
            if token.text == "++":
                counter = self.tokens[number + 1]
                yield self.edit("step", token.start, counter.end, f"{counter.text} += 2")

    def _replacements(self, number: int) -> Iterator[tuple[str, str]]:
        token = self.tokens[number]
        text = token.text
        if token.kind == "number":
            yield from (("constant", new) for new in _other_numbers(text))
        elif token.kind == "string" and self.language == "cuda":
            yield from (("assembly", new) for new in _other_instructions(text))
        elif text in WORDS:
            yield "constant", WORDS[text]
        elif token.kind == "name" and text not in LOGIC:
            if text == "not":
                yield "arithmetic", ""
            yield from (("name", new) for new in self._other_names(number))
        elif text in ("!", "~") or (text == "-" and self._is_sign(number)):
            yield "arithmetic", ""
        elif self._is_binary(number):
            for kind, table in (("relation", RELATIONS), ("arithmetic", ARITHMETIC), ("logic", LOGIC)):
                yield from ((kind, new) for new in table.get(text, ()))

    def _is_sign(self, number: int) -> bool:
        before = self.tokens[number - 1]
        operand = before.kind in ("name", "number") and before.text not in ("return", "else", "if", "and", "or", "in")
        return not operand and before.text not in CLOSING and not self._before_blank(number)

    def _other_names(self, number: int) -> Iterator[str]:
        """Yield the names of the other side that occur, in the same way, in the same function or structure."""
        token = self.tokens[number]
        member = self._is(number - 1, ".")
        if not member and self._is_declared(number):
            return
        near = self._names_near(token.start, member)
        parts = token.text.split("_")
        for place, part in enumerate(parts):
            for pair in SIDES:
                for one, other in (pair, pair[::-1]):
                    if part.lower() != one:
                        continue
                    new = "_".join([*parts[:place], other.upper() if part.isupper() else other, *parts[place + 1 :]])
                    if new in near:
                        yield new

    def _is_declared(self, number: int) -> bool:
        """True if the name is being declared here: in C++ after a type, and in Python where it is assigned."""
        before, token = self.tokens[number - 1], self.tokens[number]
        if self.language == "numba":
            return token.start in self._stored
        if before.text in ("*", "&") and not self._is_binary(number - 1):
            return self.tokens[number - 2].kind == "name"
        after_type = before.kind == "name" and before.text not in ("return", "else", "case", "constexpr")
        return after_type or (before.text == ">" and not self._is_binary(number - 1))

    @cached_property
    def _stored(self) -> set[int]:
        """Where names stand in Python that are given a value there."""
        names = (node for node in ast.walk(self._tree) if isinstance(node, ast.Name))
        return {self._span(node)[0] for node in names if isinstance(node.ctx, ast.Store)}

    def _names_near(self, position: int, member: bool) -> set[str]:
        """Return the names in the outermost block around a place: as members, or otherwise."""
        start, end = self.block_of(position)
        numbers = self._between(start, end)
        return {
            self.tokens[number].text
            for number in numbers
            if self.tokens[number].kind == "name" and self._is(number - 1, ".") == member
        }

    def block_of(self, position: int) -> tuple[int, int]:
        """Return where the outermost function or structure around a place begins and ends; else its line."""
        for start, end in self._blocks:
            if start <= position < end:
                return start, end
        line = self.line_of(position)
        ends = [*self._line_starts, len(self.text)]
        return ends[line - 1], ends[line]

    @cached_property
    def _blocks(self) -> list[tuple[int, int]]:
        if self.language == "numba":
            kinds = ast.FunctionDef | ast.ClassDef
            return [self._span(node) for node in self._tree.body if isinstance(node, kinds)]
        blocks, end = [], 0
        for number, token in enumerate(self.tokens):
            if token.text == "{" and token.kind == "operator" and token.start >= end:
                begin = max((i for i in range(number) if self.tokens[i].text in (";", "}")), default=-1) + 1
                end = self.tokens[self._partner[number]].end
                blocks.append((max(self.tokens[begin].start, blocks[-1][1] if blocks else 0), end))
        return blocks

    def _of_sides(self) -> Iterator[Edit]:
        """One side of an `&&` or `||` left out."""
        for number, token in enumerate(self.tokens):
            if token.text not in LOGIC or number in self._skipped or not self._is_binary(number):
                continue
            first, last = self._operand(number, -1), self._operand(number, +1)
            if token.text in ("&&", "||", "and", "or"):
                yield self.edit("logic", self.tokens[first].start, self.tokens[number + 1].start, "")
                yield self.edit("logic", self.tokens[number - 1].end, self.tokens[last].end, "")

    def _operand(self, number: int, step: int) -> int:
        """Return the last token, in the direction of `step`, of the operand beside an operator of logic."""
        stops = {"&&", "||", "and", "or", ";", ",", "?", ":", "=", "return", "if", "elif", "else", "while", "not"}
        if self.tokens[number].text in ("||", "or"):
            stops -= {"&&", "and"}
        at = number + step
        while True:
            if at in self._partner and (self._partner[at] - at) * step > 0:
                at = self._partner[at]
            following = at + step
            if not 0 <= following < len(self.tokens):
                return at
            text = self.tokens[following].text
            outside = following in self._partner and (self._partner[following] - following) * step < 0
            broken = self.language == "numba" and self._depth_zero_break(at, following)
            if text in stops or outside or broken:
                return at
            at = following

    def _depth_zero_break(self, one: int, other: int) -> bool:
        low, high = sorted((one, other))
        between = self.text[self.tokens[low].end : self.tokens[high].start]
        return "\n" in between and not self._inside_brackets(low, high)

    def _inside_brackets(self, low: int, high: int) -> bool:
        return any(
            opening <= low and high <= closing for opening, closing in self._partner.items() if opening < closing
        )

    def _of_conditions(self) -> Iterator[Edit]:
        """Conditions that always hold, or never."""
        if self.language == "numba":
            for node in ast.walk(self._tree):
                if isinstance(node, ast.If | ast.IfExp):
                    start, end = self._span(node.test)
                    yield from (self.edit("condition", start, end, new) for new in ("True", "False"))
            return
        for number, token in enumerate(self.tokens):
            if token.text == "if":
                opening = number + 1 + self._is(number + 1, "constexpr")
                first, last = opening + 1, self._partner[opening] - 1
                declared = [at for at in range(first, last) if self._is(at, ";")]
                first = declared[-1] + 1 if declared else first
            elif token.text == "?":
                first, last = self._operand(number, -1), number - 1
                while self._is(first - 1, "&&", "||"):
                    first = self._operand(first - 1, -1)
            else:
                continue
            if number not in self._skipped:
                start, end = self.tokens[first].start, self.tokens[last].end
                yield from (self.edit("condition", start, end, new) for new in ("true", "false"))

    def _of_arguments(self) -> Iterator[Edit]:
        """Neighbouring arguments exchanged, where both are alike: tokens of the same kinds."""
        for number, token in enumerate(self.tokens):
            called = self._is(number - 1, ")", ">") or self.tokens[number - 1].kind == "name"
            if token.text not in ("(", "[", "{") or token.kind != "operator" or number in self._skipped or not called:
                continue
            parts = list(self._parts(number))
            if any(self._declares(*part) for part in parts):
                continue
            for one, other in pairwise(parts):
                texts = self._text_of(*one), self._text_of(*other)
                if self._kinds(*one) == self._kinds(*other) and texts[0] != texts[1] and "jit" not in texts:
                    between = self.text[self.tokens[one[1]].end : self.tokens[other[0]].start]
                    new = self._text_of(*other) + between + self._text_of(*one)
                    yield self.edit("arguments", self.tokens[one[0]].start, self.tokens[other[1]].end, new)

    def _parts(self, opening: int) -> Iterator[tuple[int, int]]:
        """Yield the first and last token of each part between brackets."""
        first = at = opening + 1
        closing = self._partner[opening]
        while at < closing:
            if self._is(at, ","):
                if at > first:
                    yield first, at - 1
                first = at + 1
            at = self._partner[at] + 1 if at in self._partner else at + 1
        if closing > first:
            yield first, closing - 1

    def _kinds(self, first: int, last: int) -> list[str]:
        tokens = self.tokens[first : last + 1]
        return [token.text if token.kind == "operator" else token.kind for token in tokens]

    def _declares(self, first: int, last: int) -> bool:
        """True if a part between brackets is a parameter, with its type, or more than one statement."""
        tokens = self.tokens[first : last + 1]
        adjacent = any(
            one.kind == other.kind == "name" and not {one.text, other.text} & {"if", "else", "and", "or", "not", "for"}
            for one, other in pairwise(tokens)
        )
        types = {"int", "int64", "T", "A", "typename", "void"}
        bare = self.language == "cuda" and len(tokens) <= 2 and tokens[0].text in types
        return adjacent or bare or any(token.text in (";", "&", "*=") for token in tokens[-1:])

    def _of_statements(self) -> Iterator[Edit]:
        """Statements of C++ left out; after an `if`, a `;` stays behind."""
        for first, last in self._statements():
            if first not in self._skipped and self._acts(first, last):
                yield self.edit("statement", self.tokens[first].start, self.tokens[last].end, ";")

    def _statements(self) -> Iterator[tuple[int, int]]:
        """Yield the first token of each statement and its semicolon."""
        first: int | None = None
        number = 0
        while number < len(self.tokens):
            text = self.tokens[number].text
            if text in ("{", "}", ";", "else") and first is None:
                number += 1
            elif first is None and text in ("if", "for", "while"):
                opening = number + 1 + self._is(number + 1, "constexpr")
                number = self._partner[opening] + 1
            elif first is None:
                first = number
            elif text == ";":
                yield first, number
                first, number = None, number + 1
            elif text in ("(", "["):
                number = self._partner[number] + 1
            elif text == "{":
                # braces that hold values belong to the statement; those that hold statements begin new ones
                inside = range(number, self._partner[number])
                holds_values = not any(self._is(at, ";") for at in inside)
                if holds_values:
                    number = self._partner[number] + 1
                    if not self._is(number, ";", ",", ")", ".", "("):
                        first = None  # an empty body, or a structure
                else:
                    first, number = None, number + 1
            elif text == "}":
                first, number = None, number + 1
            else:
                number += 1

    def _acts(self, first: int, last: int) -> bool:
        """True if a statement is an assignment, a call or an assembly instruction, and neither declares nor returns."""
        tokens = self.tokens[first:last]
        start = tokens[0].text
        if start == "return" and len(tokens) == 1:
            return not self._is(first - 1, ")")  # after an `if`, what the condition's own edits do
        if start in ("asm", "*", "(", "++") or (start.endswith("syncthreads") and len(tokens) == 3):
            return True
        if tokens[0].kind != "name" or start in DECLARING:
            return False
        following = 1
        while following < len(tokens) and tokens[following].text in ("::", ".", "[", "("):
            at = first + following
            following = self._partner[at] - first + 1 if at in self._partner else following + 2
        if following < len(tokens) and tokens[following].text == "<" and not self._is_binary(first + following):
            # a call with template arguments ends in a bracket; a declaration in a name or its value
            named = [number for number in range(first, last) if self.tokens[number].text == ">"]
            return bool(named) and self._is(named[-1] + 1, "(") and "=" not in [token.text for token in tokens[:-1]]
        called = following == len(tokens) and tokens[-1].text == ")"
        assigned = following < len(tokens) and tokens[following].text in ASSIGNING
        return called or assigned

    def _of_python_statements(self) -> Iterator[Edit]:
        """Statements of Python left out: calls, assignments to an element, and those that replace a value."""
        for function in ast.walk(self._tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            known = {each.arg for each in function.args.args}
            for node in _own_statements(function.body):
                if isinstance(node, ast.For):
                    yield from self._of_range(node.iter)
                names = _assigned(node)
                called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
                element = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)
                if called or element or isinstance(node, ast.AugAssign) or (names and names <= known):
                    yield self.edit("statement", *self._span(node), "pass")
                known |= names

    def _of_range(self, node: ast.expr) -> Iterator[Edit]:
        """The end of a range one further, or one earlier."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
            start, end = self._span(node.args[min(1, len(node.args) - 1)])
            yield from (self.edit("relation", start, end, f"{self.text[start:end]} {new} 1") for new in "+-")


DECLARING = {
    *("return", "using", "static", "template", "typename", "const", "constexpr", "struct", "enum", "extern", "auto"),
    *("int", "unsigned", "bool", "float", "double", "break", "continue", "case", "default", "public"),
}
ASSIGNING = {"=", "+=", "-=", "*=", "/=", "%=", "^=", "++", "--"}


def _own_statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a function in their order, without those of functions within it."""
    for node in body:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            for name in ("body", "orelse"):
                yield from _own_statements(getattr(node, name, []))


def _assigned(node: ast.stmt) -> set[str]:
    """Return the names that a statement gives a value."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.For) else []
    return {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}


def _other_numbers(text: str) -> Iterator[str]:
    """Yield numbers beside one: a whole number's neighbours ≥ 0, or 0.1 % more."""
    digits, suffix = re.fullmatch(r"(0[xX][0-9a-fA-F]+|[^fFuUlL]+)([fFuUlL]*)", text).groups()  # type: ignore
    if re.fullmatch(r"0[xX][0-9a-fA-F]+|\d+", digits):
        value = int(digits, 0)
        yield from (
            f"{new:#x}{suffix}" if digits[1:2] in "xX" and len(digits) > 1 else f"{new}{suffix}"
            for new in (value + 1, value - 1)
            if new >= 0
        )
    else:
        value = float(digits)
        yield f"{value * 1.001 if value else 0.001!r}{suffix}"


def _other_instructions(text: str) -> Iterator[str]:
    """Yield an assembly instruction with an operand for its neighbour, another number, or another rounding."""
    operands = sorted({int(number) for number in re.findall(r"%(\d)", text)})
    for match in re.finditer(r"%(\d)", text):
        number = int(match[1])
        other = number + 1 if number + 1 in operands else number - 1
        if other in operands:
            yield f"{text[: match.start()]}%{other}{text[match.end() :]}"
    for match in re.finditer(r"(?<=[\s,])\d+(?=[;,])", text):
        yield f"{text[: match.start()]}{int(match[0]) // 2}{text[match.end() :]}"
    for one, other in ROUNDINGS:
        if f".{one}." in text:
            yield text.replace(f".{one}.", f".{other}.")
    if ".trans." in text:
        yield text.replace(".trans.", ".")


def edits_of(file: str, text: str) -> list[Edit]:
    """Return all edits of a file, in the order of its lines: always the same for the same text.

    Args:
        file: path below the folder of kernels, such as "numba/update.py".
        text: what it holds.
    """
    return Source(file, text).edits()


def thinned(edits: Sequence[Edit]) -> list[Edit]:
    """Return one edit of each kind on each line: always the same for the same text."""
    chosen: dict[tuple[int, str], Edit] = {}
    for edit in sorted(edits, key=lambda edit: crc32(f"{edit.file} {edit.after} {edit.nth}".encode())):
        chosen.setdefault((edit.line, edit.kind), edit)
    return sorted(chosen.values(), key=lambda edit: (edit.start, edit.end, edit.new))
