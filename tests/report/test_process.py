"""A part's process under its limit: what it said, what it left behind, and that nothing of it lives on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpubp.report import process
from gpubp.report.parts import SOFT_SHARE, Choice, Task

TASK = Task("check-cupy", "emulator", {"cupy": "emulator"}, Choice(primitives=("cast",)))

BEGINNING = """
import json, os, signal, subprocess, sys, time
request = json.loads(sys.stdin.readline())
def leave(finished=True, complete=True, result={"found": 1}, error=""):
    with open(request["file"], "w") as file:
        json.dump({"finished": finished, "complete": complete, "result": result, "error": error}, file)
"""


@pytest.fixture
def run(monkeypatch):
    """Runs a part whose process does this; returns what became of it, and the lines of its progress."""

    def run_part(code, seconds=30.0):
        monkeypatch.setattr(process, "COMMAND", [sys.executable, "-I", "-S", "-c", BEGINNING + code])
        lines = []
        return process.run(TASK, seconds, lines.append), lines

    return run_part


def test_a_part_that_does_its_work(run):
    found, lines = run("print('1 of 2', flush=True); leave(result=request)")
    assert (found.status, found.message, found.last_output) == ("done", "", "")
    assert lines == ["1 of 2"]
    assert found.result["task"] == {
        "part": "check-cupy", "device": "emulator", "devices": {"cupy": "emulator"}, "gpu": "",
        "seconds": SOFT_SHARE * 30, "choice": {**vars(TASK.choice), "primitives": ["cast"], "backends": [], "skip": []},
    }  # fmt: skip
    assert (found.device, found.limit_seconds) == ("emulator", 30.0)


def test_a_part_that_left_something_out_for_lack_of_time(run):
    found, _ = run("leave(complete=False)")
    assert (found.status, found.message) == ("partial", "not all of it fitted into 30 s")
    assert found.result == {"found": 1}


def test_a_part_that_raised_keeps_its_message_and_its_last_output(run):
    code = "print('\\n'.join(f'line {n}\\x1b[1m' for n in range(100)), file=sys.stderr)\n"
    found, _ = run(code + "leave(result=None, error='no <room>')\nsys.exit(1)")
    assert (found.status, found.message, found.result) == ("failed", "no <room>", None)
    lines = found.last_output.splitlines()
    assert len(lines) == process.SHOWN_LINES
    assert lines[-1] == "line 99\\x1b[1m"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "its process ended by SIGSEGV"),
        ("sys.exit(3)", "its process ended with exit code 3"),
    ],
)
def test_a_part_whose_process_died_keeps_what_it_had_found(run, code, message):
    found, _ = run(f"leave(finished=False)\nprint('out of luck', file=sys.stderr)\n{code}")
    assert (found.status, found.message) == ("crashed", message)
    assert (found.result, found.last_output) == ({"found": 1}, "out of luck")


def test_a_process_that_never_reads_its_task_is_no_fault_of_the_others(run, monkeypatch):
    monkeypatch.setattr(process, "COMMAND", [sys.executable, "-I", "-S", "-c", ""])
    found = process.run(TASK, 30.0, print)
    assert (found.status, found.message) == ("crashed", "its process ended with exit code 0")


def test_a_part_that_hangs_is_ended_with_all_that_it_has_started(run, tmp_path):
    note = tmp_path / "pid"
    child = "import time; time.sleep(600)"
    code = f"""
leave(finished=False)
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", {child!r}])
open({str(note)!r}, "w").write(str(child.pid))
print("hanging", file=sys.stderr, flush=True)
time.sleep(600)
"""
    found, _ = run(code, seconds=1.5)
    assert (found.status, found.message) == ("timeout", "it did not end within 1.5 s")
    assert (found.result, found.last_output) == ({"found": 1}, "hanging")
    assert has_ended(int(note.read_text()))


def has_ended(pid):
    """True if a process ends soon, which its parent or init has to notice."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return True
        time.sleep(0.01)
    return False


def test_a_worker_ends_when_nobody_waits_for_it(tmp_path):
    """Of a report that was killed, too: its part would go on working, and the next report beside it."""
    code = """
import sys, threading, time
from gpubp.report import worker
threading.Thread(target=worker._end_with_the_parent, daemon=True).start()
print("ready", flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as started:
        assert started.stdout.readline() == b"ready\n"
        started.stdin.close()
        assert started.wait(30) == -signal.SIGKILL


def test_the_worker_says_what_it_found_and_what_broke(monkeypatch, tmp_path):
    """The real one, with tasks that are nothing to do."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    task = Task("check-cupy", "nowhere", {"cupy": "nowhere"}, Choice())
    found = process.run(task, 60.0, print)
    assert found.status == "failed"
    assert found.message.startswith("device was 'nowhere'; it must be one of gpu, emulator, virtual")
    assert "Traceback" in found.last_output
    assert json.dumps(found.result) == "null"
