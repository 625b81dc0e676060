"""Checks of what comes into a network from the host: examples and targets of the right shape, dtype and range."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpubp.arrays import on_host
from gpubp.backends.base import Array
from gpubp.dtypes import BFLOAT16
from gpubp.errors import StateError
from gpubp.nn.losses import Loss

SUM_TOLERANCE = 1e-4
"""How far from 1 a row of probabilities may sum."""


def checked_examples(x: Any, width: int, dtype: str, finite: bool = False) -> np.ndarray:
    """Return x as (B, width), C-contiguous, of this dtype. Raises ArgumentError; `finite`: for NaN and infinity too."""
    x = _real_array("x", x)
    require_examples_shape(x.shape, width)
    x = _rounded(x, dtype)
    if finite:
        _require_finite("x", x)
    return x


def require_examples_shape(shape: tuple[int, ...], width: int) -> None:
    """Raise ArgumentError unless this is the shape of one or more examples: (B, width)."""
    if len(shape) != 2 or shape[1] != width or shape[0] == 0:
        raise StateError("x", f"has shape {shape}", f"have shape (B, {width}) with B ≥ 1")


def checked_targets(y: Any, loss: Loss, width: int, dtype: str, values: bool = False) -> np.ndarray:
    """Return y as (B, width) of this dtype, or as (B,) int64 labels if the loss takes them.

    Raises ArgumentError, also for labels that are no class, and for a cross-entropy's targets that are no
    probabilities; `values`: for NaN and infinity too.
    """
    y = _real_array("y", y)
    if loss.takes_labels and y.ndim == 1:
        return _checked_labels(y, width)
    if y.ndim == 1 and width == 1:
        y = y[:, None]
    if y.ndim != 2 or y.shape[1] != width or len(y) == 0:
        labels = ", or be (B,) integer labels," if loss.takes_labels else ""
        raise StateError("y", f"has shape {y.shape}", f"have shape (B, {width}){labels} with B ≥ 1")
    y = _rounded(y, dtype)
    if values:
        _require_finite("y", y)
    _require_probabilities(y, loss)
    return y


def checked_weights(weights: Any, rows: int, dtype: str) -> np.ndarray:
    """Return the weights of `rows` examples as (B,) of this dtype.

    Raises ArgumentError for another shape, and for a weight that is negative, NaN or infinite in this dtype.
    """
    weights = _real_array("sample_weight", weights)
    if weights.shape != (rows,):
        raise StateError("sample_weight", f"has shape {weights.shape}", f"have shape ({rows},), one weight an example")
    weights = _rounded(weights, dtype)
    _require_finite("sample_weight", weights)
    if weights.min() < 0:
        row = int(np.argmax(weights < 0))
        raise StateError("sample_weight", f"is {weights[row]:g} in row {row}", "be at least 0 everywhere")
    return weights


def require_examples_on_device(x: Array, width: int, *dtypes: str) -> None:
    """Raise ArgumentError unless a backend's own array is (B, width) of one of these dtypes. Do not read its values."""
    _require_on_device("x", x, dict.fromkeys(dtypes, (width,)))


def require_targets_on_device(y: Array, loss: Loss, width: int, dtype: str) -> None:
    """Raise ArgumentError unless a backend's own array is (B, width) of this dtype, or (B,) int64 labels if the loss
    takes them. Do not read its values."""
    _require_on_device("y", y, {dtype: (width,), **({"int64": ()} if loss.takes_labels else {})})


def _require_on_device(name: str, array: Array, rows: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ArgumentError for another array. rows: the shape of a row, for each dtype that is taken."""
    shape, dtype = tuple(array.shape), np.dtype(array.dtype).name
    if len(shape) == 0 or shape[0] == 0 or rows.get(dtype) != shape[1:]:
        expected = " or ".join(f"of {kind} and shape {('B', *row)}".replace("'", "") for kind, row in rows.items())
        raise StateError(name, f"is an array of {dtype} and shape {shape}", f"be {expected}, with B ≥ 1")


def require_same_rows(x: Array, y: Array) -> None:
    """Raise ArgumentError unless y has as many rows as x."""
    if x.shape[0] != y.shape[0]:
        raise StateError("y", f"has {y.shape[0]} rows", f"have as many as x, {x.shape[0]}")


def _checked_labels(y: np.ndarray, width: int) -> np.ndarray:
    if y.dtype.kind not in "iu":
        raise StateError("y", f"holds {y.dtype} labels", "hold integers, or one-hot rows")
    if len(y) == 0:
        raise StateError("y", "is empty", "have at least one label")
    labels = np.ascontiguousarray(y, np.int64)
    if labels.view(np.uint64).max() >= width:  # one look finds both: unsigned, a negative label is a huge one
        raise StateError("y", f"holds labels from {y.min()} to {y.max()}", f"hold labels from 0 to {width - 1}")
    return labels


def _require_probabilities(y: np.ndarray, loss: Loss) -> None:
    """Raise ArgumentError unless a cross-entropy's targets are from 0 to 1, and sum to 1 for softmax. NaN passes."""
    if loss.from_logits and not (y.min() >= 0 and y.max() <= 1):
        for row in np.flatnonzero(((y < 0) | (y > 1)).any(axis=1)):
            state = f"holds values from {np.nanmin(y):g} to {np.nanmax(y):g}"
            raise StateError("y", state, f"be from 0 to 1 for {loss.name}; row {row} is the first that is not")
    if loss.output_activation == "softmax":
        sums = y.sum(axis=1)
        for row in np.flatnonzero(np.abs(sums - 1) > SUM_TOLERANCE):
            state = f"has rows that do not sum to 1, the first is row {row} with {sums[row]:g}"
            raise StateError("y", state, "hold one-hot rows or probabilities")


def _require_finite(name: str, values: np.ndarray) -> None:
    # in blocks: of a whole data set the answers would take a quarter of its own memory
    step = max(1, VALUES_AT_ONCE // max(1, values[:1].size))
    if not all(np.isfinite(values[start : start + step]).all() for start in range(0, len(values), step)):
        raise StateError(name, "holds NaN or infinity", f"be finite in {values.dtype}")


def _real_array(name: str, values: Any) -> np.ndarray:
    values = on_host(name, values)
    try:
        array = np.asarray(values)
    except ValueError:
        raise StateError(name, "is ragged", "be an array of numbers") from None
    except (TypeError, RuntimeError) as error:  # its library hands nothing over
        raise StateError(name, f"is a {type(values).__name__} ({error})", "be an array of numbers") from error
    if array.dtype.kind not in "biuf" and array.dtype != BFLOAT16:
        raise StateError(name, f"holds {array.dtype}", "hold real numbers")
    return array


VALUES_AT_ONCE = 2**18
"""Values that are looked at at once."""

_named = functools.cache(np.dtype)
"""The dtype of a name, kept: NumPy reads the name anew each time, which is a hundredth of a small step."""


def _rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return the values in this dtype, C-contiguous; one beyond its range becomes infinite."""
    if values.dtype == _named(dtype):
        return np.ascontiguousarray(values)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype)
