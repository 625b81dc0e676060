"""Fixtures of the tests of backends."""

import pytest

from gpubp.data import Scaler, load


@pytest.fixture(scope="session")
def digits():
    """The bundled digits, scaled: (x_train, y_train, x_test, y_test)."""
    found = load("digits")
    scaler = Scaler.fit(found.x_train)
    return scaler.apply(found.x_train), found.y_train, scaler.apply(found.x_test), found.y_test
