"""Comparison, selection and moves (PTX ISA, "Comparison and Selection Instructions", "Data Movement": mov)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.emulator.isa.compiled import compiled_select
from gpubp.emulator.isa.operations import BOOL, DTYPES, Modifiers, Operation, ufunc_operation
from gpubp.emulator.isa.rounding import BF16, F16, Format, decode

Compare = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]  # (out, a, b), out being a bool array

BIT_TYPES = ("b16", "b32", "b64")
UNSIGNED_TYPES = ("u16", "u32", "u64")
SIGNED_TYPES = ("s16", "s32", "s64")
FLOAT_TYPES = ("f32", "f64")
HALF_TYPES: dict[str, Format] = {"f16": F16, "bf16": BF16}
PACKED_TYPES: dict[str, Format] = {"f16x2": F16, "bf16x2": BF16}
ORDERED = {
    "eq": np.equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
# An unordered comparison (true if an operand is NaN) is the complement of an ordered one.
COMPLEMENT_OF = {"equ": None, "neu": "eq", "ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt"}
BOOLEAN = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
COMPARISONS = (*ORDERED, "ne", *UNSIGNED_NAMES, *COMPLEMENT_OF, "num", "nan")


def _swapped(ufunc: np.ufunc) -> Compare:
    def compare(out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        ufunc(a, b, out)

    return compare


def _negated(ufunc: np.ufunc) -> Compare:
    def compare(out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        ufunc(a, b, out)
        np.logical_not(out, out)

    return compare


def _not_equal(out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    np.logical_or(a < b, a > b, out)


def _equal_or_unordered(out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    np.logical_or(a < b, a > b, out)
    np.logical_not(out, out)


def _both_numbers(out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    np.logical_and(a == a, b == b, out)


def _either_nan(out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    np.logical_or(a != a, b != b, out)


def float_comparison(name: str) -> Compare | None:
    """The comparison of floats, or None if there is none of that name."""
    if name in ORDERED:
        return _swapped(ORDERED[name])
    special = {"ne": _not_equal, "equ": _equal_or_unordered, "num": _both_numbers, "nan": _either_nan}
    if name in special:
        return special[name]
    complement = COMPLEMENT_OF.get(name)
    return _negated(ORDERED[complement]) if complement else None


def integer_comparison(name: str, type_: str) -> Compare | None:
    """The comparison of integers or bits, or None: lo, ls, hi, hs are for unsigned ones, bits are equal or not."""
    if name == "ne":
        return _swapped(np.not_equal)
    if type_ in UNSIGNED_TYPES:
        name = UNSIGNED_NAMES.get(name, name)
    if type_ in BIT_TYPES and name != "eq":
        return None
    return _swapped(ORDERED[name]) if name in ORDERED else None


def flush_subnormals(values: np.ndarray) -> np.ndarray:
    """Subnormal float32 become zeros of the same sign (.ftz)."""
    return np.where(np.abs(values) < np.float32(2.0**-126), np.copysign(np.float32(0), values), values)


def comparison(modifiers: Modifiers, type_: str, name: str) -> Compare:
    """The comparison that setp and set share, with .ftz and with halves decoded."""
    ftz = type_ in ("f32", *HALF_TYPES) and modifiers.flag("ftz")
    if type_ in FLOAT_TYPES or type_ in HALF_TYPES:
        compare = float_comparison(name)
    else:
        compare = integer_comparison(name, type_)
    if compare is None:
        raise modifiers.unsupported()
    if type_ in HALF_TYPES:
        return _compare_halves(compare, HALF_TYPES[type_], ftz)
    if ftz:
        return lambda out, a, b: compare(out, flush_subnormals(a), flush_subnormals(b))
    return compare


def _compare_halves(compare: Compare, source: Format, ftz: bool) -> Compare:
    def compare_halves(out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        values = [decode(x, source) for x in (a, b)]
        if ftz:
            values = [np.where(np.abs(x) < source.smallest_normal, np.copysign(0.0, x), x) for x in values]
        compare(out, *values)

    return compare_halves


def set_predicate(modifiers: Modifiers, pair: bool) -> Operation:
    """setp: p = (a CmpOp b) BoolOp c, and q = !(a CmpOp b) BoolOp c if `pair`; of packed halves p is the lower one's
    result and q the upper one's."""
    type_ = modifiers.type((*BIT_TYPES, *UNSIGNED_TYPES, *SIGNED_TYPES, *FLOAT_TYPES, *HALF_TYPES, *PACKED_TYPES))
    name = modifiers.choice(COMPARISONS)
    combine = modifiers.choice(tuple(BOOLEAN), default="none")
    if type_ in PACKED_TYPES:
        return _set_packed_predicates(modifiers, type_, name, combine, pair)
    compare = comparison(modifiers, type_, name)
    modifiers.end()
    dtype = DTYPES[type_]
    results = (BOOL, BOOL) if pair else (BOOL,)
    if combine == "none":
        if not pair:
            return Operation(results, (dtype, dtype), compare, "compare")

        def both(p: np.ndarray, q: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
            compare(p, a, b)
            np.logical_not(p, q)

        return Operation(results, (dtype, dtype), both, "compare")
    boolean = BOOLEAN[combine]

    def combined(*arrays: np.ndarray) -> None:
        a, b, c = arrays[-3:]
        true = np.empty(arrays[0].shape, bool)
        compare(true, a, b)
        outs = (boolean(true, c), boolean(~true, c))  # before writing: p may be c
        for out, value in zip(arrays[:-3], outs, strict=False):
            out[...] = value

    return Operation(results, (dtype, dtype, BOOL), combined, "compare")


def _set_packed_predicates(modifiers: Modifiers, type_: str, name: str, combine: str, pair: bool) -> Operation:
    if not pair:
        raise modifiers.unsupported()
    compare = comparison(modifiers, type_.removesuffix("x2"), name)
    modifiers.end()
    word = DTYPES[type_]

    def apply(p: np.ndarray, q: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> None:
        results = []
        for shift in (0, 16):
            true = np.empty(p.shape, bool)
            compare(true, *((x >> np.uint32(shift)).astype(np.uint16) for x in (a, b)))
            results.append(true if c is None else BOOLEAN[combine](true, c))
        p[...], q[...] = results

    sources = (word, word) if combine == "none" else (word, word, BOOL)
    return Operation((BOOL, BOOL), sources, apply, "compare")


def set_value(modifiers: Modifiers) -> Operation:
    """set: all ones (or 1.0) where the comparison, combined with c if so asked, is true, else 0."""
    type_ = modifiers.type((*BIT_TYPES, *UNSIGNED_TYPES, *SIGNED_TYPES, *FLOAT_TYPES, *HALF_TYPES, *PACKED_TYPES))
    target = modifiers.type(("u32", "s32", "f32", "u16", "s16", "f16", "bf16", "f16x2", "bf16x2"))
    name = modifiers.choice(COMPARISONS)
    combine = modifiers.choice(tuple(BOOLEAN), default="none")
    halves = (*HALF_TYPES, *PACKED_TYPES)
    if target in ("u16", "s16", *halves) and type_ not in halves:
        raise modifiers.unsupported()  # only halves are compared into 16 bits
    packed = type_ in PACKED_TYPES
    if packed != (target in PACKED_TYPES) and not (packed and target in ("u32", "s32")):
        raise modifiers.unsupported()
    if target in halves and target.removesuffix("x2") != type_.removesuffix("x2"):
        raise modifiers.unsupported()
    compare = comparison(modifiers, type_.removesuffix("x2"), name)
    modifiers.end()
    one = {"f32": 1.0, "f16": 0x3C00, "bf16": 0x3F80}.get(target.removesuffix("x2"))
    if packed:
        true_half = np.uint32(0xFFFF if one is None else one)

        def apply_packed(d: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> None:
            result = np.zeros(d.shape, np.uint32)
            for shift in (0, 16):
                true = np.empty(d.shape, bool)
                compare(true, *((x >> np.uint32(shift)).astype(np.uint16) for x in (a, b)))
                true = true if c is None else BOOLEAN[combine](true, c)
                result |= np.where(true, true_half, np.uint32(0)) << np.uint32(shift)
            d.view(np.uint32)[...] = result

        sources = (DTYPES[type_],) * 2 + ((BOOL,) if combine != "none" else ())
        return Operation((DTYPES[target],), sources, apply_packed, "compare")
    dtype = DTYPES[target]
    true_value = dtype.type(one) if one is not None else np.array(-1, np.int64).astype(dtype)[()]

    def apply(d: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> None:
        true = np.empty(d.shape, bool)
        compare(true, a, b)
        true = true if c is None else BOOLEAN[combine](true, c)
        d[...] = np.where(true, true_value, dtype.type(0))

    sources = (DTYPES[type_],) * 2 + ((BOOL,) if combine != "none" else ())
    return Operation((dtype,), sources, apply, "compare")


def select(modifiers: Modifiers) -> Operation:
    """selp: a where the predicate is true, else b; of raw bits, whatever the type."""
    type_ = modifiers.type((*BIT_TYPES, *UNSIGNED_TYPES, *SIGNED_TYPES, *FLOAT_TYPES))
    modifiers.end()
    word = f"u{DTYPES[type_].itemsize * 8}"
    return ufunc_operation(compiled_select(), word, (word, word, "pred"), "move")


def select_by_sign(modifiers: Modifiers) -> Operation:
    """slct: a where c >= 0, else b; a NaN selects b, and -0 counts as 0."""
    control = modifiers.type(("s32", "f32"))
    ftz = control == "f32" and modifiers.flag("ftz")
    type_ = modifiers.type((*BIT_TYPES, *UNSIGNED_TYPES, *SIGNED_TYPES, *FLOAT_TYPES))
    modifiers.end()
    dtype = DTYPES[type_]

    def apply(d: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        d[...] = np.where((flush_subnormals(c) if ftz else c) >= 0, a, b)

    return Operation((dtype,), (dtype, dtype, DTYPES[control]), apply, "move")


def move(modifiers: Modifiers) -> Operation:
    """mov of one register; vectors and symbols are the executor's."""
    type_ = modifiers.type(("pred", *BIT_TYPES, *UNSIGNED_TYPES, *SIGNED_TYPES, *FLOAT_TYPES))
    modifiers.end()
    return Operation((DTYPES[type_],), (DTYPES[type_],), np.copyto, "move")
