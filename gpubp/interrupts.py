"""What a Ctrl-C does to the program: it ends, without a traceback, even while its modules load."""

from __future__ import annotations

import _thread
import os
import signal
import time
from types import FrameType

AGAIN_AFTER = 0.01
"""Seconds after which an interrupt that had to wait is tried again."""


def end_on_interrupt() -> None:
    """Let a Ctrl-C end the program as others: exit code 130, and not a word. One that is ignored stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or end at once or later where the code that runs cannot bear an exception.

    At once while a module is imported, since modules turn exceptions into others. Later within llvmlite, through which
    Numba compiles for the CPU: interrupted as it frees something, it frees it again.
    """
    within_llvmlite = False
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(128 + number)
        within_llvmlite |= frame.f_globals.get("__name__", "").startswith("llvmlite.")
        frame = frame.f_back
    if not within_llvmlite:
        raise KeyboardInterrupt
    # No `threading.Thread`: the code that was interrupted may hold its lock.
    _thread.start_new_thread(_interrupt_again, (number,))


def _interrupt_again(number: int) -> None:
    time.sleep(AGAIN_AFTER)
    os.kill(os.getpid(), number)
