"""`gpubp check`: orders of execution, grades of findings and suppressions."""

from pathlib import Path

import pytest

from gpubp.crosscheck import runner
from gpubp.crosscheck.cases import parse
from gpubp.crosscheck.runner import Outcome, Run, Watch
from gpubp.crosscheck.summary import CrossCheck
from gpubp.emulator.observe.findings import Finding, Report

CASE = "scale:-:float32:5:-:-:1:random:0:0"
EMULATED = ("check", "--backend", "cupy", "--device", "emulator", "--jobs", "1", "--case", CASE)
KINDS = {"error": "race", "warning": "same-value race", "note": "strides"}


@pytest.fixture
def watched(monkeypatch):
    """How the cases of a check are watched, which does not run them."""
    seen = []

    def run_cases(cases, backend, device=None, *, watch, jobs=None):
        seen.append(watch)
        return iter([Outcome(case, {}, ("a race in order 1",), remarks=("strides: odd",), order=1) for case in cases])

    monkeypatch.setattr("gpubp.crosscheck.check_command.run_cases", run_cases)
    return seen


def test_orders_run_on_the_emulated_device(gpubp):
    assert "passed: 1 cases" in gpubp(*EMULATED, "--orders", "2", "--observe").stdout
    assert "passed: 1 cases" in gpubp(*EMULATED, "--order", "7", "--order", "0").stdout


def test_the_options_say_how_cases_are_watched(gpubp, watched):
    Path("known.toml").write_text('[[suppress]]\nkind = "race"\nreason = "meant"\n')
    gpubp(*EMULATED, "--orders", "3", code=1)
    gpubp(*EMULATED, "--order", "8", "--observe", "--fail-at", "error", "--suppressions", "known.toml", code=1)
    assert watched == [
        Watch(orders=(0, 1, 2)),
        Watch(observe=True, fail_at="error", suppressions=Path("known.toml"), orders=(8,)),
    ]


def test_a_failure_shows_the_command_that_repeats_its_order(gpubp, watched):
    text = gpubp(*EMULATED, "--orders", "3", "--observe", "--fail-at", "error", code=1).stdout
    assert "gpubp check --backend cupy --device emulator --observe --fail-at error --order 1 --case " + CASE in text
    assert "a race in order 1" in text
    assert "below --fail-at error, in 1 cases: strides: odd" in text


def test_reports_hold_what_is_below_the_grade(gpubp, watched):
    gpubp(*EMULATED, "--report", "report.md", code=1)
    gpubp(*EMULATED, "--report", "report.json", code=1)
    assert "## Findings below the grade that fails\n\n- strides: odd" in Path("report.md").read_text()
    assert '"strides: odd": 1' in Path("report.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--orders", "0"], "--orders was 0"),
        (["--orders", "1000000"], "--orders was 1000000"),
        (["--order", "-1"], "--order was -1"),
        (["--orders", "2", "--order", "1"], "--orders and --order exclude each other"),
        (["--fail-at", "error"], "--fail-at was given"),
        (["--suppressions", "known.toml"], "--suppressions was given"),
        (["--observe", "--fail-at", "eror"], "did you mean 'error'?"),
        (["--observe", "--suppressions", "missing.toml"], "it must be a file that can be read; No such file"),
        (["--observe", "--suppressions", "."], "--suppressions was '.'; it must be a regular file"),
    ],
)
def test_wrong_options_are_refused(refused, options, message):
    refused(*EMULATED, *options, message=message)


def test_orders_need_the_emulated_device(refused):
    refused("check", "--backend", "numpy", "--orders", "2", message="--orders was given; it must be left out on device")


@pytest.mark.parametrize(
    ("fail_at", "faults"),
    [("error", ["race"]), ("warning", ["race", "same-value race"]), ("note", list(KINDS.values()))],
)
def test_findings_from_a_grade_on_are_faults(fail_at, faults):
    report = Report([Finding(kind, "k", None, f"a {grade}") for grade, kind in KINDS.items()])
    run = Run({}, [], [])
    run.judge(report, Watch(True, fail_at))
    assert run.faults == [f"{finding.kind}: {finding.message}" for finding in report.findings if finding.kind in faults]
    assert len(run.faults) + len(run.remarks) == len(KINDS)


def test_findings_that_are_suppressed_are_no_faults(tmp_path):
    """By a file that the run reads itself."""
    import gpubp.emulator as cp

    code = 'extern "C" __global__ void f(int* x) { x[0] = threadIdx.x; }'
    path = tmp_path / "known.toml"
    path.write_text('[[suppress]]\nkernel = "f"\nreason = "any of them will do"\n')
    found = []
    for suppressions in (None, path):
        with Watch(True, suppressions=suppressions).observing() as report:
            cp.RawKernel(code, "f")((1,), (64,), (cp.zeros(1, cp.int32),))
        run = Run({}, [], [])
        run.judge(report, Watch(True))
        found.append(run.faults)
    assert found[0]
    assert found[1] == []


def test_the_command_without_options_is_as_short_as_before():
    outcome = Outcome(parse(CASE), faults=("broken",))
    assert CrossCheck("cupy", "emulator").command(outcome) == (
        f"gpubp check --backend cupy --device emulator --case {CASE}"
    )


def test_a_case_in_orders_gets_their_time():
    assert runner.PATIENCE > 0
    worker = runner._Worker.__new__(runner._Worker)
    worker._start = lambda: None
    runner._Worker.__init__(worker, "numpy", "cpu", Watch(orders=(1, 2)))
    assert worker._patience == 3 * runner.PATIENCE
