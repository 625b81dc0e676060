"""Python kernels to PTX by numba-cuda's compiler, for a named architecture, with no driver.

`numba.cuda.compile` needs no driver by itself. Compiling a device function does: Numba asks the current device for its
compute capability. Here that question is answered with the architecture in hand, for as long as the compiler runs.
"""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numba.cuda
import numpy as np
from numba.cuda import dispatcher as numba_dispatcher
from numba.cuda import types
from numba.cuda.core import typeinfer
from numba.cuda.core.compiler_lock import global_compiler_lock
from numba.cuda.core.errors import NumbaDebugInfoWarning
from numba.cuda.cudadrv import nvrtc as numba_nvrtc
from numba.cuda.cudadrv import nvvm as numba_nvvm
from numba.cuda.cudadrv.error import NvvmWarning
from numba.cuda.debuginfo import DIBuilder
from numba.cuda.lowering import Lower
from numba.cuda.types import ext_types

from gpubp.emulator import grid_groups
from gpubp.emulator.chip import compute_capability, current_arch
from gpubp.emulator.cupy.arrays import ndarray
from gpubp.emulator.loops import without_garbage_collection
from gpubp.emulator.numba.lines import line_of, location_of
from gpubp.emulator.numba.ptx import entry_named, linked
from gpubp.toolchain import nvvm
from gpubp.toolchain.nvrtc import compile_source


class DeviceFunction:
    """A device function: what `jit(device=True)` returns with numba-cuda.

    It is compiled anew for each architecture, where Numba's own dispatcher keeps the code of the first one.

    Args:
        py_func: the Python function.
        signatures: signatures to compile it for; for whatever types it is called with, if there are none.
        targetoptions: keyword arguments for `numba.cuda.jit`.
    """

    def __init__(self, py_func: Callable, signatures: Any, targetoptions: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, py_func)
        self.py_func = py_func
        # Numba looks for "inline" in an attribute of this name.
        self.targetoptions = dict(targetoptions)
        self._signatures = signatures
        self._dispatchers: dict[str, Any] = {}

    def __call__(self, *arguments: object) -> None:
        raise TypeError(f"{self.py_func.__name__} is a device function: only kernels can call it")

    @property
    def _numba_type_(self) -> ext_types.CUDADispatcher:
        """Return what Numba's compiler asks a value in a kernel for."""
        arch = current_arch()
        # A function that calls itself is asked for while it is compiled for its signatures.
        compiling = typeinfer._temporary_dispatcher_map.get(self.py_func.__name__)
        if compiling is not None and compiling.py_func is self.py_func:
            return ext_types.CUDADispatcher(compiling)
        if arch not in self._dispatchers:
            with target(arch):
                given = () if self._signatures is None else (self._signatures,)
                make = numba.cuda.jit(*given, device=True, **self.targetoptions)
                self._dispatchers[arch] = make(self.py_func)
        return ext_types.CUDADispatcher(self._dispatchers[arch])


device_function = DeviceFunction


@contextlib.contextmanager
def target(arch: str) -> Iterator[None]:
    """Make Numba's compiler compile for `arch`, in this block, as if the current device had this architecture."""
    device = SimpleNamespace(compute_capability=compute_capability(arch))
    with (
        global_compiler_lock,
        mock.patch.object(numba_dispatcher, "get_current_device", return_value=device),
        mock.patch.object(numba_nvrtc, "compile", functools.partial(_compile_foreign, arch)),
        mock.patch.object(numba_nvvm, "CompilationUnit", _CompilationUnit),
        mock.patch.object(Lower, "_adjust_line_if_prologue", line_of),
        mock.patch.object(DIBuilder, "_di_location", location_of),
    ):
        yield


class _CompilationUnit(numba_nvvm.CompilationUnit):
    """Compile under canonical names, and by `toolchain.nvvm`.

    So the same functions always give the same PTX, whatever was compiled before.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._modules: list[str] = []
        self._library = b""

    def add_module(self, buffer: bytes) -> None:
        self._modules.append(buffer.decode())

    def lazy_add_module(self, buffer: bytes) -> None:
        self._library = buffer

    def verify(self) -> None:
        """Leave it to `compile`, which verifies the modules first."""

    def compile(self) -> bytes:
        options = [option.decode() for option in self.options]
        ptx, self.log = nvvm.compile_modules(canonical(self._modules), self._library, options)
        if self.log:
            warnings.warn(self.log, category=NvvmWarning, stacklevel=2)
        return ptx


# Numbers that Numba counts up as long as the process runs. They stand in names. Texts and the names of files, which are
# matched to be left alone, belong to the user.
_NAME = re.compile(r'[@%](?:"[^"]*"|[\w.$-]+)|linkageName: "[^"]*"|(?:c|directory: |filename: )"[^"]*"')
_COUNTER = re.compile(
    r"""
    (?P<mangled> (?<=B) \d+ v \d+)             # of a function, in its mangled name, after the length of what follows
    | (?P<variable> (?<=_v) \d+ (?=_))         # of a function, in variables of what is inlined from it
    | (?P<shared> (?<=_cudapy_smem_) \d+)      # of an array in shared memory
    """,
    re.VERBOSE,
)
_MODULE_NAME = re.compile(r"^; ModuleID = .*\n", re.MULTILINE)
_DEFINED = re.compile(r'^define [^\n]*?(@"[^"]+"|@[\w.$-]+)', re.MULTILINE)


def _counters(name: str) -> list[re.Match[str]]:
    """Return the counters in a name. What Numba has not named, such as a user's function in CUDA C++, has none."""
    if not name.startswith(("@", "%", "linkageName")):
        return []
    numbas = name.startswith("%") or "_ZN" in name
    return [each for each in _COUNTER.finditer(name) if numbas or each["shared"]]


def canonical(modules: Sequence[str]) -> list[str]:
    """Return LLVM modules with their functions numbered, and the modules after the first ordered, as they are called.

    Numba numbers functions as it compiles them, and orders modules by their addresses. NVVM's code depends on both.
    """
    numbers: dict[str, int] = {}

    def number(counter: re.Match[str]) -> str:
        found = numbers.setdefault(f"{counter.lastgroup} {counter[0]}", len(numbers) + 1)
        return f"{1 + len(str(found))}v{found}" if counter["mangled"] else str(found)

    def renumbered(text: str, number: Callable[[re.Match[str]], str] = number) -> str:
        return _NAME.sub(lambda name: _replaced(name[0], _counters(name[0]), number), text)

    def place(module: str) -> tuple[int, str]:
        """Return the place of the first call of a function that the module defines; its text if nothing calls it."""
        counters = (each for name in _DEFINED.findall(module) for each in _counters(name))
        known = (numbers.get(f"{each.lastgroup} {each[0]}", len(numbers) + 1) for each in counters)
        return min(known, default=0), renumbered(module, lambda counter: "")

    waiting = [_MODULE_NAME.sub("", module) for module in modules]
    ordered: list[str] = []
    while waiting:
        following = min(waiting, key=place) if ordered else waiting[0]
        waiting.remove(following)
        ordered.append(renumbered(following))
    return ordered


def _replaced(text: str, matches: Iterable[re.Match[str]], replacement: Callable[[re.Match[str]], str]) -> str:
    """Return the text with each match replaced."""
    pieces, end = [], 0
    for match in matches:
        pieces += [text[end : match.start()], replacement(match)]
        end = match.end()
    return "".join([*pieces, text[end:]])


def _compile_foreign(arch: str, src: str | bytes, name: str, cc: object, **options: object) -> tuple[str, str]:
    """Return PTX and log of CUDA C++ that a kernel calls. Numba's own way would ask for the driver's version."""
    source = src.decode() if isinstance(src, bytes) else src
    own_headers = Path(numba_nvrtc.__file__).parents[1] / "include" / "13"
    compiled = compile_source(source, arch, name=name, options=["-rdc=true"], include_dirs=[own_headers])
    return compiled.ptx, compiled.log


def compile_ptx(
    py_func: Callable, argument_types: tuple[types.Type, ...], arch: str, options: Mapping[str, Any]
) -> str:
    """Return the PTX of a kernel; see `compilers.compile_kernel`."""
    with target(arch), without_garbage_collection(), warnings.catch_warnings():
        # A function that was made from a string has line numbers and no file to look them up in.
        warnings.simplefilter("ignore", NumbaDebugInfoWarning)
        ptx, *foreign = _compile_all(py_func, argument_types, arch, options)
    return linked(entry_named(py_func.__name__, ptx), foreign)


def _compile_all(
    py_func: Callable, argument_types: tuple[types.Type, ...], arch: str, options: Mapping[str, Any]
) -> list[str]:
    """Return PTX of the kernel, then of the CUDA C++ that it needs, such as functions of float16 and bfloat16."""
    ptx, *foreign = numba.cuda.compile_all(
        py_func,
        types.void(*argument_types),
        device=False,
        abi="numba",
        lineinfo=True,
        cc=compute_capability(arch),
        output="ptx",
        **options,
    )[0]
    if "numba_attempt_nocopy_reshape" in ptx:
        # Array.reshape; where there is a driver, Numba adds this file when it launches.
        source = Path(numba_dispatcher.__file__).with_name("reshape_funcs.cu")
        foreign.append(_compile_foreign(arch, source.read_text(), source.name, None)[0])
    if "cudaCG" in ptx:
        foreign.append(_compile_foreign(arch, grid_groups.SOURCE, "grid_groups.cu", None)[0])
    return [ptx, *foreign]


def array_parameters(array: ndarray) -> list[int]:
    """Return the 64-bit parameters that a kernel gets for an array: 5 + 2·ndim, two of them null."""
    return [0, 0, array.size, array.itemsize, array.data.ptr, *array.shape, *array.strides]


def complex_parameters(part: np.dtype, value: complex) -> list[bytes]:
    """Return the parameters that a kernel gets for a complex number: two, of the dtype of its parts."""
    return [np.asarray(each).astype(part).tobytes() for each in (value.real, value.imag)]
