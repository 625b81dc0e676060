"""The package that compiles kernels in Python: numba-cuda, or NVIDIA's successor of it, numba-cuda-mlir.

Kernels and all that compiles or launches them take `cuda` from here, so that one process uses one package:

    from gpubp.toolchain.numba_package import cuda

numba-cuda is taken if both are installed. The environment variable GPUBP_NUMBA names the other.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from gpubp.errors import ArgumentError, BackendError

VARIABLE = "GPUBP_NUMBA"


@dataclass(frozen=True)
class NumbaPackage:
    """One of the two packages.

    Attributes:
        name: under which pip installs it.
        cuda: the module that programs import.
        inside: the package that holds what both share: types, errors, the driver, each in a module of the same name.
        own: the top-level module that is there if the package is. numba has a `numba.cuda` of its own, an old one.
        shuffles_64_bits: if `cuda.shfl_sync` and the like take a value of 64 bits whole.
        views_planes: if x[i] of a shared array of three dimensions compiles.
    """

    name: str
    cuda: str
    inside: str
    own: str
    shuffles_64_bits: bool
    views_planes: bool

    @property
    def version(self) -> str:
        return metadata.version(self.name)


NUMBA_CUDA = NumbaPackage(
    "numba-cuda", "numba.cuda", "numba.cuda", "numba_cuda", shuffles_64_bits=True, views_planes=True
)
NUMBA_CUDA_MLIR = NumbaPackage(
    "numba-cuda-mlir",
    "numba_cuda_mlir.cuda",
    "numba_cuda_mlir.numba_cuda",
    "numba_cuda_mlir",
    shuffles_64_bits=False,
    views_planes=False,
)
PACKAGES = {package.name: package for package in (NUMBA_CUDA, NUMBA_CUDA_MLIR)}
"""Both, by name, in the order in which they are taken."""


@functools.cache
def chosen() -> NumbaPackage:
    """Return the package that this process uses; see `choose`."""
    installed = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package.own)]
    return choose(os.environ.get(VARIABLE, ""), installed)


def choose(named: str, installed: Collection[str]) -> NumbaPackage:
    """Return the package that is to be used.

    Args:
        named: what the environment variable says; "" for nothing.
        installed: the names of the packages that are there.

    Raises:
        ArgumentError: the variable names no such package.
        BackendError: the package that it names is not installed, or without it, none is.
    """
    if named and named not in PACKAGES:
        raise ArgumentError(VARIABLE, named, f"one of {', '.join(PACKAGES)}")
    if named and named not in installed:
        raise BackendError(f"{named}, which {VARIABLE} names, is not installed")
    for name, package in PACKAGES.items():
        if name == named or (not named and name in installed):
            return package
    raise BackendError(f"{' or '.join(PACKAGES)}, which compiles kernels in Python, is not installed")


def part(name: str) -> Any:
    """Return a module inside the package, such as "core.errors"."""
    return importlib.import_module(f"{chosen().inside}.{name}")


def __getattr__(name: str) -> Any:
    """Return `cuda`, which is loaded at first use."""
    if name == "cuda":
        return importlib.import_module(chosen().cuda)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
