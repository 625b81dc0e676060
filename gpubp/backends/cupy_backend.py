"""The `cupy` backend: the kernels in CUDA C++, on a GPU through CuPy, or on the emulated device.

The emulated device offers the slice of CuPy's interface that is used here, so all that differs is the import in the
constructor. Kernels are compiled at their first use, one instance at a time, and kept (on disk too).

All work goes to the backend's own stream. A training step allocates nothing: what primitives need on their way lies in
a workspace that the first step makes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.backends import BACKENDS, MEASURED, plans, tensor_maps
from gpubp.backends.arguments import ArgumentChecker
from gpubp.backends.base import Array, Mark
from gpubp.backends.gpu_backend import Bound, GpuBackend, Launch, check_grid, optimizer_numbers
from gpubp.backends.instances import KERNEL_DIRECTORY, Entry, cuda_entry
from gpubp.backends.memory import Uploads
from gpubp.backends.tuned import Conditions, path_of, plans_digest
from gpubp.chips import Chip
from gpubp.dtypes import ARITHMETIC, PLAIN, canonical, master_of
from gpubp.errors import ArgumentError, BackendError, unknown_name
from gpubp.nn.activations import Activation
from gpubp.nn.losses import Loss
from gpubp.nn.optimizers import Optimizer
from gpubp.toolchain.nvrtc import Compiled, compile_file, compiler_versions

CUDA_DEVICE = 2
"""kDLCUDA, DLPack's number for memory of a CUDA device."""


class CupyBackend(GpuBackend):
    """See `GpuBackend`.

    Args:
        device: "gpu", "emulator" or "virtual".
        kernels: the folder with the kernels' sources.
    """

    name = "cupy"
    stores_halves = True
    captures = True

    def __init__(self, device: str = "gpu", kernels: Path = KERNEL_DIRECTORY) -> None:
        if device not in BACKENDS[self.name]:
            raise unknown_name("device", device, BACKENDS[self.name])
        self._cp = _array_module(device)
        self._kernels = kernels
        self._stream = self._cp.cuda.Stream(non_blocking=True)
        self._loaded: dict[Entry, Any] = {}
        self._functions: dict[tuple[str, tuple[Any, ...]], tuple[Any, tuple[np.generic, ...]]] = {}
        self._uploads = Uploads()
        self._encode = tensor_maps.encoder(device)
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
            device_of=lambda x: x.data.mem.device_id,
            floats=[kind.storage for kind in ARITHMETIC.values() if kind.name == str(kind.storage)],
        )
        super().__init__(device, chip, check)
        if not chip.has_tensor_cores:
            self.variants = plans.THREAD_VARIANTS
        elif not chip.has_wgmma:
            self.variants = tuple(name for name in plans.VARIANTS if name != "wgmma")
        self.tensor_doubles = chip.has_float64_tensor_cores

    @property
    def conditions(self) -> Conditions:
        """What plans that are measured here are measured with."""
        device, runtime = self._cp.cuda.Device(), self._cp.cuda.runtime
        name = runtime.getDeviceProperties(int(device))["name"].decode()
        version = runtime.driverGetVersion()
        where = "" if self.device == "gpu" else f", {self.device}"
        driver = f"CUDA {version // 1000}.{version % 1000 // 10}"
        return Conditions(name + where, driver, ", ".join(compiler_versions()), plans_digest())

    @property
    def provenance(self) -> dict[str, str | int]:
        """See `Backend.provenance`: on a GPU with what plans are measured with."""
        found = super().provenance | {"compiler": ", ".join(compiler_versions())}
        if self.device not in MEASURED:
            return found
        conditions = self.conditions
        if self.tuned:
            found["tuned_file"] = str(path_of(conditions.gpu))
        return {"gpu": conditions.gpu, "driver": conditions.driver} | found

    def for_precision(self, precision: str) -> CupyBackend:
        """See `Backend.for_precision`."""
        if canonical("precision", precision) not in PLAIN and not self.chip.has_tensor_cores:
            expected = f"left out: {self.chip.arch} has no tensor cores for it, sm_80 and newer chips have"
            raise ArgumentError("precision", precision, expected)
        return self

    # --- arrays -----------------------------------------------------------------------------------------------------
    def asarray(self, x: Any, dtype: str | np.dtype) -> Array:
        """Return x as an array of this backend with this dtype.

        Without a copy if x is on the device, has the dtype and is C-contiguous: an array of CuPy, or of any library
        with `__cuda_array_interface__` or DLPack.
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

    def pinned(self, shape: Sequence[int], dtype: str | np.dtype) -> np.ndarray:
        count = math.prod(shape)
        memory = self._cp.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
        return np.frombuffer(memory, dtype, count).reshape(shape)

    @functools.cached_property
    def _beside_stream(self) -> Any:
        """The stream of copies that run while the backend's own computes."""
        return self._cp.cuda.Stream(non_blocking=True)

    def upload_beside(self, pairs: Sequence[tuple[np.ndarray, Array]], after: Mark) -> Mark:
        self._beside_stream.wait_event(after)
        for host, out in pairs:
            self._check.array("out", out, host.shape, host.dtype)
            out.set(host, self._beside_stream)
        event = self._beside_stream.record(self._cp.cuda.Event(disable_timing=True))
        self._uploads.keep(pairs, lambda: event.done)
        return event

    def mark(self) -> Mark:
        return self._stream.record(self._cp.cuda.Event(disable_timing=True))

    def wait_for(self, mark: Mark) -> None:
        self._stream.wait_event(mark)

    @property
    def free_memory(self) -> int | None:
        """See `Backend.free_memory`: what CuPy's pool has left is free too."""
        if self.device != "gpu":
            return None
        return self._cp.cuda.runtime.memGetInfo()[0] + self._cp.get_default_memory_pool().free_bytes()

    def synchronize(self) -> None:
        self._stream.synchronize()

    def elapsed(self, work: Callable[[], object]) -> float:
        """Return the seconds that the device takes for what `work` launches, between two events of its own clock. Waits
        for the device."""
        start, end = self._cp.cuda.Event(), self._cp.cuda.Event()
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return self._cp.cuda.get_elapsed_time(start, end) / 1e3

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Work on a user's array, which is made, and used again, on the current stream: the backend's stream waits for
        what that stream was given before, and that stream then waits for the backend's."""
        current = self._cp.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        yield
        current.wait_event(self._stream.record())

    def copy(self, source: Array, out: Array) -> None:
        if self._check.copy(source, out):
            word = self._word(source.nbytes, source, out)
            with self._in_turn():
                self._each(source.nbytes // word.nbytes, "copy", (word,), (source, out))

    def cast(self, source: Array, out: Array) -> None:
        with self._in_turn():
            super().cast(source, out)

    # --- capture ----------------------------------------------------------------------------------------------------
    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Backend.capture`: the recording is a CUDA graph."""
        self._stream.begin_capture()
        try:
            work()
        finally:
            graph = self._stream.end_capture()  # also where `work` fails: the stream must leave capture
        # the graph holds addresses: the workspace must live as long as it
        return functools.partial(self._replay, graph, (self._workspace.held, self._beside.held))

    def _replay(self, graph: Any, held: Sequence[tuple[Any, Any]]) -> None:
        """Launch a graph; does not wait."""
        try:
            graph.launch(self._stream)
        except BaseException:
            self._end_arrivals(counters for _, counters in held if counters is not None)
            raise

    @property
    def _stream_handle(self) -> int:
        return self._stream.ptr

    # --- launches ---------------------------------------------------------------------------------------------------
    def _bound(self, launch: Launch) -> Bound:
        check_grid(launch)
        key = launch.kernel, launch.template
        function, own_numbers = self._functions.get(key) or self._make(launch)
        fetched = [self._map(x, box) for x, box in zip(launch.arrays, launch.boxes, strict=False)]
        stored = [self._map(x, plans.stored_box(x.dtype)) for x in launch.stored]
        arrays = (*fetched, *launch.arrays[len(fetched) :])
        arguments = (*arrays, *launch.sizes, *launch.numbers, *own_numbers, *launch.working, *stored)
        return functools.partial(function, launch.grid, launch.block, arguments, shared_mem=launch.shared_bytes)

    def _map(self, x: Array, box: plans.Box) -> np.ndarray:
        """Return the tensor map of a matrix that the copy engine moves by this box."""
        return tensor_maps.matrix_map(self._encode, x.data.ptr, x.shape, box)

    def _run(self, launches: Iterable[Bound]) -> None:
        with self._stream:
            for launch in launches:
                launch()

    def _make(self, launch: Launch) -> tuple[Any, tuple[np.generic, ...]]:
        """Return the function on the device for such launches, and the last numbers that it takes."""
        entry = cuda_entry(launch.kernel, launch.template)
        function = self._loaded.get(entry)
        if function is None:
            compiled, name = self.compiled(launch)
            module = self._cp.RawModule(path=str(compiled.cubin_path))
            function = self._loaded[entry] = module.get_function(name)
            if launch.shared_bytes > self.chip.shared_per_block:
                function.max_dynamic_shared_size_bytes = launch.shared_bytes
        made = self._functions[launch.kernel, launch.template] = function, _own_numbers(launch.template)
        return made

    def compiled(self, launch: Launch) -> tuple[Compiled, str]:
        """Return the compilation of the kernel that a launch runs, and the kernel's name in the machine code."""
        entry = cuda_entry(launch.kernel, launch.template)
        arch = self.chip.arch + "a" if entry.own_chip else self.chip.arch
        compiled = compile_file(self._kernels / entry.source, arch, name_expressions=[entry.expression])
        return compiled, compiled.lowered_names[entry.expression]


def _array_module(device: str) -> Any:
    """Return CuPy, or the emulated device's own module of that interface."""
    try:
        if device == "emulator":
            from gpubp import emulator

            return emulator
        if device == "virtual":
            from gpubp.emulator import driver

            driver.install()
        import cupy

        return cupy
    except ImportError as error:
        extra = "cuda13" if device == "gpu" else "emulator"
        raise BackendError(
            f"backend 'cupy' cannot run on device {device!r}: {error}; pip install 'gpubp[{extra}]'"
        ) from error


def _own_numbers(template: tuple[Any, ...]) -> tuple[np.generic, ...]:
    """Return the numbers of the functions among a kernel's template arguments, in their order: a slope, a threshold,
    an optimiser's factors."""
    numbers: list[Any] = []
    for each in template:
        if isinstance(each, Activation | Loss):
            numbers.append(master_of(template[0]).type(each.parameter))
        elif isinstance(each, Optimizer):
            first, second, epsilon = optimizer_numbers(each)
            numbers += first, second, template[0].type(epsilon)
    return tuple(numbers)
