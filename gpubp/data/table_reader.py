"""What the readers of all kinds of tables have in common: which columns are read, and what becomes of their values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, count

import numpy as np

from gpubp.data import cells
from gpubp.data.columns import Columns, Wanted
from gpubp.data.labels import LARGEST_EXACT
from gpubp.data.preparation import CATEGORY, NUMBER, InputRules, RawColumns
from gpubp.data.rows import ROWS_AT_ONCE, Unchanged
from gpubp.data.source import Labels, Source
from gpubp.data.spool import Spool, mapped_files
from gpubp.data.texts import TextColumn
from gpubp.errors import DataError, listed, shown

LEAST_COUNTED_ROWS = 20
"""Rows from which on a column that counts them is no accident."""

Values = tuple[RawColumns, np.ndarray | list[str], np.ndarray, Sequence[int] | None]
"""What is read of a table: the inputs; the labels, one a row or (rows, labels); the weights (rows, 1), float64, or
(rows, 0) if there are none; and the number of each row's line, None if the table has no lines."""


@dataclass(frozen=True)
class Read:
    """The columns of a table that are read.

    Attributes:
        features: the inputs.
        coded: those of the inputs that are read as text.
        is_model_s: whether an existing model says what they are.
        labels: one, text; or several, numbers.
        weight: numbers, if there are any.
    """

    features: Sequence[int]
    coded: Mapping[int, TextColumn]
    is_model_s: bool
    labels: tuple[int, ...] = ()
    weight: int | None = None

    @cached_property
    def several(self) -> tuple[int, ...]:
        """The label columns, if there are several."""
        return self.labels if len(self.labels) > 1 else ()

    @cached_property
    def others(self) -> tuple[int, ...]:
        """What is read as numbers besides the inputs, the weight last."""
        return (*self.several, *(() if self.weight is None else (self.weight,)))

    @cached_property
    def numeric(self) -> list[int]:
        """All that are read as numbers, the weight last."""
        return [*(i for i in self.features if i not in self.coded), *self.others]

    @property
    def width(self) -> int:
        """How many numbers of a row are kept while the table is read: of the columns `numeric`, and behind them the
        codes of the columns `coded`."""
        return len(self.numeric) + len(self.coded)


class TableReader(ABC):
    """One table, whose kind of file a subclass reads.

    Args:
        name: what to call the table in messages.
        rules: what is asked of its input columns.
        number: reads a number as the table writes it, and raises ValueError for any other text.
        drop, keep_index: as in `TableFormat`.
        stream: whether the numbers go to a file, as `spool.is_wanted` takes it.

    Attributes:
        notes: what was guessed, a short line each.
    """

    def __init__(
        self,
        name: str,
        rules: InputRules,
        number: Callable[[str], float],
        drop: str | int | Sequence[str | int] | None,
        *,
        keep_index: bool,
        stream: bool | None,
    ) -> None:
        self.name, self.rules, self.number = name, rules, number
        self.drop, self.keep_index, self.stream = drop, keep_index, stream
        self.notes: list[str] = []

    # --- what a kind of file has --------------------------------------------------------------------------------------
    @abstractmethod
    def holds_text(self, column: int) -> bool:
        """True if a column can have nothing but text: the file has types, and says so."""

    @abstractmethod
    def seems_text(self, column: int) -> bool:
        """True if an input column is to be read as text: its cells then say what it is."""

    @abstractmethod
    def values(self, columns: Columns, read: Read) -> Values:
        """Return what is read. Raise DataError for a cell that does not fit its column."""

    @abstractmethod
    def place(self, row: int) -> str:
        """Return where a row is, for a message."""

    # --- which columns are what ---------------------------------------------------------------------------------------
    def source(
        self,
        columns: Columns,
        label: str | int | Sequence[str | int] | None,
        weight: str | int | None,
        wanted: Wanted,
        *,
        inputs_only: bool,
    ) -> Source:
        """Return the table's inputs, labels and weights; arguments as for `read_table`."""
        columns = columns.without(self.drop, wanted, keep_index=self.keep_index)
        weights, remark = columns.weight(weight, wanted)
        found, how = columns.labels(label, wanted, weight=weights, optional=inputs_only)
        others = {**dict.fromkeys(found, "label"), **({} if weights is None else {weights: "weight"})}
        features = columns.features(others, wanted)
        self._note_column("label", columns, found, how, inputs_only=inputs_only)
        self._note_column("weights", columns, [] if weights is None else [weights], remark, inputs_only=inputs_only)
        if weights is None and wanted.weight is not None and not inputs_only:
            self.notes.append(f"no weights: the column {shown(wanted.weight, 40)} of the training is not there")
        self._note_index(columns, others, features)
        coded = self._coded(columns, features, others, wanted)
        read = Read(features, coded, bool(wanted.kinds), *((), None) if inputs_only else (tuple(found), weights))
        raw, y, w, lines = self.values(columns, read)
        self._note_counters(columns, features, raw)
        assert isinstance(raw.values, np.ndarray)
        roles = {**dict.fromkeys(range(columns.width), "left out"), **dict.fromkeys(features, "input"), **others}
        of_inputs = Source(
            self.name,
            raw.values,
            None,
            raw=raw,
            roles=tuple((columns.name(i), role) for i, role in roles.items()),
            notes=tuple(self.notes),
            files=mapped_files(Unchanged(()), raw.values),
        )
        if inputs_only or not found:
            return of_inputs
        remedy = "" if label is not None else "--label names another column"
        is_one = len(found) == 1
        what = f"the label column{'' if is_one else 's'} {listed(map(columns.call, found))}"
        return replace(
            of_inputs,
            y=Labels(y, what, lines, remedy),
            label=columns.key(found[0]) if is_one else tuple(map(columns.name, found)),
            label_names=() if is_one else tuple(str(columns.name(i)) for i in found),
            weight=None if weights is None else Labels(w, f"the weight column {columns.call(weights)}", lines),
            weight_column=None if weights is None else columns.name(weights),
        )

    def names(self, first: Sequence[str]) -> tuple[str, ...]:
        """Return the columns' names; one that is missing is called as pandas calls it.

        Raises DataError for a name that is there twice, or is no text.
        """
        taken = set(first)
        names = tuple(name or _unused(f"Unnamed: {i}", taken) for i, name in enumerate(first))
        repeated = next((name for name, times in Counter(names).items() if times > 1), None)
        if repeated is not None:
            raise DataError(
                f"{self.name}: the header names '{shown(repeated)}' twice; every column needs a name of its own"
            )
        for name in names:
            if not name.isascii() and name.encode(errors="replace").decode() != name:
                raise DataError(f"{self.name}: the header names '{shown(name)}', which is not valid Unicode")
        return names

    def _note_column(self, what: str, columns: Columns, found: Sequence[int], how: str, *, inputs_only: bool) -> None:
        """Note which columns have the labels, or the weights."""
        if not found:
            return
        which = f"column {columns.call(found[0])}"
        if len(found) > 1:
            what, which = f"{what}s", f"columns {listed(map(columns.call, found))}"
        left_out = "left out the " if inputs_only else ""
        self.notes.append(f"{left_out}{what}: {which}" + (f" ({how})" if how else ""))

    def _note_index(self, columns: Columns, others: Collection[int], features: Sequence[int]) -> None:
        left_out = [i for i in columns.index if i not in others and i not in features]
        if left_out:
            which = "column, an index" if len(left_out) == 1 else f"{len(left_out)} columns, indices"
            self.notes.append(f"left out the unnamed first {which} of the rows (--keep-index takes it)")

    def _note_counters(self, columns: Columns, features: Sequence[int], raw: RawColumns) -> None:
        """Note inputs that count or name the rows: a network would learn the order of the file."""
        x = raw.values
        if len(x) < LEAST_COUNTED_ROWS:
            return
        candidates = np.flatnonzero((x[0] == x[1] - 1) & np.isin(x[0], (0, 1)) & (x[-1] == x[0] + len(x) - 1))
        counters = [i for i in candidates.tolist() if (np.diff(x[:, i]) == 1).all()]
        for does, found in (
            ("counts the rows: if it is an index", [i for i in counters if raw.kinds[i] == NUMBER]),
            ("is another text in each row: if it names them", [i for i in counters if raw.kinds[i] == CATEGORY]),
        ):
            if found:
                names = ", ".join(columns.call(features[i]) for i in found[:5])
                self.notes.append(f"the input {names} {does}, leave it out (--drop)")

    def _coded(
        self,
        columns: Columns,
        features: Sequence[int],
        others: Mapping[int, str],
        wanted: Wanted,
    ) -> dict[int, TextColumn]:
        """Return the input columns that are read as text: categories, truths, and what the first rows leave open.

        Raises DataError for a column that is to be categories, and that is not there or is no input.
        """
        if wanted.kinds:
            kinds = zip(features, wanted.kinds, strict=True)
            return {i: TextColumn(kind) for i, kind in kinds if kind != NUMBER or self.holds_text(i)}
        asked = columns.several("categories", self.rules.categories)
        stray = next((i for i in asked if i not in features), None)
        if stray is not None:
            raise DataError(
                f"{self.name}: --categories names the column {columns.call(stray)}, which is no input but "
                f"{others.get(stray, 'left out')}"
            )
        found = {i: TextColumn(CATEGORY) for i in asked}
        return found | {i: TextColumn() for i in features if i not in found and self.seems_text(i)}

    # --- their values -------------------------------------------------------------------------------------------------
    def taken_from(
        self, spool: Spool, rows: int, columns: Columns, read: Read
    ) -> tuple[RawColumns, np.ndarray, np.ndarray]:
        """Return the inputs; several labels (rows, labels); and the weights (rows, 1), or (rows, 0) if there are none.

        spool: the rows, `Read.width` numbers each. The columns take the order of the inputs in it, the others last.
        """
        matrix = spool.array(np.float64, (rows, read.width))
        kinds, texts = [NUMBER] * len(read.features), {}
        if read.coded:
            meanings = {}
            for place, i in enumerate(read.features):
                if i in read.coded:
                    codes = matrix[:, len(read.numeric) + list(read.coded).index(i)]
                    kinds[place], meanings[i], found = self._settled(i, codes, columns, read)
                    if kinds[place] == CATEGORY:
                        texts[place] = found
            _put_in_order(spool, matrix, read, meanings)
        inputs = len(read.features)
        several = inputs + len(read.several)
        names = tuple(columns.names[i] for i in read.features) if columns.names else ()
        raw = RawColumns(matrix[:, :inputs], tuple(kinds), texts, names)
        return raw, np.asarray(matrix[:, inputs:several]), np.asarray(matrix[:, several:])

    def _settled(
        self, column: int, codes: np.ndarray, columns: Columns, read: Read
    ) -> tuple[str, np.ndarray, tuple[str, ...]]:
        """Return what a column of text is, as `TextColumn.settle`. Raise DataError for a value that must not be."""
        of_column = read.coded[column]

        def refuse(row: int, cell: str, must: str) -> DataError:
            return self.refusal(self.place(row), column, cell, columns, read, must)

        kind, meaning, texts = of_column.settle(self.number, codes, refuse)
        if self.rules.missing == "error" and np.isnan(meaning).any():
            cell = list(of_column.texts)[int(np.argmax(np.isnan(meaning)))]
            raise refuse(of_column.first_row(codes, cell), cell, "every value must be there")
        return kind, meaning, texts

    def refusal(self, place: str, column: int, cell: str, columns: Columns, read: Read, must: str) -> DataError:
        """Return the error for a cell that is not what its column must hold, with what to do about it."""
        kind = "label " if column in read.labels else "weight " if column == read.weight else ""
        what = f"is '{shown(cell, 40)}'" if cell else "is empty"
        remedy, key = cells.advice(cell), shown(columns.key(column), 40)
        if not kind and cells.is_missing(cell) and not read.is_model_s:
            remedy = "a value is missing: --missing mean, median or zero says what stands for it"
        elif not kind and not remedy:
            remedy = f"is it the label? then --label {key}"
        if not kind and not cells.is_missing(cell) and not read.is_model_s:
            remedy += f"; --categories {key} takes the column for text"
        closing = f" ({remedy})" if remedy else ""
        return DataError(f"{self.name}, {place}: the {kind}column {columns.call(column)} {what}; {must}{closing}")


def _put_in_order(spool: Spool, matrix: np.ndarray, read: Read, meanings: Mapping[int, np.ndarray]) -> None:
    """Replace codes by the values of their texts, and put the columns in the order of the inputs, the others last.

    matrix: what is in the spool; meanings: the value of each text of each column.
    """
    place_of = {i: place for place, i in enumerate((*read.numeric, *read.coded))}
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        block = matrix[start : start + ROWS_AT_ONCE]
        ordered = np.empty(block.shape)
        for place, i in enumerate((*read.features, *read.others)):
            values = block[:, place_of[i]]
            ordered[:, place] = meanings[i][values.astype(np.int64)] if i in meanings else values
        spool.replace(start * matrix.strides[0], ordered)


def as_whole(values: np.ndarray) -> np.ndarray:
    """Return numbers as integers if all of them are whole, as a table does not say."""
    is_whole = (values == np.round(values)).all() and (np.abs(values) <= LARGEST_EXACT).all()
    return values.astype(np.int64) if is_whole else values


def _unused(name: str, taken: set[str]) -> str:
    """Return the name, or as pandas numbers it if it is taken: Unnamed: 0.1."""
    return next(each for each in chain([name], (f"{name}.{i}" for i in count(1))) if each not in taken)
