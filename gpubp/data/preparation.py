"""How the columns of a table become the inputs of a network: numbers, truths, categories, and what is missing.

What this takes from data is taken from the training part, as the scaling is, and is kept with the model as plain data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from gpubp.data.rows import Inputs, Rows, columns, have_nan, rows_of
from gpubp.errors import DataError, listed, unknown_name
from gpubp.registry import require_count, require_number

NUMBER, BOOLEAN, CATEGORY = KINDS = ("number", "boolean", "category")
"""What a column of a table is taken for."""
FILLS = ("error", "mean", "median", "zero")
"""What may stand for a missing value."""
MOST_CATEGORIES = 32
"""Categories of a column that have an input of their own, if nothing else is said."""


@dataclass(frozen=True)
class InputRules:
    """What is asked of the input columns of a table, where that should not be guessed.

    Attributes:
        missing: what stands for a missing number: "mean" or "median" of the column's values in the training part, or
            "zero"; a missing category is none of them. Each column with missing values there gets one more input, 1
            where the value is missing. "error": a missing value is an error.
        categories: the columns whose cells are categories even if they are numbers, or look like dates: by name or by
            position, one or several, as `label` of `load` takes them.
        max_categories: how many categories of a column have an input of their own: those that are the most frequent.

    Raises:
        ArgumentError: one of them has a value that it must not have.
    """

    missing: str = "error"
    categories: str | int | Sequence[str | int] | None = None
    max_categories: int = MOST_CATEGORIES

    def __post_init__(self) -> None:
        if self.missing not in FILLS:
            raise unknown_name("missing", self.missing, FILLS)
        require_count("max_categories", self.max_categories)


@dataclass(frozen=True, eq=False)
class RawColumns:
    """The input columns of some rows of a table, as they stand in it.

    Attributes:
        values: (rows, columns), float64: numbers; 1 and 0 for true and false; for a category the index of its text;
            NaN where a value is missing. What is mapped from a file is an `np.memmap`, and its rows are `Rows`.
        kinds: what each column is taken for, one of `KINDS`.
        texts: the different texts of each column of categories, by the column's index.
        names: of the columns; empty if the table names none.
    """

    values: Inputs
    kinds: tuple[str, ...]
    texts: Mapping[int, Sequence[str]] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def rows(self, which: np.ndarray) -> RawColumns:
        """Return some of the rows, by their numbers or by whether each is one of them."""
        is_mapped = isinstance(self.values, Rows | np.memmap)
        which = np.flatnonzero(which) if which.dtype == bool else which
        values = rows_of(self.values, which) if is_mapped else self.values[which]
        return RawColumns(values, self.kinds, self.texts, self.names)

    @property
    def are_numbers(self) -> bool:
        """True if every value is a number that is there: the columns are the inputs, as they are."""
        return set(self.kinds) == {NUMBER} and not have_nan(self.values).any()


@dataclass(frozen=True)
class InputColumn:
    """One column of a table, as the inputs that a network gets of it.

    A number or a boolean is one input. A category is one input for each of `categories`, 1 for the one that it is and
    0 for the others, and one more for every other text. An indicator is one more, behind these.

    Attributes:
        name: of the column; "" if the table names none.
        kind: one of `KINDS`.
        categories: the texts that have an input of their own, sorted.
        fill: the number that stands for a missing value; None if a missing value is an error, and for categories,
            whose inputs are then all 0.
        indicator: whether an input is 1 where the value is missing, and else 0.

    Raises:
        ArgumentError, DataError: a value is none that `Preparation.fit` gives.
    """

    name: str
    kind: str = NUMBER
    categories: tuple[str, ...] = ()
    fill: float | None = None
    indicator: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(self.categories))
        texts = (self.name, *self.categories)
        if self.kind not in KINDS or not all(isinstance(each, str) for each in texts):
            raise DataError(f"preparation: a column must have a name, and be one of {', '.join(KINDS)}")
        if len(set(self.categories)) != len(self.categories) or (self.kind != CATEGORY and self.categories):
            raise DataError("preparation: categories must be different, and only a column of categories has them")
        if self.fill is not None:
            require_number("fill", self.fill)
        if not isinstance(self.indicator, bool) or (self.kind == CATEGORY and self.fill is not None):
            raise DataError("preparation: an indicator must be true or false, and no number stands for a category")

    @property
    def inputs(self) -> int:
        """How many inputs it is."""
        return (len(self.categories) + 1 if self.kind == CATEGORY else 1) + self.indicator

    def input_names(self, called: str) -> Iterator[str]:
        """Yield what to call each of its inputs; `called`: what to call the column."""
        if self.kind == CATEGORY:
            yield from (f"{called}={category}" for category in self.categories)
            yield f"{called} (other)"
        else:
            yield called
        if self.indicator:
            yield f"{called} (missing)"


@dataclass(frozen=True)
class Preparation:
    """How the columns of a table become the inputs of a network, fitted on training data and saved with the model.

    Attributes:
        columns: of the table, in the order of their inputs.
        missing: what stands for missing values, one of `FILLS`.

    Raises:
        ArgumentError, DataError: a value is none that `fit` gives.
    """

    columns: tuple[InputColumn, ...]
    missing: str = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if self.missing not in FILLS:
            raise unknown_name("missing", self.missing, FILLS)
        if not self.columns:
            raise DataError("preparation: there must be a column")

    @classmethod
    def fit(cls, raw: RawColumns, rules: InputRules) -> Preparation:
        """Return the preparation for the rows of a training part."""
        found = [_fitted(raw, index, values, rules) for index, values in enumerate(columns(raw.values))]
        return cls(tuple(found), rules.missing)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the table's columns; empty if it names none."""
        names = tuple(column.name for column in self.columns)
        return names if all(names) else ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each column is taken for."""
        return tuple(column.kind for column in self.columns)

    @property
    def inputs(self) -> int:
        """How many inputs the columns are."""
        return sum(column.inputs for column in self.columns)

    def input_names(self) -> tuple[str, ...]:
        """Return what to call each input, each a name of its own: city=Rome, city (other), age, age (missing)."""
        called = [column.name or str(index) for index, column in enumerate(self.columns)]
        names = [name for column, call in zip(self.columns, called, strict=True) for name in column.input_names(call)]
        if len(set(names)) < len(names):
            names = [f"{name} [{index}]" for index, name in enumerate(names)]
        return tuple(names)

    def apply(self, raw: RawColumns) -> np.ndarray:
        """Return the inputs (rows, inputs), float64.

        Raises DataError for a missing value if `missing` is "error".
        """
        return self._maker(raw)(np.asarray(raw.values))

    def apply_later(self, raw: RawColumns) -> Inputs:
        """Return the same as `apply`; of `Rows`, `Rows` that are made when they are asked for."""
        if isinstance(raw.values, Rows):
            return raw.values.made(self._maker(raw), self.inputs)
        return self.apply(raw)

    def _maker(self, raw: RawColumns) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function that makes inputs of some rows of values. Raises DataError as `apply`."""
        if self.missing == "error":
            self._require_values(raw)
        places = {}
        for index, column in enumerate(self.columns):
            if column.kind == CATEGORY:
                place_of = {text: place for place, text in enumerate(column.categories)}
                places[index] = np.array([place_of.get(text, len(place_of)) for text in raw.texts[index]], np.int64)
        return partial(self._inputs_of, places)

    def _require_values(self, raw: RawColumns) -> None:
        """Raise DataError for the first column with a missing value."""
        for index, has_gaps in enumerate(have_nan(raw.values)):
            if has_gaps:
                values = next(islice(columns(raw.values), index, None))
                raise DataError(
                    f"row {int(np.argmax(np.isnan(values)))} of column {self.columns[index].name or index} has no "
                    "value; every value must be there"
                )

    def _inputs_of(self, places: Mapping[int, np.ndarray], values: np.ndarray) -> np.ndarray:
        """Return the inputs of some rows of values.

        places: of each column of categories, by its index: the input of each text among the column's inputs.
        """
        x = np.zeros((len(values), self.inputs))
        start = 0
        for index, column in enumerate(self.columns):
            of_column = values[:, index]
            absent = np.isnan(of_column)
            here = x[:, start : start + column.inputs]
            if column.kind == CATEGORY:
                here[~absent, places[index][of_column[~absent].astype(np.int64)]] = 1.0
            else:
                here[:, 0] = np.where(absent, column.fill or 0.0, of_column)
            if column.indicator:
                here[:, -1] = absent
            start += column.inputs
        return x

    def notes(self, raw: RawColumns) -> tuple[str, ...]:
        """Return what is to be said of rows with gaps where the training part had none, a line."""
        unseen = [
            column.name or str(index)
            for (index, column), has_gaps in zip(enumerate(self.columns), have_nan(raw.values), strict=True)
            if has_gaps and not column.indicator
        ]
        if not unseen:
            return ()
        return (f"filled gaps where training had none, so that no input says where they are: {listed(unseen, 80)}",)

    # --- saving -------------------------------------------------------------------------------------------------------
    def config(self) -> dict[str, Any]:
        """Return everything as JSON can hold it: `Preparation.from_config(config)` makes the same again."""
        columns = [{**asdict(column), "categories": list(column.categories)} for column in self.columns]
        return {"missing": self.missing, "columns": columns}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preparation:
        """Return the preparation of `config`. Raises ArgumentError, DataError, KeyError or TypeError for another."""
        return cls(tuple(InputColumn(**column) for column in config["columns"]), config["missing"])


def _fitted(raw: RawColumns, index: int, values: np.ndarray, rules: InputRules) -> InputColumn:
    """Return one column, whose values (rows,) these are, as the training part has it."""
    name, kind = raw.names[index] if raw.names else "", raw.kinds[index]
    absent = np.isnan(values)
    there, has_gaps = values[~absent], bool(absent.any())
    if kind == CATEGORY:
        return InputColumn(name, kind, _most_frequent(raw.texts[index], there, rules.max_categories), None, has_gaps)
    return InputColumn(name, kind, (), _fill(there, rules.missing), has_gaps)


def _most_frequent(texts: Sequence[str], codes: np.ndarray, most: int) -> tuple[str, ...]:
    """Return the texts that occur most often, at most so many, sorted; of equally frequent ones the first."""
    counts = np.bincount(codes.astype(np.int64), minlength=len(texts)).tolist()
    found = sorted((-count, text) for count, text in zip(counts, texts, strict=True) if count)
    return tuple(sorted(text for _, text in found[:most]))


def _fill(values: np.ndarray, missing: str) -> float | None:
    """Return the number that stands for a missing one, 0 if there is none to take it from; None for an error."""
    if missing == "error":
        return None
    if missing == "zero" or not len(values):
        return 0.0
    if missing == "median":
        return 2.0 * float(np.median(values / 2))  # of an even number it is a sum's half, and the sum may overflow
    with np.errstate(over="ignore"):
        mean = float(values.mean())
    return mean if math.isfinite(mean) else float((values / len(values)).sum())
