"""Streams, events and graphs under CuPy's names.

The emulated device does its work at once, so a stream has nothing to wait for. What it can do is record: between
`begin_capture` and `end_capture` launches and copies on the device are kept in a `Graph`, which replays them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import ClassVar

from gpubp.emulator.chip import check_device_id
from gpubp.emulator.errors import EmulatorError

_handles = itertools.count(0x10)
_capturing: dict[int, Stream] = {}  # by their handles
_state = threading.local()


class Graph:
    """Recorded device work; made by `Stream.end_capture`."""

    def __init__(self, steps: list[Callable[[], None]]) -> None:
        self._steps = tuple(steps)

    def launch(self, stream: Stream | None = None) -> None:
        """Replay the recorded work in its order, on what the arrays hold now."""
        target = current(stream)
        for step in self._steps:
            target.submit(step)

    def upload(self, stream: Stream | None = None) -> None:
        """Nothing to do: the recorded work is where it runs."""


class Event:
    """A point in a stream. It has always been reached, for launches have ended when they return."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.ptr = next(_handles)

    @property
    def done(self) -> bool:
        return True

    def record(self, stream: Stream | None = None) -> None:
        current(stream).check_not_capturing("an event record")

    def synchronize(self) -> None:
        """Nothing to wait for."""


class Stream:
    """A stream; also a context manager that makes it the current one. `Stream.null` is the default stream."""

    null: ClassVar[Stream]

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        self.ptr = 0 if null else 2 if ptds else next(_handles)
        self.device_id = 0
        self._recorded: list[Callable[[], None]] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self) -> int:
        return hash(self.ptr)

    def __repr__(self) -> str:
        return f"<emulated Stream {self.ptr}>"

    def __enter__(self) -> Stream:
        _stack().append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _stack().pop()

    def use(self) -> Stream:
        """Make this the current stream of the thread."""
        _stack()[-1] = self
        return self

    @property
    def done(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Nothing to wait for; an error while the stream is capturing, as on a GPU."""
        self.check_not_capturing("synchronize")

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self.check_not_capturing("wait_event")

    def begin_capture(self, mode: int | None = None) -> None:
        """Record the work of this stream from here on, instead of doing it.

        Raises:
            EmulatorError: the default stream, which cannot be captured, or a stream that is capturing already.
        """
        if self.ptr == 0:
            raise EmulatorError("the default stream cannot be captured: make a Stream(non_blocking=True)")
        self.check_not_capturing("begin_capture")
        self._recorded = []
        _capturing[self.ptr] = self

    def end_capture(self) -> Graph:
        if self._recorded is None:
            raise EmulatorError("end_capture on a stream that is not capturing")
        steps, self._recorded = self._recorded, None
        del _capturing[self.ptr]
        return Graph(steps)

    def is_capturing(self) -> bool:
        return self._recorded is not None

    def submit(self, step: Callable[[], None]) -> None:
        """Do a piece of device work, or keep it if the stream is capturing."""
        if self._recorded is None:
            step()
        else:
            self._recorded.append(step)

    def check_not_capturing(self, what: str) -> None:
        """Raise EmulatorError for work that a GPU does not allow in a capture."""
        if self._recorded is not None:
            raise EmulatorError(f"{what} is not allowed while the stream is capturing")


class ExternalStream(Stream):
    """A stream of another library, by its handle."""

    def __init__(self, ptr: int, device_id: int = -1) -> None:
        check_device_id(device_id)
        super().__init__(null=True)
        self.ptr = ptr


Stream.null = Stream(null=True)


def _stack() -> list[Stream]:
    if not hasattr(_state, "streams"):
        _state.streams = [Stream.null]
    return _state.streams


def get_current_stream(device_id: int = -1) -> Stream:
    """Return the current stream of this thread."""
    check_device_id(device_id)
    return _stack()[-1]


def current(stream: Stream | None) -> Stream:
    """Return `stream`, or the current one if it is None."""
    return get_current_stream() if stream is None else stream


def submit(handle: int, step: Callable[[], None]) -> None:
    """Do a piece of device work on the stream of this handle, or keep it if that stream is capturing."""
    stream = _capturing.get(handle)
    if stream is None:
        step()
    else:
        stream.submit(step)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Raise EmulatorError: the emulated device measures no time.

    Raises:
        EmulatorError: always.
    """
    raise EmulatorError("the emulated device measures no time: get_elapsed_time needs a GPU")
