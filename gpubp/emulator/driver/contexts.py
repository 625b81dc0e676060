"""Contexts: there is one at a time that matters, and contexts are told apart only by their handles."""

from __future__ import annotations

import threading

from gpubp.emulator.driver.handles import Handles
from gpubp.emulator.driver.results import DriverError

_contexts: Handles[str] = Handles("context")
PRIMARY = _contexts.add("primary")
"""The handle of the device's primary context."""
_thread_state = threading.local()


def create() -> int:
    """Return the handle of a new context."""
    return _contexts.add("context")


def check(context: int) -> int:
    """Return a context's handle.

    Raises:
        DriverError: CUDA_ERROR_INVALID_HANDLE: there is no such context.
    """
    _contexts[context]
    return context


def destroy(context: int) -> None:
    """Forget a context; if it is the current one of this thread, then the one below is.

    Raises:
        DriverError: CUDA_ERROR_INVALID_CONTEXT: it is the primary context, which is released instead.
    """
    if context == PRIMARY:
        raise DriverError("CUDA_ERROR_INVALID_CONTEXT", "ctx is the primary context: it is released, not destroyed")
    _contexts.remove(context)
    if stack() and stack()[-1] == context:
        stack().pop()


def stack() -> list[int]:
    """Return the contexts of this thread; the last one is current."""
    try:
        return _thread_state.stack
    except AttributeError:
        _thread_state.stack = []
        return _thread_state.stack


def current() -> int:
    """Return the current context of this thread.

    Raises:
        DriverError: CUDA_ERROR_INVALID_CONTEXT: there is none.
    """
    if not stack():
        raise DriverError("CUDA_ERROR_INVALID_CONTEXT", "no context is current in this thread")
    return stack()[-1]


def make_primary_current() -> None:
    """Make the primary context current in a thread that has no other, as the CUDA runtime does."""
    if not stack():
        stack().append(PRIMARY)
