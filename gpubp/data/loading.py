"""Loading: from a name or a path to a `Dataset`, or to the inputs alone.

Whatever is wrong with the data is a `DataError` that names the file, and for a CSV file the line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.data import readers
from gpubp.data.dataset import TASKS, Dataset, checked_inputs, require_finite
from gpubp.data.splitting import split
from gpubp.errors import ArgumentError, DataError, nearest, unknown_name

NAMES = ("digits", *readers.IDX_SETS)
"""The data sets that `load` knows by name."""


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
    x = checked_inputs(_as_rows(x, f"{source.name}: {what}")[0], f"{source.name}: {what}")
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
        require_finite(y, what)
        bad = y[(y != np.round(y)) | (np.abs(y) > 2**53)]
        if len(bad):
            raise DataError(f"{what} holds {bad[0]}; class labels must be whole numbers or text")
        return y.astype(np.int64)
    if y.dtype.kind not in "uibU":
        raise DataError(f"{what} holds {y.dtype}; class labels must be whole numbers or text")
    return y.astype(np.int64) if y.dtype.kind == "b" else y
