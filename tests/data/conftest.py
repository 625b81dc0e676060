"""A table of flowers."""

import pytest
from data_files import IRIS, write_csv


@pytest.fixture
def iris(tmp_path):
    return write_csv(tmp_path / "iris.csv", IRIS)
