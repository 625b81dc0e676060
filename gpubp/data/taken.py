"""What each column of a table is taken for, to show before a training and without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpubp.data.preparation import BOOLEAN, CATEGORY, InputColumn, Preparation
from gpubp.data.rows import Inputs, all_rows, blocks
from gpubp.data.source import Source
from gpubp.errors import listed, shown

SHOWN = 50
"""Characters of the values of a column."""


@dataclass(frozen=True)
class Taken:
    """What a column is taken for.

    Attributes:
        name: of the column, or its position from 0 if the table names none.
        role: "input", "label", "weight" or "left out".
        kind: "number", "boolean" or "category" of an input; of a label "classes", "values" or "0 or 1"; else "".
        values: some of what it holds, in words.
        missing: how many values are missing.
        inputs: how many inputs of the network it becomes.
    """

    name: str | int
    role: str
    kind: str = ""
    values: str = ""
    missing: int = 0
    inputs: int = 0


def taken(source: Source, preparation: Preparation | None, label: str, classes: Sequence[str]) -> tuple[Taken, ...]:
    """Return what each column of a table is taken for, in the table's order; () for a source that has no columns.

    preparation: of its inputs; None if they are numbers as they are.
    label: the `Taken.kind` of its labels; classes: their names, if they are classes.
    """
    raw = source.raw
    if raw is None:
        return ()
    # those of a model stand in its order, whatever the table's
    names = raw.names or [name for name, role in source.roles if role == "input"]
    seen = _seen(all_rows(raw.values))
    inputs = {}
    for index, name in enumerate(names):
        column = InputColumn("") if preparation is None else preparation.columns[index]
        inputs[name] = _input(name, column, seen, index, len(raw.texts.get(index, ())))
    found = []
    for name, role in source.roles:
        if role == "input":
            found.append(inputs[name])
        elif role == "label":
            found.append(Taken(name, role, label, listed(classes, SHOWN) if label == "classes" else ""))
        else:
            found.append(Taken(name, role))
    return tuple(found)


@dataclass(frozen=True)
class _Seen:
    """What each column has, (columns,) each: the smallest and the largest value, the sum of what is there, and how many
    values are there and are missing. Of a column without values, the first two are infinite."""

    low: np.ndarray
    high: np.ndarray
    total: np.ndarray
    there: np.ndarray
    missing: np.ndarray


def _seen(x: Inputs) -> _Seen:
    """Return what the columns of inputs have. All rows are read once, as they may lie in a large file."""
    width = x.shape[1]
    low, high, total, missing = np.full(width, np.inf), np.full(width, -np.inf), np.zeros(width), np.zeros(width, int)
    for block in blocks(x):
        absent = np.isnan(block)
        low = np.minimum(low, np.where(absent, np.inf, block).min(axis=0))
        high = np.maximum(high, np.where(absent, -np.inf, block).max(axis=0))
        with np.errstate(over="ignore"):  # it is asked of truths alone
            total += np.where(absent, 0.0, block).sum(axis=0)
        missing += absent.sum(axis=0)
    return _Seen(low, high, total, len(x) - missing, missing)


def _input(name: str | int, column: InputColumn, seen: _Seen, index: int, texts: int) -> Taken:
    """Return what an input is taken for; texts: how many different ones it has."""
    there = int(seen.there[index])
    if not there:
        told = "none"
    elif column.kind == CATEGORY:
        rest = texts - len(column.categories)
        told = f"{texts:,}: {listed(column.categories, SHOWN)}" + (f"; {rest:,} others" if rest > 0 else "")
    elif column.kind == BOOLEAN:
        told = f"true in {100 * (seen.total[index] / there):.3g} %"
    else:
        told = f"{seen.low[index]:.4g} to {seen.high[index]:.4g}"
    return Taken(name, "input", column.kind, shown(told, 2 * SHOWN), int(seen.missing[index]), column.inputs)
