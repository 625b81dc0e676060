"""The columns of a table: whether its first line names them, which one has the labels, and which are the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpubp.errors import DataError, nearest

LABEL_COLUMNS = ("label", "class", "target", "y")
"""The CSV columns taken for the label when none is named; without one of them it is the last column."""


def is_header(first: list[str], second: list[str] | None, label: str | int | None) -> bool:
    """True if the first line names the columns: the label among them, or a text above a number of the second line."""
    return (
        label in first
        or any(cell.lower() in LABEL_COLUMNS for cell in first)
        or (second is not None and any(map(_names_numbers, first, second)))
    )


def _names_numbers(first: str, second: str) -> bool:
    return not is_number(first) and is_number(second)


def is_number(cell: str) -> bool:
    """True if a cell's text is a number, NaN and infinity included."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def label_column(path: Path, header: list[str], label: str | int | None, *, optional: bool) -> int | None:
    """Return the index of the column with the labels; None if they are optional and there are none.

    Raises DataError if there is no column `label`.
    """
    if label is None:
        by_lower_case = {name.lower(): i for i, name in enumerate(header)}
        usual = [by_lower_case[name] for name in LABEL_COLUMNS if name in by_lower_case]
        return usual[0] if usual else None if optional else len(header) - 1
    if label in header:
        return header.index(str(label))
    try:
        index = int(label)
    except ValueError:
        match = nearest(label, header)
        hint = f"; did you mean {match!r}?" if match else ""
        raise DataError(f"{path}: there is no column {label!r} among {', '.join(header[:20])}{hint}") from None
    if not -len(header) <= index < len(header):
        raise DataError(f"{path}: there is no column {index}; there are {len(header)}, counted from 0")
    return index % len(header)


def feature_columns(path: Path, header: list[str], label_index: int | None, wanted: Sequence[str]) -> list[int]:
    """Return the indices of the columns with the inputs: those that are wanted, in their order, or all but the label.

    Raises DataError if a wanted column is missing, or if none is left.
    """
    if not wanted:
        features = [i for i in range(len(header)) if i != label_index]
        if not features:
            raise DataError(f"{path}: it has the label column only; it must have at least one more")
        return features
    index = {name: i for i, name in enumerate(header)}
    missing = [name for name in wanted if name not in index]
    if missing:
        raise DataError(
            f"{path}: the column {missing[0]!r} is missing; the model was trained on {', '.join(wanted[:20])}"
        )
    return [index[name] for name in wanted]
