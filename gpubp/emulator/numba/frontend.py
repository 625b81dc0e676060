"""The names of `numba.cuda` on the emulated device: `jit` and launch, arrays, streams, and what kernels call.

Host code gets functions of this module; names used inside kernels (`grid`, `shared`, `atomic`, ...) are Numba's own.
A device function may be made by this `jit`, or by `numba.cuda.jit` without signature.

What does not work: `debug=True` (exceptions raised in kernels; the emulator checks every access by itself), `link=`
and `declare_device` (foreign code), `extensions=`, records passed as scalars, and arrays that a kernel allocates by
NumPy calls. On a GPU, Numba optimises once more at link time: what runs here is the code before that, and the registers
reported are those of assembling it as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from gpubp.chips import MAX_THREADS, STATIC_SHARED, WARP
from gpubp.emulator import launch
from gpubp.emulator.chip import check_device_id, compute_capability, current_arch, current_chip
from gpubp.emulator.cupy import arrays, streams
from gpubp.emulator.errors import EmulatorError, LaunchError
from gpubp.emulator.numba.compilers import array_parameters, compile_kernel, complex_parameters, device_function
from gpubp.emulator.numba.names import (
    In,
    Out,
    Purpose,
    numpy_support,
    sigutils,
    typeof,
    typeof_impl,
    types,
    typing_context,
    wrap_arg,
)
from gpubp.emulator.numba.names import signature as numba_signature
from gpubp.toolchain import numba_package
from gpubp.toolchain.nvjitlink import Assembled, assemble
from gpubp.toolchain.ptxas import Resources

# Decorator and kernels


def jit(
    func_or_sig: Any = None,
    device: bool = False,
    inline: Any = "never",
    forceinline: bool = False,
    link: Sequence = (),
    debug: bool | None = None,
    opt: bool | None = None,
    lineinfo: bool = False,
    cache: bool = False,
    launch_bounds: Any = None,
    lto: bool | None = None,
    shared_memory_carveout: Any = None,
    **kws: Any,
) -> Any:
    """Compile a Python function as a kernel, or as a device function, with `numba.cuda.jit`'s arguments.

    Line information and the disk cache are always on. `lto` and `shared_memory_carveout` do not change PTX and have
    no effect.

    Returns:
        A `Dispatcher` (kernel) or a device function; a decorator that makes one, if no function is given.

    Raises:
        NotImplementedError: an argument that is not part of the emulator.
    """
    fastmath, max_registers = kws.pop("fastmath", False), kws.pop("max_registers", None)
    unsupported = {"debug": debug, "link": link, **kws}
    for name, value in unsupported.items():
        if value:
            raise NotImplementedError(f"jit({name}={value!r}) is not part of the emulator")
    if func_or_sig is None or isinstance(func_or_sig, (list, tuple)) or sigutils.is_signature(func_or_sig):
        signatures, function = func_or_sig, None
    else:
        signatures, function = None, func_or_sig

    def decorate(py_func: Callable) -> Any:
        if device:
            options = {"inline": inline, "forceinline": forceinline, "lineinfo": True, "fastmath": fastmath}
            return device_function(py_func, signatures, options if opt is None else options | {"opt": opt})
        options = {"fastmath": fastmath, "opt": opt, "launch_bounds": launch_bounds}
        return Dispatcher(py_func, signatures, options, max_registers)

    return decorate if function is None else decorate(function)


class Overload:
    """One kernel, compiled for one architecture and one list of argument types."""

    def __init__(self, ptx: str, argument_types: tuple[types.Type, ...], arch: str, max_registers: int | None) -> None:
        self.ptx = ptx
        self.argument_types = argument_types
        self.arch = arch
        self._max_registers = max_registers
        self.cooperative = "cudaCG" in ptx
        module = launch.load(ptx)
        (self.kernel,) = module.kernels.values()

    @functools.cached_property
    def assembled(self) -> Assembled:
        """Return the machine code of the PTX."""
        return assemble(self.ptx, self.arch, self._max_registers)

    def max_cooperative_grid_blocks(self, blockdim: Any, dynsmemsize: int = 0) -> int:
        """Return how many blocks may have a barrier of the grid, by their threads and shared memory."""
        return launch.resident_blocks(self.kernel, _dimensions(blockdim, "blockdim"), dynsmemsize, self.arch)

    @property
    def resources(self) -> Resources:
        """Return the registers and the memory that the kernel needs, from ptxas."""
        # Numba declares shared memory outside of the kernel, where ptxas does not count it.
        return replace(self.assembled.resources[self.kernel.name], shared_bytes=self.kernel.static_shared_bytes)


class Dispatcher:
    """A kernel that is compiled for the types it is launched with, or for those of its signatures.

    Launched as `kernel[grid, block, stream, shared_bytes](*arguments)`.
    """

    def __init__(self, py_func: Callable, signatures: Any, options: dict[str, Any], max_registers: int | None) -> None:
        functools.update_wrapper(self, py_func)
        self.py_func = py_func
        self.options = options
        self._max_registers = max_registers
        self._overloads: dict[tuple[str, tuple[types.Type, ...]], Overload] = {}
        given = signatures if isinstance(signatures, list) else [] if signatures is None else [signatures]
        self._declared = [_argument_types(signature) for signature in given]
        for argument_types in self._declared:
            self.compile(argument_types)

    def __call__(self, *arguments: object, **keywords: object) -> None:
        raise ValueError(
            f"kernel {self.py_func.__name__} is called without a launch configuration: "
            f"{self.py_func.__name__}[grid, block](...)"
        )

    def __getitem__(self, args: tuple) -> Launcher:
        if not isinstance(args, tuple) or not 2 <= len(args) <= 4:
            raise ValueError("a launch configuration is [grid, block], [grid, block, stream] or with shared bytes")
        return self.configure(*args)

    def configure(self, griddim: Any, blockdim: Any, stream: Any = 0, sharedmem: int = 0) -> Launcher:
        """Return the kernel with its launch configuration, ready to be called with its arguments."""
        return Launcher(self, _dimensions(griddim, "griddim"), _dimensions(blockdim, "blockdim"), stream, sharedmem)

    def forall(self, ntasks: int, tpb: int = 0, stream: Any = 0, sharedmem: int = 0) -> Callable[..., None]:
        """Return the kernel for a line of at least `ntasks` threads, in blocks of `tpb`, or of 128 if `tpb` is 0."""
        if ntasks < 0:
            raise ValueError(f"ntasks is {ntasks}: it must not be negative")
        if ntasks == 0:
            return lambda *arguments: None
        threads = tpb or 128
        return self.configure(math.ceil(ntasks / threads), threads, stream, sharedmem)

    def compile(self, sig: Any) -> Overload:
        """Compile for a signature or a tuple of Numba types, for the current architecture."""
        argument_types, arch = _argument_types(sig), current_arch()
        if (arch, argument_types) not in self._overloads:
            ptx = compile_kernel(self.py_func, argument_types, arch, **self.options)
            self._overloads[arch, argument_types] = Overload(ptx, argument_types, arch, self._max_registers)
        return self._overloads[arch, argument_types]

    def specialize(self, *args: Any) -> Dispatcher:
        """Return this kernel for the types of these arguments only."""
        argument_types = tuple(typeof(argument, Purpose.argument) for argument in args)
        return Dispatcher(
            self.py_func, [numba_signature(types.void, *argument_types)], self.options, self._max_registers
        )

    @property
    def specialized(self) -> bool:
        """True if the kernel has one signature, which was given beforehand."""
        return len(self._declared) == 1

    @property
    def overloads(self) -> dict[tuple[types.Type, ...], Overload]:
        """Return what was compiled for the current architecture, by argument types."""
        return {
            argument_types: made for (arch, argument_types), made in self._overloads.items() if arch == current_arch()
        }

    @property
    def signatures(self) -> list[tuple[types.Type, ...]]:
        return list(self.overloads)

    def overload_for(self, arguments: Sequence[Any]) -> Overload:
        """Return what to launch for these arguments, compiled if need be.

        Raises:
            LaunchError: wrong count, or no signature fits.
        """
        name, count = self.py_func.__name__, self.py_func.__code__.co_argcount
        if len(arguments) != count:
            raise LaunchError(f"kernel {name}: {len(arguments)} arguments given, the kernel has {count}")
        argument_types = tuple(typeof(argument, Purpose.argument) for argument in arguments)
        if not self._declared or argument_types in self._declared:
            return self.compile(argument_types)
        context = typing_context()
        cases = [numba_signature(types.void, *declared) for declared in self._declared]
        best = context.resolve_overload(name, cases, argument_types, {})
        if best is None:
            raise LaunchError(
                f"kernel {name}: no signature fits arguments of types "
                f"({', '.join(map(str, argument_types))}); it has {[str(case) for case in cases]}"
            )
        return self.compile(best.args)

    def inspect_asm(self, signature: Any = None) -> Any:
        """Return the PTX for a signature; without one, for each signature by its argument types."""
        return self._of_each(signature, lambda overload: overload.ptx)

    def get_regs_per_thread(self, signature: Any = None) -> Any:
        """Return the number of registers of a thread."""
        return self._of_each(signature, lambda overload: overload.resources.registers, single=True)

    def get_shared_mem_per_block(self, signature: Any = None) -> Any:
        """Return the static shared memory of a block in bytes."""
        return self._of_each(signature, lambda overload: overload.resources.shared_bytes, single=True)

    def get_local_mem_per_thread(self, signature: Any = None) -> Any:
        """Return the stack frame of a thread in bytes."""
        return self._of_each(signature, lambda overload: overload.resources.local_bytes, single=True)

    def get_const_mem_size(self, signature: Any = None) -> Any:
        """Return the bytes of the constant arrays that the kernel uses."""
        return self._of_each(signature, lambda overload: overload.kernel.constant_bytes, single=True)

    def get_max_threads_per_block(self, signature: Any = None) -> Any:
        """Return the number of threads that a block can have, by the launch bound."""
        return self._of_each(signature, lambda overload: overload.kernel.max_threads or MAX_THREADS, single=True)

    def _of_each(self, signature: Any, what: Callable[[Overload], Any], single: bool = False) -> Any:
        if signature is not None:
            return what(self.compile(signature))
        if single and self.specialized:
            return what(self.compile(self._declared[0]))
        return {argument_types: what(overload) for argument_types, overload in self.overloads.items()}


class Launcher:
    """A kernel with its launch configuration."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        griddim: tuple[int, int, int],
        blockdim: tuple[int, int, int],
        stream: Any,
        sharedmem: int,
    ) -> None:
        self.dispatcher = dispatcher
        self.griddim = griddim
        self.blockdim = blockdim
        self.stream = as_stream(stream)
        self.sharedmem = sharedmem

    def __call__(self, *args: Any) -> None:
        """Compile if need be, launch, and copy host arrays back.

        Raises:
            LaunchError: a launch that no GPU would accept, or arguments that do not fit the kernel.
            EmulatorError: what the emulator finds while the kernel runs.
        """
        overload = self.dispatcher.overload_for(args)
        kernel = overload.kernel
        # Numba never asks the driver for more than a block gets without asking.
        limit = STATIC_SHARED - kernel.static_shared_bytes
        if self.sharedmem > limit:
            raise LaunchError(
                f"kernel {kernel.name}: {self.sharedmem} bytes of dynamic shared memory; Numba can have {limit}"
            )
        packer = _Packer(self.stream, kernel.name)
        for position, (kind, value) in enumerate(zip(overload.argument_types, args, strict=True)):
            packer.add(kind, value, f"argument {position}")
        self.stream.submit(
            functools.partial(
                launch.launch,
                kernel,
                self.griddim,
                self.blockdim,
                packer.parameters,
                self.sharedmem,
                overload.arch,
                cooperative=overload.cooperative,
            )
        )
        packer.write_back()


class _Packer:
    """Turns arguments into the kernel's parameters as Numba flattens them."""

    def __init__(self, stream: streams.Stream, kernel_name: str) -> None:
        self.parameters: list[bytes] = []
        self._stream = stream
        self._kernel_name = kernel_name
        self._copies: list[arrays.ndarray] = []
        self._to_write_back: list[tuple[np.ndarray, arrays.ndarray]] = []

    def add(self, kind: types.Type, value: Any, where: str) -> None:
        """Append the parameters of one argument of this Numba type."""
        if isinstance(kind, types.Array):
            self._add_array(self._on_device(kind, value, where))
        elif isinstance(kind, types.BaseTuple):
            for position, (item_kind, item) in enumerate(zip(kind, value, strict=True)):
                self.add(item_kind, item, f"{where}[{position}]")
        elif isinstance(kind, types.EnumMember):
            self.add(kind.dtype, value.value, where)
        elif isinstance(kind, types.Complex):
            self.parameters += complex_parameters(numpy_support.as_dtype(kind.underlying_float), value)
        elif isinstance(kind, types.CPointer):
            self._add_number(np.uint64, int(value), where)
        elif isinstance(kind, (types.NPDatetime, types.NPTimedelta)):
            self.parameters.append(value.tobytes())
        elif isinstance(kind, (types.Integer, types.Float, types.Boolean)):
            self._add_number(numpy_support.as_dtype(kind).type, value, where)
        else:
            raise LaunchError(f"kernel {self._kernel_name}: {where} is of Numba type {kind}, which no kernel can take")

    def write_back(self) -> None:
        """Copy the arrays that came from the host back to it."""
        for host, device in self._to_write_back:
            host[...] = device.get(self._stream)

    def _add_number(self, dtype: type[np.generic], value: Any, where: str) -> None:
        if issubclass(dtype, np.integer):
            if not hasattr(value, "__index__"):
                raise LaunchError(
                    f"kernel {self._kernel_name}: {where} is {value!r}: the kernel takes {dtype.__name__}"
                )
            limits = np.iinfo(dtype)
            if not limits.min <= int(value) <= limits.max:
                raise LaunchError(f"kernel {self._kernel_name}: {where} is {value}: {dtype.__name__} cannot hold it")
        self.parameters.append(np.asarray(value).astype(dtype).tobytes())

    def _add_array(self, array: arrays.ndarray) -> None:
        self.parameters += [int(number).to_bytes(8, "little", signed=True) for number in array_parameters(array)]

    def _on_device(self, kind: types.Array, value: Any, where: str) -> arrays.ndarray:
        """Return the array itself, or a copy on the device if it is on the host."""
        hint = wrap_arg(value)
        value = hint.value
        device = arrays._device_array(value)
        if device is None:
            host = np.asarray(value)
            device = arrays.empty(host.shape, host.dtype, order="F" if host.flags.fnc else "C")
            self._copies.append(device)
            # Only Out leaves out the copy to the device, only In the copy back.
            if not isinstance(hint, Out) or hint.copy_input:
                self._stream.check_not_capturing("a copy from the host")
                device._write(host)
            if not isinstance(hint, In) and host.flags.writeable:
                self._to_write_back.append((host, device))
        self._check_fits(kind, device, where)
        return device

    def _check_fits(self, kind: types.Array, array: arrays.ndarray, where: str) -> None:
        fits = array.ndim == kind.ndim and array.dtype == numpy_support.as_dtype(kind.dtype)
        contiguous = {"C": array.flags.c_contiguous, "F": array.flags.f_contiguous}.get(kind.layout, True)
        if not fits or not contiguous:
            raise LaunchError(f"kernel {self._kernel_name}: {where} is {array!r}, and the kernel takes {kind}")


def _argument_types(signature: Any) -> tuple[types.Type, ...]:
    argument_types, return_type = sigutils.normalize_signature(signature)
    if return_type not in (None, types.void):
        raise TypeError(f"a kernel returns nothing; its signature says {return_type}")
    return tuple(argument_types)


def _dimensions(sizes: Any, name: str) -> tuple[int, int, int]:
    given = tuple(sizes) if isinstance(sizes, (tuple, list)) else (sizes,)
    if not 1 <= len(given) <= 3 or not all(hasattr(size, "__index__") for size in given):
        raise ValueError(f"{name} is {sizes!r}: it must be an integer or a tuple of one to three integers")
    x, y, z = (*(int(size) for size in given), 1, 1)[:3]
    return x, y, z


@typeof_impl.register(arrays.ndarray)
def _typeof_array(value: arrays.ndarray, context: object) -> types.Array:
    layout = "C" if value.flags.c_contiguous else "F" if value.flags.f_contiguous else "A"
    return types.Array(numpy_support.from_dtype(value.dtype), value.ndim, layout)


# Arrays, streams and the device, under Numba's names


class DeviceNDArray(arrays.ndarray):
    """An emulated array with the methods of Numba's device arrays."""

    def copy_to_host(self, ary: np.ndarray | None = None, stream: Any = 0) -> np.ndarray:
        """Return the elements as a NumPy array: a new one, or `ary` filled with them."""
        return self.get(as_stream(stream), out=ary)

    def copy_to_device(self, ary: Any, stream: Any = 0) -> None:
        """Fill this array from a host or device array of the same shape."""
        if isinstance(ary, arrays.ndarray):
            as_stream(stream).submit(lambda: self._write(ary._host()))
        else:
            self.set(np.asarray(ary), as_stream(stream))

    @property
    def T(self) -> DeviceNDArray:
        """Return the transposed array, which is a copy in Numba."""
        return self.transpose()

    def transpose(self, axes: Sequence[int] | None = None) -> DeviceNDArray:
        """Return a transposed copy of a matrix; the array itself if `axes` leave it as it is.

        Raises:
            NotImplementedError: the array is no matrix, which Numba does not transpose.
            ValueError: `axes` are no order of the sides.
        """
        if axes is not None and tuple(axes) == tuple(range(self.ndim)):
            return self
        if self.ndim != 2:
            raise NotImplementedError("transposing a non-2D DeviceNDArray isn't supported")
        if axes is not None and set(axes) != set(range(self.ndim)):
            raise ValueError(f"invalid axes list {axes!r}")
        transposed = DeviceNDArray(self.shape[::-1], self.dtype)
        as_stream(0).submit(lambda: transposed._write(self._host().T))
        return transposed

    def __getitem__(self, item: Any) -> Any:
        """Return a view; a single element is copied to the host."""
        view = super().__getitem__(item)
        return view if view.ndim else view.item()

    def __setitem__(self, key: Any, value: Any) -> None:
        """Fill a part of the array; unlike CuPy, Numba takes host arrays here."""
        target = super().__getitem__(key)
        arrays.ndarray.__setitem__(target, ..., arrays.asarray(value) if isinstance(value, np.ndarray) else value)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.get().astype(self.dtype if dtype is None else dtype)

    @property
    def device_ctypes_pointer(self) -> ctypes.c_size_t:
        """Return the address of the first element."""
        return ctypes.c_size_t(self.data.ptr)

    def is_c_contiguous(self) -> bool:
        return self.flags.c_contiguous

    def is_f_contiguous(self) -> bool:
        return self.flags.f_contiguous


class NumbaStream(streams.Stream):
    """A stream with Numba's methods."""

    @property
    def handle(self) -> int:
        return self.ptr

    @contextlib.contextmanager
    def auto_synchronize(self) -> Iterator[NumbaStream]:
        """Synchronize at the end of the block."""
        yield self
        self.synchronize()


class NumbaEvent(streams.Event):
    """An event with Numba's methods; it has always happened."""

    def query(self) -> bool:
        return True

    def record(self, stream: Any = 0) -> None:
        super().record(as_stream(stream))

    def wait(self, stream: Any = 0) -> None:
        as_stream(stream).wait_event(self)

    def elapsed_time(self, evtend: NumbaEvent) -> float:
        return streams.get_elapsed_time(self, evtend)


_DEFAULT_STREAM = NumbaStream(null=True)


def as_stream(stream: Any) -> streams.Stream:
    """Return the emulator's stream for Numba's stream argument, in which 0 is the default stream."""
    if isinstance(stream, streams.Stream):
        return stream
    if stream in (0, None):
        return streams.get_current_stream()
    raise TypeError(f"stream is {stream!r}: it must be 0 or a stream of the emulator")


def to_device(obj: Any, stream: Any = 0, copy: bool = True, to: DeviceNDArray | None = None) -> DeviceNDArray:
    """Return a host array as an array on the device; `to` is filled if it is given."""
    host = obj.get() if isinstance(obj, arrays.ndarray) else np.asarray(obj)
    target = device_array(host.shape, host.dtype, order="F" if host.flags.fnc else "C") if to is None else to
    if copy:
        target.copy_to_device(host, stream)
    return target


def device_array(
    shape: Any, dtype: Any = np.float64, strides: Any = None, order: str = "C", stream: Any = 0
) -> DeviceNDArray:
    """Return a new array, poisoned until something is written to it; `strides` as `device_array_like` gives them."""
    if strides is None:
        return DeviceNDArray(shape, dtype, order=order)
    contiguous = DeviceNDArray(shape, dtype)
    if len(strides) != contiguous.ndim or sorted(strides) != sorted(_strides_in_order(contiguous, strides)):
        raise NotImplementedError(f"device_array(strides={tuple(strides)}): the emulator makes no arrays with gaps")
    return DeviceNDArray(contiguous.shape, dtype, contiguous.data, strides)


def device_array_like(ary: Any, stream: Any = 0) -> DeviceNDArray:
    """Return a new array of the same shape and dtype, without gaps, its sides in the same order in memory."""
    c, f = ary.flags["C_CONTIGUOUS"], ary.flags["F_CONTIGUOUS"]
    strides = None if c or f or ary.ndim < 2 else _strides_in_order(ary, ary.strides)
    return device_array(ary.shape, ary.dtype, strides, "F" if f and not c else "C", stream)


def _strides_in_order(array: Any, strides: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of an array without gaps, the sides in the order of the strides that are given."""
    found = [0] * array.ndim
    stride = array.dtype.itemsize
    for side in sorted(range(array.ndim), key=lambda side: strides[side]):
        found[side] = stride
        stride *= array.shape[side]
    return tuple(found)


def pinned_array(shape: Any, dtype: Any = np.float64, strides: Any = None, order: str = "C") -> np.ndarray:
    """Return a NumPy array: the emulator has no need of page-locked memory."""
    return np.empty(shape, dtype, order)  # type: ignore[call-overload]


def as_cuda_array(obj: Any, sync: bool = True) -> DeviceNDArray:
    """Return an object with `__cuda_array_interface__`, without a copy."""
    array = arrays.asarray(obj)
    return DeviceNDArray(array.shape, array.dtype, array.data, array.strides)


def is_cuda_array(obj: Any) -> bool:
    return hasattr(obj, "__cuda_array_interface__")


def synchronize() -> None:
    """Wait for the device; launches have ended when they return."""
    streams.get_current_stream().check_not_capturing("synchronize")


def stream() -> NumbaStream:
    """Return a new stream."""
    return NumbaStream()


def default_stream() -> NumbaStream:
    return _DEFAULT_STREAM


def event(timing: bool = True) -> NumbaEvent:
    return NumbaEvent()


def is_available() -> bool:
    return True


@contextlib.contextmanager
def pinned(*arylist: np.ndarray) -> Iterator[None]:
    """Nothing to do: the emulator has no need of page-locked memory."""
    yield


@contextlib.contextmanager
def defer_cleanup() -> Iterator[None]:
    """Nothing to do: memory is freed with the last reference to it."""
    yield


def select_device(device_id: int) -> SimpleNamespace:
    """Return device 0, the only one."""
    check_device_id(device_id)
    return get_current_device()


def close() -> None:
    """Nothing to do: there is no context to close."""


def get_current_device() -> SimpleNamespace:
    """Return the emulated chip, with the attributes that kernel code asks for."""
    chip = current_chip()
    return SimpleNamespace(
        id=0,
        name=f"emulated {chip.example}",
        compute_capability=compute_capability(current_arch()),
        MULTIPROCESSOR_COUNT=chip.multiprocessors,
        MAX_THREADS_PER_BLOCK=MAX_THREADS,
        MAX_SHARED_MEMORY_PER_BLOCK=STATIC_SHARED,
        MAX_SHARED_MEMORY_PER_BLOCK_OPTIN=chip.multiprocessor.shared_per_block,
        WARP_SIZE=WARP,
    )


HOST_NAMES: dict[str, Any] = {
    function.__name__: function
    for function in (
        as_cuda_array,
        close,
        default_stream,
        defer_cleanup,
        device_array,
        device_array_like,
        event,
        get_current_device,
        is_available,
        is_cuda_array,
        jit,
        pinned,
        pinned_array,
        select_device,
        stream,
        synchronize,
        to_device,
    )
}


_NEED_DRIVER = ("api", "cudadrv", "decorators", "dispatcher")
"""The modules of Numba whose functions call the driver."""


def lookup(name: str) -> Any:
    """Return what the emulator has under a name of `numba.cuda`.

    Raises:
        AttributeError: Numba has no such name. EmulatorError: one that needs a driver and is not emulated.
    """
    if name == "_numba_type_":
        # Inside a kernel, `cuda` of the emulator means Numba's own to the compiler.
        return types.Module(numba_package.cuda)
    if name in HOST_NAMES:
        return HOST_NAMES[name]
    value = getattr(numba_package.cuda, name)
    home = getattr(value, "__module__", "") or ""
    inside = numba_package.chosen().inside
    needs_driver = home.startswith(tuple(f"{inside}.{part}" for part in _NEED_DRIVER))
    if needs_driver and not isinstance(value, ModuleType):
        raise EmulatorError(f"cuda.{name} is not part of the emulator")
    return value
