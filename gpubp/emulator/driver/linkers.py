"""What Numba's packages and cuda.core must be told, so that they find the virtual driver and give it PTX.

They link PTX by nvJitLink, which makes machine code of it, unless that is missing: then by the driver, which keeps PTX.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

from gpubp.emulator.driver.imports import after_import
from gpubp.toolchain.numba_package import PACKAGES as NUMBA_PACKAGES


def install() -> None:
    """Let Numba's packages and cuda.core take the driver's cuLink functions, as where nvJitLink is missing."""
    after_import("cuda.bindings._internal.nvjitlink", _hide)
    after_import("cuda.core._linker", _decide)
    for package in NUMBA_PACKAGES.values():
        after_import(f"{package.inside}.cudadrv.driver", _look_again)


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
