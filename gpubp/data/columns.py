"""The columns of a table: whether its first line names them, which one has the labels, and which are the inputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from gpubp.data import cells
from gpubp.errors import DataError, listed, nearest, shown

LABEL_COLUMNS = ("label", "class", "target", "y")
"""The columns taken for the label when none is named; without one of them it is the last column."""

MANY_NUMBERS = 8
"""Values ascend by chance, this many of them once in 40,000 lines."""

_POSITION = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")
_NAME_NUMBER = re.compile(r"[0-9]{1,9}")
"""A number that may name a column: 0, or a year."""
_UNNAMED = re.compile(r"(Unnamed: [0-9]+(\.[0-9]+)?)?")
"""What pandas calls a column without a name."""


@dataclass(frozen=True)
class Wanted:
    """What an existing model reads from a table.

    Attributes:
        names: of its columns, in its order; empty if the model's data had none.
        count: of its columns; None if there is no model.
        label: the label column that it was trained on, by name or position.
    """

    names: tuple[str, ...] = ()
    count: int | None = None
    label: str | int | None = None

    @property
    def by_position(self) -> bool:
        """True if columns belong together by their position: they have no names, or their names are positions."""
        numbers = [int(name) for name in self.names if _NAME_NUMBER.fullmatch(name)]
        return len(numbers) == len(self.names) and all(
            number in (i, i + 1) and str(number) == name
            for i, (number, name) in enumerate(zip(numbers, self.names, strict=True))
        )


# --- the first line ---------------------------------------------------------------------------------------------------
def names_columns(first: Sequence[str], rows: Sequence[Sequence[str]], *, named: str | None = None) -> bool | None:
    """Return whether a table's first line names its columns, judged by the lines below it; None if that is open.

    Text above numbers is a name. Numbers can be names, too, such as years, or what pandas calls columns by default:
    they ascend, as few rows do, and do not occur below. A class occurs again below, a name does not.

    named: a name that a column must have if there are names.
    """
    numbers = [i for i, cell in enumerate(first) if cells.is_number(cell) and not cells.is_missing(cell)]
    texts = [i for i, cell in enumerate(first) if not cells.is_number(cell) and not cells.is_missing(cell)]
    above_numbers = [i for i in texts if _holds_values(rows, i)]
    above_text = sorted(set(texts) - set(above_numbers))
    recurs = any(first[i] in {row[i] for row in rows} for i in above_text)
    if not numbers:
        is_all_text = len(texts) == len(first) and not recurs
        return bool(texts) and bool(above_numbers or not rows or named is not None or is_all_text)
    if len(above_numbers) > len(numbers):
        return True
    is_sequence = _may_be_names(first, rows, numbers)
    are_different = len({first[i] for i in numbers}) == len(numbers)
    is_plain = are_different and all(_NAME_NUMBER.fullmatch(first[i]) for i in numbers)
    if not is_sequence and not is_plain:
        return False if named is None else None
    if named is not None or len(above_numbers) == len(numbers):
        return True
    if recurs or not rows:
        return False
    has_label_word = any(first[i].lower() in LABEL_COLUMNS for i in texts)
    if above_numbers and (has_label_word or is_sequence):
        return True
    if not is_sequence:
        return None if above_numbers else False
    if has_label_word:
        return True if len(numbers) > 2 or _hold_decimals(rows, numbers) else None
    if _count_up(first, numbers):
        return len(numbers) > 2 and len(rows) > 4
    return None if texts or len(numbers) >= MANY_NUMBERS else False


def _holds_values(rows: Sequence[Sequence[str]], column: int) -> bool:
    """True if most of a column are numbers, or what people write for them; missing values do not count."""
    found = [row[column] for row in rows if not cells.is_missing(row[column])]
    return bool(found) and 2 * sum(map(cells.is_value, found)) > len(found)


def _may_be_names(first: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> bool:
    """True if these cells of the first line count up, or are many that ascend; few rows do so, or have them."""
    ascends = _ascend if not _count_up(first, numbers) and len(numbers) > 4 else _count_up
    if not ascends(first, numbers) or 10 * sum(ascends(row, numbers) for row in rows) > len(rows):
        return False
    return 2 * sum(first[i] in {row[i] for row in rows} for i in numbers) < len(numbers)


def _count_up(row: Sequence[str], columns: Sequence[int]) -> bool:
    """True if these cells are whole numbers, each one more than the one before."""
    found = [row[i] for i in columns]
    return all(map(_NAME_NUMBER.fullmatch, found)) and all(
        int(after) == int(before) + 1 for before, after in pairwise(found)
    )


def _ascend(row: Sequence[str], columns: Sequence[int]) -> bool:
    """True if these cells are numbers, each larger than the one before."""
    found = [row[i] for i in columns]
    return all(map(cells.is_number, found)) and all(float(before) < float(after) for before, after in pairwise(found))


def _hold_decimals(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> bool:
    """True if there is a number with decimals in each of these columns."""
    return all(any(cells.is_number(row[i]) and "." in row[i] for row in rows) for i in columns)


def position(label: str | int | None) -> int | None:
    """Return a label column's position if it is given as one: what looks like a whole number is one."""
    if isinstance(label, str):
        return int(label) if _POSITION.fullmatch(label) else None
    return label


# --- which column is what ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Columns:
    """The columns of one table.

    Attributes:
        table: what to call the table in messages.
        width: how many columns there are.
        names: of the columns; empty if the table does not name them.
    """

    table: str
    width: int
    names: tuple[str, ...] = ()

    def call(self, index: int) -> str:
        """Return what to call a column in a message: 'sepal', or 3 by its position."""
        return f"'{shown(self.names[index], 40)}'" if self.names else str(index)

    def key(self, index: int) -> str | int:
        """Return what finds a column again: its name, or its position if it has none or one that looks like one."""
        return self.names[index] if self.names and position(self.names[index]) is None else index

    @cached_property
    def places(self) -> dict[str, int]:
        """The index of each column by its name."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def index(self) -> range:
        """The columns that number or name the rows, as pandas and R write them: the first ones, without a name."""
        named = (i for i, name in enumerate(self.names) if not _UNNAMED.fullmatch(name))
        return range(next(named, 0))

    def label(
        self, label: str | int | None, wanted: Wanted, *, optional: bool, keep_index: bool
    ) -> tuple[int | None, str]:
        """Return the column with the labels, and how it was found if it was a guess; (None, "") if there is none.

        optional: the labels may be missing.

        Raises DataError if there is no column `label`, or none that the model does not read as an input.
        """
        if label is not None:
            return self._named_label(label)
        taken = set() if wanted.by_position else {self._find(name) for name in wanted.names}
        left = [i for i in range(self.width) if i not in taken and (keep_index or i not in self.index)]
        # A model that reads columns by position, and a table that has just as many: all are inputs.
        if optional and wanted.by_position and len(left) == wanted.count:
            return None, ""
        if isinstance(wanted.label, str) and self.places.get(wanted.label) in left:
            return self.places[wanted.label], ""
        usual = {self.names[i].lower(): i for i in reversed(left)} if self.names else {}
        for name in LABEL_COLUMNS:
            if name in usual:
                return usual[name], ""
        if wanted.by_position and wanted.count is not None and len(left) == wanted.count + 1:
            # As many columns as in training: the labels are where they were.
            place = position(wanted.label)
            if place is not None and -len(left) <= place < len(left):
                return left[place], "as in training"
        elif optional:
            return None, ""
        if not left:
            raise DataError(f"{self.table}: no column has labels: the model reads all of them; --label names one")
        return left[-1], "the last" if left[-1] == self.width - 1 else "the last that is no input"

    def _named_label(self, label: str | int) -> tuple[int, str]:
        index = position(label)
        if index is None:
            if label in self.places:
                return self.places[str(label)], ""
            called = shown(label, 40)
            if not self.names:
                raise DataError(
                    f"{self.table}: no column is called '{called}', as the first line does not name them; "
                    "give the position, from 0, or --header yes"
                )
            match = nearest(label, self.names)
            hint = f"; did you mean '{shown(match, 40)}'?" if match else ""
            raise DataError(f"{self.table}: there is no column '{called}' among {listed(self.names)}{hint}")
        namesake = self.places.get(str(label))
        note = f"a number is a position; the column named {label} is at {namesake}"
        if not -self.width <= index < self.width:
            hint = f"; {note}" if namesake is not None else ""
            raise DataError(f"{self.table}: there is no column {index}; there are {self.width}, counted from 0{hint}")
        index %= self.width
        return index, "" if namesake in (None, index) else note

    def features(self, label: int | None, wanted: Wanted, *, keep_index: bool) -> list[int]:
        """Return the columns with the inputs: those that the model reads, in its order, or all but the label.

        Raises DataError if one is missing, if there are more or fewer than the model reads, or if none is left.
        """
        found = [self._find(name) for name in wanted.names]
        if not wanted.by_position or (self.names and wanted.names and None not in found):
            return self._by_name(found, label, wanted)
        left_out = {label, *(() if keep_index else self.index)}
        features = [i for i in range(self.width) if i not in left_out]
        if not features:
            raise DataError(f"{self.table}: it has the label column only; it must have at least one more")
        count = len(wanted.names) or wanted.count
        if count is not None and len(features) != count:
            raise DataError(f"{self.table}: it has {len(features)} features an example; the model reads {count}")
        return features

    def _by_name(self, found: Sequence[int | None], label: int | None, wanted: Wanted) -> list[int]:
        if not self.names:
            raise DataError(
                f"{self.table}: the first line does not name the columns, and the model reads "
                f"{listed(wanted.names)} by name; --header yes if it does"
            )
        for index, name in zip(found, wanted.names, strict=True):
            if index is None:
                raise DataError(
                    f"{self.table}: the column '{shown(name, 40)}' is missing; the model was trained on "
                    f"{listed(wanted.names)}"
                )
            if index == label:
                raise DataError(f"{self.table}: the column '{shown(name, 40)}' is an input of the model, and no label")
        return [index for index in found if index is not None]

    def _find(self, name: str) -> int | None:
        """Return the column of this name; models of earlier versions call the unnamed first column ""."""
        return 0 if name == "" and self.index else self.places.get(name)
