"""The report's page, made of results that nobody measured."""

import json
from dataclasses import replace

import pytest
import reports
from reports import GPU, ON_CPU, STEP, bench, check, info, measured, part, train

from gpubp.bench.results import Record
from gpubp.report import machine_page
from gpubp.report.machine_page import UNSEEN, page, summary

HOSTILE = "<script>alert('1')</script> & [red]"

pytestmark = pytest.mark.usefixtures("undrawn")


def test_a_report_of_a_machine_without_a_gpu(check_page):
    found = reports.usual()
    shown = check_page(page(found))
    assert [section.attributes["id"] for section in shown.all("section")] == [
        "summary", "machine", "check", "train", "bench", "profile", "parts",
    ]  # fmt: skip
    top = shown.one("section", id="summary")
    assert top.one("p").text == "Passed on the emulated device; nothing ran on a GPU"
    assert [item.text for item in top.all("li")] == summary(found)
    assert "2026-01-02 03:04 UTC" in shown.one("header").text
    assert "gpubp report --out report.html" in shown.one("header").text
    checks = shown.one("section", id="check")
    assert [heading.text for heading in checks.all("h3")] == [
        "cupy on the emulated device",
        "numba on the emulated device",
    ]
    assert "none of its times is shown" in checks.text
    training = shown.one("section", id="train").one("table").cells
    assert training[1] == ["cupy on the emulated device", "digits", "16", "2", "90.0%", "0.25", "0.25", "not measured"]
    assert len(list(shown.one("section", id="bench").all("img"))) == 2
    assert [row[:3] for row in shown.one("section", id="profile").one("table").cells[1:]] == [
        ["hidden_delta 64x64x64", "cupy tiled", "hidden_delta"]
    ]
    assert len(list(shown.one("section", id="parts").all("table"))) == 2


def test_the_summary_says_what_ran_where_and_what_is_missing():
    assert summary(reports.usual()) == [
        "The machine has A <processor>, 8 cores, and no GPU (no NVIDIA driver).",
        "Checked: cupy on the emulated device: all 2 cases in float32 passed; the largest error is 50% of its bound.",
        "Checked: numba on the emulated device: all 2 cases in float32 passed; the largest error is 50% of its bound.",
        "Trained: cupy on the emulated device: digits, 2 epochs: 90.0% right on the test part, loss 0.25, and 0.25 on "
        "numpy.",
        "Trained: numba on the emulated device: digits, 2 epochs: 90.0% right on the test part, loss 0.25, and 0.25 on "
        "numpy.",
        "Measured: 1 works, by numpy on the CPU, scikit-learn on the CPU.",
        "A training step of network tiny in float32 took numpy on the CPU 20.0 µs, scikit-learn on the CPU 45.0 µs.",
        "Measured: 1 works, by numpy on the CPU.",
        "Rehearsed, not measured, on the virtual device: 1 works of the bench; all were right.",
        "Modelled, not measured: hidden_delta, as on H100 SXM.",
        f"What no emulated device can show: {UNSEEN}",
    ]


def test_beside_each_claim_of_an_emulated_device_stands_what_it_cannot_see(check_page):
    shown = check_page(page(reports.usual()))
    assert "ptxas" in UNSEEN
    assert "machine code" in UNSEEN
    for name in ("summary", "check", "bench"):
        assert UNSEEN in shown.one("section", id=name).text, name
    paragraphs = [each.text for each in shown.one("section", id="check").all("p")]
    assert sum(text.endswith(UNSEEN) and "cases" in text for text in paragraphs) == 2


def on_gpu():
    steps = measured(*ON_CPU[1:], Record(STEP, "cupy", (1e-6, 2e-6)), gpus=(GPU,))
    return reports.report(
        machine=info(GPU, works=(("cupy", "gpu"),)),
        device="gpu",
        check_cupy=part(check(device="gpu"), "gpu"),
        train_cupy=part(train(device="gpu", rate=12345.6), "gpu"),
        bench_steps=part(bench(steps), "gpu"),
    )


def test_a_gpu_is_named_and_nothing_is_said_of_emulation(check_page):
    found = on_gpu()
    assert found.verdict == "Passed on the GPU"
    assert summary(found)[0].endswith(f"8 cores, and {GPU}.")
    shown = check_page(page(found))
    for name in ("summary", "check", "bench"):
        assert "emulated" not in shown.one("section", id=name).text
    assert "12,346 examples/s" in shown.one("section", id="summary").text
    assert "cupy on the GPU 1.50 µs" in shown.one("section", id="summary").text


def test_no_time_of_an_emulated_device_is_in_the_page():
    """What a process took is said among the parts alone, as no speed."""
    shown = page(reports.usual()).split('<section id="parts">')[0]
    assert "12.25" not in shown
    assert "examples/s in" not in shown


def test_a_failed_case_is_said_at_the_top_and_shown_with_its_command(check_page):
    found = reports.report(check_cupy=part(check(failures=[("7.5 of the bound", 7.5), (f"died of {HOSTILE}", None)])))
    assert found.failed
    shown = check_page(page(found))
    top = shown.one("section", id="summary")
    assert top.attributes["class"] == "verdict failed"
    assert top.one("p").text == "Failed"
    assert "Checked: cupy on the emulated device: 2 of 4 cases in float32, float64 failed." in top.text
    assert shown.one("title").text == "gpubp report: Failed"
    blocks = [block.raw for block in shown.one("section", id="check").all("pre")]
    assert blocks == [f"gpubp check 1\ndied of {HOSTILE}", "gpubp check 0\n7.5 of the bound"]
    (marked,) = shown.one("section", id="check").all("tr", class_="marked")
    assert "update" in marked.text


def test_many_failures_are_counted_and_not_all_shown(check_page):
    found = reports.report(check_cupy=part(check(failures=[("wrong", 2.0)] * 30)))
    shown = check_page(page(found))
    assert len(list(shown.all("pre"))) == machine_page.SHOWN_FAILURES
    assert "10 more are in this file's JSON." in shown.text
    data = json.loads(shown.one("script", id="data").raw)
    assert len(data["parts"]["check-cupy"]["result"]["failures"]) == 30


@pytest.mark.parametrize("status", ["failed", "timeout", "crashed"])
def test_a_part_that_broke_is_said_at_the_top_with_its_last_output(check_page, status):
    broken = part(None, status=status, message=f"it met {HOSTILE}", last_output=f"line 1\n{HOSTILE}")
    found = reports.report(check_cupy=part(check()), bench_steps=broken)
    assert found.failed
    shown = check_page(page(found))
    assert f"Broken: bench of training steps: it met {HOSTILE}" in shown.one("section", id="summary").text
    assert f"it met {HOSTILE}" in shown.one("section", id="bench").text
    parts = shown.one("section", id="parts")
    assert parts.one("pre").raw == f"line 1\n{HOSTILE}"
    (marked,) = parts.all("tr", class_="marked")
    assert status in marked.text


def test_what_a_part_found_before_it_broke_is_shown(check_page):
    found = reports.report(check_cupy=part(check(left=5), status="timeout", message="it did not end within 60 s"))
    text = check_page(page(found)).one("section", id="check").text
    assert "it did not end within 60 s." in text
    assert "All 2 cases in float32 passed; the largest error is 50% of its bound; 5 more did not fit into" in text


def test_a_part_that_was_cut_short_has_not_failed():
    found = reports.report(check_cupy=part(check(left=5), status="partial", message="not all of it fitted into 60 s"))
    assert not found.failed
    assert "Unfinished: check of cupy: not all of it fitted into 60 s." in summary(found)


def test_nothing_checked_is_not_called_passed(check_page):
    absent = part(None, "", "absent", message="no gpu; get one")
    skipped = part(None, "", "left out", message="as the command asks")
    found = reports.report(check_cupy=absent, check_numba=skipped)
    assert not found.failed
    top = check_page(page(found)).one("section", id="summary")
    assert top.one("p").text == "No kernel was checked"
    assert top.attributes["class"] == "verdict unchecked"
    assert "Not run: check of cupy: no gpu; get one." in top.text
    assert "Left out: check of numba: as the command asks." in top.text


def test_kernels_that_ran_elsewhere_than_on_the_gpu_say_why():
    lacking = ("numba: gpu: no driver",)
    found = reports.report(
        check_numba=part(check("numba"), lacking=lacking), train_numba=part(train(), lacking=lacking)
    )
    assert summary(found).count("Not on the GPU: numba: gpu: no driver.") == 1


@pytest.mark.parametrize(("contender", "failed"), [("numpy", True), ("sklearn", False)])
def test_a_wrong_result_of_this_project_fails_the_report_and_one_of_a_peer_does_not(contender, failed):
    wrong = Record(STEP, contender, fault="wrong: the loss at step 1 is 2, not 1")
    found = reports.report(bench_steps=part(bench(measured(*ON_CPU, wrong))))
    assert found.failed is failed
    assert any("the loss at step 1 is 2, not 1" in line for line in summary(found)) is failed
    assert "the loss at step 1 is 2, not 1" in page(found)


def test_a_fault_of_a_rehearsal_and_a_loss_that_differs_fail_the_report(check_page):
    found = reports.report(
        bench_rungs=part(bench(rehearsed=[("cupy-tiled-on-virtual", ""), ("numba-on-virtual", "lost")]))
    )
    assert found.failed
    assert "1 were wrong or failed" in " ".join(summary(found))
    (marked,) = check_page(page(found)).one("section", id="bench").all("tr", class_="marked")
    assert "lost" in marked.text
    found = reports.report(train_cupy=part(train(loss=0.5)))
    assert found.failed
    assert "Wrong: training on cupy on the emulated device: the loss is 0.5, and 0.25 on numpy." in summary(found)


def test_a_busy_machine_is_said_at_the_top():
    found = reports.report(bench_steps=part(bench(replace(measured(*ON_CPU), busy=0.4))))
    assert "Other programs took 40% of the cores' time: the measured times may be too long." in summary(found)


def test_the_json_of_the_page_is_the_file(check_page):
    found = reports.usual()
    data = json.loads(check_page(page(found)).one("script", id="data").raw)
    assert data == found.to_dict()
