"""Streams and events."""

from __future__ import annotations

import ctypes
from typing import Any

from gpubp.emulator.driver import streams
from gpubp.emulator.driver.api.values import HOST_FUNCTION, required, write
from gpubp.emulator.driver.calls import (
    FLOAT,
    HANDLE,
    INT,
    POINTER,
    UINT,
    UINT64,
    export,
    to,
)
from gpubp.emulator.driver.contexts import PRIMARY, stack


@export("cuStreamCreate", 2000, to(HANDLE), UINT)
def _(stream: Any, flags: int) -> None:
    stream[0] = streams.create_stream(flags)


@export("cuStreamCreateWithPriority", 5050, to(HANDLE), UINT, INT)
def _(stream: Any, flags: int, priority: int) -> None:
    stream[0] = streams.create_stream(flags, priority)


@export("cuStreamDestroy_v2", 4000, HANDLE)
def _(stream: int) -> None:
    streams.destroy_stream(stream)


@export("cuStreamSynchronize", 2000, HANDLE)
def _(stream: int) -> None:
    streams.synchronize(stream)


@export("cuStreamQuery", 2000, HANDLE)
def _(stream: int) -> None:
    streams.query(stream)


@export("cuStreamGetFlags", 5050, HANDLE, to(UINT))
def _(stream: int, flags: Any) -> None:
    flags[0] = streams.stream(stream).flags


@export("cuStreamGetPriority", 5050, HANDLE, to(INT))
def _(stream: int, priority: Any) -> None:
    priority[0] = streams.stream(stream).priority


@export("cuStreamGetId", 12000, HANDLE, to(UINT64))
def _(stream: int, number: Any) -> None:
    streams.stream(stream)
    number[0] = stream


@export("cuStreamGetCtx", 9020, HANDLE, to(HANDLE))
def _context_of(stream: int, context: Any) -> None:
    streams.stream(stream)
    context[0] = stack()[-1] if stack() else PRIMARY


@export("cuStreamGetCtx_v2", 12050, HANDLE, POINTER, POINTER)
def _(stream: int, context: int, green: int) -> None:
    """No stream belongs to a green context here."""
    _context_of(stream, ctypes.pointer(HANDLE.from_address(required(context, "pCtx"))))
    write(green, HANDLE, 0)


@export("cuStreamGetDevice", 12080, HANDLE, to(INT))
def _(stream: int, device: Any) -> None:
    streams.stream(stream)
    device[0] = 0


@export("cuStreamWaitEvent", 3020, HANDLE, HANDLE, UINT)
def _(stream: int, event: int, flags: int) -> None:
    streams.wait_event(stream, event, flags)


_STREAM_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@export("cuLaunchHostFunc", 10000, HANDLE, POINTER, POINTER)
def _call_host(stream: int, function: int, data: int) -> None:
    required(function, "fn")
    streams.call_host(stream, lambda: HOST_FUNCTION(function)(data))


@export("cuLaunchHostFunc_v2", 13010, HANDLE, POINTER, POINTER, UINT)
def _(stream: int, function: int, data: int, mode: int) -> None:
    """How the device waits for the function, the last argument, changes nothing here."""
    _call_host(stream, function, data)


@export("cuStreamAddCallback", 5000, HANDLE, POINTER, POINTER, UINT)
def _(stream: int, function: int, data: int, flags: int) -> None:
    required(function, "callback")
    streams.call_host(stream, lambda: _STREAM_CALLBACK(function)(stream, 0, data))


@export("cuEventCreate", 2000, to(HANDLE), UINT)
def _(event: Any, flags: int) -> None:
    event[0] = streams.create_event(flags)


@export("cuEventDestroy_v2", 4000, HANDLE)
def _(event: int) -> None:
    streams.destroy_event(event)


@export("cuEventRecord", 2000, HANDLE, HANDLE)
def _(event: int, stream: int) -> None:
    streams.record_event(event, stream)


@export("cuEventRecordWithFlags", 11010, HANDLE, HANDLE, UINT)
def _(event: int, stream: int, flags: int) -> None:
    streams.record_event(event, stream, flags)


@export("cuEventQuery", 2000, HANDLE)
def _(event: int) -> None:
    streams.query_event(event)


@export("cuEventSynchronize", 2000, HANDLE)
def _(event: int) -> None:
    streams.synchronize_event(event)


@export("cuEventElapsedTime", 2000, to(FLOAT), HANDLE, HANDLE)
@export("cuEventElapsedTime_v2", 12080, to(FLOAT), HANDLE, HANDLE)
def _(milliseconds: Any, start: int, end: int) -> None:
    milliseconds[0] = streams.elapsed(start, end)
