"""What processes leave is merged, and shown as text, JSON and a page."""

import json

import pages
import pytest

from gpubp.emulator.observe.findings import Bytes, Finding, LineAccesses, Report
from gpubp.emulator.program.ptx import Location
from gpubp.emulator.run import reports
from gpubp.emulator.run.page import page

PLACE = Location("/cuda-headers/sum.cuh", 3, Location("user.cu", 7))


def race(thread, times, reason=""):
    return Finding("race", "k", PLACE, f"thread ({thread}, 0, 0) reads <x>", times, reason, "x[i] < y;")


def left(report, pid=1, kernels=("k",), arch="sm_90"):
    """What a process leaves, as its file has it."""
    process = {"pid": pid, "command": ["python", "p.py"], "arch": arch, "launches": dict.fromkeys(kernels, 2)}
    return json.loads(json.dumps({**reports.to_json(report), "process": process}))


@pytest.fixture
def outcome():
    """Of two processes that have found one race each, the same, and one of them another."""
    found = reports.Outcome(["p.py", "<&>"], 0)
    other = Finding("same-value race", "k", None, "both write", 1)
    found.add(left(Report([race(5, 2), other], [race(1, 1, "so it is")]), 1))
    found.add(left(Report([race(9, 3)]), 2, ("k", "m"), "sm_80"))
    return found


def test_the_same_finding_of_two_processes_counts_once(outcome):
    assert [(each.kind, each.count, each.location) for each in outcome.report.findings] == [
        ("race", 5, PLACE),
        ("same-value race", 1, None),
    ]
    assert [each.reason for each in outcome.report.suppressed] == ["so it is"]
    assert outcome.report.launches == {"k": 4, "m": 2}
    assert outcome.summary() == "gpubp: 2 findings in 6 launches of 2 kernels on sm_90, sm_80, in 2 processes"


def test_equal_faults_count_once_whatever_the_thread_and_the_memory():
    known = []
    for line, thread, size in ((3, 1, 256), (3, 2, 512), (4, 1, 256)):
        message = f"kernel k, user.cu:{line}, block (0, 0, 0), thread ({thread}, 0, 0): past the end of {size} bytes"
        reports.add_findings(known, [Finding("invalid access", "k", None, message)])
    assert [(each.message.partition(", block")[0], each.count) for each in known] == [
        ("kernel k, user.cu:3", 2),
        ("kernel k, user.cu:4", 1),
    ]


def test_the_json_has_the_user_s_own_line(outcome):
    found = json.loads(outcome.json())
    assert (found["findings"][0]["file"], found["findings"][0]["line"]) == ("user.cu", 7)
    assert found["findings"][0]["location"] == [["/cuda-headers/sum.cuh", 3], ["user.cu", 7]]
    assert found["command"] == ["p.py", "<&>"]


def test_traffic_adds_up():
    entry = LineAccesses("k", PLACE, "global", "load", warps=1, threads=32, nbytes=128, units=4, least_units=4)
    report = Report(bytes={"global": Bytes(128, 4)}, accesses=[entry], flops=3, footprint=Bytes(128, 32))
    report.instructions["FMA"] = 5
    outcome = reports.Outcome(["p.py"], 0)
    for pid in (1, 2):
        outcome.add(left(report, pid))
    total = outcome.report
    assert (total.flops, total.instructions, total.bytes["global"]) == (6, {"FMA": 10}, Bytes(256, 8))
    assert total.footprint == Bytes(256, 64)
    assert total.accesses == [LineAccesses("k", PLACE, "global", "load", 2, 64, 256, 8, 8)]
    assert "Global memory: 32-byte sectors" in outcome.text()


def test_the_page_is_whole_and_escapes(outcome):
    root = pages.parse(page(outcome))
    assert json.loads(root.one("script", id="data").raw) == json.loads(outcome.json())
    findings, suppressed, processes = root.all("table")
    assert findings.cells == [
        ["grade", "kind", "times", "what"],
        ["error", "race", "5", "thread (5, 0, 0) reads <x>x[i] < y;"],
        ["warning", "same-value race", "1", "both write"],
    ]
    assert "so it is" in suppressed.text
    assert processes.cells[1:] == [["1", "sm_90", "2", "python p.py"], ["2", "sm_80", "4", "python p.py"]]
    assert root.one("h1").text == outcome.summary()
    assert next(root.all("code")).text == "p.py <&>"
    assert not [each for each in root.all() if {"src", "href"} & set(each.attributes)]


def test_a_script_s_end_in_a_message_does_not_end_the_data(outcome):
    outcome.report.findings[0].message = "</script>"
    text = page(outcome)
    assert text.count("</script>") == 1
    data = text.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data)["findings"][0]["message"] == "</script>"


def test_a_program_without_launches():
    outcome = reports.Outcome(["p.py"], 0)
    assert outcome.text() == "gpubp: the program has launched no kernel on the virtual device\n"
