"""The suites in benchmarks/ run; what they measure is not looked at."""

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def run(repository, tmp_path):
    """Runs Python in an empty folder; gives what it printed."""

    def run(*arguments, code=0):
        command = [sys.executable, *map(str, arguments)]
        # pytest-benchmark measures nothing where it finds itself in a worker of xdist
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_make_bench_finds_every_suite(run, repository):
    out = run("-m", "pytest", repository / "benchmarks", "--rootdir", repository, "--collect-only", "-q")
    for suite in repository.glob("benchmarks/bench_*.py"):
        assert suite.name in out


@pytest.mark.parametrize(
    ("suite", "chosen", "backend", "passed"),
    [
        ("bench_kernels.py", "numpy-hidden_delta-64x64x64", "numpy", 2),
        ("bench_training.py", "test_step and numpy-tiny", "numpy", 2),
        ("bench_launches.py", "cupy-emulator-sgd", "cupy", 2),
        ("bench_launches.py", "numba-emulator-adam-recorded", "numba", 1),
    ],
)
def test_a_suite_measures(run, repository, suite, chosen, backend, passed):
    options = ("--benchmark-enable", "-p", "no:cacheprovider", "--rootdir", repository, "-k", chosen)
    out = run("-m", "pytest", repository / "benchmarks" / suite, *options)
    assert f"{passed} passed" in out
    assert re.search(rf"^test_\w+\[{backend}-", out, re.MULTILINE), out


def test_the_peers_are_measured(run, repository):
    script = repository / "benchmarks" / "bench_peers.py"
    out = run(script, "--cases", "tiny", "--contenders", "numpy", "--repeats", "1", "--threads", "1")
    assert "tiny: [64, 32, 10], batch 32, 1 threads" in out
    assert re.search(r"cpu .* 1\.00 ", out)
    assert "BLAS 2048³" in out
    assert "network was 'tinny'" in run(script, "--cases", "tinny", code=2)
