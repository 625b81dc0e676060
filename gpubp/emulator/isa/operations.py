"""What a lane-wise PTX instruction is to the executor, and how its modifiers are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.emulator.errors import UnsupportedInstruction

BOOL = np.dtype(bool)
# The dtype in which a register is viewed for each PTX type. 16-bit and packed floats stay raw bits: NumPy has no
# bfloat16, and its float16 arithmetic knows no rounding modes, so the functions decode them.
DTYPES = {
    "pred": BOOL,
    **{f"u{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"b{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "f16": np.dtype(np.uint16),
    "bf16": np.dtype(np.uint16),
    "f16x2": np.dtype(np.uint32),
    "bf16x2": np.dtype(np.uint32),
    "f32x2": np.dtype(np.uint64),
    "u16x2": np.dtype(np.uint32),
    "s16x2": np.dtype(np.uint32),
    "tf32": np.dtype(np.uint32),
    "e4m3x2": np.dtype(np.uint16),
    "e5m2x2": np.dtype(np.uint16),
}


@dataclass(frozen=True)
class Operation:
    """A lane-wise PTX instruction, ready to run.

    apply(*outs, *sources) writes every out. Sources are 1-d arrays of one length, or 0-d arrays (immediates), in the
    dtypes that `sources` names; outs are 1-d arrays in the dtypes of `results`, and an out may be one of the sources.
    A result narrower than its register is to be zero-extended, or sign-extended if its dtype is signed.
    """

    results: tuple[np.dtype[Any], ...]
    sources: tuple[np.dtype[Any], ...]
    apply: Callable[..., None]
    kind: str  # "fma", "float", "special", "integer", "logic", "compare", "conversion" or "move"
    flops: int = 0  # floating point operations a lane
    carry_in: bool = False  # apply takes the carry flag, a bool array, as its last source
    carry_out: bool = False  # apply writes the carry flag, a bool array, as its last out
    ufunc: Callable[..., Any] | None = None  # where apply is one call of it: the same with sources before outs


class Modifiers:
    """One instruction's modifiers, taken off one by one; what is left over at the end is not supported."""

    def __init__(self, opcode: str, modifiers: Sequence[str]) -> None:
        self.opcode = opcode
        self.text = ".".join((opcode, *modifiers))
        self._left = list(modifiers)

    def flag(self, name: str) -> bool:
        """Whether the modifier is there."""
        if name in self._left:
            self._left.remove(name)
            return True
        return False

    def choice(self, names: Sequence[str], default: str | None = None) -> str:
        """The one of `names` that is there, else the default; without a default it must be there."""
        for modifier in self._left:
            if modifier in names:
                self._left.remove(modifier)
                return modifier
        if default is None:
            raise self.unsupported()
        return default

    def type(self, names: Sequence[str]) -> str:
        """The instruction's type: the last modifier that is left, which must be one of `names`."""
        if not self._left or self._left[-1] not in names:
            raise self.unsupported()
        return self._left.pop()

    def flags(self, *names: str) -> None:
        """Take modifiers that must be there."""
        for name in names:
            if not self.flag(name):
                raise self.unsupported()

    def take(self) -> str:
        """The first modifier that is left."""
        if not self._left:
            raise self.unsupported()
        return self._left.pop(0)

    def shape(self) -> tuple[int, int, int]:
        """The sides of the matrices in the next modifier, such as m16n8k8."""
        match = re.fullmatch(r"m(\d+)n(\d+)k(\d+)", self.take())
        if match is None:
            raise self.unsupported()
        return int(match[1]), int(match[2]), int(match[3])

    def rest(self) -> tuple[str, ...]:
        """All modifiers that are left."""
        left, self._left = tuple(self._left), []
        return left

    def end(self) -> None:
        """Every modifier must have been taken."""
        if self._left:
            raise self.unsupported()

    def unsupported(self) -> UnsupportedInstruction:
        return UnsupportedInstruction(self.text)


def ufunc_operation(
    ufunc: Callable[..., Any], result: str, sources: Sequence[str], kind: str, flops: int = 0
) -> Operation:
    """An operation that is one ufunc call, the fastest kind."""
    if len(sources) == 1:

        def apply(d: np.ndarray, a: np.ndarray) -> None:
            ufunc(a, out=d)

    elif len(sources) == 2:

        def apply(d: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:  # type: ignore[misc]
            ufunc(a, b, out=d)

    else:

        def apply(d: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:  # type: ignore[misc]
            ufunc(a, b, c, out=d)

    return Operation((DTYPES[result],), tuple(DTYPES[s] for s in sources), apply, kind, flops, ufunc=ufunc)


def function_operation(
    function: Callable[..., np.ndarray], result: str, sources: Sequence[str], kind: str, flops: int = 0
) -> Operation:
    """An operation whose function returns a new array; a wider integer is cut to the result's low bits."""

    def apply(d: np.ndarray, *values: np.ndarray) -> None:
        d[...] = function(*values)

    return Operation((DTYPES[result],), tuple(DTYPES[s] for s in sources), apply, kind, flops)


def on_pairs(function: Callable[..., np.ndarray], element: np.dtype[Any]) -> Callable[..., np.ndarray]:
    """A function of arrays of `element`, applied to words that pack two of them each."""
    word = np.dtype(f"u{element.itemsize * 2}")

    def packed(*words: np.ndarray) -> np.ndarray:
        results = function(*(np.atleast_1d(w)[:, np.newaxis].view(element) for w in words))
        return np.ascontiguousarray(results).view(word)[:, 0]

    return packed
