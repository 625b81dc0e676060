"""The `numba` backend: the kernels in Python, on a GPU through numba-cuda or numba-cuda-mlir alone, or on the emulated
device.

The emulated device offers the slice of `numba.cuda` that is used here, so all that differs is the import in the
constructor. Kernels are compiled for explicit types at their first use, one instance at a time, and kept: in memory,
and on disk, by Numba's own cache on a GPU (it tells the instances of a kernel apart by what they close over) and by the
emulator's.

All work goes to the backend's own stream. A training step allocates nothing: what primitives need on their way lies in
a workspace that the first step makes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np

from gpubp.backends import BACKENDS
from gpubp.backends.arguments import MOST_REMEMBERED, ArgumentChecker, Product
from gpubp.backends.base import FORMS, Array, Mark
from gpubp.backends.gpu_backend import (
    REDUCTION,
    Bound,
    Execution,
    GpuBackend,
    Launch,
    check_grid,
    executed,
    execution_of,
    optimizer_numbers,
)
from gpubp.backends.instances import Word, numba_plan, numba_rung
from gpubp.backends.memory import Uploads
from gpubp.backends.plans import THREAD_VARIANTS, Plan
from gpubp.chips import Chip
from gpubp.dtypes import ARITHMETIC, FLOAT64, PLAIN, canonical
from gpubp.errors import ArgumentError, BackendError, StateError, unknown_name
from gpubp.kernels.numba import (
    activations,
    bias_gradient,
    cast,
    dense_forward,
    forms,
    gather_rows,
    hadamard_derivative,
    hidden_delta,
    losses,
    output_delta,
    prepare_update,
    product,
    row_argmax,
    scale,
    softmax,
    transpose_product,
    update,
    weight_gradient,
    weight_step,
)
from gpubp.kernels.numba.ladder import Reduction
from gpubp.nn.activations import Activation
from gpubp.nn.losses import Loss
from gpubp.nn.optimizers import Optimizer
from gpubp.toolchain import numba_package

SMALL_GRID: type[Warning] = numba_package.part("core.errors").NumbaPerformanceWarning
"""What Numba warns with of a grid that leaves multiprocessors without work."""

FLOATS = tuple(ARITHMETIC[kind].storage for kind in PLAIN)
"""The dtypes that the kernels in Python read."""

MAKERS: dict[str, Callable[..., Any]] = {
    "bias_gradient": bias_gradient.make,
    "cast": cast.make,
    "dense_forward": lambda jit, dtype, sigma, rung, *has: dense_forward.make(jit, rung, dtype, sigma, *has),
    "dense_forward_dropout": lambda jit, dtype, sigma, rung, *has: dense_forward.dropout(jit, rung, dtype, sigma, *has),
    "gather_rows": gather_rows.make,
    "general_product": lambda jit, dtype, form, rung: product.make(jit, rung, dtype, form),
    "hadamard_derivative": hadamard_derivative.make,
    "hidden_delta": lambda jit, dtype, sigma, rung: hidden_delta.make(jit, rung, dtype, sigma),
    "hidden_delta_dropout": lambda jit, dtype, sigma, rung: hidden_delta.dropout(jit, rung, dtype, sigma),
    "layer_gradient": lambda jit, dtype, rung: weight_gradient.of_layer(jit, rung, dtype),
    "layer_step": lambda jit, dtype, rung: weight_step.of_layer(jit, rung, dtype),
    "output_delta_elementwise": lambda jit, dtype, loss, sigma, weighing: output_delta.elementwise(
        jit, dtype, loss, sigma, weighing == "Weighted"
    ),
    "output_delta_softmax": lambda jit, dtype, loss, weighing, team: output_delta.softmax(
        jit, dtype, team, loss, weighing == "Weighted"
    ),
    "output_delta_softmax_cross_entropy": lambda jit, dtype, target, _, weighing, team: (
        output_delta.softmax_cross_entropy(
            jit, dtype, team, target.endswith("Labels"), target.startswith("Smoothed"), weighing == "Weighted"
        )
    ),
    "output_delta_softmax_focal_cross_entropy": lambda jit, dtype, target, _, weighing, team: (
        output_delta.softmax_focal_cross_entropy(jit, dtype, team, target == "Labels", weighing == "Weighted")
    ),
    "partial_product": lambda jit, dtype, form, rung: product.partial(jit, rung, dtype, form),
    "prepare_update": prepare_update.make,
    "row_argmax": row_argmax.make,
    "scale": scale.make,
    "softmax": lambda jit, dtype, _, team: softmax.make(jit, dtype, team),
    "transpose_product": lambda jit, dtype, rung: transpose_product.make(jit, rung, dtype),
    "update": lambda jit, dtype, rule, penalties: update.make(jit, dtype, rule[0], rule[1], penalties == "L1AndL2"),
    "weight_gradient": lambda jit, dtype, rung: weight_gradient.make(jit, rung, dtype),
    "weight_step": lambda jit, dtype, rung: weight_step.make(jit, rung, dtype),
}
"""What makes each kernel of a `Launch`, by its name, from the launch's template arguments."""

FLAT = ("cast", "hadamard_derivative", "prepare_update", "scale")
"""Kernels that see arrays of any shape as rows of elements."""

FORWARD = ("dense_forward", "dense_forward_dropout")
"""Kernels that are made with or without a bias and z, the arrays in places 2 and 3."""

VECTOR, MATRIX, CONTROL = (None, 1), (None, 2), (FLOAT64, 1)
STAND_INS: dict[str, dict[int, tuple[np.dtype | None, int]]] = {
    "dense_forward": {2: VECTOR, 3: MATRIX},
    "dense_forward_dropout": {2: VECTOR, 3: MATRIX, 5: CONTROL},
    "output_delta_elementwise": {3: VECTOR, 4: CONTROL},
    "output_delta_softmax": {2: VECTOR, 3: CONTROL},
    "output_delta_softmax_cross_entropy": {2: VECTOR, 3: CONTROL},
    "output_delta_softmax_focal_cross_entropy": {2: VECTOR, 3: CONTROL},
    "update": {2: VECTOR, 3: VECTOR},
}
"""Dtype (None: the template's) and dimensions of the array that a kernel gets in place of one that is not there, by the
array's place in the launch."""


class NumbaBackend(GpuBackend):
    """See `GpuBackend`.

    Arrays are Numba's device arrays. Of an array that another library made, Numba cannot tell the device: it counts as
    one of the current device.

    Args:
        device: "gpu", "emulator" or "virtual".
    """

    name = "numba"
    variants = THREAD_VARIANTS
    widest = 0
    stores_halves = False
    tensor_doubles = False
    captures = False

    def __init__(self, device: str = "gpu") -> None:
        if device not in BACKENDS[self.name]:
            raise unknown_name("device", device, BACKENDS[self.name])
        self._cuda = _cuda_module(device)
        self._stream = self._cuda.stream()
        self._made: dict[tuple[Any, ...], Any] = {}
        self._launchers: dict[tuple[Any, ...], Any] = {}
        self._uploads = Uploads()
        self._keeps_kernels = _keeps_kernels(self._cuda)
        # what a kernel is given in place of an array that it does not look at
        self._nothing = {
            (dtype, ndim): self._cuda.device_array((1,) * ndim, dtype, stream=self._stream)
            for dtype in FLOATS
            for ndim in (1, 2)
        }
        current = self._cuda.get_current_device()
        major, minor = current.compute_capability
        chip = Chip(f"sm_{major}{minor}", current.MULTIPROCESSOR_COUNT, current.MAX_SHARED_MEMORY_PER_BLOCK)
        kind = type(self._nothing[FLOATS[0], 1])
        super().__init__(device, chip, ArgumentChecker(kind, current.id, _address, _device_of, FLOATS))

    def for_precision(self, precision: str) -> NumbaBackend:
        """See `Backend.for_precision`."""
        if canonical("precision", precision) not in PLAIN:
            self._refuse_mixed("precision", precision)
        return self

    # --- arrays -----------------------------------------------------------------------------------------------------
    def asarray(self, x: Any, dtype: str | np.dtype) -> Array:
        """Return x as an array of this backend with this dtype.

        Without a copy if x is on the device, has the dtype and is C-contiguous: an array of Numba, or of any library
        with `__cuda_array_interface__`, such as CuPy.
        """
        if not self._cuda.is_cuda_array(x):
            return self._on_device(np.ascontiguousarray(x, dtype))
        view = self._cuda.as_cuda_array(x)  # waits for the stream of x's producer
        contiguous = view.flags["C_CONTIGUOUS"]
        if contiguous and view.dtype == dtype:
            return view
        if contiguous and view.dtype in FLOATS and np.dtype(dtype) in FLOATS:
            out = self.empty(view.shape, dtype)
            self.cast(view, out)
            return out
        return self._on_device(np.ascontiguousarray(self.asnumpy(view), dtype))

    def _on_device(self, host: np.ndarray) -> Array:
        """Return a copy on the device, which is complete: the host's array may go."""
        placed = self._cuda.to_device(host, self._stream)
        self._stream.synchronize()
        return placed

    def asnumpy(self, x: Array) -> np.ndarray:
        host = x.copy_to_host(stream=self._stream)
        self._stream.synchronize()
        return host

    def empty(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        return self._cuda.device_array(tuple(shape), np.dtype(dtype), stream=self._stream)

    def zeros(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        return self._on_device(np.zeros(shape, dtype))

    def upload(self, host: np.ndarray, out: Array) -> None:
        self._check.array("out", out, np.shape(host), np.asarray(host).dtype)
        sent = np.array(host, order="C")
        out.copy_to_device(sent, stream=self._stream)
        event = self._cuda.event(timing=False)
        event.record(self._stream)
        self._uploads.keep(sent, event.query)

    def pinned(self, shape: Sequence[int], dtype: str | np.dtype) -> np.ndarray:
        return self._cuda.pinned_array(tuple(shape), np.dtype(dtype))

    @cached_property
    def _beside_stream(self) -> Any:
        """The stream of copies that run while the backend's own computes."""
        return self._cuda.stream()

    def upload_beside(self, pairs: Sequence[tuple[np.ndarray, Array]], after: Mark) -> Mark:
        mark: Any = after
        mark.wait(self._beside_stream)
        for host, out in pairs:
            self._check.array("out", out, host.shape, host.dtype)
            out.copy_to_device(host, stream=self._beside_stream)
        event = self._cuda.event(timing=False)
        event.record(self._beside_stream)
        self._uploads.keep(pairs, event.query)
        return event

    def mark(self) -> Mark:
        event = self._cuda.event(timing=False)
        event.record(self._stream)
        return event

    def wait_for(self, mark: Mark) -> None:
        event: Any = mark
        event.wait(self._stream)

    @property
    def free_memory(self) -> int | None:
        """See `Backend.free_memory`."""
        return self._cuda.current_context().get_memory_info()[0] if self.device == "gpu" else None

    def synchronize(self) -> None:
        self._stream.synchronize()

    def elapsed(self, work: Callable[[], object]) -> float:
        """Return the seconds that the device takes for what `work` launches, between two events of its own clock. Waits
        for the device."""
        start, end = self._cuda.event(), self._cuda.event()
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Raise BackendError: Numba has no way to record its launches."""
        raise BackendError("backend 'numba' cannot capture a step: Numba does not record launches; 'cupy' can")

    def copy(self, source: Array, out: Array) -> None:
        if self._check.copy(source, out):
            out.copy_to_device(source, stream=self._stream)

    @property
    def _stream_handle(self) -> int:
        return int(self._stream.handle)

    # --- products ---------------------------------------------------------------------------------------------------
    def execution(self, found: Product, form: str, tf32: bool, plan: Plan | None) -> Execution:
        self._refuse_mixed("tf32", tf32 or None)
        return _execution_of(found, form, plan, self.variant, self.chip, self.largest_tiles)

    # --- launches ---------------------------------------------------------------------------------------------------
    def _bound(self, launch: Launch) -> Bound:
        key = launch.kernel, launch.template, _present(launch), launch.grid, launch.block
        launcher = self._launchers.get(key)
        if launcher is None:
            check_grid(launch)
            with warnings.catch_warnings():
                # small layers make small grids: nothing to warn of
                warnings.simplefilter("ignore", SMALL_GRID)
                if len(self._launchers) >= MOST_REMEMBERED:
                    self._launchers.clear()
                launcher = self._launchers[key] = self.kernel_of(launch)[launch.grid, launch.block, self._stream]
        return partial(launcher, *self.arguments_of(launch))

    def _run(self, launches: Iterable[Bound]) -> None:
        for launch in launches:
            launch()

    def kernel_of(self, launch: Launch) -> Any:
        """Return the kernel that a launch runs."""
        settings = [self._setting(each, launch.template) for each in launch.template]
        if launch.kernel in FORWARD:
            settings += _present(launch)[2:4]  # b and z
        return self._make(MAKERS[launch.kernel], *settings)

    def _setting(self, x: Any, template: tuple[Any, ...]) -> Any:
        """Return a template argument as the makers of kernels take it."""
        if isinstance(x, np.dtype):
            return str(x)
        if isinstance(x, Word):
            return str(x.dtype)
        if isinstance(x, Plan):
            return numba_rung(x)
        if x == REDUCTION:
            return Reduction()
        if x in FORMS:
            return getattr(forms, x)
        if isinstance(x, Activation):
            # a loss from logits has σ' in its derivative
            within = any(isinstance(each, Loss) and each.from_logits for each in template)
            return None if within else self._make(activations.make, x.name, x.parameter, str(template[0]))
        if isinstance(x, Loss):
            return self._make(losses.make, x.name, float(x.parameter), str(template[0]))
        if isinstance(x, Optimizer):
            return x.name, optimizer_numbers(x)
        return x

    def arguments_of(self, launch: Launch) -> tuple[Any, ...]:
        """Return the arguments of a launch as the kernels in Python take them: no sizes, elementwise kernels flat
        arrays, and an array in place of one that is not there but has a parameter."""
        arrays: Sequence[Array] = launch.arrays
        if launch.kernel in FLAT:
            arrays = [x.reshape(-1) for x in arrays]
        elif launch.kernel == "gather_rows":
            matrices = [None if x is None else x.reshape(len(x), -1) for x in arrays]
            # in place of an array that is not there, the one of x
            sources, out = ([each[0] if x is None else x for x in each] for each in (matrices[:3], matrices[5:]))
            arrays = (*sources, *arrays[3:5], *out)
        elif not all(_present(launch)):
            arrays = list(self._filled(launch))
        return (*arrays, *launch.numbers)

    def _filled(self, launch: Launch) -> Iterator[Array]:
        stand_ins = STAND_INS.get(launch.kernel, {})
        for position, x in enumerate(launch.arrays):
            stand_in = stand_ins.get(position)
            if x is not None:
                yield x
            elif stand_in is not None:
                dtype, ndim = stand_in
                yield self._nothing[launch.template[0] if dtype is None else dtype, ndim]
            elif launch.template[-1] == REDUCTION:
                yield launch.arrays[0]  # one source: the parts

    def _make(self, maker: Callable, *settings: Any) -> Any:
        """Return what a maker makes with these settings: made once."""
        key = (maker, settings)
        if key not in self._made:
            self._made[key] = maker(self._jit, *settings)
        return self._made[key]

    def _jit(self, *signature: Any, **options: Any) -> Any:
        return self._cuda.jit(*signature, **options, cache=self._keeps_kernels and not options.get("device"))

    def _refuse_mixed(self, argument: str, value: Any) -> None:
        if value is not None:
            expected = "left out: backend 'numba' has no tensor cores; 'cupy' has them"
            if isinstance(value, str | bool | int):
                raise ArgumentError(argument, value, expected)
            raise StateError(argument, "was given", f"be {expected}")


@lru_cache(maxsize=4096)
def _execution_of(
    found: Product, form: str, plan: Plan | None, variant: str | None, chip: Chip, largest: bool
) -> Execution:
    """Return how the kernels in Python compute a product: their copies move single elements, however rows lie."""
    for argument, name in (("variant", variant), ("plan.variant", plan and plan.variant)):
        if name is not None and name not in THREAD_VARIANTS:
            raise unknown_name(argument, name, THREAD_VARIANTS)
    given, rung = None if plan is None else numba_plan(plan, chip), variant or "pipelined"
    decided = execution_of(found._replace(alignment=16), form, False, given, rung, chip, largest, stream=False).plan
    return executed(numba_plan(decided, chip), found.m, found.n, found.k)


def _present(launch: Launch) -> tuple[bool, ...]:
    """Return which of a launch's arrays are there."""
    return tuple([x is not None for x in launch.arrays])


def _cuda_module(device: str) -> Any:
    """Return `cuda` of the Numba package, or the emulated device's own module of that interface."""
    if device == "emulator":
        from gpubp.emulator import cuda as emulated

        return emulated
    if device == "virtual":
        from gpubp.emulator import driver

        driver.install()
    return numba_package.cuda


def _keeps_kernels(cuda: Any) -> bool:
    """True if Numba can write to a folder for compiled kernels, beside the sources or in the user's home: without one,
    it makes no kernel that is to be kept."""
    try:
        cuda.jit(scale.make, cache=True)  # any function from the kernels' folder: without types nothing is compiled
    except RuntimeError:
        return False
    return True


def _address(x: Array) -> int:
    return x.device_ctypes_pointer.value or 0


def _device_of(x: Array) -> int:
    memory = getattr(x, "gpu_data", None)
    return 0 if memory is None else memory.context.device.id  # the emulated device is one
