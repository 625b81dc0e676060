"""The history of a run: one row an epoch, and its CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from gpubp.errors import ArgumentError, listed
from gpubp.registry import require_count

HISTORY_FILE = "history.csv"
"""The name of the history in a run's folder."""
ACCURACY = {"classification": "accuracy", "multilabel": "label accuracy", "regression": "accuracy"}
"""What the accuracy is called, by the task: the share of right classes, or of right labels over all examples."""


@dataclass(frozen=True)
class HistoryRow:
    """The results of an epoch. None depends on the machine's speed, so that runs can be compared bit for bit.

    Attributes:
        epoch: 1, 2, ...
        steps: updates made so far.
        learning_rate: of the epoch's last update.
        train_loss: mean over the epoch's examples, each as it was before its update, with the units that dropout left
            (for reduction "sum": the sum).
        train_accuracy: at the epoch's end, on a sample of the training data; an accuracy is None for regression.
        validation_*, test_*: at the epoch's end; None without such a part. The test part decides nothing.
        gradient_norms: of each layer, first to last, at the epoch's end, on the same sample.
        dead_units: the number of units of hidden ReLU layers that gave 0 on all that sample.
    """

    epoch: int
    steps: int
    learning_rate: float
    train_loss: float
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    dead_units: int
    gradient_norms: tuple[float, ...]

    @property
    def is_finite(self) -> bool:
        """True if the weights can still be of use."""
        return not math.isnan(self.train_loss) and all(math.isfinite(norm) for norm in self.gradient_norms)


def row_of(values: Any) -> HistoryRow:
    """Return the row whose fields are these, from JSON. Raises ArgumentError."""
    names = [each.name for each in fields(HistoryRow)]
    if not isinstance(values, Mapping) or set(values) != set(names):
        raise ArgumentError("a row of the history", values, f"a table of {listed(names)}")
    row = HistoryRow(**values)
    require_count("epoch", row.epoch)
    require_count("steps", row.steps)
    require_count("dead_units", row.dead_units, 0)
    numbers = {each.name: getattr(row, each.name) for each in fields(row) if str(each.type).startswith("float")}
    for name, value in numbers.items():
        if type(value) is not float and (value is not None or name in ("learning_rate", "train_loss")):
            raise ArgumentError(name, value, "a number with a point")
    if not isinstance(row.gradient_norms, list) or not all(type(each) is float for each in row.gradient_norms):
        raise ArgumentError("gradient_norms", row.gradient_norms, "a list of numbers with a point")
    return replace(row, gradient_norms=tuple(row.gradient_norms))


def history_csv(history: list[HistoryRow]) -> str:
    """Return the history as CSV: a column for each field, one for each layer's gradient norm. Numbers are exact."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [each.name for each in fields(HistoryRow)][:-1]
    layers = len(history[0].gradient_norms) if history else 0
    writer.writerow(names + [f"gradient_norm_{layer}" for layer in range(1, layers + 1)])
    for row in history:
        writer.writerow([*(getattr(row, name) for name in names), *row.gradient_norms])
    return text.getvalue()
