"""The comparator: does a result lie within the error bound of its reference, element by element?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """The outcome for one array.

    share: the largest error as a share of its bound; ≤ 1 passes, infinite for a NaN or where the bound is 0.
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


def compare(result: np.ndarray, reference: np.ndarray, bound: np.ndarray | float) -> Comparison:
    """Pass where every element of `result` is finite and |result − reference| ≤ bound.

    `reference` and `bound` are finite and of a wider dtype than `result`; all have one shape, not empty. Written as
    `all(error <= bound)`, so that a NaN fails.
    """
    bound = np.broadcast_to(np.asarray(bound), reference.shape)
    if result.shape != reference.shape:
        raise ValueError(f"result is of shape {result.shape}, its reference of {reference.shape}")
    if not (np.isfinite(reference).all() and np.isfinite(bound).all() and (bound >= 0).all()):
        raise ValueError("the reference and its bound must be finite, and the bound ≥ 0")
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.abs(result.astype(reference.dtype) - reference)
        within = error <= bound
        shares = np.where(error == 0, 0, error / bound)
        shares = np.where(np.isnan(shares), np.inf, shares)
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(shares), shares.shape))
    return Comparison(
        passed=bool(np.isfinite(result).all() and within.all()),
        share=float(shares[worst]),
        where=worst,
        value=float(result[worst]),
        reference=float(reference[worst]),
        bound=float(bound[worst]),
    )
