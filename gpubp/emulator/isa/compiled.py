"""Float arithmetic that NumPy lacks, as ufuncs and loops that Numba compiles for this CPU when first asked for.

NumPy has no fused multiply-add, and the sign of a zero that its minimum gives is left open. LLVM's fma becomes one
instruction where the CPU has it, and else a call of the C library's fma, which is exact as well. None of these
functions reorders or contracts anything (no fast-math).

A NaN that comes out of arithmetic is the canonical one, which also makes its bits independent of where in a vector its
lane stands: 0x7fffffff in float32 (PTX ISA, "Floating-Point Instructions"), and 0xfff8000000000000 in float64 (CUDA's
CUDART_NAN; the ISA leaves it open).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from gpubp.emulator.loops import elementwise, loop

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


def add(a, b):
    return _canonical(a + b)


def subtract(a, b):
    return _canonical(a - b)


def multiply(a, b):
    return _canonical(a * b)


def fma(a, b, c):
    return _canonical(_fma(a, b, c))


def minimum(a, b):
    """IEEE 754's minimumNumber: a NaN loses, -0 < +0 (PTX ISA, min)."""
    smaller = a if a < b or (a == b and _sign_bit(a)) or b != b else b
    return _canonical(smaller)


def maximum(a, b):
    larger = a if a > b or (a == b and not _sign_bit(a)) or b != b else b
    return _canonical(larger)


def select(a, b, p):
    return a if p else b


_FUNCTIONS = {function.__name__: function for function in (add, subtract, multiply, fma, minimum, maximum)}


@functools.cache
def compiled_select() -> Any:
    """a where the bool p, else b, of raw registers: ufunc of (a, b, p). np.where would cost a copy more."""
    return elementwise(select, [f"uint{bits}(uint{bits}, uint{bits}, boolean)" for bits in (16, 32, 64)])


@functools.cache
def compiled(name: str) -> Any:
    """The ufunc of that name, for float32 and float64: "add", "subtract", "multiply", "fma", "minimum", "maximum"."""
    function = _FUNCTIONS[name]
    arity = function.__code__.co_argcount
    signatures = [f"{dtype}({', '.join([dtype] * arity)})" for dtype in ("float32", "float64")]
    return elementwise(function, signatures)


@loop
def multiply_fragments(a, b, c, a_order, b_order, c_order, d):
    """D = A B + C of each warp's fragments, behind mma and wmma.

    a, b, c: float32 of shape (warps, elements), a warp's elements in lane order. a_order: for each place of the
    row-major m x k matrix A the position of its element. b_order, c_order: the same of B and C for each block of eight
    columns, of shapes (n / 8, 8 k) and (n / 8, 8 m). d: gets D in float64, in the lane order of C, summed in the order
    of k.
    """
    depth = b_order.shape[1] // 8
    rows = np.empty(8 * depth, np.float64)
    for warp in range(a.shape[0]):
        sums = d[warp]
        sums[:] = c[warp]
        for block in range(b_order.shape[0]):
            for place in range(8 * depth):
                rows[place] = b[warp, b_order[block, place]]
            for i in range(c_order.shape[1] // 8):
                # Eight sums in variables: in an array, each would be stored and loaded again at every step.
                to = c_order[block, 8 * i : 8 * i + 8]
                s0, s1, s2, s3 = sums[to[0]], sums[to[1]], sums[to[2]], sums[to[3]]
                s4, s5, s6, s7 = sums[to[4]], sums[to[5]], sums[to[6]], sums[to[7]]
                for k in range(depth):
                    factor = np.float64(a[warp, a_order[depth * i + k]])
                    first = 8 * k
                    s0 += factor * rows[first]
                    s1 += factor * rows[first + 1]
                    s2 += factor * rows[first + 2]
                    s3 += factor * rows[first + 3]
                    s4 += factor * rows[first + 4]
                    s5 += factor * rows[first + 5]
                    s6 += factor * rows[first + 6]
                    s7 += factor * rows[first + 7]
                sums[to[0]], sums[to[1]], sums[to[2]], sums[to[3]] = s0, s1, s2, s3
                sums[to[4]], sums[to[5]], sums[to[6]], sums[to[7]] = s4, s5, s6, s7
