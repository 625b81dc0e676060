"""The passes of the `cpu` backend, which Numba compiles for this CPU: a primitive's product and what follows it, in one
call; and what follows it alone, for a part of an array.

Arrays are C-contiguous and of one dtype. A pass over a part is called with the same parts whatever the number of
threads is, so that its results have the same bits. σ, a loss and an optimiser's rule are each a value of a type of its
own, with their own number in it: Numba compiles a pass for each type that it meets.

All exponentials are made of one polynomial in float64 (`_exp_parts`), which becomes vector instructions as it stands,
where a call of the C library for each element would not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable

from gpubp.emulator import loops
from gpubp.errors import StateError
from gpubp.nn.activations import GELU_CUBIC, INV_SQRT_2PI, SQRT_2_OVER_PI

OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
"""Division by 0 gives what IEEE 754 says; a product and a sum may become one fma."""

loop: Callable[[Callable], Callable] = partial(loops.loop, **OPTIONS)
"""Compile a pass."""

summing = partial(loops.loop, error_model="numpy", fastmath={"contract", "reassoc"})
"""Compile a pass that adds many numbers up: in the order that fits the CPU's vectors, and the same one each time."""

device = register_jitable(**OPTIONS)
"""A function of numbers, for the passes."""

INV_SQRT_2 = 0.5**0.5
LOG2_E = 1 / math.log(2)
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""ln 2 in two parts: n times the first is exact for every n that an exponent has (as in FreeBSD's e_exp.c)."""
SHIFT = 6755399441055744.0
"""1.5 · 2⁵²: a number plus this is rounded to an integer, which its last bits are."""
SHIFT_BITS = int(np.float64(SHIFT).view(np.int64))
LEAST_EXPONENT, LARGEST_EXPONENT = -746.0, 710.0
"""Beyond these eˣ is 0, or infinite, in float64."""


# --- what arrays must be ----------------------------------------------------------------------------------------------
def _require_like(name, array, like):
    """Raise StateError unless an array has the sides and the dtype of another, which are floats; None passes.

    A dtype is looked at when a pass is compiled, sides before it reads: it goes through memory without looking again.
    """
    raise NotImplementedError


def _require_sides(name, array, sides):
    """Raise StateError unless an array has these sides; None passes."""
    raise NotImplementedError


@overload(_require_like, prefer_literal=True)
def _require_like_for(name, array, like):
    array, like = (types.none if isinstance(each, types.Omitted) else each for each in (array, like))
    if array is types.none:
        return _pass_like
    argument = name.literal_value
    if array.dtype not in (types.float32, types.float64):
        raise StateError(argument, f"is of {array.dtype}", "be of float32 or float64")
    if (array.ndim, array.dtype) != (like.ndim, like.dtype):
        raise StateError(argument, f"is {array}", f"be like {like}, which is computed from it")

    def compared(name, array, like):
        if array.shape != like.shape:
            raise StateError(argument, "does not fit what is computed from it", "have as many rows and columns")

    return compared


def _pass_like(name, array, like):
    pass


@overload(_require_sides, prefer_literal=True)
def _require_sides_for(name, array, sides):
    if array is types.none:
        return _pass_sides
    argument = name.literal_value
    if array.ndim != len(sides):
        raise StateError(argument, f"is {array}", f"have {len(sides)} sides")

    def compared(name, array, sides):
        if array.shape != sides:
            raise StateError(argument, "does not fit the other arrays", "have as many rows and columns as they need")

    return compared


def _pass_sides(name, array, sides):
    pass


# --- products ---------------------------------------------------------------------------------------------------------
@intrinsic
def _gemm(typing: Any, addresses: Any, form: Any, alpha: Any, a: Any, b: Any, beta: Any, c: Any) -> Any:
    """c ← α A B + β c by one of the BLAS functions at these addresses: of float32, and of float64.

    form: (is A transposed, is B).
    """
    for array in (a, b, c):
        if not (isinstance(array, types.Array) and array.ndim == 2 and array.layout == "C" and array.dtype == c.dtype):
            raise StateError("a product", f"is of {a} and {b} into {c}", "be of C-contiguous matrices of one dtype")
    signature = types.void(addresses, form, types.float64, a, b, types.float64, c)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where, form, alpha, a, b, beta, c = arguments
        int32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        scalar = context.get_value_type(signature.args[6].dtype)
        a, b, c = (
            context.make_array(signature.args[place])(context, builder, value)
            for place, value in ((3, a), (4, b), (6, c))
        )
        where = builder.extract_value(where, 0 if signature.args[6].dtype == types.float32 else 1)
        flipped = [builder.extract_value(form, place) for place in (0, 1)]

        def placed(value: Any) -> Any:
            return builder.bitcast(cgutils.alloca_once_value(builder, value), pointer)

        def side(matrix: Any, axis: int) -> Any:
            return builder.trunc(builder.extract_value(matrix.shape, axis), int32)

        def letter(is_flipped: Any) -> Any:
            yes, no = (ir.Constant(ir.IntType(8), ord(name)) for name in "TN")
            return placed(builder.select(is_flipped, yes, no))

        def number(value: Any) -> Any:
            return placed(value if scalar == value.type else builder.fptrunc(value, scalar))

        depth = builder.select(flipped[0], side(a, 0), side(a, 1))
        data = {name: builder.bitcast(matrix.data, pointer) for name, matrix in (("a", a), ("b", b), ("c", c))}
        # BLAS counts columns first: it sees aᵀ, bᵀ and cᵀ, and cᵀ = bᵀ aᵀ
        passed = [
            letter(flipped[1]), letter(flipped[0]), placed(side(c, 1)), placed(side(c, 0)), placed(depth),
            number(alpha), data["b"], placed(side(b, 1)), data["a"], placed(side(a, 1)),
            number(beta), data["c"], placed(side(c, 1)),
        ]  # fmt: skip
        function = ir.FunctionType(ir.VoidType(), [pointer] * len(passed))
        builder.call(builder.inttoptr(where, function.as_pointer()), passed)
        return context.get_dummy_value()

    return signature, codegen


@device
def _multiply(gemm, a_transposed, b_transposed, alpha, a, b, beta, c):
    """c ← α A B + β c, with A or B transposed; gemm: the addresses of the BLAS functions."""
    m, k = a.shape
    if a_transposed:
        m, k = k, m
    k_of_b, n = b.shape
    if b_transposed:
        k_of_b, n = n, k_of_b
    if k != k_of_b or m != c.shape[0] or n != c.shape[1]:
        raise StateError("a product", "is of arrays whose sides do not fit together", "be of (M, K), (K, N) and (M, N)")
    _gemm(gemm, (a_transposed, b_transposed), alpha, a, b, beta, c)


@loop
def multiply(gemm, a_transposed, b_transposed, alpha, a, b, beta, c):
    """See `_multiply`."""
    _multiply(gemm, a_transposed, b_transposed, alpha, a, b, beta, c)


# --- numbers ----------------------------------------------------------------------------------------------------------
@intrinsic
def _like(typing: Any, x: Any, value: Any) -> Any:
    """Return the value as a number of x's type."""
    kind = types.float32 if x == types.float32 else types.float64

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[1], signature.args[1], kind)

    return kind(x, value), codegen


@device
def _exp_parts(x):
    """Return p, s, t with eˣ = (1 + p) s t: x = n ln 2 + r, p = eʳ − 1, s t = 2ⁿ; n has two parts, as 2ⁿ alone could be
    beyond float64."""
    x = LEAST_EXPONENT if x < LEAST_EXPONENT else x
    x = LARGEST_EXPONENT if x > LARGEST_EXPONENT else x
    shifted = x * LOG2_E + SHIFT
    n = shifted - SHIFT
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = 1 / 6227020800
    p = p * r + 1 / 479001600
    p = p * r + 1 / 39916800
    p = p * r + 1 / 3628800
    p = p * r + 1 / 362880
    p = p * r + 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 0.5
    p = p * (r * r) + r
    number = np.float64(shifted).view(np.int64) - SHIFT_BITS
    half = number >> 1
    s = np.int64((half + 1023) << 52).view(np.float64)
    t = np.int64((number - half + 1023) << 52).view(np.float64)
    return p, s, t


@device
def _exp(x):
    p, s, t = _exp_parts(x)
    return (1 + p) * s * t


@device
def _expm1(x):
    """eˣ − 1, for x up to 709."""
    p, s, t = _exp_parts(x)
    scale = s * t
    return scale * p + (scale - 1)


@device
def _log1p(y):
    """ln(1 + y) = 2 artanh(s), s = y / (2 + y), for 0 ≤ y ≤ 1, where s ≤ 1/3 and the series falls by 9 a term."""
    s = y / (2 + y)
    q = s * s
    p = 1 / 33
    p = p * q + 1 / 31
    p = p * q + 1 / 29
    p = p * q + 1 / 27
    p = p * q + 1 / 25
    p = p * q + 1 / 23
    p = p * q + 1 / 21
    p = p * q + 1 / 19
    p = p * q + 1 / 17
    p = p * q + 1 / 15
    p = p * q + 1 / 13
    p = p * q + 1 / 11
    p = p * q + 1 / 9
    p = p * q + 1 / 7
    p = p * q + 1 / 5
    p = p * q + 1 / 3
    return 2 * (s + s * q * p)


@device
def _sigmoid(z):
    e = _exp(-abs(z))  # at most 1: neither side overflows
    return (e if z < 0 else 1.0) / (1 + e)


@device
def _softplus(z):
    return (z if z > 0 else 0.0) + _log1p(_exp(-abs(z)))


@device
def _tanh(z):
    e = _expm1(-2 * abs(z))
    return math.copysign(-e / (2 + e), z)


@device
def _normal(z):
    """Φ(z); erfc keeps its relative accuracy where Φ is small."""
    return 0.5 * math.erfc(-z * INV_SQRT_2)


# --- activations ------------------------------------------------------------------------------------------------------
class Identity(NamedTuple):
    """σ(z) = z. Like the next ones: what it is called by in Numba's types, and its own number."""

    parameter: float


class ReLU(NamedTuple):
    """σ(z) = max(z, 0)."""

    parameter: float


class LeakyReLU(NamedTuple):
    """σ(z) = z where z > 0, else slope · z."""

    parameter: float


class ELU(NamedTuple):
    """σ(z) = z where z > 0, else α (eᶻ − 1)."""

    parameter: float


class Softplus(NamedTuple):
    """σ(z) = ln(1 + eᶻ)."""

    parameter: float


class Sigmoid(NamedTuple):
    """σ(z) = 1 / (1 + e^−z)."""

    parameter: float


class Tanh(NamedTuple):
    """σ(z) = tanh z."""

    parameter: float


class GELU(NamedTuple):
    """σ(z) = z Φ(z)."""

    parameter: float


class GELUTanh(NamedTuple):
    """σ(z) = ½ z (1 + tanh u), u = √(2/π) (z + 0.044715 z³)."""

    parameter: float


class SiLU(NamedTuple):
    """σ(z) = z sigmoid(z)."""

    parameter: float


SIGMAS: dict[str, type[Any]] = {
    "identity": Identity,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "softplus": Softplus,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "gelu": GELU,
    "gelu_tanh": GELUTanh,
    "silu": SiLU,
}
"""The elementwise activations, by name."""


@device
def _gelu_tanh_u(z):
    return SQRT_2_OVER_PI * (z + GELU_CUBIC * z * z * z)


@device
def _gelu_tanh_derivative(z):
    t = _tanh(_gelu_tanh_u(z))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * (SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * z * z))


@device
def _gelu_derivative(z):
    return _normal(z) + z * (_exp(-0.5 * z * z) * INV_SQRT_2PI)


@device
def _silu_derivative(z):
    s = _sigmoid(z)
    return s * (1 + z * (1 - s))


# What is made of exponentials is computed in float64, and rounded once.
_APPLY: dict[type, Callable] = {
    Identity: lambda sigma, z: z,
    ReLU: lambda sigma, z: _like(z, 0.0) if z < 0 else z,  # max would swallow a NaN
    LeakyReLU: lambda sigma, z: z if z > 0 else _like(z, sigma.parameter) * z,
    ELU: lambda sigma, z: z if z > 0 else _like(z, sigma.parameter * _expm1(np.float64(z))),
    Softplus: lambda sigma, z: _like(z, _softplus(np.float64(z))),
    Sigmoid: lambda sigma, z: _like(z, _sigmoid(np.float64(z))),
    Tanh: lambda sigma, z: _like(z, _tanh(np.float64(z))),
    GELU: lambda sigma, z: _like(z, z * _normal(np.float64(z))),
    GELUTanh: lambda sigma, z: _like(z, 0.5 * z * (1 + _tanh(_gelu_tanh_u(np.float64(z))))),
    SiLU: lambda sigma, z: _like(z, z * _sigmoid(np.float64(z))),
}
_DERIVATIVE: dict[type, Callable] = {
    Identity: lambda sigma, saved: _like(saved, 1.0),
    ReLU: lambda sigma, saved: _like(saved, 1.0) if saved > 0 else _like(saved, 0.0),
    LeakyReLU: lambda sigma, saved: _like(saved, 1.0) if saved > 0 else _like(saved, sigma.parameter),
    ELU: lambda sigma, saved: _like(saved, 1.0) if saved > 0 else saved + _like(saved, sigma.parameter),
    Softplus: lambda sigma, saved: _like(saved, -_expm1(-np.float64(saved))),
    Sigmoid: lambda sigma, saved: saved * (_like(saved, 1.0) - saved),
    Tanh: lambda sigma, saved: _like(saved, 1.0) - saved * saved,
    GELU: lambda sigma, saved: _like(saved, _gelu_derivative(np.float64(saved))),
    GELUTanh: lambda sigma, saved: _like(saved, _gelu_tanh_derivative(np.float64(saved))),
    SiLU: lambda sigma, saved: _like(saved, _silu_derivative(np.float64(saved))),
}


def _apply(sigma, z):
    """Return σ(z)."""
    raise NotImplementedError


def _derivative(sigma, saved):
    """Return σ'(z), from a or from z, as the activation says."""
    raise NotImplementedError


@overload(_apply, jit_options=OPTIONS)
def _apply_for(sigma, z):
    return _APPLY[sigma.instance_class]


@overload(_derivative, jit_options=OPTIONS)
def _derivative_for(sigma, saved):
    return _DERIVATIVE[sigma.instance_class]


# --- forward ----------------------------------------------------------------------------------------------------------
@device
def _activate(sigma, b, z, a):
    """z ← z + b ; a ← σ(z). z: None if a holds it and nobody keeps it. b: None for none."""
    rows, width = a.shape
    _require_like("a", a, a)
    _require_like("z", z, a)
    _require_sides("b", b, (width,))
    for i in range(rows):
        for j in range(width):
            value = a[i, j] if z is None else z[i, j]
            if b is not None:
                value += b[j]
            if z is not None:
                z[i, j] = value
            a[i, j] = _apply(sigma, value)


@loop
def activate(sigma, b, z, a):
    """See `_activate`."""
    _activate(sigma, b, z, a)


@loop
def dense_forward(gemm, alpha, a_prev, w, b, sigma, z, a):
    """z ← α a_prev wᵀ + b ; a ← σ(z)."""
    _multiply(gemm, False, True, alpha, a_prev, w, 0.0, a if z is None else z)
    _activate(sigma, b, z, a)


@loop
def softmax(z, a, flat):
    """a[i] ← exp(z[i] − max z[i]) / Σ exp(z[i] − max z[i]). flat: a as one row."""
    rows, width = z.shape
    _require_like("z", z, a)
    _require_sides("flat", flat, (a.size,))
    for i in range(rows):
        largest = _largest(z, i)
        for j in range(width):
            a[i, j] = z[i, j] - largest
    _exponentials(flat)
    for i in range(rows):
        total = 0.0
        for j in range(width):
            total += a[i, j]
        for j in range(width):
            a[i, j] = a[i, j] / total


@device
def _largest(z, i):
    """Return the largest of a row; NaN if it holds one."""
    largest = z[i, 0]
    for j in range(z.shape[1]):
        value = z[i, j]
        largest = largest if largest > value or largest != largest else value  # a NaN stays
    return largest


@device
def _exponentials(flat):
    """x ← eˣ, of a matrix as one long row: rows of a few numbers fill no vector."""
    for i in range(flat.size):
        flat[i] = _like(flat[i], _exp(np.float64(flat[i])))


# --- backward ---------------------------------------------------------------------------------------------------------
@device
def _multiply_derivative(sigma, saved, product, delta):
    """delta ← product ⊙ σ'(z). product: None if delta holds it."""
    rows, width = delta.shape
    _require_like("saved", saved, delta)
    _require_like("product", product, delta)
    for i in range(rows):
        for j in range(width):
            value = delta[i, j] if product is None else product[i, j]
            delta[i, j] = value * _derivative(sigma, saved[i, j])


@loop
def multiply_derivative(sigma, saved, product, delta):
    """See `_multiply_derivative`."""
    _multiply_derivative(sigma, saved, product, delta)


@loop
def hidden_delta(gemm, alpha, delta_next, w_next, sigma, saved, delta):
    """delta ← (α delta_next w_next) ⊙ σ'(z)."""
    _multiply(gemm, False, False, alpha, delta_next, w_next, 0.0, delta)
    _multiply_derivative(sigma, saved, None, delta)


@device
def _add_columns(alpha, x, beta, sums, first, last, out):
    """out[j] ← α Σ_i x[i, j] + β out[j], for the columns from `first` to before `last`. sums: working memory like out.

    Eight rows are added up before they are added to the sum: it is read and rounded an eighth as often.
    """
    rows, width = x.shape
    _require_sides("out", out, (width,))
    if not 0 <= first <= last <= min(width, sums.size):
        raise StateError("a part of the columns", "reaches beyond the sums or the matrix", "lie within")
    for j in range(first, last):
        sums[j] = 0
    whole = rows - rows % 8
    for i in range(0, whole, 8):
        for j in range(first, last):
            sums[j] += ((x[i, j] + x[i + 1, j]) + (x[i + 2, j] + x[i + 3, j])) + (
                (x[i + 4, j] + x[i + 5, j]) + (x[i + 6, j] + x[i + 7, j])
            )
    for i in range(whole, rows):
        for j in range(first, last):
            sums[j] += x[i, j]
    for j in range(first, last):
        sums[j] *= _like(sums[j], alpha)
        out[j] = sums[j] if beta == 0 else sums[j] + _like(sums[j], beta) * out[j]


@loop
def add_columns(alpha, x, beta, sums, first, last, out):
    """See `_add_columns`."""
    _add_columns(alpha, x, beta, sums, first, last, out)


@loop
def over_the_batch(gemm, alpha, delta, a_prev, beta, out, of_sums, sums, column):
    """out ← α δᵀ a_prev + β out ; column ← of_sums Σ_batch δ + β column. column: None in a layer without a bias."""
    _multiply(gemm, True, False, alpha, delta, a_prev, beta, out)
    if column is not None:
        _add_columns(of_sums, delta, beta, sums, 0, column.size, column)


# --- the output's delta -----------------------------------------------------------------------------------------------
class HalfSquaredError(NamedTuple):
    """ℓ = Σ_j ½ (a_j − y_j)². Like the next ones: its type, and its own number."""

    parameter: float


class SquaredError(NamedTuple):
    """ℓ = Σ_j (y_j − a_j)²."""

    parameter: float


class MeanSquaredError(NamedTuple):
    """ℓ = (1/n) Σ_j (a_j − y_j)²."""

    parameter: float


class AbsoluteError(NamedTuple):
    """ℓ = Σ_j |a_j − y_j|."""

    parameter: float


class Huber(NamedTuple):
    """ℓ = Σ_j ½ d_j² where |d_j| ≤ t, else t (|d_j| − ½ t); d = a − y."""

    parameter: float


class Quantile(NamedTuple):
    """ℓ = Σ_j (1 − τ) d_j where d_j > 0, else −τ d_j; d = a − y."""

    parameter: float


class BinaryCrossEntropy(NamedTuple):
    """ℓ = Σ_j max(z_j, 0) − z_j y_j + ln(1 + e^−|z_j|)."""

    parameter: float


ELEMENTWISE_LOSSES: dict[str, type[Any]] = {
    "half_squared_error": HalfSquaredError,
    "squared_error": SquaredError,
    "mean_squared_error": MeanSquaredError,
    "absolute_error": AbsoluteError,
    "huber": Huber,
    "quantile": Quantile,
    "binary_cross_entropy": BinaryCrossEntropy,
}
"""The losses that are sums over the outputs, by name."""


@device
def _sign(d):
    """Return 1, −1 or 0 as d is; a NaN as it is."""
    return _like(d, 1.0) if d > 0 else (_like(d, -1.0) if d < 0 else d)


@device
def _clipped(d, limit):
    """Return d cut off at ±limit; a NaN as it is."""
    return limit if d > limit else (-limit if d < -limit else d)


@device
def _slope(d, quantile):
    return 1 - quantile if d > 0 else (-quantile if d < 0 else d)


@device
def _probability(y):
    """Return y, or NaN if it is no probability."""
    return y if 0 <= y <= 1 else np.nan


# Both take and return float64; the derivative is rounded as it is stored.
_TERM: dict[type, Callable] = {
    HalfSquaredError: lambda loss, a, y, width: 0.5 * (a - y) * (a - y),
    SquaredError: lambda loss, a, y, width: (a - y) * (a - y),
    MeanSquaredError: lambda loss, a, y, width: (a - y) * (a - y) / width,
    AbsoluteError: lambda loss, a, y, width: abs(a - y),
    # both branches
    Huber: lambda loss, a, y, width: _clipped(a - y, loss.parameter) * (a - y - 0.5 * _clipped(a - y, loss.parameter)),
    Quantile: lambda loss, a, y, width: _slope(a - y, loss.parameter) * (a - y),
    BinaryCrossEntropy: lambda loss, a, y, width: _softplus(a) - a * _probability(y),  # a is z here
}
_TERM_DERIVATIVE: dict[type, Callable] = {
    HalfSquaredError: lambda loss, a, y, width: a - y,
    SquaredError: lambda loss, a, y, width: 2 * (a - y),
    MeanSquaredError: lambda loss, a, y, width: 2 * (a - y) / width,
    AbsoluteError: lambda loss, a, y, width: _sign(a - y),
    Huber: lambda loss, a, y, width: _clipped(a - y, loss.parameter),
    Quantile: lambda loss, a, y, width: _slope(a - y, loss.parameter),
    BinaryCrossEntropy: lambda loss, a, y, width: _sigmoid(a) - _probability(y),  # a is z here
}


def _term(loss, a, y, width):
    """Return what an output, a or z, adds to the loss of its example."""
    raise NotImplementedError


def _term_derivative(loss, a, y, width):
    """Return ∂ℓ/∂output."""
    raise NotImplementedError


@overload(_term, jit_options=OPTIONS)
def _term_for(loss, a, y, width):
    return _TERM[loss.instance_class]


@overload(_term_derivative, jit_options=OPTIONS)
def _term_derivative_for(loss, a, y, width):
    return _TERM_DERIVATIVE[loss.instance_class]


@summing
def output_delta(loss, sigma, output, saved, y, weights, scale, delta):
    """delta ← scale · w ∂ℓ/∂output ⊙ σ'(z). Return Σ w ℓ. weights: None: each row weighs 1; a row of 0 is left out."""
    rows, width = delta.shape
    _require_like("output", output, delta)
    _require_like("saved", saved, delta)
    _require_sides("y", y, (rows, width))
    _require_sides("weights", weights, (rows,))
    total = 0.0
    for i in range(rows):
        weight = 1.0 if weights is None else np.float64(weights[i])
        if weight == 0:
            for j in range(width):
                delta[i, j] = 0
            continue
        of_row = 0.0
        for j in range(width):
            value, target = np.float64(output[i, j]), np.float64(y[i, j])
            slope = _term_derivative(loss, value, target, width) * np.float64(_derivative(sigma, saved[i, j]))
            delta[i, j] = slope * (weight * scale)
            of_row += _term(loss, value, target, width)
        total += weight * of_row
    return total


@loop
def output_delta_softmax(z, y, weights, scale, smoothing, delta, flat):
    """Softmax cross-entropy, from the logits: with m = max z and s = Σ_j e^(z_j − m), ℓ = ln s − Σ_j y_j (z_j − m) and
    delta ← scale · w (e^(z − m) / s − y). Return Σ w ℓ.

    y: labels (B,) or rows (B, n); with smoothing ε, (1 − ε) y_j + ε / n in its place. A label that is no class makes
    the whole row NaN, a number that is no probability its own place and the loss. flat: delta as one row.
    """
    rows, width = z.shape
    _require_like("output", z, delta)
    _require_targets(y, rows, width)
    _require_sides("weights", weights, (rows,))
    _require_sides("flat", flat, (delta.size,))
    for i in range(rows):
        largest = _largest(z, i)
        for j in range(width):
            delta[i, j] = z[i, j] - largest
    _exponentials(flat)
    total = 0.0
    for i in range(rows):
        weight = 1.0 if weights is None else np.float64(weights[i])
        if weight == 0:
            for j in range(width):
                delta[i, j] = 0
            continue
        largest = _largest(z, i)
        of_row, chosen = 0.0, 0.0
        for j in range(width):
            of_row += delta[i, j]
            target = _target(y, i, j, width, smoothing)
            # 0 times what is infinitely far below the largest is 0
            chosen += 0.0 if target == 0 else target * (z[i, j] - largest)
        for j in range(width):
            delta[i, j] = (delta[i, j] / of_row - _target(y, i, j, width, smoothing)) * (weight * scale)
        total += weight * (math.log(of_row) - chosen)
    return total


def _require_targets(y, rows, width):
    """Raise StateError unless y has a label for each row, or a row of probabilities."""
    raise NotImplementedError


@overload(_require_targets)
def _require_targets_for(y, rows, width):
    if y.ndim == 2:
        return lambda y, rows, width: _require_sides("y", y, (rows, width))
    return lambda y, rows, width: _require_sides("y", y, (rows,))


def _target(y, i, j, width, smoothing):
    """Return y_j of a row, in float64, from labels or from rows of probabilities."""
    raise NotImplementedError


@overload(_target, jit_options=OPTIONS)
def _target_for(y, i, j, width, smoothing):
    if y.ndim == 2:
        return _target_of_row
    return _target_of_label


def _target_of_row(y, i, j, width, smoothing):
    return (1 - smoothing) * _probability(np.float64(y[i, j])) + smoothing / width


def _target_of_label(y, i, j, width, smoothing):
    if y[i] < 0 or y[i] >= width:
        return np.nan
    return (1 - smoothing if y[i] == j else 0.0) + smoothing / width


# --- update -----------------------------------------------------------------------------------------------------------
@summing
def squared_norm(x):
    """Return Σ x² of a flat array, in float64."""
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i]) * np.float64(x[i])
    return total


class Rates(NamedTuple):
    """What changes from step to step: η, η / (1 − β₁ᵗ), 1 / (1 − β₂ᵗ)."""

    plain: float
    corrected: float
    square: float


class Gradient(NamedTuple):
    """What becomes of a gradient before its step: it is scaled, clipped by value, and gets λ₁ sign(w) + λ₂ w added.
    Then w ← keep · w, and `shrink` nearer to 0, but not past it."""

    scale: float
    clip: float
    l1: float
    l2: float
    keep: float
    shrink: float


class SGD(NamedTuple):
    """w ← w − η g. Like the next ones: its type, and its own numbers (μ ; ρ ; β₁, β₂) and ε."""

    first: float
    second: float
    epsilon: float


class Momentum(NamedTuple):
    """v ← μ v + g ; w ← w − η v."""

    first: float
    second: float
    epsilon: float


class Nesterov(NamedTuple):
    """v ← μ v + g ; w ← w − η (g + μ v)."""

    first: float
    second: float
    epsilon: float


class RMSProp(NamedTuple):
    """s ← ρ s + (1 − ρ) g² ; w ← w − η g / (√s + ε)."""

    first: float
    second: float
    epsilon: float


class Adam(NamedTuple):
    """m ← β₁ m + (1 − β₁) g ; s ← β₂ s + (1 − β₂) g² ; w ← w − η m̂ / (√ŝ + ε)."""

    first: float
    second: float
    epsilon: float


RULES: dict[str, type[Any]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": Adam,
}
"""The optimisers' recurrences, by name."""


def _step(rule, i, g, w, first, second, rates):
    """Change the state at i, and return the new w."""
    raise NotImplementedError


@overload(_step, jit_options=OPTIONS)
def _step_for(rule, i, g, w, first, second, rates):
    return _STEP[rule.instance_class]


def _sgd(rule, i, g, w, first, second, rates):
    return w - _like(w, rates.plain) * g


def _momentum(rule, i, g, w, first, second, rates):
    v = _like(w, rule.first) * first[i] + g
    first[i] = v
    return w - _like(w, rates.plain) * v


def _nesterov(rule, i, g, w, first, second, rates):
    v = _like(w, rule.first) * first[i] + g
    first[i] = v
    return w - _like(w, rates.plain) * (g + _like(w, rule.first) * v)


def _rmsprop(rule, i, g, w, first, second, rates):
    s = _like(w, rule.first) * first[i] + _like(w, 1 - rule.first) * (g * g)
    first[i] = s
    return w - _like(w, rates.plain) * (g / (math.sqrt(s) + _like(w, rule.epsilon)))


def _adam(rule, i, g, w, first, second, rates):
    m = _like(w, rule.first) * first[i] + _like(w, 1 - rule.first) * g
    s = _like(w, rule.second) * second[i] + _like(w, 1 - rule.second) * (g * g)
    first[i] = m
    second[i] = s
    root = math.sqrt(s * _like(w, rates.square)) + _like(w, rule.epsilon)
    return w - _like(w, rates.corrected) * (m / root)


_STEP: dict[type, Callable] = {
    SGD: _sgd,
    Momentum: _momentum,
    Nesterov: _nesterov,
    RMSProp: _rmsprop,
    Adam: _adam,
}


@loop
def update(rule, rates, gradient, g, w, first, second):
    """Make the step of the parameters w; all flat and of one size.

    first, second: the optimiser's state, or g in place of what it does not have.
    """
    _require_like("parameters", w, w)
    _require_like("gradients", g, w)
    _require_like("state", first, w)
    _require_like("state", second, w)
    scale, clip = _like(w[0], gradient.scale), _like(w[0], gradient.clip)
    l1, l2 = _like(w[0], gradient.l1), _like(w[0], gradient.l2)
    keep, shrink = _like(w[0], gradient.keep), _like(w[0], gradient.shrink)
    for i in range(w.size):
        value = w[i]
        slope = _clipped(g[i] * scale, clip) + (l2 * value + l1 * _sign(value))
        value = keep * value
        value = value - _clipped(value, shrink)
        w[i] = _step(rule, i, slope, value, first, second, rates)
