"""The scaling of inputs and of targets: fitted on the training part, and saved with the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from gpubp.arrays import on_host
from gpubp.data.dataset import real_inputs, require_finite
from gpubp.data.rows import Inputs, Rows, blocks
from gpubp.dtypes import BFLOAT16
from gpubp.errors import ArgumentError, DataError

NEARLY_ALL, NEARLY_SAME = 0.99, 1e-5
"""A column is nearly constant if this share of its values, or all but one of at least ten, are the same to within this
share of its largest magnitude, or of 1 if that is smaller."""
REACH, REACH_OF_NEARLY_CONSTANT = 5.0, 2.0
"""How many times further out than in training a value may lie before it is bounded."""
SAME_CONSTANT = 1e-6
"""A constant that comes back to within this share of itself has not moved: it may come in another precision."""
MAPPED_AT_ONCE = 2**16
"""Values that are mapped at once, in float64: they stay in the cache."""
FARTHEST_OF_NEARLY_CONSTANT = 2.0
"""Scaled, the training values of a nearly constant column lie no further out than this."""


@dataclass(frozen=True, eq=False)
class Scaler:
    """A linear map of each column, ``(x - offset) * scale``, fitted on training data and saved with the model.

    Of inputs, the result is bounded by what training knew. A column that was constant there is 0 for ever: its weights
    are as they were drawn, so whatever they add to a later value is noise. One that was nearly constant is bounded
    soon, as its weights have seen hardly anything else; any other only where a value lies so far out that it alone
    would decide the output, such as one in another unit.

    Attributes:
        offset, scale: one value a column, (features,), float64; scale is finite and not zero.
        limit: the largest magnitude of a result, (features,), float64, at least 0; None for no limit.
    """

    offset: np.ndarray
    scale: np.ndarray
    limit: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("offset", "scale") + (("limit",) if self.limit is not None else ()):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.float64))
        if self.offset.ndim != 1 or self.offset.shape != self.scale.shape:
            raise DataError(
                f"scaler: offset has shape {self.offset.shape} and scale {self.scale.shape}; "
                "both must be (features,) with as many features"
            )
        if not (np.isfinite(self.offset).all() and np.isfinite(self.scale).all() and self.scale.all()):
            raise DataError("scaler: offset and scale must be finite, and scale not zero")
        if self.limit is not None and (self.limit.shape != self.scale.shape or not (self.limit >= 0).all()):
            raise DataError("scaler: limit must be one number of at least 0 a feature")

    @classmethod
    def fit(cls, x: Inputs, value_range: float | None = None, *, bounded: bool = True) -> Scaler:
        """Return the scaler for training data x (examples, columns), which is read in blocks.

        Each column gets mean 0: inputs of one sign make ReLU units that are dead from the start (LeCun et al.,
        "Efficient BackProp", 1998, section 4.3). With a value range, as for images, all columns are divided by the
        same number, the standard deviation of all values, so that an image keeps its contrasts. Without one, each
        column gets standard deviation 1, and less if it is nearly constant: there a rare value would be tens of
        deviations away. A column that is constant becomes 0.

        bounded: limit what `apply` gives, as the inputs of a network need it; targets have no limit.
        """
        x = real_inputs(x, "x")
        if not len(x):
            raise DataError("x has no rows; a scaler needs at least one")
        low, high = _limits(x)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            require_finite(x, "x")
        largest = _largest(low, high)
        near = _Nearness(x, largest) if bounded else None
        parts = blocks(x) if near is None else near.added(blocks(x))
        if value_range is not None:
            if not (math.isfinite(value_range) and value_range > 0):
                raise ArgumentError("value_range", value_range, "a finite number above 0")
            offset = sum(block.sum(axis=0, dtype=np.float64) for block in parts) / len(x)
            deviation = math.sqrt(sum(np.square(block - offset).sum() for block in blocks(x)) / x.size)
            scale = np.full(x.shape[1], 1.0 / (deviation or value_range))
            constant = low == high
        else:
            offset, scale, constant = _standard(parts, largest)
        if near is None:
            return cls(offset, scale)
        farthest = np.maximum(np.abs(low - offset), np.abs(high - offset))
        nearly = near.columns(len(x)) & ~constant
        scale[nearly] = np.minimum(scale[nearly], FARTHEST_OF_NEARLY_CONSTANT / farthest[nearly])
        reach = np.where(constant, 0.0, np.where(nearly, REACH_OF_NEARLY_CONSTANT, REACH))
        return cls(offset, scale, reach * (farthest * scale))

    def apply(self, x: Inputs, dtype: str | np.dtype = "float32") -> np.ndarray:
        """Return x (examples, features) scaled, as a new C-contiguous array; computed in float64, then rounded."""
        return self._map(x, dtype, self._scaled)

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        scaled = rows - self.offset
        scaled *= self.scale
        return scaled if self.limit is None else np.clip(scaled, -self.limit, self.limit, out=scaled)

    def rows_beyond(self, x: Inputs) -> np.ndarray:
        """Return for each column in how many rows of x (examples, features) it is bounded, (features,) int64."""
        counts = np.zeros(len(self.offset), np.int64)
        if self.limit is None:
            return counts
        allowed = np.where(self.limit > 0, self.limit / np.abs(self.scale), SAME_CONSTANT * np.abs(self.offset))
        for block in blocks(x):
            counts += (np.abs(block - self.offset) > allowed).sum(axis=0)
        return counts

    def invert(self, x: np.ndarray, dtype: str | np.dtype = "float64") -> np.ndarray:
        """Return the values whose scaled form is x: what a network trained on scaled targets predicts."""
        return self._map(x, dtype, lambda rows: rows / self.scale + self.offset)

    def _map(self, x: Inputs, dtype: str | np.dtype, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        x = x if isinstance(x, Rows) else np.asarray(on_host("x", x))
        if x.dtype.kind not in "uifb" and x.dtype != BFLOAT16:
            raise DataError(f"x holds {x.dtype}; it must hold real numbers")
        if x.ndim != 2 or x.shape[1] != len(self.offset):
            raise DataError(f"x has shape {x.shape}; the scaler was fitted for (examples, {len(self.offset)})")
        out = np.empty(x.shape, dtype=dtype)
        step = max(1, MAPPED_AT_ONCE // max(1, x.shape[1]))
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            out[rows] = function(np.asarray(x[rows], dtype=np.float64))
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what to save: ``Scaler(**arrays)`` makes the same scaler again."""
        limit = {} if self.limit is None else {"limit": self.limit}
        return {"offset": self.offset, "scale": self.scale, **limit}


def _limits(x: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each column of x (examples, columns)."""
    found = [(block.min(axis=0), block.max(axis=0)) for block in blocks(x)]
    return np.min([low for low, _ in found], axis=0), np.max([high for _, high in found], axis=0)


def _largest(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the largest magnitude of each column, (columns,) float64, from its smallest and its largest value."""
    return np.maximum(np.abs(low, dtype=np.float64), np.abs(high, dtype=np.float64))


def _standard(parts: Iterable[np.ndarray], largest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the offset and the scale that give each column mean 0 and deviation 1, and which columns are constant.

    parts: blocks of rows, which are read once.
    largest: as `_largest` returns it. In its units the squares cannot overflow.
    """
    peak = np.where(largest == 0, 1.0, largest)
    mean, deviation = _moments(block / peak for block in parts)
    # What differs by rounding alone, or by less than can be divided by, counts as constant.
    limits = np.finfo(np.float64)
    constant = (deviation <= 8 * limits.eps) | (deviation * peak < limits.tiny)
    return mean * peak, 1.0 / np.where(constant, 1.0, deviation * peak), constant


def _moments(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of the columns of blocks (rows, columns), read once.

    Each block's own are merged with those so far (T. Chan, G. Golub, R. LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979): no small difference of large sums.
    """
    rows, mean, squares = 0, np.zeros(()), np.zeros(())
    for block in parts:
        own = block.mean(axis=0)
        before, rows = rows, rows + len(block)
        moved = own - mean
        squares = squares + np.square(block - own).sum(axis=0) + np.square(moved) * (before * len(block) / rows)
        mean = mean + moved * (len(block) / rows)
    return mean, np.sqrt(squares / rows)


class _Nearness:
    """Counts of the values in each column of x (examples, columns) that are about the usual one.

    largest: as `_largest` returns it.
    """

    def __init__(self, x: Inputs, largest: np.ndarray) -> None:
        some = x[:: max(1, len(x) // 100)]
        self._usual = np.sort(some, axis=0)[len(some) // 2].astype(np.float64)
        self._tolerance = NEARLY_SAME * np.maximum(1.0, largest)
        self._same = np.zeros(x.shape[1], np.int64)

    def added(self, parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the same blocks of rows, each counted."""
        for block in parts:
            self._same += (np.abs(block - self._usual) <= self._tolerance).sum(axis=0)
            yield block

    def columns(self, rows: int) -> np.ndarray:
        """Return which columns are nearly constant, (columns,) bool, once all rows have been counted."""
        return self._same >= min(NEARLY_ALL * rows, max(rows - 1, 0.9 * rows))
