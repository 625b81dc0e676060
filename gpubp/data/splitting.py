"""Splitting examples into two parts at random, each class by its share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpubp.errors import ArgumentError, DataError


def split(
    y: np.ndarray, fraction: float, rng: np.random.Generator, *, task: str = "classification"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a larger and a smaller part, each ascending, drawn at random.

    Args:
        y: targets (examples, ...); for classification each class gives both parts its share, to within one example,
            and a class with a single example stays in the larger part.
        fraction: the smaller part's share, 0 <= fraction < 1.
        rng: where the draw comes from.
        task: "classification" or "regression".

    Raises:
        ArgumentError: the fraction is out of range.
        DataError: the fraction is above 0 and there are too few examples for two parts.
    """
    if not (isinstance(fraction, (int, float)) and 0 <= fraction < 1):
        raise ArgumentError("fraction", fraction, "at least 0 and below 1")
    if task == "classification":
        groups = [np.flatnonzero(y == label) for label in np.unique(y)]
    else:
        groups = [np.arange(len(y))]
    taken = [rng.permutation(rows)[:count] for rows, count in zip(groups, _shares(groups, fraction), strict=True)]
    smaller = np.zeros(len(y), dtype=bool)
    if taken:
        smaller[np.concatenate(taken)] = True
    if fraction > 0 and not smaller.any():
        raise DataError(
            f"{len(y):,} examples are too few to set aside a fraction of {fraction}"
            + (": no class has two" if task == "classification" and len(y) > 1 else "")
        )
    return np.flatnonzero(~smaller), np.flatnonzero(smaller)


def _shares(groups: Sequence[np.ndarray], fraction: float) -> list[int]:
    """Return how many of each group to set aside: the total rounded, remainders to the largest fractional parts."""
    if fraction == 0:
        return [0] * len(groups)
    most = [len(rows) - 1 for rows in groups]
    exact = [len(rows) * fraction for rows in groups]
    counts = [min(int(share), limit) for share, limit in zip(exact, most, strict=True)]
    missing = max(round(sum(exact)), 1) - sum(counts)
    for i in sorted(range(len(groups)), key=lambda i: (counts[i] - exact[i], i)):
        if missing > 0 and counts[i] < most[i]:
            counts[i] += 1
            missing -= 1
    return counts
