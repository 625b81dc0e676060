"""Columns of a table whose cells are text, until the last row has shown what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from gpubp.data import cells
from gpubp.data.preparation import BOOLEAN, CATEGORY, NUMBER
from gpubp.errors import DataError, shown

Refuse = Callable[[int, str, str], DataError]
"""Makes the error for a cell from its row, its text, and what its column must hold."""


class TextColumn:
    """The cells of a column, each different text once.

    A row's code is the number of its text. It is kept where the numbers of the table are, as one of them.

    Attributes:
        texts: the different texts, with the number of each, in the order in which they came.
        kind: what the column is taken for; "" if its cells decide.
    """

    def __init__(self, kind: str = "") -> None:
        self.texts: dict[str, int] = {}
        self.kind = kind

    def codes(self, indices: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Return the codes (rows,) of further rows, by the place of each one's text in `texts`, (rows,) integers."""
        used, first = np.unique(indices, return_index=True)
        numbers = np.zeros(len(texts), np.int64)
        for place in used[np.argsort(first)].tolist():
            numbers[place] = self.texts.setdefault(texts[place].strip(), len(self.texts))
        return numbers[indices]

    def settle(
        self, number: Callable[[str], float], codes: np.ndarray, refuse: Refuse
    ) -> tuple[str, np.ndarray, tuple[str, ...]]:
        """Return what the column is taken for, the value of each of `texts` as in `RawColumns`, and its different texts
        if they are categories.

        Args:
            number: reads a number, as `TableFormat.number`.
            codes: of all rows, to say where a text is.

        Raises the error that `refuse` makes for a cell that does not fit with the others.
        """
        if self.kind == CATEGORY:
            return self._categories(codes, refuse)
        there = [text for text in self.texts if not cells.is_missing(text)]
        read = {text: value for text in there if not math.isnan(value := cells.number_or_nan(text, number))}
        truths = {text: cells.TRUTHS[text.lower()] for text in there if text.lower() in cells.TRUTHS}
        if self.kind == BOOLEAN:
            truths |= {text: value for text, value in read.items() if value in (0, 1)}
            odd = next((text for text in there if text not in truths), None)
            if odd is not None:
                raise refuse(self.first_row(codes, odd), odd, "inputs must be true or false, as in training")
            return BOOLEAN, self._values(truths), ()
        if self.kind == NUMBER and len(read) < len(there):
            odd = next(text for text in there if text not in read)
            raise refuse(self.first_row(codes, odd), odd, "inputs must be finite numbers, as in training")
        if len(read) == len(there):
            infinite = next((text for text, value in read.items() if not math.isfinite(value)), None)
            if infinite is not None:
                raise refuse(self.first_row(codes, infinite), infinite, "inputs must be finite numbers")
            return NUMBER, self._values(read), ()
        if read:
            raise self._mixture(set(read), set(there), codes, refuse)
        if len(truths) == len(there):
            return BOOLEAN, self._values(truths), ()
        for text in there:
            if text not in truths and cells.advice(text):
                raise refuse(self.first_row(codes, text), text, "inputs must be finite numbers, or text")
        return self._categories(codes, refuse)

    def _categories(self, codes: np.ndarray, refuse: Refuse) -> tuple[str, np.ndarray, tuple[str, ...]]:
        there = [text for text in self.texts if not cells.is_missing(text)]
        for text in there:
            if not text.isascii() and text.encode(errors="replace").decode() != text:
                raise refuse(self.first_row(codes, text), text, "text must be valid Unicode")
        return CATEGORY, self._values({text: place for place, text in enumerate(there)}), tuple(there)

    def _values(self, meaning: dict[str, float]) -> np.ndarray:
        """Return the value of each text, NaN for one without, (texts,) float64."""
        return np.array([meaning.get(text, math.nan) for text in self.texts], np.float64)

    def first_row(self, codes: np.ndarray, text: str) -> int:
        """Return the first row that has this text."""
        return int(np.argmax(codes == self.texts[text]))

    def _mixture(self, numbers: set[str], there: set[str], codes: np.ndarray, refuse: Refuse) -> DataError:
        """Return the error for numbers among text: it names the first cell of what there is less of."""
        texts = there - numbers
        counts = np.bincount(codes.astype(np.int64)).tolist()
        rows = [sum(counts[self.texts[text]] for text in each) for each in (numbers, texts)]
        few, many = (numbers, texts) if rows[0] < rows[1] else (texts, numbers)
        odd, other = (min(each, key=self.texts.__getitem__) for each in (few, many))
        what = f"numbers, such as {shown(other, 40)}" if few is texts else f"text, such as '{shown(other, 40)}'"
        row = self.first_row(codes, odd)
        return refuse(row, odd, f"most others are {what}; inputs must be finite numbers, or text throughout")
