"""The `cupy` backend: the kernels in CUDA C++, on a GPU through CuPy, or on the emulated device.

The emulated device offers the slice of CuPy's interface that is used here, so all that differs is the import in the
constructor. Kernels are compiled at their first use, one instance at a time, and kept (on disk too).

All work goes to the backend's own stream. A training step allocates nothing: what primitives need on their way lies in
a workspace that the first step makes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.backends import plans
from gpubp.backends.base import Array
from gpubp.backends.gpu import BLOCK, FLOATS, ArgumentChecker, Uploads, blocks, decide_plan, operands_of
from gpubp.backends.gpu_backend import Block, GpuBackend, ProductCall, check_grid, optimizer_numbers, row_blocks
from gpubp.backends.instances import (
    KERNEL_DIRECTORY,
    TYPES,
    WORDS,
    Entry,
    ProductKernels,
    entry,
    general_product_kernels,
    product_kernels,
)
from gpubp.backends.plans import Chip, Plan
from gpubp.errors import ArgumentError, BackendError, StateError, unknown_name
from gpubp.nn.activations import Activation
from gpubp.nn.losses import Loss
from gpubp.nn.optimizers import Optimizer
from gpubp.nn.precision import HALVES, master_of
from gpubp.toolchain.nvrtc import compile_file

CUDA_DEVICE = 2
"""kDLCUDA, DLPack's number for memory of a CUDA device."""


class CupyBackend(GpuBackend):
    """See `GpuBackend`.

    Args:
        device: "gpu" or "emulator".
        kernels: the folder with the kernels' sources.
    """

    name = "cupy"
    captures = True

    def __init__(self, device: str = "gpu", kernels: Path = KERNEL_DIRECTORY) -> None:
        if device not in ("gpu", "emulator"):
            raise unknown_name("device", device, ("gpu", "emulator"))
        self._cp = _array_module(device)
        self._kernels = kernels
        self._stream = self._cp.cuda.Stream(non_blocking=True)
        self._loaded: dict[Entry, Any] = {}
        self._uploads = Uploads()
        current = self._cp.cuda.Device()
        chip = Chip(
            f"sm_{current.compute_capability}",
            current.attributes["MultiProcessorCount"],
            current.attributes["MaxSharedMemoryPerBlock"],
            current.attributes["MaxSharedMemoryPerBlockOptin"],
        )
        check = ArgumentChecker(
            self._cp.ndarray,
            int(current),
            address=lambda x: x.data.ptr,
            device_of=lambda x: int(x.device),
            floats=(*FLOATS, *HALVES),
        )
        super().__init__(device, chip, check)
        if not chip.has_tensor_cores:
            self.variants = plans.THREAD_VARIANTS

    def require_precision(self, precision: str) -> None:
        """See `Backend.require_precision`."""
        if not self.chip.has_tensor_cores:
            expected = f"left out: {self.chip.arch} has no tensor cores for it, sm_80 and newer chips have"
            raise ArgumentError("precision", precision, expected)

    # --- arrays -----------------------------------------------------------------------------------------------------
    def asarray(self, x: Any, dtype: str | np.dtype) -> Array:
        """x as an array of this backend with this dtype; without a copy where x is on the device, has it already, and
        is C-contiguous: arrays of CuPy, and of any library with `__cuda_array_interface__` or DLPack.
        """
        dlpack_device = getattr(x, "__dlpack_device__", None)
        on_device = hasattr(x, "__cuda_array_interface__")
        if not on_device and dlpack_device is not None and int(dlpack_device()[0]) == CUDA_DEVICE:
            x = self._cp.from_dlpack(x)
            on_device = True
        if not on_device:
            with self._stream:
                return self._cp.asarray(np.ascontiguousarray(x, dtype))
        with self._in_turn(), self._stream:
            return self._cp.asarray(x, dtype, order="C")

    def asnumpy(self, x: Array) -> np.ndarray:
        return self._cp.asnumpy(x, self._stream)

    def empty(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        with self._stream:
            return self._cp.empty(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        with self._stream:
            return self._cp.zeros(shape, dtype)

    def upload(self, host: np.ndarray, out: Array) -> None:
        self._check.array("out", out, np.shape(host), np.asarray(host).dtype)
        sent = np.array(host, order="C")
        out.set(sent, self._stream)
        event = self._stream.record(self._cp.cuda.Event(disable_timing=True))
        self._uploads.keep(sent, lambda: event.done)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def elapsed(self, work: Callable[[], object]) -> float:
        """Seconds that the device takes for what `work` gives it, between two events of its own clock. Waits for it."""
        start, end = self._cp.cuda.Event(), self._cp.cuda.Event()
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return self._cp.cuda.get_elapsed_time(start, end) / 1e3

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Work on a user's array, which is made, and used again, on the current stream: ours waits for what that was
        given before, and that waits for ours."""
        current = self._cp.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        yield
        current.wait_event(self._stream.record())

    def _run_copy(self, source: Array, out: Array) -> None:
        # bytes, in the widest words that both arrays are made of
        word = _word(source.nbytes, source.data.ptr, out.data.ptr)
        with self._in_turn():
            self._each(entry("copy", "copy", WORDS[word]), source.nbytes // word, (source, out))

    def _run_cast(self, source: Array, out: Array) -> None:
        with self._in_turn():
            self._each(entry("cast", "cast", _ctype(source.dtype), _ctype(out.dtype)), source.size, (source, out))

    def _run_gather_rows(self, source: Array, order: Array, control: Array, out: Array) -> None:
        row_bytes = out.nbytes // len(out)
        word = _word(row_bytes, source.data.ptr, out.data.ptr)
        words = row_bytes // word
        arguments = (source, order, control, out, len(out), words)
        kernel = entry("gather_rows", "gather_rows", WORDS[word])
        self._launch(kernel, (blocks(len(out) * words),), (BLOCK,), arguments)

    def _run_squared_norm(self, x: Array, parts: Array, out: Array) -> None:
        first = entry("squared_norm", "squared_norm_parts", _ctype(x.dtype))
        self._launch(first, (parts.size,), (plans.SUM_THREADS,), (x, x.size, parts))
        second = entry("squared_norm", "squared_norm", "double")
        self._launch(second, (1,), (plans.SUM_THREADS,), (parts, parts.size, out))

    def _run_scale(self, x: Array, factor: np.floating) -> None:
        self._launch(entry("scale", "scale", _ctype(x.dtype)), (blocks(x.size),), (BLOCK,), (x, x.size, factor))

    def _run_row_argmax(self, x: Array, out: Array) -> None:
        self._by_rows("row_argmax", "row_argmax", (_ctype(x.dtype),), (x, out))

    # --- forward ----------------------------------------------------------------------------------------------------
    def _run_softmax(self, z: Array, a: Array) -> None:
        self._by_rows("softmax", "softmax", (_ctype(z.dtype), _ctype(a.dtype)), (z, a))

    # --- backward ---------------------------------------------------------------------------------------------------
    def _run_softmax_cross_entropy(
        self, z: Array, y: Array, labels: bool, control: Array | None, scale: float, parts: Array, delta: Array
    ) -> None:
        target = ("Labels", "int64") if labels else ("Probabilities", _ctype(y.dtype))
        template, numbers = (_ctype(z.dtype), *target), (scale, control)
        self._by_rows("output_delta", "output_delta_softmax_cross_entropy", template, (z, y, delta, parts), numbers)

    def _run_softmax_output_delta(
        self, loss: Loss, a: Array, y: Array, control: Array | None, scale: float, parts: Array, delta: Array
    ) -> None:
        template, numbers = (_ctype(a.dtype), type(loss).__name__), (scale, control, _threshold(loss, a.dtype))
        self._by_rows("output_delta", "output_delta_softmax", template, (a, y, delta, parts), numbers)

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
        dtype = output.dtype
        sigma = "Identity" if loss.from_logits else type(activation).__name__
        kernel = entry("output_delta", "output_delta_elementwise", _ctype(dtype), type(loss).__name__, sigma)
        numbers = (scale, control, _threshold(loss, dtype), master_of(dtype).type(activation.parameter))
        arguments = (output, saved, y, delta, parts, *output.shape, *numbers)
        self._launch(kernel, (parts.size,), (plans.SUM_THREADS,), arguments)

    def _run_total_loss(self, parts: Array, scale: float, losses: Array) -> None:
        kernel = entry("output_delta", "total_loss", "double")
        self._launch(kernel, (1,), (plans.SUM_THREADS,), (parts, parts.size, scale, losses))

    def _run_hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        dtype = product.dtype
        kernel = entry("hadamard_derivative", "hadamard_derivative", _ctype(dtype), type(activation).__name__)
        arguments = (product, saved, delta, delta.size, master_of(dtype).type(activation.parameter))
        self._launch(kernel, _wide_blocks(delta), (BLOCK,), arguments)

    def _run_bias_gradient(self, delta: Array, rows_a_part: int, parts: Array, gradient: Array) -> None:
        rows, width = delta.shape
        kernel = entry("bias_gradient", "bias_gradient_parts", _ctype(delta.dtype))
        grid = blocks(width, 32), len(parts)
        self._launch(kernel, grid, (32, 8), (delta, parts, rows, width, rows_a_part))
        if len(parts) > 1:
            kernel = entry("bias_gradient", "bias_gradient", _ctype(gradient.dtype))
            self._launch(kernel, (blocks(width),), (BLOCK,), (parts, len(parts), gradient, width))

    # --- update -----------------------------------------------------------------------------------------------------
    def _run_prepare_update(self, max_norm: float, growth_interval: int, control: Array) -> None:
        kernel = entry("prepare_update", "prepare_update", "double")
        self._launch(kernel, (1,), (1,), (control, max_norm, growth_interval))

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
        dtype = parameters.dtype
        first, second, epsilon = optimizer_numbers(optimizer)
        arguments = (
            *(gradients, parameters, *state, *[None] * (2 - len(state)), gradients.size, decayed, control),
            *(float(optimizer.weight_decay), clip_value, first, second, dtype.type(epsilon)),
            stored,
        )
        copy = () if stored is None else (_ctype(stored.dtype),)
        kernel = entry("update", "update", _ctype(dtype), type(optimizer).__name__, *copy)
        self._launch(kernel, _wide_blocks(parameters), (BLOCK,), arguments)

    # --- products ---------------------------------------------------------------------------------------------------
    def _plan(self, call: ProductCall, plan: Plan | None, tf32: bool) -> Plan:
        operands, alignment = operands_of(call.dtype, tf32), _row_alignment(call.a, call.b)
        return decide_plan(plan, self.variant, call.m, call.n, call.k, operands, self.chip, alignment)

    def _run_product(self, call: ProductCall, plan: Plan, grid: Block, block: Block) -> None:
        arguments = (call.a, call.b, *call.epilogue, call.m, call.n, call.k, *_numbers(call))
        self._launch(_product_kernels(call).whole(plan), grid, block, arguments, _shared_on_request(plan))

    def _run_partial_product(self, call: ProductCall, plan: Plan, grid: Block, block: Block, sums: Array) -> None:
        arguments = (call.a, call.b, sums, call.m, call.n, call.k, plan.part(call.k))
        self._launch(_product_kernels(call).partial(plan), grid, block, arguments, _shared_on_request(plan))

    def _run_reduction(self, call: ProductCall, sums: Array, grid: Block, block: Block) -> None:
        arguments = (sums, len(sums), *call.epilogue, call.m, call.n, *_numbers(call))
        self._launch(_product_kernels(call).reduction(), grid, block, arguments)

    # --- capture ----------------------------------------------------------------------------------------------------
    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Backend.capture`: the recording is a CUDA graph."""
        self._stream.begin_capture()
        try:
            work()
        finally:
            graph = self._stream.end_capture()  # also where `work` fails: the stream must leave capture
        # the graph holds addresses: the workspace must live as long as it
        return functools.partial(_replay, graph, self._stream, self._workspace.buffer)

    # --- launches ---------------------------------------------------------------------------------------------------
    def _launch(self, kernel: Entry, grid: Block, block: Block, arguments: tuple, shared: int = 0) -> None:
        """shared: dynamic shared memory of a block, in bytes."""
        check_grid(grid, kernel.expression)
        loaded = self._loaded.get(kernel) or self._load(kernel, shared)
        with self._stream:
            loaded(grid, block, arguments, shared_mem=shared)

    def _load(self, kernel: Entry, shared: int) -> Any:
        path = self._kernels / kernel.source
        compiled = compile_file(path, self.chip.arch, name_expressions=[kernel.expression])
        module = self._cp.RawModule(path=str(compiled.cubin_path))
        loaded = self._loaded[kernel] = module.get_function(compiled.lowered_names[kernel.expression])
        if shared > self.chip.shared_per_block:
            loaded.max_dynamic_shared_size_bytes = shared
        return loaded

    def _each(self, kernel: Entry, size: int, arguments: tuple) -> None:
        """Launch an elementwise kernel whose last argument is the number of elements."""
        self._launch(kernel, (blocks(size),), (BLOCK,), (*arguments, size))

    def _by_rows(
        self, source: str, kernel: str, template: tuple[str, ...], arrays: tuple[Array, ...], numbers: tuple = ()
    ) -> None:
        """Launch a kernel in which a team of threads takes a row of the first array."""
        rows, width = arrays[0].shape
        chosen = entry(source, kernel, *template, plans.row_team(width))
        self._launch(chosen, *row_blocks(rows, width), (*arrays, rows, width, *numbers))


def _replay(graph: Any, stream: Any, workspace: Any) -> None:
    """Launch a graph; does not wait."""
    graph.launch(stream)


def _array_module(device: str) -> Any:
    """CuPy, or what stands for it on the emulated device."""
    try:
        if device == "gpu":
            import cupy

            return cupy
        from gpubp import emulator

        return emulator
    except ImportError as error:
        extra = "cuda13" if device == "gpu" else "emulator"
        raise BackendError(
            f"backend 'cupy' cannot run on device {device!r}: {error}; pip install 'gpubp[{extra}]'"
        ) from error


def _ctype(dtype: np.dtype) -> str:
    return TYPES[str(dtype)]


def _product_kernels(call: ProductCall) -> ProductKernels:
    if call.primitive == "product":
        return general_product_kernels(call.form, str(call.dtype))
    sigma = None if call.activation is None else type(call.activation).__name__
    return product_kernels(call.primitive, call.form, str(call.dtype), sigma)


def _numbers(call: ProductCall) -> tuple[np.floating, ...]:
    """What an epilogue takes after the arrays and their sides."""
    return call.factors if call.activation is None else (master_of(call.dtype).type(call.activation.parameter),)


def _threshold(loss: Loss, dtype: np.dtype) -> np.floating:
    """The loss's own number, or 0."""
    return master_of(dtype).type(getattr(loss, "threshold", 0))


def _wide_blocks(x: Array) -> Block:
    """The grid of a kernel in which a thread takes 16 bytes of x."""
    return (blocks(x.size, BLOCK * (16 // x.dtype.itemsize)),)


def _row_alignment(a: Array, b: Array) -> int:
    """Bytes, up to 16, that every row of both operands starts on a multiple of."""
    return math.gcd(16, *(number for x in (a, b) for number in (x.shape[1] * x.itemsize, x.data.ptr)))


def _shared_on_request(plan: Plan) -> int:
    return plan.shared_bytes if plan.variant == "tensorcore" else 0


def _word(nbytes: int, *addresses: int) -> int:
    """The widest word, in bytes, that a row of this many bytes is made of and that all addresses are aligned for."""
    for word in WORDS:
        if nbytes % word == 0 and all(address % word == 0 for address in addresses):
            return word
    raise StateError("dtype", f"makes rows of {nbytes} bytes", "make rows of 2 bytes or more")
