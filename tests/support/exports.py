"""Models to export, for the tests of each format."""

import numpy as np

from gpubp.data import Dataset
from gpubp.data.preparation import InputRules, Preparation, RawColumns
from gpubp.nn.network import Network
from gpubp.training import TrainingConfig, fit

ROWS = 90
RNG = np.random.default_rng(5)
# a column far from 0, one that is constant, and one that nearly is
X = np.column_stack([RNG.normal(2000, 3, ROWS), np.full(ROWS, 7.0), np.arange(ROWS) == 4, RNG.normal(0, 1e-3, ROWS)])
FAR = X + RNG.normal(0, [400, 1, 30, 1], X.shape)
"""Rows that the bounds of the scaling change."""
NAMES = ("year", "constant", "rare", "small")
CLASSES = RNG.integers(0, 3, ROWS)
LABELS = (RNG.random((ROWS, 3)) < 0.5).astype(np.float64)
VALUES = np.column_stack([X[:, 0] * 50, X[:, 3]])

KINDS = {
    "classes": (CLASSES, "classification", "softmax_cross_entropy", 3),
    "two classes": (CLASSES % 2, "classification", "binary_cross_entropy", 1),
    "two outputs": (CLASSES % 2, "classification", "softmax_cross_entropy", 2),
    "labels": (LABELS, "multilabel", "binary_cross_entropy", 3),
    "values": (VALUES, "regression", "mean_squared_error", 2),
    "one value": (VALUES[:, 0], "regression", "huber", 1),
}
"""The targets of each kind of model, its task, its loss and its outputs."""


def model_of(kind, *, names=NAMES, sizes=(6, 5), class_names="abc", **settings):
    """A model that was trained for a moment."""
    y, task, loss, outputs = KINDS[kind]
    classes = {"classification": outputs if outputs > 1 else 2, "multilabel": outputs, "regression": 0}[task]
    data = Dataset(X, y, X[:0], y[:0], task=task, class_names=tuple(class_names[:classes]), feature_names=names)
    chosen = {"hidden_activation": "tanh", "dtype": "float64", "backend": "numpy", **settings}
    network = Network([4, *sizes, outputs], loss=loss, **chosen)
    return fit(network, data, TrainingConfig(epochs=2)).model


def outputs_of(model, x):
    """What the model predicts: probabilities, or values."""
    return model.predict(x) if model.task == "regression" else model.predict_proba(x)


def table_model(missing="mean", **settings):
    """A model of a table with text, truths and gaps, and the table's columns by name, as a user has them."""
    rng = np.random.default_rng(8)
    cities = np.array(["Rome", "Oslo", "Kyiv", "Pune"])
    places, sizes = rng.integers(0, 4, ROWS), rng.normal(2000, 3, ROWS)
    if missing != "error":
        sizes[::7] = np.nan
    cells = [None if missing != "error" and row % 9 == 0 else cities[place] for row, place in enumerate(places)]
    columns = {"size": sizes, "city": cells, "gpubp: gemm 1": rng.random(ROWS) < 0.5, "label": rng.normal(size=ROWS)}
    codes = np.array([np.nan if cell is None else list(cities).index(cell) for cell in cells])
    values = np.column_stack([sizes, codes, columns["gpubp: gemm 1"], columns["label"]])
    kinds = ("number", "category", "boolean", "number")
    raw = RawColumns(values, kinds, {1: tuple(cities)}, tuple(columns))
    preparation = Preparation.fit(raw, InputRules(missing=missing, max_categories=2))
    x, y = preparation.apply(raw), places % 2
    names = preparation.input_names()
    data = Dataset(x, y, x[:0], y[:0], class_names=("no", "yes"), feature_names=names, preparation=preparation)
    network = Network([x.shape[1], 6, 2], loss="softmax_cross_entropy", dtype="float64", backend="numpy", **settings)
    return fit(network, data, TrainingConfig(epochs=2)).model, columns, x
