"""The plugin of pytest: `pytest --gpubp-device=emulator` runs tests of CUDA code with no GPU.

Every pytest of an environment that has gpubp loads this module, so nothing is imported here before the option is given.
"""

from __future__ import annotations

from typing import Any

import pytest

OBSERVERS = {
    "--gpubp-races": "a test fails in which kernels race for memory",
    "--gpubp-uninitialised": "a test fails in which kernels use memory that nothing has written",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("gpubp", "CUDA kernels with no GPU")
    group.addoption("--gpubp-device", metavar="emulator", help="run CUDA code on the emulated device, with no GPU")
    group.addoption("--gpubp-arch", metavar="ARCH", help="the emulated chip, such as sm_80; default: sm_90")
    for name, text in OBSERVERS.items():
        group.addoption(name, action="store_true", help=text)
    group.addoption("--gpubp-order", metavar="SEED", help="a seed for another order of threads, warps and blocks")
    group.addoption("--gpubp-async-order", metavar="WHEN", help="when asynchronous engines work: late (default), early")
    group.addoption("--gpubp-suppressions", metavar="FILE", help="a .toml file of findings that are intended")
    group.addoption("--gpubp-fail-at", metavar="GRADE", help="the least grade that fails a test; default: error")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: Any) -> None:
    """Install the virtual device before a conftest.py or a test imports what looks for a driver."""
    given = vars(early_config.known_args_namespace)
    chosen = {name.removeprefix("gpubp_"): value for name, value in given.items() if name.startswith("gpubp_")}
    device = chosen.pop("device", None)
    if device is None:
        for name, value in chosen.items():
            if value:
                raise pytest.UsageError(f"--gpubp-{name.replace('_', '-')} needs --gpubp-device=emulator")
        return
    if device != "emulator":
        raise pytest.UsageError(f"--gpubp-device is {device!r}: it must be emulator")
    from gpubp.emulator.run import in_pytest

    early_config.pluginmanager.register(in_pytest.begin(**chosen), "gpubp-device")
