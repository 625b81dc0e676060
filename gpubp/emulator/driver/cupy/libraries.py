"""The parts of CuPy that bring machine code for a GPU: they are not served on the virtual device, and say so.

Thrust (sorting), CUB's device-wide functions, cuRAND and the random generators, cuBLAS, cuFFT, cuSOLVER and cuSPARSE
start kernels through a CUDA runtime of their own, from machine code. Here each of their functions raises
`NotServedError`. They can be imported, so that what is beside them works: a product of integer matrices needs cuBLAS's
module, and no function of it.
"""

from __future__ import annotations

import importlib
import itertools
from types import ModuleType
from typing import Any

from gpubp.emulator.driver.imports import after_import, in_place_of
from gpubp.emulator.errors import EmulatorError

_LIBRARIES = {
    "cupy_backends.cuda.libs.cublas": "cuBLAS",
    "cupy_backends.cuda.libs.cusolver": "cuSOLVER",
    "cupy_backends.cuda.libs.cusparse": "cuSPARSE",
    "cupy_backends.cuda.libs.curand": "cuRAND",
    "cupy.cuda.cufft": "cuFFT",
    "cupyx._cusolver": "cuSOLVER",
}
"""Modules that others import for their names, with the libraries that they call."""
_ABSENT = {
    "cupy_backends.cuda.libs.nccl": "NCCL",
    "cupy_backends.cuda.libs.cutensor": "cuTENSOR",
    "cupy_backends.cuda.libs.cusparselt": "cuSPARSELt",
    "cupyx._cutensor": "cuTENSOR",
}
"""Modules that CuPy can do without: it finds them missing."""
_FUNCTIONS = {
    "cupy.cuda.thrust": ("Thrust", ("sort", "lexsort", "argsort")),
    "cupy.cuda.cub": (
        "CUB",
        ("device_reduce", "device_segmented_reduce", "device_scan", "device_histogram"),
    ),
    "cupy.random._generator_api": ("cuRAND", ("init_curand", "random_raw", "Generator")),
}
"""Functions and classes of modules that are loaded as they are."""
_ATTEMPTS = {"cupy.cuda.cub": ("cub_reduction", "cub_scan", "cub_histogram")}
"""Functions that return None where CuPy is to use kernels of its own."""


class NotServedError(EmulatorError, NotImplementedError):
    """A function of a library that starts machine code on a GPU."""


def install() -> None:
    """Let CuPy's libraries say that they are not served."""
    for name in _LIBRARIES:
        in_place_of(name, _stand_in)
    for name in _ABSENT:
        in_place_of(name, _miss)
    for name in _FUNCTIONS:
        after_import(name, _refuse_functions)
    after_import("cupy.cuda", _offer)
    after_import("cupy_backends.cuda.libs", _offer)


def _message(name: str, library: str) -> str:
    return (
        f"{name}: {library} is not served on the virtual device, which executes kernels that programs bring as source "
        "or PTX; the library starts machine code of its own. That needs a GPU"
    )


def _refused(name: str, module: ModuleType, library: str) -> type:
    """Return a class that cannot be made, in the place of a function or a class: programs may ask what is one."""

    def refuse(*_arguments: Any, **_named: Any) -> Any:
        raise NotServedError(_message(f"{module.__name__}.{name}", library))

    return type(name, (), {"__module__": module.__name__, "__new__": refuse})


def _refuse_functions(module: ModuleType) -> None:
    library, names = _FUNCTIONS[module.__name__]
    for name in names:
        setattr(module, name, _refused(name, module, library))
    for name in _ATTEMPTS.get(module.__name__, ()):
        setattr(module, name, lambda *_arguments, **_named: None)


def _miss(module: ModuleType) -> None:
    raise ImportError(_message(module.__name__, _ABSENT[module.__name__]))


_numbers = itertools.count(1 << 30)


def _stand_in(module: ModuleType) -> None:
    """Give a module every name that it is asked for: numbers that differ, exceptions, classes that cannot be made."""
    library = _LIBRARIES[module.__name__]

    def find(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        if name.isupper():
            made: Any = next(_numbers)
        elif name.endswith("Error"):
            made = type(name, (RuntimeError,), {"__module__": module.__name__})
        else:
            made = _refused(name, module, library)
        setattr(module, name, made)
        return made

    module.__getattr__ = find  # type: ignore[method-assign]


def _offer(package: ModuleType) -> None:
    """Let a package's modules be found without a look for the libraries that they call."""
    for name in _LIBRARIES:
        parent, _, child = name.rpartition(".")
        if parent == package.__name__:
            setattr(package, child, importlib.import_module(name))
