"""Streams and events."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from gpubp.emulator.driver import contexts, results, streams
from gpubp.emulator.driver.cupy.runtime.serving import serve
from gpubp.emulator.driver.cupy.thunks import INT
from gpubp.emulator.driver.results import DriverError


@serve()
def streamCreate() -> int:
    """Return the handle of a new stream."""
    return streamCreateWithPriority(0, 0)


@serve()
def streamCreateWithFlags(flags: int) -> int:
    """Return the handle of a new stream."""
    return streamCreateWithPriority(flags, 0)


@serve()
def streamCreateWithPriority(flags: int, priority: int) -> int:
    """Return the handle of a new stream."""
    contexts.make_primary_current()
    return streams.create_stream(flags, priority)


@serve()
def streamGetFlags(stream: int) -> int:
    """Return the flags of a stream."""
    return streams.stream(stream).flags


@serve(sentinel="0")
def streamGetPriority(stream: int) -> int:
    """Return the priority of a stream."""
    return streams.stream(stream).priority


@serve()
def streamDestroy(stream: int) -> None:
    """Forget a stream."""
    streams.destroy_stream(stream)


@serve()
def streamSynchronize(stream: int) -> None:
    """Wait for a stream's work: it is done."""
    streams.synchronize(stream)


def _status(query: Callable[[int], None], handle: int) -> int:
    """Return what a question about work returns: a number, and no error."""
    try:
        query(handle)
    except DriverError as error:
        results.remember(error)
        return error.number
    return 0


@serve()
def streamQuery(stream: int) -> int:
    """Return 0: a stream's work is done. Otherwise the number of an error."""
    return _status(streams.query, stream)


@serve()
def streamWaitEvent(stream: int, event: int, flags: int = 0) -> None:
    """Let a stream wait for an event."""
    streams.wait_event(stream, event, flags)


def _call_back(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function of the program's. Its exceptions are shown and go no further, as it is a stream that calls."""
    try:
        function(*arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())


@serve()
def streamAddCallback(stream: int, callback: Callable[..., Any], arg: Any, flags: int = 0) -> None:
    """Call `callback(stream, 0, arg)` after a stream's work."""
    streams.check_not_capturing("a callback is added")
    streams.call_host(stream, functools.partial(_call_back, callback, stream, 0, arg))


@serve()
def launchHostFunc(stream: int, callback: Callable[..., Any], arg: Any) -> None:
    """Call `callback(arg)` after a stream's work."""
    streams.call_host(stream, functools.partial(_call_back, callback, arg))


@serve()
def _launchHostFuncUnmanaged(stream: int, func_arg: tuple[Callable[..., Any], Any]) -> None:
    launchHostFunc(stream, *func_arg)


@serve(optional=INT)
def streamBeginCapture(stream: int, mode: int = streams.CAPTURE_MODE_RELAXED) -> None:
    """Record a stream's work from here on."""
    streams.begin_capture(stream, mode)


@serve()
def streamEndCapture(stream: int) -> int:
    """Return the handle of the graph that a stream has recorded."""
    return streams.end_capture(stream)


@serve()
def streamIsCapturing(stream: int) -> bool:
    """Return True if a stream is capturing.

    Raises:
        RuntimeError: an error has spoilt the capture.
    """
    status, _ = streams.capture_status(stream)
    if status == 2:
        raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
    return bool(status)


@serve()
def eventCreate() -> int:
    """Return the handle of a new event."""
    return eventCreateWithFlags(0)


@serve()
def eventCreateWithFlags(flags: int) -> int:
    """Return the handle of a new event."""
    contexts.make_primary_current()
    return streams.create_event(flags)


@serve()
def eventDestroy(event: int) -> None:
    """Forget an event."""
    streams.destroy_event(event)


@serve()
def eventElapsedTime(start: int, end: int) -> float:
    """Refuse to measure time.

    Raises:
        CUDARuntimeError: always.
    """
    return streams.elapsed(start, end)


@serve()
def eventQuery(event: int) -> int:
    """Return 0: an event has happened. Otherwise the number of an error."""
    return _status(streams.query_event, event)


@serve()
def eventRecord(event: int, stream: int) -> None:
    """Record an event in a stream."""
    streams.record_event(event, stream)


@serve()
def eventSynchronize(event: int) -> None:
    """Wait for an event: it has happened."""
    streams.synchronize_event(event)
