"""A table of flowers; and every CSV file that these tests read is read twice, by pyarrow and row by row."""

import re
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from data_files import IRIS, write_csv

from gpubp.data import loading, table
from gpubp.errors import GpubpError


@pytest.fixture
def iris(tmp_path):
    return write_csv(tmp_path / "iris.csv", IRIS)


@pytest.fixture(autouse=True)
def both_readers(monkeypatch):
    """Compare what the two readers of CSV files give, for every file that a test reads."""
    monkeypatch.setattr(loading, "read_table", _read_twice)


def _read_twice(*args, **options):
    try:
        slow = table.read_table(*args, **options, fast=False)
    except GpubpError as error:
        with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
            table.read_table(*args, **options)
        raise
    fast = table.read_table(*args, **options)
    if fast.y is not None and isinstance(fast.y.values, np.ndarray) and isinstance(slow.y.values, list):
        # numbers to predict, which pyarrow's reader knows for what they are
        slow.y.__dict__["values"] = np.array([float(text) for text in slow.y.values])
    assert _bits(fast) == _bits(slow)
    return fast


def _bits(value):
    """Return everything in a source to compare it by, arrays bit for bit, but for the lines and what reads it again."""
    if is_dataclass(value):
        return {each.name: _bits(getattr(value, each.name)) for each in fields(value) if each.name not in IGNORED}
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return value


IGNORED = ("lines", "again")
