"""Bit fields, bit counts, logic, shifts and permutations (PTX ISA, "Integer Arithmetic" and "Logic and Shift
Instructions").

NumPy's shifts have PTX's rule: a count of the width or more gives zero, or the sign.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.emulator.isa.integers import INTEGERS, WORDS, as_unsigned, width
from gpubp.emulator.isa.operations import BOOL, DTYPES, Modifiers, Operation, function_operation, ufunc_operation

BITS = ("b16", "b32", "b64")


# --- bit fields and counts


def bit_field_extract(modifiers: Modifiers) -> Operation:
    """bfe: len bits of a from pos on, sign-extended by the field's own top bit (at most the word's)."""
    type_ = modifiers.type(WORDS)
    modifiers.end()
    bits = width(type_)
    word = DTYPES[as_unsigned(type_)].type

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        position = (b & np.uint32(0xFF)).astype(word)
        length = (c & np.uint32(0xFF)).astype(word)
        field = (a >> position) & low_mask(length, word)
        if type_[0] == "u":
            return field
        # The sign bit is a[min(pos + len - 1, msb)]; an empty field is zero.
        top = np.minimum(position + length - word(1), word(bits - 1))
        sign = (length > 0) & ((a >> top) & word(1)).astype(bool)
        kept = np.minimum(length, np.where(position < bits, word(bits) - position, word(0)))
        return np.where(sign, field | ~low_mask(kept, word), field)

    return function_operation(function, as_unsigned(type_), (as_unsigned(type_), "u32", "u32"), "integer")


def low_mask(count: np.ndarray, word: Any) -> np.ndarray:
    """`count` ones from bit 0 on; all ones from the width of the word on."""
    return ~(~word(0) << count)


def bit_field_insert(modifiers: Modifiers) -> Operation:
    """bfi: b with len bits from pos on replaced by the low bits of a."""
    type_ = modifiers.type(("b32", "b64"))
    modifiers.end()
    word = DTYPES[type_].type

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
        position = (c & np.uint32(0xFF)).astype(word)
        mask = low_mask((d & np.uint32(0xFF)).astype(word), word) << position
        return (b & ~mask) | ((a << position) & mask)

    return function_operation(function, type_, (type_, type_, "u32", "u32"), "integer")


def bit_length(values: np.ndarray) -> np.ndarray:
    """How many bits each unsigned integer needs (zero: 0), as uint32."""
    result = np.zeros(values.shape, np.uint32)
    word = values.dtype.type
    rest = values
    for step in (32, 16, 8, 4, 2, 1):
        if step >= values.dtype.itemsize * 8:
            continue
        high = (rest >> word(step)) != 0
        result = result + np.where(high, np.uint32(step), np.uint32(0))
        rest = np.where(high, rest >> word(step), rest)
    return result + (rest != 0)


def find_leading_bit(modifiers: Modifiers) -> Operation:
    """bfind: the position of the highest bit that is not sign, or (.shiftamt) the shift that brings it to the top;
    0xffffffff if there is none."""
    type_ = modifiers.type(WORDS)
    shift_amount = modifiers.flag("shiftamt")
    modifiers.end()
    bits = width(type_)

    def function(a: np.ndarray) -> np.ndarray:
        value = (a ^ (a >> a.dtype.type(bits - 1))).view(DTYPES[as_unsigned(type_)]) if type_[0] == "s" else a
        length = bit_length(value)
        found = np.uint32(bits) - length if shift_amount else length - np.uint32(1)
        return np.where(length == 0, np.uint32(0xFFFFFFFF), found)

    return function_operation(function, "u32", (type_,), "integer")


def count_leading_zeros(modifiers: Modifiers) -> Operation:
    type_ = modifiers.type(("b32", "b64"))
    modifiers.end()
    bits = np.uint32(width(type_))
    return function_operation(lambda a: bits - bit_length(a), "u32", (type_,), "integer")


def count_ones(modifiers: Modifiers) -> Operation:
    type_ = modifiers.type(("b32", "b64"))
    modifiers.end()
    return ufunc_operation(np.bitwise_count, "u32", (type_,), "integer")


def reverse_bits(modifiers: Modifiers) -> Operation:
    type_ = modifiers.type(("b32", "b64"))
    modifiers.end()
    word = DTYPES[type_].type
    masks = {1: 0x5555555555555555, 2: 0x3333333333333333, 4: 0x0F0F0F0F0F0F0F0F}

    def function(a: np.ndarray) -> np.ndarray:
        for step, mask in masks.items():
            chosen = word(mask & (2 ** width(type_) - 1))
            a = ((a & chosen) << word(step)) | ((a >> word(step)) & chosen)
        return a.byteswap()

    return function_operation(function, type_, (type_,), "integer")


def find_nth_set(modifiers: Modifiers) -> Operation:
    """fns: the position of the offset-th set bit of a mask, from bit `base` upwards (downwards: offset < 0)."""
    modifiers.type(("b32",))
    modifiers.end()

    def function(mask: np.ndarray, base: np.ndarray, offset: np.ndarray) -> np.ndarray:
        mask, base, offset = np.broadcast_arrays(*map(np.atleast_1d, (mask, base, offset)))
        found = np.full(mask.shape, 0xFFFFFFFF, np.uint32)
        ones = (mask[:, np.newaxis] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
        position = np.arange(32)
        start = base[:, np.newaxis].astype(np.int64)
        upward = offset[:, np.newaxis] > 0
        reached = np.where(upward, position >= start, position <= start) & (ones == 1)
        # The rank of a bit is the number of set bits from the base to it, counted in the direction of the search.
        up_rank = np.cumsum(reached, axis=1)
        rank = np.where(upward, up_rank, up_rank[:, -1:] - up_rank + reached)
        wanted = np.abs(offset.astype(np.int64))[:, np.newaxis]
        hit = reached & (rank == wanted)
        hit |= (wanted == 0) & (position == start) & (ones == 1)
        any_hit = hit.any(axis=1)
        found[any_hit] = hit[any_hit].argmax(axis=1)
        return found

    return function_operation(function, "u32", ("b32", "u32", "s32"), "integer")


def bit_mask(modifiers: Modifiers) -> Operation:
    """bmsk: b ones from bit a on; positions and widths past 31 clamp or wrap."""
    modifiers.type(("b32",))
    clamps = modifiers.choice(("clamp", "wrap")) == "clamp"
    modifiers.end()
    word = np.uint32

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        start, count = a & word(31), b & word(31)
        above_start = ~word(0) << start
        above_end = np.where(count == 0, ~word(0), ~word(0) << (start + count))
        above_end = np.where(start + count >= 32, word(0), above_end)
        if clamps:
            above_start = np.where(a >= 32, word(0), above_start)
            above_end = np.where((a >= 32) | (b >= 32), word(0), above_end)
        return above_start & ~above_end

    return function_operation(function, "u32", ("u32", "u32"), "integer")


def extend(modifiers: Modifiers) -> Operation:
    """szext: the low b bits of a, sign- or zero-extended; a width past 31 clamps or wraps."""
    type_ = modifiers.type(("u32", "s32"))
    clamps = modifiers.choice(("clamp", "wrap")) == "clamp"
    modifiers.end()
    word = np.uint32

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        count = b & word(31)
        too_large = (b >= 32) if clamps else np.zeros(np.shape(b), bool)
        above = np.where(too_large, word(0), ~word(0) << count)
        if type_ == "u32":
            return a & ~above
        sign = (count > 0) & ~too_large & (((a >> ((count - word(1)) & word(31))) & word(1)) == 1)
        return (a & ~above) | np.where(sign, above, word(0))

    return function_operation(function, "u32", ("u32", "u32"), "integer")


# --- logic and shifts


def logic(modifiers: Modifiers) -> Operation:
    """and, or, xor, not, on predicates as well."""
    ufunc = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}[modifiers.opcode]
    type_ = modifiers.type(("pred", *BITS))
    modifiers.end()
    return ufunc_operation(ufunc, type_, (type_,) * (1 if modifiers.opcode == "not" else 2), "logic")


def logical_not(modifiers: Modifiers) -> Operation:
    """cnot: 1 where a is zero, else 0."""
    type_ = modifiers.type(BITS)
    modifiers.end()
    return function_operation(lambda a: a == 0, type_, (type_,), "logic")


def three_input_logic(modifiers: Modifiers) -> Operation:
    """lop3: any function of three bits, given by its table of eight; the table must be an immediate.

    The form lop3.BoolOp.b32 d|p, a, b, c, table, q also writes p = (d != 0) BoolOp q.
    """
    modifiers.type(("b32",))
    combine = modifiers.choice(("or", "and"), default="none")
    modifiers.end()

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray, table: np.ndarray) -> np.ndarray:
        entries = int(np.ravel(table)[0])
        result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), np.uint32)
        for index in range(8):
            if entries >> index & 1:
                result |= (a if index & 4 else ~a) & (b if index & 2 else ~b) & (c if index & 1 else ~c)
        return result

    sources = (DTYPES["b32"],) * 4
    if combine == "none":
        return function_operation(function, "b32", ("b32",) * 4, "logic")
    ufunc = np.logical_or if combine == "or" else np.logical_and

    def apply(d: np.ndarray, p: np.ndarray, *values: np.ndarray) -> None:
        result = function(*values[:4])
        p[...] = ufunc(result != 0, values[4])
        d[...] = result

    return Operation((DTYPES["b32"], BOOL), (*sources, BOOL), apply, "logic")


def shift(modifiers: Modifiers) -> Operation:
    """shl and shr; the count is unsigned, and the width or more shifts everything out."""
    left = modifiers.opcode == "shl"
    type_ = modifiers.type(BITS if left else (*BITS, *INTEGERS))
    modifiers.end()
    ufunc = np.left_shift if left else np.right_shift
    # Counts take the value's own kind and size where possible, so that the ufunc needs no conversion; NumPy reads
    # a negative count as a large one, as it must be here.
    if width(type_) == 32:
        return ufunc_operation(ufunc, type_, (type_, "s32" if type_ == "s32" else "u32"), "logic")
    dtype = DTYPES[type_]
    limit = np.uint32(width(type_))

    def function(a: np.ndarray, count: np.ndarray) -> np.ndarray:
        return ufunc(a, np.minimum(count, limit).astype(dtype))

    return function_operation(function, type_, (type_, "u32"), "logic")


def funnel_shift(modifiers: Modifiers) -> Operation:
    """shf: the upper (left) or lower (right) word of {b, a} shifted by c, which clamps at 32 or wraps."""
    modifiers.type(("b32",))
    direction = modifiers.choice(("l", "r"))
    clamps = modifiers.choice(("clamp", "wrap")) == "clamp"
    modifiers.end()

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        count = (np.minimum(c, np.uint32(32)) if clamps else c & np.uint32(31)).astype(np.uint64)
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        if direction == "l":
            return (both << count) >> np.uint64(32)
        return both >> count

    return function_operation(function, "b32", ("b32", "b32", "u32"), "logic")


# Which source byte (0 to 7 of {b, a}) each byte of the result takes, lowest first, by the low two bits of c.
PERMUTE_MODES = {
    "f4e": ((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 6)),
    "b4e": ((0, 7, 6, 5), (1, 0, 7, 6), (2, 1, 0, 7), (3, 2, 1, 0)),
    "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ecl": ((0, 1, 2, 3), (1, 1, 2, 3), (2, 2, 2, 3), (3, 3, 3, 3)),
    "ecr": ((0, 0, 0, 0), (0, 1, 1, 1), (0, 1, 2, 2), (0, 1, 2, 3)),
    "rc16": ((0, 1, 0, 1), (2, 3, 2, 3), (0, 1, 0, 1), (2, 3, 2, 3)),
}


def permute(modifiers: Modifiers) -> Operation:
    """prmt: four bytes picked from {b, a}, by four selectors of four bits, or by one of the named modes."""
    mode = modifiers.choice(tuple(PERMUTE_MODES), default="generic")
    modifiers.type(("b32",))
    modifiers.end()
    table = np.array(PERMUTE_MODES[mode], np.uint64) if mode != "generic" else None

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        if c.ndim == 0:
            return _permute_alike(a, b, int(c), mode)
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        result: Any = np.uint32(0)
        selector: Any
        for byte in range(4):
            if table is None:
                selector = (c >> np.uint32(4 * byte)) & np.uint32(15)
                index = (selector & np.uint32(7)).astype(np.uint64)
            else:
                selector = np.uint32(0)
                index = table[c & np.uint32(3), byte]
            value = ((both >> (index * np.uint64(8))) & np.uint64(0xFF)).astype(np.uint32)
            sign = np.where(value & np.uint32(0x80), np.uint32(0xFF), np.uint32(0))
            value = np.where(selector & np.uint32(8), sign, value)
            result = result | (value << np.uint32(8 * byte))
        return result

    return function_operation(function, "b32", ("b32", "b32", "b32"), "logic")


def _permute_alike(a: np.ndarray, b: np.ndarray, control: int, mode: str) -> np.ndarray:
    """prmt with one control for all lanes, the usual case: whole columns of bytes move."""
    lanes = max(a.size, b.size)
    columns = [np.ascontiguousarray(np.broadcast_to(word, lanes)).view(np.uint8).reshape(lanes, 4) for word in (a, b)]
    result = np.empty((lanes, 4), np.uint8)
    for byte in range(4):
        selector = control >> 4 * byte & 15 if mode == "generic" else PERMUTE_MODES[mode][control & 3][byte]
        column = columns[selector >> 2 & 1][:, selector & 3]
        result[:, byte] = np.where(column & 0x80, 0xFF, 0) if selector & 8 else column
    return result.view(np.uint32)[:, 0]
