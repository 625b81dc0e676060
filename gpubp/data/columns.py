"""The columns of a table: whether its first line names them, which have the labels, the weights and the inputs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
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
        label: the label column that it was trained on, by name or position; a tuple of several.
        weight: the column with the weights that it was trained with, by name, or by position if it had none.
        kinds: what each of its columns is taken for; empty if there is no model.
    """

    names: tuple[str, ...] = ()
    count: int | None = None
    label: str | int | tuple[str | int, ...] | None = None
    weight: str | int | None = None
    kinds: tuple[str, ...] = ()

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


def position(label: str | int | tuple[str | int, ...] | None) -> int | None:
    """Return a column's position if it is given as one: what looks like a whole number is one."""
    if isinstance(label, str):
        return int(label) if _POSITION.fullmatch(label) else None
    return label if isinstance(label, int) else None


def parts_of(
    label: str | int | Sequence[str | int] | None, names: Container[str], argument: str = "label"
) -> list[str | int]:
    """Return the columns that a label, or another argument, names.

    Text is one if it is among the names, and otherwise a line of CSV of them.

    Raises ArgumentError for text that is neither.
    """
    if isinstance(label, str) and label not in names:
        return list(cells.in_line(argument, label, "a column, or several with commas between them, in one line"))
    return [] if label is None else [label] if isinstance(label, str | int) else list(label)


def _place_beside(place: int, wanted: Wanted) -> int:
    """Return a column's place in training, counted without the column that had the weights then."""
    return place - (isinstance(wanted.weight, int) and wanted.weight < place)


def named_in(
    first: Sequence[str], label: str | int | Sequence[str | int] | None, weight: str | int | None
) -> str | None:
    """Return a cell of a table's first line that was given as the name of a column; None if there is none."""
    given = [*parts_of(label, first), weight]
    return next((each for each in given if isinstance(each, str) and position(each) is None and each in first), None)


# --- which column is what ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Columns:
    """The columns of one table.

    Attributes:
        table: what to call the table in messages.
        width: how many columns there are.
        names: of the columns; empty if the table does not name them.
        left_out: the columns that are read only where something names them.
        dropped: those of them that must not be read at all.
    """

    table: str
    width: int
    names: tuple[str, ...] = ()
    left_out: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()

    def call(self, index: int) -> str:
        """Return what to call a column in a message: 'sepal', or 3 by its position."""
        return f"'{shown(self.names[index], 40)}'" if self.names else str(index)

    def name(self, index: int) -> str | int:
        """Return a column's name, or its position if the table names none."""
        return self.names[index] if self.names else index

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

    def weight(self, given: str | int | None, wanted: Wanted) -> tuple[int | None, str]:
        """Return the column with the weights, and what to note of it; (None, "") if there is none.

        Of an existing model it is that of the training, if it is there.

        Raises DataError if there is no column `given`.
        """
        if given is not None:
            index, remark = self._named(given)
            if index in self.dropped:
                raise DataError(f"{self.table}: the column {self.call(index)} cannot have the weights and be left out")
            return index, remark
        if isinstance(wanted.weight, str):
            return self.places.get(wanted.weight), ""
        here = self._read
        if wanted.weight is not None and wanted.count is not None:
            labels = len(wanted.label) if isinstance(wanted.label, tuple) else 1
            if len(here) == wanted.count + labels + 1 and 0 <= wanted.weight < len(here):
                return here[wanted.weight], "as in training"
        return None, ""

    def labels(
        self,
        label: str | int | Sequence[str | int] | None,
        wanted: Wanted,
        *,
        weight: int | None,
        optional: bool,
    ) -> tuple[list[int], str]:
        """Return the columns with the labels, and how one was found if it was a guess; ([], "") if there are none.

        Args:
            label: one column by its name or position, or several: a sequence, or text with commas. Text that is the
                name of a column is that one.
            wanted: what an existing model reads.
            weight: the column with the weights.
            optional: the labels may be missing.

        Raises DataError if there is no column `label`, or none that the model does not read as an input.
        """
        if label is not None:
            found = [self._named(part) for part in parts_of(label, self.places)]
            places = [index for index, _ in found]
            self._require_labels(places, weight)
            if isinstance(wanted.label, tuple):
                places = self._in_order_of_training(places, wanted.label)
            return places, found[0][1] if len(found) == 1 else ""
        taken = set() if wanted.by_position else {self._find(name) for name in wanted.names}
        left = [i for i in self._read if i not in taken and i != weight]
        # A model that reads columns by position, and a table that has just as many: all are inputs.
        if optional and wanted.by_position and len(left) == wanted.count:
            return [], ""
        if isinstance(wanted.label, tuple):
            return self._labels_of_training(wanted, wanted.label, left, optional=optional)
        if isinstance(wanted.label, str) and self.places.get(wanted.label) in left:
            return [self.places[wanted.label]], ""
        usual = {self.names[i].lower(): i for i in reversed(left)} if self.names else {}
        for name in LABEL_COLUMNS:
            if name in usual:
                return [usual[name]], ""
        if wanted.by_position and wanted.count is not None and len(left) == wanted.count + 1:
            if optional and weight is None and isinstance(wanted.weight, int):
                raise DataError(
                    f"{self.table}: it has {len(left)} columns and the model reads {wanted.count}; --label or "
                    "--weight-column says which one is no input"
                )
            # As many columns as in training: the labels are where they were.
            place = position(wanted.label)
            place = None if place is None else _place_beside(place, wanted)
            if place is not None and -len(left) <= place < len(left):
                return [left[place]], "as in training"
        elif optional:
            return [], ""
        elif self.names and isinstance(wanted.label, str):
            raise DataError(
                f"{self.table}: the label column '{shown(wanted.label, 40)}' of the training is missing; --label names "
                "another"
            )
        if not left:
            raise DataError(f"{self.table}: no column has labels: the model reads all of them; --label names one")
        return [left[-1]], "the last" if left[-1] == self.width - 1 else "the last that is no input"

    def several(self, argument: str, given: str | int | Sequence[str | int] | None) -> list[int]:
        """Return the columns that an argument names, as `labels` takes its `label`. Raises DataError for none."""
        return [self._named(part)[0] for part in parts_of(given, self.places, argument)]

    @cached_property
    def _read(self) -> list[int]:
        """All columns but those that are left out."""
        return [i for i in range(self.width) if i not in self.left_out]

    def without(self, drop: str | int | Sequence[str | int] | None, wanted: Wanted, *, keep_index: bool) -> Columns:
        """Return the columns of which these, and an index of the rows unless it is kept, are left out.

        drop: as `labels` takes its `label`. A table for an existing model may lack them.

        Raises DataError if one of them is not there.
        """
        if wanted.count is None:
            dropped = self.several("drop", drop)
        else:
            parts = parts_of(drop, self.places, "drop")
            dropped = [self._named(each)[0] for each in parts if self._has(each)]
        return replace(
            self, left_out=frozenset(dropped).union(() if keep_index else self.index), dropped=frozenset(dropped)
        )

    def _has(self, column: str | int) -> bool:
        """True if a column of this name or position is there."""
        index = position(column)
        return column in self.places if index is None else -self.width <= index < self.width

    def _require_labels(self, found: Sequence[int], weight: int | None) -> None:
        if not found:
            raise DataError(f"{self.table}: --label names no column")
        twice = next((index for index in found if found.count(index) > 1), None)
        if twice is not None:
            raise DataError(f"{self.table}: the label column {self.call(twice)} is named twice")
        left_out = next((index for index in found if index in self.dropped), None)
        if left_out is not None:
            raise DataError(f"{self.table}: the column {self.call(left_out)} cannot have the labels and be left out")
        if weight is not None and weight in found:
            raise DataError(f"{self.table}: the column {self.call(weight)} cannot have both labels and weights")

    def _in_order_of_training(self, found: Sequence[int], trained: tuple[str | int, ...]) -> list[int]:
        """Return label columns that were given in the order in which the model has its labels.

        Raises DataError for others than the model's, if both are known by name, and for more or fewer.
        """
        if self.names and all(isinstance(each, str) for each in trained):
            by_name = {self.names[i]: i for i in found}
            if set(by_name) == set(trained):
                return [by_name[str(name)] for name in trained]
            raise DataError(
                f"{self.table}: the label columns are {listed(by_name, 80)}; those of the model are "
                f"{listed(trained, 80)}"
            )
        if len(found) != len(trained):
            raise DataError(f"{self.table}: there are {len(found)} label columns; the model has {len(trained)} labels")
        return list(found)

    def _labels_of_training(
        self, wanted: Wanted, trained: tuple[str | int, ...], left: Sequence[int], *, optional: bool
    ) -> tuple[list[int], str]:
        """Return the columns of a model that has several labels, those that are there if they are optional."""
        if self.names and all(isinstance(each, str) for each in trained):
            missing = [each for each in trained if each not in self.places]
            if missing and not optional:
                raise DataError(
                    f"{self.table}: the label column '{shown(missing[0], 40)}' is missing; the labels of the model are "
                    f"{listed(trained)}; --label names others"
                )
            return [self.places[str(each)] for each in trained if each in self.places], ""
        if optional and not wanted.by_position:
            return [], ""
        places = [_place_beside(each, wanted) for each in trained if isinstance(each, int)]
        if wanted.count is None or not len(left) - wanted.count == len(places) == len(trained):
            raise DataError(
                f"{self.table}: it has {len(left)} columns beside weights; the model reads {wanted.count} and has "
                f"{len(trained)} labels; --label names their columns"
            )
        return [left[place] for place in places], "as in training"

    def _named(self, label: str | int) -> tuple[int, str]:
        """Return the column that was given by its name or position, and what to note of it."""
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

    def features(self, others: Mapping[int, str], wanted: Wanted) -> list[int]:
        """Return the columns with the inputs: those that the model reads, in its order, or all but the others.

        others: the columns that are no inputs, and what each has: "label" or "weight".

        Raises DataError if one is missing, if there are more or fewer than the model reads, or if none is left.
        """
        found = [self._find(name) for name in wanted.names]
        if not wanted.by_position or (self.names and wanted.names and None not in found):
            return self._by_name(found, others, wanted)
        features = [i for i in self._read if i not in others]
        if not features:
            kinds = Counter(others.values())
            what = " and ".join(f"the {kind} column{'s' if count > 1 else ''}" for kind, count in kinds.items())
            raise DataError(f"{self.table}: it has {what} only; it must have at least one more")
        count = len(wanted.names) or wanted.count
        if count is not None and len(features) != count:
            raise DataError(f"{self.table}: it has {len(features)} features an example; the model reads {count}")
        return features

    def _by_name(self, found: Sequence[int | None], others: Mapping[int, str], wanted: Wanted) -> list[int]:
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
            if index in others:
                raise DataError(
                    f"{self.table}: the column '{shown(name, 40)}' is an input of the model, and no {others[index]}"
                )
        return [index for index in found if index is not None]

    def _find(self, name: str) -> int | None:
        """Return the column of this name; models of earlier versions call the unnamed first column ""."""
        return 0 if name == "" and self.index else self.places.get(name)
