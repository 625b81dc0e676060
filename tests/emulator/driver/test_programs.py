"""Small programs as people write them, on the virtual device: each is right, and with a mistake planted in it, told so.

Each is a file of `programs/` that checks its own result. Where a line ends in `planted: X`, a mistake takes its place:
the line X. Where one ends in `found`, it is the line that the mistake is reported at; `found in K` names the kernel
alone, as the lines of what CuPy and Numba generate are no lines of the program.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "programs"
USUAL = ("numba_reduction", "numba_and_cupy", "cuda_core_program")
"""Those that run in every test run; each takes seconds of the CPU."""
WITHOUT_MEMORY = ("numba_vectorize", "numba_reduce")
"""Programs whose functions see no memory: they can neither race nor overrun."""
OUTPUT = {"numba_print": "thread 0 has 1.500000\nthread 1 has 2.500000\nthread 2 has 3.500000\n"}
PLANTED = re.compile(r"^(\s*)(.*?)\s*(?://|#) planted: (.*?)(?:\s*(?://|#) found.*)?$")
FOUND = re.compile(r"(?://|#) found(?: in (\w+))?$")


def names():
    """Return the names of the programs, as parameters that run when they should."""
    known = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert set(USUAL) <= set(known)
    return [pytest.param(name, marks=pytest.mark.slow if name in USUAL else pytest.mark.exhaustive) for name in known]


def run(path: Path, *options: str) -> subprocess.CompletedProcess:
    """Run a program on the virtual device, looking for races."""
    return subprocess.run(
        [sys.executable, "-m", "gpubp.emulator", "--races", *options, path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )


def place_in(lines: list[str], index: int) -> str:
    """Return how the emulator names a line: that of the file, or of the text of CUDA C++ that it is in."""
    before = "\n".join(lines[:index])
    opened = re.split(r'r?b?"""', before)
    if len(opened) % 2:  # outside of every text
        return rf"program\.py:{index + 1}\b"
    return rf"\.cu:{opened[-1].count(chr(10)) + 2}\b"


@pytest.mark.parametrize("name", names())
def test_a_program(name):
    done = run(FOLDER / f"{name}.py")
    assert done.returncode == 0, done.stderr
    assert "no findings" in done.stderr
    assert done.stdout == OUTPUT.get(name, "")


@pytest.mark.parametrize("name", names())
def test_a_planted_mistake_is_reported_at_its_line(name, tmp_path):
    lines = (FOLDER / f"{name}.py").read_text().splitlines()
    planted = [index for index, line in enumerate(lines) if PLANTED.match(line)]
    if name in WITHOUT_MEMORY:
        assert not planted
        return
    (at,) = planted
    (found,) = [index for index, line in enumerate(lines) if FOUND.search(line)]
    kernel = FOUND.search(lines[found])[1]
    lines[at] = PLANTED.sub(r"\1\3", lines[at])
    path = tmp_path / "program.py"
    path.write_text("\n".join(lines) + "\n")
    done = run(path)
    assert done.returncode == 1
    wanted = rf"kernel {kernel}\b" if kernel else place_in(lines, found)
    assert re.search(wanted, done.stderr), f"{wanted} is not in\n{done.stderr}"
    assert "finding" in done.stderr
