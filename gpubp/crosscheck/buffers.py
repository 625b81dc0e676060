"""Guarded, poisoned arrays on a backend: what a kernel leaves unwritten, or writes beside its output, shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpubp.backends.base import Array, Backend

GUARD = 256
"""Elements before and behind each array."""

POISON_INTEGER = -0x5A5A5A5A5A5A
"""What integer arrays are poisoned with; floats are poisoned with NaN."""


@dataclass(frozen=True)
class Buffer:
    """An array between two guard zones, within one allocation of the backend."""

    array: Array
    whole: Array
    host: np.ndarray  # what `whole` held at first
    start: int

    def read(self, backend: Backend) -> np.ndarray:
        """Return the contents of the array."""
        return self._inside(backend.asnumpy(self.whole))

    def damage(self, backend: Backend, written: bool) -> str:
        """Return what was changed and must not be: a guard zone or, unless `written`, the array; "" if nothing."""
        now, was = _bits(backend.asnumpy(self.whole)), _bits(self.host)
        changed = np.flatnonzero(now != was)
        stop = self.start + self._inside(self.host).size
        outside = changed[(changed < self.start) | (changed >= stop)]
        if outside.size:
            place = int(outside[0]) - self.start
            return f"wrote outside the array, at element {place} of {stop - self.start}"
        if changed.size and not written:
            return f"changed an input, at element {int(changed[0]) - self.start}"
        return ""

    def _inside(self, whole: np.ndarray) -> np.ndarray:
        shape = tuple(self.array.shape)
        return whole[self.start : self.start + int(np.prod(shape))].reshape(shape)


def filled(backend: Backend, values: np.ndarray, offset: int) -> Buffer:
    """Return a buffer that holds `values`, `offset` elements off the alignment of the backend's allocations."""
    start = GUARD + offset
    host = np.full(start + values.size + GUARD, _poison(values.dtype), values.dtype)
    host[start : start + values.size] = values.ravel()
    whole = backend.empty(host.shape, host.dtype)
    backend.upload(host, whole)
    return Buffer(whole[start : start + values.size].reshape(values.shape), whole, host, start)


def poisoned(backend: Backend, shape: tuple[int, ...], dtype: str, offset: int) -> Buffer:
    """Return a buffer whose array holds poison: NaN, or a large negative integer."""
    return filled(backend, np.full(shape, _poison(np.dtype(dtype)), dtype), offset)


def _poison(dtype: np.dtype) -> float | int:
    return POISON_INTEGER if dtype.kind in "iu" else np.nan


def _bits(x: np.ndarray) -> np.ndarray:
    return x.view(f"u{x.itemsize}")
