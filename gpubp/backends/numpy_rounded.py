"""The `numpy` backend in 16 bits and in TF32: the same primitives, between widening their inputs and rounding results.

A primitive in mixed precision is the primitive in float32 on inputs that were widened, or for TF32 rounded, with
results that are rounded once, as they are stored. That is the arithmetic of the kernels, so this is their reference.
`ROLES` lists the arguments that are treated so; all other primitives and arguments are those of the plain backend.

An overflow becomes infinite and is no warning: the loss scaling looks for it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from gpubp.backends.base import Array, Backend
from gpubp.dtypes import MIXED, canonical
from gpubp.nn.precision import round_to_tf32, widened

Plain = TypeVar("Plain", bound=Backend)


@dataclass(frozen=True)
class Roles:
    """Arguments of a primitive that may have 16 bits, by name.

    Attributes:
        operands: what a product multiplies: widened to float32, or rounded to TF32 if the call says so.
        inputs: what else is read: widened.
        results: what is written: computed in float32 and rounded to the argument's dtype.
    """

    operands: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    results: tuple[str, ...] = ()


ROLES = {
    "scale": Roles(results=("x",)),
    "dense_forward": Roles(operands=("a_prev", "w"), results=("z", "a")),
    "softmax": Roles(inputs=("z",), results=("a",)),
    "output_delta": Roles(inputs=("output", "saved"), results=("delta",)),
    "hidden_delta": Roles(operands=("delta_next", "w_next"), inputs=("saved",), results=("delta",)),
    "transpose_product": Roles(operands=("delta_next", "w_next"), results=("product",)),
    "hadamard_derivative": Roles(inputs=("product", "saved"), results=("delta",)),
    "weight_gradient": Roles(operands=("delta", "a_prev")),
    "bias_gradient": Roles(inputs=("delta",)),
    "product": Roles(operands=("a", "b")),
    "weight_step": Roles(operands=("delta", "a_prev")),
}


def rounded(plain: type[Plain]) -> type[Plain]:
    """Return the subclass of a backend that computes in every precision.

    Args:
        plain: a backend whose arrays are NumPy's, and whose primitives take float32 and float64.
    """
    return cast(type[Plain], _subclass(plain))


@functools.cache
def _subclass(plain: Any) -> type[Backend]:
    methods: dict[str, Any] = {name: _rounded(plain, name, roles) for name, roles in ROLES.items()}

    def for_precision(self: Backend, precision: str) -> Backend:
        """See `Backend.for_precision`."""
        return self if canonical("precision", precision) in MIXED else plain(self.device)

    def reduce(self: Backend) -> tuple[Any, ...]:
        """Be pickled as what makes another one: the class has no name that it could be found by."""
        return _backend_of, (plain, self.device)

    products = {name: methods[name] for name in ("weight_gradient", "weight_step")}

    # beside these two products go sums of δ, which nothing rounds to TF32

    def weight_gradient(
        self: Any,
        delta: Array,
        a_prev: Array,
        gradient: Array,
        tf32: bool = False,
        alpha: float = 1.0,
        accumulate: bool = False,
        bias_gradient: Array | None = None,
    ) -> None:
        """See `Backend.weight_gradient`."""
        products["weight_gradient"](self, delta, a_prev, gradient, tf32, alpha, accumulate)
        if bias_gradient is not None:
            self.bias_gradient(delta, bias_gradient, accumulate)

    def weight_step(
        self: Any, delta: Array, a_prev: Array, control: Array, w: Array, tf32: bool = False, b: Array | None = None
    ) -> None:
        """See `Backend.weight_step`."""
        products["weight_step"](self, delta, a_prev, control, w, tf32)
        if b is not None:
            self.bias_step(delta, control, b)

    methods |= {"for_precision": for_precision, "weight_gradient": weight_gradient, "weight_step": weight_step}
    methods["__reduce__"] = reduce
    return type(f"Rounded{plain.__name__}", (plain,), methods)


def _backend_of(plain: Any, device: str) -> Any:
    return rounded(plain)(device)


def _rounded(plain: type[Backend], name: str, roles: Roles) -> Callable[..., None]:
    """Return the plain backend's method of this name, on arguments that are treated by their roles."""
    names = list(inspect.signature(getattr(Backend, name)).parameters)[1:]

    @functools.wraps(getattr(Backend, name))
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def method(self: Backend, *positional: Any, **named: Any) -> None:
        arguments = dict(zip(names[: len(positional)], positional, strict=True)) | named
        prepare = round_to_tf32 if arguments.pop("tf32", False) else widened
        results = {each: arguments[each] for each in roles.results if arguments[each] is not None}
        for each in roles.operands:
            arguments[each] = prepare(arguments[each])
        for each in (*roles.inputs, *results):
            arguments[each] = widened(arguments[each])
        getattr(plain, name)(self, **arguments)
        for each, stored in results.items():
            self.cast(arguments[each], stored)

    return method
