"""Splitting examples into two parts at random, each class by its share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpubp.errors import ArgumentError, DataError
from gpubp.registry import require_count


def split(
    y: np.ndarray, fraction: float, rng: np.random.Generator, *, task: str = "classification"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a larger and a smaller part, each ascending, drawn at random.

    Args:
        y: targets (examples, ...); for classification each class gives both parts its share, to within one example,
            and a class with a single example stays in the larger part. The parts of other tasks are drawn as they come:
            so many labels an example have no common share.
        fraction: the smaller part's share, 0 <= fraction < 1.
        rng: where the draw comes from.
        task: "classification", "multilabel" or "regression".

    Raises:
        ArgumentError: the fraction is out of range.
        DataError: the fraction is above 0 and there are too few examples for two parts.
    """
    if not (isinstance(fraction, (int, float)) and 0 <= fraction < 1):
        raise ArgumentError("fraction", fraction, "at least 0 and below 1")
    if fraction == 0:
        return _row_numbers(np.ones(len(y), bool)), np.zeros(0, np.int32)
    if task == "classification":
        groups = [np.flatnonzero(y == label) for label in np.unique(y)]
    else:
        groups = [np.arange(len(y))]
    taken = [rng.permutation(rows)[:count] for rows, count in zip(groups, _shares(groups, fraction), strict=True)]
    smaller = np.zeros(len(y), dtype=bool)
    if taken:
        smaller[np.concatenate(taken)] = True
    if not smaller.any():
        raise DataError(
            f"{len(y):,} examples are too few to set aside a fraction of {fraction}"
            + (": no class has two" if task == "classification" and len(y) > 1 else "")
        )
    return _row_numbers(~smaller), _row_numbers(smaller)


def _row_numbers(are_in: np.ndarray) -> np.ndarray:
    """Return the numbers of the rows that are in a part, in 32 bits where these suffice: there may be many rows."""
    return np.flatnonzero(are_in).astype(np.int32 if len(are_in) < 2**31 else np.int64)


def folds(
    y: np.ndarray, count: int, rng: np.random.Generator, *, task: str = "classification"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows to train on and the rows to test on of each fold, ascending; each row is tested on once.

    Args:
        y, rng, task: as for `split`; for classification each class gives every fold its share, to within one example.
        count: of the folds, at least 2.

    Raises:
        ArgumentError: there are fewer than two folds.
        DataError: there are fewer examples than folds.
    """
    require_count("count", count, 2)
    if len(y) < count:
        raise DataError(f"{len(y):,} examples are too few for {count} folds")
    groups = [np.flatnonzero(y == label) for label in np.unique(y)] if task == "classification" else [np.arange(len(y))]
    # dealt out one by one, the next class from where the last one ended, so that folds are equally large
    order = np.concatenate([rng.permutation(rows) for rows in groups])
    fold = np.empty(len(y), np.int64)
    fold[order] = np.arange(len(y)) % count
    return [(np.flatnonzero(fold != each), np.flatnonzero(fold == each)) for each in range(count)]


def _shares(groups: Sequence[np.ndarray], fraction: float) -> list[int]:
    """Return how many of each group to set aside: the total rounded, remainders to the largest fractional parts."""
    most = [len(rows) - 1 for rows in groups]
    exact = [len(rows) * fraction for rows in groups]
    counts = [min(int(share), limit) for share, limit in zip(exact, most, strict=True)]
    missing = max(round(sum(exact)), 1) - sum(counts)
    for i in sorted(range(len(groups)), key=lambda i: (counts[i] - exact[i], i)):
        if missing > 0 and counts[i] < most[i]:
            counts[i] += 1
            missing -= 1
    return counts
