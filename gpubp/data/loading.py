"""Loading: from a name or a path to a `Dataset`, or to the inputs alone.

Whatever is wrong with the data is a `DataError` that names the file, and for a table the line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.data import labels as label_rules
from gpubp.data.columns import Wanted
from gpubp.data.dataset import TASKS, Dataset, checked_inputs
from gpubp.data.idx import IDX_SETS, find_idx_folder, is_idx_set, read_idx_set
from gpubp.data.npz import read_digits, read_npz
from gpubp.data.source import Source, reason
from gpubp.data.splitting import split
from gpubp.data.table import TABLE_SUFFIXES, TableFormat, read_table
from gpubp.errors import ArgumentError, DataError, nearest, shown, shown_path, unknown_name
from gpubp.files import is_missing

NAMES = ("digits", *IDX_SETS)
"""The data sets that `load` knows by name."""


def load(
    spec: str | os.PathLike[str],
    *,
    task: str | None = None,
    label: str | int | None = None,
    table: TableFormat | None = None,
    test_fraction: float = 0.2,
    seed: Any = 0,
    classes: Sequence[str] | None = None,
    feature_names: Sequence[str] = (),
    features: int | None = None,
    model_label: str | int | None = None,
) -> Dataset:
    """Load a data set by name or from a file or folder.

    Args:
        spec: "digits" (bundled), "fashion-mnist", "mnist", a folder with the four IDX files (or the start of their
            names in it, as in data/emnist-letters), an .npz file with x and y (and x_test, y_test where the split is
            given; see `npz.INPUTS` for other names), or a table: .csv or .tsv, also with .gz.
        task: "classification" or "regression"; by default what the labels look like, see `labels.guess_task`.
        label: the label column of a table, by name or by position. What looks like a whole number is a position: from
            0, or from the end if negative. By default the column called label, class, target or y, else the last.
        table: how a table is written, where that should not be guessed.
        test_fraction: the share set aside for testing, 0 <= test_fraction < 1, where the source has no test part.
        seed: seed or NumPy Generator of that split.
        classes: the classes of an existing model, by name, in its order; a label that is none of them is an error.
        feature_names: the names of the columns that an existing model reads: a table's columns are picked by them.
        features: how many columns an existing model without names reads: all but the label, in their order.
        model_label: the label column that an existing model was trained on; it is taken, if it is there, where `label`
            is None.

    Returns:
        The data. Its `notes` say what was guessed.

    Raises:
        ArgumentError: an argument is out of range or does not apply to this source.
        DataError: the data is missing, damaged, or not fit for training.
    """
    if task is not None and task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if not (isinstance(test_fraction, (int, float)) and 0 <= test_fraction < 1):
        raise ArgumentError("test_fraction", test_fraction, "at least 0 and below 1")
    source = _read(spec, label, table, Wanted(tuple(feature_names), features, model_label))
    if source.y is None:
        raise DataError(f"{source.name}: there are no labels; it must hold y beside x")
    x, feature_shape = _as_rows(source.x, f"{source.name}: x")
    if len(x) != len(source.y.values):
        raise DataError(
            f"{source.name}: x has {len(x):,} examples and y has {len(source.y.values):,} labels; there must be as many"
        )
    parts = [label_rules.tidy(source, part) for part in (source.y, source.y_test) if part is not None]
    notes = source.notes
    if task is None:
        task, why = _guess_task(source, parts)
        notes = (*notes, f"task: {task} ({why})") if why else notes
    targets, class_names = _targets(source, parts, task, classes or ())
    # Their text can be as large as the inputs, which are copied next.
    del parts
    source = replace(source, y=None, y_test=None)
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
        value_range=source.value_range, name=source.name, label=source.label, notes=notes,
    )  # fmt: skip


def _guess_task(source: Source, parts: Sequence[label_rules.Labels]) -> tuple[str, str]:
    """Return the task, and why if it was a guess."""
    return ("classification", "") if source.class_names else label_rules.guess_task(source, parts)


def _targets(
    source: Source, parts: Sequence[label_rules.Labels], task: str, known: Sequence[str]
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return the targets of each part, and the names of classes."""
    if task == "regression":
        return [label_rules.values(source, part) for part in parts], ()
    return label_rules.classes(source, parts, known)


def load_inputs(
    spec: str | os.PathLike[str],
    *,
    label: str | int | None = None,
    table: TableFormat | None = None,
    feature_names: Sequence[str] = (),
    features: int | None = None,
    model_label: str | int | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Load the inputs alone for a model that exists; labels may be missing.

    Args:
        spec, table: as for `load`. From a source with a test part of its own, that part is taken; otherwise all of it.
        label: a column of a table to leave out, by name or position.
        feature_names, features, model_label: as for `load`.

    Returns:
        The inputs (examples, features), and notes on what was guessed.

    Raises:
        ArgumentError, DataError: as `load`.
    """
    wanted = Wanted(tuple(feature_names), features, model_label)
    source = _read(spec, label, table, wanted, inputs_only=True)
    x, what = (source.x, "x") if source.x_test is None else (source.x_test, "x_test")
    x = checked_inputs(_as_rows(x, f"{source.name}: {what}")[0], f"{source.name}: {what}")
    if not len(x):
        raise DataError(f"{source.name}: there are no examples")
    return x, source.notes


def _read(
    spec: str | os.PathLike[str],
    label: str | int | None,
    table: TableFormat | None,
    wanted: Wanted,
    *,
    inputs_only: bool = False,
) -> Source:
    """Choose the reader for a name or a path."""
    _require_text(spec)
    if not is_table(spec):
        _refuse_table_options(spec, label, table)
    if str(spec) == "digits":
        return read_digits()
    if str(spec) in IDX_SETS:
        return read_idx_set(find_idx_folder(str(spec)), str(spec))
    path = Path(spec)
    if os.path.exists(spec):
        if os.path.isdir(spec):
            return read_idx_set(path, shown_path(os.path.basename(os.path.realpath(path))))
        if is_table(spec):
            return read_table(path, label, table or TableFormat(), wanted, inputs_only=inputs_only)
        if _suffix(path) == ".npz":
            return read_npz(path)
        raise DataError(f"{shown_path(path)}: the file's kind is not known by its name; it must end in .npz or .csv")
    if is_idx_set(path):
        return read_idx_set(path, shown_path(path.name))
    _require_looks(path)
    match = nearest(spec, NAMES)
    hint = f" (did you mean {match!r}?)" if match else ""
    raise DataError(
        f"no data set and no file is called '{shown_path(spec)}'{hint}; it must be one of {', '.join(NAMES)}, a folder "
        "with IDX files, or a .npz or .csv file"
    )


def _require_looks(path: Path) -> None:
    """Raise DataError if a path may not be looked at: what is there is not known to be missing."""
    try:
        os.stat(path)
    except OSError as error:
        if not is_missing(path):
            raise DataError(f"{shown_path(path)}: it cannot be read: {reason(error)}") from None


def _require_text(spec: str | os.PathLike[str]) -> None:
    """Raise DataError for a name that no file can have, or that a run's settings could not keep."""
    text = os.fspath(spec)
    try:
        if isinstance(text, str) and "\0" not in text and text.encode():
            return
    except UnicodeEncodeError:
        pass
    if text == "":
        return
    raise DataError(f"the data's name '{shown_path(text)}' is no text that a file can be called by; rename or link it")


def is_there(spec: str | os.PathLike[str]) -> bool:
    """True if this is the path of a file or folder, or of a set of IDX files in a folder."""
    return os.path.exists(spec) or is_idx_set(Path(spec))


def is_table(spec: str | os.PathLike[str]) -> bool:
    """True if a name or a path says that it is a table."""
    return str(spec) not in NAMES and not os.path.isdir(spec) and _suffix(Path(spec)) in TABLE_SUFFIXES


def _suffix(path: Path) -> str:
    """Return what says the kind of a file, in lower case: the end of its name, or if that is none, of the name of the
    file that a link leads to."""
    if "\0" in str(path):
        return ""
    for name in (path.name, os.path.basename(os.path.realpath(path))):
        suffix = Path(name.lower().removesuffix(".gz")).suffix
        if suffix in (*TABLE_SUFFIXES, ".npz"):
            return suffix
    return path.suffix.lower()


def _refuse_table_options(spec: str | os.PathLike[str], label: str | int | None, table: TableFormat | None) -> None:
    """Raise ArgumentError for an option that only a table has."""
    given = {"label": label} if label is not None else {}
    for each in fields(TableFormat):
        if table is not None and getattr(table, each.name) != each.default:
            given[each.name] = getattr(table, each.name)
    for name, value in given.items():
        what = "a CSV file has label columns" if name == "label" else "a table (.csv, .tsv) has it"
        raise ArgumentError(name, value, f"left out for '{shown_path(spec)}': only {what}")


def _as_rows(x: np.ndarray, what: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return x with each example as one row, and the shape that an example had."""
    if x.ndim < 2:
        raise DataError(
            f"{what} has shape {shown(x.shape)}; it must be (examples, features), or images, with examples first"
        )
    rows = x.reshape(len(x), math.prod(x.shape[1:]))
    # Images stay 8-bit, four or eight times smaller than floats; any other integers take part in divisions at once.
    return (rows.astype(np.float64) if x.dtype.kind in "uib" and x.dtype != np.uint8 else rows), x.shape[1:]
