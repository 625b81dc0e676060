"""Checks of what comes into a network from the host: examples and targets of the right shape, dtype and range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpubp.backends.base import Array
from gpubp.dtypes import BFLOAT16
from gpubp.errors import ArgumentError
from gpubp.nn.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy

SUM_TOLERANCE = 1e-4
"""How far from 1 a row of probabilities may sum."""


def checked_examples(x: Any, width: int, dtype: str, finite: bool = False) -> np.ndarray:
    """x as (B, width), C-contiguous, of this dtype. `finite`: look at the numbers too. Raises ArgumentError."""
    x = _real_array("x", x)
    if x.ndim != 2 or x.shape[1] != width or len(x) == 0:
        raise ArgumentError("x", f"an array of shape {x.shape}", f"of shape (B, {width}) with B ≥ 1")
    x = _rounded(x, dtype)
    if finite:
        _require_finite("x", x)
    return x


def checked_targets(y: Any, loss: Loss, width: int, dtype: str, values: bool = False) -> np.ndarray:
    """y as (B, width) of this dtype, or as (B,) int64 labels where the loss takes them. `values`: look at the numbers.

    Labels are looked at always: one out of range would be an index outside the output's row. Raises ArgumentError.
    """
    y = _real_array("y", y)
    if loss.takes_labels and y.ndim == 1:
        return _checked_labels(y, width)
    if y.ndim == 1 and width == 1:
        y = y[:, None]
    if y.ndim != 2 or y.shape[1] != width or len(y) == 0:
        labels = " or (B,) integer labels," if loss.takes_labels else ""
        raise ArgumentError("y", f"an array of shape {y.shape}", f"of shape (B, {width}){labels} with B ≥ 1")
    y = _rounded(y, dtype)
    if values:
        _require_finite("y", y)
        _require_probabilities(y, loss)
    return y


def require_examples_on_device(x: Array, width: int, *dtypes: str) -> None:
    """Raise ArgumentError unless a backend's own array is (B, width) of one of these dtypes. Its values are not looked
    at."""
    _require_on_device("x", x, dict.fromkeys(dtypes, (width,)))


def require_targets_on_device(y: Array, loss: Loss, width: int, dtype: str) -> None:
    """Raise ArgumentError unless a backend's own array is (B, width) of this dtype, or (B,) int64 labels where the loss
    takes them. Its values are not looked at."""
    _require_on_device("y", y, {dtype: (width,), **({"int64": ()} if loss.takes_labels else {})})


def _require_on_device(name: str, array: Array, rows: Mapping[str, tuple[int, ...]]) -> None:
    """rows: the shape of a row, for each dtype that is taken."""
    shape, dtype = tuple(array.shape), np.dtype(array.dtype).name
    if len(shape) == 0 or shape[0] == 0 or rows.get(dtype) != shape[1:]:
        expected = " or ".join(f"of {kind} and shape {('B', *row)}".replace("'", "") for kind, row in rows.items())
        raise ArgumentError(name, f"an array of {dtype} and shape {shape}", f"{expected}, with B ≥ 1")


def require_same_rows(x: Array, y: Array) -> None:
    """Raise ArgumentError unless y has as many rows as x."""
    if x.shape[0] != y.shape[0]:
        raise ArgumentError("y", f"an array of {y.shape[0]} rows", f"of as many rows as x, {x.shape[0]}")


def _checked_labels(y: np.ndarray, width: int) -> np.ndarray:
    if y.dtype.kind not in "iu":
        raise ArgumentError("y", f"an array of {y.dtype} labels", "of integers, or one-hot rows")
    if len(y) == 0:
        raise ArgumentError("y", "empty", "an array of at least one label")
    labels = np.ascontiguousarray(y, np.int64)
    if labels.view(np.uint64).max() >= width:  # one look finds both: unsigned, a negative label is a huge one
        raise ArgumentError("y", f"labels from {y.min()} to {y.max()}", f"labels from 0 to {width - 1}")
    return labels


def _require_probabilities(y: np.ndarray, loss: Loss) -> None:
    """For the losses that compare probabilities: targets from 0 to 1, and rows that sum to 1 for softmax."""
    if isinstance(loss, SoftmaxCrossEntropy | BinaryCrossEntropy) and (y.min() < 0 or y.max() > 1):
        raise ArgumentError("y", f"values from {y.min():g} to {y.max():g}", f"from 0 to 1 for {loss.name}")
    if isinstance(loss, SoftmaxCrossEntropy) and np.abs(y.sum(axis=1) - 1).max() > SUM_TOLERANCE:
        raise ArgumentError("y", "rows that do not sum to 1", "one-hot rows or probabilities")


def _require_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ArgumentError(name, "an array with NaN or infinity in it", f"finite in {values.dtype}")


def _real_array(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:
        raise ArgumentError(name, "ragged", "an array of numbers") from None
    if array.dtype.kind not in "biuf" and array.dtype != BFLOAT16:
        raise ArgumentError(name, f"an array of dtype {array.dtype}", "an array of real numbers")
    return array


def _rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values in this dtype, C-contiguous; one beyond its range becomes infinite."""
    if values.dtype == dtype:
        return np.ascontiguousarray(values)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype)
