"""Handles: numbers by which a program names what the driver keeps for it."""

from __future__ import annotations

import itertools
from typing import Generic, TypeVar

from gpubp.emulator.driver.results import DriverError

T = TypeVar("T")
_numbers = itertools.count(0x6000_0000_0000, 0x100)
"""All handles differ, whatever they name. No memory lies there."""


class Handles(Generic[T]):
    """What handles of one kind stand for; `result` is the error that an unknown one gives."""

    def __init__(self, kind: str, result: str = "CUDA_ERROR_INVALID_HANDLE") -> None:
        self.kind = kind
        self.result = result
        self._things: dict[int, T] = {}

    def add(self, thing: T) -> int:
        """Return a new handle."""
        handle = next(_numbers)
        self._things[handle] = thing
        return handle

    def __getitem__(self, handle: int | None) -> T:
        """Return what a handle stands for.

        Raises:
            DriverError: the handle is unknown, or was destroyed.
        """
        try:
            return self._things[handle or 0]
        except KeyError:
            raise DriverError(self.result, f"{handle or 0:#x} is no {self.kind}") from None

    def __contains__(self, handle: int) -> bool:
        return handle in self._things

    def items(self) -> list[tuple[int, T]]:
        """Return the handles with what they stand for."""
        return list(self._things.items())

    def remove(self, handle: int | None) -> T:
        """Forget a handle, and return what it stood for."""
        thing = self[handle]
        del self._things[handle or 0]
        return thing
