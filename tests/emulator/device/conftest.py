"""The tests of some modules run twice: instruction by instruction, and with blocks fused at their first execution."""

from collections.abc import Iterator

import pytest

from gpubp.emulator import launch, observe
from gpubp.emulator.device import fused

TWICE = ("test_barriers", "test_executor", "test_fused", "test_memory")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in TWICE:
        metafunc.parametrize("fused_after", [fused.HOT, 1], ids=["bound", "fused"], indirect=True)


@pytest.fixture(autouse=True)
def fused_after(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """After how many executions blocks are fused."""
    executions: int = getattr(request, "param", fused.HOT)
    if executions != fused.HOT:
        monkeypatch.setattr(fused, "HOT", executions)
        launch._WAVES.clear()  # the waves of tests before have bound their blocks otherwise
    return executions


@pytest.fixture(params=[False, True], ids=["plain", "observed"])
def watched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test plainly, and with every observer, which find nothing."""
    if not request.param:
        yield
        return
    with observe(races=True, uninitialised=True, traffic=True) as report:
        yield
    assert not report.findings
