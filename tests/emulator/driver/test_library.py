"""What keeps the virtual device's library from being loaded."""

import pytest

from gpubp.emulator.device.memory import ARENA_BASE, MEMORY
from gpubp.emulator.driver import library
from gpubp.emulator.errors import EmulatorError


@pytest.fixture(autouse=True)
def not_loaded(monkeypatch):
    """As if this process had no virtual device, whatever other tests have done."""
    monkeypatch.setattr(library, "_loaded", [])


def test_memory_lies_where_programs_find_it():
    assert MEMORY.host_base == ARENA_BASE


def test_other_memory_is_refused(monkeypatch):
    monkeypatch.setattr(MEMORY, "host_base", 0x7F00_0000_0000)
    with pytest.raises(EmulatorError, match="the addresses from 0x700000000 on"):
        library.load()


def test_a_driver_that_is_there_is_refused(monkeypatch):
    monkeypatch.setattr(library, "_has_driver", lambda: True)
    with pytest.raises(EmulatorError, match=r"has loaded a libcuda\.so\.1 already"):
        library.load()
