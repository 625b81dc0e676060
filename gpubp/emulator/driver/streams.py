"""Streams, events and graphs: work is done when it is submitted, or kept while its stream is capturing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from gpubp.emulator.driver.handles import Handles
from gpubp.emulator.driver.results import DriverError

LEGACY, PER_THREAD = 1, 2
"""The handles of the two default streams, beside 0, which is the legacy one as well."""
CAPTURE_MODE_GLOBAL, CAPTURE_MODE_THREAD_LOCAL, CAPTURE_MODE_RELAXED = 0, 1, 2
DEFAULT, NON_BLOCKING = 0, 1
Work = Callable[[], None]


@dataclass(eq=False)
class Graph:
    """Work in an order in which it may be done; `kept` lives as long as the graph."""

    work: list[Work] = field(default_factory=list)
    nodes: list[object] = field(default_factory=list)
    kept: list[object] = field(default_factory=list)


@dataclass(eq=False)
class Capture:
    """What streams record together: the one that began it, and those that have waited for it since."""

    number: int
    origin: Stream
    mode: int
    graph: Graph
    members: list[Stream] = field(default_factory=list)
    fault: str = ""


@dataclass(eq=False)
class Stream:
    """A stream; `capture` is what it takes part in."""

    flags: int = NON_BLOCKING
    priority: int = 0
    is_default: bool = False
    capture: Capture | None = None


@dataclass(eq=False)
class Event:
    """A point in a stream; `capture` is that of the stream it was recorded in."""

    flags: int = 0
    is_recorded: bool = False
    capture: Capture | None = None


_streams: Handles[Stream] = Handles("stream")
_events: Handles[Event] = Handles("event")
_graphs: Handles[Graph] = Handles("graph")
_executables: Handles[Graph] = Handles("graphExec")
_default = Stream(flags=DEFAULT, is_default=True)
_per_thread = threading.local()
_captures = 0
_capturing: set[Capture] = set()


def stream(handle: int) -> Stream:
    """Return the stream of a handle.

    Raises:
        DriverError: CUDA_ERROR_INVALID_HANDLE.
    """
    if handle in (0, LEGACY):
        return _default
    if handle == PER_THREAD:
        if not hasattr(_per_thread, "stream"):
            _per_thread.stream = Stream(flags=DEFAULT)
        return _per_thread.stream
    return _streams[handle]


def create_stream(flags: int = DEFAULT, priority: int = 0) -> int:
    """Return the handle of a new stream."""
    if flags not in (DEFAULT, NON_BLOCKING):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags}: it must be 0 or 1 (non-blocking)")
    return _streams.add(Stream(flags, max(-5, min(0, priority))))


def destroy_stream(handle: int) -> None:
    """Forget a stream."""
    if handle in (0, LEGACY, PER_THREAD):
        raise DriverError("CUDA_ERROR_INVALID_HANDLE", "hStream is a default stream: it cannot be destroyed")
    _streams.remove(handle)


def submit(handle: int, work: Work, node: object = None) -> None:
    """Do a piece of the device's work, or keep it if the stream is capturing.

    Args:
        work: does it.
        node: what a graph shows of it.
    """
    target = stream(handle)
    if target.capture is None:
        _check_default_is_free(target)
        work()
    else:
        target.capture.graph.work.append(work)
        target.capture.graph.nodes.append(node)


def _check_default_is_free(target: Stream) -> None:
    """The legacy default stream waits for blocking streams, so it must not be used while one of them is capturing."""
    if target.is_default and any(
        member.flags == DEFAULT and capture.mode != CAPTURE_MODE_RELAXED
        for capture in _capturing
        for member in capture.members
    ):
        for capture in _capturing:
            capture.fault = capture.fault or "work was submitted to the default stream"
        raise DriverError(
            "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "a blocking stream is capturing, and this uses stream 0"
        )


def check_not_capturing(what: str, mode: int = CAPTURE_MODE_GLOBAL) -> None:
    """Refuse what a GPU does not allow while any stream is capturing, such as an allocation.

    Raises:
        DriverError: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED.
    """
    for capture in _capturing:
        if capture.mode != CAPTURE_MODE_RELAXED:
            capture.fault = capture.fault or f"{what} was called"
            raise DriverError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", f"{what} while a stream is capturing")


def keep(thing: object) -> None:
    """Keep something as long as the graphs of the captures that are going on."""
    for capture in list(_capturing):
        capture.graph.kept.append(thing)


def synchronize(handle: int) -> None:
    """Wait for a stream: its work is done already.

    Raises:
        DriverError: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: it is capturing.
    """
    _refuse_in_capture(stream(handle), "a stream is synchronized")


def _refuse_in_capture(target: Stream, what: str) -> None:
    if target.capture is not None:
        target.capture.fault = target.capture.fault or what
        raise DriverError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", f"{what} while it is capturing")


def query(handle: int) -> None:
    """Ask whether a stream's work is done: it is.

    Raises:
        DriverError: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: it is capturing.
    """
    _refuse_in_capture(stream(handle), "a stream is queried")


def call_host(handle: int, function: Work) -> None:
    """Call a function of the host after the stream's work so far."""
    submit(handle, function, "host function")


# --- events -----------------------------------------------------------------------------------------------------------
def create_event(flags: int = 0) -> int:
    """Return the handle of a new event."""
    return _events.add(Event(flags))


def destroy_event(handle: int) -> None:
    """Forget an event."""
    _events.remove(handle)


def record_event(handle: int, stream_handle: int) -> None:
    """Record an event in a stream; if that is capturing, streams that wait for the event take part in the capture."""
    event, source = _events[handle], stream(stream_handle)
    event.is_recorded, event.capture = True, source.capture


def wait_event(stream_handle: int, handle: int) -> None:
    """Let a stream wait for an event: it has happened, unless it is one of a capture, which the stream then joins.

    Raises:
        DriverError: the stream takes part in another capture.
    """
    event, target = _events[handle], stream(stream_handle)
    if event.capture is None or event.capture not in _capturing:
        if target.capture is not None and event.is_recorded:
            target.capture.fault = "it waits for an event that was recorded outside of it"
            raise DriverError(
                "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "the stream captures, and the event is of no capture"
            )
        return
    if target.capture is None:
        target.capture = event.capture
        event.capture.members.append(target)
    elif target.capture is not event.capture:
        raise DriverError("CUDA_ERROR_STREAM_CAPTURE_MERGE", "the stream and the event take part in two captures")


def query_event(handle: int) -> None:
    """Ask whether an event has happened: it has."""
    _refuse_captured(_events[handle])


def synchronize_event(handle: int) -> None:
    """Wait for an event: it has happened."""
    _refuse_captured(_events[handle])


def _refuse_captured(event: Event) -> None:
    if event.capture is not None and event.capture in _capturing:
        raise DriverError("CUDA_ERROR_CAPTURED_EVENT", "the event was recorded in a stream that is capturing")


def elapsed(start: int, end: int) -> float:
    """Refuse to measure time.

    Raises:
        DriverError: always: CUDA_ERROR_NOT_SUPPORTED.
    """
    for handle in (start, end):
        _events[handle]
    raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device measures no time: that needs a GPU")


# --- graphs -----------------------------------------------------------------------------------------------------------
def begin_capture(handle: int, mode: int = CAPTURE_MODE_GLOBAL, graph: Graph | None = None) -> None:
    """Record the work of a stream from here on.

    Raises:
        DriverError: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: it is the legacy default stream.
            CUDA_ERROR_ILLEGAL_STATE: it is capturing already.
    """
    global _captures
    origin = stream(handle)
    if origin.is_default:
        raise DriverError(
            "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "hStream is the default stream, which cannot capture"
        )
    if origin.capture is not None:
        raise DriverError("CUDA_ERROR_ILLEGAL_STATE", "hStream is capturing already")
    _captures += 1
    origin.capture = Capture(_captures, origin, mode, graph or Graph(), [origin])
    _capturing.add(origin.capture)


def end_capture(handle: int) -> int:
    """Return the handle of the graph that a stream has recorded.

    Raises:
        DriverError: CUDA_ERROR_ILLEGAL_STATE: it does not capture. CUDA_ERROR_STREAM_CAPTURE_UNMATCHED: another stream
            began. CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: something was called that a capture does not allow.
    """
    origin = stream(handle)
    capture = origin.capture
    if capture is None:
        raise DriverError("CUDA_ERROR_ILLEGAL_STATE", "hStream is not capturing")
    if capture.origin is not origin:
        raise DriverError("CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "hStream is not the stream that began the capture")
    for member in capture.members:
        member.capture = None
    _capturing.discard(capture)
    if capture.fault:
        raise DriverError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", f"while the stream was capturing, {capture.fault}")
    return _graphs.add(capture.graph)


def capture_status(handle: int) -> tuple[int, int]:
    """Return 0 (not capturing), 1 (capturing) or 2 (spoilt), and the number of the capture."""
    capture = stream(handle).capture
    return (0, 0) if capture is None else (2 if capture.fault else 1, capture.number)


def capture_of(handle: int) -> Capture | None:
    """Return the capture that a stream takes part in."""
    return stream(handle).capture


def create_graph() -> int:
    """Return the handle of a new, empty graph."""
    return _graphs.add(Graph())


def graph(handle: int) -> Graph:
    """Return the graph of a handle."""
    return _graphs[handle]


def graph_handle(captured: Graph) -> int:
    """Return a handle of a graph."""
    return _graphs.add(captured)


def destroy_graph(handle: int) -> None:
    """Forget a graph; what was instantiated from it stays."""
    _graphs.remove(handle)


def instantiate(handle: int) -> int:
    """Return the handle of an executable copy of a graph."""
    source = _graphs[handle]
    return _executables.add(Graph(list(source.work), list(source.nodes), list(source.kept)))


def launch_graph(handle: int, stream_handle: int) -> None:
    """Do the work of an executable graph, on what memory holds now."""
    executable = _executables[handle]

    def run() -> None:
        for work in executable.work:
            work()

    submit(stream_handle, run, "graph")


def upload_graph(handle: int, stream_handle: int) -> None:
    """Nothing to do: an executable graph is where it runs."""
    _executables[handle]
    stream(stream_handle)


def destroy_executable(handle: int) -> None:
    """Forget an executable graph."""
    _executables.remove(handle)


def update_executable(handle: int, graph_handle: int) -> None:
    """Give an executable graph the work of another graph."""
    source, target = _graphs[graph_handle], _executables[handle]
    target.work, target.nodes, target.kept = list(source.work), list(source.nodes), list(source.kept)
