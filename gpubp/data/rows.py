"""Rows of an array that are copied block by block when they are asked for, as they may lie in a large file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gpubp.errors import DataError, shown_path

ROWS_AT_ONCE = 4096
"""Rows that are computed with at once: a float64 copy of a whole image set is eight times its size."""


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

    Indexing gives arrays, which are copies; `np.asarray` copies all.

    Args:
        source: the array.
        which: the numbers of the rows.
        files: where the array lies if it is mapped into memory: checked whenever rows are copied, as what is cut off
            a mapped file ends the process.
    """

    ndim = 2

    def __init__(self, source: np.ndarray, which: np.ndarray, files: Unchanged | None = None) -> None:
        self.source, self.which, self.files = source, which, files
        self.shape, self.dtype = (len(which), *source.shape[1:]), source.dtype

    def __len__(self) -> int:
        return len(self.which)

    @property
    def size(self) -> int:
        """The number of values."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, key: Any) -> np.ndarray:
        if self.files is None:
            return self.source[self.which[key]]
        self.files.check()
        found = self.source[self.which[key]]
        self.files.check()
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows are copied when they are asked for")
        return np.asarray(self[:], dtype)


Inputs: TypeAlias = np.ndarray | Rows
"""Inputs (examples, features): in memory, or copied block by block."""


def rows_of(x: Inputs, which: np.ndarray) -> Rows:
    """Return some rows of inputs, which are copied when they are asked for."""
    return Rows(x.source, x.which[which], x.files) if isinstance(x, Rows) else Rows(x, which)


def blocks(x: Inputs) -> Iterator[np.ndarray]:
    """Yield inputs in blocks of `ROWS_AT_ONCE` rows."""
    return (x[start : start + ROWS_AT_ONCE] for start in range(0, len(x), ROWS_AT_ONCE))
