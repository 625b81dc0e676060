"""What the tests of mutations share: a case of the cross-check, run on kernels of which one line is changed."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from mutants import Mutant

from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.instances import KERNEL_DIRECTORY
from gpubp.crosscheck import runner
from gpubp.crosscheck.cases import parse
from gpubp.crosscheck.runner import Outcome


def run_observed(folder: Path, names: Iterable[str]) -> list[Outcome]:
    """The outcomes of these cases with the kernels of a folder, on the emulated device as the chip of each case."""
    outcomes = []
    for case in map(parse, names):
        with runner.on_chip(case.arch):
            outcomes.append(runner.run_case(CupyBackend("emulator", kernels=folder), case, observe=True))
    return outcomes


@pytest.fixture
def unchanged() -> Callable[[Iterable[str]], list[Outcome]]:
    """Runs cases on the kernels as they are."""
    return lambda names: run_observed(KERNEL_DIRECTORY, names)


@pytest.fixture
def mutated(tmp_path: Path) -> Callable[[Mutant], list[Outcome]]:
    """Runs a mutant's cases on a copy of the kernels with its edit."""

    def run(mutant: Mutant) -> list[Outcome]:
        folder = tmp_path / "cuda"
        shutil.copytree(KERNEL_DIRECTORY, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        mutant.edit(folder / mutant.file)
        return run_observed(folder, mutant.cases)

    return run
