"""What the emulator uses of Numba's own: the same names in numba-cuda and in numba-cuda-mlir, from the one in use.

For the type checker they are those of numba-cuda.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpubp.toolchain.numba_package import NUMBA_CUDA, chosen, part

if TYPE_CHECKING:
    from numba.cuda import types
    from numba.cuda.args import In, Out, wrap_arg
    from numba.cuda.core import sigutils
    from numba.cuda.np import numpy_support
    from numba.cuda.typing import signature
    from numba.cuda.typing.typeof import Purpose, typeof, typeof_impl
else:
    types = part("types")
    In, Out, wrap_arg = (getattr(part("args"), name) for name in ("In", "Out", "wrap_arg"))
    sigutils = part("core.sigutils")
    numpy_support = part("np.numpy_support")
    signature = part("typing").signature
    Purpose, typeof, typeof_impl = (
        getattr(part("typing.typeof"), name) for name in ("Purpose", "typeof", "typeof_impl")
    )


def typing_context() -> Any:
    """Return what chooses among the signatures of a kernel."""
    if chosen() is NUMBA_CUDA:
        return part("descriptor").cuda_target.typing_context
    return importlib.import_module("numba_cuda_mlir.descriptor").mlir_target.typing_context


__all__ = [
    "In",
    "Out",
    "Purpose",
    "numpy_support",
    "signature",
    "sigutils",
    "typeof",
    "typeof_impl",
    "types",
    "typing_context",
    "wrap_arg",
]
