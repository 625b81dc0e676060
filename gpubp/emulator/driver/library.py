"""The library `libcuda.so.1` of this process: loaded once, its functions filled with Python's."""

from __future__ import annotations

import ctypes
import os
import re
import weakref

from gpubp.emulator.device.memory import ARENA_BASE, MEMORY
from gpubp.emulator.driver import calls, elf
from gpubp.emulator.errors import EmulatorError

SONAME = "libcuda.so.1"

_loaded: list[ctypes.CDLL] = []
_callbacks: list[object] = []


def load() -> None:
    """Load the library, so that every later dlopen("libcuda.so.1") of this process finds it.

    Raises:
        EmulatorError: a libcuda.so.1 is loaded already, the addresses of the device's memory are taken, or the system
            cannot load ours.
    """
    if _loaded:
        return
    if MEMORY.host_base != ARENA_BASE:
        raise EmulatorError(
            f"the addresses from {ARENA_BASE:#x} on, where programs find the device's memory, are taken in this process"
        )
    if _has_driver():
        raise EmulatorError(f"this process has loaded a {SONAME} already: the virtual device must come first")
    names = list(calls.EXPORTS)
    file = os.memfd_create(SONAME)
    try:
        os.write(file, elf.shared_library(SONAME, names))
        library = ctypes.CDLL(f"/proc/self/fd/{file}", mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise EmulatorError(f"the virtual device's {SONAME} cannot be loaded: {error}") from error
    finally:
        os.close(file)
    slots = (ctypes.c_uint64 * len(names)).in_dll(library, elf.SLOTS)
    for index, name in enumerate(names):
        _callbacks.append(calls.callback(calls.EXPORTS[name]))
        slots[index] = ctypes.cast(_callbacks[-1], ctypes.c_void_p).value or 0  # type: ignore[arg-type]
    _loaded.append(library)
    # Among finalizers the last one made goes first: what a program frees at its end still finds the functions.
    weakref.finalize(library, _end, slots, [address(_last(name)) for name in names])


def is_loaded() -> bool:
    """Return True if the library is there."""
    return bool(_loaded)


def _has_driver() -> bool:
    try:
        ctypes.CDLL(SONAME, mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    return True


def _last(name: str) -> str:
    """Return what a function does when Python is gone, and threads or what is left of a program still call: what gives
    something back succeeds, the names of errors are told, and all else is an error."""
    if re.search("Destroy|Free|Unload|Release|Unregister|Ctx(Pop|Push|Set|Get)Current", name):
        return elf.DONE
    return elf.NAMED if name in ("cuGetErrorName", "cuGetErrorString") else elf.STUB


def _end(slots: ctypes.Array[ctypes.c_uint64], stubs: list[int]) -> None:
    """Let every function do without Python."""
    for index, stub in enumerate(stubs):
        slots[index] = stub


def address(name: str) -> int:
    """Return the address of a function of the library."""
    return ctypes.cast(getattr(_loaded[0], name), ctypes.c_void_p).value or 0
