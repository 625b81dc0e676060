"""Fixtures that several test files use."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("pages")


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
