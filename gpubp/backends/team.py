"""Threads that share a long pass: parts of fixed size, so that who makes them, and how many there are, changes no bit.

The threads sleep between passes. A library whose idle threads wait by spinning would take the cores from the BLAS's,
and its from ours.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

PART = 131_072
"""Elements of a part: much longer than the Python of a call takes, short enough for many cores to have one each."""

Made = TypeVar("Made")
Part = Callable[[int, int], Made]
"""Makes a pass over the rows, or elements, from a start to before a stop."""


class Team:
    """This many threads, the caller's among them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def run(self, part: Part[Made], count: int, width: int = 1) -> list[Made]:
        """Call `part` for all of `count` rows of this width, in parts of about `PART` elements. Return what each part
        gave, in the order of the rows."""
        step = max(1, PART // width)
        if count <= step:
            return [part(0, count)]
        starts = range(0, count, step)

        def share(first: int, last: int) -> list[Made]:
            return [part(start, min(start + step, count)) for start in starts[first:last]]

        members = min(self.threads, len(starts))
        if members <= 1:
            return share(0, len(starts))
        bounds = [len(starts) * member // members for member in range(members + 1)]
        others = [_pool(os.getpid(), self.threads - 1).submit(share, *bounds[i : i + 2]) for i in range(1, members)]
        found = share(*bounds[:2])
        for each in others:
            found += each.result()
        return found


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return the threads of a process: a fork has none of its parent's."""
    return ThreadPoolExecutor(threads, "gpubp")
