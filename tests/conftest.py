"""Fixtures that several test files use, and what keeps Python from wasting time while they run."""

import gc
from pathlib import Path

import pytest


def pytest_collection_finish() -> None:
    """Look for garbage less often: Numba's compiler otherwise spends a quarter of its time on the search."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 10)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> object:
    """Run a test as pytest does, with half a megabyte of room for the frames of the functions that it calls.

    CPython keeps frames in chunks of 16 KiB. A loop that calls functions where a chunk is nearly full asks the system
    for the next chunk, and returns it, at each call. Which loop does so is up to the depth of the stack.
    """
    return item.config.pluginmanager.get_plugin("runner").pytest_runtest_protocol(item, nextitem)


# A frame that needs more than a chunk gets one of twice its size, which the frames above it share.
pytest_runtest_protocol.__code__ = pytest_runtest_protocol.__code__.replace(co_stacksize=2**16)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def reproducible() -> None:
    """Skip a test of exact machine code where the same source may give another."""
    from gpubp.toolchain import process

    if not process.reproducible():
        pytest.skip("this system does not let a process fix its addresses (personality(2))")
