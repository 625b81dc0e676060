"""What tools say of planted bugs is what the emulator's README says, and no right kernel is taken for a wrong one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from planted_bugs import CHOICE, PLANTED, Planted
from simulator import arrays, module_of
from tool_table import (
    CUDA_SANITIZER,
    FOUND,
    HOST_BUGS,
    NOT_RUN,
    OCLGRIND,
    SIMULATOR,
    emulate,
    emulate_cuda,
    emulator_cell,
    host_cell,
    manual_cells,
    oclgrind_cell,
    simulator_cells,
)

EMULATOR = "this emulator"


@pytest.fixture(scope="module")
def told(repository: Path) -> dict[str, dict[str, str]]:
    """The README's table: column -> bug -> cell."""
    text = (repository / "gpubp" / "emulator" / "README.md").read_text(encoding="utf-8")
    lines = text.split("## What other tools find")[1].split("\n## ")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|"))
    return {column: {row[0]: row[number] for row in rows} for number, column in enumerate(head) if number}


def test_the_table_has_every_bug_and_column(told: dict[str, dict[str, str]]) -> None:
    assert list(told) == [EMULATOR, SIMULATOR, OCLGRIND, CUDA_SANITIZER]
    for column in told.values():
        assert list(column) == [*PLANTED, *HOST_BUGS]


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_kernel_differs_from_its_right_twin(name: str) -> None:
    planted = PLANTED[name]
    for text in (planted.cuda, planted.python):
        assert not text or any(right != wrong for right, wrong in CHOICE.findall(text))


@pytest.mark.parametrize("name", PLANTED)
def test_the_emulator(told: dict[str, dict[str, str]], name: str) -> None:
    right, _ = emulate_cuda(PLANTED[name], wrong=False)
    assert right == []
    assert emulator_cell(PLANTED[name]) == told[EMULATOR][name]


@pytest.mark.parametrize("name", HOST_BUGS)
def test_the_emulator_at_launches(told: dict[str, dict[str, str]], name: str) -> None:
    run, says, *_ = HOST_BUGS[name]
    assert emulate(lambda: run(False)) == []
    assert host_cell(run, says) == told[EMULATOR][name]


PYTHON = {name: planted for name, planted in PLANTED.items() if planted.python}


@pytest.mark.slow
@pytest.mark.parametrize("name", PYTHON)
def test_kernels_in_python_have_the_same_bug(told: dict[str, dict[str, str]], name: str, tmp_path: Path) -> None:
    """The emulator finds in the Python kernel what it finds in CUDA C++, so that the simulator gets the same task."""

    def said(planted: Planted, wrong: bool) -> list[str]:
        module, _ = module_of(planted, wrong, tmp_path, "gpubp.emulator")
        x, y = arrays()
        return [text for text, _ in emulate(lambda: module.kernel[planted.blocks, planted.threads](x, y, 0))]

    assert said(PYTHON[name], False) == []
    found = any(PYTHON[name].says in text for text in said(PYTHON[name], True))
    assert found == (told[EMULATOR][name] == FOUND)


@pytest.mark.slow
def test_numbas_simulator(told: dict[str, dict[str, str]]) -> None:
    cells = simulator_cells()
    assert {name: cells.get(name, NOT_RUN) for name in told[SIMULATOR]} == told[SIMULATOR]


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("oclgrind-kernel"),
    reason="Oclgrind (Debian's package oclgrind) is not installed: its column is not run again",
)
@pytest.mark.parametrize("name", PLANTED)
def test_oclgrind(told: dict[str, dict[str, str]], name: str) -> None:
    assert oclgrind_cell(PLANTED[name]) == told[OCLGRIND][name]


def test_the_manual_of_compute_sanitizer(told: dict[str, dict[str, str]]) -> None:
    assert manual_cells() == told[CUDA_SANITIZER]
    for name, cell in manual_cells().items():
        section = PLANTED[name].section if name in PLANTED else HOST_BUGS[name][3]
        assert section or cell == "?", name
