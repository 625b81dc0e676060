"""The name under which a kernel's PTX is kept: a hash of everything that the PTX depends on.

That is the bytecode of the kernel and of all it calls, the constants and globals that they read, the types of the
arguments, the options, the compilers and the architecture.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import types as python_types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np

from gpubp.emulator.numba.names import types
from gpubp.toolchain import numba_package, nvvm
from gpubp.toolchain.numba_package import NUMBA_CUDA

CACHE_FORMAT = "6"


class _Unknown(Exception):
    """A value whose meaning for the compiled code cannot be told."""


def fingerprint(
    py_func: Callable, argument_types: tuple[types.Type, ...], arch: str, options: Mapping[str, Any]
) -> str | None:
    """Return a hash of all that the PTX of a kernel depends on, or None if something in it cannot be told by value.

    Args:
        py_func, argument_types, arch, options: as for `compilers.compile_kernel`.
    """
    try:
        function = _of_function(py_func, set())
    except _Unknown:
        return None
    parts = [CACHE_FORMAT, arch, sorted(options.items()), str(argument_types), _compilers(), function]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


@functools.cache
def _compilers() -> list[str]:
    """Return the versions of what turns a Python function into PTX."""
    package = numba_package.chosen()
    names = (package.name, "numba", "llvmlite") if package is NUMBA_CUDA else (package.name,)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    ir_version = numba_package.part("cudadrv.nvvm").NVVM().get_ir_version()
    return [*versions, f"NVVM {ir_version}", *nvvm.wheel_versions()]


def _of_function(function: Callable, seen: set[int]) -> Any:
    """Return bytecode, place in its file (for the line information), defaults, and the values of all names it reads."""
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
    """Return what a value that a kernel reads means to the compiler.

    Args:
        value: the value.
        names: the attributes that the code can ask for.
        seen: functions and modules that are being described, by their id.
    """
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
        options = {
            name: getattr(option, "__qualname__", repr(option))
            for name, option in getattr(value, "targetoptions", {}).items()
            if name not in _SET_BY_COMPILER
        }
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
    if type(value).__module__.startswith(("numba.", "numba_cuda_mlir.")):
        return f"{type(value).__module__}.{type(value).__qualname__}"
    raise _Unknown(type(value))


# Their versions are in the fingerprint, so what they hold need not be.
_VERSIONED = ("numba", "math", "operator", "gpubp.emulator.cuda", "cuda")


_SET_BY_COMPILER = ("chip", "lto", "_lto_explicit", "_compile_output")
"""Options in which numba-cuda-mlir notes what it compiles for."""


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
