"""The report's page, made of results that nobody measured."""

import json
from dataclasses import replace

import pytest

from gpubp.backends.detection import Availability
from gpubp.bench import pictures
from gpubp.bench.results import BenchResult, Record
from gpubp.bench.works import STEPS, Limit, Primitive
from gpubp.chips import Roofline
from gpubp.crosscheck.cases import covering_cases
from gpubp.crosscheck.comparator import Comparison
from gpubp.crosscheck.runner import Outcome
from gpubp.crosscheck.summary import CrossCheck
from gpubp.machine import MachineInfo
from gpubp.report import machine_page as reports
from gpubp.report.machine_page import MachineReport, summary

HOSTILE = "<script>alert('1')</script> & [red]"
CASES = covering_cases("hidden_delta", ("naive", "tiled"))


def comparison(share):
    return Comparison(share <= 1, share, (3, 4), 1.5, 1.0, 0.1)


def crosscheck(backend="cupy", device="emulator", shares=(0.25, 0.5), faults=()):
    made = CrossCheck(backend, device)
    for case, share in zip(CASES, shares, strict=False):
        made.add(Outcome(case, {"delta": comparison(share)}))
    for case, fault in zip(reversed(CASES), faults, strict=False):
        made.add(Outcome(case, faults=(fault,)))
    return made


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Spares a page its pictures, which take longer than the rest."""
    for name in ("throughput", "roofline"):
        monkeypatch.setattr(pictures, name, lambda result: b"a picture")


@pytest.fixture
def machine():
    return MachineInfo(
        python="3.12.1", system="Linux", processor="A <processor>", cores=8, memory=2**34, driver="", gpus=(),
        packages={"gpubp": "0.1.0"}, backends=(Availability("cupy", "gpu", False, "no driver", "get one"),),
        automatic="numpy on cpu",
    )  # fmt: skip


@pytest.fixture
def bench(machine):
    works = (Primitive("hidden_delta", (64, 64, 64)), STEPS["tiny"])
    records = [Record(work, "numpy", (1e-5, 2e-5, 3e-5)) for work in works]
    records += [Record(STEPS["tiny"], "sklearn", (4e-5, 5e-5)), Record(Limit("copy", 64), "limit-cpu", (1e-6,))]
    return BenchResult(
        made="2026-01-02T03:04:05+00:00", machine=machine.to_dict(), threads=2, repeats=3, seconds=0.1,
        records=tuple(records), limits={"cpu": {"float32": Roofline(1e11, 1e10)}},
        absent={"cupy": "no driver; get one", "numba": "no driver; get one", "jax": "jax is not installed"},
    )  # fmt: skip


@pytest.fixture
def report(machine, bench):
    return MachineReport(
        made="2026-01-02T03:04:05+00:00",
        command="gpubp report --out report.html",
        seconds=12.5,
        machine=machine,
        checks=(crosscheck(), crosscheck("numba")),
        unchecked={"cupy on the GPU": "no driver; get one", "numba on the GPU": "no driver; get one"},
        bench=bench,
    )


def test_a_report_of_a_machine_without_a_gpu(report, check_page):
    page = check_page(report.html())
    assert [section.attributes["id"] for section in page.all("section")] == [
        "summary",
        "machine",
        "check",
        "bench",
        "profile",
    ]
    top = page.one("section", id="summary")
    assert top.one("p").text == "Passed on the emulated device; nothing ran on a GPU"
    assert [item.text for item in top.all("li")] == summary(report)
    assert "2026-01-02 03:04 UTC" in page.one("header").text
    assert "gpubp report --out report.html" in page.one("header").text
    check = page.one("section", id="check")
    assert "cupy on the GPU, numba on the GPU: no driver; get one" in check.text
    assert [heading.text for heading in check.all("h3")] == [
        "cupy on the emulated device",
        "numba on the emulated device",
    ]
    assert "none of its times is shown" in check.text
    bench = page.one("section", id="bench")
    assert "Not measured: cupy on the GPU, numba on the GPU: no driver; get one." in bench.text
    assert len(list(bench.all("img"))) == 2
    assert {table.one("caption").text for table in bench.all("table")} == {"hidden_delta, float32", "step, float32"}


def test_the_summary_says_what_ran_where_and_what_is_missing(report):
    assert summary(report) == [
        "The machine has A <processor>, 8 cores, and no GPU (no NVIDIA driver is installed).",
        "Checked: cupy on the emulated device: all 2 cases in float32 passed; the largest error is 50% of its bound.",
        "Checked: numba on the emulated device: all 2 cases in float32 passed; the largest error is 50% of its bound.",
        "Not checked: cupy on the GPU, numba on the GPU: no driver; get one.",
        "Measured: 2 works, by numpy on the CPU, scikit-learn on the CPU.",
        "A training step of network tiny in float32 took numpy on the CPU 20.0 µs, scikit-learn on the CPU 45.0 µs.",
        "Not measured: cupy on the GPU, numba on the GPU: no driver; get one.",
    ]


def test_a_gpu_is_named_and_nothing_is_said_to_be_missing(report, machine, bench):
    gpu = replace(machine, gpus=("NVIDIA H100 80GB HBM3",), driver="13.0")
    found = replace(
        report, machine=gpu, checks=(crosscheck("cupy", "gpu"),), unchecked={}, bench=replace(bench, absent={})
    )
    assert found.verdict == "Passed on the GPU"
    assert summary(found)[0].endswith("8 cores, and NVIDIA H100 80GB HBM3.")
    assert not [line for line in summary(found) if line.startswith("Not")]
    assert "emulated" not in check_text(found)


def check_text(report):
    return report.html().split('<section id="check">')[1].split("</section>")[0]


def test_a_failed_case_is_said_at_the_top_and_shown_with_its_command(report, check_page):
    failing = crosscheck(shares=(0.25, 7.5), faults=(f"died of {HOSTILE}",))
    found = replace(report, checks=(failing,))
    assert found.failed
    page = check_page(found.html())
    top = page.one("section", id="summary")
    assert top.attributes["class"] == "verdict failed"
    assert top.one("p").text == "Failed"
    assert "Checked: cupy on the emulated device: 2 of 3 cases in float32, float64 failed." in top.text
    assert page.one("title").text == "gpubp report: Failed"
    shown = [block.raw for block in page.one("section", id="check").all("pre")]
    assert [text.splitlines()[0] for text in shown] == [failing.command(each) for each in reversed(failing.failures)]
    assert shown[0].splitlines()[1] == f"died of {HOSTILE}"
    assert "7.5 of the bound" in shown[1]
    marked = [row.cells for row in page.all("tr", class_="marked")]
    assert marked


def test_many_failures_are_counted_and_not_all_shown(report, check_page):
    found = replace(report, checks=(crosscheck(shares=[2.0] * 30),))
    page = check_page(found.html())
    assert len(list(page.all("pre"))) == reports.SHOWN_FAILURES
    assert "10 more are in this file's JSON." in page.text
    data = json.loads(page.one("script", id="data").raw)
    assert len(data["check"][0]["failures"]) == 30


def test_a_part_that_broke_is_said_at_the_top(report, check_page):
    found = replace(report, bench=None, faults={"bench": f"ValueError: {HOSTILE}"})
    assert found.failed
    page = check_page(found.html())
    assert f"Broken: bench: ValueError: {HOSTILE}" in page.one("section", id="summary").text
    assert f"it broke: ValueError: {HOSTILE}" in page.one("section", id="bench").text


def test_a_check_without_a_case_has_not_passed(report, check_page):
    found = replace(report, checks=(CrossCheck("cupy", "gpu"),))
    assert found.failed
    assert "no case ran" in check_page(found.html()).one("section", id="summary").text


def test_nothing_checked_is_not_called_passed(report, check_page):
    found = replace(report, checks=(), unchecked={}, left_out={"check": "as the command asks"})
    assert not found.failed
    top = check_page(found.html()).one("section", id="summary")
    assert top.one("p").text == "No kernel was checked"
    assert top.attributes["class"] == "verdict unchecked"
    assert "Left out: check: as the command asks." in top.text


@pytest.mark.parametrize(("contender", "failed"), [("numpy", True), ("sklearn", False)])
def test_a_wrong_result_of_this_project_fails_the_report_and_one_of_a_peer_does_not(report, bench, contender, failed):
    wrong = Record(STEPS["tiny"], contender, fault="wrong: the loss at step 1 is 2, not 1")
    found = replace(report, bench=replace(bench, records=(*bench.records, wrong)))
    assert found.failed is failed
    assert any("the loss at step 1 is 2, not 1" in line for line in summary(found)) is failed
    assert "the loss at step 1 is 2, not 1" in found.html()


def test_a_busy_machine_is_said_at_the_top(report, bench):
    found = replace(report, bench=replace(bench, busy=0.4))
    assert "Other programs took 40% of the cores' time: the measured times may be too long." in summary(found)


def test_the_json_is_what_the_verbs_write(report, check_page):
    data = json.loads(check_page(report.html()).one("script", id="data").raw)
    assert data == report.to_dict()
    assert (data["format"], data["version"]) == ("gpubp report", 1)
    assert data["check"][0] == json.loads(report.checks[0].to_json())
    assert BenchResult.from_json(json.dumps(data["bench"])).to_json() == report.bench.to_json()
    assert data["info"]["processor"] == "A <processor>"


def test_no_time_of_the_emulated_device_is_in_the_page(report):
    slow = crosscheck()
    slow.add(Outcome(CASES[5], {"delta": comparison(0.1)}, seconds=987.654))
    assert "987" not in replace(report, checks=(slow,), bench=None).html()
