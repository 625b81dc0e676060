"""How a function of the driver is written in Python, and called from C.

`export` notes a function under its name in the library, with the CUDA version that its interface is of and its
arguments' types, as the CUDA Driver API's documentation states them. Each returns a CUresult: 0 if the function
returns, else what the exception says.

One call is served at a time: a thread that calls while another one's kernel runs waits for it, as it would for one GPU.
"""

from __future__ import annotations

import _thread
import ctypes
import operator
import os
import re
import signal
import threading
import weakref
from collections.abc import Callable
from ctypes import c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_ushort
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from gpubp.emulator.driver import results
from gpubp.emulator.driver.results import DriverError, driver_error

INT, UINT, SIZE, FLOAT = c_int, c_uint, c_size_t, c_float
TEXT = c_char_p
"""A text, which must not be null; one that may be is a POINTER."""
UINT8, UINT16, UINT64 = c_ubyte, c_ushort, c_uint64
POINTER = HANDLE = c_uint64
"""Pointers to what only some functions read, device pointers and handles are numbers here: 0 is null."""
LOCATION = c_uint64
"""CUmemLocation, a kind and a number of 4 bytes each, which is passed as one of 8 bytes on x86-64 and AArch64."""
ENUM = c_int


def to(kind: Any) -> Any:
    """Return the type of a pointer to values of a kind: what a function writes to."""
    return ctypes.POINTER(kind)


@dataclass(frozen=True)
class Export:
    """A function of the library.

    Attributes:
        name: under which the library exports it, such as "cuMemAlloc_v2".
        since: the CUDA version from which on a program that asks for "cuMemAlloc" gets this one.
        types: of its arguments.
    """

    name: str
    since: int
    types: tuple[Any, ...]
    function: Callable[..., None]

    @property
    def base(self) -> str:
        """Return the name without its version."""
        return re.sub(r"(_v\d+)?(_ptsz|_ptds)?$", "", self.name)

    @property
    def is_per_thread(self) -> bool:
        """True if stream 0 is the thread's own default stream, and not the one of all threads."""
        return self.name.endswith(("_ptsz", "_ptds"))


EXPORTS: dict[str, Export] = {}
"""All functions, by their names."""
_versions: dict[str, list[Export]] = {}
"""The functions of each name without its version."""


def add(new: Export) -> None:
    """Note a function of the library."""
    EXPORTS[new.name] = new
    _versions.setdefault(new.base, []).append(new)


def export(name: str, since: int, *types: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Note a function of the library; see `Export`."""

    def note(function: Callable[..., None]) -> Callable[..., None]:
        add(Export(name, since, types, function))
        return function

    return note


_LOCK = threading.RLock()
"""Held by the thread whose call is served. A function of the host that a stream calls may call the driver in turn."""
# A fork in the midst of another thread's call would leave the driver half way, and locked.
os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


def callback(exported: Export) -> Any:
    """Return what C code can call: a function that takes the arguments and returns a CUresult."""
    function = exported.function
    texts = [index for index, kind in enumerate(exported.types) if kind is TEXT]

    def call(*arguments: Any) -> int:
        try:
            for index in texts:
                if arguments[index] is None:
                    raise DriverError(
                        "CUDA_ERROR_INVALID_VALUE", f"{exported.name}: argument {index} is a null pointer"
                    )
            with _LOCK:
                function(*arguments)
        except DriverError as error:
            results.remember(error)
            return error.number
        except KeyboardInterrupt as interrupt:  # no exception passes through C code
            if threading.current_thread() is threading.main_thread():
                _interrupt_later(str(interrupt))
            ended = DriverError("CUDA_ERROR_LAUNCH_FAILED", str(interrupt))
            results.remember(ended)
            return ended.number
        except BaseException as other:
            found = driver_error(other)
            results.remember(found)
            return found.number
        return 0

    def call_and_interrupt(*arguments: Any) -> int:
        result = call(*arguments)
        interrupt = _interrupts.pop() if _interrupts else None  # noqa: F841 - it ends with this function
        return result

    _callbacks.add(call_and_interrupt.__code__)
    return ctypes.CFUNCTYPE(c_int, *exported.types)(call_and_interrupt)


class _Interrupt:
    """Sends the process SIGINT, as Python sees it, when it ceases to be.

    A KeyboardInterrupt must not be raised before the driver's function has returned to C, and Python looks for signals
    after every call. So this is no call: a local variable ends with its function, and all that follows is C code.
    """

    def __init__(self) -> None:
        _references[:] = [_Reference(self, operator.methodcaller("interrupt"))]


class _Reference(weakref.ref):
    """A reference to an interrupt, with a method that takes no argument."""

    interrupt = staticmethod(_thread.interrupt_main)


_interrupts: list[_Interrupt] = []
_references: list[_Reference] = []
_callbacks: set[CodeType] = set()
"""The code by which C code calls Python's."""


def _interrupt_later(message: str) -> None:
    """Raise KeyboardInterrupt in the main thread, which this is, once it is out of the driver."""
    usual = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code in _callbacks:  # the program's C code has called again, as for the text of the error
                _interrupts.append(_Interrupt())
                return
            frame = frame.f_back
        signal.signal(signal.SIGINT, usual)
        raise KeyboardInterrupt(message)

    signal.signal(signal.SIGINT, interrupt)
    _interrupts.append(_Interrupt())


def find(base: str, version: int, per_thread: bool = False) -> Export | None:
    """Return the newest function of a name that is not of a later CUDA version, None if there is none.

    Args:
        base: the name without its version.
        version: the CUDA version whose interface the program knows.
        per_thread: if stream 0 shall be the thread's own, and this makes a difference to the function.
    """
    fitting = [each for each in _versions.get(base, ()) if each.since <= version]
    wanted = [each for each in fitting if each.is_per_thread] if per_thread else []
    return max(
        wanted or [each for each in fitting if not each.is_per_thread], key=lambda each: each.since, default=None
    )


def is_known(base: str) -> bool:
    """True if there is a function of a name, of whatever version."""
    return base in _versions
