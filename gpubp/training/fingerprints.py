"""Data is known by its values, wherever it lies: all of it by a fingerprint, some of its rows by a digest each."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from gpubp.data.dataset import Dataset
from gpubp.data.rows import Inputs, blocks

VALUES = "values-"
"""How the fingerprints begin that are of values; those of earlier versions are of the bytes in memory."""


def fingerprint(dataset: Dataset) -> str:
    """Return a hash of all inputs, targets and weights of both parts: equal for equal values, whatever their dtypes."""
    digest = hashlib.blake2b(digest_size=16)
    for array in _arrays(dataset):
        digest.update(str(array.shape).encode())
        # in blocks, which stay in the cache while they are converted and hashed
        exact, step = _exact_dtype(array), max(1, BLOCK // max(1, math.prod(array.shape[1:])))
        digest.update(exact.encode())
        for start in range(0, len(array), step):
            block = array[start : start + step].astype(exact) + np.zeros((), exact)  # -0 becomes 0
            digest.update(np.ascontiguousarray(block).data)
    return VALUES + digest.hexdigest()


BLOCK = 2**16
"""Numbers that are converted and hashed at once."""


def _exact_dtype(array: Inputs) -> str:
    """Return bytes if they hold the array's values, as those of images and of class indices, else float64.

    The values decide, and not the dtype that a reader gave them; bytes are hashed eight times as fast.
    """
    if array.dtype != np.uint8:
        with np.errstate(invalid="ignore"):
            if not all(np.array_equal(block.astype(np.uint8), block) for block in blocks(array)):
                return "<f8"
    return "u1"


def is_fingerprint(known: str, dataset: Dataset, present: str) -> bool:
    """True if `known` is the fingerprint of this data: `present`, as this version makes it, or an earlier one's."""
    return known == (present if known.startswith(VALUES) else _bytes_fingerprint(dataset))


def _bytes_fingerprint(dataset: Dataset) -> str:
    """Return the fingerprint that earlier versions made, which depends on dtypes."""
    digest = hashlib.blake2b(digest_size=16)
    for array in _arrays(dataset):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _arrays(dataset: Dataset) -> tuple[Inputs, ...]:
    weights = (dataset.weight_train, dataset.weight_test)
    # nothing for no weights, so that the fingerprints of earlier versions hold
    return dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test, *(w for w in weights if w is not None)


# --- rows -------------------------------------------------------------------------------------------------------------
SAMPLED = 256
"""Training rows that a model keeps the digests of: few bytes, and some are met in data with a hundredth of all rows."""


def row_digests(x: Inputs) -> list[str]:
    """Return a digest of each row of raw inputs (B, features): equal for equal values, whatever their dtype."""
    rows = (row.astype("<f8") + np.zeros((), "<f8") for block in blocks(x) for row in block)  # -0 becomes 0
    return [hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=8).hexdigest() for row in rows]


def sample_digests(x: Inputs) -> list[str]:
    """Return the digests of at most `SAMPLED` rows, evenly spaced over raw inputs (B, features)."""
    return row_digests(x[np.linspace(0, len(x) - 1, min(len(x), SAMPLED)).astype(int)])
