"""Mistakes in the text of the kernels in CUDA C++, and whether a case of the cross-check fails on them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.instances import KERNEL_DIRECTORY
from gpubp.crosscheck import runner
from gpubp.crosscheck.cases import parse


@dataclass(frozen=True)
class Mistake:
    """An edit of a file, `old` to `new`, and the case that fails then. `old` occurs once in the file."""

    name: str
    file: str
    old: str
    new: str
    case: str

    def __str__(self) -> str:
        return self.name

    def plant(self, folder: Path) -> None:
        """Write all kernels to a new folder, this one with the mistake."""
        shutil.copytree(KERNEL_DIRECTORY, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        path = folder / self.file
        text = path.read_text(encoding="utf-8")
        assert text.count(self.old) == 1, f"{self.file} has changed: write the mistake anew"
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def passes(case: str) -> bool:
    """True if the case passes on the kernels as they are, under observers."""
    tried = parse(case)
    with runner.on_chip(tried.arch):
        return runner.run_case(CupyBackend("emulator"), tried, runner.Watch(observe=True)).passed


def require_caught(mistake: Mistake, folder: Path) -> None:
    """Plant a mistake in a new folder, and fail unless its case does, on what it computes or on a finding."""
    mistake.plant(folder)
    tried = parse(mistake.case)
    with runner.on_chip(tried.arch):
        outcome = runner.run_case(CupyBackend("emulator", kernels=folder), tried, runner.Watch(observe=True))
    assert not outcome.passed
    assert "CompileError" not in outcome.complaint()
    print(outcome.complaint().splitlines()[0])
