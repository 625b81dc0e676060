"""Timing a call: on the host's clock, or by events on the device's."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Call = Callable[[], object]

MAX_DEVICE_CALLS = 200
"""Calls that one turn times by events, at most: each waits for a flush that takes longer than a small kernel."""


@dataclass(frozen=True)
class Runner:
    """What a contender made of a work, ready to be timed.

    Attributes:
        calls: the same work on arrays of its own each; taken in turn, they find none of them in a cache.
        fault: makes one more call, on arrays that were timed or, if calls change their inputs, on fresh ones,
            and says what is wrong with its results; "" for nothing.
        losses: for a training step, returns the loss before each of the first steps, given their number.
        elapsed: the seconds that a device takes for what it is given by a function, on its own clock; None: the
            host's.
        flush: gives the device work that empties its caches. It takes long enough for the host to run ahead, so
            that the timed call waits for the device and not for the host.
    """

    calls: Sequence[Call]
    fault: Callable[[], str] | None = None
    losses: Callable[[int], list[float]] | None = None
    elapsed: Callable[[Call], float] | None = None
    flush: Call | None = None


def seconds_of_a_call(runner: Runner, budget: float) -> float:
    """Return one sample: as many calls as fit into `budget` seconds, at least one; another one before warms up.

    On the host's clock it is their mean. On a device's clock it is the median of calls that each begin with empty
    caches, or, where there is nothing to flush, the mean over all of them together, as in a training run.
    """
    if runner.elapsed is None:
        return _on_host(runner.calls, budget)
    if runner.flush is None:
        return _together(runner.calls, runner.elapsed, budget)
    return _one_by_one(runner.calls, runner.elapsed, runner.flush, budget)


def _on_host(calls: Sequence[Call], budget: float) -> float:
    waiting = itertools.cycle(calls)
    start = time.perf_counter()
    next(waiting)()
    count = _count(budget, time.perf_counter() - start)
    chosen = list(itertools.islice(waiting, count))
    start = time.perf_counter()
    for call in chosen:
        call()
    return (time.perf_counter() - start) / count


def _together(calls: Sequence[Call], elapsed: Callable[[Call], float], budget: float) -> float:
    waiting = itertools.cycle(calls)
    count = _count(budget, elapsed(next(waiting)))
    chosen = list(itertools.islice(waiting, count))
    return elapsed(lambda: [call() for call in chosen]) / count


def _one_by_one(calls: Sequence[Call], elapsed: Callable[[Call], float], flush: Call, budget: float) -> float:
    def timed(call: Call) -> float:
        flush()
        return elapsed(call)

    waiting = itertools.cycle(calls)
    start = time.perf_counter()
    timed(next(waiting))
    count = min(MAX_DEVICE_CALLS, _count(budget, time.perf_counter() - start))
    return statistics.median(timed(call) for call in itertools.islice(waiting, count))


def _count(budget: float, seconds: float) -> int:
    return max(1, int(budget / max(seconds, 1e-9)))


QUIET_SHARE = 0.1
QUIET_WAIT = 0.02
LONGEST_SETTLING = 1.0


def settle() -> None:
    """Wait until this process's threads have stopped: idle ones of a pool spin for a while before they sleep, and would
    take the cores from whoever is timed next.
    """
    end = time.monotonic() + LONGEST_SETTLING
    while time.monotonic() < end:
        before = time.process_time()
        time.sleep(QUIET_WAIT)
        if time.process_time() - before < QUIET_SHARE * QUIET_WAIT:
            return


def quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the first and third quartile; of a single sample, the sample twice."""
    if len(seconds) == 1:
        return seconds[0], seconds[0]
    first, _, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return first, third
