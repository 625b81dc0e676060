"""Guarded, poisoned arrays on a backend: what a kernel leaves unwritten, writes beside its output, or reads beside its
input, shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gpubp.backends import EMULATED
from gpubp.backends.base import Array, Backend
from gpubp.crosscheck.cases import ALONE, Case
from gpubp.crosscheck.problems import Problem

GUARD = 256
"""Elements before and behind each array."""

POISON_INTEGER = -0x5A5A5A5A5A5A
"""What integer arrays are poisoned with; floats are poisoned with NaN."""


@dataclass(frozen=True)
class Buffer:
    """An array between two guard zones.

    The zones differ by array and by place, so that a value that is moved by one, or from one array to another, is
    another value there. Beside an array that is only read they are NaN, which shows in whatever is computed from them;
    beside one that is written they are finite, so that a NaN shows too.

    Attributes:
        array: what the kernel is given.
        pieces: the allocations that it lies in, zones included: one; on the emulated device three, of which the middle
            one ends where the array does, so that the emulator refuses whatever reads or writes behind it.
        host: what the pieces held at first, one after the other.
        start: where in `host` the array starts.
        written: whether the kernel may change the array.
    """

    array: Array
    pieces: tuple[Array, ...]
    host: np.ndarray
    start: int
    written: bool

    def read(self, backend: Backend) -> np.ndarray:
        """Return the contents of the array."""
        shape = tuple(self.array.shape)
        return self._now(backend)[self.start : self._stop].reshape(shape)

    def damage(self, backend: Backend) -> str:
        """Return what was changed and must not be: a guard zone or, unless `written`, the array; "" if nothing."""
        changed = np.flatnonzero(_bits(self._now(backend)) != _bits(self.host))
        outside = changed[(changed < self.start) | (changed >= self._stop)]
        if outside.size:
            place = int(outside[0]) - self.start
            return f"wrote outside the array, at element {place} of {self._stop - self.start}"
        if changed.size and not self.written:
            return f"changed an input, at element {int(changed[0]) - self.start}"
        return ""

    @property
    def _stop(self) -> int:
        return self.start + int(np.prod(tuple(self.array.shape)))

    def _now(self, backend: Backend) -> np.ndarray:
        return np.concatenate([backend.asnumpy(piece) for piece in self.pieces])


def placed(backend: Backend, problem: Problem, case: Case) -> Mapping[str, Buffer]:
    """Return the arrays of a problem; what it makes is poisoned: NaN, or a large negative integer.

    If the case has an offset, some arrays start as many elements off the alignment of the backend's allocations: any of
    them or, in every second case, one alone, always the same for the case; or the one that the seed names (`ALONE`). A
    kernel that looks at one array and not at another is caught.
    """
    made = {name: np.full(shape, poison(np.dtype(dtype)), dtype) for name, (shape, dtype) in problem.made.items()}
    kinds = ((problem.inputs, False), (problem.started, True), (made, True))
    arrays = [(name, values, written) for each, written in kinds for name, values in each.items()]
    rng = np.random.default_rng(list(f"offsets of {case.name}".encode()))
    one = rng.integers(len(arrays))
    off = rng.integers(2, size=len(arrays)) if rng.integers(2) else np.zeros(len(arrays), int)
    off[one] = 1
    if case.seed >= ALONE:
        off = np.arange(len(arrays)) == case.seed - ALONE
    return {
        name: filled(backend, name, values, case.offset * int(is_off), written)
        for (name, values, written), is_off in zip(arrays, off, strict=True)
    }


def filled(backend: Backend, name: str, values: np.ndarray, offset: int, written: bool) -> Buffer:
    """Return a buffer that holds `values`, `offset` elements off the alignment of the backend's allocations.

    Args:
        name: which guards it gets: others for each name.
        written: whether a kernel may change it.
    """
    start = GUARD + offset
    stop = start + values.size
    host = _guards(name, stop + GUARD, values.dtype, written)
    host[start:stop] = values.ravel()
    ends = (0, GUARD, stop, host.size) if backend.device in EMULATED else (0, host.size)
    pieces = []
    for first, last in pairwise(ends):
        piece = backend.empty((last - first,), host.dtype)
        backend.upload(host[first:last], piece)
        pieces.append(piece)
    place = start - ends[len(pieces) // 2]  # in the middle one
    array = pieces[len(pieces) // 2][place : place + values.size].reshape(values.shape)
    return Buffer(array, tuple(pieces), host, start, written)


def _guards(name: str, size: int, dtype: np.dtype, written: bool) -> np.ndarray:
    """Return numbers drawn for this name that no kernel writes: see `Buffer`."""
    rng = np.random.default_rng(list(name.encode()))
    if dtype.kind in "iu":
        return (POISON_INTEGER - rng.integers(2**32, size=size)).astype(dtype)
    if written:
        return (rng.choice([-1, 1], size) * 2 ** rng.uniform(-8, 8, size)).astype(dtype)
    nan = _bits(np.full(size, np.nan, dtype))
    return (nan | rng.integers(0, np.iinfo(nan.dtype).max, size, nan.dtype, endpoint=True)).view(dtype)


def poison(dtype: np.dtype) -> float | int:
    """Return what an output of this dtype is poisoned with."""
    return POISON_INTEGER if dtype.kind in "iu" else np.nan


def _bits(x: np.ndarray) -> np.ndarray:
    return x.view(f"u{x.itemsize}")
