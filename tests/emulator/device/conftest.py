"""The tests of some modules run twice: instruction by instruction, and with blocks fused at their first execution."""

import pytest

from gpubp.emulator import launch
from gpubp.emulator.device import fused

TWICE = ("test_executor", "test_fused", "test_memory")


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
