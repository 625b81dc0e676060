"""A data set: raw inputs, one row an example, and targets that a network can use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.arrays import on_host
from gpubp.data.preparation import Preparation
from gpubp.data.rows import ROWS_AT_ONCE, Inputs, Rows, blocks
from gpubp.data.taken import Taken
from gpubp.data.weights import first_wrong
from gpubp.errors import DataError, unknown_name

TASKS = ("classification", "multilabel", "regression")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets in two parts, not scaled.

    Attributes:
        x_train, x_test: inputs (examples, features), any real dtype; x_test may have no rows. Those of a large .npy or
            .npz file, and those that are streamed, are `Rows`, which stay in a file: indexing copies some, and
            `np.asarray` all.
        y_train, y_test: classification: class indices (examples,), int64. Multilabel: 1 for each label that an example
            has, else 0, (examples, labels), float64. Regression: values (examples, outputs), float64. A regression
            target given as (examples,) becomes one column.
        task: "classification", "multilabel" or "regression".
        class_names: the name of each class, in the order of the indices, or of each label; empty for regression.
        feature_names: the name of each input; empty where the source has none.
        feature_shape: the shape of one example before it was made a row, such as (8, 8) for an image.
        value_range: the largest value an input can take, where that is known beforehand (255 for 8-bit images).
        name: what to call it in a report.
        label: the label column of a table, by name, or by position from 0 if it has none; a tuple of several; None for
            other sources.
        notes: what was guessed about the source, a short line each.
        weight_train, weight_test: how much each example counts in the loss, (examples,), float64, at least 0 and not
            all 0; None, both of them, if all count the same.
        weight_column: the column or the array of the source that has the weights, by name, or by position from 0 if it
            has none; None for other sources.
        preparation: how the columns of a table became the inputs; None if they are the inputs as they are.
        columns: what each column of a table is taken for, in the table's order; empty for other sources.

    Raises:
        DataError: the arrays do not fit together, are empty, or hold NaN or infinity; a label is out of range; a weight
            is negative.
    """

    x_train: Inputs
    y_train: np.ndarray
    x_test: Inputs
    y_test: np.ndarray
    task: str = "classification"
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    feature_shape: tuple[int, ...] = ()
    value_range: float | None = None
    name: str = "data"
    label: str | int | tuple[str | int, ...] | None = None
    notes: tuple[str, ...] = ()
    weight_train: np.ndarray | None = None
    weight_test: np.ndarray | None = None
    weight_column: str | int | None = None
    preparation: Preparation | None = None
    columns: tuple[Taken, ...] = ()

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
        if self.preparation is not None and self.preparation.inputs != self.features:
            raise DataError(f"{self.name}: {self.features} features, and {self.preparation.inputs} of its preparation")
        if self.task == "multilabel" and len(self.class_names) != self.y_train.shape[1]:
            raise DataError(f"{self.name}: {len(self.class_names)} label names for {self.y_train.shape[1]} labels")
        if (self.weight_train is None) != (self.weight_test is None):
            raise DataError(f"{self.name}: weight_train and weight_test must come together")
        for part in ("train", "test"):
            weights = getattr(self, f"weight_{part}")
            if weights is not None:
                weights = _checked_weights(weights, len(getattr(self, f"x_{part}")), f"{self.name}: weight_{part}")
                object.__setattr__(self, f"weight_{part}", weights)

    @property
    def features(self) -> int:
        """The number of inputs of a network for this data."""
        return self.x_train.shape[1]

    @property
    def outputs(self) -> int:
        """The number of outputs of a network for this data: the classes, the labels, or the values to predict."""
        return len(self.class_names) if self.task == "classification" else self.y_train.shape[1]

    def describe(self) -> str:
        """Return one line for a report: sizes, features, classes."""
        shape = "×".join(map(str, self.feature_shape))
        inputs = f"{self.features:,} features" + (f" ({shape})" if len(self.feature_shape) > 1 else "")
        targets = {
            "classification": f"{self.outputs} classes",
            "multilabel": f"{self.outputs} labels, each 0 or 1",
            "regression": f"regression, outputs: {self.outputs}",
        }[self.task]
        examples = f"{len(self.x_train):,} training and {len(self.x_test):,} test examples"
        if not len(self.x_test):
            examples = f"{len(self.x_train):,} examples"
        weighted = "" if self.weight_train is None else ", weighted"
        return f"{self.name}: {examples}, {inputs}, {targets}{weighted}"


def checked_inputs(x: Any, what: str) -> Inputs:
    """Return inputs (examples, features) of real, finite numbers. Raises DataError, in which they are called `what`."""
    x = real_inputs(x, what)
    require_finite(x, what)
    return x


def real_inputs(x: Any, what: str) -> Inputs:
    """Return the same as `checked_inputs`, without a look at the numbers."""
    x = x if isinstance(x, Rows) else np.asarray(on_host(what, x))
    if x.dtype.kind not in "uifb":
        raise DataError(f"{what} holds {x.dtype}; it must hold real numbers")
    if x.ndim != 2 or x.shape[1] == 0:
        raise DataError(f"{what} has shape {x.shape}; it must be (examples, features) with at least one feature")
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
    if task == "multilabel":
        if y.ndim != 2:
            raise DataError(f"{what} has shape {y.shape}; it must be (examples, labels)")
        if not ((y == 0) | (y == 1)).all():
            raise DataError(f"{what} holds values from {y.min():g} to {y.max():g}; each must be 0 or 1")
    return y.reshape(len(y), -1 if len(y) else math.prod(y.shape[1:])).astype(np.float64, copy=False)


def _checked_weights(weights: Any, rows: int, what: str) -> np.ndarray:
    weights = np.asarray(on_host(what, weights))
    if weights.dtype.kind not in "uifb" or weights.shape != (rows,):
        raise DataError(f"{what} is {weights.dtype} of shape {weights.shape}; it must be numbers of shape ({rows:,},)")
    weights = weights.astype(np.float64, copy=False)
    wrong = first_wrong(weights)
    if wrong is not None:
        raise DataError(f"{what} holds {weights[wrong]:g} in row {wrong}; a weight must be finite and at least 0")
    if rows and not weights.any():
        raise DataError(f"{what} holds nothing but 0; some example must count")
    return weights


def require_finite(values: Inputs, what: str) -> None:
    if values.dtype.kind != "f":
        return
    for number, block in enumerate(blocks(values)):
        if not np.isfinite(block).all():
            row = int(np.argmin(np.isfinite(block).reshape(len(block), -1).all(axis=1))) + number * ROWS_AT_ONCE
            raise DataError(f"{what} holds NaN or infinity, first in row {row}; every value must be finite")
