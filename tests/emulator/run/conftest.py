"""Programs on the virtual device, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def emulated(tmp_path, monkeypatch):
    """`emulated("--races", "program.py", environment={})` runs the command, in a folder where programs find `tiny`."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **options):
        command = [sys.executable, "-m", "gpubp.emulator", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)

    return run
