"""Using a model: data to judge it by, and its predictions in a file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import files
from gpubp.data import loading
from gpubp.errors import ArgumentError, DataError, StateError
from gpubp.training.from_settings import lasting, split_seed
from gpubp.training.model import Model


def load_for(model: Model, spec: str | None, label: str | None) -> tuple[str, np.ndarray, np.ndarray]:
    """Return raw inputs and targets to judge a model by, and their name: (name, x, y).

    If `spec` is None or the source of the model's training data, that is the part that was held out from training; of
    other data its test part, or all of it if it has none. Raises ArgumentError, and DataError for data that does not
    fit the model.
    """
    origin = model.origin
    spec = origin.get("data") if spec is None else lasting(spec)
    if spec is None:
        raise StateError("--data", "is missing", "be given: the model does not say what it was trained on")
    trained_on = spec == origin.get("data")
    found = loading.load(
        spec,
        task=model.task,
        label=label or (origin.get("label") if trained_on else None),
        test_fraction=origin.get("test_fraction", 0.0) if trained_on else 0.0,
        seed=split_seed(origin.get("seed", 0)),
        classes=model.class_names or None,
        feature_names=model.feature_names,
    )
    name, x, y = found.name, found.x_train, found.y_train
    if len(found.x_test):
        name, x, y = f"{found.name}, the test part", found.x_test, found.y_test
    _require_features(model, found.name, x)
    outputs = model.network.sizes[-1]
    if model.task == "regression" and found.outputs != outputs:
        raise DataError(f"{found.name}: it has {found.outputs} values an example; the model predicts {outputs}")
    return name, x, y


def _require_features(model: Model, name: str, x: np.ndarray) -> None:
    """Raise DataError unless raw inputs have as many features as the model reads."""
    if x.shape[1] != model.network.sizes[0]:
        raise DataError(f"{name}: it has {x.shape[1]} features an example; the model reads {model.network.sizes[0]}")


def predict(model: Model, spec: str, label: str | None, out: Path) -> int:
    """Write predictions for a data set's inputs to a .csv or .npz file, and return how many.

    Raises ArgumentError for another kind of file and for the data's own file; DataError for inputs that do not fit the
    model.
    """
    if out.suffix.lower() not in (".csv", ".npz"):
        raise ArgumentError("--out", str(out), "a file that ends in .csv or .npz")
    if os.path.exists(spec) and os.path.exists(out) and os.path.samefile(spec, out):
        raise ArgumentError("--out", str(out), "another file than the data")
    x = loading.load_inputs(spec, label=label, feature_names=model.feature_names)
    _require_features(model, spec, x)
    _write_predictions(model, x, out)
    return len(x)


def _write_predictions(model: Model, x: np.ndarray, path: Path) -> None:
    """Write predictions for raw inputs, whole or not at all.

    Classification: `class` (names) and a probability for each class. Regression: the values.
    """
    if model.task == "classification":
        probabilities = model.predict_proba(x)
        classes = np.array(model.class_names)[probabilities.argmax(axis=1)]
        arrays = {"classes": classes, "probabilities": probabilities, "class_names": np.array(model.class_names)}
        header = ["class", *(f"probability {name}" for name in model.class_names)]
        rows: Sequence[Any] = [[name, *row] for name, row in zip(classes, probabilities.tolist(), strict=True)]
    else:
        values = model.predict(x)
        arrays = {"values": values}
        header = [f"value {number}" for number in range(1, values.shape[1] + 1)]
        rows = values.tolist()
    files.write_bytes(path, _npz(arrays) if path.suffix.lower() == ".npz" else _csv(header, rows))


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **dict(arrays))  # type: ignore[arg-type]
    return file.getvalue()


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
