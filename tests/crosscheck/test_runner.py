"""The runner on the NumPy backend: it passes as it is, and each planted mistake is caught."""

import functools
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
from mistakes import FAULTS, PLANTED, Product, ScalesTwice

from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.crosscheck import cases, problems, runner
from gpubp.crosscheck.summary import CrossCheck


def run_all(backend, primitive):
    return [runner.run_case(backend, case) for case in cases.covering_cases(primitive, backend.variants)]


@pytest.mark.parametrize("primitive", cases.OPTIONS)
def test_the_reference_backend_passes(primitive):
    outcomes = run_all(NumpyBackend(), primitive)
    assert [(outcome.case.name, outcome.complaint()) for outcome in outcomes if not outcome.passed] == []
    print(f"{primitive}: {max(outcome.share for outcome in outcomes):.3g} of the bound at most")


@functools.cache
def cases_of(primitive):
    return cases.covering_cases(primitive, ())


@pytest.mark.parametrize(
    ("kind", "primitive", "dtypes"),
    PLANTED,
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else getattr(value, "__name__", value),
)
def test_planted_mistakes_are_caught(kind, primitive, dtypes):
    chosen = [case for case in cases_of(primitive) if case.dtype in dtypes]
    failure = next((found for case in chosen if not (found := runner.run_case(kind(), case)).passed), None)
    assert failure is not None
    assert "Error: " not in failure.complaint()
    assert bool(failure.faults) == (kind in FAULTS)


@pytest.mark.parametrize("dtype", cases.MIXED_DTYPES)
def test_the_product_that_mistakes_are_planted_into_passes(dtype):
    chosen = [case for case in cases_of("transpose_product") if case.dtype == dtype]
    assert [case.name for case in chosen if not runner.run_case(Product(), case).passed] == []


def test_float16_products_overflow_in_some_cases_and_in_part():
    """Else the check could not tell saturation."""
    chosen = [case for case in cases_of("transpose_product") if case.dtype == "float16"]
    shares = [(np.abs(problems.make(case).expected["product"].reference) >= 65520).mean() for case in chosen]
    assert any(0 < share < 1 for share in shares)
    assert any(share == 0 for share in shares)


def test_a_count_of_arrivals_that_is_left_fails_the_case():
    """The next launch would count on from it, and nobody would come last."""

    class LeavesACount(CupyBackend):
        def prepare_update(self, *arguments):
            super().prepare_update(*arguments)
            self._workspace.counters(1)[...] = 1

    (case, *_) = cases.covering_cases("prepare_update", ())
    assert runner.run_case(CupyBackend("emulator"), case).passed
    found = runner.run_case(LeavesACount("emulator"), case)
    assert found.faults == ("a count of arrivals is not zero after the launch",)


def test_an_exception_fails_the_case_and_not_the_run():
    class Breaks(NumpyBackend):
        def scale(self, x, factor):
            raise RuntimeError("no device")

    (case, *_) = cases.covering_cases("scale", ())
    outcome = runner.run_case(Breaks(), case)
    assert not outcome.passed
    assert "no device" in outcome.complaint()


def test_a_case_makes_the_same_problem_each_time():
    (case, *_) = cases.covering_cases("hidden_delta", ())
    first, second = problems.make(case), problems.make(case)
    for name, values in first.inputs.items():
        np.testing.assert_array_equal(values, second.inputs[name])


def test_workers_start_from_a_folder_that_may_not_be_entered(monkeypatch, tmp_path):
    """As after `su`: the parent's folder is another user's. Here it is gone, which workers mind as well."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(runner.os, "access", lambda path, mode: False)
    (outcome,) = runner.run_cases(cases.covering_cases("scale", ())[:1], "numpy", "cpu", jobs=1)
    assert outcome.passed


def test_workers_give_every_outcome():
    chosen = cases.covering_cases("scale", ())
    outcomes = list(runner.run_cases(chosen, "numpy", jobs=2))
    assert {outcome.case for outcome in outcomes} == set(chosen)
    assert all(outcome.passed for outcome in outcomes)


def _die(case):
    os._exit(3)


def _spoil(case):
    """What an access out of bounds does on a GPU: this and every later call of the process fails."""

    def fails(*_):
        raise RuntimeError("an illegal memory access was encountered")

    NumpyBackend.scale = fails
    return runner.Outcome(case, faults=("RuntimeError: an illegal memory access was encountered",))


def _is_killed(case):
    os.kill(os.getpid(), signal.SIGKILL)


def _runs_out_of_memory(case):
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    np.ones(2**40)


def _closes_its_connection(case):
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.close(int(name))
    time.sleep(60)


@pytest.fixture
def forked(monkeypatch):
    """Workers that inherit what a test has patched."""
    context = runner.multiprocessing.get_context("fork")
    monkeypatch.setattr(runner.multiprocessing, "get_context", lambda _: context)


def failures(chosen):
    """The complaints about the cases that failed in one worker at a time; each case has an outcome."""
    outcomes = {outcome.case: outcome for outcome in runner.run_cases(chosen, "numpy", jobs=1)}
    assert set(outcomes) == set(chosen)
    return {case: outcome.complaint() for case, outcome in outcomes.items() if not outcome.passed}


@pytest.mark.parametrize(
    ("crash", "complaint"),
    [
        (_die, "the process that ran it died (exit code 3)"),
        (_is_killed, "killed by SIGKILL"),
        (_spoil, "illegal memory access"),
        (_runs_out_of_memory, "MemoryError: Unable to allocate"),
        (_closes_its_connection, "it closed its connection"),
    ],
)
def test_a_worker_that_crashes_fails_its_case_alone(monkeypatch, forked, crash, complaint):
    monkeypatch.setattr(runner, "LAST_MOMENTS", 0.2)
    chosen = cases.covering_cases("scale", ())[:4]
    fatal = chosen[1]
    run_case = runner.run_case
    monkeypatch.setattr(
        runner,
        "run_case",
        lambda backend, case, observe: crash(case) if case == fatal else run_case(backend, case, observe),
    )
    failed = failures(chosen)
    assert list(failed) == [fatal]
    assert complaint in failed[fatal]


@pytest.mark.parametrize("seconds", [0, 0.3])
@pytest.mark.parametrize("end", [lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL)])
def test_a_worker_that_dies_before_it_reads_a_case_fails_that_case_alone(monkeypatch, forked, tmp_path, end, seconds):
    """It dies before the case is sent, or with the case unread: the connection is broken, or reset."""
    serve, chosen = runner._serve, cases.covering_cases("scale", ())[:4]

    def dies_at_first(*arguments):
        try:
            (tmp_path / "died").mkdir()
        except FileExistsError:
            return serve(*arguments)
        time.sleep(seconds)
        end()

    monkeypatch.setattr(runner, "_serve", dies_at_first)
    start_next = runner._Worker.start_next

    def once_it_has_died(worker, waiting):
        worker._process.join(1)
        monkeypatch.setattr(runner._Worker, "start_next", start_next)
        return start_next(worker, waiting)

    if not seconds:
        monkeypatch.setattr(runner._Worker, "start_next", once_it_has_died)
    assert list(failures(chosen)) == chosen[:1]


def test_what_a_case_asks_for_and_memory_cannot_hold_fails_it(monkeypatch):
    """As the problem is made: its arrays, before any kernel runs."""

    def too_large(case):
        raise MemoryError("Unable to allocate 8 TiB")

    (case, *_) = cases.covering_cases("scale", ())
    monkeypatch.setattr(problems, "make", too_large)
    assert "MemoryError: Unable to allocate" in runner.run_case(NumpyBackend(), case).complaint()


def is_gone(group):
    """True if no process of the group is left."""
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return False
    return True


def eventually(holds, seconds=5):
    """True if this comes to hold within some seconds."""
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_an_interrupt_ends_a_check_and_its_workers_without_a_traceback(tmp_path):
    """A terminal sends it to all processes at once, in whatever they are at."""
    program = "from gpubp.cli import main; main()"
    command = [sys.executable, "-c", program, "check", "--backend", "numpy", "--full", "--jobs", "2"]
    for seconds in (1.5, 3.0, 5.0):
        with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
            time.sleep(seconds)
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGINT
        assert "Traceback" not in errors
        assert eventually(functools.partial(is_gone, process.pid))


def test_the_report_names_failures_and_how_to_repeat_them(tmp_path):
    report = CrossCheck("numpy", "cpu")
    for outcome in run_all(ScalesTwice(), "scale") + run_all(NumpyBackend(), "softmax"):
        report.add(outcome)
    assert not report.passed
    assert report.worst is not None
    command = report.command(report.worst)
    assert cases.parse(command.split()[-1]).primitive == "scale"
    for name in ("report.md", "report.json"):
        report.write(tmp_path / name)
        assert command in (tmp_path / name).read_text()


def test_a_report_without_cases_has_not_passed():
    assert not CrossCheck("numpy", "cpu").passed
