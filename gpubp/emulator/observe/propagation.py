"""How undefined bits pass through lane-wise instructions.

A mask of a value has the same size as the value: its bits are 1 where those of the value are undefined. The mask of a
result has a 1 at least wherever some choice of the undefined bits changes the result. Logic, shifts, bit fields,
permutations, selections and moves are followed bit by bit, sums and products from the lowest undefined bit upwards, and
comparisons of integers by the range of values that the bits allow. Everything else makes the whole result undefined, or
that half of a packed result that has an undefined operand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpubp.emulator.isa.operations import BOOL, Operation
from gpubp.emulator.program.ptx import Immediate, Instruction, Pair

Array = np.ndarray[Any, Any]
Rule = Callable[[Sequence[Array], Sequence[Array]], list[Array]]
"""Takes the values and the masks of the sources, raw bits both; returns the masks of the results."""

_CONTROLS: dict[str, tuple[int, ...]] = {
    "mov": (),
    "brev": (),
    "shl": (1,),
    "shr": (1,),
    "shf": (2,),
    "prmt": (2,),
    "bfe": (1, 2),
    "bfi": (2, 3),
    "szext": (1,),
    "slct": (2,),
}
"""Instructions that put bits elsewhere, and which of their operands say where: the masks go the way the bits go."""
_TABLES = {"and": 0b1000, "or": 0b1110, "xor": 0b0110, "not": 0b01}
"""The results of logic, from bit 0 on for operands of 0 0, 0 1, 1 0, 1 1."""
_PACKED = {"f16x2": "u2", "bf16x2": "u2", "u16x2": "u2", "s16x2": "u2", "f32x2": "u4"}
_INTEGERS = frozenset(f"{kind}{bits}" for kind in "usb" for bits in (16, 32, 64))
_ORDERS = {"lt": 0, "ge": 0, "lo": 0, "hs": 0, "le": 1, "gt": 1, "ls": 1, "hi": 1}
_SUMS = ("add", "sub", "addc", "subc", "neg", "mul", "mad", "madc")
_COPIES = frozenset(("mov", "and", "or", "shl", "shr", "shf", "prmt", "bfi", "selp", "slct", "cvt"))


def unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a mask for values of a dtype."""
    return dtype if dtype == BOOL else np.dtype(f"u{dtype.itemsize}")


def computes(instruction: Instruction) -> bool:
    """True for an instruction whose result is a number of its own, not a copy of its operands' bits or some of them.

    A compiler copies a struct by moves, shifts by whole bytes, and bit fields put into words. It takes numbers out of
    words by other shifts, masks of their low bits, and conversions to wider types.
    """
    opcode, modifiers = instruction.opcode, instruction.modifiers
    if opcode not in _COPIES:
        return True
    constants = [operand.value for operand in instruction.operands[1:] if isinstance(operand, Immediate)]
    if opcode == "and":
        return any(value > 0 and value & (value + 1) == 0 for value in constants)
    if opcode == "shr":
        return not constants or constants[-1] % 8 != 0
    if opcode == "cvt":
        to, source = modifiers[-2:]
        return not _is_integer_conversion(instruction) or int(to[1:]) > int(source[1:])
    return False


def rule(instruction: Instruction, found: Operation) -> Rule:
    """Return the rule of a lane-wise instruction."""
    opcode, modifiers = instruction.opcode, instruction.modifiers
    kind = modifiers[-1]
    if opcode in _CONTROLS or _is_integer_conversion(instruction):
        return _moving(found, _CONTROLS.get(opcode, ()))
    if opcode in _TABLES:
        return _logic(_TABLES[opcode], len(found.sources))
    if opcode == "lop3" and isinstance(instruction.operands[4], Immediate) and len(found.results) == 1:
        return _logic(instruction.operands[4].value, 3)
    if opcode == "selp":
        return _select
    if opcode in ("setp", "set") and kind in _INTEGERS and found.results[0] == BOOL:
        return _comparison(instruction)
    if opcode in _SUMS and kind in _INTEGERS and not {"sat", "hi"} & set(modifiers):
        return _sum(found)
    if opcode == "cvt" and modifiers[-2] in ("f16x2", "bf16x2") and len(found.sources) == 2:
        return _packing
    if kind in _PACKED and all(d.itemsize == found.results[0].itemsize for d in (*found.sources, *found.results)):
        return _by_element(np.dtype(_PACKED[kind]))
    return _whole(found)


def _is_integer_conversion(instruction: Instruction) -> bool:
    kinds = instruction.modifiers[-2:]
    return instruction.opcode == "cvt" and "sat" not in instruction.modifiers and all(k[0] in "us" for k in kinds)


def all_or_none(some: Array, dtype: np.dtype[Any]) -> Array:
    """Return masks of all bits where `some` is true."""
    return some.astype(BOOL) if dtype == BOOL else (np.uint64(0) - some.astype(np.uint64)).astype(unsigned(dtype))


def _any(masks: Sequence[Array]) -> Array:
    some = masks[0] != 0
    for mask in masks[1:]:
        some = some | (mask != 0)
    return some


def _whole(found: Operation) -> Rule:
    results = [*found.results, *([BOOL] if found.carry_out else [])]
    return lambda values, masks: [all_or_none(_any(masks), dtype) for dtype in results]


def _moving(found: Operation, controls: tuple[int, ...]) -> Rule:
    result = found.results[0]

    def masks_of(values: Sequence[Array], masks: Sequence[Array]) -> list[Array]:
        moving = [values[index] if index in controls else mask for index, mask in enumerate(masks)]
        moved = np.zeros(np.broadcast_shapes((1,), *(x.shape for x in moving)), result)
        found.apply(moved, *(x.view(dtype) for x, dtype in zip(moving, found.sources, strict=True)))
        moved = moved.view(unsigned(result))
        if not controls:
            return [moved]
        return [moved | all_or_none(_any([masks[index] for index in controls]), result)]

    return masks_of


def _logic(table: int, operands: int) -> Rule:
    """Rule of a function of single bits: one is undefined if the operands may have a 0 and a 1 of the table."""

    def masks_of(values: Sequence[Array], masks: Sequence[Array]) -> list[Array]:
        may = [(~value | mask, value | mask) for value, mask in zip(values[:operands], masks[:operands], strict=True)]
        reached: list[Array] = [np.zeros_like(masks[0]), np.zeros_like(masks[0])]
        for entry in range(1 << operands):
            fits = may[0][entry >> operands - 1 & 1]
            for place in range(1, operands):
                fits = fits & may[place][entry >> operands - 1 - place & 1]
            result = table >> entry & 1
            reached[result] = reached[result] | fits
        return [reached[0] & reached[1]]

    return masks_of


def _select(values: Sequence[Array], masks: Sequence[Array]) -> list[Array]:
    (a, b, chosen), (mask_a, mask_b, unknown) = values, masks
    either = mask_a | mask_b | (a ^ b)
    return [np.where(unknown, either, np.where(chosen, mask_a, mask_b))]


def _sum(found: Operation) -> Rule:
    """Rule of sums and products: a bit of the result depends on operands' bits up to its own place."""
    result = unsigned(found.results[0])

    def masks_of(values: Sequence[Array], masks: Sequence[Array]) -> list[Array]:
        union = masks[0].astype(result)
        for mask in masks[1:]:
            union = union | mask.astype(result)
        above = union | (~union + result.type(1))
        return [above, _any(masks)] if found.carry_out else [above]

    return masks_of


def _comparison(instruction: Instruction) -> Rule:
    """Rule of setp on integers, also combined with a predicate or with two results."""
    modifiers, kind = instruction.modifiers, instruction.modifiers[-1]
    results = 2 if isinstance(instruction.operands[0], Pair) else 1
    combine = next((name for name in modifiers if name in ("and", "or", "xor")), "")
    order = next((_ORDERS[name] for name in modifiers if name in _ORDERS), None)

    def masks_of(values: Sequence[Array], masks: Sequence[Array]) -> list[Array]:
        (a, b), (mask_a, mask_b) = values[:2], masks[:2]
        unknown = (mask_a | mask_b) != 0
        if order is None:
            unknown = unknown & ((a ^ b) & ~(mask_a | mask_b) == 0)
        else:
            sign = a.dtype.type(1 << 8 * a.itemsize - 1 if kind[0] == "s" else 0)
            (low_a, high_a), (low_b, high_b) = (
                ((x ^ sign) & ~mask, (x ^ sign) | mask) for x, mask in ((a, mask_a), (b, mask_b))
            )
            if order == 0:
                unknown = unknown & ~((high_a < low_b) | (low_a >= high_b))
            else:
                unknown = unknown & ~((high_a <= low_b) | (low_a > high_b))
        if combine:
            value, mask = values[2], masks[2]
            unknown = unknown | mask
            if combine == "and":
                unknown = unknown & (value | mask)
            elif combine == "or":
                unknown = unknown & (~value | mask)
        return [unknown] * results

    return masks_of


def _packing(values: Sequence[Array], masks: Sequence[Array]) -> list[Array]:
    """Rule of cvt.f16x2: the first operand becomes the upper half."""
    upper, lower = (all_or_none(mask != 0, np.dtype(np.uint16)).astype(np.uint32) for mask in masks)
    return [upper << np.uint32(16) | lower]


def _by_element(element: np.dtype[Any]) -> Rule:
    def masks_of(values: Sequence[Array], masks: Sequence[Array]) -> list[Array]:
        union = masks[0]
        for mask in masks[1:]:
            union = union | mask
        parts = np.ascontiguousarray(np.atleast_1d(union))
        halves = parts.view(element)
        return [all_or_none(halves != 0, element).view(parts.dtype)]

    return masks_of
