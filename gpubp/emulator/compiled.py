"""Float arithmetic that NumPy lacks, as ufuncs that Numba compiles for this CPU when first asked for.

NumPy has no fused multiply-add, and the sign of a zero that its minimum gives is left open. Numba keeps what it
compiled on disk (next to this file, or in the user's cache folder), keyed by this file and the CPU, so the cost of
about 0.3 seconds a ufunc is paid once. LLVM's fma becomes one instruction where the CPU has it, and else a call of the
C library's fma, which is exact as well. None of these functions reorders or contracts anything (no fast-math).

A NaN that comes out of arithmetic is the canonical one, which also makes its bits independent of where in a vector its
lane stands: 0x7fffffff in float32 (PTX ISA, "Floating-Point Instructions"), and 0xfff8000000000000 in float64 (CUDA's
CUDART_NAN; the ISA leaves it open).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import guvectorize, vectorize
from numba.extending import intrinsic

CANONICAL_NAN_BITS = {"float": 0x7FFFFFFF, "double": 0xFFF8000000000000}


@intrinsic
def _fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return a(a, a, a), codegen


@intrinsic
def _canonical(typingctx: Any, a: Any) -> Any:
    """The value itself, or the canonical NaN of its type."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (value,) = args
        bits = ir.IntType(32 if value.type == ir.FloatType() else 64)
        nan = builder.bitcast(ir.Constant(bits, CANONICAL_NAN_BITS[str(value.type)]), value.type)
        return builder.select(builder.fcmp_unordered("uno", value, value), nan, value)

    return a(a), codegen


@intrinsic
def _sign_bit(typingctx: Any, a: Any) -> Any:
    from numba import types

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (value,) = args
        bits = ir.IntType(32 if value.type == ir.FloatType() else 64)
        return builder.icmp_signed("<", builder.bitcast(value, bits), ir.Constant(bits, 0))

    return types.boolean(a), codegen


def add(a, b):  # type: ignore[no-untyped-def]
    return _canonical(a + b)


def subtract(a, b):  # type: ignore[no-untyped-def]
    return _canonical(a - b)


def multiply(a, b):  # type: ignore[no-untyped-def]
    return _canonical(a * b)


def fma(a, b, c):  # type: ignore[no-untyped-def]
    return _canonical(_fma(a, b, c))


def minimum(a, b):  # type: ignore[no-untyped-def]
    """IEEE 754's minimumNumber: a NaN loses, -0 < +0 (PTX ISA, min)."""
    smaller = a if a < b or (a == b and _sign_bit(a)) or b != b else b
    return _canonical(smaller)


def maximum(a, b):  # type: ignore[no-untyped-def]
    larger = a if a > b or (a == b and not _sign_bit(a)) or b != b else b
    return _canonical(larger)


_FUNCTIONS = {function.__name__: function for function in (add, subtract, multiply, fma, minimum, maximum)}


# Numba's wrapper costs twice as much a call as the NumPy ufunc in it, but it owns the machine code.
_KEPT: list[Any] = []


@functools.cache
def compiled(name: str) -> Any:
    """The ufunc of that name, for float32 and float64: "add", "subtract", "multiply", "fma", "minimum", "maximum"."""
    function = _FUNCTIONS[name]
    arity = function.__code__.co_argcount
    signatures = [f"{dtype}({', '.join([dtype] * arity)})" for dtype in ("float32", "float64")]
    built = vectorize(signatures, cache=True)(function)
    _KEPT.append(built)
    return built.ufunc


@functools.cache
def _matrix_product_ufunc() -> Any:
    @guvectorize(["float32[:,:], float32[:,:], float32[:,:], float64[:,:]"], "(m,k),(k,n),(m,n)->(m,n)", cache=True)
    def product(a, b, c, d):  # type: ignore[no-untyped-def]
        for i in range(a.shape[0]):
            for j in range(b.shape[1]):
                d[i, j] = c[i, j]
            for k in range(a.shape[1]):
                factor = np.float64(a[i, k])
                for j in range(b.shape[1]):
                    d[i, j] += factor * np.float64(b[k, j])

    return product


def matrix_product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """A B + C of float32 stacks (..., m, k), (..., k, n), (..., m, n), in float64, summed in the order of k."""
    return _matrix_product_ufunc()(a, b, c)
