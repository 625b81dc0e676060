"""The counter behind %clock, %globaltimer and nanosleep: it grows, and is no time.

A read adds a little, and a sleep what it asks for. When threads that look at it do nothing but wait, it leaps, so that
whoever waits for some time only comes to its end.
"""

from __future__ import annotations

SPECIALS = ("clock", "clock64", "clock_hi", "globaltimer", "globaltimer_lo", "globaltimer_hi")
READ = 32
"""What a read adds."""
LEAPS = 14
"""Leaps without effect after which threads are taken to wait for ever: each is twice the one before."""
_LEAP = 1 << 30


class Clock:
    """The counter of the device; it goes on from launch to launch."""

    def __init__(self) -> None:
        self.now = 0

    def leap(self, number: int) -> None:
        """Grow as if much time had gone by, the more the higher the number."""
        self.now += _LEAP << number


CLOCK = Clock()
