"""cvt: conversions between integers and floats of every size (PTX ISA, "Data Movement and Conversion": cvt).

Float to integer saturates, and NaN gives 0. Float to a narrower float is correctly rounded in every mode. Packed
conversions put their first operand into the upper half. Of the floats of eight bits and fewer, e4m3 and e5m2 are here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpubp.emulator.isa.floats import flush, rectify, saturate
from gpubp.emulator.isa.operations import DTYPES, Modifiers, Operation, function_operation
from gpubp.emulator.isa.rounding import (
    BF16,
    E4M3,
    E5M2,
    F16,
    F32,
    F64,
    ROUND_TO_INTEGER,
    TF32,
    Format,
    bfloat16_to_float32,
    decode,
    encode,
    float32_to_bfloat16,
    float32_to_float16,
    round_to,
    to_odd,
)

INTEGERS = tuple(f"{sign}{bits}" for sign in "us" for bits in (8, 16, 32, 64))
FLOATS = {"f16": F16, "bf16": BF16, "f32": F32, "f64": F64}
INTEGER_ROUNDINGS = ("rni", "rzi", "rmi", "rpi")
FLOAT_ROUNDINGS = ("rn", "rz", "rm", "rp")
PACKED = {"f16x2": F16, "bf16x2": BF16}
BYTES = {"e4m3x2": E4M3, "e5m2x2": E5M2}


def convert(modifiers: Modifiers) -> Operation:
    """cvt of any kind, by the kinds of its two types."""
    source = modifiers.type((*INTEGERS, *FLOATS, *PACKED, *BYTES))
    target = modifiers.type((*INTEGERS, *FLOATS, *PACKED, *BYTES, "tf32"))
    if target in BYTES:
        return to_bytes(modifiers, target, source)
    if source in BYTES:
        return from_bytes(modifiers, target, source)
    if source in PACKED:
        raise modifiers.unsupported()
    if target in PACKED:
        return pack_floats(modifiers, target, source)
    if target == "tf32":
        return to_tf32(modifiers, source)
    if source in INTEGERS:
        converted = integer_to_integer if target in INTEGERS else integer_to_float
    else:
        converted = float_to_integer if target in INTEGERS else float_to_float
    return converted(modifiers, target, source)


def integer_to_integer(modifiers: Modifiers, target: str, source: str) -> Operation:
    """Extends by the source's sign or cuts to the low bits; .sat clamps to the target's range instead."""
    sat = modifiers.flag("sat")
    modifiers.end()
    limits = np.iinfo(DTYPES[target])
    own = np.iinfo(DTYPES[source])
    low, high = max(limits.min, own.min), min(limits.max, own.max)

    def apply(d: np.ndarray, a: np.ndarray) -> None:
        if sat:
            a = np.clip(a, DTYPES[source].type(low), DTYPES[source].type(high))
        np.copyto(d, a, casting="unsafe")

    return Operation((DTYPES[target],), (DTYPES[source],), apply, "conversion")


def integer_to_float(modifiers: Modifiers, target: str, source: str) -> Operation:
    mode = modifiers.choice(FLOAT_ROUNDINGS, default="none")
    exact_in_float64 = DTYPES[source].itemsize < 8
    if mode == "none" and not (target == "f64" and exact_in_float64):
        raise modifiers.unsupported()  # the ISA wants a rounding mode where the result can be inexact
    sat = target != "f64" and modifiers.flag("sat")
    modifiers.end()
    format_ = FLOATS[target]
    nearest = mode in ("rn", "none") and target in ("f32", "f64") and not sat
    if nearest or (target == "f64" and exact_in_float64):

        def apply(d: np.ndarray, a: np.ndarray) -> None:
            np.copyto(d, a, casting="unsafe")

        return Operation((DTYPES[target],), (DTYPES[source],), apply, "conversion")
    if target == "f64":
        return function_operation(lambda a: directed_float64(a, mode), target, (source,), "conversion")

    def function(a: np.ndarray) -> np.ndarray:
        values = a.astype(np.float64) if exact_in_float64 else odd_float64(a)
        values = round_to(values, format_, mode)
        return encode(saturate(values) if sat else values, format_)

    return function_operation(function, target, (source,), "conversion")


def odd_float64(a: np.ndarray) -> np.ndarray:
    """64-bit integers as float64 rounded to odd."""
    high = (a >> a.dtype.type(32)).astype(np.float64) * 2.0**32
    low = (a & a.dtype.type(0xFFFFFFFF)).astype(np.float64)
    head = high + low
    return to_odd(head, low - (head - high))


def directed_float64(a: np.ndarray, mode: str) -> np.ndarray:
    """64-bit integers as float64, rounded by rz, rm or rp."""
    high = (a >> a.dtype.type(32)).astype(np.float64) * 2.0**32
    low = (a & a.dtype.type(0xFFFFFFFF)).astype(np.float64)
    head = high + low
    tail = low - (head - high)
    if mode == "rz":
        inwards = np.where(head > 0, tail < 0, tail > 0)
        return np.where(inwards, np.nextafter(head, 0.0), head)
    if mode == "rm":
        return np.where(tail < 0, np.nextafter(head, -np.inf), head)
    return np.where(tail > 0, np.nextafter(head, np.inf), head)


def float_to_integer(modifiers: Modifiers, target: str, source: str) -> Operation:
    mode = modifiers.choice(INTEGER_ROUNDINGS)
    ftz = source == "f32" and modifiers.flag("ftz")
    modifiers.flag("sat")  # it saturates with and without
    modifiers.end()
    dtype = DTYPES[target]
    round_ = ROUND_TO_INTEGER[mode[:2]]
    limits = np.iinfo(dtype)
    lowest, beyond = float(limits.min), float(limits.max + 1)

    def function(a: np.ndarray) -> np.ndarray:
        values = decode(a, FLOATS[source])
        whole = round_(flush(values, F32) if ftz else values)
        inside = (whole >= lowest) & (whole < beyond)
        result = np.where(inside, whole, 0.0).astype(dtype)
        result = np.where(whole >= beyond, dtype.type(limits.max), result)
        return np.where(whole < lowest, dtype.type(limits.min), result)

    return function_operation(function, target, (source,), "conversion")


def float_to_float(modifiers: Modifiers, target: str, source: str) -> Operation:
    narrower, wider = FLOATS[target], FLOATS[source]
    if target == source:
        return same_float(modifiers, target)
    # bf16 and f16 hold each other's values only with rounding; else the wider precision holds every value.
    exact = narrower.precision > wider.precision and narrower.most >= wider.most
    if exact:
        mode = modifiers.choice(FLOAT_ROUNDINGS, default="rn") if source == "bf16" else "rn"
    else:
        mode = modifiers.choice(FLOAT_ROUNDINGS)
    ftz = "f32" in (source, target) and modifiers.flag("ftz")
    sat = target != "f64" and modifiers.flag("sat")
    relu = target in ("f16", "bf16") and source == "f32" and mode in ("rn", "rz") and modifiers.flag("relu")
    satfinite = target in ("f16", "bf16") and source == "f32" and mode in ("rn", "rz") and modifiers.flag("satfinite")
    modifiers.end()
    if not (ftz or sat or relu or satfinite):
        fast = FAST_FLOATS.get((target, source)) if mode == "rn" else None
        if fast is not None:
            return function_operation(fast, target, (source,), "conversion")
    return function_operation(
        narrowing(wider, narrower, mode, ftz=ftz, sat=sat, relu=relu, satfinite=satfinite),
        target,
        (source,),
        "conversion",
    )


def _float64_to_float32(a: np.ndarray) -> np.ndarray:
    return encode_float32(a.astype(np.float32))


def encode_float32(values: np.ndarray) -> np.ndarray:
    nan = np.array(0x7FFFFFFF, np.uint32).view(np.float32)[()]
    return np.where(np.isnan(values), nan, values)


FAST_FLOATS: dict[tuple[str, str], Callable[[np.ndarray], np.ndarray]] = {
    ("f64", "f32"): lambda a: encode(a.astype(np.float64), F64),
    ("f32", "f64"): _float64_to_float32,
    ("f16", "f32"): float32_to_float16,
    ("bf16", "f32"): float32_to_bfloat16,
    ("f32", "f16"): lambda a: encode_float32(a.view(np.float16).astype(np.float32)),
    ("f32", "bf16"): lambda a: encode_float32(bfloat16_to_float32(a)),
}


def narrowing(
    source: Format,
    target: Format,
    mode: str,
    *,
    ftz: bool = False,
    sat: bool = False,
    relu: bool = False,
    satfinite: bool = False,
) -> Callable[[np.ndarray], np.ndarray]:
    """The function from registers of one format to registers of another."""

    def function(a: np.ndarray) -> np.ndarray:
        values = decode(a, source)
        if ftz and source is F32:
            values = flush(values, F32)
        if target is not F64:
            values = round_to(values, target, mode)
        if ftz and target is F32:
            values = flush(values, F32)
        if sat:
            values = saturate(values)
        if satfinite:
            values = np.where(np.isinf(values), np.copysign(target.maximum, values), values)
        return encode(rectify(values) if relu else values, target)

    return function


def same_float(modifiers: Modifiers, type_: str) -> Operation:
    """cvt between one float type: rounds to an integer, flushes, or clamps to [0, 1]."""
    mode = modifiers.choice(INTEGER_ROUNDINGS, default="none")
    ftz = type_ == "f32" and modifiers.flag("ftz")
    sat = modifiers.flag("sat")
    modifiers.end()
    format_ = FLOATS[type_]

    def function(a: np.ndarray) -> np.ndarray:
        values = decode(a, format_)
        if ftz:
            values = flush(values, F32)
        if mode != "none":
            values = ROUND_TO_INTEGER[mode[:2]](values)
        return encode(saturate(values) if sat else values, format_)

    return function_operation(function, type_, (type_,), "conversion")


def to_tf32(modifiers: Modifiers, source: str) -> Operation:
    """float32 rounded to tf32 (10 bits of fraction), the low 13 bits zero."""
    if source != "f32":
        raise modifiers.unsupported()
    mode = modifiers.choice(("rna", "rn", "rz"))
    satfinite = modifiers.flag("satfinite")
    relu = mode != "rna" and modifiers.flag("relu")
    modifiers.end()
    function = narrowing(F32, TF32, mode, satfinite=satfinite, relu=relu)
    return function_operation(function, "tf32", ("f32",), "conversion")


def pack_floats(modifiers: Modifiers, target: str, source: str) -> Operation:
    """Two float32 into one packed register, the first operand into the upper half."""
    if source != "f32":
        raise modifiers.unsupported()
    mode = modifiers.choice(("rn", "rz"))
    relu = modifiers.flag("relu")
    satfinite = modifiers.flag("satfinite")
    modifiers.end()
    half = PACKED[target]
    if mode == "rn" and not (relu or satfinite):
        function: Callable[[np.ndarray], np.ndarray] = {F16: float32_to_float16, BF16: float32_to_bfloat16}[half]
    else:
        function = narrowing(F32, half, mode, relu=relu, satfinite=satfinite)

    def packed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (function(a).astype(np.uint32) << np.uint32(16)) | function(b)

    return function_operation(packed, target, (source, source), "conversion")


def to_bytes(modifiers: Modifiers, target: str, source: str) -> Operation:
    """Two float32, or the two halves of one register, into two bytes; what is too large becomes the largest number."""
    modifiers.choice(("rn",))
    relu = modifiers.flag("relu")
    if source not in ("f32", *PACKED) or not modifiers.flag("satfinite"):
        raise modifiers.unsupported()
    modifiers.end()
    function = narrowing(PACKED.get(source, F32), BYTES[target], "rn", relu=relu, satfinite=True)

    def from_two(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (function(a).astype(np.uint16) << np.uint16(8)) | function(b)

    def from_halves(a: np.ndarray) -> np.ndarray:
        return function(np.atleast_1d(a).view(np.uint16)).view(np.uint16)

    if source == "f32":
        return function_operation(from_two, target, (source, source), "conversion")
    return function_operation(from_halves, target, (source,), "conversion")


def from_bytes(modifiers: Modifiers, target: str, source: str) -> Operation:
    """Two bytes into two halves of a register, which hold their values exactly."""
    if target not in PACKED:
        raise modifiers.unsupported()
    modifiers.choice(("rn",))
    relu = modifiers.flag("relu")
    modifiers.end()

    def function(a: np.ndarray) -> np.ndarray:
        values = decode(np.atleast_1d(a).view(np.uint8), BYTES[source])
        return encode(rectify(values) if relu else values, PACKED[target]).view(np.uint32)

    return function_operation(function, target, (source,), "conversion")
