"""Weights of examples: how much each counts in the loss. One rule for every format."""

from __future__ import annotations

import numpy as np

from gpubp.data.source import Labels, Source
from gpubp.errors import DataError, shown


def tidy(source: Source, weights: Labels, rows: int) -> np.ndarray:
    """Return the weights of a part of `rows` examples as they were found, (examples,) float64.

    Raises DataError for another number of them, for one that is not finite or below 0 (with its line or row), and if
    all are 0.
    """
    values = np.asarray(weights.values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"{source.name}: {weights.what} has shape {shown(values.shape)}; it must be (examples,)")
    if len(values) != rows:
        raise DataError(
            f"{source.name}: {weights.what} has {len(values):,} weights for {rows:,} examples; there must be as many"
        )
    values = values.astype(np.float64)
    wrong = first_wrong(values)
    if wrong is not None:
        raise DataError(
            f"{source.name}, {weights.where(wrong)} is {values[wrong]:g}; a weight must be finite and at least 0"
        )
    if rows and not values.any():
        raise DataError(f"{source.name}: {weights.what} holds nothing but 0; some example must count")
    return values


def first_wrong(values: np.ndarray) -> int | None:
    """Return the first row whose weight is negative or not finite; None if there is none."""
    right = np.isfinite(values) & (values >= 0)
    return None if right.all() else int(np.argmin(right))
