"""The comparator: does a result lie within the error bound of its reference, element by element?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Comparison:
    """The outcome for one array.

    Attributes:
        share: the largest error as a share of its bound; ≤ 1 passes, infinite for a NaN or if the bound is 0.
        where: the index of the worst element, with its value, reference and bound.
    """

    passed: bool
    share: float
    where: tuple[int, ...]
    value: float
    reference: float
    bound: float

    def __str__(self) -> str:
        return (
            f"at {list(self.where)}: {self.value:.9g} where {self.reference:.9g} ± {self.bound:.3g} was expected "
            f"({self.share:.3g} of the bound)"
        )


def compare(
    result: np.ndarray, reference: np.ndarray, bound: np.ndarray | float, nan: np.ndarray | None = None
) -> Comparison:
    """Return a comparison that passes if |result − reference| ≤ bound and every element of `result` is finite.

    nan: where the result must be NaN, whatever the reference and the bound say there; None: nowhere.

    An infinity passes where the reference lies beyond the largest number of result's dtype, and must stand there: only
    as far from that limit as the error before the last rounding goes, either may. Saturation fails, and so does an
    infinity that comes too early. Where the reference itself is infinite, so must the result be.

    Elsewhere `reference` holds no NaN, and `bound` is finite; both are of a wider dtype than `result`, and all have one
    shape, not empty. Written as `all(error <= bound)`, so that a NaN fails.
    """
    bound = np.broadcast_to(np.asarray(bound), reference.shape)
    nan = np.zeros(reference.shape, bool) if nan is None else nan
    reference, bound = np.where(nan, 0, reference), np.where(nan, 0, bound)
    if result.shape != reference.shape:
        raise ValueError(f"result is of shape {result.shape}, its reference of {reference.shape}")
    if np.isnan(reference).any() or not (np.isfinite(bound).all() and (bound >= 0).all()):
        raise ValueError("the reference must hold no NaN, and its bound must be finite and ≥ 0")
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        wide = result.astype(reference.dtype)
        must, may = _overflows(result.dtype, reference, bound)
        infinite = np.isinf(wide)
        right = np.where(infinite, may & (np.sign(wide) == np.sign(reference)), np.isfinite(wide) & ~must)
        right = np.where(nan, np.isnan(wide), right)
        error = np.where(right, np.where(infinite | nan, 0, np.abs(wide - reference)), np.inf)
        within = error <= bound
        shares = np.where(error == 0, 0, error / bound)
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(shares), shares.shape))
    return Comparison(
        passed=bool(within.all()),
        share=float(shares[worst]),
        where=worst,
        value=float(result[worst]),
        reference=float("nan") if nan[worst] else float(reference[worst]),
        bound=float(bound[worst]),
    )


def _overflows(dtype: np.dtype, reference: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of where a correct result of this dtype must be infinite, and where it may be."""
    magnitude = np.abs(reference)
    infinite = magnitude == np.inf
    if dtype.kind in "iu" or dtype.itemsize >= reference.dtype.itemsize:
        return infinite, infinite
    limit, epsilon = _overflow_limit(dtype)
    before_rounding = np.maximum(bound - epsilon / 2 * magnitude, 0)
    return infinite | (magnitude - before_rounding > limit), magnitude + before_rounding >= limit


def _overflow_limit(dtype: np.dtype) -> tuple[float, float]:
    """Return the magnitude from which on numbers are rounded to infinity, and the spacing at 1, of a float dtype."""
    info = ml_dtypes.finfo(dtype)
    largest, epsilon = float(info.max), float(info.eps)
    return largest + largest / (2 - epsilon) * epsilon / 2, epsilon  # half a unit: what is less rounds down


class Judged:
    """What was compared, and what else was wrong: an outcome is one of these."""

    comparisons: Mapping[str, Comparison]
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True if every output is within its bound, and nothing else was wrong."""
        return not self.faults and bool(self.comparisons) and all(each.passed for each in self.comparisons.values())

    @property
    def share(self) -> float:
        """Return the largest error of any output as a share of its bound; infinite where there is no output."""
        return max((each.share for each in self.comparisons.values()), default=float("inf"))
