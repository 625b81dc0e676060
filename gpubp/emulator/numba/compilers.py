"""Python kernels to PTX, by the compiler of the Numba package in use.

PTX is kept on disk under a fingerprint of everything that it depends on (see `fingerprint`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from gpubp.emulator.numba.fingerprint import fingerprint
from gpubp.emulator.numba.names import types
from gpubp.toolchain import nvvm
from gpubp.toolchain.numba_package import NUMBA_CUDA, chosen

_compiler: Any = importlib.import_module(f"gpubp.emulator.numba.{'compiler' if chosen() is NUMBA_CUDA else 'mlir'}")

device_function = _compiler.device_function
array_parameters = _compiler.array_parameters
complex_parameters = _compiler.complex_parameters


def compile_kernel(py_func: Callable, argument_types: tuple[types.Type, ...], arch: str, **options: Any) -> str:
    """Return the PTX of a kernel, with line information. Its one entry has the name of the Python function.

    Args:
        py_func: the Python function.
        argument_types: Numba types of its arguments.
        arch: the architecture, such as "sm_90".
        options: `fastmath`, `opt` and `launch_bounds`, as for `cuda.jit`.

    Raises:
        NumbaError: of the package: it cannot compile the kernel.
        CompileError: NVVM or NVRTC refuses what Numba made of it, or the kernel needs code that is not PTX.
    """
    key = fingerprint(py_func, argument_types, arch, options)
    make = functools.partial(_compiler.compile_ptx, py_func, argument_types, arch, options)
    return make() if key is None else nvvm.obtain_ptx(f"numba/{key}", make)
