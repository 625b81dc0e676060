"""Streams, events, captures and graphs, by the rules of the CUDA Driver API's documentation."""

import threading

import pytest

from gpubp.emulator.driver import streams
from gpubp.emulator.driver.streams import (
    CAPTURE_MODE_GLOBAL,
    CAPTURE_MODE_RELAXED,
    CAPTURE_MODE_THREAD_LOCAL,
    LEGACY,
    NON_BLOCKING,
    PER_THREAD,
)

pytestmark = pytest.mark.usefixtures("no_capture")
UNSUPPORTED, INVALIDATED = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"


@pytest.fixture
def done():
    """Notes of the work that was done."""
    return []


def in_a_thread(function):
    """Return what a function returns, or raises, in another thread."""
    found = []

    def run():
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_work_is_done_when_it_is_submitted(done):
    stream = streams.create_stream()
    streams.submit(stream, lambda: done.append(1))
    assert done == [1]
    streams.synchronize(stream)
    streams.query(stream)


def test_handles(fails):
    stream, event = streams.create_stream(NON_BLOCKING, -9), streams.create_event()
    assert streams.stream(stream).flags == NON_BLOCKING
    assert streams.stream(stream).priority == -5  # the greatest
    streams.destroy_stream(stream)
    streams.destroy_event(event)
    fails("CUDA_ERROR_INVALID_HANDLE", f"{stream:#x} is no stream", streams.synchronize, stream)
    fails("CUDA_ERROR_INVALID_HANDLE", f"{event:#x} is no event", streams.query_event, event)
    fails("CUDA_ERROR_INVALID_HANDLE", "0x0 is no event", streams.record_event, 0, 0)
    fails("CUDA_ERROR_INVALID_HANDLE", f"{event:#x} is no stream", streams.synchronize, event)
    for default in (0, LEGACY, PER_THREAD):
        fails("CUDA_ERROR_INVALID_HANDLE", "default stream", streams.destroy_stream, default)


def test_flags(fails):
    fails("CUDA_ERROR_INVALID_VALUE", r"flags is 2: it must be 0 or 1", streams.create_stream, 2)
    fails("CUDA_ERROR_INVALID_VALUE", r"Flags is 0x8", streams.create_event, 8)
    stream, event = streams.create_stream(), streams.create_event(1)
    fails("CUDA_ERROR_INVALID_VALUE", r"flags is 2", streams.wait_event, stream, event, 2)
    fails("CUDA_ERROR_INVALID_VALUE", r"external.*not capturing", streams.wait_event, stream, event, 1)
    fails("CUDA_ERROR_INVALID_VALUE", r"external.*not capturing", streams.record_event, event, stream, 1)
    fails("CUDA_ERROR_INVALID_VALUE", r"mode is 3", streams.begin_capture, stream, 3)
    fails("CUDA_ERROR_INVALID_VALUE", r"mode is 7", streams.exchange_mode, 7)


def test_default_streams():
    assert streams.stream(0) is streams.stream(LEGACY)
    mine = streams.stream(PER_THREAD)
    assert mine is streams.stream(PER_THREAD)
    assert mine is not in_a_thread(lambda: streams.stream(PER_THREAD))
    with streams.per_thread_default():
        assert streams.stream(0) is mine
        assert streams.stream(LEGACY) is not mine
        assert in_a_thread(lambda: streams.stream(0)) is streams.stream(LEGACY)
    assert streams.stream(0) is streams.stream(LEGACY)


def test_times_are_refused(fails):
    start, end, untimed = streams.create_event(), streams.create_event(), streams.create_event(2)
    fails("CUDA_ERROR_NOT_SUPPORTED", "measures no time", streams.elapsed, start, end)
    fails("CUDA_ERROR_INVALID_HANDLE", "CU_EVENT_DISABLE_TIMING", streams.elapsed, start, untimed)
    fails("CUDA_ERROR_INVALID_HANDLE", "0x7 is no event", streams.elapsed, 7, end)


# --- captures ---------------------------------------------------------------------------------------------------------
def test_a_capture_keeps_the_work_and_each_launch_does_it(done):
    stream = streams.create_stream()
    streams.begin_capture(stream)
    number = streams.capture_status(stream)
    streams.submit(stream, lambda: done.append(len(done)), "first")
    assert number[0] == 1
    assert done == []
    graph = streams.end_capture(stream)
    assert streams.capture_status(stream) == (0, 0)
    assert streams.graph(graph).nodes == ["first"]
    executable = streams.instantiate(graph)
    streams.destroy_graph(graph)
    streams.launch_graph(executable, stream)
    streams.launch_graph(executable, 0)
    assert done == [0, 1]


def test_a_graph_within_a_graph(done):
    stream = streams.create_stream()
    streams.begin_capture(stream)
    streams.submit(stream, lambda: done.append("inner"))
    inner = streams.instantiate(streams.end_capture(stream))
    streams.begin_capture(stream)
    streams.launch_graph(inner, stream)
    streams.submit(stream, lambda: done.append("outer"))
    outer = streams.instantiate(streams.end_capture(stream))
    assert done == []
    streams.launch_graph(outer, stream)
    assert done == ["inner", "outer"]


def test_streams_fork_and_join(done):
    first, second = streams.create_stream(), streams.create_stream()
    forked, joined = streams.create_event(), streams.create_event()
    streams.begin_capture(first)
    streams.submit(first, lambda: done.append(1))
    streams.record_event(forked, first)
    streams.wait_event(second, forked)
    assert streams.capture_status(second) == streams.capture_status(first)
    streams.submit(second, lambda: done.append(2))
    streams.record_event(joined, second)
    streams.wait_event(first, joined)
    streams.submit(first, lambda: done.append(3))
    executable = streams.instantiate(streams.end_capture(first))
    assert streams.capture_status(second) == (0, 0)
    streams.launch_graph(executable, first)
    assert done == [1, 2, 3]


@pytest.mark.parametrize("late", [False, True], ids=["never joined", "joined, then more"])
def test_work_that_is_not_joined(late, fails):
    first, second, event = streams.create_stream(), streams.create_stream(), streams.create_event()
    streams.begin_capture(first)
    streams.record_event(event, first)
    streams.wait_event(second, event)
    streams.submit(second, lambda: None)
    if late:
        streams.record_event(event, second)
        streams.wait_event(first, event)
        streams.submit(second, lambda: None)
    fails("CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "all work of other streams", streams.end_capture, first)
    assert streams.capture_status(first) == streams.capture_status(second) == (0, 0)


def test_the_beginning_and_the_end(fails):
    stream, other, event = streams.create_stream(), streams.create_stream(), streams.create_event()
    fails("CUDA_ERROR_ILLEGAL_STATE", "not capturing", streams.end_capture, stream)
    fails(UNSUPPORTED, "default stream, which cannot capture", streams.begin_capture, 0)
    streams.begin_capture(stream)
    fails("CUDA_ERROR_ILLEGAL_STATE", "capturing already", streams.begin_capture, stream)
    streams.record_event(event, stream)
    streams.wait_event(other, event)
    fails("CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "not the stream that began", streams.end_capture, other)
    assert streams.capture_status(stream)[0] == 2
    fails(INVALIDATED, "another stream", streams.end_capture, stream)


@pytest.mark.parametrize(
    ("forbidden", "result"),
    [
        (streams.synchronize, UNSUPPORTED),
        (streams.query, UNSUPPORTED),
        (lambda _: streams.check_not_capturing("an allocation"), UNSUPPORTED),
        (lambda _: streams.submit(0, lambda: None), "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"),
        (lambda _: streams.synchronize(LEGACY), "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"),
        (lambda _: streams.record_event(streams.create_event(), 0), "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"),
        (lambda stream: event_of(stream, streams.query_event), "CUDA_ERROR_CAPTURED_EVENT"),
        (lambda stream: event_of(stream, streams.synchronize_event), "CUDA_ERROR_CAPTURED_EVENT"),
        (
            lambda stream: event_of(stream, lambda event: streams.wait_event(0, event)),
            "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
        ),
    ],
    ids=["synchronize", "query", "allocate", "default", "default synchronize", "default record", "query event",
         "synchronize event", "default waits"],
)  # fmt: skip
def test_what_spoils_a_capture(forbidden, result, fails):
    stream = streams.create_stream()
    streams.begin_capture(stream)
    fails(result, "captur", forbidden, stream)
    assert streams.capture_status(stream)[0] == 2
    fails(INVALIDATED, "while the stream was capturing", streams.submit, stream, lambda: None)
    fails(INVALIDATED, "while the stream was capturing", streams.end_capture, stream)
    streams.submit(0, lambda: None)  # and all is well again


def event_of(stream, use):
    """Use an event that a capturing stream has recorded."""
    event = streams.create_event()
    streams.record_event(event, stream)
    use(event)


def test_a_stream_that_does_not_block_leaves_the_default_stream_alone(done):
    stream = streams.create_stream(NON_BLOCKING)
    streams.begin_capture(stream)
    streams.submit(0, lambda: done.append(1))
    assert done == [1]
    streams.end_capture(stream)


def test_an_event_of_outside(fails):
    stream, event = streams.create_stream(), streams.create_event()
    streams.begin_capture(stream)
    streams.wait_event(stream, event)  # never recorded: there is nothing to wait for
    streams.record_event(event, streams.create_stream())
    fails("CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "of no capture", streams.wait_event, stream, event)
    fails(INVALIDATED, "recorded outside", streams.end_capture, stream)


def test_two_captures_do_not_meet(fails):
    first, second, event = streams.create_stream(), streams.create_stream(), streams.create_event()
    streams.begin_capture(first)
    streams.begin_capture(second)
    streams.record_event(event, first)
    fails("CUDA_ERROR_STREAM_CAPTURE_MERGE", "two captures", streams.wait_event, second, event)
    for stream in (first, second):
        fails(INVALIDATED, "of another one", streams.end_capture, stream)


def test_an_event_of_a_capture_that_has_ended(fails):
    stream, event = streams.create_stream(), streams.create_event()
    streams.begin_capture(stream)
    streams.record_event(event, stream)
    streams.end_capture(stream)
    fails("CUDA_ERROR_CAPTURED_EVENT", "has ended", streams.wait_event, stream, event)
    fails("CUDA_ERROR_CAPTURED_EVENT", "was capturing", streams.query_event, event)
    streams.record_event(event, stream)
    streams.wait_event(stream, event)
    streams.query_event(event)


def test_a_stream_that_is_destroyed_while_it_captures(fails):
    first, second, event = streams.create_stream(), streams.create_stream(), streams.create_event()
    streams.begin_capture(first)
    streams.record_event(event, first)
    streams.wait_event(second, event)
    streams.destroy_stream(second)
    fails(INVALIDATED, "was destroyed", streams.end_capture, first)
    streams.begin_capture(first)
    streams.destroy_stream(first)
    streams.check_not_capturing("an allocation")


# --- threads ----------------------------------------------------------------------------------------------------------
def test_only_the_thread_that_began_may_end(fails):
    stream = streams.create_stream()
    streams.begin_capture(stream)
    assert in_a_thread(lambda: streams.end_capture(stream)).result == "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD"
    streams.end_capture(stream)
    streams.begin_capture(stream, CAPTURE_MODE_RELAXED)
    assert in_a_thread(lambda: streams.end_capture(stream)) > 0


@pytest.mark.parametrize("capture", [CAPTURE_MODE_GLOBAL, CAPTURE_MODE_THREAD_LOCAL, CAPTURE_MODE_RELAXED])
@pytest.mark.parametrize("mode", [CAPTURE_MODE_GLOBAL, CAPTURE_MODE_THREAD_LOCAL, CAPTURE_MODE_RELAXED])
@pytest.mark.parametrize("own", [True, False], ids=["own", "other"])
def test_who_may_not_allocate(capture, mode, own):
    """By the table in the documentation of cuThreadExchangeStreamCaptureMode."""
    forbidden = {True: capture != CAPTURE_MODE_RELAXED, False: capture == mode == CAPTURE_MODE_GLOBAL}[own]
    forbidden &= mode != CAPTURE_MODE_RELAXED
    stream = streams.create_stream(NON_BLOCKING)
    streams.begin_capture(stream, capture)

    def allocate():
        before = streams.exchange_mode(mode)
        assert before == CAPTURE_MODE_GLOBAL
        try:
            streams.check_not_capturing("an allocation")
        finally:
            assert streams.exchange_mode(before) == mode

    try:
        error = allocate() if own else in_a_thread(allocate)
    except Exception as raised:
        error = raised
    assert getattr(error, "result", None) == (UNSUPPORTED if forbidden else None)
    assert streams.capture_status(stream)[0] == (2 if forbidden else 1)


# --- graphs -----------------------------------------------------------------------------------------------------------
def graph_of(*pieces):
    """Return a graph that does pieces of work."""
    stream = streams.create_stream()
    streams.begin_capture(stream)
    for piece in pieces:
        streams.submit(stream, piece)
    return streams.end_capture(stream)


def test_a_graph_is_updated(done, fails):
    executable = streams.instantiate(graph_of(lambda: done.append(1)))
    streams.update_executable(executable, graph_of(lambda: done.append(2)))
    streams.launch_graph(executable, 0)
    assert done == [2]
    larger = graph_of(lambda: None, lambda: None)
    fails(
        "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE",
        "hGraph has 2 nodes, and hGraphExec 1",
        streams.update_executable,
        executable,
        larger,
    )
    streams.launch_graph(executable, 0)
    assert done == [2, 2]


def test_graphs_are_forgotten(fails):
    graph = graph_of()
    executable = streams.instantiate(graph, 8)
    streams.upload_graph(executable, 0)
    streams.destroy_graph(graph)
    streams.destroy_executable(executable)
    fails("CUDA_ERROR_INVALID_HANDLE", "is no graph", streams.instantiate, graph)
    fails("CUDA_ERROR_INVALID_HANDLE", "is no graphExec", streams.launch_graph, executable, 0)
    fails("CUDA_ERROR_INVALID_HANDLE", "is no graphExec", streams.upload_graph, executable, 0)


def test_flags_of_graphs(fails):
    graph = graph_of()
    fails("CUDA_ERROR_NOT_SUPPORTED", "from kernels", streams.instantiate, graph, 4)
    fails("CUDA_ERROR_INVALID_VALUE", "flags is 0x10", streams.instantiate, graph, 16)


def test_what_graphs_keep(done, fails):
    """A thing is destroyed with its last reference: the program's, the graph's, or that of an executable graph."""
    thing = streams.create_object(lambda: done.append("gone"), 1)
    graph = graph_of()
    streams.keep_object(graph, thing, 1, moves=True)
    executable, clone = streams.instantiate(graph), streams.clone_graph(graph)
    streams.update_executable(executable, graph)
    streams.destroy_graph(graph)
    streams.destroy_executable(executable)
    streams.keep_object(clone, thing, 2, moves=False)
    streams.drop_object(clone, thing, 1)
    fails("CUDA_ERROR_INVALID_VALUE", "count is 3: the graph has 2", streams.drop_object, clone, thing, 3)
    assert done == []
    streams.destroy_graph(clone)
    assert done == ["gone"]
    fails("CUDA_ERROR_INVALID_HANDLE", "is no user object", streams.retain_object, thing, 1)


def test_references(done, fails):
    thing = streams.create_object(lambda: done.append("gone"), 1)
    streams.retain_object(thing, 2)
    fails("CUDA_ERROR_INVALID_VALUE", "count is 4: it must be 1 to 3", streams.release_object, thing, 4)
    streams.release_object(thing, 3)
    assert done == ["gone"]
    fails("CUDA_ERROR_INVALID_VALUE", "initialRefcount is 0", streams.create_object, lambda: None, 0)
