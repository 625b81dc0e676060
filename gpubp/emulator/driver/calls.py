"""How a function of the driver is written in Python, and called from C.

`export` notes a function under its name in the library, with the CUDA version that its interface is of and its
arguments' types, as the CUDA Driver API's documentation states them. Each returns a CUresult: 0 if the function
returns, else what the exception says.
"""

from __future__ import annotations

import _thread
import ctypes
import functools
import operator
import re
import signal
import weakref
from collections.abc import Callable
from ctypes import c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_ushort
from dataclasses import dataclass
from typing import Any

from gpubp.emulator.driver import results
from gpubp.emulator.driver.results import DriverError, driver_error

INT, UINT, SIZE, FLOAT, TEXT = c_int, c_uint, c_size_t, c_float, c_char_p
UINT8, UINT16, UINT64 = c_ubyte, c_ushort, c_uint64
POINTER = HANDLE = ENUM_SET = c_uint64
"""Pointers to what only some functions read, device pointers and handles are numbers here: 0 is null."""
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
        return re.sub(r"_v\d+$", "", self.name)


EXPORTS: dict[str, Export] = {}
"""All functions, by their names."""


def export(name: str, since: int, *types: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Note a function of the library; see `Export`."""

    def note(function: Callable[..., None]) -> Callable[..., None]:
        EXPORTS[name] = Export(name, since, types, function)
        return function

    return note


def callback(exported: Export) -> Any:
    """Return what C code can call: a function that takes the arguments and returns a CUresult."""
    function = exported.function

    def call(*arguments: Any) -> int:
        try:
            function(*arguments)
        except DriverError as error:
            results.remember(error)
            return error.number
        except KeyboardInterrupt as interrupt:  # no exception passes through C code
            _interrupts.append(_Interrupt(interrupt))
            error = DriverError("CUDA_ERROR_LAUNCH_FAILED", str(interrupt))
            results.remember(error)
            return error.number
        except BaseException as other:
            error = driver_error(other)
            results.remember(error)
            return error.number
        return 0

    def call_and_interrupt(*arguments: Any) -> int:
        result = call(*arguments)
        interrupt = _interrupts.pop() if _interrupts else None  # noqa: F841 - it ends with this function
        return result

    return ctypes.CFUNCTYPE(c_int, *exported.types)(call_and_interrupt)


class _Interrupt:
    """Interrupts the main thread when it ceases to be.

    A KeyboardInterrupt must not be raised before the driver's function has returned to C, and Python looks for one
    after every call. So this is no call: a local variable ends with its function, and all that follows is C code.
    """

    def __init__(self, interrupt: KeyboardInterrupt) -> None:
        _references[:] = [_Reference(self, operator.methodcaller("interrupt"))]
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, functools.partial(_raise_again, str(interrupt)))


def _raise_again(message: str, *signalled: object) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise KeyboardInterrupt(message)


class _Reference(weakref.ref):  # type: ignore[type-arg]
    """A reference to an interrupt, with a method that takes no argument."""

    interrupt = staticmethod(_thread.interrupt_main)


_interrupts: list[_Interrupt] = []
_references: list[_Reference] = []


def find(base: str, version: int) -> Export | None:
    """Return the newest function of a name that is not of a later CUDA version, None if there is none."""
    fitting = [each for each in EXPORTS.values() if each.base == base and each.since <= version]
    return max(fitting, key=lambda each: each.since, default=None)
