"""Directed rounding in float64, exactly: Python integers, lane by lane.

There is no wider type to round from, and compilers emit these forms only where a kernel asks for them (__dadd_rz), so
being plainly right counts for more than speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from gpubp.emulator.isa.compiled import compiled
from gpubp.emulator.isa.rounding import F64, encode

_LEAST_EXPONENT = -1074
_LARGEST = float.fromhex("0x1.fffffffffffffp+1023")


def round_fraction(value: Fraction, mode: str) -> float:
    """A non-zero rational number rounded to float64 in the direction of the mode."""
    numerator, denominator = abs(value.numerator), value.denominator
    exponent = numerator.bit_length() - denominator.bit_length()
    if Fraction(numerator, denominator) < Fraction(2) ** exponent:
        exponent -= 1
    quantum = max(exponent - 52, _LEAST_EXPONENT)
    scaled = abs(value) / Fraction(2) ** quantum
    away = (mode == "rp" and value > 0) or (mode == "rm" and value < 0)
    digits = math.ceil(scaled) if away else math.floor(scaled)
    if digits.bit_length() + quantum > 1024:
        magnitude = math.inf if away else _LARGEST
    else:
        magnitude = math.ldexp(digits, quantum)
    return -magnitude if value < 0 else magnitude


def _square_root(value: float, mode: str) -> float:
    exact = Fraction(value)
    nearest = math.sqrt(value)
    square = Fraction(nearest) ** 2
    if square > exact and mode in ("rz", "rm"):
        return math.nextafter(nearest, 0.0)
    if square < exact and mode == "rp":
        return math.nextafter(nearest, math.inf)
    return nearest


def _exact(opcode: str, values: tuple[float, ...]) -> Fraction:
    a, *rest = (Fraction(value) for value in values)
    if opcode == "add":
        return a + rest[0]
    if opcode == "sub":
        return a - rest[0]
    if opcode == "mul":
        return a * rest[0]
    if opcode == "div":
        return a / rest[0]
    if opcode == "rcp":
        return 1 / a
    return a * rest[0] + rest[1]


def directed(opcode: str, mode: str) -> Callable[..., np.ndarray]:
    """add, sub, mul, fma, mad, div, rcp or sqrt of float64 arrays, rounded by rz, rm or rp."""

    def nearest(values: tuple[np.ndarray, ...]) -> np.ndarray:
        """Right where the result is a NaN, an infinity of the operands, or a zero."""
        a, *rest = values
        simple: dict[str, Callable[[], np.ndarray]] = {
            "add": lambda: a + rest[0],
            "sub": lambda: a - rest[0],
            "mul": lambda: a * rest[0],
            "div": lambda: a / rest[0],
            "rcp": lambda: 1.0 / a,
            "sqrt": lambda: np.sqrt(a),
        }
        return simple[opcode]() if opcode in simple else compiled("fma")(*values)  # a * b alone could overflow

    def function(*registers: np.ndarray) -> np.ndarray:
        values = tuple(np.broadcast_arrays(*registers))
        result = np.atleast_1d(nearest(values)).astype(np.float64)
        finite = np.logical_and.reduce([np.isfinite(value) for value in values])
        divisor = {"div": -1, "rcp": 0}.get(opcode)
        if divisor is not None:
            finite = finite & (values[divisor] != 0)
        if opcode == "sqrt":
            finite = finite & (values[0] > 0)
        for lane in np.flatnonzero(np.atleast_1d(finite)):
            operands = tuple(float(value.flat[lane]) for value in values)
            result[lane] = _lane(opcode, mode, operands)
        return encode(result, F64)

    return function


def _lane(opcode: str, mode: str, operands: tuple[float, ...]) -> float:
    """One lane, all of whose operands are finite."""
    if opcode == "sqrt":
        return _square_root(operands[0], mode)
    exact = _exact(opcode, operands)
    if exact:
        return round_fraction(exact, mode)
    if opcode in ("mul", "div"):
        return math.copysign(0.0, math.copysign(1.0, operands[0]) * math.copysign(1.0, operands[1]))
    if opcode in ("fma", "mad"):
        product_sign = math.copysign(1.0, operands[0]) * math.copysign(1.0, operands[1])
        signs = (product_sign, math.copysign(1.0, operands[2]))
    else:
        second = operands[1] if opcode == "add" else -operands[1]
        signs = (math.copysign(1.0, operands[0]), math.copysign(1.0, second))
    # Terms of one sign keep it (both are zeros then); an exact cancellation is -0 only when rounding down.
    if signs[0] == signs[1]:
        return math.copysign(0.0, signs[0])
    return -0.0 if mode == "rm" else 0.0
