"""Labels: what they say about the task, and how they become targets. One rule for every format.

The values decide, not the type or the file that holds them: 1, 1.0, "1" and "1.0" are the same label.

A label's class is called as it was written, so that 01234 and 1234 stay two. Only if all labels are whole numbers in
their usual form is 1.0 called 1, as tables write whole numbers with a decimal point once a value is missing.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpubp.data import cells
from gpubp.data.source import Labels, Source
from gpubp.errors import DataError, listed, nearest, shown

MOST_CLASSES = 50
"""Whole numbers with more different values than this are quantities, unless they number classes."""
MOST_NUMBERED_CLASSES = 1000
"""So many classes may be numbered, 0 to K − 1 or 1 to K, if there are `EXAMPLES_OF_NUMBERED` of each on average."""
EXAMPLES_OF_NUMBERED = 10
FEW_CLASSES = 10
"""Whole numbers with more different values than this are quantities if hardly any of them repeats."""
LEAST_REPEATED = 0.1
"""The share of whole numbers that must repeat an earlier one to be classes, if they have many different values."""

DECIMALS = "decimal numbers"
"""Why numbers are values to predict, for the user to read."""

LARGEST_EXACT = 2**53
"""The largest whole number below which float64 has every whole number."""

_WHOLE = re.compile(r"([+-]?)(0|[1-9][0-9]*)(?:\.0*)?")
_PADDED = re.compile(r"[+-]?0[0-9]+")
_INTEGER = re.compile(r"-?[0-9]{1,300}")


@dataclass(frozen=True, eq=False)
class Column:
    """Labels that are one value an example, sorted out: the different ones, and which one each example has.

    Attributes:
        distinct: the different labels: numbers in ascending order, or text in the order in which it occurs.
        codes: for each example the index of its label in `distinct`, (examples,) int64.
        labels: where they come from.
    """

    distinct: np.ndarray | list[str]
    codes: np.ndarray
    labels: Labels

    def first_row(self, index: int) -> int:
        """Return the first example that has this label."""
        return int(np.argmax(self.codes == index))

    def where(self, index: int) -> str:
        """Return where this label is first, for a message."""
        return self.labels.where(self.first_row(index))


def tidy(source: Source, labels: Labels) -> Labels:
    """Return labels as numbers, (examples,) or (examples, outputs), or as a list of text.

    Raises DataError for a label that is missing, infinite or no text, with its line or row.
    """
    values = labels.values
    if isinstance(values, np.ndarray):
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.dtype.kind in "US" and values.ndim != 1:
            raise DataError(f"{source.name}: {labels.what} has shape {values.shape}; it must be (examples,)")
        if values.dtype.kind == "b":
            values = values.astype(np.int64)
        if values.dtype.kind == "f":
            _require_finite(source, labels, values)
        if values.dtype.kind in "US":
            values = _text(source, labels, values)
    if not isinstance(values, np.ndarray):
        # Few texts are different, or they are numbers: this looks at each one only once.
        for text in dict.fromkeys(values):
            _require_label(source, labels, values, text)
    return replace(labels, values=values)


def _require_finite(source: Source, labels: Labels, values: np.ndarray) -> None:
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(f"{source.name}, {labels.where(row)} holds NaN or infinity; every label must be finite")


def _text(source: Source, labels: Labels, values: np.ndarray) -> list[str]:
    """Return an array's text. Raises DataError for what is none: an array can hold any bits."""
    if values.dtype.kind == "U" and values.size and values.dtype.itemsize:
        points = np.ascontiguousarray(values).view(values.dtype.byteorder + "u4").reshape(len(values), -1)
        is_text = ((points < 0xD800) | ((points > 0xDFFF) & (points <= sys.maxunicode))).all(axis=1)
    else:
        is_text = np.array([_is_utf_8(each) for each in values.tolist()], bool)
    if not is_text.all():
        where = labels.where(int(np.argmin(is_text)))
        raise DataError(f"{source.name}, {where} has text that is not valid Unicode")
    return [each.decode() if isinstance(each, bytes) else each for each in values.tolist()]


def _is_utf_8(text: bytes | str) -> bool:
    try:
        return isinstance(text, str) or text.decode() is not None
    except UnicodeDecodeError:
        return False


def _require_label(source: Source, labels: Labels, values: Sequence[str], text: str) -> None:
    if cells.is_missing(text):
        what = f"has the missing value '{shown(text)}'" if text else "is empty"
        raise DataError(f"{source.name}, {labels.where(values.index(text))} {what}; every example needs a label")
    if not _is_unicode(text):
        where = labels.where(values.index(text))
        raise DataError(f"{source.name}, {where} has '{shown(text)}', which is not valid Unicode")
    if cells.is_number(text) and not math.isfinite(float(text)) and _WHOLE.fullmatch(text) is None:
        raise DataError(f"{source.name}, {labels.where(values.index(text))} has '{shown(text)}'; it must be finite")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def column(labels: Labels) -> Column:
    """Return tidy labels, one value an example, sorted out."""
    if isinstance(labels.values, np.ndarray):
        distinct, codes = np.unique(labels.values, return_inverse=True)
        return Column(distinct, codes.reshape(-1), labels)
    index: dict[str, int] = {}
    texts = (index.setdefault(text, len(index)) for text in labels.values)
    codes = np.fromiter(texts, np.int64, len(labels.values))
    return Column(list(index), codes, labels)


# --- the task ---------------------------------------------------------------------------------------------------------
def guess_task(source: Source, parts: Sequence[Labels]) -> tuple[str, str]:
    """Return the task that tidy labels look like, and why, for the user to read.

    Classes are text, one-hot rows, and whole numbers that are few and repeat, or that number classes. Other rows of 0
    and 1 that are integers say which labels an example has; every other number is a value to predict. Numbers with
    leading zeros, such as 007, are text.

    Raises DataError if numbers to predict have text among them: a missing value, or one that is written differently.
    """
    if any(_rows_of_values(part) for part in parts):
        if all(is_one_hot(part.values) for part in parts):
            return "classification", "one-hot rows"
        if all(map(_are_truths, parts)):
            return "multilabel", "rows of 0 and 1; --task regression overrules"
        return "regression", "several values an example"
    if any(_has_decimals(part.values) for part in parts) and all(isinstance(part.values, np.ndarray) for part in parts):
        return "regression", DECIMALS  # without sorting values that are all different
    columns = [column(part) for part in parts]
    if all(map(_are_numbers, columns)):
        return _judge_numbers(columns)
    for each in columns:
        _require_text_throughout(source, each)
    different = len({text for each in columns for text in map(str, each.distinct)})
    return "classification", f"{different:,} different texts"


def _has_decimals(values: np.ndarray | Sequence[str]) -> bool:
    """True if some number of an array is not whole."""
    return isinstance(values, np.ndarray) and values.dtype.kind == "f" and bool((values != np.round(values)).any())


def _rows_of_values(labels: Labels) -> bool:
    return isinstance(labels.values, np.ndarray) and labels.values.ndim > 1


def is_one_hot(values: object) -> bool:
    """True if the values are rows (examples, classes) of zeros with a single one."""
    return (
        isinstance(values, np.ndarray)
        and values.ndim == 2
        and values.shape[1] > 1
        and bool(((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all())
    )


def _are_truths(labels: Labels) -> bool:
    """True if the labels are rows of integers, each 0 or 1."""
    rows = labels.values
    return (
        isinstance(rows, np.ndarray)
        and rows.ndim == 2
        and rows.dtype.kind in "ui"
        and bool(((rows == 0) | (rows == 1)).all())
    )


def _are_numbers(found: Column) -> bool:
    """True if all labels are numbers; one with leading zeros is none, it identifies something."""
    if isinstance(found.distinct, np.ndarray):
        return True
    return all(cells.is_number(text) and not _PADDED.fullmatch(text) for text in found.distinct)


def _judge_numbers(columns: Sequence[Column]) -> tuple[str, str]:
    """Return the task for labels that are all numbers, and why."""
    if not all(map(_are_whole, columns)):
        return "regression", DECIMALS
    count, rows = max(len(each.distinct) for each in columns), sum(len(each.codes) for each in columns)
    is_numbered = False
    if count <= MOST_NUMBERED_CLASSES:
        names = {_usual(str(label)) for each in columns for label in each.distinct}
        count = len(names)
        counts_up = names in ({str(i) for i in range(count)}, {str(i) for i in range(1, count + 1)})
        is_numbered = counts_up and rows >= EXAMPLES_OF_NUMBERED * count
    repeats = rows - count >= LEAST_REPEATED * rows
    is_few = count <= FEW_CLASSES or (count <= MOST_CLASSES and repeats)
    task, other = ("classification", "regression") if is_few or is_numbered else ("regression", "classification")
    return task, f"{count:,} different whole numbers; --task {other} overrules"


def _are_whole(found: Column) -> bool:
    if not isinstance(found.distinct, np.ndarray):
        return all(_usual(text) is not None for text in found.distinct)
    if found.distinct.dtype.kind in "ui":
        return True
    return bool((found.distinct == np.round(found.distinct)).all() and (np.abs(found.distinct) <= LARGEST_EXACT).all())


def _require_text_throughout(source: Source, found: Column) -> None:
    """Raise DataError if the labels are mostly numbers to predict, and some are text."""
    if isinstance(found.distinct, np.ndarray) or any(map(_PADDED.fullmatch, found.distinct)):
        return
    texts = [text for text in found.distinct if not cells.is_number(text)]
    if not texts:
        return
    numbers = [text for text in found.labels.values if cells.is_number(text)]
    if 2 * len(numbers) < len(found.codes):
        return
    if _judge_numbers([column(replace(found.labels, values=numbers))])[0] == "regression":
        remedy = cells.advice(texts[0]) or "mend it, or take every label for a class with --task classification"
        where = found.where(found.distinct.index(texts[0]))
        raise DataError(f"{source.name}, {where} has '{shown(texts[0])}' among numbers to predict; {remedy}")


# --- targets ----------------------------------------------------------------------------------------------------------
def values(source: Source, labels: Labels) -> np.ndarray:
    """Return tidy labels as the targets of a regression, float64. Raises DataError for text."""
    if isinstance(labels.values, np.ndarray):
        return labels.values.astype(np.float64)
    found = column(labels)
    for index, text in enumerate(found.distinct):
        if not cells.is_number(text):
            remedy = cells.advice(text)
            raise DataError(
                f"{source.name}, {found.where(index)} has '{shown(text)}'; regression needs numbers"
                + (f": {remedy}" if remedy else "")
            )
    numbers = np.array([float(text) for text in found.distinct], np.float64)
    if not np.isfinite(numbers).all():
        raise DataError(f"{source.name}, {found.where(int(np.argmin(np.isfinite(numbers))))} is too large for float64")
    return numbers[found.codes]


def several(source: Source, parts: Sequence[Labels], known: Sequence[str]) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return tidy labels, several an example, as rows of 0 and 1 (examples, labels) float64, and the labels' names.

    known: the labels of an existing model, or ().

    Raises DataError for one label an example, for values other than 0 and 1, and for more or fewer than are known.
    """
    targets = []
    for part in parts:
        rows = part.values
        if not isinstance(rows, np.ndarray) or rows.ndim != 2:
            shape = f" of shape {shown(rows.shape)}" if isinstance(rows, np.ndarray) else ""
            raise DataError(
                f"{source.name}: {part.what}{shape} has one label an example; multilabel needs several columns of 0 "
                "and 1: in a table --label a,b,c, in a .npz y of shape (examples, labels)"
            )
        targets.append(rows.astype(np.float64))
    names = tuple(known) or source.label_names or tuple(map(str, range(targets[0].shape[1])))
    for part, rows in zip(parts, targets, strict=True):
        if rows.shape[1] != len(names):
            others = "the model" if known else parts[0].what
            raise DataError(
                f"{source.name}: {part.what} has {rows.shape[1]} labels an example; {others} has {len(names)}"
            )
        right = (rows == 0) | (rows == 1)
        if not right.all():
            row, label = np.unravel_index(int(np.argmin(right)), right.shape)
            raise DataError(
                f"{source.name}, {part.place(int(row))}: the label '{shown(names[label], 40)}' is "
                f"{rows[row, label]:g}; with several labels an example each must be 0 or 1"
            )
    return targets, names


def classes(source: Source, parts: Sequence[Labels], known: Sequence[str]) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return tidy labels as class indices (examples,) int64, and the classes' names.

    known: the classes of an existing model, or (); then those of the first part are the classes, numbers in numeric
    order and text sorted.

    Raises DataError for labels that are no classes, for one that is none of the known, and if there is one class only.
    """
    columns = [_class_column(source, part) for part in parts]
    names = [_class_names(source, each) for each in columns]
    if source.class_names:
        names = [[_name_of(source, name) for name in each] for each in names]
    order = tuple(known or source.class_names) or tuple(_natural_order(names[0]))
    if len(order) < 2 and not known:
        what = f"every label is '{shown(order[0])}'" if order else "there are no labels"
        column_name = f" in {parts[0].what}" if order and parts[0].lines is not None else ""
        remedy = f"; {parts[0].remedy}" if parts[0].remedy else ""
        raise DataError(f"{source.name}: {what}{column_name}; classification needs at least two classes{remedy}")
    index = _index(order)
    targets = []
    for each, found in zip(names, columns, strict=True):
        indices = [index.get(name, index.get(_usual(name) or name)) for name in each]
        if None in indices:
            unknown = each[indices.index(None)]
            match = nearest(unknown, order)
            place = found.labels.place(found.first_row(indices.index(None)))
            raise DataError(
                f"{source.name}, {place}: the label '{shown(unknown)}' is none of the "
                f"{len(order)} classes {listed(order, 80)}" + (f"; did you mean '{shown(match)}'?" if match else "")
            )
        targets.append(np.array(indices, np.int64)[found.codes])
    return targets, order


def _class_column(source: Source, labels: Labels) -> Column:
    """Return labels sorted out; one-hot rows become the index of their one."""
    numbers = labels.values
    if isinstance(numbers, np.ndarray) and numbers.ndim > 1:
        if numbers.ndim > 2:
            raise DataError(f"{source.name}: {labels.what} has shape {numbers.shape}; it must be (examples,)")
        if not is_one_hot(numbers):
            raise DataError(
                f"{source.name}: {labels.what} has shape {numbers.shape}; "
                "it must be one label an example, or one-hot rows"
            )
        labels = replace(labels, values=numbers.argmax(axis=1))
    return column(labels)


def _class_names(source: Source, found: Column) -> list[str]:
    """Return what each different label is called as a class. Raises DataError for numbers that are not whole."""
    if not isinstance(found.distinct, np.ndarray) and not _are_numbers(found):
        return found.distinct
    names = []
    for index, label in enumerate(found.distinct):
        name = _usual(str(label))
        if name is None:
            raise DataError(
                f"{source.name}, {found.where(index)} holds {shown(label)}; class labels must be whole numbers or text"
            )
        names.append(name)
    return names


def _usual(text: str) -> str | None:
    """Return a whole number in its usual form: 1 for 1.0, +1 and 1e0. None if the text is no whole number.

    A number with leading zeros is none: it identifies something.
    """
    match = _WHOLE.fullmatch(text)
    if match:
        sign, digits = match.groups()
        return digits if sign != "-" or digits == "0" else f"-{digits}"
    if _PADDED.fullmatch(text) or not cells.is_number(text):
        return None
    number = float(text)
    return str(int(number)) if abs(number) <= LARGEST_EXACT and number == int(number) else None


def _natural_order(names: Sequence[str]) -> list[str]:
    """Return different names once each: 9 before 10 if all are whole numbers, else sorted."""
    different = set(names)
    if all(map(_INTEGER.fullmatch, different)):
        return sorted(different, key=lambda name: (int(name), name))
    return sorted(different)


def _index(order: Sequence[str]) -> dict[str, int]:
    """Return the index of each class by its name, and by its number in the usual form if no other class has that."""
    index = {name: i for i, name in enumerate(order)}
    for i, name in enumerate(order):
        index.setdefault(_usual(name) or name, i)
    return index


def _name_of(source: Source, number: str) -> str:
    """Return the name of a class that is known beforehand, for its index."""
    count = len(source.class_names)
    if not _INTEGER.fullmatch(number) or not 0 <= int(number) < count:
        raise DataError(f"{source.name}: there is a label {shown(number)}; labels must be from 0 to {count - 1}")
    return source.class_names[int(number)]
