"""The columns of a frame as a model of `gpubp train` reads them: numbers, truths and categories."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpubp.data import cells
from gpubp.data.preparation import CATEGORY, Preparation, RawColumns
from gpubp.errors import DataError, StateError, listed, shown


def inputs_of(preparation: Preparation, X: Any) -> np.ndarray:
    """Return the inputs (rows, inputs), float64, that a table's columns become.

    X: a frame whose columns are found by their names, in any order; or rows, with the columns in the table's order.

    Raises:
        ArgumentError: a column is missing, or there is another number of them.
        DataError: a cell is no number where the model has numbers, or missing where it knows of none.
    """
    values, texts = [], {}
    for index, (column, held) in enumerate(zip(preparation.columns, _columns(preparation, X), strict=True)):
        if column.kind == CATEGORY:
            codes, texts[index] = _codes(held)
            values.append(codes)
        else:
            values.append(_numbers(held, column.name or str(index)))
    return preparation.apply(RawColumns(np.column_stack(values), preparation.kinds, texts, preparation.names))


def _columns(preparation: Preparation, X: Any) -> list[list[Any]]:
    """Return the cells of each of the model's columns."""
    names = preparation.names
    if hasattr(X, "columns") and names:
        lacking = [name for name in names if name not in list(X.columns)]
        if lacking:
            raise StateError(
                "X", f"lacks the columns {listed(lacking)}", f"have those of the training: {listed(names)}"
            )
        return [list(X[name]) for name in names]
    rows = np.asarray(X, dtype=object)
    if rows.ndim != 2 or rows.shape[1] != len(preparation.columns):
        wanted = f"have shape (rows, {len(preparation.columns)}), the columns of the training"
        raise StateError("X", f"has shape {rows.shape}", wanted)
    return [list(column) for column in rows.T]


def _is_absent(cell: Any) -> bool:
    if cell is None or isinstance(cell, str):
        return cell is None or cells.is_missing(cell)
    return type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, float | np.floating) and math.isnan(cell))


def _codes(held: list[Any]) -> tuple[np.ndarray, list[str]]:
    """Return the index of each cell's text, NaN where it is missing, and the different texts."""
    known: dict[str, int] = {}
    codes = [math.nan if _is_absent(cell) else known.setdefault(_text(cell), len(known)) for cell in held]
    return np.array(codes, np.float64), list(known)


def _text(cell: Any) -> str:
    if isinstance(cell, float | np.floating) and float(cell).is_integer():
        return str(int(cell))  # a column of whole numbers with gaps is one of floats in a frame
    return str(cell).strip()


def _numbers(held: list[Any], name: str) -> np.ndarray:
    """Return the numbers of a column, NaN where they are missing."""
    values = np.empty(len(held))
    for row, cell in enumerate(held):
        try:
            values[row] = math.nan if _is_absent(cell) else _number(cell)
        except (TypeError, ValueError):
            raise DataError(f"X holds {shown(cell)!r} in row {row} of column {name}; it must be a number") from None
    return values


def _number(cell: Any) -> float:
    truth = cells.TRUTHS.get(cell.strip().lower()) if isinstance(cell, str) else None
    return float(cell) if truth is None else truth
