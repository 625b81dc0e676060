"""Equations as trees that are written as text for a terminal, and as MathML for a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

MOST_SIDE = 6
"""Rows and columns up to which an array is written number by number."""

_NO_GAP = re.compile(r"(?<=[(∂]) | (?=\))|(?<=[σ′ℓ]) (?=\()")
"""Gaps that a line of text leaves out: inside of brackets, after ∂, before the argument of a function."""

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits, as readers write it."""
    return f"{value:.{digits}g}".replace("-", "−")


class Expression:
    """A part of an equation."""

    def text(self) -> str:
        """Return it as a line of text."""
        raise NotImplementedError

    def mathml(self) -> str:
        """Return it as MathML, escaped."""
        raise NotImplementedError


@dataclass(frozen=True)
class Name(Expression):
    """A quantity, such as z of layer 2."""

    letter: str
    layer: int | None = None
    subscript: str = ""

    def text(self) -> str:
        layer = "" if self.layer is None else str(self.layer).translate(_SUPERSCRIPTS)
        return self.letter + self.subscript + layer

    def mathml(self) -> str:
        base = f"<mi>{escape(self.letter)}</mi>"
        layer = "" if self.layer is None else f"<mn>{self.layer}</mn>"
        below = f"<mi>{escape(self.subscript)}</mi>" if self.subscript else ""
        if layer and below:
            return f"<msubsup>{base}{below}{layer}</msubsup>"
        if layer:
            return f"<msup>{base}{layer}</msup>"
        return f"<msub>{base}{below}</msub>" if below else base


@dataclass(frozen=True)
class Sign(Expression):
    """An operator, a bracket, or a word."""

    sign: str

    def text(self) -> str:
        return self.sign

    def mathml(self) -> str:
        return f"<mo>{escape(self.sign)}</mo>"


@dataclass(frozen=True)
class Transposed(Expression):
    """A matrix that is transposed."""

    of: Expression

    def text(self) -> str:
        return f"({self.of.text()})ᵀ"

    def mathml(self) -> str:
        base = f"<mrow><mo>(</mo>{self.of.mathml()}<mo>)</mo></mrow>"
        return f"<msup>{base}<mi>T</mi></msup>"


@dataclass(frozen=True)
class Fraction(Expression):
    """One over the other, such as ∂L/∂w."""

    above: Expression
    below: Expression

    def text(self) -> str:
        return f"{self.above.text()}/{self.below.text()}"

    def mathml(self) -> str:
        return f"<mfrac><mrow>{self.above.mathml()}</mrow><mrow>{self.below.mathml()}</mrow></mfrac>"


@dataclass(frozen=True)
class Squared(Expression):
    """The square of what stands in brackets."""

    of: Expression

    def text(self) -> str:
        return f"({self.of.text()})²"

    def mathml(self) -> str:
        return f"<msup><mrow><mo>(</mo>{self.of.mathml()}<mo>)</mo></mrow><mn>2</mn></msup>"


@dataclass(frozen=True, eq=False)
class Value(Expression):
    """Numbers: one, a column (n,), a row (1, n), or a matrix (n, m). Each keeps all its digits in `data-value`.

    bracketed: in MathML a number alone, which has no brackets as an array has, gets some.
    """

    array: Any
    bracketed: bool = False

    def text(self) -> str:
        found = np.asarray(self.array)
        if found.ndim == 0:
            return number(float(found))
        if max(found.shape) > MOST_SIDE:
            return self._size(found)
        if found.ndim == 1:
            return f"[{', '.join(number(each) for each in found)}]"
        return f"[{'; '.join(', '.join(number(each) for each in row) for row in found)}]"

    def mathml(self) -> str:
        found = np.asarray(self.array)
        if found.ndim == 0:
            return _cell(float(found))
        if max(found.shape) > MOST_SIDE:
            return f"<mtext>{self._size(found)}</mtext>"
        if found.size == 1:
            cell = _cell(float(found.flat[0]))
            return f"<mrow><mo>(</mo>{cell}<mo>)</mo></mrow>" if self.bracketed else cell
        rows = found[:, None] if found.ndim == 1 else found
        table = "".join(f"<mtr>{''.join(f'<mtd>{_cell(float(each))}</mtd>' for each in row)}</mtr>" for row in rows)
        return f'<mtable class="matrix">{table}</mtable>'

    @staticmethod
    def _size(found: np.ndarray) -> str:
        sides = "×".join(map(str, found.shape))
        return f"({sides}: {number(float(found.min()))} … {number(float(found.max()))})"


def _cell(value: float) -> str:
    """Return a number, a negative one in a row of its sign and its amount, as MathML wants it."""
    amount = f'<mn data-value="{value!r}">{number(abs(value))}</mn>'
    return f"<mrow><mo>−</mo>{amount}</mrow>" if value < 0 else amount


@dataclass(frozen=True)
class Row(Expression):
    """Parts one after the other."""

    parts: tuple[Expression, ...]

    def text(self) -> str:
        found = " ".join(part.text() for part in self.parts)
        return _NO_GAP.sub("", found)

    def mathml(self) -> str:
        return f"<mrow>{''.join(part.mathml() for part in self.parts)}</mrow>"


@dataclass(frozen=True)
class Equation:
    """An equation in letters, and the same with the numbers put in.

    Attributes:
        letters: such as z = w a + b.
        numbers: such as z = 0.2 · 1 + 0.1 = 0.3.
    """

    letters: Row
    numbers: Row

    def mathml(self) -> tuple[str, str]:
        """Return both as MathML elements."""
        return _math(self.letters), _math(self.numbers)


def _math(row: Row) -> str:
    label = escape(row.text(), quote=True)
    return f'<math display="block" aria-label="{label}">{row.mathml()}</math>'


def row(*parts: Expression | str | float | np.ndarray | Sequence[float]) -> Row:
    """Return the parts as a row: a text is a sign, and numbers are a `Value`; a negative one after a sign of arithmetic
    stands in brackets."""
    found: list[Expression] = []
    for each in parts:
        bracketed = bool(found) and found[-1] in _ARITHMETIC and _is_negative(each)
        if bracketed and isinstance(each, np.ndarray):
            found.append(Value(each, bracketed=True))
        else:
            found += [Sign("("), _part(each), Sign(")")] if bracketed else [_part(each)]
    return Row(tuple(found))


def _is_negative(part: Any) -> bool:
    """True for a number alone that is negative, also one in an array."""
    return isinstance(part, float | np.ndarray) and np.size(part) == 1 and float(np.ravel(part)[0]) < 0


_ARITHMETIC = (Sign("+"), Sign("−"), Sign("·"))


def _part(part: Any) -> Expression:
    if isinstance(part, Expression):
        return part
    return Sign(part) if isinstance(part, str) else Value(part)
