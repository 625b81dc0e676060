"""A virtual CUDA device: a driver library `libcuda.so.1` for this process, whose kernels the emulator executes.

Real programs run on it unmodified: CuPy, numba-cuda, cuda.core and whatever else calls the public CUDA driver API.

What differs from a GPU's driver, on purpose:

- Work is done when it is submitted: a failing kernel fails the call that launches it, as with CUDA_LAUNCH_BLOCKING=1.
  No error sticks: a program may go on.
- One call is served at a time; other threads wait.
- Kernels reach pinned, mapped and managed memory at the host's addresses, and no memory that was registered later.
- Graphs own no memory: allocations in a capturing stream are refused. Nodes have no handles.
- Event times, peers, clusters that a launch asks for, textures and fatbins are refused, each by name.
- The linker takes PTX, archives of PTX, and supplies what grid groups need; machine code and LTO-IR are refused.
- The private tables of functions are not served.
"""

from __future__ import annotations


def install() -> None:
    """Give this process the virtual device, before it loads a CUDA driver or CuPy; once it has it, do nothing.

    Raises:
        EmulatorError: a driver or CuPy is loaded already, or the system cannot load this one.
    """
    from gpubp.emulator.driver import api, cupy, library, lines, linkers, messages  # noqa: F401 - api notes its functions

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
