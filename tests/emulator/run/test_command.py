"""The command `python -m gpubp.emulator`: the program is as under plain Python, and what its kernels did is told."""

import json
import os
import signal
import subprocess
import sys

import pytest

from gpubp.emulator.run import command


def test_a_program_with_mistakes(emulated, tmp_path):
    (tmp_path / "program.py").write_text(
        "import os, sys\n"
        "assert 'numpy' not in sys.modules, 'the device is there before the program has set its variables'\n"
        "import tiny\n"
        "device = tiny.Device()\n"
        "print(sys.argv, sys.path[0] == os.path.dirname(os.path.abspath(__file__)), __name__)\n"
        "print([device.run(name) for name in ('unwritten', 'fine', 'race', 'overrun')])\n"
    )
    done = emulated(
        "--races", "--uninitialised", "--arch", "sm_80", "--report", "found.json", "program.py", "--races", "-x"
    )
    assert done.stdout == "['program.py', '--races', '-x'] True __main__\n[0, 0, 0, 700]\n"
    assert done.returncode == 1
    assert "gpubp: 3 findings in 4 launches of 4 kernels on sm_80, in 1 process" in done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {(each["kind"], each["kernel"]) for each in found["findings"]} == {
        ("race", "race"),
        ("uninitialised read", "unwritten"),
        ("invalid access", "overrun"),
    }
    (race,) = [each for each in found["findings"] if each["kind"] == "race"]
    assert (race["file"], race["line"], race["count"]) == ("tiny.cu", 12, 64)
    assert found["exit_code"] == 0
    assert found["traffic"] is None
    assert [each["arch"] for each in found["processes"]] == ["sm_80"]


def test_traffic_and_an_order_and_no_findings(emulated):
    done = emulated("--traffic", "--order", "7", "--report", "page.html", "-c", "import tiny; print(tiny.run('race'))")
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert "no findings in 1 launch of 1 kernel" in done.stderr
    assert "in order 7" in done.stderr
    assert "Shared memory: passes through the banks" in done.stderr
    with open("page.html") as file:
        assert "Shared memory: passes through the banks" in file.read()


def test_nothing_is_said_of_a_program_that_is_not_watched(emulated):
    done = emulated("-c", "import tiny; print(tiny.run('race'))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


FAILING = "def f(x):\n    return 1 / x\nimport sys\nprint(sys.argv)\nf(0)\n"


@pytest.mark.parametrize("arguments", [["failing.py", "a"], ["-m", "failing", "a"], ["-c", FAILING, "a"], ["-"]])
def test_a_failure_looks_as_under_plain_python(emulated, arguments):
    with open("failing.py", "w") as file:
        file.write(FAILING)
    plain = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, input=FAILING)
    done = emulated(*arguments, input=FAILING)
    assert (done.returncode, done.stdout, done.stderr) == (1, plain.stdout, plain.stderr)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("sys.exit(3)", 3),
        ("sys.exit()", 0),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("raise KeyboardInterrupt", -signal.SIGINT),
    ],
)
def test_the_command_ends_as_the_program_does(emulated, ending, code):
    assert emulated("-c", f"import os, signal, sys; {ending}").returncode == code


@pytest.mark.slow
def test_what_was_found_is_told_whatever_becomes_of_the_processes(emulated, tmp_path):
    """A fork that ends at once, children of multiprocessing, and one that is killed."""
    (tmp_path / "program.py").write_text(
        "import multiprocessing, os, subprocess, sys\n"
        "import tiny\n"
        "if __name__ == '__main__':\n"
        "    device = tiny.Device()\n"
        "    device.run('race')\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        device.run('race')\n"
        "        print(device.read() == list(reversed(range(64))), flush=True)\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    for method in ('fork', 'spawn'):\n"
        "        process = multiprocessing.get_context(method).Process(target=tiny.run, args=('race',))\n"
        "        process.start()\n"
        "        process.join()\n"
        "    code = 'import os, tiny; tiny.run(\"overrun\"); os.kill(os.getpid(), 9)'\n"
        "    subprocess.run([sys.executable, '-c', code])\n"
        "    os._exit(0)\n"
    )
    done = emulated("--races", "--report", "found.json", "program.py")
    assert (done.returncode, done.stdout) == (1, "True\n")
    found = json.loads((tmp_path / "found.json").read_text())
    assert {each["kind"]: each["count"] for each in found["findings"]} == {"race": 4 * 64, "invalid access": 1}
    assert [sum(each["launches"].values()) for each in found["processes"]] == [1] * 5


@pytest.mark.slow
def test_threads_and_a_fork_in_the_midst_of_a_launch(emulated):
    """The child of a process whose other thread runs a kernel can launch."""
    done = emulated(
        "-c",
        "import os, threading, tiny\n"
        "device = tiny.Device()\n"
        "threads = [threading.Thread(target=device.run, args=('fine',)) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(device.run('fine'))\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "[thread.join() for thread in threads]\n",
    )
    assert done.returncode == 0, done.stderr


def test_an_interrupt_in_a_kernel_reaches_the_program(emulated):
    done = emulated(
        "-c",
        "import ctypes, os, signal, threading, time, tiny\n"
        "device = tiny.Device()\n"
        "device.run('fine')\n"
        "first = ctypes.c_uint32.from_address(device.memory.value)  # which the kernel writes\n"
        "def interrupt():\n"
        "    while first.value != 77:\n"
        "        time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt).start()\n"
        "try:\n"
        "    device.run('spin')\n"
        "except KeyboardInterrupt as interrupt:\n"
        "    print(interrupt)\n"
        "print(device.run('fine'))\n",
    )
    assert done.stdout.startswith("the kernel was interrupted at kernel spin, tiny.cu:4"), done.stderr
    assert done.stdout.endswith("\n0\n")
    assert done.returncode == 0


def start(code):
    command = [sys.executable, "-m", "gpubp.emulator", "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_signal_is_passed_on():
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('up', flush=True)\n"
        "while True:\n"
        "    signal.pause()\n"
    )
    with start(code) as process:
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 5


def test_the_program_goes_with_the_command():
    """Its output is closed then, which would stay open if it went on."""
    with start("import signal\nprint('up', flush=True)\nsignal.pause()\n") as process:
        assert process.stdout.readline() == "up\n"
        process.kill()
        assert process.communicate(timeout=60) == ("", "")


def test_another_sitecustomize_is_run(emulated, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import sys\nsys.customized = True\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    code = "import sys; print(sys.customized, sys.modules['sitecustomize'].__file__, *sys.path, sep='\\n')"
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    done = emulated("-c", code)
    assert (done.stdout, done.stderr) == (plain.stdout, "")
    assert done.stdout.startswith("True\n")


def test_a_process_that_needs_no_device_has_none(emulated):
    code = (
        "import ctypes, json, multiprocessing, pickle, sys, xml.sax\n"
        "ctypes.CDLL(None)\n"
        "try:\n"
        "    import nobody_has_this\n"
        "except ImportError:\n"
        "    print(sorted({'numpy', 'gpubp'} & set(sys.modules)))\n"
    )
    assert emulated("-c", code).stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the program is missing; it must be program.py"),
        (["--races"], "the program is missing"),
        (["-m"], "the program is missing"),
        (["-x", "p.py"], "the program was '-x'"),
        (["--arch", "sm_79", "p.py"], "--arch was 'sm_79'; it must be one of sm_75, sm_80"),
        (["--order", "-1", "p.py"], "--order was '-1'; it must be a whole number ≥ 0"),
        (["--fail-at", "wraning", "p.py"], "did you mean 'warning'?"),
        (
            ["--report", "x.pdf", "p.py"],
            "--report was 'x.pdf'; it must be a file name that ends in .txt or .json or .html",
        ),
        (["--report", "nowhere/x.txt", "p.py"], "in a folder that exists"),
        (["--suppressions", "x.toml", "p.py"], "given with --races or --uninitialised"),
        (["--races", "--suppressions", "x.toml", "p.py"], "x.toml"),
    ],
)
def test_a_wrong_option_is_told_before_anything_runs(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.py").write_text("open('run', 'w')\n")
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not os.path.exists("run")


def test_python_s_own_options_are_the_program_s_too():
    code = "import sys; print(sys.flags.optimize, sys.flags.utf8_mode, sys.warnoptions)"
    command = [sys.executable, "-OO", "-X", "utf8", "-W", "error", "-m", "gpubp.emulator", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "2 1 ['error']\n"


def test_an_unknown_option(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--race", "p.py"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --race" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-I", "-S"])
def test_a_python_whose_children_would_not_be_watched(option, repository):
    done = subprocess.run(
        [sys.executable, option, "-m", "gpubp.emulator", "-c", "0"], capture_output=True, text=True, cwd=repository
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Python was started with -E, -I or -S")
