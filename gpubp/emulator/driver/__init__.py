"""A virtual CUDA device: a driver library `libcuda.so.1` for this process, whose kernels the emulator executes.

Real programs run on it unmodified: CuPy, numba-cuda, cuda.core and whatever else calls the public CUDA driver API.
"""

from __future__ import annotations


def install() -> None:
    """Give this process the virtual device, before it loads a CUDA driver or CuPy; once it has it, do nothing.

    Raises:
        EmulatorError: a driver or CuPy is loaded already, or the system cannot load this one.
    """
    from gpubp.emulator.driver import cupy, functions, library, lines, linkers, messages  # noqa: F401 - noted as loaded

    if library.is_loaded():
        return
    library.load()
    linkers.install()
    lines.install()
    messages.install()
    cupy.install()


def is_installed() -> bool:
    """Return True if this process has the virtual device."""
    from gpubp.emulator.driver import library

    return library.is_loaded()


__all__ = ["install", "is_installed"]
