"""The tests of the GPU backends once more, on the virtual device: with the real CuPy and the real numba-cuda.

So the host code that a GPU will meet has run: streams, events, captured graphs, DLPack and `__cuda_array_interface__`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
FILES = [
    "test_arguments.py",
    "test_capture.py",
    "test_cupy_backend.py",
    "test_emulated_training.py",
    "test_mixed_precision.py",
    "test_nan.py",
    "test_numba_backend.py",
    "test_stray_targets.py",
    "test_wgmma.py",
]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FILES)
def test_what_passes_on_the_emulator_passes_on_the_virtual_device(name):
    quick = ("-m", "not slow and not exhaustive")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *quick, str(FOLDER / name)]
    environment = {**os.environ, "GPUBP_TEST_DEVICE": "virtual"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " passed" in ended.stdout
