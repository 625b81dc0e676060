"""A problem: a call of a primitive with its arguments, and what must come out within which bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gpubp.backends.base import Array, Backend


@dataclass(frozen=True)
class Expected:
    """What an output must be: within `bound` of `reference`, both in the reference's dtype; NaN where `nan` says so."""

    reference: np.ndarray
    bound: np.ndarray
    nan: np.ndarray | None = None


@dataclass(frozen=True)
class Problem:
    """A call of a primitive.

    Attributes:
        inputs: arrays that it reads, by name.
        call: makes the call, given a backend and all arrays as the backend's own, by name. A product also takes `plan`.
        expect: returns what `started` and `made` must hold after the call, by name.
        made: shape and dtype of each array that it writes, whatever the array held before.
        started: arrays that it changes, with what they hold before.
        prepare: a call that belongs before it, with the same arguments, or None.
    """

    inputs: Mapping[str, np.ndarray]
    call: Callable[..., None]
    expect: Callable[[], Mapping[str, Expected]]
    made: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    started: Mapping[str, np.ndarray] = field(default_factory=dict)
    prepare: Callable[[Backend, Mapping[str, Array]], None] | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the arrays that it changes or writes."""
        return (*self.started, *self.made)

    @cached_property
    def expected(self) -> Mapping[str, Expected]:
        """Return what each of `outputs` must be."""
        return self.expect()

    def run(self, backend: Backend, arrays: Mapping[str, Array]) -> None:
        """Make the call, after the one that belongs before it."""
        if self.prepare is not None:
            self.prepare(backend, arrays)
        self.call(backend, arrays)
