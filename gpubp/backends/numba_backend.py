"""The `numba` backend: the kernels in Python, on a GPU through numba-cuda alone, or on the emulated device.

The emulated device offers the slice of `numba.cuda` that is used here, so all that differs is the import in the
constructor. Kernels are compiled for explicit types at their first use, one instance at a time, and kept: in memory,
and on disk, by Numba's own cache on a GPU (it tells the instances of a kernel apart by what they close over) and by the
emulator's.

All work goes to the backend's own stream. A training step allocates nothing: what primitives need on their way lies in
a workspace that the first step makes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
from numba.cuda.core.errors import NumbaPerformanceWarning

from gpubp.backends import plans
from gpubp.backends.base import Array
from gpubp.backends.gpu import BLOCK, FLOATS, ArgumentChecker, Uploads, blocks, decide_plan
from gpubp.backends.gpu_backend import Block, GpuBackend, ProductCall, check_grid, optimizer_numbers, row_blocks
from gpubp.backends.plans import THREAD_VARIANTS, Chip, Plan
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
    product_pipelined,
    row_argmax,
    scale,
    softmax,
    squared_norm,
    transpose_product,
    update,
    weight_gradient,
    weight_step,
)
from gpubp.kernels.numba.activations import Sigma
from gpubp.nn.activations import Activation
from gpubp.nn.losses import Loss
from gpubp.nn.optimizers import Optimizer

PRODUCTS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (dense_forward, hidden_delta, product, transpose_product, weight_gradient, weight_step)
}
"""The module of each primitive that is a product."""


class NumbaBackend(GpuBackend):
    """See `GpuBackend`.

    Arrays are Numba's device arrays. Each is taken for one of the current device, which Numba cannot tell of an array
    that another library made.

    Args:
        device: "gpu" or "emulator".
    """

    name = "numba"
    variants = THREAD_VARIANTS
    captures = False

    def __init__(self, device: str = "gpu") -> None:
        if device not in ("gpu", "emulator"):
            raise unknown_name("device", device, ("gpu", "emulator"))
        self._cuda = _cuda_module(device)
        self._stream = self._cuda.stream()
        self._made: dict[tuple[Any, ...], Any] = {}
        self._launchers: dict[tuple[Any, ...], Any] = {}
        self._uploads = Uploads()
        self._keeps_kernels = _keeps_kernels(self._cuda)
        # what a kernel is given in place of an array that it does not look at
        self._nothing = {dtype: self._cuda.device_array(1, dtype, stream=self._stream) for dtype in FLOATS}
        current = self._cuda.get_current_device()
        major, minor = current.compute_capability
        chip = Chip(f"sm_{major}{minor}", current.MULTIPROCESSOR_COUNT, current.MAX_SHARED_MEMORY_PER_BLOCK)
        kind = type(self._nothing[FLOATS[0]])
        super().__init__(device, chip, ArgumentChecker(kind, current.id, address=_address, device_of=_device_of))

    def require_precision(self, precision: str) -> None:
        """See `Backend.require_precision`."""
        _refuse_mixed("precision", precision)

    # --- arrays -----------------------------------------------------------------------------------------------------
    def asarray(self, x: Any, dtype: str | np.dtype) -> Array:
        """x as an array of this backend with this dtype; without a copy where x is on the device, has it already, and
        is C-contiguous: arrays of Numba, and of any library with `__cuda_array_interface__`, such as CuPy's.
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
        """A copy on the device, which is done: the host's array may go."""
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

    def synchronize(self) -> None:
        self._stream.synchronize()

    def elapsed(self, work: Callable[[], object]) -> float:
        """Seconds that the device takes for what `work` gives it, between two events of its own clock. Waits for it."""
        start, end = self._cuda.event(), self._cuda.event()
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Raises BackendError: Numba has no way to record its launches."""
        raise BackendError("backend 'numba' cannot capture a step: Numba does not record launches; 'cupy' can")

    def _run_copy(self, source: Array, out: Array) -> None:
        out.copy_to_device(source, stream=self._stream)

    def _run_cast(self, source: Array, out: Array) -> None:
        kernel = self._make(cast.make, str(source.dtype), str(out.dtype))
        self._launch_each(kernel, out.size, source.reshape(-1), out.reshape(-1))

    def _run_gather_rows(self, source: Array, order: Array, control: Array, out: Array) -> None:
        kernel = self._make(gather_rows.make, str(out.dtype))
        rows = len(out)
        self._launch_each(kernel, out.size, source.reshape(len(source), -1), order, control, out.reshape(rows, -1))

    def _run_squared_norm(self, x: Array, parts: Array, out: Array) -> None:
        first, second = self._make(squared_norm.parts, str(x.dtype)), self._make(squared_norm.add_parts)
        self._launch(first, (len(parts),), (plans.SUM_THREADS,), x.reshape(-1), parts)
        self._launch(second, (1,), (plans.SUM_THREADS,), parts, out)

    def _run_scale(self, x: Array, factor: np.floating) -> None:
        self._launch_each(self._make(scale.make, str(x.dtype)), x.size, x.reshape(-1), factor)

    def _run_row_argmax(self, x: Array, out: Array) -> None:
        self._launch_by_rows(self._make(row_argmax.make, str(x.dtype), plans.row_team(x.shape[1])), x, out)

    # --- forward ----------------------------------------------------------------------------------------------------
    def _run_softmax(self, z: Array, a: Array) -> None:
        self._launch_by_rows(self._make(softmax.make, str(z.dtype), plans.row_team(z.shape[1])), z, a)

    # --- backward ---------------------------------------------------------------------------------------------------
    def _run_softmax_cross_entropy(
        self, z: Array, y: Array, labels: bool, control: Array | None, scale: float, parts: Array, delta: Array
    ) -> None:
        _refuse_mixed("control", control)
        team = plans.row_team(z.shape[1])
        kernel = self._make(output_delta.softmax_cross_entropy, str(z.dtype), team, labels)
        self._launch_by_rows(kernel, z, y, delta, parts, scale)

    def _run_softmax_output_delta(
        self, loss: Loss, a: Array, y: Array, control: Array | None, scale: float, parts: Array, delta: Array
    ) -> None:
        _refuse_mixed("control", control)
        functions = self._loss(loss, a.dtype)
        kernel = self._make(output_delta.softmax, str(a.dtype), plans.row_team(a.shape[1]), functions)
        self._launch_by_rows(kernel, a, y, delta, parts, scale)

    def _run_elementwise_output_delta(
        self,
        loss: Loss,
        activation: Activation,
        output: Array,
        saved: Array,
        y: Array,
        control: Array | None,
        scale: float,
        parts: Array,
        delta: Array,
    ) -> None:
        _refuse_mixed("control", control)
        sigma = None if loss.from_logits else self._sigma(activation, output.dtype)
        kernel = self._make(output_delta.elementwise, str(output.dtype), self._loss(loss, output.dtype), sigma)
        self._launch(kernel, (len(parts),), (plans.SUM_THREADS,), output, saved, y, delta, parts, scale)

    def _run_total_loss(self, parts: Array, scale: float, losses: Array) -> None:
        self._launch(self._make(output_delta.total_loss), (1,), (plans.SUM_THREADS,), parts, scale, losses)

    def _run_hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        kernel = self._make(hadamard_derivative.make, str(delta.dtype), self._sigma(activation, delta.dtype))
        self._launch_each(kernel, delta.size, product.reshape(-1), saved.reshape(-1), delta.reshape(-1))

    def _run_bias_gradient(self, delta: Array, rows_a_part: int, parts: Array, gradient: Array) -> None:
        grid = blocks(len(gradient), bias_gradient.BLOCK_COLUMNS), len(parts)
        block = bias_gradient.BLOCK_COLUMNS, bias_gradient.BLOCK_ROWS
        self._launch(self._make(bias_gradient.parts, str(delta.dtype)), grid, block, delta, parts, rows_a_part)
        if len(parts) > 1:
            kernel = self._make(bias_gradient.add_parts, str(delta.dtype))
            self._launch_each(kernel, len(gradient), parts, gradient)

    # --- update -----------------------------------------------------------------------------------------------------
    def _run_prepare_update(self, max_norm: float, growth_interval: int, control: Array) -> None:
        _refuse_mixed("loss_scaling", growth_interval or None)
        self._launch(self._make(prepare_update.make), (1,), (1,), control, max_norm)

    def _run_update(
        self,
        optimizer: Optimizer,
        gradients: Array,
        decayed: int,
        control: Array,
        state: Sequence[Array],
        clip_value: np.floating,
        parameters: Array,
        stored: Array | None,
    ) -> None:
        _refuse_mixed("stored", stored)
        kernel = self._make(update.make, str(parameters.dtype), optimizer.name, optimizer_numbers(optimizer))
        nothing = self._nothing[parameters.dtype]
        slots = [*state, nothing, nothing][:2]
        numbers = (decayed, control, float(optimizer.weight_decay), clip_value)
        self._launch_each(kernel, parameters.size, gradients, parameters, *slots, *numbers)

    # --- products ---------------------------------------------------------------------------------------------------
    def _plan(self, call: ProductCall, plan: Plan | None, tf32: bool) -> Plan:
        _refuse_mixed("tf32", tf32 or None)
        if plan is not None:
            plan = product_pipelined.adapt(plan, self.chip)
        # copies move single elements, however the operands lie
        decided = decide_plan(plan, self.variant, call.m, call.n, call.k, str(call.dtype), self.chip)
        return product_pipelined.adapt(decided, self.chip)

    def _run_product(self, call: ProductCall, plan: Plan, grid: Block, block: Block) -> None:
        make = getattr(PRODUCTS[call.primitive], plan.variant)
        kernel = self._make(make, replace(plan, split_k=1), *self._settings(call))
        depth = (call.k,) if call.primitive == "product" else ()
        self._launch(kernel, grid, block, call.a, call.b, *self._epilogue(call), *depth, *call.factors)

    def _run_partial_product(self, call: ProductCall, plan: Plan, grid: Block, block: Block, sums: Array) -> None:
        kernel = self._make(product.partial, replace(plan, split_k=1), getattr(forms, call.form))
        self._launch(kernel, grid, block, call.a, call.b, sums, call.k, plan.part(call.k))

    def _run_reduction(self, call: ProductCall, sums: Array, grid: Block, block: Block) -> None:
        settings = () if call.primitive == "product" else self._settings(call)
        kernel = self._make(PRODUCTS[call.primitive].reduce, str(call.dtype), *settings)
        self._launch(kernel, grid, block, sums, *self._epilogue(call), *call.factors)

    def _settings(self, call: ProductCall) -> tuple[Any, ...]:
        """What the factories of a product's kernels take after the plan or the dtype."""
        if call.primitive == "product":
            return (getattr(forms, call.form),)
        sigma = () if call.activation is None else (self._sigma(call.activation, call.dtype),)
        if call.primitive == "dense_forward":
            b, z, _ = call.epilogue
            return (*sigma, b is not None, z is not None)
        return sigma

    def _epilogue(self, call: ProductCall) -> tuple[Array, ...]:
        """The epilogue's arrays, with something in the places where there is none."""
        nothing = self._nothing[call.dtype]
        if call.primitive != "dense_forward":
            return call.epilogue
        b, z, a = call.epilogue
        return nothing if b is None else b, nothing.reshape(1, 1) if z is None else z, a

    # --- kernels ----------------------------------------------------------------------------------------------------
    def _make(self, factory: Callable, *settings: Any) -> Any:
        """What a factory of kernels/numba makes with these settings: made once."""
        key = (factory, settings)
        if key not in self._made:
            self._made[key] = factory(self._jit, *settings)
        return self._made[key]

    def _jit(self, *signature: Any, **options: Any) -> Any:
        return self._cuda.jit(*signature, **options, cache=self._keeps_kernels and not options.get("device"))

    def _sigma(self, activation: Activation, dtype: np.dtype) -> Sigma:
        return self._make(activations.make, activation.name, activation.parameter, str(dtype))

    def _loss(self, loss: Loss, dtype: np.dtype) -> losses.LossFunctions:
        return self._make(losses.make, loss.name, float(getattr(loss, "threshold", 0)), str(dtype))

    def _launch(self, kernel: Any, grid: Block, block: Block, *arguments: Any) -> None:
        key = (kernel, grid, block)
        launcher = self._launchers.get(key)
        if launcher is None:
            check_grid(grid, kernel.py_func.__name__)
            with warnings.catch_warnings():
                # small layers make small grids: nothing to warn of
                warnings.simplefilter("ignore", NumbaPerformanceWarning)
                launcher = self._launchers[key] = kernel[grid, block, self._stream]
        launcher(*arguments)

    def _launch_each(self, kernel: Any, size: int, *arguments: Any) -> None:
        """Launch a kernel in which a thread takes an element."""
        self._launch(kernel, (blocks(size),), (BLOCK,), *arguments)

    def _launch_by_rows(self, kernel: Any, matrix: Array, *arguments: Any) -> None:
        """Launch a kernel in which a team of threads takes a row of its first argument."""
        self._launch(kernel, *row_blocks(*matrix.shape), matrix, *arguments)


def _refuse_mixed(argument: str, value: Any) -> None:
    """Raise ArgumentError where something was given that only mixed precision needs."""
    if value is not None:
        expected = "left out: backend 'numba' has no tensor cores; 'cupy' has them"
        if isinstance(value, str | bool | int):
            raise ArgumentError(argument, value, expected)
        raise StateError(argument, "was given", f"be {expected}")


def _cuda_module(device: str) -> Any:
    """`numba.cuda`, or what stands for it on the emulated device."""
    if device == "gpu":
        from numba import cuda

        return cuda
    from gpubp.emulator import cuda as emulated

    return emulated


def _keeps_kernels(cuda: Any) -> bool:
    """Whether Numba can write to a folder for compiled kernels, beside the sources or in the user's home: without one,
    it makes no kernel that is to be kept."""
    try:
        cuda.jit(scale.make, cache=True)  # any function from the kernels' folder: without types nothing is compiled
    except RuntimeError:
        return False
    return True


def _address(x: Array) -> int:
    return x.__cuda_array_interface__["data"][0]


def _device_of(x: Array) -> int:
    memory = getattr(x, "gpu_data", None)
    return 0 if memory is None else memory.context.device.id  # the emulated device is one
