"""What Numba's packages and cuda.core must be told, so that they find the virtual driver and give it PTX.

They link PTX by nvJitLink, which makes machine code of it, unless that is missing: then by the driver, which keeps PTX.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

from gpubp.emulator.driver.imports import after_import
from gpubp.emulator.numba.ptx import with_dynamic_shared
from gpubp.toolchain.numba_package import PACKAGES as NUMBA_PACKAGES


def install() -> None:
    """Let Numba's packages and cuda.core take the driver's cuLink functions, as where nvJitLink is missing."""
    after_import("cuda.bindings._internal.nvjitlink", _hide)
    after_import("cuda.core._linker", _decide)
    for package in NUMBA_PACKAGES.values():
        after_import(f"{package.inside}.cudadrv.driver", _look_again)
    after_import("numba_cuda_mlir.linker", _keep_ptx)


def _hide(module: Any) -> None:
    """Let the library look as if it had no functions, by the means that packages ask for them."""
    module._inspect_function_pointer = lambda name: 0


def _decide(module: ModuleType) -> None:
    """Let cuda.core find out now, without its warning that nvJitLink is too old."""
    decide = getattr(module, "_decide_nvjitlink_or_driver", None)
    if decide is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decide()


def _look_again(module: ModuleType) -> None:
    """Let a Numba that was imported before, and found no driver, look for one again."""
    if module.driver.initialization_error is not None:
        module.driver.__init__()


def _keep_ptx(module: Any) -> None:
    """Let numba-cuda-mlir link PTX where a kernel calls CUDA C++, which it would link as NVVM IR by nvJitLink; and
    declare dynamic shared memory in it."""
    vars(module)["_link_item_is_cuda_source"] = lambda item: False
    plain = module.Linker.add_ptx

    def add_ptx(self: Any, ptx: str | bytes, *others: Any, **more: Any) -> None:
        text = ptx.decode() if isinstance(ptx, bytes) else ptx
        plain(self, with_dynamic_shared(text).encode(), *others, **more)

    module.Linker.add_ptx = add_ptx
