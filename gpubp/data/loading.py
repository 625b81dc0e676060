"""Loading: from a name or a path to a `Dataset`, or to the inputs alone.

Whatever is wrong with the data is a `DataError` that names the file, and for a table the line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.data import labels as label_rules
from gpubp.data import weights as weight_rules
from gpubp.data.arrow import ARROW_SUFFIXES, parts_of, read_arrow
from gpubp.data.columns import Wanted
from gpubp.data.dataset import TASKS, Dataset, checked_inputs
from gpubp.data.idx import IDX_SETS, find_idx_folder, is_idx_set, read_idx_set
from gpubp.data.npz import npy_files, read_digits, read_npy, read_npz
from gpubp.data.preparation import NUMBER, InputRules, Preparation
from gpubp.data.rows import Inputs, Rows, unchanged
from gpubp.data.source import Source, reason
from gpubp.data.splitting import split
from gpubp.data.table import TABLE_SUFFIXES, TableFormat, read_table
from gpubp.data.taken import taken
from gpubp.errors import ArgumentError, DataError, nearest, shown, shown_path, unknown_name
from gpubp.files import is_missing

BUNDLED = "digits"
"""The data set that comes with the program."""
NAMES = (BUNDLED, *IDX_SETS)
"""The data sets that `load` knows by name."""


def load(
    spec: str | os.PathLike[str],
    *,
    task: str | None = None,
    label: str | int | Sequence[str | int] | None = None,
    weight_column: str | int | None = None,
    table: TableFormat | None = None,
    rules: InputRules | None = None,
    test_fraction: float = 0.2,
    seed: Any = 0,
    classes: Sequence[str] | None = None,
    feature_names: Sequence[str] = (),
    features: int | None = None,
    preparation: Preparation | None = None,
    model_label: str | int | tuple[str | int, ...] | None = None,
    model_weight: str | int | None = None,
    stream: bool | None = None,
) -> Dataset:
    """Load a data set by name or from a file or folder.

    Args:
        spec: "digits" (bundled), "fashion-mnist", "mnist", a folder with the four IDX files (or the start of their
            names in it, as in data/emnist-letters), an .npz file with x and y (and x_test, y_test where the split is
            given; see `npz.INPUTS` for other names), a folder of .npy files with these names or the x.npy in it, or a
            table: .csv or .tsv, also with .gz; .parquet, .arrow or
            .feather, or a folder of such files, its parts.
        task: "classification", "multilabel" or "regression"; by default what the labels look like, see
            `labels.guess_task`.
        label: the label column of a table, by name or by position. What looks like a whole number is a position: from
            0, or from the end if negative. By default the column called label, class, target or y, else the last.
            Several columns, of numbers, are a sequence, or text with commas between them (a name that has a comma
            itself is in double quotes, or alone).
        weight_column: the column of a table with the examples' weights, by name or by position; it is no input. In a
            .npz, the array with the weights of x, such as w or w_train; if there is x_test, its weights are w_test.
        table: how a table is written, where that should not be guessed.
        rules: what is asked of a table's input columns: what stands for missing values, which columns are categories.
        test_fraction: the share set aside for testing, 0 <= test_fraction < 1, where the source has no test part.
        seed: seed or NumPy Generator of that split.
        classes: the classes of an existing model, by name, in its order; a label that is none of them is an error.
        feature_names: the names of the columns that an existing model reads: a table's columns are picked by them.
        features: how many columns an existing model without names reads: all but the label, in their order.
        preparation: of an existing model, which says its columns in place of `feature_names` and `features`.
        model_label: the label column that an existing model was trained on, or a tuple of several; it is taken, if it
            is there, where `label` is None.
        model_weight: the `Dataset.weight_column` that an existing model was trained with; it is taken, if it is there,
            where `weight_column` is None.
        stream: put inputs that would be unpacked into memory, of a table, of IDX files or of a compressed .npz, into a
            temporary file, where they stay as those of a large .npy file stay in it: see `gpubp.data.spool`. None: if
            they are large for the memory, there is room for that file, and both are known beforehand, as of text they
            are not.

    Returns:
        The data. Its `notes` say what was guessed. What a table's text and its missing values become is fitted on the
        training part, on its examples of weight above 0.

    Raises:
        ArgumentError: an argument is out of range or does not apply to this source.
        DataError: the data is missing, damaged, or not fit for training.
    """
    if not (isinstance(test_fraction, (int, float)) and 0 <= test_fraction < 1):
        raise ArgumentError("test_fraction", test_fraction, "at least 0 and below 1")
    wanted = _wanted(feature_names, features, preparation, model_label, model_weight)
    whole = load_whole(
        spec, task=task, label=label, weight_column=weight_column, table=table, rules=rules, wanted=wanted,
        classes=classes or (), preparation=preparation, stream=stream,
    )  # fmt: skip
    return whole.split(test_fraction, np.random.default_rng(seed))


def load_whole(
    spec: str | os.PathLike[str],
    *,
    task: str | None = None,
    label: str | int | Sequence[str | int] | None = None,
    weight_column: str | int | None = None,
    table: TableFormat | None = None,
    rules: InputRules | None = None,
    wanted: Wanted | None = None,
    classes: Sequence[str] = (),
    preparation: Preparation | None = None,
    stream: bool | None = None,
) -> Whole:
    """Load a data set that is not split yet; arguments and errors as for `load`.

    wanted, classes, preparation: what an existing model reads and predicts.
    """
    if task is not None and task not in TASKS:
        raise unknown_name("task", task, TASKS)
    rules = rules or InputRules(missing="error" if preparation is None else preparation.missing)
    source = _read(spec, label, weight_column, table, wanted or Wanted(), rules, stream=stream)
    try:
        return _whole(source, task, classes, rules, preparation)
    except DataError:
        if source.again is None:
            raise
        return _whole(source.again(), task, classes, rules, preparation)


def _whole(
    source: Source, task: str | None, classes: Sequence[str], rules: InputRules, preparation: Preparation | None
) -> Whole:
    """Return the data set that was read; arguments and errors as for `load_whole`."""
    if source.y is None:
        raise DataError(f"{source.name}: there are no labels; it must hold y beside x")
    x, feature_shape = _as_rows(source.x, f"{source.name}: x")
    if len(x) != len(source.y.values):
        raise DataError(
            f"{source.name}: x has {len(x):,} examples and y has {len(source.y.values):,} labels; there must be as many"
        )
    weight, weight_test = _weights(source, len(x))
    parts = [label_rules.tidy(source, part) for part in (source.y, source.y_test) if part is not None]
    notes = source.notes
    if task is None:
        task, why = _guess_task(source, parts)
        notes = (*notes, f"task: {task} ({why})") if why else notes
    targets, class_names = _targets(source, parts, task, classes)
    x_test = None if source.x_test is None else _as_rows(source.x_test, f"{source.name}: x_test")[0]
    # The labels' text can be as large as the inputs, which are copied next.
    source = replace(source, x=x, x_test=x_test, y=None, y_test=None, weight=None, weight_test=None)
    y_test = targets[1] if x_test is not None else None
    return Whole(
        source, targets[0], y_test, weight, weight_test, task, class_names, feature_shape, notes, rules, preparation
    )


def look(spec: str | os.PathLike[str], *, rules: InputRules | None = None, **options: Any) -> Dataset:
    """Return a data set as `load` does, all of it as the training part, with missing values that nothing stands for.

    For a first look: arguments as for `load_whole`.
    """
    rules = rules or InputRules()
    if is_table(spec) and rules.missing == "error":
        rules = replace(rules, missing="mean")
    return load_whole(spec, rules=rules, **options).split(0.0, np.random.default_rng(0))


@dataclass(frozen=True, eq=False)
class Whole:
    """The examples of a data set before they are split and its text becomes numbers.

    Attributes:
        source: what was read, without the labels and the weights.
        y, y_test: the targets as in `Dataset`; y_test is None where the source has no test part.
        weight, weight_test: as in `Dataset`.
        task, class_names, notes: as in `Dataset`.
        feature_shape: as in `Dataset`.
        rules: what is asked of the input columns.
        preparation: of an existing model.
    """

    source: Source
    y: np.ndarray
    y_test: np.ndarray | None
    weight: np.ndarray | None
    weight_test: np.ndarray | None
    task: str
    class_names: tuple[str, ...]
    feature_shape: tuple[int, ...]
    notes: tuple[str, ...]
    rules: InputRules
    preparation: Preparation | None

    def split(self, test_fraction: float, rng: np.random.Generator) -> Dataset:
        """Return the data in its own two parts; if it has one part, with this share set aside for testing.

        Raises DataError if that leaves a part without examples, or with none that counts.
        """
        if self.y_test is not None:
            x_test = None if self.source.x_test is None else _guarded(self.source, self.source.x_test)
            x = _guarded(self.source, self.source.x)
            return self._dataset(x, self.y, self.weight, x_test, self.y_test, self.weight_test, None)
        try:
            rows, test_rows = split(self.y, test_fraction, rng, task=self.task)
        except DataError as error:
            raise DataError(f"{self.source.name}: {error}") from None
        return self.parts(rows, test_rows)

    def parts(self, rows: np.ndarray, test_rows: np.ndarray) -> Dataset:
        """Return the data with these rows of its training part to train on, and those to test on."""
        y, weight, preparation = self.y, self.weight, self.preparation
        weights = (None, None) if weight is None else (weight[rows], weight[test_rows])
        if self.source.raw is None:
            of_both = self._rows(rows), self._rows(test_rows)
            return self._dataset(of_both[0], y[rows], weights[0], of_both[1], y[test_rows], weights[1], None)
        raw, test = self.source.raw.rows(rows), self.source.raw.rows(test_rows)
        if preparation is None and not (self.source.raw.are_numbers and self.rules.missing == "error"):
            counting = raw if weights[0] is None else raw.rows(weights[0] > 0)
            preparation = Preparation.fit(counting, self.rules)
        if preparation is None:
            return self._dataset(raw.values, y[rows], weights[0], test.values, y[test_rows], weights[1], None)
        x, x_test = preparation.apply_later(raw), preparation.apply_later(test)
        return self._dataset(x, y[rows], weights[0], x_test, y[test_rows], weights[1], preparation)

    def _rows(self, which: np.ndarray) -> Inputs:
        """Return some of the examples' inputs: copied, or where they are mapped as `Rows`."""
        x, files = self.source.x, self.source.files
        return x[which] if files is None else Rows(x, which, files)

    def _dataset(
        self,
        x: Inputs,
        y: np.ndarray,
        weight: np.ndarray | None,
        x_test: Inputs | None,
        y_test: np.ndarray,
        weight_test: np.ndarray | None,
        preparation: Preparation | None,
    ) -> Dataset:
        source, notes = self.source, self.notes
        if preparation is not None and source.raw is not None:
            notes = (*notes, *preparation.notes(source.raw))
        names = () if source.raw is None else source.raw.names
        kind = {"classification": "classes", "multilabel": "0 or 1", "regression": "values"}[self.task]
        assert x_test is not None
        return Dataset(
            x, y, x_test, y_test,
            task=self.task, class_names=self.class_names,
            feature_names=names if preparation is None else preparation.input_names(),
            feature_shape=self.feature_shape if preparation is None else (preparation.inputs,),
            value_range=source.value_range, name=source.name, label=source.label, notes=notes,
            weight_train=weight, weight_test=weight_test, weight_column=source.weight_column,
            preparation=preparation, columns=taken(source, preparation, kind, self.class_names),
        )  # fmt: skip


def _wanted(
    feature_names: Sequence[str],
    features: int | None,
    preparation: Preparation | None,
    label: str | int | tuple[str | int, ...] | None,
    weight: str | int | None,
) -> Wanted:
    """Return what an existing model reads from a table, as `load` is told it."""
    if preparation is not None:
        return Wanted(preparation.names, len(preparation.columns), label, weight, preparation.kinds)
    count = len(feature_names) or features
    return Wanted(tuple(feature_names), features, label, weight, (NUMBER,) * (count or 0))


def _guess_task(source: Source, parts: Sequence[label_rules.Labels]) -> tuple[str, str]:
    """Return the task, and why if it was a guess."""
    return ("classification", "") if source.class_names else label_rules.guess_task(source, parts)


def _targets(
    source: Source, parts: Sequence[label_rules.Labels], task: str, known: Sequence[str]
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return the targets of each part, and the names of classes."""
    if task == "regression":
        return [label_rules.values(source, part) for part in parts], ()
    if task == "multilabel":
        return label_rules.several(source, parts, known)
    if source.label_names:  # one-hot rows, whose columns are the classes
        source = replace(source, class_names=source.label_names)
    return label_rules.classes(source, parts, known)


def _weights(source: Source, rows: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the weights of both parts, or of all `rows` examples if there is no test part."""
    found = None if source.weight is None else weight_rules.tidy(source, source.weight, rows)
    if source.weight_test is None or source.x_test is None:
        return found, None
    return found, weight_rules.tidy(source, source.weight_test, len(source.x_test))


def load_inputs(
    spec: str | os.PathLike[str],
    *,
    label: str | int | Sequence[str | int] | None = None,
    weight_column: str | int | None = None,
    table: TableFormat | None = None,
    feature_names: Sequence[str] = (),
    features: int | None = None,
    preparation: Preparation | None = None,
    model_label: str | int | tuple[str | int, ...] | None = None,
    model_weight: str | int | None = None,
) -> tuple[Inputs, tuple[str, ...]]:
    """Load the inputs alone for a model that exists; labels may be missing.

    Args:
        spec, table: as for `load`. From a source with a test part of its own, that part is taken; otherwise all of it.
        label, weight_column: a column of a table to leave out, by name or position; `label` may name several.
        feature_names, features, preparation, model_label, model_weight: as for `load`.

    Returns:
        The inputs (examples, features), and notes on what was guessed.

    Raises:
        ArgumentError, DataError: as `load`.
    """
    wanted = _wanted(feature_names, features, preparation, model_label, model_weight)
    rules = InputRules(missing="error" if preparation is None else preparation.missing)
    source = _read(spec, label, weight_column, table, wanted, rules, inputs_only=True)
    x, what = (source.x, "x") if source.x_test is None else (source.x_test, "x_test")
    notes = source.notes
    if preparation is not None and source.raw is not None:
        x, notes = preparation.apply(source.raw), (*notes, *preparation.notes(source.raw))
    x = _as_rows(x, f"{source.name}: {what}")[0]
    found = checked_inputs(_guarded(source, x), f"{source.name}: {what}")
    if not len(found):
        raise DataError(f"{source.name}: there are no examples")
    return found, notes


def _read(
    spec: str | os.PathLike[str],
    label: str | int | Sequence[str | int] | None,
    weight: str | int | None,
    table: TableFormat | None,
    wanted: Wanted,
    rules: InputRules,
    *,
    inputs_only: bool = False,
    stream: bool | None = False,
) -> Source:
    """Return what the reader for a name or a path reads. Raise DataError if its files change meanwhile.

    stream: as for `load`.
    """
    _require_text(spec)
    with unchanged(_files(spec)):
        if not is_table(spec):
            _refuse_table_options(spec, label, table, rules)
            _refuse_weights(spec, weight)
        if str(spec) == BUNDLED:
            return read_digits()
        if str(spec) in IDX_SETS:
            return read_idx_set(find_idx_folder(str(spec)), str(spec), stream=stream)
        path = Path(spec)
        if os.path.exists(spec):
            if is_table(spec):
                read = read_table if _suffix(path) in TABLE_SUFFIXES else read_arrow
                return read(
                    path, label, table or TableFormat(), wanted, rules, weight=weight, inputs_only=inputs_only,
                    stream=stream,
                )  # fmt: skip
            if os.path.isdir(spec):
                if npy_files(spec):
                    return read_npy(path, **_array_of_weights(wanted, weight, inputs_only=inputs_only))
                return read_idx_set(path, shown_path(os.path.basename(os.path.realpath(path))), stream=stream)
            if _suffix(path) in (".npz", ".npy"):
                of_weights = _array_of_weights(wanted, weight, inputs_only=inputs_only)
                if _suffix(path) == ".npz":
                    return read_npz(path, **of_weights, stream=stream)
                return read_npy(path, **of_weights)
            raise DataError(
                f"{shown_path(path)}: the file's kind is not known by its name; it must end in .npz, .csv or .parquet"
            )
        if is_idx_set(path):
            return read_idx_set(path, shown_path(path.name), stream=stream)
        _require_looks(path)
        match = nearest(spec, NAMES)
        hint = f" (did you mean {match!r}?)" if match else ""
        raise DataError(
            f"no data set and no file is called '{shown_path(spec)}'{hint}; it must be one of {', '.join(NAMES)}, a "
            "folder with IDX files, or a .npz, .csv or .parquet file"
        )


def _files(spec: str | os.PathLike[str]) -> list[Path]:
    """Return the files that a name or a path may mean."""
    if str(spec) in NAMES or not os.path.exists(spec):
        return []
    if not os.path.isdir(spec):
        return [Path(spec)]
    # beside the files with the data there may be others, which change
    return parts_of(spec) or list(npy_files(spec).values()) or [*Path(spec).glob("*ubyte*")]


def _array_of_weights(wanted: Wanted, weight: str | int | None, *, inputs_only: bool) -> dict[str, Any]:
    """Return the arguments of `read_npz` that name the array with the weights."""
    name = wanted.weight if weight is None else weight
    is_named = isinstance(name, str) and not inputs_only
    return {"weight": str(name) if is_named else None, "weight_is_optional": weight is None}


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
    if str(spec) in NAMES:
        return False
    return bool(parts_of(spec)) if os.path.isdir(spec) else _suffix(Path(spec)) in (*TABLE_SUFFIXES, *ARROW_SUFFIXES)


def _suffix(path: Path) -> str:
    """Return what says the kind of a file, in lower case: the end of its name, or if that is none, of the name of the
    file that a link leads to."""
    if "\0" in str(path):
        return ""
    for name in (path.name, os.path.basename(os.path.realpath(path))):
        suffix = Path(name.lower().removesuffix(".gz")).suffix
        if suffix in (*TABLE_SUFFIXES, *ARROW_SUFFIXES, ".npz", ".npy"):
            return suffix
    return path.suffix.lower()


def _refuse_weights(spec: str | os.PathLike[str], weight: str | int | None) -> None:
    """Raise ArgumentError for weights of a source that can have none, or in an archive not by name."""
    if weight is None:
        return
    holds_arrays = bool(npy_files(spec)) if os.path.isdir(spec) else _suffix(Path(spec)) in (".npz", ".npy")
    if str(spec) in NAMES or not holds_arrays:
        expected = f"left out for '{shown_path(spec)}': only a table, a .npz and .npy files have weights"
        raise ArgumentError("weight_column", weight, expected)
    if not isinstance(weight, str):
        raise ArgumentError("weight_column", weight, "the name of an array: a .npz has no columns")


def _refuse_table_options(
    spec: str | os.PathLike[str],
    label: str | int | Sequence[str | int] | None,
    table: TableFormat | None,
    rules: InputRules,
) -> None:
    """Raise ArgumentError for an option that only a table has."""
    given: dict[str, Any] = {"label": label} if label is not None else {}
    for options in (table or TableFormat(), rules):
        own = {
            each.name: getattr(options, each.name)
            for each in fields(options)
            if each.default != getattr(options, each.name)
        }
        given.update(own)
    for name, value in given.items():
        what = "a table has label columns" if name == "label" else "a table (.csv, .tsv, .parquet) has it"
        raise ArgumentError(name, value, f"left out for '{shown_path(spec)}': only {what}")


def _as_rows(x: np.ndarray, what: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return x with each example as one row, and the shape that an example had."""
    if x.ndim < 2:
        raise DataError(
            f"{what} has shape {shown(x.shape)}; it must be (examples, features), or images, with examples first"
        )
    rows = x.reshape(len(x), math.prod(x.shape[1:]))
    # Images stay 8-bit, four or eight times smaller than floats; any other integers take part in divisions at once.
    is_kept = x.dtype.kind not in "uib" or x.dtype == np.uint8 or isinstance(x, np.memmap)
    return (rows if is_kept else rows.astype(np.float64)), x.shape[1:]


def _guarded(source: Source, x: np.ndarray) -> Inputs:
    """Return inputs as they are, or where they are mapped as `Rows`."""
    return x if source.files is None else Rows(x, np.arange(len(x)), source.files)
