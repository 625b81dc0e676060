"""Floating-point formats, and correct rounding into them from float64.

The narrower formats are all computed in float64: each operation gives a float64 *rounded to odd* (the exact result if
it is a float64, else the neighbour whose last bit is set), and a number rounded to odd rounds a second time, in any
direction and to at most 51 bits, to what the exact result would have given (Boldo and Melquiond, "Emulation of FMA and
correctly rounded sums: proved algorithms using rounding to odd", 2008). float64 itself has no wider type here: its
directed roundings are computed with Python's integers (directed.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: `precision` bits with the hidden one, normal exponents from `least` to `most`."""

    name: str
    precision: int
    least: int
    most: int
    has_infinity: bool = True
    # The largest finite value, where the top of the range is not all numbers (e4m3 gives its last code to NaN).
    largest: float = 0.0

    @property
    def maximum(self) -> float:
        return self.largest or (2.0 - 2.0 ** (1 - self.precision)) * 2.0**self.most

    @property
    def smallest_normal(self) -> float:
        return 2.0**self.least


F16 = Format("f16", 11, -14, 15)
BF16 = Format("bf16", 8, -126, 127)
TF32 = Format("tf32", 11, -126, 127)
F32 = Format("f32", 24, -126, 127)
F64 = Format("f64", 53, -1022, 1023)
E4M3 = Format("e4m3", 4, -6, 8, has_infinity=False, largest=448.0)
E5M2 = Format("e5m2", 3, -14, 15)


def _nearest_away(scaled: np.ndarray) -> np.ndarray:
    magnitude = np.floor(np.abs(scaled) + 0.5)  # exact: scaled has far fewer than 52 integer bits
    return np.copysign(magnitude, scaled)


ROUND_TO_INTEGER: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rn": np.rint,
    "rz": np.trunc,
    "rm": np.floor,
    "rp": np.ceil,
    "rna": _nearest_away,
}


# NumPy's conversions round to nearest, so these need no arithmetic of ours.
NEAREST_DTYPES = {F32: np.float32, F16: np.float16}


def to_odd(head: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """head + tail rounded to odd, where head is the float64 nearest to the exact sum of the two."""
    bits = head.view(np.int64)
    # Of the two float64 around an inexact sum one is odd: head, or its neighbour on the tail's side.
    moves = (tail != 0) & ((bits & 1) == 0) & np.isfinite(head)
    outwards = (tail > 0) == (head > 0)
    return np.where(moves, bits + np.where(outwards, 1, -1), bits).view(np.float64)


def round_to(values: np.ndarray, target: Format, mode: str) -> np.ndarray:
    """Float64 values rounded to a format of at most 51 bits, still as float64; overflow follows the mode (IEEE 754)."""
    if mode == "rn" and target in NEAREST_DTYPES:
        return values.astype(NEAREST_DTYPES[target]).astype(np.float64)
    _, exponent = np.frexp(values)
    quantum = np.maximum(exponent, target.least + 1) - target.precision
    rounded = np.ldexp(ROUND_TO_INTEGER[mode](np.ldexp(values, -quantum)), quantum)
    finite = np.isfinite(values)
    overflow = finite & (np.abs(rounded) > target.maximum)
    if overflow.any():
        if mode in ("rn", "rna"):
            limit = np.full(rounded.shape, np.inf)
        elif mode == "rz":
            limit = np.full(rounded.shape, target.maximum)
        else:
            limit = np.where((rounded > 0) == (mode == "rp"), np.inf, target.maximum)
        rounded = np.where(overflow, np.copysign(limit, rounded), rounded)
    return np.where(finite, rounded, values)


CANONICAL_NAN = {
    **dict.fromkeys(("e4m3", "e5m2"), 0x7F),
    **dict.fromkeys(("f16", "bf16"), 0x7FFF),
    **dict.fromkeys(("tf32", "f32"), 0x7FFFFFFF),
    "f64": 0xFFF8000000000000,
}


def decode(register: np.ndarray, source: Format) -> np.ndarray:
    """A register's float64 value; f32 and f64 registers are float arrays, the others raw bits."""
    if source is F64:
        return register
    if source is F32:
        return register.astype(np.float64)
    if source is F16:
        return register.view(np.float16).astype(np.float64)
    if source is BF16:
        return bfloat16_to_float32(register).astype(np.float64)
    if source is TF32:
        return tf32_to_float32(register).astype(np.float64)
    return byte_values(source)[register]


@functools.cache
def byte_values(format_: Format) -> np.ndarray:
    """Return the float64 value of every byte in a format of eight bits."""
    codes = np.arange(256)
    digits = format_.precision - 1
    exponent, fraction = codes >> digits & (127 >> digits), codes & ((1 << digits) - 1)
    normal = exponent > 0
    magnitude = np.ldexp(fraction + (normal << digits), np.maximum(exponent, 1) - 1 + format_.least - digits)
    magnitude[codes & 127 > np.flatnonzero(magnitude[:128] == format_.maximum)[0]] = np.nan
    if format_.has_infinity:
        magnitude[(codes & 127) == (127 >> digits) << digits] = np.inf
    return np.where(codes < 128, magnitude, -magnitude)


def encode(values: np.ndarray, target: Format) -> np.ndarray:
    """Float64 values that the format can hold, as a register; every NaN becomes the canonical one."""
    nan = np.isnan(values)
    if target is F64:
        return np.where(nan, np.uint64(CANONICAL_NAN["f64"]), values.view(np.uint64)).view(np.float64)
    if target is F16:
        return np.where(nan, np.uint16(CANONICAL_NAN["f16"]), values.astype(np.float16).view(np.uint16))
    if target in (E4M3, E5M2):
        positive = byte_values(target)[:128]
        codes = np.searchsorted(positive[~np.isnan(positive)], np.abs(values))
        return np.where(nan, CANONICAL_NAN[target.name], codes | np.signbit(values) * 128).astype(np.uint8)
    bits = np.where(nan, np.uint32(CANONICAL_NAN["f32"]), values.astype(np.float32).view(np.uint32))
    if target is F32:
        return bits.view(np.float32)
    if target is BF16:
        return (bits >> np.uint32(16)).astype(np.uint16)
    if target is TF32:
        return bits
    raise ValueError(target.name)


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round to nearest, ties to even, by adding just under half of the dropped part; NaN becomes the canonical one."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(CANONICAL_NAN["bf16"]), rounded).astype(np.uint16)


def float32_to_float16(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.uint16(CANONICAL_NAN["f16"]), values.astype(np.float16).view(np.uint16))


def tf32_to_float32(bits: np.ndarray) -> np.ndarray:
    """The value that a tensor core reads from a tf32 register: the low 13 bits count for nothing."""
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)
