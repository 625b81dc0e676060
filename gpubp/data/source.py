"""What a reader of files hands over: raw inputs and raw labels, with the words to speak of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpubp.data.preparation import RawColumns
from gpubp.data.rows import Unchanged
from gpubp.errors import DataError
from gpubp.memory import usable_memory


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of one part of a data set as they stand: numbers, text, or one row an example; or its weights.

    Attributes:
        values: numbers (examples,) or (examples, outputs), or a sequence of text.
        what: what they are called in messages: "y", or "the label column 'species'".
        lines: the line of each label in its file, from 1; None if the source has no lines.
        remedy: what to do about labels that cannot be used, such as to name another column; or "".
    """

    values: np.ndarray | Sequence[str]
    what: str = "y"
    lines: Sequence[int] | None = None
    remedy: str = ""

    def place(self, row: int) -> str:
        """Return the place of a label for a message: "line 7", or "y, row 3"."""
        return f"{self.what}, row {row}" if self.lines is None else f"line {self.lines[row]}"

    def where(self, row: int) -> str:
        """Return the place and what is there: "line 7: the label column 'species'", or "y, row 3"."""
        return self.place(row) if self.lines is None else f"{self.place(row)}: {self.what}"


@dataclass(frozen=True, eq=False)
class Source:
    """What a reader found, in one part or in two.

    Attributes:
        name: what to call it in messages: the data set's name, or the file's path as it can be shown.
        x, x_test: inputs, examples first; x_test is None where the source has no test part.
        raw: of a table the input columns, of which x are the values; None for other sources, whose x are numbers.
        y, y_test: labels; None where there are none.
        weight, weight_test: the examples' weights, numbers; None where there are none.
        class_names: the classes where they are known beforehand, else empty; then labels are their indices.
        value_range: the largest value an input can take, where the format says.
        label: the label column, by name, or by position if it has none; a tuple of several; None where there are no
            columns.
        label_names: what several label columns are called, else empty.
        weight_column: the column or the array with the weights, by name, or by position if it has none; else None.
        roles: each column of a table by its name or position, and what it is: "input", "label", "weight" or "left out".
        notes: what was guessed, a short line each.
        files: the files that x and x_test are mapped from, none of them if that is a spool; None if they are in memory.
        again: reads the source anew by a slower reader, which knows the lines of labels: for what is wrong with them.
    """

    name: str
    x: np.ndarray
    y: Labels | None
    x_test: np.ndarray | None = None
    y_test: Labels | None = None
    weight: Labels | None = None
    weight_test: Labels | None = None
    class_names: tuple[str, ...] = ()
    raw: RawColumns | None = None
    value_range: float | None = None
    label: str | int | tuple[str | int, ...] | None = None
    label_names: tuple[str, ...] = ()
    weight_column: str | int | None = None
    roles: tuple[tuple[str | int, str], ...] = ()
    notes: tuple[str, ...] = ()
    files: Unchanged | None = None
    again: Callable[[], Source] | None = None


def reason(error: BaseException) -> str:
    """Return the message of a system's or a library's error, without the path and the error number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def require_room(name: str, size: int) -> None:
    """Raise DataError for contents that the memory cannot hold: a few megabytes can announce, and unpack to,
    any size."""
    memory = usable_memory()
    if memory and size > memory:
        raise DataError(
            f"{name}: it unpacks to {size / 2**30:,.1f} GiB; this process may use {memory / 2**30:,.1f} GiB"
        )
