"""The scaling of inputs and of targets: fitted on the training part, and saved with the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpubp.arrays import on_host
from gpubp.data.dataset import checked_inputs
from gpubp.dtypes import BFLOAT16
from gpubp.errors import ArgumentError, DataError

ROWS_AT_ONCE = 4096
"""Rows: more are scaled in blocks of this size, as a float64 copy of a whole image set is eight times its size."""


@dataclass(frozen=True, eq=False)
class Scaler:
    """A linear map of each column, ``(x - offset) * scale``, fitted on training data and saved with the model.

    Attributes:
        offset, scale: one value a column, (features,), float64; scale is finite and not zero.
    """

    offset: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        for name in ("offset", "scale"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.float64))
        if self.offset.ndim != 1 or self.offset.shape != self.scale.shape:
            raise DataError(
                f"scaler: offset has shape {self.offset.shape} and scale {self.scale.shape}; "
                "both must be (features,) with as many features"
            )
        if not (np.isfinite(self.offset).all() and np.isfinite(self.scale).all() and self.scale.all()):
            raise DataError("scaler: offset and scale must be finite, and scale not zero")

    @classmethod
    def fit(cls, x: np.ndarray, value_range: float | None = None) -> Scaler:
        """Return the scaler for training data x (examples, columns).

        Each column gets mean 0: inputs of one sign make ReLU units that are dead from the start (LeCun et al.,
        "Efficient BackProp", 1998, section 4.3). With a value range, as for images, all columns are divided by the
        same number, the standard deviation of all values, so that an image keeps its contrasts. Without one, each
        column gets standard deviation 1; a column that is constant becomes 0.
        """
        x = checked_inputs(x, "x")
        if not len(x):
            raise DataError("x has no rows; a scaler needs at least one")
        if value_range is not None:
            if not (math.isfinite(value_range) and value_range > 0):
                raise ArgumentError("value_range", value_range, "a finite number above 0")
            mean = x.mean(axis=0, dtype=np.float64)
            blocks = (x[start : start + ROWS_AT_ONCE] - mean for start in range(0, len(x), ROWS_AT_ONCE))
            deviation = math.sqrt(sum(np.square(block).sum() for block in blocks) / x.size)
            return cls(mean, np.full(x.shape[1], 1.0 / (deviation or value_range)))
        # In units of each column's largest value, so that the squares cannot overflow.
        peak = np.abs(x, dtype=np.float64).max(axis=0)
        peak[peak == 0] = 1.0
        relative = x / peak
        mean, deviation = relative.mean(axis=0), relative.std(axis=0)
        # What differs by rounding alone, or by less than can be divided by, counts as constant.
        limits = np.finfo(np.float64)
        constant = (deviation <= 8 * limits.eps) | (deviation * peak < limits.tiny)
        return cls(mean * peak, 1.0 / np.where(constant, 1.0, deviation * peak))

    def apply(self, x: np.ndarray, dtype: str | np.dtype = "float32") -> np.ndarray:
        """Return x (examples, features) scaled, as a new C-contiguous array; computed in float64, then rounded."""
        return self._map(x, dtype, lambda rows: (rows - self.offset) * self.scale)

    def invert(self, x: np.ndarray, dtype: str | np.dtype = "float64") -> np.ndarray:
        """Return the values whose scaled form is x: what a network trained on scaled targets predicts."""
        return self._map(x, dtype, lambda rows: rows / self.scale + self.offset)

    def _map(self, x: np.ndarray, dtype: str | np.dtype, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        x = np.asarray(on_host("x", x))
        if x.dtype.kind not in "uifb" and x.dtype != BFLOAT16:
            raise DataError(f"x holds {x.dtype}; it must hold real numbers")
        if x.ndim != 2 or x.shape[1] != len(self.offset):
            raise DataError(f"x has shape {x.shape}; the scaler was fitted for (examples, {len(self.offset)})")
        out = np.empty(x.shape, dtype=dtype)
        for start in range(0, len(x), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            out[rows] = function(np.asarray(x[rows], dtype=np.float64))
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what to save: ``Scaler(**arrays)`` makes the same scaler again."""
        return {"offset": self.offset, "scale": self.scale}
