"""The program as a process: pipes whose reader goes, streams that are closed, Ctrl-C at any moment."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-m", "gpubp")
TRAIN = ("train", "--layers", "8", "--epochs", "2", "--batch-size", "200")

# The curves of a run take longer than all the rest of it: these runs have none.
WITHOUT_CURVES = (
    sys.executable,
    "-c",
    "from gpubp.training import plots; plots.curves = lambda *a, out, **o: out.write(b'curves')\n"
    "from gpubp.cli import main; main()",
)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def shell(line, **options):
    """Run a line of bash, in which `gpubp` is this program."""
    text = f'gpubp() {{ {sys.executable} -m gpubp "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, **options)


# --- pipes ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments",
    [
        "--version",
        "--help",
        "train --help",
        "info --json",
        pytest.param("info", marks=pytest.mark.slow),
        pytest.param("gradcheck --layers 4", marks=pytest.mark.slow),
        pytest.param("profile update --json", marks=pytest.mark.slow),
    ],
)
def test_output_that_nobody_reads_ends_the_program_as_sigpipe_would(arguments):
    found = shell(f"gpubp {arguments} | true; exit ${{PIPESTATUS[0]}}")
    assert (found.returncode, found.stderr) == (128 + signal.SIGPIPE, "")


def test_errors_that_nobody_reads_end_it_too():
    assert shell("gpubp train --epochs 0 2>&1 | true; exit ${PIPESTATUS[0]}").returncode == 128 + signal.SIGPIPE


@pytest.mark.slow
def test_training_into_head_stops_and_can_be_resumed():
    found = shell(f"gpubp {' '.join(TRAIN)} --epochs 40 --out run | head -4; exit ${{PIPESTATUS[0]}}")
    assert (found.returncode, found.stderr) == (128 + signal.SIGPIPE, "")
    assert found.stdout.splitlines()[-1].startswith("epoch  1/40")
    resumed = shell("gpubp train --resume run | cat; exit ${PIPESTATUS[0]}")
    assert resumed.returncode == 0
    assert "resumed after epoch" in resumed.stdout
    assert "epoch 40/40" in resumed.stdout


@pytest.mark.parametrize(
    ("arguments", "code"), [("--version", 0), ("--help", 0), ("train --epochs 0", 2), ("trian", 2)]
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_the_caller_closed_is_one_that_nobody_reads(arguments, code, closed):
    found = shell(f"gpubp {arguments} {closed}")
    assert found.returncode == code
    assert "Traceback" not in found.stderr
    assert (found.stdout == "") == (">&-" in closed.split() or code != 0)


@pytest.mark.slow
def test_no_file_gets_the_number_of_a_closed_stream():
    """Else what a library prints would land in a checkpoint."""
    for folder, closed in (("whole", ""), ("closed", "<&- >&- 2>&-")):
        command = [*WITHOUT_CURVES, *TRAIN, "--out", folder]
        assert (
            subprocess.run(["bash", "-c", f'"$@" {closed}', "bash", *command], stdout=subprocess.DEVNULL).returncode
            == 0
        )
    for name in ("history.csv", "checkpoint.safetensors"):
        assert Path("whole", name).read_bytes() == Path("closed", name).read_bytes()


def test_a_pipe_that_is_not_the_output_is_an_error_that_says_so():
    """Such as a worker's: the output has its reader."""
    script = "from gpubp import cli, machine\ndef broken(*_): raise BrokenPipeError\nmachine.look = broken\ncli.main()"
    found = subprocess.run([sys.executable, "-c", script, "info"], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (2, "error: a process that this one worked with has ended\n")


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------
# What Python does before the first line of `main` is not ours: it says when it has run.
INTERRUPTED = (
    *(sys.executable, "-c"),
    "from gpubp import __main__ as program, interrupts\n"
    "end_on_interrupt = interrupts.end_on_interrupt\n"
    "interrupts.end_on_interrupt = lambda: [end_on_interrupt(), print('up', flush=True)]\n"
    "program.main()",
)
VERBS = ("info", "profile update", " ".join(TRAIN), "evaluate run", "gradcheck", "check --backend numpy", "--help")


def interrupted_once(verb, delay):
    """Start a verb, interrupt it after `delay` seconds, and return its exit code and its errors."""
    process = subprocess.Popen(
        [*INTERRUPTED, *verb.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout.readline() == "up\n"
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize(
    ("seed", "times"), [pytest.param(0, 6, marks=pytest.mark.slow), pytest.param(1, 40, marks=pytest.mark.exhaustive)]
)
def test_ctrl_c_in_the_first_second_is_exit_code_130_and_no_traceback(seed, times):
    rng = random.Random(seed)
    codes = []
    for number in range(times):
        verb, delay = VERBS[number % len(VERBS)], rng.uniform(0, 0.8)
        code, errors = interrupted_once(verb, delay)
        assert "Traceback" not in errors, f"{verb} after {delay:.3f} s: {errors}"
        # by the signal: it came as the interpreter was ending already
        assert code in (130, 0, 2, -signal.SIGINT), f"{verb} after {delay:.3f} s: {code}"
        codes.append(code)
    assert codes.count(130) >= times / 3


@pytest.mark.parametrize("verb", ["info", "profile update"])
def test_ctrl_c_as_modules_load(verb):
    assert interrupted_once(verb, 0) == (130, "")


def test_ctrl_c_within_llvmlite_waits_until_it_is_out():
    """One between two steps of `close` freed an object twice, or left one whose finalizer failed."""
    script = """
import signal
from llvmlite.binding import ffi
from gpubp.interrupts import end_on_interrupt

class Freed(ffi.ObjectRef):
    def _dispose(self):
        signal.raise_signal(signal.SIGINT)
        for _ in range(100):
            pass
        print("freed")

signal.signal(signal.SIGINT, signal.default_int_handler)
end_on_interrupt()
freed = Freed(1)
try:
    freed.close()
    signal.pause()
except KeyboardInterrupt:
    print(freed.closed, "interrupted")
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (found.stdout.split(), found.stderr) == (["freed", "True", "interrupted"], "")


def test_a_ctrl_c_in_an_import_cannot_be_lost():
    """Some modules turn every exception of an import into ImportError, and some of those are expected."""
    script = (
        "import os, signal, sys\n"
        "sys.path.insert(0, '.')\n"
        "from gpubp.interrupts import end_on_interrupt\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "end_on_interrupt()\n"
        "try: import swallows\n"
        "except ImportError: print('lost')"
    )
    Path("swallows.py").write_text(
        "import os, signal\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except BaseException as error: raise ImportError(str(error))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


def test_a_ctrl_c_that_is_ignored_stays_so():
    script = (
        "import os, signal\n"
        "from gpubp.interrupts import end_on_interrupt\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "end_on_interrupt()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('alive')"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "alive\n"
