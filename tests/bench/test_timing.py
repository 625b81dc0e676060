"""Timing, on clocks that the tests turn."""

import itertools

import pytest

from gpubp.bench import timing
from gpubp.bench.timing import Runner, seconds_of_a_call


class Clock:
    """A clock that calls turn."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def call(self, *seconds):
        """A call that takes these times in turn."""
        taken = itertools.cycle(seconds)

        def work():
            self.now += next(taken)

        return work


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_on_the_host_it_is_the_mean_of_as_many_calls_as_fit(clock):
    calls = []
    first, second = clock.call(1.0), clock.call(3.0)
    runner = Runner([lambda: (calls.append("first"), first()), lambda: (calls.append("second"), second())])
    assert seconds_of_a_call(runner, 4.0) == pytest.approx(2.0)
    assert calls == ["first", "second", "first", "second", "first"], "one warms up, four are timed, arrays take turns"


def test_at_least_one_call_is_timed(clock):
    assert seconds_of_a_call(Runner([clock.call(5.0)]), 0.0) == pytest.approx(5.0)


def test_on_a_device_each_call_is_timed_after_a_flush(clock):
    order = []

    def elapsed(work):
        order.append("timed")
        before = clock.now
        work()
        return (clock.now - before) / 10  # the device's clock is not the host's

    def flush():
        order.append("flush")
        clock.now += 1.0

    runner = Runner([clock.call(1.0, 1.0, 1.0, 9.0)], elapsed=elapsed, flush=flush)
    assert seconds_of_a_call(runner, 7.0) == pytest.approx(0.1), "the median of three: 0.1, 0.1, 0.9"
    assert order == ["flush", "timed"] * 4


def test_on_a_device_few_enough_calls_wait_for_a_flush(clock):
    count = []
    runner = Runner([lambda: count.append(1)], elapsed=lambda work: work() or 1e-9, flush=clock.call(1e-9))
    seconds_of_a_call(runner, 100.0)
    assert len(count) == 1 + timing.MAX_DEVICE_CALLS


def test_on_a_device_steps_are_timed_together():
    together = []

    def elapsed(work):
        made = []
        together.append(made)
        calls.append = made.append
        work()
        return 0.5 * len(made)

    class Calls:
        append = None

    calls = Calls()
    runner = Runner([lambda: calls.append(1)], elapsed=elapsed)
    assert seconds_of_a_call(runner, 2.0) == pytest.approx(0.5)
    assert [len(each) for each in together] == [1, 4]


def test_settling_ends_when_the_threads_are_quiet(monkeypatch):
    work = iter([0.0, 0.02, 0.02, 0.03, 0.03, 0.0301])
    naps = []
    monkeypatch.setattr(timing.time, "process_time", lambda: next(work))
    monkeypatch.setattr(timing.time, "sleep", naps.append)
    timing.settle()
    assert len(naps) == 3, "the third nap is the first in which they worked less than a tenth of it"
