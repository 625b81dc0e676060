"""Running error analysis: a NumPy function on `Bounded` arrays gives its result and how far a kernel's may lie from it.

Each operation adds its own rounding to the errors of its operands, as they grow through it (Higham, "Accuracy and
Stability of Numerical Algorithms", section 3.3). With e the error of x, and u the unit roundoff of the arithmetic:

    x + y: e_x + e_y + u |x + y|
    x y: |x| e_y + |y| e_x + u |x y|
    x / y: (e_x + |x / y| e_y) / |y| + 2 u |x / y|
    a sum or product of K terms, in any order: the errors of its terms + √K u S, with S the sum of the absolute terms
    a function f: |f'| e_x + c u |f|, with c of `ROUNDINGS`

√K stands for roundings of both signs, as in `bounds`, whose factor for products covers what is left.

Sums and products of integers that the float holds have no error: they must come out bit for bit.

What depends on a comparison is taken to go the way that the reference goes. An operation without a rule raises: then
the bound must be given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gpubp.errors import ArgumentError

ROUNDINGS = 4.0
"""c: units in the last place that a function of the CUDA math library may be off, about."""


class Bounded(np.lib.mixins.NDArrayOperatorsMixin):
    """An array, and for each element the most by which a kernel's may differ.

    Attributes:
        value: in a wider float than the kernel's.
        error: of one shape with it, ≥ 0.
        dtype_of: the float dtype of the kernel's arithmetic, to which constants are rounded.
        unit: its unit roundoff.
    """

    def __init__(self, value: np.ndarray, error: np.ndarray, dtype_of: np.dtype, unit: float) -> None:
        self.value = value
        self.error = error
        self.dtype_of = dtype_of
        self.unit = unit

    # -- as an array --------------------------------------------------------------------------------------------------

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)
    T = property(lambda self: self._both(np.transpose))

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, key: Any) -> Bounded:
        return self._both(lambda x: x[_plain(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.value[_plain(key)], self.error[_plain(key)] = self._parts(value)

    def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
        raise _no_rule("a conversion to a plain array")

    def __float__(self) -> float:
        raise _no_rule("float()")

    def astype(self, dtype: Any, **options: Any) -> Bounded:
        """Return it as it is, for a float dtype: the reference's own roundings are none of the kernel's."""
        if np.dtype(dtype).kind != "f":
            raise _no_rule(f"astype({dtype})")
        return self

    def reshape(self, *shape: Any, **options: Any) -> Bounded:
        """Return it in another shape."""
        return self._both(lambda x: x.reshape(*shape, **options))

    def __getattr__(self, name: str) -> Any:
        """Return a method that is NumPy's function of the same name, such as sum or max."""
        if name not in _METHODS:
            raise AttributeError(f"a Bounded array has no {name}")
        return lambda *arguments, **options: getattr(np, name)(self, *arguments, **options)

    # -- operations ---------------------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.pop("out", None)
        if method == "__call__" and not set(options) - {"dtype"}:
            found = self._call(ufunc, inputs)
        elif method == "reduce":
            found = self._reduce(ufunc, inputs[0], **options)
        elif method == "accumulate" and ufunc is np.add:
            found = self._multilinear(lambda x: np.add.accumulate(x, **options), inputs[:1])
        else:
            raise _no_rule(f"{ufunc.__name__}.{method}")
        if out is None:
            return found
        out[0][...] = found
        return out[0]

    def _call(self, ufunc: Any, inputs: tuple[Any, ...]) -> Any:
        parts = [self._parts(each) for each in inputs]
        values, errors = [value for value, _ in parts], [error for _, error in parts]
        if ufunc in _EXACT:
            return ufunc(*values)
        if ufunc is np.matmul:
            return self._multilinear(ufunc, inputs)
        with np.errstate(all="ignore"):
            result = ufunc(*values)
            if ufunc in _RULES:
                error = _RULES[ufunc](result, *values, *errors, self.unit)
            elif all(not np.any(each) for each in errors) and np.asarray(result).dtype.kind == "f":
                error = ROUNDINGS * self.unit * np.abs(result)
            else:
                raise _no_rule(ufunc.__name__)
        return self._made(result, error)

    def _reduce(self, ufunc: Any, x: Any, axis: Any = 0, keepdims: bool = False, **options: Any) -> Any:
        if {name for name, value in options.items() if value is not None and value is not np._NoValue}:
            raise _no_rule(f"{ufunc.__name__} with {', '.join(options)}")
        shape: Mapping[str, Any] = {"axis": axis, "keepdims": keepdims}
        if ufunc is np.add:
            return self._multilinear(lambda x: np.add.reduce(x, **shape), (x,))
        value, error = self._parts(x)
        if ufunc in (np.maximum, np.minimum):
            return self._made(ufunc.reduce(value, **shape), np.maximum.reduce(error, **shape))
        raise _no_rule(f"{ufunc.__name__}.reduce")

    def _multilinear(self, function: Callable[..., Any], inputs: tuple[Any, ...]) -> Bounded:
        """Apply a function that sums products, one factor from each input."""
        parts = [self._parts(each) for each in inputs]
        absolute = [np.abs(value) for value, _ in parts]
        terms, most = function(*(np.ones_like(value) for value, _ in parts)), function(*absolute)
        small = all(np.array_equal(value, np.rint(value)) and not own.any() for value, own in parts)
        error = np.where(small & (most <= 1 / self.unit), 0, np.sqrt(terms) * self.unit * most)
        for place, (_, own) in enumerate(parts):
            if np.any(own):
                error = error + function(*absolute[:place], own, *absolute[place + 1 :])
        return self._made(function(*(value for value, _ in parts)), error)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function in _REDUCTIONS:
            x, *axis = arguments
            return _REDUCTIONS[function].reduce(x, **{"axis": axis[0] if axis else None, **options})
        if function in _MULTILINEAR:
            if function is np.einsum:
                form, *operands = arguments
                return self._multilinear(lambda *each: np.einsum(form, *each, **options), tuple(operands))
            pair, rest = arguments[:2], arguments[2:]
            return self._multilinear(lambda a, b: function(a, b, *rest, **options), pair)
        if function in _STRUCTURAL:
            value = function(*self._each(arguments, 0), **options)
            error = function(*self._each(arguments, 1), **options)
            if isinstance(value, list):
                return [self._made(*each) for each in zip(value, error, strict=True)]
            return self._made(value, error)
        if function in _WRITTEN:
            return _WRITTEN[function](*arguments, **options)
        raise _no_rule(function.__name__)

    def _each(self, argument: Any, part: int) -> Any:
        """Return the values (0) or the errors (1) of the arrays in arguments, and the other arguments as they are."""
        if isinstance(argument, (list, tuple)):
            return type(argument)(self._each(each, part) for each in argument)
        if isinstance(argument, Bounded):
            return argument.error if part else argument.value
        if isinstance(argument, np.ndarray) and argument.dtype.kind == "f":
            return self._parts(argument)[part]
        return argument

    def _parts(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return value and error of an operand; a constant is as far off as its rounding."""
        if isinstance(x, Bounded):
            return x.value, x.error
        value = np.asarray(x)
        if value.dtype.kind != "f":
            return value, np.zeros(value.shape, self.value.dtype)
        wide = value.astype(self.value.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            off = np.abs(wide - wide.astype(self.dtype_of).astype(wide.dtype))
        return wide, np.where(np.isfinite(off), off, 0)

    def _both(self, function: Callable[[np.ndarray], Any]) -> Bounded:
        return self._made(function(self.value), function(self.error))

    def _made(self, value: Any, error: Any) -> Bounded:
        value = np.asarray(value, self.value.dtype)
        return Bounded(
            value, np.broadcast_to(np.asarray(error, value.dtype), value.shape).copy(), self.dtype_of, self.unit
        )


def exact(x: np.ndarray, wide: Any, dtype: Any, unit: float) -> Bounded:
    """Return an array that the kernel has as it is."""
    value = x.astype(wide)
    return Bounded(value, np.zeros(value.shape, value.dtype), np.dtype(dtype), unit)


def _no_rule(what: str) -> ArgumentError:
    return ArgumentError("reference", what, "an operation that errors can be followed through", "or give a bound")


def _plain(key: Any) -> Any:
    if isinstance(key, Bounded) or (isinstance(key, tuple) and any(isinstance(each, Bounded) for each in key)):
        raise _no_rule("an index that is computed")
    return key


# -- rules ------------------------------------------------------------------------------------------------------------


def _unary(slope: Callable[[np.ndarray, np.ndarray], np.ndarray], roundings: float = ROUNDINGS) -> Callable[..., Any]:
    """Return the rule of a function, from |f'(x)| as a function of x and f(x)."""
    return lambda r, x, e, u: np.where(e == 0, 0, slope(x, r) * e) + roundings * u * np.abs(r)


def _rounding(result: Any, operands: Iterable[np.ndarray], errors: Iterable[np.ndarray], unit: float) -> np.ndarray:
    """Return the rounding of a sum or a product: none where all numbers are small integers."""
    whole = np.abs(result) <= 1 / unit
    for each in operands:
        whole = whole & (each == np.rint(each))
    for each in errors:
        whole = whole & (each == 0)
    return np.where(whole, 0, unit * np.abs(result))


def _power(r: Any, x: Any, p: Any, ex: Any, ep: Any, u: float) -> Any:
    by_base = np.where(ex == 0, 0, np.abs(p * x ** (p - 1.0)) * ex)
    by_exponent = np.where(ep == 0, 0, np.abs(r * np.log(np.abs(x))) * ep)
    return by_base + by_exponent + ROUNDINGS * u * np.abs(r)


_RULES: dict[Any, Callable[..., Any]] = {
    np.add: lambda r, x, y, ex, ey, u: ex + ey + _rounding(r, (x, y), (ex, ey), u),
    np.subtract: lambda r, x, y, ex, ey, u: ex + ey + _rounding(r, (x, y), (ex, ey), u),
    np.multiply: lambda r, x, y, ex, ey, u: (
        np.abs(x) * ey + np.abs(y) * ex + ex * ey + _rounding(r, (x, y), (ex, ey), u)
    ),
    np.divide: lambda r, x, y, ex, ey, u: (ex + np.abs(r) * ey) / np.abs(y) + 2 * u * np.abs(r),
    np.power: _power,
    np.float_power: _power,
    np.maximum: lambda r, x, y, ex, ey, u: np.maximum(ex, ey),
    np.minimum: lambda r, x, y, ex, ey, u: np.maximum(ex, ey),
    np.negative: lambda r, x, e, u: e,
    np.positive: lambda r, x, e, u: e,
    np.absolute: lambda r, x, e, u: e,
    np.square: lambda r, x, e, u: (2 * np.abs(x) + e) * e + u * np.abs(r),
    np.sqrt: lambda r, x, e, u: np.sqrt(x + e) - np.sqrt(np.maximum(x - e, 0)) + u * np.abs(r),
    np.reciprocal: lambda r, x, e, u: np.square(r) * e + 2 * u * np.abs(r),
    np.exp: lambda r, x, e, u: r * np.expm1(e) + ROUNDINGS * u * r,
    np.exp2: lambda r, x, e, u: r * np.expm1(np.log(2) * e) + ROUNDINGS * u * r,
    np.expm1: lambda r, x, e, u: np.exp(x) * np.expm1(e) + ROUNDINGS * u * np.abs(r),
    np.log: _unary(lambda x, r: 1 / np.abs(x)),
    np.log2: _unary(lambda x, r: 1 / np.abs(x * np.log(2))),
    np.log10: _unary(lambda x, r: 1 / np.abs(x * np.log(10))),
    np.log1p: _unary(lambda x, r: 1 / np.abs(1 + x)),
    np.tanh: _unary(lambda x, r: 1 - np.square(r)),
    np.sin: _unary(lambda x, r: np.ones_like(x)),
    np.cos: _unary(lambda x, r: np.ones_like(x)),
    np.arctan: _unary(lambda x, r: 1 / (1 + np.square(x))),
    np.logaddexp: lambda r, x, y, ex, ey, u: np.maximum(ex, ey) + ROUNDINGS * u * (1 + np.abs(r)),
}
"""The error of each operation's result r, from its operands, their errors, and u."""

_EXACT = {
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal, np.isnan, np.isinf, np.isfinite,
    np.signbit, np.sign,
}  # fmt: skip
"""What gives plain numbers or truths, that of the reference."""

_MULTILINEAR = {np.dot, np.inner, np.outer, np.tensordot, np.einsum, np.convolve, np.correlate, np.kron}
_REDUCTIONS = {np.sum: np.add, np.max: np.maximum, np.min: np.minimum, np.amax: np.maximum, np.amin: np.minimum}
_STRUCTURAL = {
    np.reshape, np.transpose, np.ravel, np.concatenate, np.stack, np.vstack, np.hstack, np.broadcast_to, np.expand_dims,
    np.squeeze, np.swapaxes, np.moveaxis, np.roll, np.flip, np.repeat, np.tile, np.take, np.copy, np.where, np.tril,
    np.triu, np.diag, np.diagonal, np.zeros_like, np.split, np.take_along_axis, np.atleast_1d, np.atleast_2d, np.pad,
}  # fmt: skip
_METHODS = {
    "sum", "max", "min", "mean", "std", "var", "dot", "transpose", "ravel", "clip", "cumsum", "copy", "squeeze",
    "repeat", "take", "swapaxes", "diagonal",
}  # fmt: skip


def _count(x: Bounded, axis: Any) -> int:
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis)
    return int(np.prod([x.shape[int(each)] for each in axes], dtype=int))


def _mean(x: Bounded, axis: Any = None, keepdims: bool = False) -> Bounded:
    return np.sum(x, axis=axis, keepdims=keepdims) / _count(x, axis)


def _var(x: Bounded, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Bounded:
    off = x - _mean(x, axis, True)
    return np.sum(off * off, axis=axis, keepdims=keepdims) / (_count(x, axis) - ddof)


def _std(x: Bounded, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    return np.sqrt(_var(x, axis, ddof, keepdims))


def _clip(x: Any, a_min: Any = None, a_max: Any = None) -> Any:
    x = x if a_min is None else np.maximum(x, a_min)
    return x if a_max is None else np.minimum(x, a_max)


def _cumsum(x: Bounded, axis: int | None = None) -> Any:
    return np.add.accumulate(np.ravel(x) if axis is None else x, axis=axis or 0)


_WRITTEN: dict[Any, Callable[..., Any]] = {
    np.mean: _mean,
    np.var: _var,
    np.std: _std,
    np.clip: _clip,
    np.cumsum: _cumsum,
    np.trace: lambda x: np.sum(np.diagonal(x)),
}
"""Functions that are written with others."""
