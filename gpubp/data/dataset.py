"""A data set in memory: raw inputs, one row an example, and targets that a network can use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.arrays import on_host
from gpubp.errors import DataError, unknown_name

TASKS = ("classification", "regression")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets in two parts, not scaled.

    Attributes:
        x_train, x_test: inputs (examples, features), any real dtype; x_test may have no rows.
        y_train, y_test: classification: class indices (examples,), int64. Regression: values (examples, outputs),
            float64. A regression target given as (examples,) becomes one column.
        task: "classification" or "regression".
        class_names: the name of each class, in the order of the indices; empty for regression.
        feature_names: the name of each input column; empty where the source has none.
        feature_shape: the shape of one example before it was made a row, such as (8, 8) for an image.
        value_range: the largest value an input can take, where that is known beforehand (255 for 8-bit images).
        name: what to call it in a report.
        label: the label column of a table, by name, or by position from 0 if it has none; None for other sources.
        notes: what was guessed about the source, a short line each.

    Raises:
        DataError: the arrays do not fit together, are empty, or hold NaN or infinity; a label is out of range.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    task: str = "classification"
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    feature_shape: tuple[int, ...] = ()
    value_range: float | None = None
    name: str = "data"
    label: str | int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise unknown_name("task", self.task, TASKS)
        for part in ("train", "test"):
            x = checked_inputs(getattr(self, f"x_{part}"), f"{self.name}: x_{part}")
            y = _checked_targets(getattr(self, f"y_{part}"), self.task, len(self.class_names), f"{self.name}: y_{part}")
            if len(x) != len(y):
                raise DataError(
                    f"{self.name}: x_{part} has {len(x):,} examples and y_{part} has {len(y):,} targets; "
                    "there must be one target an example"
                )
            object.__setattr__(self, f"x_{part}", x)
            object.__setattr__(self, f"y_{part}", y)
        if not self.feature_shape:
            object.__setattr__(self, "feature_shape", (self.x_train.shape[1],))
        if not len(self.x_train):
            raise DataError(f"{self.name}: there are no training examples; there must be at least one")
        if self.x_train.shape[1] != self.x_test.shape[1]:
            raise DataError(
                f"{self.name}: x_train has {self.x_train.shape[1]} features and x_test has {self.x_test.shape[1]}; "
                "both must have as many"
            )
        if self.y_train.shape[1:] != self.y_test.shape[1:]:
            raise DataError(f"{self.name}: y_train and y_test must have as many columns")
        if self.feature_names and len(self.feature_names) != self.features:
            raise DataError(f"{self.name}: {len(self.feature_names)} feature names for {self.features} features")

    @property
    def features(self) -> int:
        """The number of inputs of a network for this data."""
        return self.x_train.shape[1]

    @property
    def outputs(self) -> int:
        """The number of outputs of a network for this data: the classes, or the values to predict."""
        return len(self.class_names) if self.task == "classification" else self.y_train.shape[1]

    def describe(self) -> str:
        """Return one line for a report: sizes, features, classes."""
        shape = "×".join(map(str, self.feature_shape))
        inputs = f"{self.features:,} features" + (f" ({shape})" if len(self.feature_shape) > 1 else "")
        targets = f"{self.outputs} classes" if self.task == "classification" else f"regression, outputs: {self.outputs}"
        return (
            f"{self.name}: {len(self.x_train):,} training and {len(self.x_test):,} test examples, {inputs}, {targets}"
        )


def checked_inputs(x: Any, what: str) -> np.ndarray:
    x = np.asarray(on_host(what, x))
    if x.dtype.kind not in "uifb":
        raise DataError(f"{what} holds {x.dtype}; it must hold real numbers")
    if x.ndim != 2 or x.shape[1] == 0:
        raise DataError(f"{what} has shape {x.shape}; it must be (examples, features) with at least one feature")
    require_finite(x, what)
    return x


def _checked_targets(y: Any, task: str, classes: int, what: str) -> np.ndarray:
    y = np.asarray(on_host(what, y))
    if task == "classification":
        if y.dtype.kind not in "ui" or y.ndim != 1:
            raise DataError(f"{what} is {y.dtype} of shape {y.shape}; it must be whole numbers of shape (examples,)")
        if len(y) and (y.min() < 0 or y.max() >= classes):
            raise DataError(f"{what} holds labels from {y.min()} to {y.max()}; they must be from 0 to {classes - 1}")
        return y.astype(np.int64, copy=False)
    if y.dtype.kind not in "uifb" or y.ndim not in (1, 2) or 0 in y.shape[1:]:
        raise DataError(f"{what} is {y.dtype} of shape {y.shape}; it must be numbers of shape (examples, outputs)")
    require_finite(y, what)
    return y.reshape(len(y), -1 if len(y) else math.prod(y.shape[1:])).astype(np.float64, copy=False)


def require_finite(values: np.ndarray, what: str) -> None:
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    row = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
    raise DataError(f"{what} holds NaN or infinity, first in row {row}; every value must be finite")
