"""Examples that are made when they are asked for, such as those of a file that does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Examples:
    """Examples (N, n_0) that do not lie in memory: indexing makes arrays of some.

    Args:
        rows, width: N and n_0.
        make: returns the examples (B, n_0) of a slice, or of an array of row numbers (B,). It may run in another
            thread than the caller's.
    """

    def __init__(self, rows: int, width: int, make: Callable[[Any], np.ndarray]) -> None:
        self.shape: tuple[int, int] = (rows, width)
        self._make = make

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        return self._make(key)

    def then(self, function: Callable[[np.ndarray], np.ndarray]) -> Examples:
        """Return the examples that `function` makes of these, some at a time."""
        return Examples(*self.shape, lambda key: function(self._make(key)))

    def between(self, start: int, stop: int) -> Examples:
        """Return the examples from `start` to before `stop`."""

        def make(key: Any) -> np.ndarray:
            if not isinstance(key, slice):
                return self._make(key + start)
            first, last, step = key.indices(stop - start)
            return self._make(slice(first + start, last + start, step))

        return Examples(stop - start, self.shape[1], make)
