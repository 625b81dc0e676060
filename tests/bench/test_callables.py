"""measure: a function of one's own, on clocks that the tests turn."""

import sys
import types

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.bench import Measurement, callables, measure, measure_in_turns, timing
from gpubp.emulator import cuda
from gpubp.errors import ArgumentError, BackendError, StateError


class Clock:
    """A clock that functions turn."""

    def __init__(self):
        self.now = 0.0

    def taking(self, *seconds):
        """A function whose calls take these times, the last one from then on."""
        left = list(seconds)

        def function():
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return function


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (callables, timing):
        monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
        monkeypatch.setattr(module, "settle", lambda: None)
    return clock


def test_a_call_is_timed_in_turns(clock):
    """Three calls warm up; in a turn one more does, and the rest are its samples."""
    found = measure(clock.taking(9.0, 9.0, 9.0, *4 * [1.0], *2 * [2.0], 3.0), repeats=3, seconds=3.0)
    assert found.seconds == (1.0, 2.0, 3.0)
    assert found.median == 2.0
    assert found.quartiles == (1.5, 2.5)
    assert str(found) == "2.00 s (1.50 s to 2.50 s in 3 turns, on the CPU, with empty caches)"


def test_caches_are_emptied_before_each_call(clock, monkeypatch):
    order = []
    monkeypatch.setattr(callables, "_flush_of_host", lambda: order.append("flush"))
    call = clock.taking(1.0)
    measure(lambda: (order.append("call"), call()), repeats=2, seconds=2.0)
    assert order == ["call"] * 3 + ["flush", "call"] * 6
    order.clear()
    found = measure(lambda: (order.append("call"), call()), repeats=2, seconds=2.0, cold=False)
    assert set(order) == {"call"}
    assert "again and again" in str(found)


def test_what_empties_the_caches_is_as_large_as_the_last_one():
    callables._flush_of_host()
    assert sum(each.nbytes for each in callables._FLUSHED) >= 2 * callables.runners.last_cache()


def test_functions_take_turns(clock):
    order = []

    def named(name, seconds):
        call = clock.taking(seconds)
        return lambda: (order.append(name), call())

    found = measure_in_turns({"a": named("a", 1.0), "b": named("b", 4.0)}, repeats=2, seconds=1.0)
    assert order == [*"aaabbb", *2 * "aabb"]
    assert (found["a"].median, found["b"].median) == (1.0, 4.0)


def test_a_real_function_takes_some_time():
    found = measure(lambda: np.sort(np.zeros(1000)), repeats=2, seconds=0.002)
    assert isinstance(found, Measurement)
    assert len(found.seconds) == 2
    assert 0 < found.median < 1
    assert found.quartiles[0] <= found.median <= found.quartiles[1]


def test_the_emulated_device_is_refused():
    kernel = cp.RawKernel('extern "C" __global__ void f(float* x) { x[0] = 1; }', "f")
    x = cp.zeros(1)

    @cuda.jit
    def written(x):
        x[0] = 1

    for function in (lambda: kernel((1,), (1,), (x,)), lambda: written[1, 1](np.zeros(1))):
        with pytest.raises(StateError, match="function launches kernels on the emulated device, which has no clock"):
            measure(function)
    with pytest.raises(StateError, match="other launches kernels"):
        measure_in_turns({"own": lambda: None, "other": lambda: kernel((1,), (1,), (x,))})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "emulator"}, "device was 'emulator'; it must be one of cpu, gpu"),
        ({"repeats": 0}, "repeats was 0"),
        ({"seconds": 0}, "seconds was 0"),
        ({"seconds": float("nan")}, "seconds was nan"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ArgumentError) as caught:
        measure(lambda: None, **options)
    assert message in str(caught.value)


class Cupy(types.ModuleType):
    """What `measure` asks CuPy for, on a GPU that runs behind the host."""

    def __init__(self, clock, gpus=1):
        super().__init__("cupy")
        self.queued, self.waited, self.clock = 0.0, 0, clock
        runtime = types.SimpleNamespace(getDeviceCount=lambda: gpus)
        self.cuda = types.SimpleNamespace(runtime=runtime, Device=self, Event=self.event, get_elapsed_time=self.between)

    def __call__(self):
        return types.SimpleNamespace(synchronize=self.wait)

    def wait(self):
        self.waited += 1
        self.clock.now += self.queued
        self.queued = 0.0

    def event(self):
        event = types.SimpleNamespace(synchronize=self.wait)
        event.record = lambda: setattr(event, "at", self.clock.now + self.queued)
        return event

    @staticmethod
    def between(start, end):
        return 1e3 * (end.at - start.at)

    def zeros(self, size, dtype):
        return np.zeros(1, dtype)

    def copyto(self, out, source):
        self.queued += 10.0

    def launch(self):
        self.queued += 2.0


def test_a_gpu_is_timed_by_its_own_clock(clock, monkeypatch):
    cupy = Cupy(clock)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    found = measure(cupy.launch, device="gpu", repeats=3, seconds=1.0)
    assert found.seconds == pytest.approx((2.0, 2.0, 2.0))
    assert str(found) == "2.00 s (2.00 s to 2.00 s in 3 turns, on the GPU, with empty caches)"
    monkeypatch.setitem(sys.modules, "cupy", Cupy(clock, gpus=0))
    with pytest.raises(BackendError, match="finds no GPU"):
        measure(cupy.launch, device="gpu")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendError, match="CuPy, which is not installed"):
        measure(cupy.launch, device="gpu")


def test_the_hosts_clock_waits_for_a_gpu(clock, monkeypatch):
    """A function that only gives the GPU work is not taken for a fast one."""
    cupy = Cupy(clock)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    cupy.queued = 0.0
    found = measure(cupy.launch, repeats=2, seconds=1.0)
    assert found.median == pytest.approx(2.0)
    assert cupy.waited > 0
