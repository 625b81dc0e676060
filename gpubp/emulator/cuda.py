"""The namespace `cuda` of kernel code: CuPy's `cupy.cuda` and Numba's `numba.cuda` in one place.

`import gpubp.emulator as cp` gives CuPy code its `cp.cuda.Stream`; `from gpubp.emulator import cuda` gives Numba code
its `cuda.jit`, `cuda.to_device` and, inside kernels, `cuda.grid` and all else that `numba.cuda` offers there. The two
sets of names meet only in `MemoryPointer` and `runtime`, which are CuPy's here.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from gpubp.emulator.chip import Device
from gpubp.emulator.cupy import nccl, runtime
from gpubp.emulator.cupy.arrays import MemoryPointer, UnownedMemory, alloc_pinned_memory
from gpubp.emulator.cupy.streams import Event, ExternalStream, Graph, Stream, get_current_stream, get_elapsed_time
from gpubp.emulator.errors import EmulatorError

__all__ = [
    "Device",
    "Event",
    "ExternalStream",
    "Graph",
    "MemoryPointer",
    "Stream",
    "UnownedMemory",
    "alloc_pinned_memory",
    "get_current_stream",
    "get_elapsed_time",
    "nccl",
    "runtime",
]


class CudaModule(ModuleType):
    """The class of this module, so that Numba's compiler can be told what it stands for."""

    def __getattr__(self, name: str) -> Any:
        """Return one of Numba's names, which are loaded at first use."""
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "texture":
            raise EmulatorError("cuda.texture: textures and surfaces are not emulated")
        from gpubp.emulator.numba import frontend as numba_frontend

        return numba_frontend.lookup(name)


sys.modules[__name__].__class__ = CudaModule
