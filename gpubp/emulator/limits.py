"""How long a launch may go on: the watchdog's limits."""

from __future__ import annotations

from types import TracebackType

IDLE = 10_000_000
TOTAL = 1_000_000_000

_current = [(IDLE, TOTAL)]


def current() -> tuple[int, int]:
    """Return the limits in force: (idle, total)."""
    return _current[0]


class limits:
    """Set how long a launch may go on, for good or for a `with` block: `emulator.limits(total=10_000_000)`.

    Both count blocks of straight-line code that a wave of threads executes together; a CPU does some 20,000 to 200,000
    of them a second. A launch that goes beyond a limit ends by a HangError. One that is found to go round for ever, in
    loops in which nothing changes any more, ends sooner.

    Args:
        idle: without any change of memory, and without the end of a thread.
        total: of one launch.

    Raises:
        ValueError: a limit is below 1.
    """

    def __init__(self, idle: int | None = None, total: int | None = None) -> None:
        self._before = _current[0]
        chosen = (self._before[0] if idle is None else idle, self._before[1] if total is None else total)
        for name, value in zip(("idle", "total"), chosen, strict=True):
            if value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        _current[0] = chosen

    def __enter__(self) -> limits:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current[0] = self._before
