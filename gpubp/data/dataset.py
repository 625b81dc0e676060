"""Data sets: the bundled digits, IDX files (MNIST, Fashion-MNIST), .npz and CSV, their split and their scaling.

`load` turns a name or a path into a `Dataset`: raw inputs, one row an example, and targets that a network can use.
`Scaler` is fitted on the training inputs and is saved with the model. Whatever is wrong with the data is a `DataError`
that names the file, and for a CSV file the line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.data import readers
from gpubp.errors import ArgumentError, DataError, nearest, unknown_name

TASKS = ("classification", "regression")
NAMES = ("digits", *readers.IDX_SETS)
"""The data sets that `load` knows by name."""

ROWS_AT_ONCE = 4096


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

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise unknown_name("task", self.task, TASKS)
        if not self.feature_shape and np.ndim(self.x_train) == 2:
            object.__setattr__(self, "feature_shape", (self.x_train.shape[1],))
        for part in ("train", "test"):
            x = _checked_inputs(getattr(self, f"x_{part}"), f"{self.name}: x_{part}")
            y = _checked_targets(getattr(self, f"y_{part}"), self.task, len(self.class_names), f"{self.name}: y_{part}")
            if len(x) != len(y):
                raise DataError(
                    f"{self.name}: x_{part} has {len(x):,} examples and y_{part} has {len(y):,} targets; "
                    "there must be one target an example"
                )
            object.__setattr__(self, f"x_{part}", x)
            object.__setattr__(self, f"y_{part}", y)
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
        """How many inputs a network for this data has."""
        return self.x_train.shape[1]

    @property
    def outputs(self) -> int:
        """How many outputs a network for this data has: the classes, or the values to predict."""
        return len(self.class_names) if self.task == "classification" else self.y_train.shape[1]

    def describe(self) -> str:
        """Return one line for a report: sizes, features, classes."""
        shape = "×".join(map(str, self.feature_shape))
        inputs = f"{self.features:,} features" + (f" ({shape})" if len(self.feature_shape) > 1 else "")
        targets = f"{self.outputs} classes" if self.task == "classification" else f"regression, outputs: {self.outputs}"
        return (
            f"{self.name}: {len(self.x_train):,} training and {len(self.x_test):,} test examples, {inputs}, {targets}"
        )


def _checked_inputs(x: Any, what: str) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype.kind not in "uifb":
        raise DataError(f"{what} holds {x.dtype}; it must hold real numbers")
    if x.ndim != 2 or x.shape[1] == 0:
        raise DataError(f"{what} has shape {x.shape}; it must be (examples, features) with at least one feature")
    _check_finite(x, what)
    return x


def _checked_targets(y: Any, task: str, classes: int, what: str) -> np.ndarray:
    y = np.asarray(y)
    if task == "classification":
        if y.dtype.kind not in "ui" or y.ndim != 1:
            raise DataError(f"{what} is {y.dtype} of shape {y.shape}; it must be whole numbers of shape (examples,)")
        if len(y) and (y.min() < 0 or y.max() >= classes):
            raise DataError(f"{what} holds labels from {y.min()} to {y.max()}; they must be from 0 to {classes - 1}")
        return y.astype(np.int64, copy=False)
    if y.dtype.kind not in "uifb" or y.ndim not in (1, 2) or 0 in y.shape[1:]:
        raise DataError(f"{what} is {y.dtype} of shape {y.shape}; it must be numbers of shape (examples, outputs)")
    _check_finite(y, what)
    return y.reshape(len(y), -1 if len(y) else math.prod(y.shape[1:])).astype(np.float64, copy=False)


def _check_finite(values: np.ndarray, what: str) -> None:
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    row = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
    raise DataError(f"{what} holds NaN or infinity, first in row {row}; every value must be finite")


# --- scaling --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scaler:
    """A linear map of each column, ``(x - offset) * scale``, fitted on training data and saved with the model.

    Attributes:
        offset, scale: one value a column, (features,), float64; scale is finite and not zero.
    """

    offset: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        for name in ("offset", "scale"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.float64))
        if self.offset.ndim != 1 or self.offset.shape != self.scale.shape:
            raise DataError(
                f"scaler: offset has shape {self.offset.shape} and scale {self.scale.shape}; "
                "both must be (features,) with as many features"
            )
        if not (np.isfinite(self.offset).all() and np.isfinite(self.scale).all() and self.scale.all()):
            raise DataError("scaler: offset and scale must be finite, and scale not zero")

    @classmethod
    def fit(cls, x: np.ndarray, value_range: float | None = None) -> Scaler:
        """Return the scaler for training data x (examples, columns).

        Each column gets mean 0: inputs of one sign make ReLU units that are dead from the start (LeCun et al.,
        "Efficient BackProp", 1998, section 4.3). With a value range, as for images, all columns are divided by the
        same number, the standard deviation of all values, so that an image keeps its contrasts. Without one, each
        column gets standard deviation 1; a column that is constant becomes 0.
        """
        x = _checked_inputs(x, "x")
        if not len(x):
            raise DataError("x has no rows; a scaler needs at least one")
        if value_range is not None:
            if not (math.isfinite(value_range) and value_range > 0):
                raise ArgumentError("value_range", value_range, "a finite number above 0")
            mean = x.mean(axis=0, dtype=np.float64)
            blocks = (x[start : start + ROWS_AT_ONCE] - mean for start in range(0, len(x), ROWS_AT_ONCE))
            deviation = math.sqrt(sum(np.square(block).sum() for block in blocks) / x.size)
            return cls(mean, np.full(x.shape[1], 1.0 / (deviation or value_range)))
        # In units of each column's largest value, so that the squares cannot overflow.
        peak = np.abs(x, dtype=np.float64).max(axis=0)
        peak[peak == 0] = 1.0
        relative = x / peak
        mean, deviation = relative.mean(axis=0), relative.std(axis=0)
        # What differs by rounding alone, or by less than can be divided by, counts as constant.
        limits = np.finfo(np.float64)
        constant = (deviation <= 8 * limits.eps) | (deviation * peak < limits.tiny)
        return cls(mean * peak, 1.0 / np.where(constant, 1.0, deviation * peak))

    def apply(self, x: np.ndarray, dtype: str | np.dtype = "float32") -> np.ndarray:
        """Return x (examples, features) scaled, as a new C-contiguous array; computed in float64, then rounded."""
        return self._map(x, dtype, lambda rows: (rows - self.offset) * self.scale)

    def invert(self, x: np.ndarray, dtype: str | np.dtype = "float64") -> np.ndarray:
        """Return the values whose scaled form is x: what a network trained on scaled targets predicts."""
        return self._map(x, dtype, lambda rows: rows / self.scale + self.offset)

    def _map(self, x: np.ndarray, dtype: str | np.dtype, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        if np.ndim(x) != 2 or x.shape[1] != len(self.offset):
            raise DataError(f"x has shape {np.shape(x)}; the scaler was fitted for (examples, {len(self.offset)})")
        out = np.empty(x.shape, dtype=dtype)
        # By blocks of rows: a float64 copy of a whole image set would be eight times its size.
        for start in range(0, len(x), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            out[rows] = function(np.asarray(x[rows], dtype=np.float64))
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what to save: ``Scaler(**arrays)`` makes the same scaler again."""
        return {"offset": self.offset, "scale": self.scale}


# --- splitting ------------------------------------------------------------------------------------------------------


def split(
    y: np.ndarray, fraction: float, rng: np.random.Generator, *, task: str = "classification"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a larger and a smaller part, each ascending, drawn at random.

    Args:
        y: targets (examples, ...); for classification each class gives both parts its share, to within one example,
            and a class with a single example stays in the larger part.
        fraction: the smaller part's share, 0 <= fraction < 1.
        rng: where the draw comes from.
        task: "classification" or "regression".

    Raises:
        ArgumentError: the fraction is out of range.
        DataError: the fraction is above 0 and there are too few examples for two parts.
    """
    if not (isinstance(fraction, (int, float)) and 0 <= fraction < 1):
        raise ArgumentError("fraction", fraction, "at least 0 and below 1")
    if task == "classification":
        groups = [np.flatnonzero(y == label) for label in np.unique(y)]
    else:
        groups = [np.arange(len(y))]
    taken = [rng.permutation(rows)[:count] for rows, count in zip(groups, _shares(groups, fraction), strict=True)]
    smaller = np.zeros(len(y), dtype=bool)
    if taken:
        smaller[np.concatenate(taken)] = True
    if fraction > 0 and not smaller.any():
        raise DataError(
            f"{len(y):,} examples are too few to set aside a fraction of {fraction}"
            + (": no class has two" if task == "classification" and len(y) > 1 else "")
        )
    return np.flatnonzero(~smaller), np.flatnonzero(smaller)


def _shares(groups: Sequence[np.ndarray], fraction: float) -> list[int]:
    """How many of each group to set aside: the total rounded, the remainders given to the largest fractional parts."""
    if fraction == 0:
        return [0] * len(groups)
    most = [len(rows) - 1 for rows in groups]
    exact = [len(rows) * fraction for rows in groups]
    counts = [min(int(share), limit) for share, limit in zip(exact, most, strict=True)]
    missing = max(round(sum(exact)), 1) - sum(counts)
    for i in sorted(range(len(groups)), key=lambda i: (counts[i] - exact[i], i)):
        if missing > 0 and counts[i] < most[i]:
            counts[i] += 1
            missing -= 1
    return counts


# --- loading --------------------------------------------------------------------------------------------------------


def load(
    spec: str | os.PathLike[str],
    *,
    task: str | None = None,
    label: str | int | None = None,
    test_fraction: float = 0.2,
    seed: Any = 0,
    classes: Sequence[str] | None = None,
    feature_names: Sequence[str] = (),
) -> Dataset:
    """Load a data set by name or from a file or folder.

    Args:
        spec: "digits" (bundled), "fashion-mnist", "mnist", a folder with the four IDX files, an .npz file with x and y
            (and x_test, y_test where the split is given) or a .csv file.
        task: "classification" or "regression"; by default what the labels look like: text, integers and few different
            whole numbers are classes, other numbers are values to predict.
        label: the label column of a CSV file, by name or by index from 0 (negative: from the end); by default the
            column called label, class, target or y, else the last.
        test_fraction: the share set aside for testing, 0 <= test_fraction < 1, where the source has no test part.
        seed: seed or NumPy Generator of that split.
        classes: the classes of an existing model, by name, in its order; a label that is none of them is an error.
        feature_names: the columns that an existing model was trained on: a CSV file's columns are picked by these
            names, in this order.

    Raises:
        ArgumentError: an argument is out of range or does not apply to this source.
        DataError: the data is missing, damaged, or not fit for training.
    """
    if task is not None and task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if not (isinstance(test_fraction, (int, float)) and 0 <= test_fraction < 1):
        raise ArgumentError("test_fraction", test_fraction, "at least 0 and below 1")
    source = _read(spec, label, task=task, feature_names=feature_names)
    if source.y is None:
        raise DataError(f"{source.name}: there are no labels; it must hold y beside x")
    task = task or source.task
    x, feature_shape = _as_rows(source.x, f"{source.name}: x")
    if len(x) != len(source.y):
        raise DataError(
            f"{source.name}: x has {len(x):,} examples and y has {len(source.y):,} labels; there must be as many"
        )
    labels = [source.y] if source.y_test is None else [source.y, source.y_test]
    targets, class_names = _targets(labels, task, source, classes)
    if source.x_test is None:
        rng = np.random.default_rng(seed)
        try:
            rows, test_rows = split(targets[0], test_fraction, rng, task=task)
        except DataError as error:
            raise DataError(f"{source.name}: {error}") from None
        x, x_test, y, y_test = x[rows], x[test_rows], targets[0][rows], targets[0][test_rows]
    else:
        x_test, y, y_test = _as_rows(source.x_test, f"{source.name}: x_test")[0], *targets
    return Dataset(
        x, y, x_test, y_test,
        task=task, class_names=class_names, feature_names=source.feature_names, feature_shape=feature_shape,
        value_range=source.value_range, name=source.name,
    )  # fmt: skip


def load_inputs(
    spec: str | os.PathLike[str],
    *,
    label: str | int | None = None,
    feature_names: Sequence[str] = (),
) -> np.ndarray:
    """Load the inputs alone, (examples, features), for a model that exists; labels may be missing.

    Args:
        spec: as for `load`. From a source with a test part of its own, that part is taken; otherwise all of it.
        label: a CSV column to leave out, by name or index. With `feature_names` it is not needed.
        feature_names: the columns that the model was trained on: a CSV file's columns are picked by these names,
            in this order, and others are ignored.

    Raises:
        DataError: the data is missing, damaged or empty, or a column is missing.
    """
    source = _read(spec, label, feature_names=feature_names, inputs_only=True)
    x, what = (source.x, "x") if source.x_test is None else (source.x_test, "x_test")
    x = _checked_inputs(_as_rows(x, f"{source.name}: {what}")[0], f"{source.name}: {what}")
    if not len(x):
        raise DataError(f"{source.name}: there are no examples")
    return x


def _read(spec: str | os.PathLike[str], label: str | int | None, **csv_options: Any) -> readers.Source:
    """Choose the reader for a name or a path."""
    path = Path(spec)
    is_csv = str(spec) not in NAMES and path.suffix.lower() in (".csv", ".tsv")
    if label is not None and not is_csv:
        raise ArgumentError("label", label, f"left out for {str(spec)!r}: only a CSV file has label columns")
    if str(spec) == "digits":
        return readers.read_digits()
    if str(spec) in readers.IDX_SETS:
        return readers.read_idx_folder(readers.find_idx_folder(str(spec)), str(spec))
    if os.path.isdir(spec):
        return readers.read_idx_folder(path, path.resolve().name)
    if not os.path.exists(spec):
        match = nearest(spec, NAMES)
        hint = f" (did you mean {match!r}?)" if match else ""
        raise DataError(
            f"no data set and no file is called {str(spec)!r}{hint}; it must be one of {', '.join(NAMES)}, a folder "
            "with IDX files, or a .npz or .csv file"
        )
    if is_csv:
        return readers.read_csv(path, label, **csv_options)
    if path.suffix.lower() == ".npz":
        return readers.read_npz(path)
    raise DataError(f"{path}: the file's kind is not known by its name; it must end in .npz or .csv")


def _as_rows(x: np.ndarray, what: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return x with each example as one row, and the shape that an example had."""
    if x.ndim < 2:
        raise DataError(f"{what} has shape {x.shape}; it must be (examples, features), or images, with examples first")
    rows = x.reshape(len(x), math.prod(x.shape[1:]))
    # Images stay 8-bit, four or eight times smaller than floats; any other integers take part in divisions at once.
    return (rows.astype(np.float64) if x.dtype.kind in "uib" and x.dtype != np.uint8 else rows), x.shape[1:]


def _targets(
    labels: Sequence[np.ndarray], task: str, source: readers.Source, classes: Sequence[str] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Turn raw labels, of the training and perhaps of the test part, into targets and class names."""
    if task == "regression":
        if any(y.dtype.kind not in "uifb" for y in labels):
            raise DataError(f"{source.name}: the labels are text; regression needs numbers")
        return [y.astype(np.float64) for y in labels], ()
    names = [_class_labels(y, f"{source.name}: " + ("y", "y_test")[i]) for i, y in enumerate(labels)]
    if source.class_names:
        names = [_name_labels(y, source) for y in names]
    known = tuple(classes or source.class_names)
    if not known:
        known = tuple(str(name) for name in np.unique(names[0]))
        if len(known) < 2:
            what = f"every label is {known[0]!r}" if known else "there are no labels"
            raise DataError(f"{source.name}: {what}; classification needs at least two classes")
    index = {name: i for i, name in enumerate(known)}
    targets = []
    for y in names:
        distinct, inverse = np.unique(y, return_inverse=True)
        unknown = [str(name) for name in distinct if str(name) not in index]
        if unknown:
            shown = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
            raise DataError(f"{source.name}: the label {unknown[0]!r} is none of the {len(known)} classes {shown}")
        targets.append(np.array([index[str(name)] for name in distinct], dtype=np.int64)[inverse.reshape(-1)])
    return targets, known


def _name_labels(y: np.ndarray, source: readers.Source) -> np.ndarray:
    """Return the names of classes that are known beforehand, for labels that are their indices."""
    count = len(source.class_names)
    bad = y[(y < 0) | (y >= count)]
    if len(bad):
        raise DataError(f"{source.name}: there is a label {bad[0]}; labels must be from 0 to {count - 1}")
    return np.array(source.class_names)[y]


def _class_labels(y: np.ndarray, what: str) -> np.ndarray:
    """Return labels (examples,) as integers or text; one-hot rows become the index of their one."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "uifb":
        if not (((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()):
            raise DataError(f"{what} has shape {y.shape}; it must be one label an example, or one-hot rows")
        return y.argmax(axis=1)
    if y.ndim != 1:
        raise DataError(f"{what} has shape {y.shape}; it must be (examples,)")
    if y.dtype.kind == "f":
        _check_finite(y, what)
        bad = y[(y != np.round(y)) | (np.abs(y) > 2**53)]
        if len(bad):
            raise DataError(f"{what} holds {bad[0]}; class labels must be whole numbers or text")
        return y.astype(np.int64)
    if y.dtype.kind not in "uibU":
        raise DataError(f"{what} holds {y.dtype}; class labels must be whole numbers or text")
    return y.astype(np.int64) if y.dtype.kind == "b" else y
