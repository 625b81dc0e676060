"""How a function of CuPy's runtime is served: noted here, with CuPy's errors for what it raises."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from gpubp.emulator.driver import results
from gpubp.emulator.driver.cupy.thunks import Served
from gpubp.emulator.driver.results import DriverError, driver_error
from gpubp.emulator.errors import EmulatorError

SERVED: dict[str, Served] = {}
PYTHON_ONLY: dict[str, Callable[..., Any]] = {}
CUPY: list[ModuleType] = []
"""CuPy's module, once it is there."""


_RUNTIME_NAMES = {
    2: "cudaErrorMemoryAllocation",
    3: "cudaErrorInitializationError",
    4: "cudaErrorCudartUnloading",
    200: "cudaErrorInvalidKernelImage",
    201: "cudaErrorDeviceUninitialized",
    209: "cudaErrorNoKernelImageForDevice",
    218: "cudaErrorInvalidPtx",
    400: "cudaErrorInvalidResourceHandle",
    500: "cudaErrorSymbolNotFound",
    719: "cudaErrorLaunchFailure",
}
"""Results that the runtime calls other than the driver, by the documentation's enum cudaError."""


def _runtime_name(status: int) -> str:
    """Return the runtime's name of a result: "cudaErrorInvalidValue" for CUDA_ERROR_INVALID_VALUE."""
    if status in _RUNTIME_NAMES:
        return _RUNTIME_NAMES[status]
    words = results.NAMES.get(status, "CUDA_ERROR_UNKNOWN").split("_")
    return words[0].lower() + "".join(word.capitalize() for word in words[1:])


def error_class(original: type[RuntimeError]) -> type[RuntimeError]:
    """Return CuPy's class of errors, with the emulator's whole message; the original asks NVIDIA's runtime."""

    class CUDARuntimeError(original):  # type: ignore[misc,valid-type]
        """An error of a CUDA runtime function; `status` is its number."""

        def __init__(self, status: int, message: str = "") -> None:
            self.status = int(status)
            self.message = message or results.explain(self.status)
            RuntimeError.__init__(self, f"{_runtime_name(self.status)}: {self.message}")

        def __reduce__(self) -> tuple[Any, ...]:
            return type(self), (self.status, self.message)

    CUDARuntimeError.__module__ = original.__module__
    CUDARuntimeError.__qualname__ = original.__qualname__
    return CUDARuntimeError


def _raise(error: BaseException) -> None:
    """Raise what CuPy expects for an error of the driver's or the emulator's."""
    found = driver_error(error)
    results.remember(found)
    raise CUPY[0].CUDARuntimeError(found.number) from None


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that raises CuPy's errors."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except (DriverError, EmulatorError) as error:
            return _raise(error)

    return call


def serve(sentinel: str = "", optional: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Serve a function of CuPy's runtime, to C code and to Python; see `Served`."""

    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        guarded = _guarded(function)
        SERVED[function.__name__] = Served(guarded, sentinel, *([optional] if optional else []))
        return guarded

    return note


def serve_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """Serve a function that only Python code calls."""
    PYTHON_ONLY[function.__name__] = _guarded(function)
    return function


def refuse(what: str, *names: str, python_only: bool = False) -> None:
    """Serve functions by an error that says what the virtual device does not have."""
    note = serve_python if python_only else serve()
    for name in names:

        def refused(*arguments: Any, _name: str = name, **named: Any) -> None:
            raise DriverError("CUDA_ERROR_NOT_SUPPORTED", f"{_name}: the virtual device has no {what}")

        refused.__name__ = refused.__qualname__ = name
        note(refused)
