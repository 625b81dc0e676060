"""`pytest --gpubp-device=emulator`: findings fail the test that caused them; without the option nothing changes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest, tiny

@pytest.fixture
def racing():
    tiny.run("race")

def test_fine():
    assert tiny.run("fine") == 0

def test_race():
    assert tiny.run("race") == 0

def test_the_same_race():
    assert tiny.run("race") == 0

def test_of_a_fixture(racing):
    pass

def test_that_fails_anyway():
    tiny.run("race")
    raise ValueError("of its own")

@pytest.mark.xfail
def test_of_which_it_is_known():
    tiny.run("unwritten")

def test_that_expects_an_error():
    assert tiny.run("overrun") == 700
"""


@pytest.fixture
def run_pytest(tmp_path):
    """`run_pytest("--gpubp-races")` runs pytest in a folder with these tests."""
    (tmp_path / "test_kernels.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text("import ctypes\nctypes.CDLL('libcuda.so.1')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "tiny.py").write_bytes((Path(__file__).parent / "tiny.py").read_bytes())

    def run(*arguments):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    return run


def outcomes(done):
    """Return the counts of the last line."""
    return {
        name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|error|xfailed|xpassed)\b", done.stdout)
    }


RACE = "race: kernel race, tiny.cu:12, block (0, 0, 0), thread (0, 0, 0) reads shared memory"


def test_findings_fail_the_tests_that_caused_them(run_pytest):
    done = run_pytest("--gpubp-device=emulator", "--gpubp-races", "--gpubp-uninitialised", "--gpubp-arch=sm_80")
    assert "gpubp: emulated sm_80, looking for races and uninitialised memory" in done.stdout
    assert outcomes(done) == {"failed": 3, "passed": 2, "xfailed": 1, "error": 1}, done.stdout
    assert done.returncode == 1
    parts = re.split(r"^_+ (?:ERROR at setup of )?(test_\w+) _+$", done.stdout, flags=re.MULTILINE)
    named = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert set(named) == {"test_race", "test_the_same_race", "test_of_a_fixture", "test_that_fails_anyway"}
    assert all(RACE in text for text in named.values())
    assert "ValueError: of its own" in named["test_that_fails_anyway"]


@pytest.mark.exhaustive
def test_with_xdist_and_no_observer(run_pytest):
    done = run_pytest("--gpubp-device=emulator", "-n", "1")
    assert outcomes(done) == {"failed": 1, "passed": 5, "xpassed": 1}, done.stdout
    assert "of its own" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpubp-races"], "--gpubp-races needs --gpubp-device=emulator"),
        (["--gpubp-device=gpu"], "--gpubp-device is 'gpu': it must be emulator"),
        (["-p", "no:gpubp", "--noconftest", "--gpubp-device=emulator"], "unrecognized arguments"),
    ],
)
def test_wrong_options(run_pytest, arguments, message):
    done = run_pytest(*arguments)
    assert done.returncode == 4
    assert message in done.stderr


def test_nothing_heavy_is_loaded_without_the_option():
    code = "import sys, gpubp.pytest_plugin; print(sorted({'numpy', 'gpubp.emulator'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
