"""How long a launch may go on, and how much memory its threads have: the limits that a user may set."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple


class Limits(NamedTuple):
    """The limits of a launch; `limits` says what they mean."""

    idle: int = 10_000_000
    total: int = 1_000_000_000
    stack: int = 1024
    heap: int = 8 << 20


_current = [Limits()]


def current() -> Limits:
    """Return the limits in force."""
    return _current[0]


class limits:
    """Set the limits of launches, for good or for a `with` block: `emulator.limits(total=10_000_000)`.

    `idle` and `total` count blocks of straight-line code that a wave of threads executes together; a CPU does some
    20,000 to 200,000 of them a second. A launch that goes beyond ends by a HangError. One that is found to go round for
    ever, in loops in which nothing changes any more, ends sooner.

    `stack` and `heap` are CUDA's cudaLimitStackSize and cudaLimitMallocHeapSize, with CUDA's defaults. The stack has
    what a function that calls itself, or is called through a pointer, keeps while it runs: its local variables, the
    registers that its caller needs afterwards, and 8 bytes. On a GPU it may be somewhat more or less.

    Args:
        idle: blocks of code without any change of memory, and without the end of a thread.
        total: blocks of code of one launch.
        stack: bytes for the calls of a thread; beyond them a launch ends by a CallError.
        heap: bytes for the kernels' malloc and new, which return null beyond them.

    Raises:
        ValueError: a limit is below 1.
    """

    def __init__(
        self, idle: int | None = None, total: int | None = None, stack: int | None = None, heap: int | None = None
    ) -> None:
        self._before = _current[0]
        given = {"idle": idle, "total": total, "stack": stack, "heap": heap}
        chosen = {name: value for name, value in given.items() if value is not None}
        for name, value in chosen.items():
            if value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        _current[0] = self._before._replace(**chosen)

    def __enter__(self) -> limits:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current[0] = self._before
