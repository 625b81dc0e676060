"""Contexts: there is one at a time that matters, and contexts are told apart only by their handles."""

from __future__ import annotations

import threading

from gpubp.emulator.driver.handles import Handles
from gpubp.emulator.driver.results import DriverError

CONTEXTS: Handles[int] = Handles("context", "CUDA_ERROR_INVALID_CONTEXT")
"""The flags of each."""
PRIMARY = CONTEXTS.add(0)
"""The handle of the device's primary context."""
_thread = threading.local()


def stack() -> list[int]:
    """Return the contexts of this thread; the last one is current."""
    if not hasattr(_thread, "stack"):
        _thread.stack = []
    return _thread.stack


def current() -> int:
    """Return the context that is current in this thread.

    Raises:
        DriverError: CUDA_ERROR_INVALID_CONTEXT: none is.
    """
    if not stack():
        raise DriverError("CUDA_ERROR_INVALID_CONTEXT", "no context is current in this thread")
    return stack()[-1]


def make_primary_current() -> None:
    """Make the primary context current in a thread that has no other, as the CUDA runtime does."""
    if not stack():
        stack().append(PRIMARY)
