"""Integer arithmetic (PTX ISA, "Integer Arithmetic" and "Extended-Precision Integer Arithmetic Instructions").

Each function of `Modifiers` returns the `Operation` of an opcode with its modifiers. Wrapping around is NumPy's own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpubp.emulator.isa.operations import DTYPES, Modifiers, Operation, function_operation, on_pairs, ufunc_operation

UNSIGNED = ("u16", "u32", "u64")
SIGNED = ("s16", "s32", "s64")
INTEGERS = UNSIGNED + SIGNED
WORDS = ("u32", "s32", "u64", "s64")
WIDER = {"u16": "u32", "u32": "u64", "s16": "s32", "s32": "s64"}


def width(type_: str) -> int:
    """The bits of an integer type: width("u32") is 32."""
    return int(type_[1:])


def as_unsigned(type_: str) -> str:
    return f"u{width(type_)}"


# --- sums and products


def high_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of the full product, in the operands' own dtype (8 to 64 bits)."""
    bits = a.dtype.itemsize * 8
    if bits < 64:
        wide = np.dtype(f"{a.dtype.kind}{a.dtype.itemsize * 2}")
        return (np.multiply(a, b, dtype=wide) >> wide.type(bits)).astype(a.dtype)
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    ua, ub = a.view(np.uint64), b.view(np.uint64)
    a_low, a_high, b_low, b_high = ua & low, ua >> half, ub & low, ub >> half
    middle = a_high * b_low + ((a_low * b_low) >> half)
    other = a_low * b_high + (middle & low)
    high = a_high * b_high + (middle >> half) + (other >> half)
    if a.dtype.kind == "i":  # a signed factor stands for itself less 2**64 where it is negative
        high = high - np.where(a < 0, ub, np.uint64(0)) - np.where(b < 0, ua, np.uint64(0))
    return high.view(a.dtype)


def wide_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.multiply(a, b, dtype=np.dtype(f"{a.dtype.kind}{a.dtype.itemsize * 2}"))


def product(modifiers: Modifiers) -> Operation:
    """mul and mad, their low, high or full product."""
    adds = modifiers.opcode == "mad"
    if adds and modifiers.flag("cc"):
        return product_with_carry(modifiers, writes=True)
    type_ = modifiers.type(INTEGERS)
    part = modifiers.choice(("lo", "hi", "wide"))
    saturates = adds and part == "hi" and type_ == "s32" and modifiers.flag("sat")
    modifiers.end()
    if part == "wide":
        if type_ not in WIDER:
            raise modifiers.unsupported()
        wide = WIDER[type_]
        if not adds:
            return function_operation(wide_product, wide, (type_, type_), "integer")

        def multiply_add_wide(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
            return wide_product(a, b) + c

        return function_operation(multiply_add_wide, wide, (type_, type_, wide), "integer")
    multiply = np.multiply if part == "lo" else high_product
    if not adds:
        build = ufunc_operation if part == "lo" else function_operation
        return build(multiply, type_, (type_, type_), "integer")
    if saturates:

        def multiply_add_saturated(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
            total = high_product(a, b).astype(np.int64) + c
            return np.clip(total, -(2**31), 2**31 - 1)

        return function_operation(multiply_add_saturated, type_, (type_,) * 3, "integer")

    def multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return multiply(a, b) + c

    return function_operation(multiply_add, type_, (type_,) * 3, "integer")


def product24(modifiers: Modifiers) -> Operation:
    """mul24 and mad24: bits 0 to 31, or 16 to 47, of the product of the low 24 bits."""
    adds = modifiers.opcode == "mad24"
    type_ = modifiers.type(("u32", "s32"))
    part = modifiers.choice(("lo", "hi"))
    saturates = adds and part == "hi" and type_ == "s32" and modifiers.flag("sat")
    modifiers.end()
    wide = DTYPES[WIDER[type_]].type
    drop = wide(0 if part == "lo" else 16)

    def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # Shifting left and back takes the low 24 bits, sign-extended where the type is signed.
        a24, b24 = (x << x.dtype.type(8) >> x.dtype.type(8) for x in (a, b))
        return ((np.multiply(a24, b24, dtype=wide) >> drop) & wide(0xFFFFFFFF)).astype(a.dtype)

    def multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return multiply(a, b) + c

    def multiply_add_saturated(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.clip(multiply(a, b).astype(np.int64) + c, -(2**31), 2**31 - 1)

    if not adds:
        return function_operation(multiply, type_, (type_, type_), "integer")
    return function_operation(multiply_add_saturated if saturates else multiply_add, type_, (type_,) * 3, "integer")


def sum_or_difference(modifiers: Modifiers) -> Operation:
    """add, sub: plain, saturating (s32), of packed 16-bit halves, or with the carry flag written."""
    ufunc = np.add if modifiers.opcode == "add" else np.subtract
    type_ = modifiers.type((*INTEGERS, "u16x2", "s16x2"))
    if modifiers.flag("cc"):
        if type_ not in WORDS:
            raise modifiers.unsupported()
        modifiers.end()
        return with_carry(modifiers.opcode, type_, reads=False, writes=True)
    saturates = type_ == "s32" and modifiers.flag("sat")
    modifiers.end()
    if type_.endswith("x2"):
        return function_operation(on_pairs(ufunc, np.dtype(np.uint16)), type_, (type_, type_), "integer")
    if saturates:

        def saturated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.clip(ufunc(a, b, dtype=np.int64), -(2**31), 2**31 - 1)

        return function_operation(saturated, type_, (type_, type_), "integer")
    return ufunc_operation(ufunc, type_, (type_, type_), "integer")


def sum_with_carry(modifiers: Modifiers) -> Operation:
    """addc, subc: the sum or difference with the carry flag, which .cc writes anew."""
    type_ = modifiers.type(WORDS)
    writes = modifiers.flag("cc")
    modifiers.end()
    return with_carry("add" if modifiers.opcode == "addc" else "sub", type_, reads=True, writes=writes)


def with_carry(opcode: str, type_: str, *, reads: bool, writes: bool) -> Operation:
    """A sum or difference that reads the carry (or borrow) flag, writes it, or both."""
    word = as_unsigned(type_)
    one = DTYPES[word].type(1)

    def add(a: np.ndarray, b: np.ndarray, carry: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        total = a + b
        overflow = total < a
        if carry is not None:
            total = total + carry * one
            overflow = overflow | (carry & (total == 0))
        return total, overflow

    def subtract(a: np.ndarray, b: np.ndarray, borrow: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        difference = a - b
        underflow = a < b
        if borrow is not None:
            underflow = underflow | (borrow & (difference == 0))
            difference = difference - borrow * one
        return difference, underflow

    function = add if opcode == "add" else subtract
    return carrying(function, word, 2, reads=reads, writes=writes)


def carrying(
    function: Callable[..., tuple[np.ndarray, np.ndarray]], word: str, arity: int, *, reads: bool, writes: bool
) -> Operation:
    """An operation of a function of (sources, carry or None) that gives (result, carry)."""

    def apply(d: np.ndarray, *values: np.ndarray) -> None:
        carry_out, values = (values[0], values[1:]) if writes else (None, values)
        result, carry = function(*values) if reads else function(*values, None)
        d[...] = result
        if carry_out is not None:
            carry_out[...] = carry

    return Operation((DTYPES[word],), (DTYPES[word],) * arity, apply, "integer", carry_in=reads, carry_out=writes)


def product_with_carry(modifiers: Modifiers, writes: bool = False) -> Operation:
    """mad.{lo,hi}.cc and madc.{lo,hi}{.cc}."""
    type_ = modifiers.type(WORDS)
    part = modifiers.choice(("lo", "hi"))
    reads = modifiers.opcode == "madc"
    writes = writes or modifiers.flag("cc")
    modifiers.end()
    word = as_unsigned(type_)
    dtype, unsigned = DTYPES[type_], DTYPES[word]

    def function(
        a: np.ndarray, b: np.ndarray, c: np.ndarray, carry: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        term = a * b if part == "lo" else high_product(a.view(dtype), b.view(dtype)).view(unsigned)
        total = term + c
        overflow = total < term
        if carry is not None:
            total = total + carry * unsigned.type(1)
            overflow = overflow | (carry & (total == 0))
        return total, overflow

    return carrying(function, word, 3, reads=reads, writes=writes)


# --- quotients


def quotient(modifiers: Modifiers) -> Operation:
    """div and rem of integers, rounded towards zero.

    The ISA leaves a division by zero open; here the quotient is all ones and the remainder the dividend, as the
    hardware's 32-bit sequences give. The smallest integer divided by -1 wraps to itself.
    """
    opcode = modifiers.opcode
    type_ = modifiers.type(INTEGERS)
    modifiers.end()
    word = DTYPES[as_unsigned(type_)]

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # Dividing magnitudes avoids both the floor of NumPy's signed division and its overflow.
        magnitudes = [np.where(x < 0, 0 - x, x).view(word) if type_[0] == "s" else x for x in (a, b)]
        numerator, denominator = magnitudes
        zero = denominator == 0
        result = numerator // np.where(zero, word.type(1), denominator)
        if opcode == "rem":
            result = numerator - result * denominator
        if type_[0] == "s":
            negative = (a < 0) ^ (b < 0) if opcode == "div" else a < 0
            result = np.where(negative, 0 - result, result)
        if opcode == "div":
            result = np.where(zero, word.type(2 ** width(type_) - 1), result)
        return result.view(a.dtype)

    return function_operation(function, type_, (type_, type_), "integer")


# --- one or two operands


def absolute(modifiers: Modifiers) -> Operation:
    type_ = modifiers.type(SIGNED)
    modifiers.end()
    return ufunc_operation(np.absolute, type_, (type_,), "integer")


def negative(modifiers: Modifiers) -> Operation:
    type_ = modifiers.type(SIGNED)
    modifiers.end()
    return ufunc_operation(np.negative, type_, (type_,), "integer")


def extremum(modifiers: Modifiers) -> Operation:
    """min and max, also of packed halves, also .relu (s32 and s16x2: not less than zero)."""
    ufunc = np.minimum if modifiers.opcode == "min" else np.maximum
    relu = modifiers.flag("relu")  # NVRTC's headers write it behind the type, the ISA before
    type_ = modifiers.type(("s32", "s16x2") if relu else (*INTEGERS, "u16x2", "s16x2"))
    modifiers.end()
    if type_.endswith("x2"):
        half = np.dtype(np.int16 if type_[0] == "s" else np.uint16)

        def on_halves(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            result = ufunc(a, b)
            return np.maximum(result, half.type(0)) if relu else result

        return function_operation(on_pairs(on_halves, half), type_, (type_, type_), "integer")
    if relu:
        return function_operation(lambda a, b: np.maximum(ufunc(a, b), np.int32(0)), type_, (type_, type_), "integer")
    return ufunc_operation(ufunc, type_, (type_, type_), "integer")


def sum_of_absolute_differences(modifiers: Modifiers) -> Operation:
    """sad: c + |a - b|."""
    type_ = modifiers.type(INTEGERS)
    modifiers.end()
    return function_operation(lambda a, b, c: c + np.where(a < b, b - a, a - b), type_, (type_,) * 3, "integer")


def dot_product(modifiers: Modifiers) -> Operation:
    """dp4a (four bytes by four bytes) and dp2a (two halves by two bytes, the lower or the upper pair), plus c."""
    b_type = modifiers.type(("u32", "s32"))
    a_type = modifiers.type(("u32", "s32"))
    upper = modifiers.choice(("lo", "hi")) == "hi" if modifiers.opcode == "dp2a" else False
    modifiers.end()
    a_dtype = ("i" if a_type == "s32" else "u") + {"dp4a": "1", "dp2a": "2"}[modifiers.opcode]
    b_dtype = "i1" if b_type == "s32" else "u1"
    signed = "s32" in (a_type, b_type)

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        a_parts = np.atleast_1d(a)[:, np.newaxis].view(a_dtype).astype(np.int64)
        b_parts = np.atleast_1d(b)[:, np.newaxis].view(b_dtype).astype(np.int64)
        if modifiers.opcode == "dp2a":
            b_parts = b_parts[:, 2:] if upper else b_parts[:, :2]
        return (a_parts * b_parts).sum(axis=1) + c

    return function_operation(
        function, "s32" if signed else "u32", ("u32", "u32", "s32" if signed else "u32"), "integer"
    )
