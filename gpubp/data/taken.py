"""What each column of a table is taken for, to show before a training and without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpubp.data.preparation import BOOLEAN, CATEGORY, InputColumn, Preparation
from gpubp.data.rows import all_rows, columns
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
    inputs = {}
    for index, (name, values) in enumerate(zip(names, columns(all_rows(raw.values)), strict=True)):
        column = InputColumn("") if preparation is None else preparation.columns[index]
        inputs[name] = _input(name, column, values, raw.texts.get(index, ()))
    found = []
    for name, role in source.roles:
        if role == "input":
            found.append(inputs[name])
        elif role == "label":
            found.append(Taken(name, role, label, listed(classes, SHOWN) if label == "classes" else ""))
        else:
            found.append(Taken(name, role))
    return tuple(found)


def _input(name: str | int, column: InputColumn, values: np.ndarray, texts: Sequence[str]) -> Taken:
    there = np.ascontiguousarray(values)  # a column of a matrix is slow to go through
    low, high = (there.min(), there.max()) if len(there) else (np.nan, np.nan)
    if np.isnan(low):
        there = there[~np.isnan(there)]
        low, high = (there.min(), there.max()) if len(there) else (np.nan, np.nan)
    if not len(there):
        told = "none"
    elif column.kind == CATEGORY:
        rest = len(texts) - len(column.categories)
        told = f"{len(texts):,}: {listed(column.categories, SHOWN)}" + (f"; {rest:,} others" if rest > 0 else "")
    elif column.kind == BOOLEAN:
        told = f"true in {100 * there.mean():.3g} %"
    else:
        told = f"{low:.4g} to {high:.4g}"
    return Taken(name, "input", column.kind, shown(told, 2 * SHOWN), len(values) - len(there), column.inputs)
