"""A data set from arrays, and what makes none."""

import subprocess
import sys

import numpy as np
import pytest

from gpubp.data.dataset import Dataset
from gpubp.errors import DataError

X, Y = np.ones((4, 2)), np.array([0, 1, 0, 1])


def test_a_data_set_from_arrays():
    found = Dataset(X, [0.0, 1.0, 2.0, 3.0], X[:0], [], task="regression")
    assert found.y_train.shape == (4, 1)
    assert found.y_test.shape == (0, 1)
    assert found.feature_shape == (2,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": Y + 1}, "labels from 1 to 2; they must be from 0 to 1"),
        ({"y_train": Y - 1}, "labels from -1 to 0"),
        ({"y_train": Y.astype(float)}, "must be whole numbers"),
        ({"feature_names": ("one",)}, "1 feature names for 2 features"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "no training examples"),
        ({"x_train": np.full((4, 2), np.nan)}, "NaN"),
        ({"task": "regression", "y_train": np.ones((4, 2)), "y_test": np.ones((4, 3))}, "as many columns"),
    ],
)
def test_arrays_that_make_no_data_set(change, message):
    arguments = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "class_names": ("a", "b")}
    with pytest.raises(DataError, match=message):
        Dataset(**{**arguments, **change})


def test_importing_the_data_module_loads_nothing_heavy():
    heavy = {"scipy", "matplotlib", "rich", "numba", "cupy", "pandas"}
    code = f"import sys, gpubp.data.loading; print(*{heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
