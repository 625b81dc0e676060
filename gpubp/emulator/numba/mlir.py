"""Python kernels to PTX by numba-cuda-mlir's compiler, for a named architecture, with no driver.

It asks the current device for its compute capability. That is answered here with the architecture in hand, for as long
as the compiler runs. Nothing is linked: the PTX that would go to the linker is taken.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from numba_cuda_mlir import cuda, tools
from numba_cuda_mlir.linker import Linker
from numba_cuda_mlir.numba_cuda.core.compiler_lock import global_compiler_lock
from numba_cuda_mlir.numba_cuda.core.errors import NumbaDebugInfoWarning

from gpubp.emulator import grid_groups
from gpubp.emulator.chip import compute_capability
from gpubp.emulator.cupy.arrays import ndarray
from gpubp.emulator.loops import without_garbage_collection
from gpubp.emulator.numba.names import types
from gpubp.emulator.numba.ptx import entry_named, linked, with_dynamic_shared
from gpubp.toolchain.nvrtc import compile_source
from gpubp.toolchain.process import CompileError

_functions: weakref.WeakSet[Any] = weakref.WeakSet()
"""The device functions. Each keeps what it was compiled to, for `_compiled_for`."""
_compiled_for = [""]


def device_function(py_func: Callable, signatures: Any, targetoptions: Mapping[str, Any]) -> Any:
    """Return a device function: numba-cuda-mlir's own, which is compiled into each kernel that calls it.

    Args:
        py_func: the Python function.
        signatures: must be None: those that numba-cuda-mlir is given, it compiles at once.
        targetoptions: keyword arguments for `numba_cuda_mlir.cuda.jit`.
    """
    if signatures is not None:
        raise NotImplementedError("jit(signature, device=True) is not part of the emulator with numba-cuda-mlir")
    options = {name: value for name, value in targetoptions.items() if (name, value) != ("inline", "never")}
    function = cuda.jit(device=True, **options)(py_func)
    _functions.add(function)
    return function


@contextlib.contextmanager
def target(arch: str) -> Iterator[None]:
    """Make the compiler compile for `arch`, in this block, as if the current device had this architecture."""
    with (
        global_compiler_lock,
        mock.patch.object(tools, "_cached_cc", compute_capability(arch)),
        mock.patch.object(Linker, "complete", _leave_unlinked),
    ):
        if _compiled_for[0] != arch:
            for function in _functions:
                function.overloads.clear()
                function.targetoptions["chip"] = None
            _compiled_for[0] = arch
        yield


def _leave_unlinked(linker: Any) -> SimpleNamespace:
    """Return the PTX of what was to be linked, in the place of the machine code."""
    linker._materialize_pending_cu()
    return SimpleNamespace(code=[_ptx_of(each, linker.arch) for each in linker._object_codes])


def _ptx_of(part: Any, arch: str) -> str:
    if Path(part.name).name == "libcudadevrt.a":
        return compile_source(grid_groups.SOURCE, arch, name="grid_groups.cu", options=["-rdc=true"]).ptx
    if part.code_type != "ptx":
        raise CompileError(f"{part.name}: the emulator links PTX, and this is {part.code_type}")
    return part.code.decode() if isinstance(part.code, bytes) else part.code


def compile_ptx(
    py_func: Callable, argument_types: tuple[types.Type, ...], arch: str, options: Mapping[str, Any]
) -> str:
    """Return the PTX of a kernel; see `compilers.compile_kernel`."""
    with target(arch), without_garbage_collection(), warnings.catch_warnings():
        # A function that was made from a string has line numbers and no file to look them up in.
        warnings.simplefilter("ignore", NumbaDebugInfoWarning)
        given = {name: value for name, value in options.items() if value is not None}
        made = cuda.jit(lineinfo=True, **given)(py_func).compile(types.void(*argument_types))
    kernel, *foreign = sorted(made.metadata["cubin"], key=lambda ptx: ".entry" not in ptx)
    return linked(with_dynamic_shared(entry_named(py_func.__name__, kernel)), foreign)


def array_parameters(array: ndarray) -> list[int]:
    """Return the 64-bit parameters that a kernel gets for an array: 3 + 2·ndim, MLIR's descriptor of a `memref`, whose
    strides count elements."""
    if any(stride % array.itemsize for stride in array.strides):
        raise NotImplementedError(f"strides {array.strides}: numba-cuda-mlir counts them in elements of {array.dtype}")
    strides = [stride // array.itemsize for stride in array.strides]
    return [array.data.ptr, array.data.ptr, 0, *array.shape, *strides]


def complex_parameters(part: np.dtype, value: complex) -> list[bytes]:
    """Return the parameter that a kernel gets for a complex number: one, with both of its parts."""
    return [np.array([value.real, value.imag], part).tobytes()]
