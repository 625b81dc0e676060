"""What a Ctrl-C does to the program: it ends, without a traceback, even while its modules load."""

from __future__ import annotations

import os
import signal
from types import FrameType


def end_on_interrupt() -> None:
    """Let a Ctrl-C end the program as others: exit code 130, and not a word. One that is ignored stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; while a module is imported end at once, since modules turn exceptions into others."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt
