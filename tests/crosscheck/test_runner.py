"""The runner on the NumPy backend: it passes as it is, and each planted mistake is caught."""

import functools
import os

import numpy as np
import pytest
from mistakes import FAULTS, PLANTED, Product, ScalesTwice

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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="plants the crash by inheriting a patched module")
@pytest.mark.parametrize(("crash", "complaint"), [(_die, "exit code 3"), (_spoil, "illegal memory access")])
def test_a_worker_that_crashes_fails_its_case_alone(monkeypatch, crash, complaint):
    chosen = cases.covering_cases("scale", ())[:4]
    fatal = chosen[1]
    run_case = runner.run_case
    monkeypatch.setattr(
        runner,
        "run_case",
        lambda backend, case, observe: crash(case) if case == fatal else run_case(backend, case, observe),
    )
    context = runner.multiprocessing.get_context("fork")
    monkeypatch.setattr(runner.multiprocessing, "get_context", lambda _: context)
    outcomes = {outcome.case: outcome for outcome in runner.run_cases(chosen, "numpy", jobs=1)}
    assert set(outcomes) == set(chosen)
    assert [case for case, outcome in outcomes.items() if not outcome.passed] == [fatal]
    assert complaint in outcomes[fatal].complaint()


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
