"""Every test of the device runs twice: instruction by instruction, and with blocks fused at their first execution."""

import pytest

from gpubp.emulator import launch
from gpubp.emulator.device import fused


@pytest.fixture(autouse=True, params=[fused.HOT, 1], ids=["bound", "fused"])
def fused_after(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """After how many executions blocks are fused."""
    monkeypatch.setattr(fused, "HOT", request.param)
    launch._WAVES.clear()  # the waves of tests before have bound their blocks otherwise
    return request.param
