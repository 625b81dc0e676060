"""This project's backends as contenders: what they compute is checked, and a GPU's time is the GPU's own."""

from dataclasses import replace

import numpy as np
import pytest

from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.bench import own, runners, turns
from gpubp.bench.timing import seconds_of_a_call
from gpubp.bench.works import STEPS, Primitive
from gpubp.costs import MATRICES, PRIMITIVES, PRODUCTS
from gpubp.crosscheck.cases import mixed_dtypes

MIXED = [(primitive, dtype) for primitive in PRIMITIVES for dtype in mixed_dtypes(primitive)]


def small(primitive, dtype="float32"):
    shape = (5, 7, 9) if primitive in PRODUCTS else (5, 7) if primitive in MATRICES else (35,)
    return Primitive(primitive, shape, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_the_reference_passes_its_own_check(primitive, dtype):
    runner = own.make(small(primitive, dtype))
    for call in runner.calls[:2]:
        call()
    assert runner.fault() == ""


@pytest.mark.parametrize(("primitive", "dtype"), MIXED)
def test_what_tensor_cores_compute_is_checked_too(primitive, dtype):
    assert own.make(small(primitive, dtype)).fault() == ""


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16", "float16"])
def test_a_step_in_mixed_precision_comes_close_to_the_reference(dtype):
    step = replace(STEPS["tiny"], dtype=dtype)
    losses = own.make(step).losses(turns.CHECKED_STEPS)
    assert turns.differing_losses(losses, own.reference_losses(step, turns.CHECKED_STEPS), dtype) == ""


@pytest.mark.parametrize("primitive", ["dense_forward", "weight_step", "update", "bias_gradient"])
def test_a_wrong_result_is_found(monkeypatch, primitive):
    right = getattr(NumpyBackend, primitive)

    def wrong(self, *arguments, **options):
        right(self, *arguments, **options)
        output = arguments[-1].reshape(-1)
        output[np.argmax(np.abs(output))] *= 1.01

    monkeypatch.setattr(NumpyBackend, primitive, wrong)
    fault = own.make(small(primitive)).fault()
    assert "was expected" in fault
    assert " of the bound" in fault


def test_an_input_that_a_timed_call_has_spoiled_is_found(monkeypatch):
    right = NumpyBackend.bias_gradient

    def spoils(self, delta, gradient):
        right(self, delta, gradient)
        delta[0, 0] += 1

    monkeypatch.setattr(NumpyBackend, "bias_gradient", spoils)
    assert "was expected" in own.make(small("bias_gradient")).fault()


def test_an_output_that_nothing_writes_is_found(monkeypatch):
    monkeypatch.setattr(NumpyBackend, "bias_gradient", lambda *arguments: None)
    assert "nan" in own.make(small("bias_gradient")).fault()


def test_calls_take_turns_at_arrays_that_no_cache_holds(monkeypatch):
    work = Primitive("bias_gradient", (16, 16))
    nbytes = 16 * 16 * 4 + 16 * 4
    monkeypatch.setattr(runners, "last_cache", lambda: 5 * nbytes)
    assert len(own.make(work).calls) == 10
    monkeypatch.setattr(runners, "last_cache", lambda: 2**40)
    assert len(own.make(work).calls) == runners.MAX_COPIES
    monkeypatch.setattr(runners, "last_cache", lambda: 1)
    assert len(own.make(work).calls) == 1


def test_the_works_of_a_process_share_a_backend(monkeypatch):
    """Each one more would keep the memory of its stream from the others, and from other processes."""
    made = []
    get = own.backends.get
    monkeypatch.setattr(own.backends, "get", lambda *arguments: made.append(get(*arguments)) or made[-1])
    own._backend.cache_clear()
    for work in (small("bias_gradient"), small("softmax"), STEPS["tiny"]):
        assert own.make(work).calls
    assert len(made) == 1


def test_inputs_are_random_and_never_zeros():
    inputs = runners.problem_of(Primitive("weight_gradient", (32, 32, 32))).inputs
    for values in inputs.values():
        assert (values != 0).all()
        assert 0.8 < values.std() < 1.2
    again = runners.problem_of(Primitive("weight_gradient", (32, 32, 32))).inputs
    assert all(np.array_equal(values, again[name]) for name, values in inputs.items()), "the same for every contender"


def test_a_steps_losses_are_those_from_the_first_weights():
    runner = own.make(STEPS["tiny"])
    for _ in range(5):
        runner.calls[0]()
    losses = runner.losses(3)
    assert losses == runner.losses(3)
    assert losses == pytest.approx(own.reference_losses(STEPS["tiny"], 3), rel=1e-5)
    assert losses[0] > losses[2]


def set_clock(monkeypatch, elapsed):
    """Give the emulated device a clock, for CuPy's events and for Numba's."""
    from gpubp.emulator import cuda
    from gpubp.emulator.cupy import streams

    monkeypatch.setattr(streams, "get_elapsed_time", elapsed)
    monkeypatch.setattr(cuda, "get_elapsed_time", elapsed)


@pytest.mark.slow
def test_tensor_cores_compute_what_is_checked(monkeypatch):
    monkeypatch.setattr(runners, "FLUSHED_BYTES", 1024)
    runner = own.make(Primitive("weight_gradient", (16, 16, 16), "bfloat16"), backend="cupy", device="emulator")
    assert runner.fault() == ""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["cupy", "numba"])
def test_on_a_device_the_time_is_that_of_its_events(monkeypatch, backend):
    """The emulated device has no clock: with a stand-in for it, the rest is what runs on a GPU."""
    from gpubp.emulator.errors import EmulatorError

    monkeypatch.setattr(runners, "FLUSHED_BYTES", 1024)
    runner = own.make(Primitive("bias_gradient", (8, 8)), backend=backend, device="emulator")
    assert len(runner.calls) == 1
    with pytest.raises(EmulatorError, match="measures no time"):
        seconds_of_a_call(runner, 0.0)
    events = []
    set_clock(monkeypatch, lambda start, end: events.append((start, end)) or 250.0)
    assert seconds_of_a_call(runner, 0.0) == pytest.approx(0.25), "events count in milliseconds"
    assert all(start is not end for start, end in events)
    assert runner.fault() == ""


@pytest.mark.slow
def test_on_a_device_a_captured_step_trains_as_one_that_is_not(monkeypatch):
    set_clock(monkeypatch, lambda start, end: 1000.0)
    step = STEPS["tiny"]
    captured = own.make(step, backend="cupy", device="emulator", captured=True)
    launched = own.make(step, backend="cupy", device="emulator")
    assert captured.losses(3) == launched.losses(3)
    assert captured.losses(3) == pytest.approx(own.reference_losses(step, 3), rel=1e-4)
    assert captured.flush is None
    assert seconds_of_a_call(captured, 0.0) == pytest.approx(1.0)
