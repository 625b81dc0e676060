"""The real CuPy on the virtual device: each check of cupy_checks.py, which one process runs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cupy", exc_type=ImportError)

PROGRAM = Path(__file__).with_name("cupy_checks.py")
CHECKS = [
    statement.name.removeprefix("check_")
    for statement in ast.parse(PROGRAM.read_text()).body
    if isinstance(statement, ast.FunctionDef) and statement.name.startswith("check_")
]


@pytest.fixture(scope="module")
def results():
    """What went wrong in each check."""
    done = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CHECKS)
def test_cupy(results, name):
    assert not results[name], results[name]


def test_all_checks_ran(results):
    assert list(results) == CHECKS
