"""The driver's whole messages in the exceptions of packages that look for no more than a result's number.

CUDA gives a number for what failed, and one fixed text for each. Programs that ask the driver for that text
(cuGetErrorString) get the emulator's message with it. Those that have texts of their own are told it here.
"""

from __future__ import annotations

import re
from types import ModuleType

from gpubp.emulator.driver import results
from gpubp.emulator.driver.imports import after_import
from gpubp.toolchain.numba_package import PACKAGES as NUMBA_PACKAGES

_RESULT = re.compile(r"(CUDA_ERROR_\w+): ")


def install() -> None:
    """Let the exceptions of Numba's packages and of cuda.core say what the driver says, once these are imported."""
    for package in NUMBA_PACKAGES.values():
        after_import(f"{package.inside}.cudadrv.driver", _complete_numba)
    after_import("cuda.core._utils.cuda_utils", _complete_cuda_core)
    after_import("cupy_backends.cuda.api.driver", _open_to_interrupts)


def _complete_numba(module: ModuleType) -> None:
    """Numba: "[700] Call to cuLaunchKernel results in CUDA_ERROR_ILLEGAL_ADDRESS", and our message behind it."""
    plain = module.CudaAPIError.__init__

    def __init__(self: Exception, code: int, msg: str) -> None:
        said = results.message_of(int(code))
        plain(self, code, f"{msg}: {said}" if said else msg)

    module.CudaAPIError.__init__ = __init__


def _complete_cuda_core(module: ModuleType) -> None:
    """cuda.core: "CUDA_ERROR_ILLEGAL_ADDRESS: " with our message between that and what the package explains."""
    plain = module.CUDAError.__init__

    def __init__(self: Exception, *arguments: object) -> None:
        plain(self, *arguments)
        match = _RESULT.match(str(arguments[0])) if arguments else None
        said = results.message_of(results.RESULTS[match[1]][0]) if match and match[1] in results.RESULTS else ""
        if match and said:
            self.args = (f"{match[0]}{said}\n{str(arguments[0])[match.end() :]}", *arguments[1:])

    module.CUDAError.__init__ = __init__


def _open_to_interrupts(module: ModuleType) -> None:
    """CuPy asks the driver for its text. But where a kernel was interrupted, no code of Python comes before CuPy's
    exception, in which Python could raise KeyboardInterrupt. So the exception is made by a function of Python's."""
    plain = module.CUDADriverError.__init__

    def __init__(self: Exception, *arguments: object) -> None:
        plain(self, *arguments)

    module.CUDADriverError.__init__ = __init__
