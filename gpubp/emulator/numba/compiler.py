"""Python kernels to PTX by Numba's CUDA compiler, for a named architecture, with no driver.

`numba.cuda.compile` needs no driver by itself. Compiling a device function does: Numba asks the current device for its
compute capability. Here that question is answered with the architecture in hand, for as long as the compiler runs.
PTX is kept on disk under a fingerprint of everything it depends on: the bytecode of the kernel and of all it calls,
the constants and globals they read, the types, the options, the compilers and the architecture.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import re
import types as python_types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numba.cuda
import numpy as np
from numba.cuda import dispatcher as numba_dispatcher
from numba.cuda import types
from numba.cuda.core import config
from numba.cuda.core.compiler_lock import global_compiler_lock
from numba.cuda.core.errors import NumbaDebugInfoWarning
from numba.cuda.cudadrv import nvrtc as numba_nvrtc
from numba.cuda.cudadrv import nvvm as numba_nvvm
from numba.cuda.cudadrv.error import NvvmWarning
from numba.cuda.debuginfo import DIBuilder
from numba.cuda.lowering import Lower
from numba.cuda.types import ext_types

from gpubp.emulator.chip import compute_capability, current_arch
from gpubp.emulator.loops import without_garbage_collection
from gpubp.toolchain import cache, process
from gpubp.toolchain.nvrtc import CompileError, compile_source

CACHE_FORMAT = "6"

NVVM_WHEELS = ("nvidia-nvvm", "nvidia-cuda-nvcc-cu12")
"""What brings NVVM, for CUDA 13 and for CUDA 12."""

if config.ENABLE_CUDASIM:
    raise RuntimeError("NUMBA_ENABLE_CUDASIM replaces Numba's compiler by its simulator: unset it to use the emulator")


class DeviceFunction:
    """A device function: what `jit(device=True)` returns.

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
        """What Numba's compiler asks a value in a kernel for."""
        arch = current_arch()
        if arch not in self._dispatchers:
            with target(arch):
                given = () if self._signatures is None else (self._signatures,)
                make = numba.cuda.jit(*given, device=True, **self.targetoptions)
                self._dispatchers[arch] = make(self.py_func)
        return ext_types.CUDADispatcher(self._dispatchers[arch])


@contextlib.contextmanager
def target(arch: str) -> Iterator[None]:
    """Let Numba's compiler take `arch` for the current device's architecture, in this block."""
    device = SimpleNamespace(compute_capability=compute_capability(arch))
    with (
        global_compiler_lock,
        mock.patch.object(numba_dispatcher, "get_current_device", return_value=device),
        mock.patch.object(numba_nvrtc, "compile", functools.partial(_compile_foreign, arch)),
        mock.patch.object(numba_nvvm, "CompilationUnit", _CompilationUnit),
        mock.patch.object(Lower, "_adjust_line_if_prologue", _line),
        mock.patch.object(DIBuilder, "_di_location", _location),
    ):
        yield


def _line(lower: Lower, line: int) -> int:
    """The line of the statement that comes next, whose file is noted for `_location`.

    A kernel's decorators stand for its prologue, which Numba puts on the line of its "def". Numba takes every line
    above for one of them, also those of functions that it inlines.
    """
    own, here = lower.func_ir.loc, lower.loc
    lower.debuginfo.file_of_statement = here.filename
    in_prologue = here.filename == own.filename and own.line <= line < lower.defn_loc.line
    return lower.defn_loc.line if in_prologue else line


def _location(builder: DIBuilder, line: int) -> Any:
    """A line of the file that it is in: Numba puts the lines of what it inlines into the caller's file.

    Each is kept, because to add one again, as for every statement, llvmlite spells it out to find it among the others.
    """
    scope = builder.subprograms[-1]
    file_name = getattr(builder, "file_of_statement", builder.filepath)
    known = vars(builder).setdefault("known_locations", {})
    key = scope.name, file_name, line
    if key not in known:
        add, path = builder.module.add_debug_info, Path(file_name)
        if path != Path(builder.filepath):
            file = add("DIFile", {"directory": str(path.parent), "filename": path.name})
            scope = add("DILexicalBlockFile", {"scope": scope, "file": file, "discriminator": 0})
        known[key] = add("DILocation", {"line": line, "column": 1, "scope": scope})
    return known[key]


class _CompilationUnit(numba_nvvm.CompilationUnit):
    """Numba's own, whose modules are compiled under canonical names, and in a process of NVVM's own.

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
        modules = [module.encode() for module in canonical(self._modules)]
        options = [option.decode() for option in self.options]
        try:
            ptx, self.log = process.call(
                "nvvm", "compile_modules", modules=modules, library=self._library, options=options
            )
        except process.Refused as error:
            raise CompileError(f"NVVM refuses the kernel ({error.reason}):", error.log) from error
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
        """By the first call of a function that the module defines; by its text if nothing calls it."""
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
    """PTX of CUDA C++ that a kernel calls, in place of Numba's own way, which asks for the driver's version."""
    source = src.decode() if isinstance(src, bytes) else src
    own_headers = Path(numba_nvrtc.__file__).parents[1] / "include" / "13"
    compiled = compile_source(source, arch, name=name, options=["-rdc=true"], include_dirs=[own_headers])
    return compiled.ptx, compiled.log


def compile_kernel(py_func: Callable, argument_types: tuple[types.Type, ...], arch: str, **options: Any) -> str:
    """The PTX of a kernel, with line information; its one entry has the name of the Python function.

    Args:
        py_func: the Python function.
        argument_types: Numba types of its arguments.
        arch: such as "sm_90".
        options: `fastmath`, `opt` and `launch_bounds`, as for `numba.cuda.jit`.

    Raises:
        numba.core.errors.NumbaError: Numba cannot compile it.
    """
    key = _cache_key(py_func, argument_types, arch, options)
    if key is None:
        return _compile(py_func, argument_types, arch, options)
    entry = f"numba/{key}"

    def make() -> str:
        ptx = _compile(py_func, argument_types, arch, options)
        cache.keep(entry, {".json": json.dumps({"ptx": ptx, "checksum": _digest(ptx)}).encode()})
        return ptx

    return cache.obtain(entry, lambda path: _read(path.with_suffix(".json")), make)


def _compile(py_func: Callable, argument_types: tuple[types.Type, ...], arch: str, options: Mapping[str, Any]) -> str:
    with target(arch), without_garbage_collection(), warnings.catch_warnings():
        # A function that was made from a string has line numbers and no file to look them up in.
        warnings.simplefilter("ignore", NumbaDebugInfoWarning)
        ptx, *foreign = _compile_all(py_func, argument_types, arch, options)
    # The mangled name spells out every type: too long for a message.
    (mangled,) = re.findall(r"\.entry\s+(\w+)\s*\(", ptx)
    plain = re.sub(r"\W", "_", py_func.__name__)
    ptx = re.sub(rf"\b{mangled}(?=\b|_param_\d)", plain, ptx)
    for code in foreign:
        ptx = _merge(ptx, code)
    return ptx


def _compile_all(
    py_func: Callable, argument_types: tuple[types.Type, ...], arch: str, options: Mapping[str, Any]
) -> list[str]:
    """PTX of the kernel, then of the CUDA C++ that it needs (float16 and bfloat16 functions are such)."""
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
    return [ptx, *foreign]


def _merge(ptx: str, foreign: str) -> str:
    """Put the functions of another PTX module before those of the first, which declares them as external."""
    for name in re.findall(r"\.visible\s+\.func\s*(?:\([^)]*\))?\s*(\w+)", foreign):
        ptx = re.sub(rf"\.extern\s+\.func\b[^;{{]*?\b{name}\b[^;{{]*;", "", ptx)
    # Line information counts its files module by module: only the kernel's own is kept.
    foreign = re.sub(r"^\s*\.(loc|file)\b.*$", "", foreign, flags=re.MULTILINE)
    foreign = re.sub(r"^\s*\.section\s+\.debug_\w+\s*\{.*?^\s*\}", "", foreign, flags=re.MULTILINE | re.DOTALL)
    header, body = re.split(r"(?<=\.address_size 64\n)", ptx, maxsplit=1)
    return header + re.split(r"\.address_size 64\n", foreign, maxsplit=1)[1] + body


def _read(path: Path) -> str | None:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return entry["ptx"] if entry["checksum"] == _digest(entry["ptx"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


# The fingerprint


class _Unknown(Exception):
    """A value whose meaning for the compiled code has no known fingerprint."""


def _cache_key(
    py_func: Callable, argument_types: tuple[types.Type, ...], arch: str, options: Mapping[str, Any]
) -> str | None:
    """A hash of all that the PTX depends on, or None if something in it cannot be told from its value."""
    try:
        function = _of_function(py_func, set())
    except _Unknown:
        return None
    return _digest([CACHE_FORMAT, arch, sorted(options.items()), str(argument_types), _compilers(), function])


@functools.cache
def _compilers() -> list[str]:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("numba", "numba-cuda", "llvmlite")]
    versions.append(f"NVVM {numba_nvvm.NVVM().get_ir_version()}")
    for name in NVVM_WHEELS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(importlib.metadata.version(name))
    return versions


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()


def _of_function(function: Callable, seen: set[int]) -> Any:
    """Bytecode, place in its file (for the line information), defaults, and the values of all names it reads."""
    if id(function) in seen:
        return ["recursion", function.__name__]
    seen.add(id(function))
    codes = list(_all_codes(function.__code__))
    names = sorted({name for code in codes for name in code.co_names})
    return [
        function.__qualname__,
        [_of_code(code) for code in codes],
        _of_value(function.__defaults__, names, seen),
        [_of_cell(cell, names, seen) for cell in function.__closure__ or ()],
        [(name, _of_value(function.__globals__[name], names, seen)) for name in names if name in function.__globals__],
    ]


def _all_codes(code: python_types.CodeType) -> Iterator[python_types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, python_types.CodeType):
            yield from _all_codes(constant)


def _of_code(code: python_types.CodeType) -> Any:
    constants = [repr(constant) for constant in code.co_consts if not isinstance(constant, python_types.CodeType)]
    lines = [line for _, _, line in code.co_lines()]
    return [
        code.co_code.hex(),
        constants,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_filename,
        code.co_firstlineno,
        lines,
    ]


def _of_cell(cell: python_types.CellType, names: list[str], seen: set[int]) -> Any:
    try:
        return _of_value(cell.cell_contents, names, seen)
    except ValueError:
        return "empty"


def _of_value(value: Any, names: list[str], seen: set[int]) -> Any:
    """What a value that a kernel reads means to the compiler. `names` are the attributes that the code can ask for."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic, np.dtype)):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, Enum):
        return f"{type(value).__qualname__} {value.name} {value.value!r}"
    if isinstance(value, (tuple, list)):
        return [type(value).__qualname__, [_of_value(item, names, seen) for item in value]]
    if isinstance(value, np.ndarray):
        return ["array", str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, types.Type):
        return f"numba type {value}"
    if hasattr(value, "py_func"):
        options = {name: repr(option) for name, option in getattr(value, "targetoptions", {}).items()}
        # A dispatcher of Numba's own that still compiles gets signatures by being called: they say nothing of it.
        declared = [] if getattr(value, "_can_compile", True) else [str(s) for s in value.nopython_signatures]
        given = str(getattr(value, "_signatures", None))
        return ["dispatcher", sorted(options.items()), declared, given, _of_function(value.py_func, seen)]
    if hasattr(value, "_defn"):
        return ["intrinsic", _of_function(value._defn, seen)]
    if isinstance(value, python_types.FunctionType):
        return _of_function(value, seen)
    if isinstance(value, python_types.ModuleType):
        return _of_module(value, names, seen)
    if isinstance(value, (type, python_types.BuiltinFunctionType, np.ufunc)):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}"
    if type(value).__module__.startswith("numba."):
        return f"{type(value).__module__}.{type(value).__qualname__}"
    raise _Unknown(type(value))


# Their versions are in the fingerprint, so what they hold need not be.
_VERSIONED = ("numba", "math", "operator", "gpubp.emulator.cuda", "cuda")


def _of_module(module: python_types.ModuleType, names: list[str], seen: set[int]) -> Any:
    if module.__name__ == "numpy":
        return f"numpy {np.__version__}"
    if module.__name__.startswith(_VERSIONED):
        return module.__name__
    if id(module) in seen:
        return module.__name__
    seen.add(id(module))
    held = [(name, _of_value(getattr(module, name), names, seen)) for name in names if hasattr(module, name)]
    return [module.__name__, held]
