"""Using a model: data to judge it by, and its predictions in a file."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import files
from gpubp.data import loading
from gpubp.data.dataset import Dataset
from gpubp.data.rows import Inputs, rows_of
from gpubp.data.splitting import split
from gpubp.errors import ArgumentError, CheckpointError, DataError, StateError, shown, shown_path
from gpubp.training.fingerprints import fingerprint, row_digests
from gpubp.training.from_settings import lasting, require_present, split_seed, table_format
from gpubp.training.model import FINGERPRINT, SAMPLE, Model
from gpubp.training.settings import TABLE


@dataclass(frozen=True, eq=False)
class Examples:
    """Raw inputs and targets to judge a model by.

    Attributes:
        name: of the data, and of what part of it this is.
        x, y: as in `Dataset`.
        weight: of each example, (examples,); None if all count the same.
        warning: what the user must know of them; empty for nothing.
        notes: what was guessed about the data.
    """

    name: str
    x: Inputs
    y: np.ndarray
    weight: np.ndarray | None = None
    warning: str = ""
    notes: tuple[str, ...] = ()


def load_for(
    model: Model,
    spec: str | None,
    label: str | None,
    *,
    weight_column: str | None = None,
    whole: bool = False,
    written: Mapping[str, Any] | None = None,
) -> Examples:
    """Return what to judge a model by: of the data it was trained on the part that was held out, of other data the test
    part, or all of it if it has none.

    Its data is known by its contents, wherever it lies now.

    Args:
        spec: name or path of the data; None takes the model's own.
        label: the label column of a table, or several; None takes that of the training.
        weight_column: the column or array with the examples' weights; None takes that of the training, if it is there.
        whole: take all rows, those of the training among them.
        written: how a table is written, settings by name; those that are missing or None are those of the training.

    Raises:
        ArgumentError: an argument does not fit the data.
        DataError: the data does not fit the model, or has changed since: which rows were held out is not known then.
    """
    _require_origin(model)
    own = model.origin.get("data")
    if spec is None:
        if own is None:
            raise StateError("--data", "is missing", "be given: the model does not say what it was trained on")
        require_present(own)
        spec = own
    spec = lasting(spec)
    found = loading.load(
        spec,
        task=model.task,
        label=label,
        weight_column=weight_column,
        test_fraction=0.0,
        classes=model.class_names or None,
        **_columns_of(model, spec, written),
    )
    return replace(_choose(model, spec, found, whole), notes=found.notes)


def _require_origin(model: Model) -> None:
    """Raise CheckpointError if the model's origin is none that a run wrote: its file may be anybody's."""
    kinds: dict[str, Callable[[Any], bool]] = {
        "data": lambda value: isinstance(value, str),
        "test_fraction": lambda value: type(value) in (int, float) and 0 <= value < 1,
        "seed": lambda value: type(value) is int and value >= 0,
        FINGERPRINT: lambda value: isinstance(value, str),
        SAMPLE: lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
        "label": lambda value: _is_column(value) or _are_columns(value),
        "weight_column": _is_column,
        **dict.fromkeys(TABLE, lambda value: isinstance(value, str)),
        **dict.fromkeys(("keep_index", "percent"), lambda value: isinstance(value, bool)),
    }
    for name, is_right in kinds.items():
        value = model.origin.get(name)
        if value is not None and not is_right(value):
            raise CheckpointError(f"the model's origin is none that a run wrote: its {name} is {shown(repr(value))}")


def _is_column(value: Any) -> bool:
    """True if the value names a column, or is its position."""
    return type(value) in (str, int)


def _are_columns(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 1 and all(map(_is_column, value))


def _columns_of(model: Model, spec: str, written: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what loading must know of the columns of a model's training data."""
    origin = model.origin if loading.is_table(spec) else {}
    label = origin.get("label")
    return {
        "table": table_format(written or {}, {name: origin[name] for name in TABLE if name in origin}),
        "feature_names": model.feature_names,
        "features": model.network.sizes[0],
        "preparation": model.preparation,
        "model_label": tuple(label) if isinstance(label, list) else label,
        "model_weight": model.origin.get("weight_column"),
    }


def _choose(model: Model, spec: str, found: Dataset, whole: bool) -> Examples:
    """Return the rows to judge a model by."""
    _require_features(model, found.name, found.x_train)
    outputs = model.network.sizes[-1]
    if model.task == "regression" and found.outputs != outputs:
        raise DataError(f"{found.name}: it has {found.outputs} values an example; the model predicts {outputs}")
    if whole:
        x, y = np.concatenate([found.x_train, found.x_test]), np.concatenate([found.y_train, found.y_test])
        weights = None
        if found.weight_train is not None and found.weight_test is not None:
            weights = np.concatenate([found.weight_train, found.weight_test])
        return Examples(f"{found.name}, all rows", x, y, weights)
    parts = _split_as_in_training(model, found)
    if _is_trained_on(model, spec, found.name, parts):
        return _held_out(model, found if parts is None else parts)
    other = _test_part(found) if len(found.x_test) else _training_part(found, found.name)
    return replace(other, warning=_overlap(model, other))


def _is_trained_on(model: Model, spec: str, name: str, parts: Dataset | None) -> bool:
    """True if these are the parts of the training's data. Raises DataError if its place holds something else now."""
    known, same_place = model.origin.get(FINGERPRINT), _is_same_place(spec, model.origin.get("data"))
    if known is None:  # a model of an earlier version
        return same_place
    if parts is not None and "weight_column" not in model.origin:  # weights that the training did not have
        parts = replace(parts, weight_train=None, weight_test=None)
    if parts is not None and known == fingerprint(parts):
        return True
    if same_place:
        raise DataError(
            f"{name} has changed since the model was trained on it, so that the rows that were held out are not "
            "known; --whole judges all rows, those of the training among them, and --data takes other data"
        )
    return False


def _is_same_place(spec: str, other: Any) -> bool:
    if spec == other:
        return True
    try:
        return spec not in loading.NAMES and isinstance(other, str) and os.path.samefile(spec, other)
    except (OSError, ValueError):
        return False


def _split_as_in_training(model: Model, found: Dataset) -> Dataset | None:
    """Return data with the test part that a training would have split off; None if that cannot be split off."""
    origin = model.origin
    fraction = origin.get("test_fraction", 0.0)
    if len(found.x_test) or not fraction:
        return found
    try:
        rng = np.random.default_rng(split_seed(origin.get("seed", 0)))
        rows, test_rows = split(found.y_train, fraction, rng, task=found.task)
    except DataError:
        return None
    x, y, weights = found.x_train, found.y_train, found.weight_train
    parts: dict[str, Any] = {"x_train": rows_of(x, rows), "y_train": y[rows]}
    parts |= {"x_test": rows_of(x, test_rows), "y_test": y[test_rows]}
    if weights is not None:
        parts |= {"weight_train": weights[rows], "weight_test": weights[test_rows]}
    try:
        return replace(found, **parts)
    except DataError:  # a part in which no example counts, which a training would have refused
        return None


def _held_out(model: Model, parts: Dataset) -> Examples:
    """Return the part of the training's data that was held out."""
    if not len(parts.x_test):
        why = "no rows were held out from training, so these are the rows that the model was trained on"
        return replace(_training_part(parts, f"{parts.name}, the training part"), warning=why)
    if FINGERPRINT in model.origin:
        return _test_part(parts)
    why = (
        "an earlier version wrote this model, without a fingerprint of its data: if the data has changed since, rows "
        "that the model was trained on are among these"
    )
    return replace(_test_part(parts), warning=why)


def _overlap(model: Model, other: Examples) -> str:
    """Return a warning if rows of the training are among others, as the sample that the model keeps of them shows."""
    sample = set(model.origin.get(SAMPLE, ()))
    met = sample.intersection(row_digests(other.x)) if sample else ()
    if not met:
        return ""
    share = max(1, round(100 * len(met) / len(sample)))
    return (
        f"about {share} % of the rows that the model was trained on are in {other.name}, and are judged with the rest"
    )


def _test_part(found: Dataset) -> Examples:
    return Examples(f"{found.name}, the test part", found.x_test, found.y_test, found.weight_test)


def _training_part(found: Dataset, name: str) -> Examples:
    return Examples(name, found.x_train, found.y_train, found.weight_train)


def _require_features(model: Model, name: str, x: Inputs) -> None:
    """Raise DataError unless raw inputs have as many features as the model reads."""
    if x.shape[1] != model.network.sizes[0]:
        raise DataError(f"{name}: it has {x.shape[1]} features an example; the model reads {model.network.sizes[0]}")


def check_out(out: Path, spec: str, force: bool) -> None:
    """Raise ArgumentError if predictions for this data cannot be written to this file, or only in place of another.

    force: a file that is there may be replaced; the data's own may not.
    """
    if os.path.exists(spec) and os.path.exists(out) and os.path.samefile(spec, out):
        raise ArgumentError("--out", str(out), "another file than the data")
    files.check_path("--out", out, ".csv", ".npz", replace=force)


def load_inputs_for(
    model: Model,
    spec: str,
    label: str | None,
    written: Mapping[str, Any] | None = None,
    *,
    weight_column: str | None = None,
) -> tuple[Inputs, tuple[str, ...]]:
    """Return a data set's raw inputs for a model, and notes on what was guessed; arguments as for `load_for`.

    Raises DataError for inputs that do not fit the model, CheckpointError for a model that no run wrote.
    """
    _require_origin(model)
    columns = _columns_of(model, spec, written)
    x, notes = loading.load_inputs(spec, label=label, weight_column=weight_column, **columns)
    _require_features(model, shown_path(spec), x)
    return x, notes


def write_predictions(model: Model, x: Inputs, path: Path, *, raw: bool = False) -> None:
    """Write predictions for raw inputs to a .csv or .npz file, whole or not at all.

    Classification: `class` (names) and a probability for each class. Multilabel: for each label its name, 0 or 1, and
    its probability. Regression: the values.

    raw: write class names into a .csv as they are, also those that a spreadsheet would take for a formula.

    Raises CheckpointError if the file cannot be written.
    """
    if model.task == "classification":
        probabilities = model.predict_proba(x)
        likeliest = probabilities.argmax(axis=1)
        names = np.array(model.class_names)
        arrays = {"classes": names[likeliest], "probabilities": probabilities, "class_names": names}
        header = ["class", *(f"probability {name}" for name in model.class_names)]
        cells = model.class_names if raw else tuple(map(_as_text_cell, model.class_names))
        pairs = zip(likeliest.tolist(), probabilities.tolist(), strict=True)
        rows: Sequence[Any] = [[cells[index], *row] for index, row in pairs]
    elif model.task == "multilabel":
        probabilities = model.predict_proba(x)
        labels = model.classes_of(probabilities)
        arrays = {"labels": labels, "probabilities": probabilities, "label_names": np.array(model.class_names)}
        header = [*model.class_names, *(f"probability {name}" for name in model.class_names)]
        if not raw:
            header = list(map(_as_text_cell, header))
        rows = [[*ones, *row] for ones, row in zip(labels.tolist(), probabilities.tolist(), strict=True)]
    else:
        values = model.predict(x)
        arrays = {"values": values}
        header = [f"value {number}" for number in range(1, values.shape[1] + 1)]
        rows = values.tolist()
    files.write_bytes(path, _npz(arrays) if path.suffix.lower() == ".npz" else _csv(header, rows))


FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r", "\n")
"""What a cell begins with that a spreadsheet takes for a formula (four are full-width), or strips to find one."""
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def _as_text_cell(name: str) -> str:
    """Return a class name as a cell that a spreadsheet shows and does not execute (OWASP, "CSV injection").

    An apostrophe goes before what would begin a formula. A number is none, with whatever sign.
    """
    return f"'{name}" if name.startswith(FORMULA) and not NUMBER.fullmatch(name) else name


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **dict(arrays))  # type: ignore[arg-type]
    return file.getvalue()


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    # before Python 3.13 the writer leaves a carriage return unquoted; readers end a row at it
    of_text = any("\r" in name for name in header)
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if of_text else csv.QUOTE_MINIMAL)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")  # a name from a .npz can hold half a surrogate pair
