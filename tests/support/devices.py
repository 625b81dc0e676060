"""The device that the tests of the GPU backends run on where there is no GPU.

The emulated device by default. With GPUBP_TEST_DEVICE=virtual the virtual one: the same tests then call the real CuPy
and the real numba-cuda.
"""

import os

import pytest

DEVICE = os.environ.get("GPUBP_TEST_DEVICE", "emulator")
emulator_only = pytest.mark.skipif(DEVICE != "emulator", reason="replaces parts of the emulator's own interface")
