"""Arrays in emulated device memory, under CuPy's names: the slice of `cupy.ndarray` that kernel code needs.

An array is a pointer with shape, dtype and strides. It computes nothing by itself; kernels do.
"""

from __future__ import annotations

import math
import operator
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpubp.emulator.chip import Device, check_device_id
from gpubp.emulator.cupy import dlpack
from gpubp.emulator.cupy.streams import Stream, current
from gpubp.emulator.device.memory import MEMORY
from gpubp.emulator.errors import EmulatorError


class Memory:
    """Device memory of its own, freed with the last reference to it; a null pointer if it has no bytes, as CuPy's."""

    def __init__(self, size: int, name: str = "") -> None:
        self.ptr = MEMORY.allocate(size, name) if size else 0
        self.size = size
        if not size:
            return
        # Without atexit: at the end of the process there is nothing to give back.
        weakref.finalize(self, MEMORY.free, self.ptr).atexit = False

    device_id = 0

    @property
    def device(self) -> Device:
        return Device(0)


class UnownedMemory:
    """Device memory that somebody else owns, kept alive through `owner`."""

    def __init__(self, ptr: int, size: int, owner: object, device_id: int = -1) -> None:
        check_device_id(device_id)
        self.ptr = ptr
        self.size = size
        self._owner = owner

    device_id = 0

    @property
    def device(self) -> Device:
        return Device(0)


def alloc_pinned_memory(size: int) -> memoryview:
    """Return memory of the host, as a buffer of bytes: the emulator has no need of page-locked memory."""
    return memoryview(bytearray(size))


class MemoryPointer:
    """A place in device memory: `mem` and an offset in bytes."""

    def __init__(self, mem: Memory | UnownedMemory, offset: int) -> None:
        self.mem = mem
        self.ptr = mem.ptr + offset

    def __int__(self) -> int:
        return self.ptr

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)

    def __sub__(self, offset: int) -> MemoryPointer:
        return self + -offset

    @property
    def device(self) -> Device:
        return Device(0)


class ndarray:
    """An array in emulated device memory.

    Args:
        shape: shape, or one number.
        dtype: anything NumPy takes for a dtype.
        memptr: where its data lies; new memory, poisoned, if None.
        strides: in bytes; C- or Fortran-contiguous after `order` if None.
        order: "C" or "F".
    """

    # NumPy must not take it for a sequence in `numpy_array + emulated_array`.
    __array_ufunc__ = None

    def __init__(
        self,
        shape: int | Sequence[int],
        dtype: Any = float,
        memptr: MemoryPointer | None = None,
        strides: Sequence[int] | None = None,
        order: str = "C",
    ) -> None:
        self.dtype = np.dtype(dtype)
        if memptr is None and not _is_supported(self.dtype):
            raise ValueError(f"dtype is {self.dtype}: a device array cannot hold it")
        self._shape = _as_shape(shape)
        self.strides = _contiguous_strides(self.shape, self.itemsize, order) if strides is None else tuple(strides)
        if len(self.strides) != self.ndim:
            raise ValueError(f"strides has {len(self.strides)} entries: it must have one for each of {self.ndim} sides")
        if memptr is None:
            if strides is not None:
                raise ValueError("strides is given without memptr: new memory is contiguous")
            memptr = MemoryPointer(Memory(self.nbytes, f"{self.dtype} array of shape {self.shape}"), 0)
        self.data = memptr
        self.base: ndarray | None = None

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @shape.setter
    def shape(self, shape: int | Sequence[int]) -> None:
        """Give the same elements another shape, as `reshape` does.

        Raises:
            ValueError: they do not fit it, or it would need a copy.
        """
        other = self.reshape(shape, copy=False)
        self._shape, self.strides = other.shape, other.strides

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def flags(self) -> Flags:
        return Flags(self)

    @property
    def device(self) -> Device:
        return Device(0)

    @property
    def T(self) -> ndarray:
        """Return the transposed view."""
        return self._view(self.data.ptr, self.shape[::-1], self.strides[::-1])

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "data": (self.data.ptr if self.size else 0, False),
            "strides": None if self.flags.c_contiguous else self.strides,
            "stream": 1 if current(None).ptr == 0 else current(None).ptr,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (dlpack.CUDA, 0)

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> object:
        return dlpack.export(self._host(), self.data.ptr, self)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("an emulated array is not turned into a NumPy array in silence: use .get() or asnumpy()")

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without sides")
        return self.shape[0]

    def __iter__(self) -> Iterator[ndarray]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"<emulated {self.dtype} array of shape {self.shape} at {self.data.ptr:#x}>"

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def item(self) -> Any:
        """Return the only element as a Python number."""
        return self.get().item()

    # Views

    def __getitem__(self, slices: Any) -> ndarray:
        """Return a view by integers, slices, None and ...; other indices need a kernel."""
        index = slices if isinstance(slices, tuple) else (slices,)
        for entry in index:
            if not (entry is None or entry is Ellipsis or isinstance(entry, slice) or _is_integer(entry)):
                raise TypeError(f"index {entry!r}: an emulated array takes integers, slices, None and ...")
        # NumPy works out the view on a stand-in of the same shape and strides whose data is never touched.
        stand_in = as_strided(np.empty(1, self.dtype), self.shape, self.strides)
        view = stand_in[(*index, ...)] if Ellipsis not in index else stand_in[index]
        offset = view.__array_interface__["data"][0] - stand_in.__array_interface__["data"][0]
        return self._view(self.data.ptr + offset, view.shape, view.strides)

    def __setitem__(self, slices: Any, value: Any) -> None:
        """Copy a scalar or an emulated array into a part of this one, broadcast as in NumPy."""
        target = ndarray.__getitem__(self, slices)
        if isinstance(value, ndarray):
            source = value
            current(None).submit(lambda: target._write(source._host()))
        elif np.ndim(value) == 0 and not isinstance(value, np.ndarray):
            target.fill(value)
        else:
            raise TypeError(f"value is a {type(value).__name__}: host data is copied by .set(), or by asarray() first")

    def reshape(self, *shape: Any, order: str = "C", copy: bool | None = None) -> ndarray:
        """Return a view of the same elements in another shape; a copy if no view is possible, unless copy=False."""
        wanted = shape[0] if len(shape) == 1 and not _is_integer(shape[0]) else shape
        stand_in = as_strided(np.empty(1, self.dtype), self.shape, self.strides)
        if order == "C" and copy is not True:
            new_shape = np.broadcast_to(np.int8(0), self.shape).reshape(wanted).shape
            if self.flags.c_contiguous:
                return self._view(self.data.ptr, new_shape, _contiguous_strides(new_shape, self.itemsize, "C"))
            if copy is False:
                raise ValueError(f"an array of strides {stand_in.strides} has no view of shape {new_shape}")
        return asarray(self._host().reshape(wanted, order=order))  # type: ignore[call-overload]

    def ravel(self, order: str = "C") -> ndarray:
        """Return the elements in one row: a view if the array is contiguous, else a copy."""
        return self.reshape(-1, order=order)

    def view(self, dtype: Any = None, type: Any = None) -> ndarray:
        """Return the same bytes as another dtype; of another item size only if the array is C-contiguous."""
        wanted = self.dtype if dtype is None else np.dtype(dtype)
        shape, strides = self.shape, self.strides
        if wanted.itemsize != self.itemsize:
            if not self.flags.c_contiguous or not shape or shape[-1] * self.itemsize % wanted.itemsize:
                raise ValueError(f"a {self.dtype} array of shape {shape} cannot be viewed as {wanted}")
            shape = (*shape[:-1], shape[-1] * self.itemsize // wanted.itemsize)
            strides = _contiguous_strides(shape, wanted.itemsize, "C")
        return self._view(self.data.ptr, shape, strides, wanted)

    def _view(self, ptr: int, shape: Sequence[int], strides: Sequence[int], dtype: Any = None) -> ndarray:
        view = type(self)(shape, self.dtype if dtype is None else dtype, self.data + (ptr - self.data.ptr), strides)
        view.base = self if self.base is None else self.base
        return view

    # Copies

    def get(
        self, stream: Stream | None = None, order: str = "C", out: np.ndarray | None = None, blocking: bool = True
    ) -> np.ndarray:
        """Return a NumPy array with a copy of the elements, or `out` filled with them.

        Raises:
            ValueError: `out` has another shape or dtype.
            EmulatorError: the stream is capturing.
        """
        current(stream).check_not_capturing("a copy to the host")
        if MEMORY.reader is not None:
            for address, nbytes in self._runs():
                MEMORY.mark_read(address, nbytes)
        if out is None:
            return np.array(self._host(), order=order if order in "CFAK" else "C")  # type: ignore[call-overload]
        if not isinstance(out, np.ndarray) or out.shape != self.shape or out.dtype != self.dtype:
            raise ValueError(
                f"out is {_describe(out)}: it must be a NumPy array of shape {self.shape} and dtype {self.dtype}"
            )
        out[...] = self._host()
        return out

    def set(self, arr: np.ndarray, stream: Stream | None = None) -> None:
        """Copy a NumPy array of the same shape and dtype into this one.

        Raises:
            TypeError: not a NumPy array, or another dtype. ValueError: another shape.
            RuntimeError: this array is not contiguous.
            EmulatorError: the stream is capturing.
        """
        if not isinstance(arr, np.ndarray):
            raise TypeError(f"arr is {_describe(arr)}: only a NumPy array can be set")
        if arr.dtype != self.dtype:
            raise TypeError(f"arr is {_describe(arr)}: it must have dtype {self.dtype}")
        if arr.shape != self.shape:
            raise ValueError(f"arr is {_describe(arr)}: it must have shape {self.shape}")
        if not self.flags.forc:
            raise RuntimeError(f"an array of strides {self.strides} cannot be set: it is not contiguous")
        current(stream).check_not_capturing("a copy from the host")
        self._write(arr)

    def fill(self, value: Any) -> None:
        """Set every element to a scalar."""
        scalar = np.asarray(value.get() if isinstance(value, ndarray) else value).astype(self.dtype)
        if scalar.ndim:
            raise ValueError(f"value has shape {scalar.shape}: it must be a scalar")
        current(None).submit(lambda: self._write(scalar))

    def copy(self, order: str = "C") -> ndarray:
        """Return a copy in new memory."""
        result = type(self)(self.shape, self.dtype, order="F" if order == "F" else "C")
        result[...] = self
        return result

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        """Return a copy in another dtype, converted as NumPy converts."""
        if not copy and self.dtype == np.dtype(dtype):
            return self
        result = type(self)(self.shape, dtype)
        result[...] = self
        return result

    def _host(self) -> np.ndarray:
        """Return a NumPy view of the elements in device memory."""
        if self.size == 0:
            return np.empty(self.shape, self.dtype)
        low, high = self._span()
        memory = MEMORY.view(self.data.ptr + low, high - low)
        return np.ndarray(self.shape, self.dtype, memory, -low, self.strides)

    def _write(self, values: np.ndarray) -> None:
        self._host()[...] = values
        for address, nbytes in self._runs():
            MEMORY.mark_written(address, nbytes)

    def _span(self) -> tuple[int, int]:
        """Return the offsets in bytes from the pointer to the lowest byte and past the highest one."""
        if self.size == 0:
            return 0, 0
        reaches = [(side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True)]
        return sum(min(reach, 0) for reach in reaches), sum(max(reach, 0) for reach in reaches) + self.itemsize

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Stretches of memory (address, bytes) that the elements fill, and nothing but them."""
        if self.flags.c_contiguous or self.flags.f_contiguous:
            yield self.data.ptr, self.nbytes
            return
        inner_contiguous = self.strides[-1] == self.itemsize
        outer = self.shape[:-1] if inner_contiguous else self.shape
        length = self.shape[-1] * self.itemsize if inner_contiguous else self.itemsize
        for index in np.ndindex(outer):
            yield self.data.ptr + sum(map(operator.mul, index, self.strides)), length


def _is_supported(dtype: np.dtype) -> bool:
    """True if CuPy allocates arrays of it: numbers that C has, bfloat16, and plain records; in this machine's order."""
    if not dtype.isnative or dtype.hasobject or dtype.subdtype is not None:
        return False
    return dtype.char in "?bhilqBHILQefdFD" or dtype.name == "bfloat16" or (dtype.char == "V" and dtype.itemsize > 0)


class Flags:
    """Contiguity of an array, as attributes and as keys ("C_CONTIGUOUS")."""

    def __init__(self, array: ndarray) -> None:
        self.c_contiguous = _is_contiguous(array.shape, array.strides, array.itemsize)
        self.f_contiguous = _is_contiguous(array.shape[::-1], array.strides[::-1], array.itemsize)
        self.owndata = array.base is None
        self.fnc = self.f_contiguous and not self.c_contiguous
        self.forc = self.f_contiguous or self.c_contiguous

    def __getitem__(self, name: str) -> bool:
        if name not in ("C_CONTIGUOUS", "F_CONTIGUOUS", "OWNDATA"):
            raise KeyError(f"{name} is none of an array's flags")
        return getattr(self, name.lower())


def _is_contiguous(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """True if elements follow each other, last side fastest; sides of one element may have any stride."""
    if 0 in shape:
        return True
    expected = itemsize
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side != 1 and stride != expected:
            return False
        expected *= side
    return True


def _contiguous_strides(shape: Sequence[int], itemsize: int, order: str) -> tuple[int, ...]:
    if order not in ("C", "F"):
        raise ValueError(f"order is {order!r}: it must be 'C' or 'F'")
    sides = shape if order == "F" else shape[::-1]
    strides = [itemsize * math.prod(max(side, 1) for side in sides[:position]) for position in range(len(sides))]
    return tuple(strides if order == "F" else strides[::-1])


def _as_shape(shape: Any) -> tuple[int, ...]:
    sides = (shape,) if _is_integer(shape) else tuple(shape)
    result = tuple(operator.index(side) for side in sides)
    if any(side < 0 for side in result):
        raise ValueError(f"shape is {result}: no side can be negative")
    return result


def _is_integer(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, (bool, np.bool_, np.ndarray, ndarray))


def _describe(value: object) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return f"a {type(value).__name__}"
    return f"a {type(value).__name__} of shape {tuple(shape)} and dtype {dtype}"


# Making arrays


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Return an array whose memory nothing has written. It is poisoned: NaN in every float type."""
    return ndarray(shape, dtype, order=order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    """Return an array filled with one value; its dtype is the value's if none is given."""
    result = ndarray(shape, np.asarray(fill_value).dtype if dtype is None else dtype, order=order)
    result.fill(fill_value)
    return result


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Return an array of zeros."""
    return full(shape, 0, dtype, order)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Return an array of ones."""
    return full(shape, 1, dtype, order)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
    """Return the numbers from `start` to `stop` in steps, as in NumPy."""
    first, last = (0, start) if stop is None else (start, stop)
    return asarray(np.arange(first, last, step, dtype=dtype))


def empty_like(
    prototype: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    """Return a new array of the same shape, dtype and order as another, but for what is named."""
    if order == "K":
        order = "F" if prototype.flags.fnc else "C"
    return ndarray(
        prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype, order=order
    )


def full_like(
    a: ndarray, fill_value: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    """Return an array as `empty_like` does, filled with one value."""
    result = empty_like(a, dtype, order, subok, shape)
    result.fill(fill_value)
    return result


def zeros_like(a: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    """Return an array as `empty_like` does, filled with zeros."""
    return full_like(a, 0, dtype, order, subok, shape)


def ones_like(a: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    """Return an array as `empty_like` does, filled with ones."""
    return full_like(a, 1, dtype, order, subok, shape)


def array(
    obj: Any,
    dtype: Any = None,
    copy: bool = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    """Return a new array with the elements of `obj`, which is anything that NumPy takes or an array on the device."""
    on_device = _device_array(obj)
    if on_device is not None:
        result = on_device.copy() if copy else on_device
        if dtype is not None and np.dtype(dtype) != result.dtype:
            result = result.astype(dtype)
        return result.reshape((1,) * max(ndmin - result.ndim, 0) + result.shape)
    host = np.array(obj, dtype=dtype, order=order, ndmin=ndmin)  # type: ignore[call-overload]
    result = ndarray(host.shape, host.dtype, order="F" if host.flags.fnc else "C")
    result.set(host)
    return result


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: bool | None = None, blocking: bool = False
) -> ndarray:
    """Return `a` as an array on the device: without a copy if it is there in this dtype.

    Objects with `__cuda_array_interface__` are taken without a copy if their memory is the emulated device's.
    """
    on_device = _device_array(a)
    if copy is False and (on_device is None or (dtype is not None and np.dtype(dtype) != on_device.dtype)):
        raise ValueError(f"a is {_describe(a)}: it cannot become a device array of dtype {dtype} without a copy")
    if on_device is None or copy:
        return array(a, dtype, order=order or "K")
    if dtype is not None and np.dtype(dtype) != on_device.dtype:
        on_device = on_device.astype(dtype)
    if order in ("C", "F") and not on_device.flags[f"{order}_CONTIGUOUS"]:
        on_device = on_device.copy(order)
    return on_device


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    """Return `a` as a C-contiguous array on the device."""
    return asarray(a, dtype, order="C")


def asnumpy(
    a: Any, stream: Stream | None = None, order: str = "C", out: np.ndarray | None = None, *, blocking: bool = True
) -> np.ndarray:
    """Return `a` as a NumPy array on the host."""
    on_device = _device_array(a)
    if on_device is not None:
        return on_device.get(stream, order, out, blocking)
    host = np.asarray(a, order=order)  # type: ignore[call-overload]
    if out is None:
        return host
    out[...] = host
    return out


def from_dlpack(array: Any, *, device: Any = None, copy: bool | None = None) -> ndarray:
    """Return an array of another library that lies in the emulated device's memory, without a copy unless copy=True.

    Raises:
        BufferError: it lies somewhere else.
    """
    capsule = array.__dlpack__()
    address, shape, dtype, strides = dlpack.describe(capsule)
    result = _foreign(array, capsule, address, shape, dtype, strides)
    return result.copy() if copy else result


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    """Copy a scalar or a device array into another one, broadcast; `where` is not supported."""
    if where is not None:
        raise NotImplementedError("copyto(where=...) is not part of the emulator")
    source_dtype = src.dtype if isinstance(src, ndarray) else np.asarray(src).dtype
    if not np.can_cast(source_dtype, dst.dtype, casting):  # type: ignore[arg-type]
        raise TypeError(f"src of dtype {source_dtype} cannot be copied to dst of dtype {dst.dtype} by {casting!r}")
    dst[...] = src


def _device_array(value: Any) -> ndarray | None:
    """Return an emulated array on the memory of `value`, or None if it is no device array.

    Raises:
        EmulatorError: `value` is a device array whose memory is not the emulated device's.
    """
    if isinstance(value, ndarray):
        return value
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        return None
    return _foreign(
        value,
        value,
        interface["data"][0],
        interface["shape"],
        np.dtype(interface["typestr"]),
        interface.get("strides"),
    )


def _foreign(
    value: Any, owner: object, address: int, shape: Sequence[int], dtype: np.dtype, strides: Sequence[int] | None
) -> ndarray:
    """Return an array on the memory of another library, which `owner` keeps alive."""
    pointer = MemoryPointer(UnownedMemory(address, 0, owner), 0)
    result = ndarray(shape, dtype, pointer, strides)
    if result.size:
        low, high = result._span()
        try:
            MEMORY.view(pointer.ptr + low, high - low)
        except EmulatorError as error:
            raise EmulatorError(f"{_describe(value)} does not lie in the emulated device's memory: {error}") from error
    return result
