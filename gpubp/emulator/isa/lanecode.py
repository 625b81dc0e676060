"""The commonest lane-wise instructions as LLVM code for one lane, of which `device/fused.py` makes loops over lanes.

Each gives the bits that the function of `operation` gives: a test holds them against each other and against the scalar
model. Sources and results have the types of its dtypes: i1 for bool, integers, float and double. Nothing here divides
integers or depends on the order of lanes, and no flag lets LLVM change a float's value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from gpubp.emulator.isa.compiled import CANONICAL_NAN_BITS
from gpubp.emulator.isa.integers import INTEGERS, SIGNED, WIDER, width

BIT = ir.IntType(1)
Value = Any  # an ir.Value: llvmlite has no types
Emit = Callable[..., Sequence[Value]]
"""A function of (builder, *sources) that emits the instruction and returns its results."""

BITS = ("b16", "b32", "b64")
FLOATS = ("f32", "f64")


def lane_code(opcode: str, modifiers: tuple[str, ...], pair: bool = False) -> Emit | None:
    """Return what emits an instruction, or None if it has no code here.

    Args:
        opcode: "fma"
        modifiers: ("rn", "f32"); types included, in the order in which they stand.
        pair: whether the instruction names two destinations, as in `setp.lt.s32 p|q, a, b`.
    """
    if not modifiers:
        return None
    if opcode in _FLUSHING and modifiers[-1] == "f32" and "ftz" in modifiers and not {"approx", "full"} & {*modifiers}:
        return _flushing(lane_code(opcode, tuple(m for m in modifiers if m != "ftz"), pair))
    if opcode == "setp":
        return _set_predicate(modifiers, pair)
    if opcode == "cvt":
        return None if pair or len(modifiers) < 2 else _conversion(modifiers[:-2], modifiers[-2], modifiers[-1])
    *flags, type_ = modifiers
    family = _FLOAT_CODE if type_ in FLOATS and opcode not in ("mov", "selp") else _CODE
    make = family.get(opcode)
    if make is None or pair:
        return None
    emit = make(opcode, tuple(flags), type_)
    return None if emit is None else lambda builder, *sources: (emit(builder, *sources),)


_FLUSHING = ("add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt", "min", "max", "abs", "neg", "setp")
"""Instructions whose .ftz in float32 means the same: zeros for subnormal sources, and for subnormal results. That of
the approximate ones is a part of their code."""


def _flushing(emit: Emit | None) -> Emit | None:
    """Return an instruction with .ftz, given the one without."""
    if emit is None:
        return None

    def flushed(b: Any, value: Value) -> Value:
        return _flushed(b, value) if value.type == ir.FloatType() else value

    return lambda b, *sources: tuple(flushed(b, each) for each in emit(b, *(flushed(b, each) for each in sources)))


def llvm_type(dtype: np.dtype[Any]) -> Any:
    """Return the type of a source or result of this dtype."""
    if dtype.kind == "b":
        return BIT
    if dtype.kind == "f":
        return ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
    return ir.IntType(8 * dtype.itemsize)


Single = Callable[..., Value] | None


# --- integers


def _integer(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    """add, sub, min, max, neg, abs."""
    if flags or type_ not in INTEGERS:
        return None
    compare = ir.IRBuilder.icmp_signed if type_ in SIGNED else ir.IRBuilder.icmp_unsigned
    emit: dict[str, Callable[..., Value]] = {
        "add": lambda b, x, y: b.add(x, y),
        "sub": lambda b, x, y: b.sub(x, y),
        "min": lambda b, x, y: b.select(compare(b, "<", x, y), x, y),
        "max": lambda b, x, y: b.select(compare(b, ">", x, y), x, y),
        "neg": lambda b, x: b.neg(x),
        "abs": lambda b, x: b.select(b.icmp_signed("<", x, ir.Constant(x.type, 0)), b.neg(x), x),
    }
    return emit[opcode]


def _product(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    """mul and mad: the low, high or full product."""
    if type_ not in INTEGERS or len(flags) != 1 or flags[0] not in ("lo", "hi", "wide"):
        return None
    (part,) = flags
    if part == "wide" and type_ not in WIDER:
        return None
    bits = width(type_)

    def product(b: Any, x: Value, y: Value) -> Value:
        if part == "lo":
            return b.mul(x, y)
        wide = ir.IntType(2 * bits)
        extend = b.sext if type_ in SIGNED else b.zext
        whole = b.mul(extend(x, wide), extend(y, wide))
        return whole if part == "wide" else b.trunc(b.lshr(whole, ir.Constant(wide, bits)), x.type)

    return product if opcode == "mul" else lambda b, x, y, z: b.add(product(b, x, y), z)


def _logic(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    if flags or type_ not in ("pred", *BITS):
        return None
    emit: dict[str, Callable[..., Value]] = {
        "and": lambda b, x, y: b.and_(x, y),
        "or": lambda b, x, y: b.or_(x, y),
        "xor": lambda b, x, y: b.xor(x, y),
        "not": lambda b, x: b.not_(x),
    }
    return emit[opcode]


def _shift(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    """shl and shr: a count of the width or more gives zero, or the sign."""
    if flags or type_ not in (BITS if opcode == "shl" else (*BITS, *INTEGERS)):
        return None

    def shift(b: Any, x: Value, count: Value) -> Value:
        beyond = b.icmp_unsigned(">=", count, ir.Constant(count.type, x.type.width))
        amount = count
        if count.type.width < x.type.width:
            amount = b.zext(count, x.type)
        elif count.type.width > x.type.width:
            amount = b.trunc(count, x.type)
        if type_ in SIGNED:
            return b.ashr(x, b.select(beyond, ir.Constant(x.type, x.type.width - 1), amount))
        moved = b.shl(x, amount) if opcode == "shl" else b.lshr(x, amount)
        return b.select(beyond, ir.Constant(x.type, 0), moved)

    return shift


def _three_input_logic(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    """lop3, its table an immediate."""
    if flags or type_ != "b32":
        return None

    def logic(b: Any, x: Value, y: Value, z: Value, table: Value) -> Value:
        result = ir.Constant(x.type, 0)
        for index in range(8):
            if table.constant >> index & 1:
                term = b.and_(x if index & 4 else b.not_(x), y if index & 2 else b.not_(y))
                result = b.or_(result, b.and_(term, z if index & 1 else b.not_(z)))
        return result

    return logic


def _funnel_shift(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    if len(flags) != 2 or flags[0] not in ("l", "r") or flags[1] != "wrap" or type_ != "b32":
        return None
    name = f"llvm.fsh{flags[0]}"
    return lambda b, low, high, count: _intrinsic(b, name, high.type, high, low, count)


def _select(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    return None if flags else lambda b, x, y, p: b.select(p, x, y)


def _move(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    return None if flags else lambda b, x: x


# --- floats


def canonical(b: Any, value: Value) -> Value:
    """The value, or the canonical NaN of its type; chosen among integers, as LLVM takes any NaN for any other."""
    bits = ir.IntType(32 if value.type == ir.FloatType() else 64)
    nan = ir.Constant(bits, CANONICAL_NAN_BITS[str(value.type)])
    chosen = b.select(b.fcmp_unordered("uno", value, value), nan, b.bitcast(value, bits))
    return b.bitcast(chosen, value.type)


def _negative(b: Any, value: Value) -> Value:
    """True if the sign bit is set."""
    bits = ir.IntType(32 if value.type == ir.FloatType() else 64)
    return b.icmp_signed("<", b.bitcast(value, bits), ir.Constant(bits, 0))


def _arithmetic(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    """add, sub, mul, fma, mad, div, rcp, sqrt, rounded to nearest; sums and products of float32 in any mode; the
    approximate forms of the last three and of rsqrt, which are computed in float64 and rounded."""
    if "approx" in flags or "full" in flags:
        return _approximation(opcode, flags, type_)
    mode, *sat = flags or ("rn",)
    if not flags and opcode not in ("add", "sub", "mul"):
        return None
    if sat not in ([], ["sat"]) or (sat and type_ != "f32"):
        return None
    if mode in ("rz", "rm", "rp") and type_ == "f32" and opcode in ("add", "sub", "mul", "fma", "mad"):
        rounded: Callable[..., Value] = _directed(opcode, mode)
    elif mode == "rn":
        rounded = _EXACT[opcode]
    else:
        return None
    return lambda b, *sources: canonical(b, _saturated(b, rounded(b, *sources)) if sat else rounded(b, *sources))


_EXACT: dict[str, Callable[..., Value]] = {
    "add": lambda b, x, y: b.fadd(x, y),
    "sub": lambda b, x, y: b.fsub(x, y),
    "mul": lambda b, x, y: b.fmul(x, y),
    "fma": lambda b, x, y, z: b.fma(x, y, z),
    "mad": lambda b, x, y, z: b.fma(x, y, z),
    "div": lambda b, x, y: b.fdiv(x, y),
    "rcp": lambda b, x: b.fdiv(ir.Constant(x.type, 1.0), x),
    "sqrt": lambda b, x: _intrinsic(b, "llvm.sqrt", x.type, x),
    "rsqrt": lambda b, x: b.fdiv(ir.Constant(x.type, 1.0), _intrinsic(b, "llvm.sqrt", x.type, x)),
}


def _saturated(b: Any, value: Value) -> Value:
    """.sat: into [0, 1], NaN to +0."""
    zero, one = ir.Constant(value.type, 0.0), ir.Constant(value.type, 1.0)
    most = b.select(b.fcmp_ordered("<", value, one), value, one)
    return b.select(b.fcmp_ordered(">", value, zero), most, zero)


def _approximation(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    kinds = ("approx", "full") if opcode == "div" else ("approx",)
    if (
        type_ != "f32"
        or opcode not in ("div", "rcp", "sqrt")
        or flags[0] not in kinds
        or flags[1:] not in ((), ("ftz",))
    ):
        return None
    ftz = len(flags) > 1

    def approximate(b: Any, *sources: Value) -> Value:
        wide = [b.fpext(_flushed(b, x) if ftz else x, ir.DoubleType()) for x in sources]
        result = b.fptrunc(_EXACT[opcode](b, *wide), ir.FloatType())
        return canonical(b, _flushed(b, result) if ftz else result)

    return approximate


def _flushed(b: Any, value: Value) -> Value:
    """.ftz: a subnormal float32 becomes the zero of its sign."""
    bits = ir.IntType(32)
    raw = b.bitcast(value, bits)
    exponent = b.and_(raw, ir.Constant(bits, 0x7F800000))
    zero = b.and_(raw, ir.Constant(bits, 0x80000000))
    return b.bitcast(b.select(b.icmp_unsigned("==", exponent, ir.Constant(bits, 0)), zero, raw), value.type)


def _directed(opcode: str, mode: str) -> Callable[..., Value]:
    """A sum or product of float32, rounded in a direction: from float64 rounded to odd, as in floats.py."""

    def rounded(b: Any, *sources: Value) -> Value:
        wide = [b.fpext(x, ir.DoubleType()) for x in sources]
        if opcode == "sub":
            wide[1] = b.fneg(wide[1])
        terms = wide if opcode in ("add", "sub") else [b.fmul(wide[0], wide[1]), *wide[2:]]
        exact = terms[0] if len(terms) == 1 else _odd_sum(b, *terms)
        result = _towards(b, b.fptrunc(exact, ir.FloatType()), exact, mode)
        if mode != "rm" or len(terms) == 1:
            return result
        zero = ir.Constant(ir.DoubleType(), 0.0)  # an exact zero sum is negative unless both terms are +0
        vanishes = b.fcmp_ordered("==", b.fadd(*terms), zero)
        negative = b.or_(_negative(b, terms[0]), _negative(b, terms[1]))
        signed = b.select(negative, ir.Constant(ir.FloatType(), -0.0), ir.Constant(ir.FloatType(), 0.0))
        return b.select(vanishes, signed, result)

    return rounded


def _odd_sum(b: Any, x: Value, y: Value) -> Value:
    """x + y in float64, rounded to odd: its error is found exactly (Knuth's TwoSum)."""
    head = b.fadd(x, y)
    part = b.fsub(head, x)
    tail = b.fadd(b.fsub(x, b.fsub(head, part)), b.fsub(y, part))
    zero = ir.Constant(head.type, 0.0)
    raw = b.bitcast(head, ir.IntType(64))
    even = b.icmp_unsigned("==", b.and_(raw, ir.Constant(raw.type, 1)), ir.Constant(raw.type, 0))
    infinity = ir.Constant(raw.type, 0x7FF << 52)
    finite = b.icmp_unsigned("!=", b.and_(raw, infinity), infinity)
    moves = b.and_(b.and_(b.fcmp_unordered("!=", tail, zero), even), finite)
    outwards = b.icmp_unsigned("==", b.fcmp_ordered(">", tail, zero), b.fcmp_ordered(">", head, zero))
    step = b.select(outwards, ir.Constant(raw.type, 1), ir.Constant(raw.type, -1))
    return b.bitcast(b.select(moves, b.add(raw, step), raw), head.type)


def _towards(b: Any, nearest: Value, exact: Value, mode: str) -> Value:
    """The float32 beside the nearest one if that lies on the wrong side of the exact value."""
    bits = ir.IntType(32)
    back = b.fpext(nearest, exact.type)
    raw = b.bitcast(nearest, bits)
    inwards = b.sub(raw, ir.Constant(bits, 1))
    if mode == "rz":
        beyond = b.fcmp_ordered(">", _magnitude(b, back), _magnitude(b, exact))
        return b.bitcast(b.select(beyond, inwards, raw), nearest.type)
    beyond = b.fcmp_ordered(">" if mode == "rm" else "<", back, exact)
    outwards = b.add(raw, ir.Constant(bits, 1))
    positive = b.icmp_signed(">=", raw, ir.Constant(bits, 0))
    moved = b.select(positive, inwards, outwards) if mode == "rm" else b.select(positive, outwards, inwards)
    is_zero = b.icmp_unsigned("==", b.shl(raw, ir.Constant(bits, 1)), ir.Constant(bits, 0))
    least = ir.Constant(bits, 0x80000001 if mode == "rm" else 1)
    return b.bitcast(b.select(beyond, b.select(is_zero, least, moved), raw), nearest.type)


def _magnitude(b: Any, value: Value) -> Value:
    return _intrinsic(b, "llvm.fabs", value.type, value)


def _sign_change(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    """abs and neg, which keep the payload of a NaN."""
    if flags:
        return None

    def change(b: Any, value: Value) -> Value:
        bits = ir.IntType(32 if type_ == "f32" else 64)
        sign = ir.Constant(bits, 1 << bits.width - 1)
        raw = b.bitcast(value, bits)
        return b.bitcast(b.and_(raw, b.not_(sign)) if opcode == "abs" else b.xor(raw, sign), value.type)

    return change


def _extremum(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    """min and max: a NaN loses, -0 < +0."""
    if flags:
        return None

    def extremum(b: Any, x: Value, y: Value) -> Value:
        equal = b.fcmp_ordered("==", x, y)
        if opcode == "min":
            first = b.or_(b.fcmp_ordered("<", x, y), b.and_(equal, _negative(b, x)))
        else:
            first = b.or_(b.fcmp_ordered(">", x, y), b.and_(equal, b.not_(_negative(b, x))))
        return canonical(b, b.select(b.or_(first, b.fcmp_unordered("uno", y, y)), x, y))

    return extremum


def _copy_sign(opcode: str, flags: tuple[str, ...], type_: str) -> Single:
    """copysign d, a, b: b with the sign of a."""

    def copy(b: Any, sign: Value, value: Value) -> Value:
        bits = ir.IntType(32 if type_ == "f32" else 64)
        top = ir.Constant(bits, 1 << bits.width - 1)
        taken, rest = b.and_(b.bitcast(sign, bits), top), b.and_(b.bitcast(value, bits), b.not_(top))
        return b.bitcast(b.or_(taken, rest), value.type)

    return None if flags else copy


# --- comparisons


_ORDERED = {"eq": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "ne": "!="}
_UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_UNORDERED = {"equ": "==", "neu": "!=", "ltu": "<", "leu": "<=", "gtu": ">", "geu": ">="}


def _comparison(name: str, type_: str) -> Callable[..., Value] | None:
    if type_ in FLOATS:
        if name in _ORDERED:
            return lambda b, x, y: b.fcmp_ordered(_ORDERED[name], x, y)
        if name in _UNORDERED:
            return lambda b, x, y: b.fcmp_unordered(_UNORDERED[name], x, y)
        return {
            "num": lambda b, x, y: b.fcmp_ordered("ord", x, y),
            "nan": lambda b, x, y: b.fcmp_unordered("uno", x, y),
        }.get(name)
    if type_ in SIGNED:
        return (lambda b, x, y: b.icmp_signed(_ORDERED[name], x, y)) if name in _ORDERED else None
    if type_ in BITS and name not in ("eq", "ne"):
        return None
    operator = _ORDERED.get(_UNSIGNED_NAMES.get(name, name))
    if operator is None or type_ not in (*BITS, *INTEGERS):
        return None
    return lambda b, x, y: b.icmp_unsigned(operator, x, y)


def _set_predicate(modifiers: tuple[str, ...], pair: bool) -> Emit | None:
    """setp: p = (x CmpOp y) BoolOp c, and of a pair q = !(x CmpOp y) BoolOp c."""
    name, *combine, type_ = modifiers if len(modifiers) > 1 else ("", modifiers[0])
    compare = _comparison(name, type_)
    if compare is None or len(combine) > 1 or (combine and combine[0] not in ("and", "or", "xor")):
        return None

    def emit(b: Any, x: Value, y: Value, *c: Value) -> Sequence[Value]:
        found = compare(b, x, y)
        results = (found, b.not_(found)) if pair else (found,)
        if not combine:
            return results
        join = {"and": b.and_, "or": b.or_, "xor": b.xor}[combine[0]]
        return [join(result, c[0]) for result in results]

    return emit


# --- conversions


def _conversion(flags: tuple[str, ...], target: str, source: str) -> Emit | None:
    """cvt between integers without saturation, from integers to the nearest float, from floats to whole numbers,
    between float32 and float64, and of float32 into [0, 1]."""
    make: Callable[..., Single] | None = None
    narrow = (*INTEGERS, "u8", "s8")
    if target in narrow and source in narrow:
        make = _integer_to_integer
    elif target in FLOATS and source in narrow:
        make = _integer_to_float
    elif target in INTEGERS and source in FLOATS:
        make = _float_to_integer
    elif target in FLOATS and source in FLOATS:
        make = _same_float if target == source else _float_to_float
    emit = None if make is None else make(flags, target, source)
    return None if emit is None else lambda b, x: (emit(b, x),)


def _integer_to_integer(flags: tuple[str, ...], target: str, source: str) -> Single:
    if flags:
        return None
    to = ir.IntType(width(target))
    if width(target) <= width(source):
        return lambda b, x: b.trunc(x, to) if x.type != to else x
    return lambda b, x: b.sext(x, to) if source[0] == "s" else b.zext(x, to)


def _integer_to_float(flags: tuple[str, ...], target: str, source: str) -> Single:
    if flags != ("rn",):
        return None
    to = ir.FloatType() if target == "f32" else ir.DoubleType()
    return lambda b, x: b.sitofp(x, to) if source[0] == "s" else b.uitofp(x, to)


_ROUNDING = {"rni": "llvm.rint", "rzi": "llvm.trunc", "rmi": "llvm.floor", "rpi": "llvm.ceil"}


def _float_to_integer(flags: tuple[str, ...], target: str, source: str) -> Single:
    """Rounded, then clamped to the integers that there are; NaN gives 0."""
    if len(flags) != 1 or flags[0] not in _ROUNDING:
        return None
    to = ir.IntType(width(target))
    name = f"llvm.fpto{'s' if target in SIGNED else 'u'}i.sat"

    def convert(b: Any, x: Value) -> Value:
        whole = _intrinsic(b, _ROUNDING[flags[0]], x.type, x)
        function = b.module.declare_intrinsic(name, [to, x.type], ir.FunctionType(to, [x.type]))
        return b.call(function, [whole])

    return convert


def _float_to_float(flags: tuple[str, ...], target: str, source: str) -> Single:
    if target == "f64":
        return None if flags else lambda b, x: canonical(b, b.fpext(x, ir.DoubleType()))
    return (lambda b, x: canonical(b, b.fptrunc(x, ir.FloatType()))) if flags == ("rn",) else None


def _same_float(flags: tuple[str, ...], target: str, source: str) -> Single:
    """A float to a whole number, or into [0, 1]."""
    if flags == ("sat",):
        return lambda b, x: canonical(b, _saturated(b, x))
    if len(flags) != 1 or flags[0] not in _ROUNDING:
        return None
    return lambda b, x: canonical(b, _intrinsic(b, _ROUNDING[flags[0]], x.type, x))


def _intrinsic(b: Any, name: str, type_: Any, *arguments: Value) -> Value:
    function = b.module.declare_intrinsic(name, [type_], ir.FunctionType(type_, [type_] * len(arguments)))
    return b.call(function, list(arguments))


_CODE: dict[str, Callable[[str, tuple[str, ...], str], Single]] = {
    **dict.fromkeys(("add", "sub", "min", "max", "neg", "abs"), _integer),
    **dict.fromkeys(("mul", "mad"), _product),
    **dict.fromkeys(("and", "or", "xor", "not"), _logic),
    **dict.fromkeys(("shl", "shr"), _shift),
    "lop3": _three_input_logic,
    "shf": _funnel_shift,
    "selp": _select,
    "mov": _move,
}
_FLOAT_CODE: dict[str, Callable[[str, tuple[str, ...], str], Single]] = {
    **dict.fromkeys(("add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt", "rsqrt"), _arithmetic),
    **dict.fromkeys(("abs", "neg"), _sign_change),
    **dict.fromkeys(("min", "max"), _extremum),
    "copysign": _copy_sign,
}
