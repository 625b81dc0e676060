"""What the driver's functions return: CUresult, by the names and numbers of the CUDA Driver API's documentation."""

from __future__ import annotations

import threading

from gpubp.emulator.errors import (
    EmulatorError,
    HangError,
    LaunchError,
    MemoryAccessError,
    PTXSyntaxError,
    TrapError,
    UnsupportedInstruction,
)

RESULTS = {
    "CUDA_SUCCESS": (0, "no error"),
    "CUDA_ERROR_INVALID_VALUE": (1, "invalid argument"),
    "CUDA_ERROR_OUT_OF_MEMORY": (2, "out of memory"),
    "CUDA_ERROR_NOT_INITIALIZED": (3, "initialization error"),
    "CUDA_ERROR_DEINITIALIZED": (4, "driver shutting down"),
    "CUDA_ERROR_NO_DEVICE": (100, "no CUDA-capable device is detected"),
    "CUDA_ERROR_INVALID_DEVICE": (101, "invalid device ordinal"),
    "CUDA_ERROR_INVALID_IMAGE": (200, "device kernel image is invalid"),
    "CUDA_ERROR_INVALID_CONTEXT": (201, "invalid device context"),
    "CUDA_ERROR_NO_BINARY_FOR_GPU": (209, "no kernel image is available for execution on the device"),
    "CUDA_ERROR_UNSUPPORTED_LIMIT": (215, "limit is not supported on this architecture"),
    "CUDA_ERROR_INVALID_PTX": (218, "a PTX JIT compilation failed"),
    "CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY": (224, "exec affinity type is not supported on this device"),
    "CUDA_ERROR_FILE_NOT_FOUND": (301, "file not found"),
    "CUDA_ERROR_INVALID_HANDLE": (400, "invalid resource handle"),
    "CUDA_ERROR_NOT_FOUND": (500, "named symbol not found"),
    "CUDA_ERROR_NOT_READY": (600, "device not ready"),
    "CUDA_ERROR_ILLEGAL_ADDRESS": (700, "an illegal memory access was encountered"),
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": (701, "too many resources requested for launch"),
    "CUDA_ERROR_LAUNCH_TIMEOUT": (702, "the launch timed out and was terminated"),
    "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED": (217, "peer access is not supported between these two devices"),
    "CUDA_ERROR_CONTEXT_IS_DESTROYED": (709, "context is destroyed"),
    "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED": (712, "part or all of the requested memory range is already mapped"),
    "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED": (713, "pointer does not correspond to a registered memory region"),
    "CUDA_ERROR_ASSERT": (710, "device-side assert triggered"),
    "CUDA_ERROR_LAUNCH_FAILED": (719, "unspecified launch failure"),
    "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE": (720, "too many blocks in cooperative launch"),
    "CUDA_ERROR_NOT_SUPPORTED": (801, "operation not supported"),
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": (900, "operation not permitted when stream is capturing"),
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": (901, "operation failed due to a previous error during capture"),
    "CUDA_ERROR_STREAM_CAPTURE_MERGE": (902, "operation would result in a merge of separate capture sequences"),
    "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED": (903, "capture was not ended in the same stream as it began"),
    "CUDA_ERROR_STREAM_CAPTURE_UNJOINED": (904, "capturing stream has unjoined work"),
    "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD": (908, "attempt to terminate a thread-local capture from another thread"),
    "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE": (
        910,
        "the graph update was not performed because it included changes "
        "which violated constraints specific to instantiated graph update",
    ),
    "CUDA_ERROR_STREAM_CAPTURE_ISOLATION": (905, "dependency created on uncaptured work in another stream"),
    "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT": (
        906,
        "operation would make the legacy stream depend on a capturing blocking stream",
    ),
    "CUDA_ERROR_CAPTURED_EVENT": (907, "operation not permitted on an event last recorded in a capturing stream"),
    "CUDA_ERROR_ILLEGAL_STATE": (401, "the operation cannot be performed in the present state"),
    "CUDA_ERROR_UNKNOWN": (999, "unknown error"),
}
"""Each result's number, and what the driver says of it."""

NAMES = {number: name for name, (number, _) in RESULTS.items()}

_KINDS: list[tuple[type[BaseException], str]] = [
    (MemoryAccessError, "CUDA_ERROR_ILLEGAL_ADDRESS"),
    (LaunchError, "CUDA_ERROR_INVALID_VALUE"),
    (HangError, "CUDA_ERROR_LAUNCH_TIMEOUT"),
    (TrapError, "CUDA_ERROR_ASSERT"),
    (UnsupportedInstruction, "CUDA_ERROR_NOT_SUPPORTED"),
    (PTXSyntaxError, "CUDA_ERROR_INVALID_PTX"),
    (EmulatorError, "CUDA_ERROR_LAUNCH_FAILED"),
    (NotImplementedError, "CUDA_ERROR_NOT_SUPPORTED"),
    (ValueError, "CUDA_ERROR_INVALID_VALUE"),  # among others, what ctypes says of a null pointer
    (MemoryError, "CUDA_ERROR_OUT_OF_MEMORY"),
]


class DriverError(Exception):
    """A call of the driver that fails.

    Attributes:
        result: its name, such as "CUDA_ERROR_INVALID_VALUE".
        message: what was wrong, beyond what the driver says of the result.
    """

    def __init__(self, result: str, message: str = "") -> None:
        super().__init__(message or RESULTS[result][1])
        self.result = result
        self.message = message

    @property
    def number(self) -> int:
        """Return the number of the result, a CUresult."""
        return RESULTS[self.result][0]


def driver_error(error: BaseException) -> DriverError:
    """Return what the driver makes of an exception."""
    if isinstance(error, DriverError):
        return error
    for kind, result in _KINDS:
        if isinstance(error, kind):
            return DriverError(result, str(error))
    return DriverError("CUDA_ERROR_UNKNOWN", f"{type(error).__name__}: {error}")


_last = threading.local()


def remember(error: DriverError) -> None:
    """Keep what went wrong in this thread, for `explain`."""
    _last.error = error


def message_of(number: int) -> str:
    """Return the whole message of this thread's last error, "" if that had another result."""
    error: DriverError | None = getattr(_last, "error", None)
    return "" if error is None or error.number != number else error.message


def explain(number: int) -> str:
    """Return what is said of a result: of the last error of this thread, the whole message."""
    known, message = RESULTS[NAMES[number]][1], message_of(number)
    return f"{known}: {message}" if message else known
