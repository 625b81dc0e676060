"""Contexts, and the limits and settings of the current one."""

from __future__ import annotations

import ctypes
from typing import Any

from gpubp.emulator.driver import devices, streams
from gpubp.emulator.driver.api.values import write
from gpubp.emulator.driver.calls import (
    ENUM,
    HANDLE,
    INT,
    POINTER,
    SIZE,
    UINT,
    UINT64,
    export,
    to,
)
from gpubp.emulator.driver.contexts import CONTEXTS, PRIMARY, current, stack
from gpubp.emulator.driver.results import DriverError
from gpubp.emulator.limits import current as current_limits
from gpubp.emulator.limits import limits as set_limits

_primary = {"retained": 0, "flags": 0}


@export("cuDevicePrimaryCtxRetain", 7000, to(HANDLE), INT)
def _(context: Any, device: int) -> None:
    devices.check_ordinal(device)
    _primary["retained"] += 1
    context[0] = PRIMARY


@export("cuDevicePrimaryCtxRelease", 7000, INT)
@export("cuDevicePrimaryCtxRelease_v2", 11000, INT)
def _(device: int) -> None:
    devices.check_ordinal(device)
    if not _primary["retained"]:
        raise DriverError("CUDA_ERROR_INVALID_CONTEXT", "the primary context is not retained")
    _primary["retained"] -= 1


@export("cuDevicePrimaryCtxReset", 7000, INT)
@export("cuDevicePrimaryCtxReset_v2", 11000, INT)
def _(device: int) -> None:
    devices.check_ordinal(device)


@export("cuDevicePrimaryCtxGetState", 7000, INT, to(UINT), to(INT))
def _(device: int, flags: Any, active: Any) -> None:
    devices.check_ordinal(device)
    flags[0], active[0] = _primary["flags"], int(_primary["retained"] > 0)


@export("cuDevicePrimaryCtxSetFlags", 7000, INT, UINT)
@export("cuDevicePrimaryCtxSetFlags_v2", 11000, INT, UINT)
def _(device: int, flags: int) -> None:
    devices.check_ordinal(device)
    _primary["flags"] = flags


_CONTEXT_FLAGS = 0xFF


@export("cuCtxCreate_v2", 3020, to(HANDLE), UINT, INT)
def _create_context(context: Any, flags: int, device: int) -> None:
    devices.check_ordinal(device)
    if flags & ~_CONTEXT_FLAGS:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags:#x}: it must be of {_CONTEXT_FLAGS:#x}")
    context[0] = CONTEXTS.add(flags)
    stack().append(context[0])


@export("cuCtxCreate_v3", 11040, to(HANDLE), POINTER, INT, UINT, INT)
def _(context: Any, affinities: int, count: int, flags: int, device: int) -> None:
    if count:
        raise DriverError("CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", "a context of the virtual device has all of it")
    _create_context(context, flags, device)


class ContextParams(ctypes.Structure):
    """CUctxCreateParams of the documentation."""

    _fields_ = (("execAffinityParams", POINTER), ("numExecAffinityParams", INT), ("cigParams", POINTER))


@export("cuCtxCreate_v4", 12050, to(HANDLE), POINTER, UINT, INT)
def _(context: Any, params: int, flags: int, device: int) -> None:
    given = ContextParams.from_address(params) if params else ContextParams()
    if given.execAffinityParams or given.numExecAffinityParams:
        raise DriverError("CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", "a context of the virtual device has all of it")
    if given.cigParams:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device shares no context with a graphics API")
    _create_context(context, flags, device)


@export("cuCtxDestroy_v2", 4000, HANDLE)
def _(context: int) -> None:
    if context == PRIMARY:
        raise DriverError("CUDA_ERROR_INVALID_CONTEXT", "ctx is the primary context: it is released, not destroyed")
    CONTEXTS.remove(context)
    if stack() and stack()[-1] == context:
        stack().pop()


@export("cuCtxPushCurrent_v2", 4000, HANDLE)
def _(context: int) -> None:
    CONTEXTS[context]
    stack().append(context)


@export("cuCtxPopCurrent_v2", 4000, POINTER)
def _(context: int) -> None:
    popped = current()
    stack().pop()
    write(context, HANDLE, popped)


@export("cuCtxSetCurrent", 4000, HANDLE)
def _(context: int) -> None:
    if context:
        CONTEXTS[context]
    if stack():
        stack().pop()
    if context:
        stack().append(context)


@export("cuCtxGetCurrent", 4000, to(HANDLE))
def _(context: Any) -> None:
    context[0] = stack()[-1] if stack() else 0


@export("cuCtxGetDevice", 2000, to(INT))
def _(device: Any) -> None:
    current()
    device[0] = 0


@export("cuCtxGetDevice_v2", 13000, to(INT), HANDLE)
def _(device: Any, context: int) -> None:
    CONTEXTS[context or current()]
    device[0] = 0


@export("cuCtxGetFlags", 7000, to(UINT))
def _(flags: Any) -> None:
    flags[0] = _primary["flags"] if current() == PRIMARY else CONTEXTS[current()]


@export("cuCtxGetId", 12000, HANDLE, to(UINT64))
def _(context: int, number: Any) -> None:
    CONTEXTS[context or current()]
    number[0] = context or current()


@export("cuCtxGetApiVersion", 3020, HANDLE, to(UINT))
def _(context: int, version: Any) -> None:
    CONTEXTS[context or current()]
    version[0] = 3020


@export("cuCtxSynchronize", 2000)
def _() -> None:
    current()
    streams.check_not_capturing("the device is synchronized")


@export("cuCtxSynchronize_v2", 13000, HANDLE)
def _(context: int) -> None:
    CONTEXTS[context or current()]
    streams.check_not_capturing("the device is synchronized")


_LIMIT_NAMES = {0: "stack", 2: "heap"}  # CU_LIMIT_STACK_SIZE, CU_LIMIT_MALLOC_HEAP_SIZE
_hints = {1: 1 << 20, 4: 2048, 5: 64, 6: 0}
"""Limits that change nothing here: the buffer of printf, launches that wait, and two of caches."""


@export("cuCtxGetLimit", 3010, to(SIZE), ENUM)
def _(value: Any, limit: int) -> None:
    value[0] = _hints[limit] if limit in _hints else getattr(current_limits(), _limit_name(limit))


@export("cuCtxSetLimit", 3010, ENUM, SIZE)
def _(limit: int, value: int) -> None:
    if limit in _hints:
        _hints[limit] = value
    else:
        set_limits(**{_limit_name(limit): value})


def _limit_name(limit: int) -> str:
    if limit not in _LIMIT_NAMES:
        raise DriverError(
            "CUDA_ERROR_UNSUPPORTED_LIMIT", f"limit is {limit}: the virtual device has those of stack and heap"
        )
    return _LIMIT_NAMES[limit]


@export("cuCtxGetCacheConfig", 3020, to(INT))
@export("cuCtxGetSharedMemConfig", 4020, to(INT))
def _(config: Any) -> None:
    config[0] = 0


@export("cuCtxSetCacheConfig", 3020, ENUM)
@export("cuCtxSetSharedMemConfig", 4020, ENUM)
def _(config: int) -> None:
    """A preference, which changes nothing here."""


@export("cuCtxGetStreamPriorityRange", 5050, POINTER, POINTER)
def _(least: int, greatest: int) -> None:
    write(least, INT, 0)
    write(greatest, INT, -5)


@export("cuCtxEnablePeerAccess", 4000, HANDLE, UINT)
@export("cuCtxDisablePeerAccess", 4000, HANDLE)
def _(*_arguments: int) -> None:
    raise DriverError("CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", "there is one device")


@export("cuProfilerStart", 4000)
@export("cuProfilerStop", 4000)
def _() -> None:
    """There is no profiler to start."""
