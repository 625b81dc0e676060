"""A second opinion on PTX arithmetic: every lane-wise instruction on plain Python integers, one lane at a time.

It is written from the ISA's pseudo-code, bit by bit where the ISA counts bits, with exact fractions where it rounds. It
shares nothing with the emulator and uses no NumPy. Operands and results are raw bits, as non-negative integers.

`FORMS` maps the text of each instruction that the emulator must execute to its Model; "setp.lt.s32 p|q" is the form
with two destinations. A flag of the carry chain is an operand or result of type "carry".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import NamedTuple

# What the ISA leaves open or unspecified, as the emulator documents it.
CANONICAL_NAN = {"f16": 0x7FFF, "bf16": 0x7FFF, "tf32": 0x7FFFFFFF, "f32": 0x7FFFFFFF, "f64": 0xFFF8000000000000}


@dataclass(frozen=True)
class Model:
    results: tuple[str, ...]
    sources: tuple[str, ...]
    function: Callable[..., int | tuple[int, ...]]
    ulps: int = 0  # how far off in the last place an approximate function may be


FORMS: dict[str, Model] = {}


def define(
    text: str, results: str | tuple[str, ...], sources: Sequence[str], function: Callable[..., object], ulps: int = 0
) -> None:
    assert text not in FORMS, text
    results = (results,) if isinstance(results, str) else results
    FORMS[text] = Model(results, tuple(sources), function, ulps)  # type: ignore[arg-type]


# --- integers

UNSIGNED = ("u16", "u32", "u64")
SIGNED = ("s16", "s32", "s64")
INTEGERS = UNSIGNED + SIGNED
CARRY_TYPES = ("u32", "s32", "u64", "s64")
BITS = ("b16", "b32", "b64")


def width(type_: str) -> int:
    small = {"pred": 1, "carry": 1, "e4m3": 8, "e5m2": 8, "e4m3x2": 16, "e5m2x2": 16, "f16": 16, "bf16": 16, "tf32": 32}
    return small.get(type_) or (
        32 if type_ in ("f16x2", "bf16x2", "u16x2", "s16x2") else 64 if type_ == "f32x2" else int(type_[1:])
    )


def cut(value: int, bits: int) -> int:
    return value & ((1 << bits) - 1)


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def as_number(value: int, type_: str) -> int:
    return signed(value, width(type_)) if type_[0] == "s" else value


def on_numbers(type_: str, function: Callable[..., int], result: str | None = None) -> Callable[..., int]:
    """The function of mathematical integers, on raw bits."""
    return lambda *raw: cut(function(*(as_number(r, type_) for r in raw)), width(result or type_))


def clamp(value: int, type_: str) -> int:
    bits = width(type_)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if type_[0] == "s" else (0, (1 << bits) - 1)
    return max(low, min(high, value))


def truncated_quotient(a: int, b: int) -> int:
    if b == 0:
        return -1
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a: int, b: int) -> int:
    return a if b == 0 else a - b * truncated_quotient(a, b)


def bit_by_bit(type_: str, function: Callable[..., int]) -> Callable[..., int]:
    def whole(*words: int) -> int:
        return sum(function(*(word >> i & 1 for word in words)) << i for i in range(width(type_)))

    return whole


def in_halves(function: Callable[..., int]) -> Callable[..., int]:
    return lambda *words: function(*(w & 0xFFFF for w in words)) | function(*(w >> 16 for w in words)) << 16


for t in INTEGERS:
    n, s = width(t), (t,) * 3
    define(f"add.{t}", t, s[:2], on_numbers(t, lambda a, b: a + b))
    define(f"sub.{t}", t, s[:2], on_numbers(t, lambda a, b: a - b))
    define(f"mul.lo.{t}", t, s[:2], on_numbers(t, lambda a, b: a * b))
    define(f"mul.hi.{t}", t, s[:2], on_numbers(t, lambda a, b, n=n: a * b >> n))
    define(f"mad.lo.{t}", t, s, on_numbers(t, lambda a, b, c: a * b + c))
    define(f"mad.hi.{t}", t, s, on_numbers(t, lambda a, b, c, n=n: (a * b >> n) + c))
    if n < 64:
        wide = f"{t[0]}{2 * n}"
        define(f"mul.wide.{t}", wide, s[:2], on_numbers(t, lambda a, b: a * b, wide))
        define(
            f"mad.wide.{t}",
            wide,
            (t, t, wide),
            lambda a, b, c, t=t, wide=wide: cut(as_number(a, t) * as_number(b, t) + as_number(c, wide), width(wide)),
        )
    define(f"div.{t}", t, s[:2], on_numbers(t, truncated_quotient))
    define(f"rem.{t}", t, s[:2], on_numbers(t, remainder))
    define(f"min.{t}", t, s[:2], on_numbers(t, min))
    define(f"max.{t}", t, s[:2], on_numbers(t, max))
    define(f"sad.{t}", t, s, on_numbers(t, lambda a, b, c: c + abs(a - b)))
for t in SIGNED:
    define(f"abs.{t}", t, (t,), on_numbers(t, abs))
    define(f"neg.{t}", t, (t,), on_numbers(t, lambda a: -a))
for op, f in {"add": lambda a, b: a + b, "sub": lambda a, b: a - b}.items():
    define(f"{op}.sat.s32", "s32", ("s32", "s32"), on_numbers("s32", lambda a, b, f=f: clamp(f(a, b), "s32")))
define("mad.hi.sat.s32", "s32", ("s32",) * 3, on_numbers("s32", lambda a, b, c: clamp((a * b >> 32) + c, "s32")))
for op, f in {"min": min, "max": max}.items():
    for text in (f"{op}.relu.s32", f"{op}.s32.relu"):
        define(text, "s32", ("s32",) * 2, on_numbers("s32", lambda a, b, f=f: max(f(a, b), 0)))
    for text in (f"{op}.relu.s16x2", f"{op}.s16x2.relu"):
        half = on_numbers("s16", lambda a, b, f=f: max(f(a, b), 0))
        define(text, "s16x2", ("s16x2",) * 2, in_halves(half))
    for t in ("u16", "s16"):
        define(f"{op}.{t}x2", f"{t}x2", (f"{t}x2",) * 2, in_halves(on_numbers(t, f)))
for op, f in {"add": lambda a, b: a + b, "sub": lambda a, b: a - b}.items():
    for t in ("u16", "s16"):
        define(f"{op}.{t}x2", f"{t}x2", (f"{t}x2",) * 2, in_halves(on_numbers(t, f)))

for t in ("u32", "s32"):
    for part, shift in {"lo": 0, "hi": 16}.items():

        def mul24(a: int, b: int, t: str = t, shift: int = shift) -> int:
            a, b = (signed(cut(x, 24), 24) if t == "s32" else cut(x, 24) for x in (a, b))
            return cut(a * b, 48) >> shift & 0xFFFFFFFF

        define(f"mul24.{part}.{t}", t, (t, t), mul24)
        define(f"mad24.{part}.{t}", t, (t, t, t), lambda a, b, c, m=mul24: cut(m(a, b) + c, 32))
define(
    "mad24.hi.sat.s32",
    "s32",
    ("s32",) * 3,
    lambda a, b, c: cut(clamp(signed(FORMS["mul24.hi.s32"].function(a, b), 32) + signed(c, 32), "s32"), 32),
)

for t in CARRY_TYPES:  # the carry (or borrow) out of unsigned words
    n = width(t)
    u = f"u{n}"

    def plus(a: int, b: int, carry: int = 0, n: int = n) -> tuple[int, int]:
        return cut(a + b + carry, n), a + b + carry >> n

    def minus(a: int, b: int, borrow: int = 0, n: int = n) -> tuple[int, int]:
        return cut(a - b - borrow, n), int(a - b - borrow < 0)

    define(f"add.cc.{t}", (u, "carry"), (u, u), plus)
    define(f"addc.cc.{t}", (u, "carry"), (u, u, "carry"), plus)
    define(f"addc.{t}", u, (u, u, "carry"), lambda a, b, c, f=plus: f(a, b, c)[0])
    define(f"sub.cc.{t}", (u, "carry"), (u, u), minus)
    define(f"subc.cc.{t}", (u, "carry"), (u, u, "carry"), minus)
    define(f"subc.{t}", u, (u, u, "carry"), lambda a, b, c, f=minus: f(a, b, c)[0])
    for part in ("lo", "hi"):

        def multiply_add(
            a: int, b: int, c: int, carry: int = 0, t: str = t, n: int = n, part: str = part
        ) -> tuple[int, int]:
            whole = as_number(a, t) * as_number(b, t)
            total = cut(whole if part == "lo" else whole >> n, n) + c + carry
            return cut(total, n), total >> n

        define(f"mad.{part}.cc.{t}", (u, "carry"), (u,) * 3, multiply_add)
        define(f"madc.{part}.cc.{t}", (u, "carry"), (u, u, u, "carry"), multiply_add)
        define(f"madc.{part}.{t}", u, (u, u, u, "carry"), lambda a, b, c, k, f=multiply_add: f(a, b, c, k)[0])


def dot(a: int, b: int, c: int, a_type: str, b_type: str, a_bits: int, pairs: Sequence[tuple[int, int]]) -> int:
    total = signed(c, 32) if "s32" in (a_type, b_type) else c
    for i, j in pairs:
        x, y = cut(a >> a_bits * i, a_bits), cut(b >> 8 * j, 8)
        total += (signed(x, a_bits) if a_type == "s32" else x) * (signed(y, 8) if b_type == "s32" else y)
    return cut(total, 32)


for at, bt in product(("u32", "s32"), repeat=2):
    c_type = "s32" if "s32" in (at, bt) else "u32"
    byte_pairs = [(i, i) for i in range(4)]
    define(
        f"dp4a.{at}.{bt}",
        c_type,
        ("u32", "u32", c_type),
        lambda a, b, c, at=at, bt=bt, p=byte_pairs: dot(a, b, c, at, bt, 8, p),
    )
    for part, first in {"lo": 0, "hi": 2}.items():
        half_pairs = [(i, first + i) for i in range(2)]
        define(
            f"dp2a.{part}.{at}.{bt}",
            c_type,
            ("u32", "u32", c_type),
            lambda a, b, c, at=at, bt=bt, p=half_pairs: dot(a, b, c, at, bt, 16, p),
        )


def bfe(a: int, b: int, c: int, type_: str) -> int:
    msb = width(type_) - 1
    pos, length = b & 0xFF, c & 0xFF
    sign = 0 if type_[0] == "u" or length == 0 else a >> min(pos + length - 1, msb) & 1
    return sum((a >> (pos + i) & 1 if i < length and pos + i <= msb else sign) << i for i in range(msb + 1))


def bfi(a: int, b: int, c: int, d: int, bits: int) -> int:
    pos, length = c & 0xFF, d & 0xFF
    f = b
    for i in range(min(length, max(0, bits - pos))):
        f = f & ~(1 << (pos + i)) | (a >> i & 1) << (pos + i)
    return f


def bfind(a: int, type_: str, shift_amount: bool) -> int:
    bits = width(type_)
    if type_[0] == "s" and a >> (bits - 1):
        a = cut(~a, bits)
    position = a.bit_length() - 1
    return 0xFFFFFFFF if position < 0 else bits - 1 - position if shift_amount else position


def fns(mask: int, base: int, offset: int) -> int:
    offset = signed(offset, 32)
    if offset == 0:
        return base if mask >> base & 1 else 0xFFFFFFFF
    position, count, step = base, abs(offset) - 1, 1 if offset > 0 else -1
    while 0 <= position < 32:
        if mask >> position & 1:
            if count == 0:
                return position
            count -= 1
        position += step
    return 0xFFFFFFFF


def bmsk(a: int, b: int, mode: str) -> int:
    start, count = a & 31, b & 31
    if mode == "clamp":
        if a >= 32:
            return 0
        if b >= 32:
            count = 32
    return sum(1 << i for i in range(start, min(32, start + count)))


def szext(a: int, b: int, mode: str, type_: str) -> int:
    count = b & 31
    if mode == "clamp" and b >= 32:
        return a
    if count == 0:
        return 0
    low = cut(a, count)
    return cut(signed(low, count), 32) if type_ == "s32" else low


for t in CARRY_TYPES:
    u = f"u{width(t)}"
    define(f"bfe.{t}", u, (u, "u32", "u32"), lambda a, b, c, t=t: bfe(a, b, c, t))
    define(f"bfind.{t}", "u32", (t,), lambda a, t=t: bfind(a, t, False))
    define(f"bfind.shiftamt.{t}", "u32", (t,), lambda a, t=t: bfind(a, t, True))
for t in ("b32", "b64"):
    n = width(t)
    define(f"bfi.{t}", t, (t, t, "u32", "u32"), lambda a, b, c, d, n=n: bfi(a, b, c, d, n))
    define(f"popc.{t}", "u32", (t,), lambda a: bin(a).count("1"))
    define(f"clz.{t}", "u32", (t,), lambda a, n=n: n - a.bit_length())
    define(f"brev.{t}", t, (t,), lambda a, n=n: int(format(a, f"0{n}b")[::-1], 2))
define("fns.b32", "u32", ("b32", "lane", "small"), fns)
for mode in ("clamp", "wrap"):
    define(f"bmsk.{mode}.b32", "u32", ("count", "count"), lambda a, b, mode=mode: bmsk(a, b, mode))
    for t in ("u32", "s32"):
        define(f"szext.{mode}.{t}", "u32", ("u32", "count"), lambda a, b, m=mode, t=t: szext(a, b, m, t))

for t in ("pred", *BITS):
    define(f"and.{t}", t, (t, t), bit_by_bit(t, lambda a, b: a & b))
    define(f"or.{t}", t, (t, t), bit_by_bit(t, lambda a, b: a | b))
    define(f"xor.{t}", t, (t, t), bit_by_bit(t, lambda a, b: a ^ b))
    define(f"not.{t}", t, (t,), bit_by_bit(t, lambda a: 1 - a))
for t in BITS:
    define(f"cnot.{t}", t, (t,), lambda a: int(a == 0))


def lop3(a: int, b: int, c: int, table: int) -> int:
    return sum((table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i for i in range(32))


define("lop3.b32", "b32", ("b32", "b32", "b32", "table"), lop3)
for name, f in {"and": lambda p, q: p & q, "or": lambda p, q: p | q}.items():
    define(
        f"lop3.{name}.b32 d|p",
        ("b32", "pred"),
        ("b32", "b32", "b32", "table", "pred"),
        lambda a, b, c, table, q, f=f: (lop3(a, b, c, table), f(int(lop3(a, b, c, table) != 0), q)),
    )

for t in BITS:
    define(f"shl.{t}", t, (t, "count"), lambda a, b, t=t: cut(a << min(b, width(t)), width(t)))
for t in (*BITS, *INTEGERS):
    define(f"shr.{t}", t, (t, "count"), lambda a, b, t=t: cut(as_number(a, t) >> min(b, width(t)), width(t)))
for direction, mode in product("lr", ("clamp", "wrap")):

    def shf(a: int, b: int, c: int, direction: str = direction, mode: str = mode) -> int:
        count = min(c, 32) if mode == "clamp" else c & 31
        both = b << 32 | a
        return cut(both << count >> 32, 32) if direction == "l" else cut(both >> count, 32)

    define(f"shf.{direction}.{mode}.b32", "b32", ("b32", "b32", "count"), shf)


def prmt(a: int, b: int, c: int, mode: str) -> int:
    source = [(b << 32 | a) >> 8 * i & 0xFF for i in range(8)]
    if mode == "generic":
        selectors = [c >> 4 * i & 0xF for i in range(4)]
        chosen = [(0xFF if source[s & 7] >> 7 else 0) if s & 8 else source[s & 7] for s in selectors]
        return sum(byte << 8 * i for i, byte in enumerate(chosen))
    k = c & 3
    index = {
        "f4e": lambda i: k + i,
        "b4e": lambda i: (k - i) % 8,
        "rc8": lambda i: k,
        "ecl": lambda i: max(k, i),
        "ecr": lambda i: min(k, i),
        "rc16": lambda i: 2 * (k & 1) + (i & 1),
    }[mode]
    return sum(source[index(i)] << 8 * i for i in range(4))


define("prmt.b32", "b32", ("b32",) * 3, lambda a, b, c: prmt(a, b, c, "generic"))
for mode in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16"):
    define(f"prmt.b32.{mode}", "b32", ("b32",) * 3, lambda a, b, c, mode=mode: prmt(a, b, c, mode))


# --- floats


class Format(NamedTuple):
    name: str
    exponent_bits: int
    fraction_bits: int
    padding: int = 0  # unused low bits of the register

    @property
    def bias(self) -> int:
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def largest(self) -> Fraction:
        return (2 - Fraction(1, 1 << self.fraction_bits)) * Fraction(2) ** self.bias


FORMATS = {
    "f16": Format("f16", 5, 10),
    "bf16": Format("bf16", 8, 7),
    "tf32": Format("tf32", 8, 10, 13),
    "f32": Format("f32", 8, 23),
    "f64": Format("f64", 11, 52),
}


class Real(NamedTuple):
    """A number with the sign of its zero; size None is infinity. NaN is None instead of a Real."""

    negative: bool
    size: Fraction | None

    @property
    def value(self) -> Fraction:
        assert self.size is not None
        return -self.size if self.negative else self.size


ZERO, ONE = Real(False, Fraction(0)), Real(False, Fraction(1))


@functools.lru_cache(maxsize=100_000)
def decode(bits: int, name: str) -> Real | None:
    format_ = FORMATS[name]
    bits >>= format_.padding
    fraction = cut(bits, format_.fraction_bits)
    exponent = cut(bits >> format_.fraction_bits, format_.exponent_bits)
    negative = bool(bits >> (format_.fraction_bits + format_.exponent_bits))
    if exponent == (1 << format_.exponent_bits) - 1:
        return None if fraction else Real(negative, None)
    if exponent:
        fraction |= 1 << format_.fraction_bits
    shift = max(exponent, 1) - format_.bias - format_.fraction_bits
    return Real(negative, Fraction(fraction << max(shift, 0), 1 << max(-shift, 0)))


def floor_log2(size: Fraction) -> int:
    guess = size.numerator.bit_length() - size.denominator.bit_length()
    return guess if size.denominator << max(guess, 0) <= size.numerator << max(-guess, 0) else guess - 1


def encode(real: Real | None, name: str, mode: str = "rn") -> int:
    """The bits of the number, rounded to the format."""
    format_ = FORMATS[name]
    if real is None:
        return CANONICAL_NAN[name]
    negative, size = real
    if size is None:
        exponent, digits = (1 << format_.exponent_bits) - 1, 0
    elif size == 0:
        exponent, digits = 0, 0
    else:
        quantum = max(floor_log2(size), 1 - format_.bias) - format_.fraction_bits
        unit = size.denominator << max(quantum, 0)  # the size is (digits + rest / unit) * 2**quantum
        digits, rest = divmod(size.numerator << max(-quantum, 0), unit)
        digits += {
            "rn": 2 * rest > unit or (2 * rest == unit and digits & 1 == 1),
            "rna": 2 * rest >= unit,
            "rz": False,
            "rp": rest > 0 and not negative,
            "rm": rest > 0 and negative,
        }[mode]
        if digits.bit_length() + quantum > format_.bias + 1:
            towards_zero = mode == "rz" or (mode == "rp" and negative) or (mode == "rm" and not negative)
            return encode(Real(negative, format_.largest if towards_zero else None), name)
        if digits >> (format_.fraction_bits + 1):
            digits, quantum = digits >> 1, quantum + 1
        if digits >> format_.fraction_bits:
            exponent = quantum + format_.fraction_bits + format_.bias
            digits -= 1 << format_.fraction_bits
        else:
            exponent = 0
    bits = (int(negative) << format_.exponent_bits | exponent) << format_.fraction_bits | digits
    return bits << format_.padding


def add(a: Real | None, b: Real | None, mode: str) -> Real | None:
    if a is None or b is None:
        return None
    if a.size is None or b.size is None:
        if a.size is None and b.size is None and a.negative != b.negative:
            return None
        return a if a.size is None else b
    total = a.value + b.value
    if total:
        return Real(total < 0, abs(total))
    return a if a.negative == b.negative else Real(mode == "rm", Fraction(0))


def negate(a: Real | None) -> Real | None:
    return None if a is None else Real(not a.negative, a.size)


def multiply(a: Real | None, b: Real | None) -> Real | None:
    if a is None or b is None:
        return None
    negative = a.negative != b.negative
    if a.size is None or b.size is None:
        return None if 0 in (a.size, b.size) else Real(negative, None)
    return Real(negative, a.size * b.size)


def divide(a: Real | None, b: Real | None) -> Real | None:
    if a is None or b is None:
        return None
    negative = a.negative != b.negative
    if a.size is None:
        return None if b.size is None else Real(negative, None)
    if b.size is None:
        return Real(negative, Fraction(0))
    if b.size == 0:
        return None if a.size == 0 else Real(negative, None)
    return Real(negative, a.size / b.size)


def square_root(a: Real | None) -> Real | None:
    if a is None or a.size == 0:
        return a
    if a.negative:
        return None
    if a.size is None:
        return a
    scale = 1 << 800  # far more digits than any format keeps
    radicand = a.size * scale * scale
    whole = radicand.numerator // radicand.denominator
    root = math.isqrt(whole)
    inexact = root * root != radicand
    return Real(False, Fraction(2 * root + inexact, 2 * scale))


CALCULATIONS: dict[str, Callable[..., Real | None]] = {
    "add": lambda mode, a, b: add(a, b, mode),
    "sub": lambda mode, a, b: add(a, negate(b), mode),
    "mul": lambda mode, a, b: multiply(a, b),
    "fma": lambda mode, a, b, c: add(multiply(a, b), c, mode),
    "mad": lambda mode, a, b, c: add(multiply(a, b), c, mode),
    "div": lambda mode, a, b: divide(a, b),
    "rcp": lambda mode, a: divide(ONE, a),
    "sqrt": lambda mode, a: square_root(a),
}
ARITY = {"add": 2, "sub": 2, "mul": 2, "fma": 3, "mad": 3, "div": 2, "rcp": 1, "sqrt": 1}


def flush(bits: int, name: str) -> int:
    """A subnormal becomes a zero of its sign."""
    format_ = FORMATS[name]
    sign = format_.exponent_bits + format_.fraction_bits
    return bits if cut(bits >> format_.fraction_bits, format_.exponent_bits) else bits >> sign << sign


def saturate(bits: int, name: str) -> int:
    real = decode(bits, name)
    if real is None or real.negative or real.size == 0:
        return 0
    return encode(ONE, name) if real.size is None or real.size > 1 else bits


def rectify(bits: int, name: str) -> int:
    real = decode(bits, name)
    return 0 if real is not None and (real.negative or real.size == 0) else bits


def calculation(op: str, name: str, mode: str, flags: Sequence[str]) -> Callable[..., int]:
    def function(*raw: int) -> int:
        if "ftz" in flags:
            raw = tuple(flush(r, name) for r in raw)
        bits = encode(CALCULATIONS[op](mode, *(decode(r, name) for r in raw)), name, mode)
        if "ftz" in flags:
            bits = flush(bits, name)
        if "sat" in flags:
            bits = saturate(bits, name)
        return rectify(bits, name) if "relu" in flags else bits

    return function


def packed(function: Callable[..., int], bits: int) -> Callable[..., int]:
    return lambda *w: function(*(cut(x, bits) for x in w)) | function(*(x >> bits for x in w)) << bits


def define_float(text: str, name: str, arity: int, function: Callable[..., int], pair: bool, ulps: int = 0) -> None:
    """The scalar form, and the packed one of the same modifiers: text has {} for the type."""
    define(text.format(name), name, (name,) * arity, function, ulps)
    if pair:
        define(text.format(f"{name}x2"), f"{name}x2", (f"{name}x2",) * arity, packed(function, width(name)), ulps)


def joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


for op, arity in ARITY.items():
    optional_mode = op in ("add", "sub", "mul")
    modes = ("rn", "rz", "rm", "rp")
    for mode, ftz, sat in product((*modes, *(("",) if optional_mode else ())), ("", "ftz"), ("", "sat")):
        if sat and op in ("div", "rcp", "sqrt"):
            continue
        f = calculation(op, "f32", mode or "rn", (ftz, sat))
        packs = not sat and op in ("add", "sub", "mul", "fma")
        define_float(joined(op, mode, ftz, sat, "{}"), "f32", arity, f, packs)
    for mode in (*modes, *(("",) if optional_mode else ())):
        define_float(joined(op, mode, "{}"), "f64", arity, calculation(op, "f64", mode or "rn", ()), False)
    if op not in ("add", "sub", "mul", "fma"):
        continue
    for mode, ftz, end in product(("rn", *(("",) if optional_mode else ())), ("", "ftz"), ("", "sat", "relu")):
        if end == "relu" and op != "fma":
            continue
        text = joined(op, mode, ftz, end, "{}")
        define_float(text, "f16", arity, calculation(op, "f16", "rn", (ftz, end)), True)
        if not ftz and end != "sat":
            define_float(text, "bf16", arity, calculation(op, "bf16", "rn", (end,)), True)


def extremum(op: str, name: str, flags: Sequence[str]) -> Callable[..., int]:
    def order(bits: int) -> tuple[int, Fraction | float]:
        real = decode(bits, name)
        assert real is not None
        if real.size is None:
            return 0, -math.inf if real.negative else math.inf
        return (-1 if real.negative else 1) if real.size == 0 else 0, real.value

    def function(a: int, b: int) -> int:
        sign_bit = 1 << (width(name) - 1)
        if "ftz" in flags:
            a, b = flush(a, name), flush(b, name)
        sign = (a ^ b) & sign_bit
        if "xorsign" in flags:
            a, b = a & ~sign_bit, b & ~sign_bit
        numbers = [x for x in (a, b) if decode(x, name) is not None]
        if not numbers or ("NaN" in flags and len(numbers) < 2):
            return CANONICAL_NAN[name]
        choose = min if op == "min" else max
        result = choose(numbers, key=lambda bits: (order(bits)[1], order(bits)[0]))
        return result ^ sign if "xorsign" in flags else result

    return function


for op in ("min", "max"):
    for ftz, nan, xorsign in product(("", "ftz"), ("", "NaN"), ("", "xorsign.abs")):
        flags = (ftz, nan, xorsign.removesuffix(".abs"))
        text = joined(op, ftz, nan, xorsign, "{}")
        define_float(text, "f32", 2, extremum(op, "f32", flags), False)
        define_float(text, "f16", 2, extremum(op, "f16", flags), True)
        if not ftz:
            define_float(text, "bf16", 2, extremum(op, "bf16", flags), True)
    define_float(f"{op}.{{}}", "f64", 2, extremum(op, "f64", ()), False)
for name in ("f16", "bf16", "f32", "f64"):
    top = 1 << (width(name) - 1)
    for ftz in ("", "ftz") if name in ("f16", "f32") else ("",):
        before = flush if ftz else lambda a, name: a
        pairs = name in ("f16", "bf16")
        define_float(joined("abs", ftz, "{}"), name, 1, lambda a, f=before, n=name, s=top: f(a, n) & ~s, pairs)
        define_float(joined("neg", ftz, "{}"), name, 1, lambda a, f=before, n=name, s=top: f(a, n) ^ s, pairs)
for name in ("f32", "f64"):
    top = 1 << (width(name) - 1)
    define(f"copysign.{name}", name, (name, name), lambda a, b, s=top: b & ~s | a & s)

    def has_property(bits: int, prop: str, name: str = name) -> int:
        real = decode(bits, name)
        subnormal = bits != flush(bits, name)
        return int(
            {
                "finite": real is not None and real.size is not None,
                "infinite": real is not None and real.size is None,
                "number": real is not None,
                "notanumber": real is None,
                "normal": real is not None and real.size is not None and not subnormal,
                "subnormal": subnormal,
            }[prop]
        )

    for prop in ("finite", "infinite", "number", "notanumber", "normal", "subnormal"):
        define(f"testp.{prop}.{name}", "pred", (name,), lambda a, p=prop, f=has_property: f(a, p))


# Approximate functions: Python's own in double precision, which may differ from the emulator's in the last place.


def approximately(function: Callable[..., float], name: str, ftz: bool) -> Callable[..., int]:
    def on_bits(*raw: int) -> int:
        if ftz:
            raw = tuple(flush(r, name) for r in raw)
        reals = [decode(r, name) for r in raw]
        if any(real is None for real in reals):
            return CANONICAL_NAN[name]
        result = function(*(as_float(real) for real in reals))
        bits = encode(from_float(result), name)
        return flush(bits, name) if ftz else bits

    return on_bits


def as_float(real: Real | None) -> float:
    assert real is not None
    size = math.inf if real.size is None else float(real.size)
    return -size if real.negative else size


def from_float(value: float) -> Real | None:
    if math.isnan(value):
        return None
    negative = math.copysign(1.0, value) < 0
    return Real(negative, None if math.isinf(value) else abs(Fraction(value)))


def or_nan(function: Callable[[float], float]) -> Callable[[float], float]:
    def total(a: float) -> float:
        try:
            return function(a)
        except (ValueError, OverflowError):
            return math.nan

    return total


def rsqrt(a: float) -> float:
    return math.copysign(math.inf, a) if a == 0 else math.nan if a < 0 else 1 / math.sqrt(a)


def exp2(a: float) -> float:
    return math.inf if a >= 1024 else 0.0 if a < -1100 else math.exp2(a)


def log2(a: float) -> float:
    return -math.inf if a == 0 else math.nan if a < 0 else math.log2(a)


for name, f in {"rsqrt": rsqrt, "sin": or_nan(math.sin), "cos": or_nan(math.cos), "ex2": exp2, "lg2": log2}.items():
    for ftz in ("", "ftz"):
        define(joined(name, "approx", ftz, "f32"), "f32", ("f32",), approximately(f, "f32", bool(ftz)), 1)
define("tanh.approx.f32", "f32", ("f32",), approximately(math.tanh, "f32", False), 1)
for name in ("f16", "bf16"):
    define_float("tanh.approx.{}", name, 1, approximately(math.tanh, name, False), True, 1)
for ftz in ("", "ftz"):
    define_float(joined("ex2.approx", ftz, "{}"), "f16", 1, approximately(exp2, "f16", bool(ftz)), True, 1)
define_float("ex2.approx.ftz.{}", "bf16", 1, approximately(exp2, "bf16", True), True, 1)
define("rsqrt.approx.f64", "f64", ("f64",), approximately(rsqrt, "f64", False), 1)
for op, kinds in {"div": ("approx", "full"), "rcp": ("approx",), "sqrt": ("approx",)}.items():
    for kind, ftz in product(kinds, ("", "ftz")):
        f = calculation(op, "f32", "rn", (ftz,))
        define(joined(op, kind, ftz, "f32"), "f32", ("f32",) * ARITY[op], f, 1)


def upper_half(function: Callable[[int], int]) -> Callable[[int], int]:
    return lambda a: flush(function(flush(a >> 32 << 32, "f64")), "f64") >> 32 << 32


define("rcp.approx.ftz.f64", "f64", ("f64",), upper_half(calculation("rcp", "f64", "rn", ())), 1)
define("rsqrt.approx.ftz.f64", "f64", ("f64",), upper_half(approximately(rsqrt, "f64", False)), 1)

# --- comparison, selection, moves

ORDERED: dict[str, Callable[[Fraction | float, Fraction | float], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
BOOLEAN = {"and": lambda t, c: t & c, "or": lambda t, c: t | c, "xor": lambda t, c: t ^ c}
HALVES = ("f16", "bf16")


def float_comparison(name: str, comparison: str, ftz: bool) -> Callable[[int, int], int]:
    def compare(a: int, b: int) -> int:
        reals = [decode(flush(x, name) if ftz else x, name) for x in (a, b)]
        if comparison in ("num", "nan"):
            return int((None in reals) == (comparison == "nan"))
        if None in reals:
            return int(comparison.endswith("u"))
        values = [
            (-math.inf if r.negative else math.inf) if r.size is None else r.value for r in reals if r is not None
        ]
        return int(ORDERED[comparison[:2]](*values))

    return compare


def comparisons() -> list[tuple[str, str, str, Callable[[int, int], int]]]:
    """Each (comparison, ftz or "", type, model of the bare comparison)."""
    table: list[tuple[str, str, str, Callable[[int, int], int]]] = []
    for t in (*BITS, *INTEGERS):
        names = {name: name for name in (("eq", "ne") if t[0] == "b" else ORDERED)}
        if t[0] == "u":
            names.update(UNSIGNED_NAMES)
        for name, base in names.items():
            table.append((name, "", t, lambda a, b, f=ORDERED[base], t=t: int(f(as_number(a, t), as_number(b, t)))))
    for t in ("f32", "f64", "f16", "bf16"):
        for name in (*ORDERED, *(f"{name}u" for name in ORDERED), "num", "nan"):
            for ftz in ("", "ftz") if t != "f64" else ("",):
                table.append((name, ftz, t, float_comparison(t, name, bool(ftz))))
    return table


for name, ftz, t, compare in comparisons():
    for boolean in ("", *BOOLEAN):
        sources = (t, t) if not boolean else (t, t, "pred")
        combine = BOOLEAN.get(boolean, lambda true, c: true)

        def predicate(a: int, b: int, c: int = 0, f: Callable = compare, g: Callable = combine) -> int:
            return g(f(a, b), c)

        def both(a: int, b: int, c: int = 0, f: Callable = compare, g: Callable = combine) -> tuple[int, int]:
            return g(f(a, b), c), g(1 - f(a, b), c)

        text = joined("setp", name, boolean, ftz, t)
        define(text, "pred", sources, predicate)
        define(f"{text} p|q", ("pred", "pred"), sources, both)
        for target in ("u16", "s16", t) if t in HALVES else ():
            value = {"f16": 0x3C00, "bf16": 0x3F80}.get(target, 0xFFFF)
            text = joined("set", name, boolean, ftz, target, t)
            define(text, target, sources, lambda a, b, c=0, f=predicate, v=value: v * f(a, b, c))
        for target in ("u32", "s32", "f32"):
            value = 0x3F800000 if target == "f32" else 0xFFFFFFFF
            text = joined("set", name, boolean, ftz, target, t)
            define(text, target, sources, lambda a, b, c=0, f=predicate, v=value: v * f(a, b, c))
        if t not in HALVES:
            continue
        pair = (f"{t}x2", f"{t}x2", *sources[2:])

        def by_halves(a: int, b: int, c: int = 0, f: Callable = predicate) -> tuple[int, int]:
            return f(a & 0xFFFF, b & 0xFFFF, c), f(a >> 16, b >> 16, c)

        define(f"{joined('setp', name, boolean, ftz, t)}x2 p|q", ("pred", "pred"), pair, by_halves)
        for target in ("u32", "s32", f"{t}x2"):
            value = {"f16x2": 0x3C00, "bf16x2": 0x3F80}.get(target, 0xFFFF)
            define(
                joined("set", name, boolean, ftz, target, f"{t}x2"),
                target,
                pair,
                lambda a, b, c=0, f=by_halves, v=value: v * f(a, b, c)[0] | v * f(a, b, c)[1] << 16,
            )

for t in (*BITS, *INTEGERS, "f32", "f64"):
    define(f"selp.{t}", t, (t, t, "pred"), lambda a, b, p: a if p else b)
    define(f"slct.{t}.s32", t, (t, t, "s32"), lambda a, b, c: a if signed(c, 32) >= 0 else b)
    for ftz in ("", "ftz"):

        def slct(a: int, b: int, c: int, ftz: str = ftz) -> int:
            real = decode(flush(c, "f32") if ftz else c, "f32")
            return b if real is None or (real.negative and real.size != 0) else a

        define(joined("slct", ftz, t, "f32"), t, (t, t, "f32"), slct)
for t in ("pred", *BITS, *INTEGERS, "f32", "f64"):
    define(f"mov.{t}", t, (t,), lambda a: a)

# --- conversions

ALL_INTEGERS = tuple(f"{sign}{bits}" for sign in "us" for bits in (8, 16, 32, 64))
FLOATS = ("f16", "bf16", "f32", "f64")
INTEGER_MODES = {"rni": "rn", "rzi": "rz", "rmi": "rm", "rpi": "rp"}
MODES = ("rn", "rz", "rm", "rp")


def to_whole(real: Real, mode: str) -> Real:
    """The number rounded to an integer, the sign of a zero result kept."""
    if real.size is None:
        return real
    whole = {"rn": round, "rz": math.trunc, "rm": math.floor, "rp": math.ceil}[mode](real.value)
    return Real(real.negative, Fraction(abs(whole)))


def float_to_integer(bits: int, target: str, source: str, mode: str, ftz: bool) -> int:
    real = decode(flush(bits, source) if ftz else bits, source)
    if real is None:
        return 0
    if real.size is None:
        return cut(clamp(-(1 << 70) if real.negative else 1 << 70, target), width(target))
    return cut(clamp(int(to_whole(real, mode).value), target), width(target))


for a, d in product(ALL_INTEGERS, repeat=2):
    define(f"cvt.{d}.{a}", d, (a,), lambda x, a=a, d=d: cut(as_number(x, a), width(d)))
    define(f"cvt.sat.{d}.{a}", d, (a,), lambda x, a=a, d=d: cut(clamp(as_number(x, a), d), width(d)))
for a, d in product(ALL_INTEGERS, FLOATS):
    for mode in (*MODES, *(("",) if d == "f64" and width(a) < 64 else ())):
        for sat in ("",) if d == "f64" else ("", "sat"):

            def from_integer(x: int, a: str = a, d: str = d, mode: str = mode, sat: str = sat) -> int:
                number = as_number(x, a)
                bits = encode(Real(number < 0, Fraction(abs(number))), d, mode or "rn")
                return saturate(bits, d) if sat else bits

            define(joined("cvt", mode, sat, d, a), d, (a,), from_integer)
for a, d in product(FLOATS, ALL_INTEGERS):
    for name, ftz, sat in product(INTEGER_MODES, ("", "ftz") if a == "f32" else ("",), ("", "sat")):
        define(
            joined("cvt", name, ftz, sat, d, a),
            d,
            (a,),
            lambda x, a=a, d=d, m=INTEGER_MODES[name], z=bool(ftz): float_to_integer(x, d, a, m, z),
        )


def float_to_float(bits: int, target: str, source: str, mode: str, flags: Sequence[str]) -> int:
    real = decode(flush(bits, source) if "ftz" in flags and source == "f32" else bits, source)
    result = encode(real, target, mode or "rn")
    if "ftz" in flags and target == "f32":
        result = flush(result, target)
    if "sat" in flags:
        result = saturate(result, target)
    decoded = decode(result, target)
    if "satfinite" in flags and decoded is not None and decoded.size is None:
        result = encode(Real(decoded.negative, FORMATS[target].largest), target)
    return rectify(result, target) if "relu" in flags else result


for a, d in product(FLOATS, repeat=2):
    if a == d:
        for name, ftz, sat in product(("", *INTEGER_MODES), ("", "ftz") if a == "f32" else ("",), ("", "sat")):

            def same(x: int, a: str = a, name: str = name, ftz: str = ftz, sat: str = sat) -> int:
                real = decode(flush(x, a) if ftz else x, a)
                bits = encode(to_whole(real, INTEGER_MODES[name]) if name and real is not None else real, a)
                return saturate(bits, a) if sat else bits

            define(joined("cvt", name, ftz, sat, d, a), d, (a,), same)
        continue
    widens = (a, d) in (("f16", "f32"), ("f16", "f64"), ("bf16", "f32"), ("bf16", "f64"), ("f32", "f64"))
    modes = ("",) if widens and a != "bf16" else ("", *MODES) if widens else MODES
    for mode in modes:
        for ftz, sat in product(("", "ftz") if "f32" in (a, d) else ("",), ("", "sat") if d != "f64" else ("",)):
            for relu, finite in product(("", "relu"), ("", "satfinite")):
                if (relu or finite) and not (a == "f32" and d in HALVES and mode in ("rn", "rz")):
                    continue
                flags = (ftz, sat, relu, finite)
                define(
                    joined("cvt", mode, *flags, d, a),
                    d,
                    (a,),
                    lambda x, a=a, d=d, m=mode, f=flags: float_to_float(x, d, a, m, f),
                )
for mode, finite, relu in product(("rna", "rn", "rz"), ("", "satfinite"), ("", "relu")):
    if mode == "rna" and relu:
        continue
    define(
        joined("cvt", mode, finite, relu, "tf32.f32"),
        "tf32",
        ("f32",),
        lambda x, m=mode, f=(finite, relu): float_to_float(x, "tf32", "f32", m, f),
    )
for d, mode, relu, finite in product(HALVES, ("rn", "rz"), ("", "relu"), ("", "satfinite")):

    def pack(a: int, b: int, d: str = d, mode: str = mode, flags: tuple[str, str] = (relu, finite)) -> int:
        return float_to_float(a, d, "f32", mode, flags) << 16 | float_to_float(b, d, "f32", mode, flags)

    define(joined("cvt", mode, relu, finite, f"{d}x2.f32"), f"{d}x2", ("f32", "f32"), pack)


# e4m3 and e5m2: every byte's value by the formula, and rounding by looking for the nearest of them.
BYTE_FORMATS = {"e4m3": (4, 3, 0x7E), "e5m2": (5, 2, 0x7B)}  # bits of exponent and fraction, the largest number's code


BYTE_LIMIT = Fraction(2) ** 16  # beyond all of them


def decode_byte(code: int, name: str) -> Real | None:
    exponent_bits, fraction_bits, largest = BYTE_FORMATS[name]
    negative, code = bool(code & 0x80), code & 0x7F
    if code > largest:
        return Real(negative, None) if (name, code) == ("e5m2", 0x7C) else None
    exponent, fraction = code >> fraction_bits, cut(code, fraction_bits)
    digits = fraction + (1 << fraction_bits if exponent else 0)
    return Real(negative, digits * Fraction(2) ** (max(exponent, 1) - (1 << exponent_bits - 1) + 1 - fraction_bits))


@functools.cache
def sizes(name: str) -> list[Fraction]:
    return [decode_byte(code, name).size for code in range(BYTE_FORMATS[name][2] + 1)]  # type: ignore[union-attr,misc]


@functools.lru_cache(maxsize=100_000)
def to_byte(bits: int, target: str, source: str, relu: bool) -> int:
    real = decode(bits, source)
    if real is None:
        return 0x7F
    if relu and real.negative:
        return 0
    size = BYTE_LIMIT if real.size is None else real.size
    nearest = min(enumerate(sizes(target)), key=lambda one: (abs(one[1] - size), one[0] & 1))[0]
    return nearest | real.negative << 7


for name, relu in product(BYTE_FORMATS, ("", "relu")):
    define(
        joined("cvt.rn.satfinite", relu, f"{name}x2.f32"),
        f"{name}x2",
        ("f32", "f32"),
        lambda a, b, t=name, r=bool(relu): to_byte(a, t, "f32", r) << 8 | to_byte(b, t, "f32", r),
    )
    for half in HALVES:
        define(
            joined("cvt.rn.satfinite", relu, f"{name}x2.{half}x2"),
            f"{name}x2",
            (f"{half}x2",),
            lambda a, t=name, h=half, r=bool(relu): to_byte(a >> 16, t, h, r) << 8 | to_byte(a & 0xFFFF, t, h, r),
        )

        def widened(code: int, name: str, half: str, relu: bool) -> int:
            bits = encode(decode_byte(code, name), half)
            return rectify(bits, half) if relu else bits

        define(
            joined("cvt.rn", relu, f"{half}x2.{name}x2"),
            f"{half}x2",
            (f"{name}x2",),
            lambda a, t=name, h=half, r=bool(relu): widened(a >> 8, t, h, r) << 16 | widened(a & 0xFF, t, h, r),
        )
