"""Checking a kernel of one's own, of any signature, against a NumPy function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gpubp.crosscheck import bounds, buffers, running_error
from gpubp.crosscheck.buffers import Buffer
from gpubp.crosscheck.comparator import Comparison, Judged, compare
from gpubp.crosscheck.runner import Run, Watch, in_order, require_grades
from gpubp.errors import ArgumentError, StateError, unknown_name

FLOATS = tuple(bounds.HALF_SUBNORMAL)
LARGEST_INTEGER = 100
"""Integers are drawn from 0 to before this number, unless they are given."""
ORDERS = 3
"""Orders of execution that a call runs in beside the usual one, on the emulated device."""

Values = Callable[[np.random.Generator, tuple[int, ...]], Any]


@dataclass(frozen=True)
class In:
    """An array that a kernel reads.

    Attributes:
        shape: its sides, or its length.
        dtype: float32, float64, float16, bfloat16, or an integer's.
        values: a function of a random generator and the shape that returns what it holds; None: normal random numbers
            times the call's scale, or integers from 0 to 99.
    """

    shape: int | tuple[int, ...]
    dtype: str = "float32"
    values: Values | None = None


class InOut(In):
    """An array that a kernel reads and changes. The reference gets what it held before."""


@dataclass(frozen=True)
class Out:
    """An array that a kernel writes, every element of it: before the call it holds NaN, or a large negative integer."""

    shape: int | tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class KernelOutcome(Judged):
    """One call of a kernel.

    Attributes:
        shape, scale, seed: what it was called with.
        comparisons: of each output.
        faults: what else was wrong, a line each, as in `gpubp.crosscheck.runner.Outcome`.
        remarks: findings that are no faults by their grade.
        order: the seed of the first order of execution in which something is wrong that is right in the usual one.
    """

    shape: tuple[int, ...]
    scale: float
    seed: int
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    order: int | None = None

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        told = [*self.faults, *(f"{name} {each}" for name, each in self.comparisons.items())]
        return f"{verdict} {'x'.join(map(str, self.shape))} scale {self.scale:g} seed {self.seed}: {'; '.join(told)}"


class KernelError(AssertionError):
    """A kernel is wrong; `outcomes` holds every call that failed."""

    def __init__(self, outcomes: Sequence[KernelOutcome], calls: int) -> None:
        self.outcomes = list(outcomes)
        worst = max(outcomes, key=lambda outcome: (outcome.share != float("inf"), outcome.share))
        super().__init__(f"{len(outcomes)} of {calls} calls are wrong; one of them: {worst}")


def check(
    kernel: Any,
    reference: Callable[..., Any],
    shapes: Sequence[int | tuple[int, ...]],
    arguments: Callable[..., Mapping[str, Any]],
    *,
    launch: Callable[..., tuple[Any, ...]] | None = None,
    bound: float | Callable[..., Any] | None = None,
    arithmetic: str | None = None,
    arrays: ModuleType | Any = None,
    scales: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0, 1, 2),
    observe: bool = True,
    fail_at: str = "warning",
    suppressions: str | Path | None = None,
    orders: int = ORDERS,
    same_in_any_order: bool = False,
) -> list[KernelOutcome]:
    """Check a kernel of your own against a NumPy function, on several shapes, scales and seeds.

    Args:
        kernel: a RawKernel of CuPy or of the emulator, a Numba kernel, real or emulated, or any function of arrays.
        reference: a function of some of the arguments, by their names; it gets arrays in a wider float and returns the
            output, or a tuple of them in the order of the arguments, or a dict by name.
        shapes: each is a number or a tuple of them, which `arguments` and `launch` are called with.
        arguments: returns the kernel's arguments in their order, by name: `In`, `Out`, `InOut`, or a scalar as it is.
        launch: returns (grid, block) or (grid, block, bytes of shared memory); for kernels, not for functions.
        bound: how far an output may lie from the reference: a number, or a function of the same arguments as the
            reference that returns as much as it does. None: derived, operation by operation (running_error.py).
        arithmetic: the float dtype that the kernel computes in; None: the widest of its float arrays, or float32.
        arrays: the module whose arrays the kernel gets: `cupy`, `gpubp.emulator`, `numpy`; None: the one that it is
            made for, NumPy for a function.
        scales: of the random numbers.
        seeds: of the same.
        observe: on the emulated device, look for races and for reads of memory that nothing wrote.
        fail_at: the least grade of a finding that fails: "note", "warning" or "error".
        suppressions: a TOML file of findings that are intended.
        orders: on the emulated device, more orders of execution that each call runs in.
        same_in_any_order: True: results in all orders must be the same bits. False: they must be within the bound.

    Outputs are poisoned before each call. Guard zones around each array must stay as they are, and so must inputs.

    Returns:
        An outcome a call.

    Raises:
        KernelError: a call is wrong.
        ArgumentError: the arguments do not go together, or the reference has an operation that no bound can be derived
            through.
    """
    call, arrays = _caller(kernel, launch, arrays)
    memory: Any = _Memory(arrays)
    emulated = memory.device == "emulator"
    watch = Watch(observe and emulated, fail_at, None if suppressions is None else Path(suppressions))
    if emulated:
        require_grades(watch.fail_at, watch.suppressions)
    seeds_of_orders = tuple(range(orders)) if emulated else ()
    outcomes = []
    for shape in shapes:
        sides = shape if isinstance(shape, tuple) else (shape,)
        for scale in scales:
            for seed in seeds:
                problem = _Problem(arguments(*sides), reference, bound, arithmetic, scale, [seed, *sides])
                outcome = _outcome(problem, sides, call, memory, watch, seeds_of_orders, same_in_any_order)
                outcomes.append(KernelOutcome(sides, scale, seed, *outcome))
    wrong = [outcome for outcome in outcomes if not outcome.passed]
    if wrong:
        raise KernelError(wrong, len(outcomes))
    return outcomes


def _outcome(
    problem: _Problem,
    sides: tuple[int, ...],
    call: Callable[[tuple[int, ...], list[Any]], None],
    memory: Any,
    watch: Watch,
    orders: tuple[int, ...],
    same: bool,
) -> tuple[Mapping[str, Comparison], tuple[str, ...], tuple[str, ...], int | None]:
    """Return comparisons, faults, remarks and the order that fails; what the kernel raises is a fault."""

    wrong: set[str] = set()  # outputs that are wrong in the usual order

    def run(order: int | None = None) -> Run:
        placed = problem.placed(memory)
        values = [placed[name].array if name in placed else value for name, value in problem.arguments.items()]
        with watch.observing(order) if memory.device == "emulator" else nullcontext() as report:
            call(sides, values)
            memory.synchronize()
        faults = [f"{name}: {text}" for name, each in placed.items() if (text := each.damage(memory))]
        found = Run({name: placed[name].read(memory) for name in problem.expected}, faults, [])
        found.judge(report if watch.observe else None, watch)
        if order is not None and not same:
            others = problem.compared(found.results)
            found.faults += [f"{name} {each}" for name, each in others.items() if not each.passed and name not in wrong]
        return found

    try:
        usual = run()
    except Exception as error:
        return {}, (f"{type(error).__name__}: {error}",), (), None
    compared = problem.compared(usual.results)
    wrong |= {name for name, each in compared.items() if not each.passed}
    faults, first = list(usual.faults), None
    for seed in orders:
        found = in_order(seed, usual, partial(run, seed), same)
        first = seed if found and not faults else first
        faults += found
    return compared, tuple(faults), tuple(usual.remarks), first


# -- arguments, and what must come of them ----------------------------------------------------------------------------


class _Problem:
    """The arguments of one call: what arrays hold before, and what they must hold after.

    Attributes:
        arguments: of the kernel, by name.
        inputs: the contents of what is read.
        expected: of each output the reference and its bound.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        reference: Callable[..., Any],
        bound: float | Callable[..., Any] | None,
        arithmetic: str | None,
        scale: float,
        seed: list[int],
    ) -> None:
        self.arguments = arguments
        arrays = {name: each for name, each in arguments.items() if isinstance(each, In | Out)}
        for name, each in arrays.items():
            _require_dtype(name, each.dtype)
        rng = np.random.default_rng(seed)
        self.inputs = {name: _drawn(name, each, rng, scale) for name, each in arrays.items() if isinstance(each, In)}
        self.outputs = [name for name, each in arrays.items() if isinstance(each, Out | InOut)]
        if not self.outputs:
            raise StateError("arguments", "have no output", "have an Out or an InOut")
        kinds = {str(_dtype(each.dtype)) for each in arrays.values()} & set(FLOATS)
        chosen = arithmetic or min(kinds, key=bounds.UNIT_ROUNDOFF.__getitem__, default="float32")
        if chosen not in FLOATS:
            raise unknown_name("arithmetic", chosen, FLOATS)
        self.wide = np.longdouble if "float64" in {*kinds, chosen} else np.float64
        plain = {name: self._widened(name, each) for name, each in arguments.items() if not isinstance(each, Out)}
        if bound is None:
            unit = bounds.UNIT_ROUNDOFF[chosen]
            followed = {
                name: running_error.exact(x, self.wide, _dtype(chosen), unit)
                if isinstance(x, np.ndarray) and x.dtype.kind == "f"
                else x
                for name, x in plain.items()
            }
            found = self._named(_called("reference", reference, followed), "reference")
            results = {name: getattr(x, "value", x) for name, x in found.items()}
            errors = {name: bounds.PRODUCT * getattr(x, "error", np.zeros(())) for name, x in found.items()}
        else:
            results = self._named(_called("reference", reference, plain), "reference")
            given = _called("bound", bound, plain) if callable(bound) else dict.fromkeys(self.outputs, bound)
            errors = {name: np.asarray(x) for name, x in self._named(given, "bound").items()}
        self.expected = {name: self._expected(name, results[name], errors[name]) for name in self.outputs}

    def _widened(self, name: str, argument: Any) -> Any:
        """Return an argument as the reference gets it."""
        if name not in self.inputs:
            return argument.item() if isinstance(argument, np.generic) else argument
        x = self.inputs[name]
        return x if x.dtype.kind in "iu" else x.astype(self.wide)

    def _named(self, found: Any, whose: str) -> dict[str, Any]:
        """Return what the reference returned, by the names of the outputs."""
        if not isinstance(found, Mapping):
            results = found if isinstance(found, tuple) else (found,)
            if len(results) != len(self.outputs):
                raise StateError(whose, f"returns {len(results)} results", f"return one each for {self.outputs}")
            found = dict(zip(self.outputs, results, strict=True))
        missing = set(self.outputs) ^ set(found)
        if missing:
            raise StateError(whose, f"returns {sorted(found)}", f"return {sorted(self.outputs)}")
        return dict(found)

    def _expected(self, name: str, result: Any, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        array = self.arguments[name]
        shape, dtype = _shape(array), str(_dtype(array.dtype))
        result = np.asarray(result)
        if result.shape != shape:
            raise StateError("reference", f"returns {name} of shape {result.shape}", f"return it of shape {shape}")
        if dtype not in FLOATS:
            if result.dtype.kind not in "iub":
                raise StateError("reference", f"returns {name} in {result.dtype}", f"return integers for {dtype}")
            return result.astype(np.longdouble), np.zeros(shape, np.longdouble)
        reference = result.astype(self.wide)
        error = np.broadcast_to(error, shape).astype(self.wide)
        finite = np.isfinite(reference)
        if not np.isfinite(error[finite]).all():
            place = [int(i[0]) for i in np.nonzero(finite & ~np.isfinite(error))]
            raise StateError("bound", f"of {name} is infinite at {place}, where the reference is not", "be given there")
        magnitude = np.where(finite, reference, 0)
        return reference, bounds.stored(np.where(finite, error, 0), magnitude, dtype)

    def placed(self, memory: Any) -> dict[str, Buffer]:
        """Return fresh buffers: inputs as drawn, outputs poisoned."""
        found = {}
        for name, each in self.arguments.items():
            if isinstance(each, In):
                found[name] = buffers.filled(memory, name, self.inputs[name], 0, isinstance(each, InOut))
            elif isinstance(each, Out):
                dtype = _dtype(each.dtype)
                poison = np.full(_shape(each), buffers.poison(dtype)).astype(dtype)
                found[name] = buffers.filled(memory, name, poison, 0, True)
        return found

    def compared(self, results: Mapping[str, np.ndarray]) -> dict[str, Comparison]:
        """Hold results to the reference."""
        return {
            name: compare(results[name], reference, bound, np.isnan(reference))
            for name, (reference, bound) in self.expected.items()
        }


def _require_dtype(name: str, dtype: str) -> None:
    try:
        kind = _dtype(dtype)
    except TypeError:
        kind = None
    if kind is None or (kind.kind not in "iu" and str(kind) not in FLOATS):
        raise ArgumentError(f"dtype of {name}", dtype, f"an integer's, or one of {', '.join(FLOATS)}")


def _dtype(name: Any) -> np.dtype:
    """Return a dtype, of NumPy or of ml_dtypes."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _shape(array: In | Out) -> tuple[int, ...]:
    return array.shape if isinstance(array.shape, tuple) else (array.shape,)


def _drawn(name: str, array: In, rng: np.random.Generator, scale: float) -> np.ndarray:
    shape, dtype = _shape(array), _dtype(array.dtype)
    if array.values is not None:
        values = np.asarray(array.values(rng, shape)).astype(dtype)
        if values.shape != shape:
            raise StateError(f"values of {name}", f"have the shape {values.shape}", f"have the shape {shape}")
        return values
    if dtype.kind in "iu":
        return rng.integers(0, LARGEST_INTEGER, shape).astype(dtype)
    return (scale * rng.normal(0, 1, shape)).astype(dtype)


def _called(whose: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a function with those of the arguments that it names."""
    parameters = inspect.signature(function).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return function(**arguments)
    for each in parameters:
        if each.name not in arguments and each.default is each.empty:
            raise ArgumentError(f"a parameter of {whose}", each.name, f"one of {', '.join(arguments)}")
    return function(**{each.name: arguments[each.name] for each in parameters if each.name in arguments})


# -- kernels and their arrays -----------------------------------------------------------------------------------------


class _Memory:
    """A module's arrays, as `buffers` asks a backend for them."""

    def __init__(self, module: Any) -> None:
        self._module = module
        name = getattr(module, "__name__", "")
        self.device = {"numpy": "cpu", "gpubp.emulator": "emulator"}.get(name, "gpu")

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self._module.empty(shape, dtype)

    def upload(self, host: np.ndarray, array: Any) -> None:
        if self.device == "cpu":
            array[...] = host
        else:
            array.set(host)

    def asnumpy(self, array: Any) -> np.ndarray:
        return array.copy() if self.device == "cpu" else self._module.asnumpy(array)

    def synchronize(self) -> None:
        if self.device == "gpu":
            self._module.cuda.Device().synchronize()


def _caller(kernel: Any, launch: Callable[..., tuple[Any, ...]] | None, arrays: Any) -> tuple[Callable[..., None], Any]:
    """Return what calls a kernel with a shape and its arguments, and the module of its arrays."""
    module = type(kernel).__module__
    emulated = module.startswith("gpubp.emulator")
    raw = type(kernel).__name__ == "RawKernel" and (emulated or module.startswith("cupy"))
    numba = not raw and hasattr(kernel, "py_func") and hasattr(kernel, "__getitem__")
    if not raw and not numba:
        if not callable(kernel):
            raise ArgumentError("kernel", kernel, "a kernel, or a function of arrays")
        if launch is not None:
            raise StateError("launch", "was given", "be left out for a function, which launches by itself")
        return lambda sides, values: kernel(*values), np if arrays is None else arrays
    if launch is None:
        raise StateError("launch", "is missing", "return the grid and the block of a kernel for each shape")

    def call(sides: tuple[int, ...], values: list[Any]) -> None:
        grid, block, *shared = launch(*sides)
        if raw:
            sizes = [size if isinstance(size, tuple) else (size,) for size in (grid, block)]
            kernel(*sizes, tuple(values), shared_mem=shared[0] if shared else 0)
        else:
            kernel[(grid, block, 0, shared[0]) if shared else (grid, block)](*values)

    return call, arrays if arrays is not None else _arrays_of(emulated)


def _arrays_of(emulated: bool) -> Any:
    if emulated:
        from gpubp import emulator

        return emulator
    import cupy

    return cupy
