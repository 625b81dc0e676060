"""Rows of an array that are copied block by block when they are asked for, as they may lie in a large file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gpubp.errors import DataError, shown_path
from gpubp.memory import usable_memory

ROWS_AT_ONCE = 4096
"""Rows that are computed with at once: a float64 copy of a whole image set is eight times its size."""
COLUMN_BYTES = 2**24
"""Bytes of columns that are copied at once at least, or one column if that has more: each time, all rows are read."""
MOST_READINGS = 16
"""Times that all rows are read for their columns, or more if this share of the memory holds no more columns."""


class Unchanged:
    """The sizes and times of files, which must stay as they are while the files are read."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._states = {path: _state(path) for path in paths}

    def check(self) -> None:
        """Raise DataError for a file whose size or time of change is another now, or that is no longer there."""
        for path, state in self._states.items():
            if _state(path) != state:
                raise DataError(
                    f"{shown_path(path)}: it changed while it was read; give the run a file that nobody writes to"
                )


@contextmanager
def unchanged(paths: Iterable[Path]) -> Iterator[None]:
    """Raise DataError after the block if one of the files changed within it."""
    files = Unchanged(paths)
    yield
    files.check()


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class Rows:
    """Some rows of an array (rows, columns), in an order of their own.

    Indexing by a slice or by row numbers gives arrays, which are copies; `np.asarray` copies all.

    Args:
        source: the array.
        which: the numbers of the rows.
        files: where the array lies if it is mapped into memory: checked whenever rows are copied, as what is cut off
            a mapped file ends the process.
        make: makes the rows (B, columns), of the array's dtype, of those of the array. None: they are these.
        columns: how many columns it makes.
    """

    ndim = 2

    def __init__(
        self,
        source: np.ndarray,
        which: np.ndarray,
        files: Unchanged | None = None,
        make: Callable[[np.ndarray], np.ndarray] | None = None,
        columns: int | None = None,
    ) -> None:
        self.source, self.which, self.files, self.make = source, which, files, make
        self.shape, self.dtype = (len(which), source.shape[1] if columns is None else columns), source.dtype

    def __len__(self) -> int:
        return len(self.which)

    @property
    def size(self) -> int:
        """The number of values."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, key: Any) -> np.ndarray:
        if self.files is not None:
            self.files.check()
        found = self.source[self.which[key]]
        if self.files is not None:
            self.files.check()
        return found if self.make is None else self.make(found)

    def some_columns(self, key: Any, columns: slice) -> np.ndarray:
        """Return some columns of some rows, which are the array's own, as indexing by `key` gives all of them."""
        assert self.make is None, "what is made is made of all columns"
        return Rows(self.source[:, columns], self.which, self.files)[key]

    def some(self, which: Any) -> Rows:
        """Return some of these rows, in the order of `which`: their places among these, or whether each is one."""
        return Rows(self.source, self.which[which], self.files, self.make, self.shape[1])

    def made(self, make: Callable[[np.ndarray], np.ndarray], columns: int) -> Rows:
        """Return rows of so many columns that `make` makes of these, which are the array's own."""
        return Rows(self.source, self.which, self.files, make, columns)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows are copied when they are asked for")
        return np.asarray(self[:], dtype)


Inputs: TypeAlias = np.ndarray | Rows
"""Inputs (examples, features): in memory, or copied block by block."""


def rows_of(x: Inputs, which: np.ndarray) -> Rows:
    """Return some rows of inputs, which are copied when they are asked for."""
    return x.some(which) if isinstance(x, Rows) else Rows(x, which)


def all_rows(x: Inputs) -> Inputs:
    """Return all rows of inputs: as they are, or where they are mapped into memory as `Rows`."""
    return Rows(x, np.arange(len(x))) if isinstance(x, np.memmap) else x


def blocks(x: Inputs) -> Iterator[np.ndarray]:
    """Yield inputs in blocks of `ROWS_AT_ONCE` rows, each C-contiguous: the order of a sum, and with it its last bit,
    is then the same however the whole lies in memory or in a file."""
    return (np.ascontiguousarray(x[start : start + ROWS_AT_ONCE]) for start in range(0, len(x), ROWS_AT_ONCE))


def columns(x: Inputs) -> Iterator[np.ndarray]:
    """Yield the columns of inputs, (rows,) each; those of `Rows` are copied, a few at a time."""
    if not isinstance(x, Rows):
        yield from x.T
        return
    of_column = len(x) * x.dtype.itemsize
    share = min(x.shape[1] * of_column, usable_memory() or math.inf) / MOST_READINGS
    at_once = max(1, math.ceil(max(COLUMN_BYTES, share) / max(1, of_column)))
    for first in range(0, x.shape[1], at_once):
        some = np.empty((min(at_once, x.shape[1] - first), len(x)), x.dtype)
        for start in range(0, len(x), ROWS_AT_ONCE):
            block = x.some_columns(slice(start, start + ROWS_AT_ONCE), slice(first, first + at_once))
            some[:, start : start + len(block)] = block.T
        yield from some
        del some  # before the next are made


def have_nan(x: Inputs) -> np.ndarray:
    """Return for each column of inputs whether some value is NaN, (columns,) bool."""
    found = np.zeros(x.shape[1], bool)
    for block in blocks(x):
        found |= np.isnan(block).any(axis=0)
    return found
