"""Streams, events and graphs: work is done when it is submitted, or kept while its stream is capturing.

So a failing kernel fails the call that launches it, as with CUDA_LAUNCH_BLOCKING=1, and no error sticks: what a program
does after one is done. What capturing streams forbid is what the CUDA Driver API's documentation says of
cuStreamBeginCapture and cuThreadExchangeStreamCaptureMode.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """Work in an order in which it may be done; `kept` lives as long as the graph.

    Attributes:
        objects: handles of what the program lets it keep, with its references.
    """

    work: list[Work] = field(default_factory=list)
    nodes: list[object] = field(default_factory=list)
    kept: list[object] = field(default_factory=list)
    objects: dict[int, int] = field(default_factory=dict)

    def copy(self) -> Graph:
        """Return a graph that does the same, and keeps what this one keeps."""
        for handle in self.objects:
            retain_object(handle, 1)
        return Graph(list(self.work), list(self.nodes), list(self.kept), dict.fromkeys(self.objects, 1))

    def end(self) -> None:
        """Release what the program lets the graph keep."""
        for handle, count in self.objects.items():
            release_object(handle, count)


@dataclass(eq=False)
class UserObject:
    """A program's own thing that graphs keep: `destroy` is called when the last reference is released."""

    destroy: Work
    references: int


@dataclass(eq=False)
class Capture:
    """What streams record together: the one that began it, and those that have waited for it since.

    Attributes:
        ends: the pieces of work that no other piece comes after.
        fault: what was done that a capture does not allow, "" as long as all is well.
        thread: which began it.
    """

    number: int
    origin: Stream
    mode: int
    graph: Graph
    members: list[Stream] = field(default_factory=list)
    ends: set[int] = field(default_factory=set)
    fault: str = ""
    thread: int = field(default_factory=threading.get_ident)


@dataclass(eq=False)
class Stream:
    """A stream; `capture` is what it takes part in, and `after` the pieces of it that its next work comes after."""

    flags: int = NON_BLOCKING
    priority: int = 0
    is_default: bool = False
    capture: Capture | None = None
    after: set[int] = field(default_factory=set)


@dataclass(eq=False)
class Event:
    """A point in a stream; `capture` is that of the stream it was recorded in, `after` the pieces of work before it."""

    flags: int = 0
    is_recorded: bool = False
    capture: Capture | None = None
    after: set[int] = field(default_factory=set)


_streams: Handles[Stream] = Handles("stream")
_events: Handles[Event] = Handles("event")
_graphs: Handles[Graph] = Handles("graph")
_executables: Handles[Graph] = Handles("graphExec")
_default = Stream(flags=DEFAULT, is_default=True)
_thread = threading.local()
_captures = 0
_capturing: set[Capture] = set()


def stream(handle: int) -> Stream:
    """Return the stream of a handle.

    Raises:
        DriverError: CUDA_ERROR_INVALID_HANDLE.
    """
    if handle == LEGACY or (handle == 0 and not getattr(_thread, "has_default", False)):
        return _default
    if handle in (0, PER_THREAD):
        if not hasattr(_thread, "stream"):
            _thread.stream = Stream(flags=DEFAULT)
        return _thread.stream
    return _streams[handle]


@contextmanager
def per_thread_default() -> Iterator[None]:
    """Let stream 0 be this thread's own default stream, as for programs compiled so."""
    before = getattr(_thread, "has_default", False)
    _thread.has_default = True
    try:
        yield
    finally:
        _thread.has_default = before


def create_stream(flags: int = DEFAULT, priority: int = 0) -> int:
    """Return the handle of a new stream."""
    if flags not in (DEFAULT, NON_BLOCKING):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags}: it must be 0 or 1 (non-blocking)")
    return _streams.add(Stream(flags, max(-5, min(0, priority))))


def destroy_stream(handle: int) -> None:
    """Forget a stream. A capture that it takes part in is spoilt, and ends if the stream began it."""
    if handle in (0, LEGACY, PER_THREAD):
        raise DriverError("CUDA_ERROR_INVALID_HANDLE", "hStream is a default stream: it cannot be destroyed")
    removed = _streams.remove(handle)
    if removed.capture is not None:
        _spoil(removed.capture, "a stream that takes part was destroyed")
        if removed.capture.origin is removed:
            _end(removed.capture)


def submit(handle: int, work: Work, node: object = None) -> None:
    """Do a piece of the device's work, or keep it if the stream is capturing.

    Args:
        work: does it.
        node: what a graph shows of it.
    """
    target = stream(handle)
    _check_default_is_free(target)
    if target.capture is None:
        work()
    else:
        _check_whole(target.capture)
        target.capture.ends -= target.after
        target.after = {len(target.capture.graph.work)}
        target.capture.ends |= target.after
        target.capture.graph.work.append(work)
        target.capture.graph.nodes.append(node)


def _spoil(capture: Capture, fault: str) -> None:
    capture.fault = capture.fault or fault


def _check_whole(capture: Capture) -> None:
    if capture.fault:
        raise DriverError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", f"while the stream was capturing, {capture.fault}")


def _check_default_is_free(target: Stream) -> None:
    """The legacy default stream waits for blocking streams, so it must not be used while one of them is capturing."""
    if target.is_default:
        waiting = [each for each in _capturing if any(member.flags == DEFAULT for member in each.members)]
        for capture in waiting:
            _spoil(capture, "the default stream was used, which waits for streams that are capturing")
        if waiting:
            raise DriverError(
                "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "a blocking stream is capturing, and this uses stream 0"
            )


def check_not_capturing(what: str) -> None:
    """Refuse what a GPU does not allow while a stream is capturing, such as an allocation.

    Captures of this thread forbid it, and those of other threads in the mode GLOBAL; none forbids it if the one's mode
    or the other's is RELAXED.

    Raises:
        DriverError: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED; the captures are spoilt.
    """
    mode = getattr(_thread, "mode", CAPTURE_MODE_GLOBAL)
    forbidding = [] if mode == CAPTURE_MODE_RELAXED else [each for each in _capturing if _forbids(each, mode)]
    for capture in forbidding:
        _spoil(capture, f"{what} was called for")
    if forbidding:
        raise DriverError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", f"{what} while a stream is capturing")


def _forbids(capture: Capture, mode: int) -> bool:
    if capture.thread == threading.get_ident():
        return capture.mode != CAPTURE_MODE_RELAXED
    return capture.mode == mode == CAPTURE_MODE_GLOBAL


def exchange_mode(mode: int) -> int:
    """Set what captures forbid this thread, and return what it was before: one of the modes of captures.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: there is no such mode.
    """
    _check_mode(mode)
    before = getattr(_thread, "mode", CAPTURE_MODE_GLOBAL)
    _thread.mode = mode
    return before


def _check_mode(mode: int) -> None:
    if mode not in (CAPTURE_MODE_GLOBAL, CAPTURE_MODE_THREAD_LOCAL, CAPTURE_MODE_RELAXED):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"mode is {mode}: it must be 0, 1 or 2")


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
    _check_default_is_free(target)
    if target.capture is not None:
        _spoil(target.capture, what)
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
_EVENT_FLAGS = 7
_DISABLE_TIMING = 2


def create_event(flags: int = 0) -> int:
    """Return the handle of a new event."""
    if flags & ~_EVENT_FLAGS:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"Flags is {flags:#x}: it must be of the bits {_EVENT_FLAGS:#x}")
    return _events.add(Event(flags))


def destroy_event(handle: int) -> None:
    """Forget an event."""
    _events.remove(handle)


def record_event(handle: int, stream_handle: int, flags: int = 0) -> None:
    """Record an event in a stream; if that is capturing, streams that wait for the event take part in the capture."""
    event, source = _events[handle], stream(stream_handle)
    _check_external(source, flags)
    _check_default_is_free(source)
    event.is_recorded, event.capture, event.after = True, source.capture, set(source.after)


def _check_external(target: Stream, flags: int) -> None:
    """Refuse the flag by which an event of outside becomes a part of a graph: it is invalid outside of captures."""
    if flags not in (0, 1):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags}: it must be 0 or 1 (external)")
    if flags and target.capture is None:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", "flags is 1 (external), and the stream is not capturing")
    if flags:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device has no external events in graphs")


def wait_event(stream_handle: int, handle: int, flags: int = 0) -> None:
    """Let a stream wait for an event: it has happened, unless it is one of a capture, which the stream then joins.

    Raises:
        DriverError: the stream takes part in another capture, or is the default stream. The event was recorded in a
            capture that has ended.
    """
    event, target = _events[handle], stream(stream_handle)
    _check_external(target, flags)
    if event.capture is None:
        _check_default_is_free(target)
        if target.capture is not None and event.is_recorded:
            _spoil(target.capture, "a stream waited for an event that was recorded outside of the capture")
            raise DriverError(
                "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "the stream captures, and the event is of no capture"
            )
        return
    _check_running(event.capture)
    if target.is_default:
        _spoil(event.capture, "the default stream waited for an event of the capture")
        raise DriverError("CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "the default stream cannot take part in a capture")
    if target.capture is not None and target.capture is not event.capture:
        for each in (target.capture, event.capture):
            _spoil(each, "a stream of one capture waited for an event of another one")
        raise DriverError("CUDA_ERROR_STREAM_CAPTURE_MERGE", "the stream and the event take part in two captures")
    if target.capture is None:
        target.capture = event.capture
        event.capture.members.append(target)
    target.after |= event.after


def _check_running(capture: Capture) -> None:
    if capture not in _capturing:
        raise DriverError("CUDA_ERROR_CAPTURED_EVENT", "the event was last recorded in a capture, which has ended")


def query_event(handle: int) -> None:
    """Ask whether an event has happened: it has."""
    _refuse_captured(_events[handle])


def synchronize_event(handle: int) -> None:
    """Wait for an event: it has happened."""
    _refuse_captured(_events[handle])


def _refuse_captured(event: Event) -> None:
    if event.capture is not None:
        _spoil(event.capture, "an event of the capture was asked for")
        raise DriverError("CUDA_ERROR_CAPTURED_EVENT", "the event was last recorded in a stream that was capturing")


def elapsed(start: int, end: int) -> float:
    """Refuse to measure time.

    Raises:
        DriverError: CUDA_ERROR_INVALID_HANDLE: an event was created without timing. Else CUDA_ERROR_NOT_SUPPORTED.
    """
    for handle in (start, end):
        if _events[handle].flags & _DISABLE_TIMING:
            raise DriverError("CUDA_ERROR_INVALID_HANDLE", "the event was created with CU_EVENT_DISABLE_TIMING")
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
    _check_mode(mode)
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
            began. CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD: another thread began, not in the mode RELAXED.
            CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: something was called that a capture does not allow.
            CUDA_ERROR_STREAM_CAPTURE_UNJOINED: the stream has not waited for all work of the other streams.
    """
    origin = stream(handle)
    capture = origin.capture
    if capture is None:
        raise DriverError("CUDA_ERROR_ILLEGAL_STATE", "hStream is not capturing")
    if capture.origin is not origin:
        _spoil(capture, "another stream than that which began should end it")
        raise DriverError("CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "hStream is not the stream that began the capture")
    if capture.thread != threading.get_ident() and capture.mode != CAPTURE_MODE_RELAXED:
        raise DriverError("CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "another thread began the capture")
    joined = capture.ends <= origin.after
    _end(capture)
    _check_whole(capture)
    if not joined:
        raise DriverError("CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "hStream has not waited for all work of other streams")
    return _graphs.add(capture.graph)


def _end(capture: Capture) -> None:
    for member in capture.members:
        member.capture, member.after = None, set()
    _capturing.discard(capture)


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


def clone_graph(handle: int) -> int:
    """Return the handle of a copy of a graph."""
    return _graphs.add(_graphs[handle].copy())


def destroy_graph(handle: int) -> None:
    """Forget a graph; what was instantiated from it stays."""
    _graphs.remove(handle).end()


def instantiate(handle: int, flags: int = 0) -> int:
    """Return the handle of an executable copy of a graph."""
    source = _graphs[handle]
    _check_instantiation(flags)
    return _executables.add(source.copy())


_INSTANTIATE_FLAGS, _DEVICE_LAUNCH = 0b1111, 4


def _check_instantiation(flags: int) -> None:
    """Refuse graphs that kernels launch. The other flags change nothing here: memory to free, uploads, priorities."""
    if flags & ~_INSTANTIATE_FLAGS:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags:#x}: it must be of {_INSTANTIATE_FLAGS:#x}")
    if flags & _DEVICE_LAUNCH:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device launches no graph from kernels")


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
    _executables.remove(handle).end()


def update_executable(handle: int, graph_handle: int) -> None:
    """Give an executable graph the work of another graph.

    Raises:
        DriverError: CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE: that has more pieces of work, or fewer.
    """
    source, target = _graphs[graph_handle], _executables[handle]
    if len(source.work) != len(target.work):
        raise DriverError(
            "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE",
            f"hGraph has {len(source.work)} nodes, and hGraphExec {len(target.work)}",
        )
    target.end()
    new = source.copy()
    target.work, target.nodes, target.kept, target.objects = new.work, new.nodes, new.kept, new.objects


# --- what graphs keep -------------------------------------------------------------------------------------------------
_objects: Handles[UserObject] = Handles("user object")


def create_object(destroy: Work, references: int) -> int:
    """Return the handle of a thing that graphs may keep.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: there is no reference to it.
    """
    if references < 1:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"initialRefcount is {references}: it must be at least 1")
    return _objects.add(UserObject(destroy, references))


def retain_object(handle: int, count: int) -> None:
    """Add references to a thing."""
    _objects[handle].references += count


def release_object(handle: int, count: int) -> None:
    """Release references to a thing, which is destroyed with the last one.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: there are fewer.
    """
    found = _objects[handle]
    if not 0 < count <= found.references:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"count is {count}: it must be 1 to {found.references}")
    found.references -= count
    if not found.references:
        _objects.remove(handle).destroy()


def keep_object(graph_handle: int, handle: int, count: int, moves: bool) -> None:
    """Let a graph keep a thing: by new references, or by those that the program has."""
    if not moves:
        retain_object(handle, count)
    objects = _graphs[graph_handle].objects
    objects[handle] = objects.get(handle, 0) + count


def drop_object(graph_handle: int, handle: int, count: int) -> None:
    """Let a graph release a thing.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: it has fewer references.
    """
    objects = _graphs[graph_handle].objects
    if not 0 < count <= objects.get(handle, 0):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"count is {count}: the graph has {objects.get(handle, 0)}")
    objects[handle] -= count
    if not objects[handle]:
        del objects[handle]
    release_object(handle, count)
