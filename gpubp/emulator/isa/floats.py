"""Floating-point instructions in float32, float64, float16, bfloat16 and packed pairs (PTX ISA, "Floating-Point",
"Half Precision Floating-Point" and "Mixed Precision Floating-Point Instructions").

Nearest rounding in float32 and float64 runs as one ufunc. Everything else is computed in float64, rounded to odd, and
rounded again to its format and direction (rounding.py), so that add, sub, mul, fma, div, rcp and sqrt are correctly
rounded in every mode. Directed roundings in float64 are exact too, but slow: Python integers, lane by lane.

A mul and an add without a rounding modifier stay two roundings here; ptxas is free to fuse them into one fma.

NaN: an instruction that computes gives the canonical NaN (compiled.py); abs, neg, copysign and moves keep the payload.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpubp.emulator.isa.compiled import compiled
from gpubp.emulator.isa.directed import directed
from gpubp.emulator.isa.operations import (
    BOOL,
    DTYPES,
    Modifiers,
    Operation,
    function_operation,
    on_pairs,
    ufunc_operation,
)
from gpubp.emulator.isa.rounding import BF16, F16, F32, F64, Format, decode, encode, round_to, to_odd

FORMATS = {"f16": F16, "bf16": BF16, "f32": F32, "f64": F64}
SCALARS = tuple(FORMATS)
PACKED = {"f16x2": "f16", "bf16x2": "bf16", "f32x2": "f32"}
PACKED_HALVES = ("f16x2", "bf16x2")
ROUNDINGS = ("rn", "rz", "rm", "rp")
ARITY = {"add": 2, "sub": 2, "mul": 2, "fma": 3, "mad": 3, "div": 2, "rcp": 1, "sqrt": 1}
UFUNC_NAMES = {"add": "add", "sub": "subtract", "mul": "multiply", "fma": "fma", "mad": "fma"}


# --- float64 results, rounded to odd, of operands from a narrower format


def odd_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b, its rounding error found exactly (Knuth's TwoSum)."""
    head = a + b
    b_part = head - a
    tail = (a - (head - b_part)) + (b - b_part)
    return to_odd(head, tail)


def odd_fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return odd_sum(a * b, c)  # products of 24-bit operands are exact


def odd_quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    head = a / b
    remainder = compiled("fma")(-head, b, a)
    return to_odd(head, np.where(np.isfinite(remainder), remainder * np.sign(b), 0.0))


def odd_reciprocal(a: np.ndarray) -> np.ndarray:
    return odd_quotient(np.ones_like(a), a)


def odd_square_root(a: np.ndarray) -> np.ndarray:
    head = np.sqrt(a)
    remainder = compiled("fma")(-head, head, a)
    return to_odd(head, np.where(np.isfinite(remainder), remainder, 0.0))


ODD: dict[str, Callable[..., np.ndarray]] = {
    "add": odd_sum,
    "sub": lambda a, b: odd_sum(a, -b),
    "mul": np.multiply,
    "fma": odd_fma,
    "mad": odd_fma,
    "div": odd_quotient,
    "rcp": odd_reciprocal,
    "sqrt": odd_square_root,
}


def zero_sum_sign(opcode: str, values: list[np.ndarray], result: np.ndarray) -> np.ndarray:
    """Rounding down, an exact zero sum is negative unless both terms are +0 (IEEE 754, 6.3)."""
    if opcode == "add":
        terms = values
    elif opcode == "sub":
        terms = [values[0], -values[1]]
    elif opcode in ("fma", "mad"):
        terms = [values[0] * values[1], values[2]]
    else:
        return result
    negative = np.signbit(terms[0]) | np.signbit(terms[1])
    exactly_zero = (result == 0) & (terms[0] + terms[1] == 0)
    return np.where(exactly_zero, np.where(negative, -0.0, 0.0), result)


# --- what modifiers do to operands and results


def flush(values: np.ndarray, source: Format) -> np.ndarray:
    """.ftz: subnormals become zeros of the same sign."""
    return values * (np.abs(values) >= source.smallest_normal)


def saturate(values: np.ndarray) -> np.ndarray:
    """.sat: into [0, 1], NaN to +0."""
    return np.where(values > 0, np.minimum(values, 1.0), 0.0)


def rectify(values: np.ndarray) -> np.ndarray:
    """.relu: negative values and -0 become +0; NaN stays."""
    return np.where(values <= 0, 0.0, values)


def float_operation(function: Callable[..., np.ndarray], type_: str, arity: int, kind: str, flops: int) -> Operation:
    """An operation of a function on registers of the scalar type, applied to each half of a packed one."""
    if type_ in PACKED:
        return function_operation(on_pairs(function, DTYPES[PACKED[type_]]), type_, (type_,) * arity, kind, 2 * flops)
    return function_operation(function, type_, (type_,) * arity, kind, flops)


# --- arithmetic


def arithmetic(modifiers: Modifiers) -> Operation:
    """add, sub, mul, fma, mad, div, rcp, sqrt, correctly rounded; and the approximate forms of the last three."""
    opcode = modifiers.opcode
    type_ = modifiers.type((*SCALARS, *PACKED))
    scalar = PACKED.get(type_, type_)
    if opcode in ("div", "rcp", "sqrt"):
        if type_ not in ("f32", "f64"):
            raise modifiers.unsupported()
        if modifiers.flag("approx") or (opcode == "div" and modifiers.flag("full")):
            return approximate_quotient(modifiers, type_)
    if opcode == "mad" and type_ not in ("f32", "f64"):
        raise modifiers.unsupported()
    modes = ("rn",) if scalar in ("f16", "bf16") else ROUNDINGS
    # Only sums and products may leave the mode out.
    mode = modifiers.choice(modes, default="rn" if opcode in ("add", "sub", "mul") else None)
    ftz = scalar in ("f32", "f16") and modifiers.flag("ftz")
    sat = type_ in ("f32", "f16", "f16x2") and opcode in ("add", "sub", "mul", "fma", "mad") and modifiers.flag("sat")
    relu = opcode == "fma" and scalar in ("f16", "bf16") and not sat and modifiers.flag("relu")
    modifiers.end()
    kind = "fma" if opcode in ("fma", "mad") else "float"
    flops = 2 if kind == "fma" else 1
    arity = ARITY[opcode]
    plain = mode == "rn" and not (ftz or sat)
    if plain and scalar in ("f32", "f64"):
        if type_ in ("f32", "f64") and opcode in UFUNC_NAMES:
            return ufunc_operation(compiled(UFUNC_NAMES[opcode]), type_, (type_,) * arity, kind, flops)
        return float_operation(nearest(opcode, FORMATS[scalar]), type_, arity, kind, flops)
    if scalar == "f64":
        return float_operation(directed(opcode, mode), type_, arity, kind, flops)
    return float_operation(rounded(opcode, FORMATS[scalar], mode, ftz, sat, relu), type_, arity, kind, flops)


def nearest(opcode: str, format_: Format) -> Callable[..., np.ndarray]:
    """The nearest result in float32 or float64, by the CPU's own instruction."""
    if opcode in UFUNC_NAMES:
        return compiled(UFUNC_NAMES[opcode])
    one = np.float32(1) if format_ is F32 else np.float64(1)
    functions: dict[str, Callable[..., np.ndarray]] = {
        "div": np.divide,
        "rcp": lambda a: one / a,
        "sqrt": np.sqrt,
    }
    function = functions[opcode]
    if format_ is F64:
        return lambda *values: encode(function(*values), F64)
    return lambda *values: canonical_float32(function(*values))


def canonical_float32(values: np.ndarray) -> np.ndarray:
    """The values, every NaN the canonical one."""
    return np.where(values == values, values, _NAN)


_NAN = np.array(0x7FFFFFFF, np.uint32).view(np.float32)[()]


def rounded(opcode: str, format_: Format, mode: str, ftz: bool, sat: bool, relu: bool) -> Callable[..., np.ndarray]:
    """The function on registers of a format narrower than float64."""
    odd = ODD[opcode]

    def function(*registers: np.ndarray) -> np.ndarray:
        values = [decode(register, format_) for register in registers]
        if ftz:
            values = [flush(value, format_) for value in values]
        result = round_to(odd(*values), format_, mode)
        if mode == "rm":
            result = zero_sum_sign(opcode, values, result)
        if ftz:
            result = flush(result, format_)
        if sat:
            result = saturate(result)
        if relu:
            result = rectify(result)
        return encode(result, format_)

    return function


# --- approximate functions


def approximate_quotient(modifiers: Modifiers, type_: str) -> Operation:
    """div.approx, div.full, rcp.approx, sqrt.approx."""
    ftz = modifiers.flag("ftz")
    if type_ == "f64" and not (modifiers.opcode == "rcp" and ftz):
        raise modifiers.unsupported()
    modifiers.end()
    functions: dict[str, Callable[..., np.ndarray]] = {
        "div": np.divide,
        "rcp": lambda a: 1.0 / a,
        "sqrt": np.sqrt,
    }
    function = functions[modifiers.opcode]
    if type_ == "f64":
        return function_operation(upper_half(function), "f64", ("f64",), "special", 1)
    arity = ARITY[modifiers.opcode]
    return float_operation(in_float64(function, F32, ftz), "f32", arity, "special", 1)


def approximation(modifiers: Modifiers) -> Operation:
    """rsqrt, sin, cos, ex2, lg2, tanh: computed in float64 and rounded to nearest, so more accurate than the hardware's
    (whose error the ISA bounds: about 2**-21 to 2**-22 relative in float32, 2**-11 for tanh)."""
    opcode = modifiers.opcode
    half_types = (*PACKED_HALVES, "f16", "bf16") if opcode in ("ex2", "tanh") else ()
    type_ = modifiers.type(("f32", *half_types, *(("f64",) if opcode == "rsqrt" else ())))
    modifiers.choice(("approx",))
    scalar = PACKED.get(type_, type_)
    if scalar == "bf16" and opcode == "ex2":
        modifiers.choice(("ftz",))  # the only form there is
        ftz = True
    else:
        ftz = type_ == "f64" or (type_ == "f32" and opcode != "tanh") or (opcode == "ex2" and scalar == "f16")
        ftz = ftz and modifiers.flag("ftz")
    modifiers.end()
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "rsqrt": lambda a: 1.0 / np.sqrt(a),
        "sin": np.sin,
        "cos": np.cos,
        "ex2": np.exp2,
        "lg2": np.log2,
        "tanh": np.tanh,
    }
    function = functions[opcode]
    if type_ == "f64":
        result = upper_half(function) if ftz else lambda a: encode(function(a), F64)
        return function_operation(result, "f64", ("f64",), "special", 1)
    return float_operation(in_float64(function, FORMATS[scalar], ftz), type_, 1, "special", 1)


def in_float64(function: Callable[..., np.ndarray], format_: Format, ftz: bool) -> Callable[..., np.ndarray]:
    """The function evaluated in float64, its result rounded to the nearest of the format."""
    if format_ is F32:
        return lambda *values: canonical_float32(_through_float64(function, values, ftz))

    def evaluate(*registers: np.ndarray) -> np.ndarray:
        values = [decode(register, format_) for register in registers]
        if ftz:
            values = [flush(value, format_) for value in values]
        result = round_to(function(*values), format_, "rn")
        return encode(flush(result, format_) if ftz else result, format_)

    return evaluate


def _through_float64(function: Callable[..., np.ndarray], values: Sequence[np.ndarray], ftz: bool) -> np.ndarray:
    given = [flush(value, F32) if ftz else value for value in values]
    result = function(*(value.astype(np.float64) for value in given)).astype(np.float32)
    return flush(result, F32) if ftz else result


def upper_half(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The gross approximations in float64: only the upper 32 bits of operand and result count, subnormals are zero."""
    mask = np.uint64(0xFFFFFFFF00000000)

    def evaluate(a: np.ndarray) -> np.ndarray:
        a = flush((a.view(np.uint64) & mask).view(np.float64), F64)
        result = flush(encode(function(a), F64), F64)
        return (result.view(np.uint64) & mask).view(np.float64)

    return evaluate


# --- sign, extremes, properties


def sign_change(modifiers: Modifiers) -> Operation:
    """abs and neg: the sign bit cleared or flipped, the payload of a NaN kept."""
    type_ = modifiers.type((*SCALARS, *PACKED_HALVES))
    scalar = PACKED.get(type_, type_)
    ftz = scalar in ("f32", "f16") and modifiers.flag("ftz")
    modifiers.end()
    if type_ in ("f32", "f64"):
        ufunc = np.absolute if modifiers.opcode == "abs" else np.negative
        if not ftz:
            return ufunc_operation(ufunc, type_, (type_,), "float")
        return function_operation(lambda a: ufunc(flush_register(a, F32)), type_, (type_,), "float")
    word = DTYPES[type_].type
    sign = word(0x8000 if type_ in SCALARS else 0x80008000)

    def function(a: np.ndarray) -> np.ndarray:
        if ftz:
            a = flush_packed(a, type_) if type_ in PACKED else flush_register(a, F16)
        return a & ~sign if modifiers.opcode == "abs" else a ^ sign

    return function_operation(function, type_, (type_,), "float")


def flush_register(register: np.ndarray, source: Format) -> np.ndarray:
    """.ftz on a float32 or float16 register, bits of NaN kept."""
    if source is F32:
        return np.where(np.abs(register) < np.float32(2.0**-126), np.copysign(np.float32(0), register), register)
    return np.where(register & np.uint16(0x7C00), register, register & np.uint16(0x8000))


def flush_packed(words: np.ndarray, type_: str) -> np.ndarray:
    return on_pairs(lambda halves: flush_register(halves, F16), DTYPES[PACKED[type_]])(words)


def extremum(modifiers: Modifiers) -> Operation:
    """min and max: a NaN loses, or wins with .NaN; -0 < +0; .xorsign.abs compares magnitudes and gives the product's
    sign."""
    type_ = modifiers.type((*SCALARS, *PACKED_HALVES))
    scalar = PACKED.get(type_, type_)
    ufunc = compiled("minimum" if modifiers.opcode == "min" else "maximum")
    ftz = scalar in ("f32", "f16") and modifiers.flag("ftz")
    nan_wins = scalar != "f64" and modifiers.flag("NaN")
    xorsign = scalar != "f64" and modifiers.flag("xorsign")
    if xorsign:
        modifiers.choice(("abs",))
    modifiers.end()
    if type_ in ("f32", "f64") and not (ftz or nan_wins or xorsign):
        return ufunc_operation(ufunc, type_, (type_, type_), "float", 1)
    format_ = FORMATS[scalar]

    def function(*registers: np.ndarray) -> np.ndarray:
        a, b = (decode(register, format_) for register in registers)
        if ftz:
            a, b = flush(a, format_), flush(b, format_)
        negative = np.signbit(a) ^ np.signbit(b)
        result = ufunc(np.abs(a), np.abs(b)) if xorsign else ufunc(a, b)
        if nan_wins:
            result = np.where(np.isnan(a) | np.isnan(b), np.nan, result)
        if xorsign:
            result = np.where(negative, -result, result)
        return encode(result, format_)

    return float_operation(function, type_, 2, "float", 1)


def copy_sign(modifiers: Modifiers) -> Operation:
    """copysign d, a, b: b with the sign of a."""
    type_ = modifiers.type(("f32", "f64"))
    modifiers.end()
    return ufunc_operation(lambda a, b, out: np.copysign(b, a, out=out), type_, (type_, type_), "float")


def test_property(modifiers: Modifiers) -> Operation:
    """testp: a property of a float as a predicate; zeros count as normal."""
    type_ = modifiers.type(("f32", "f64"))
    name = modifiers.choice(("finite", "infinite", "number", "notanumber", "normal", "subnormal"))
    modifiers.end()
    smallest = DTYPES[type_].type(FORMATS[type_].smallest_normal)
    tests: dict[str, Callable[[np.ndarray], Any]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: a == a,
        "notanumber": lambda a: a != a,
        "normal": lambda a: np.isfinite(a) & ((np.abs(a) >= smallest) | (a == 0)),
        "subnormal": lambda a: (np.abs(a) < smallest) & (a != 0),
    }
    test = tests[name]

    def apply(p: np.ndarray, a: np.ndarray) -> None:
        p[...] = test(a)

    return Operation((BOOL,), (DTYPES[type_],), apply, "compare")
