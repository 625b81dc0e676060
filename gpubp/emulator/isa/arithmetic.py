"""Every lane-wise PTX instruction as a NumPy function: `operation(opcode, modifiers)`.

"Lane-wise" means that each thread's result depends on its own registers alone. The families are in integers.py,
bits.py, floats.py, comparisons.py and conversions.py; this is the table that leads to them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from gpubp.emulator.isa import bits, comparisons, conversions, floats, integers
from gpubp.emulator.isa.operations import Modifiers, Operation

__all__ = ["OPCODES", "Operation", "operation"]

INTEGER_OPCODES: dict[str, Callable[[Modifiers], Operation]] = {
    "add": integers.sum_or_difference,
    "sub": integers.sum_or_difference,
    "mul": integers.product,
    "mad": integers.product,
    "div": integers.quotient,
    "abs": integers.absolute,
    "neg": integers.negative,
    "min": integers.extremum,
    "max": integers.extremum,
    "addc": integers.sum_with_carry,
    "subc": integers.sum_with_carry,
    "madc": integers.product_with_carry,
    "mul24": integers.product24,
    "mad24": integers.product24,
    "rem": integers.quotient,
    "sad": integers.sum_of_absolute_differences,
    "dp4a": integers.dot_product,
    "dp2a": integers.dot_product,
    "bfe": bits.bit_field_extract,
    "bfi": bits.bit_field_insert,
    "bfind": bits.find_leading_bit,
    "clz": bits.count_leading_zeros,
    "popc": bits.count_ones,
    "brev": bits.reverse_bits,
    "fns": bits.find_nth_set,
    "bmsk": bits.bit_mask,
    "szext": bits.extend,
    "and": bits.logic,
    "or": bits.logic,
    "xor": bits.logic,
    "not": bits.logic,
    "cnot": bits.logical_not,
    "lop3": bits.three_input_logic,
    "shl": bits.shift,
    "shr": bits.shift,
    "shf": bits.funnel_shift,
    "prmt": bits.permute,
}
FLOAT_OPCODES: dict[str, Callable[[Modifiers], Operation]] = {
    "add": floats.arithmetic,
    "sub": floats.arithmetic,
    "mul": floats.arithmetic,
    "fma": floats.arithmetic,
    "mad": floats.arithmetic,
    "div": floats.arithmetic,
    "rcp": floats.arithmetic,
    "sqrt": floats.arithmetic,
    "rsqrt": floats.approximation,
    "sin": floats.approximation,
    "cos": floats.approximation,
    "ex2": floats.approximation,
    "lg2": floats.approximation,
    "tanh": floats.approximation,
    "abs": floats.sign_change,
    "neg": floats.sign_change,
    "min": floats.extremum,
    "max": floats.extremum,
    "copysign": floats.copy_sign,
    "testp": floats.test_property,
}
OTHER_OPCODES: dict[str, Callable[[Modifiers], Operation]] = {
    "selp": comparisons.select,
    "slct": comparisons.select_by_sign,
    "set": comparisons.set_value,
    "mov": comparisons.move,
    "cvt": conversions.convert,
}
OPCODES = frozenset((*INTEGER_OPCODES, *FLOAT_OPCODES, *OTHER_OPCODES, "setp"))


@functools.cache
def operation(opcode: str, modifiers: tuple[str, ...], pair: bool = False) -> Operation | None:
    """The operation of a lane-wise instruction, or None if the opcode is not lane-wise.

    Args:
        opcode: "fma"
        modifiers: ("rn", "ftz", "f32"); types included, in the order in which they stand.
        pair: whether the instruction names two destinations, as in `setp.lt.s32 p|q, a, b`.

    Raises UnsupportedInstruction, with the instruction as its text, for a lane-wise opcode whose modifiers are not
    supported. An instruction is never run with a modifier left out.
    """
    given = Modifiers(opcode, modifiers)
    if opcode == "setp":
        return comparisons.set_predicate(given, pair)
    if opcode in OTHER_OPCODES:
        return OTHER_OPCODES[opcode](given)
    is_float = bool(modifiers) and modifiers[-1] in (*floats.SCALARS, *floats.PACKED)
    family = FLOAT_OPCODES if is_float else INTEGER_OPCODES
    if opcode in family:
        return family[opcode](given)
    if opcode in OPCODES:
        raise given.unsupported()
    return None
