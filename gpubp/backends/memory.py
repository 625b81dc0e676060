"""Memory that the backends with kernels keep: what primitives need on their way, and uploads that are not done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np


class Workspace:
    """Device memory for what a primitive computes on its way: made at its first use, and grown when more is needed.

    Primitives run one after the other, so all of them share it. A replaced buffer lives on as long as someone, such as
    a captured graph, holds it.

    Args:
        allocate: returns a buffer of N bytes.
        allocate_zeros: returns an array of N zeros, uint32.

    Attributes:
        buffer: what working memory is a part of.
        all_counters: that were handed out: a recorded step may go on with those that more have replaced.
    """

    def __init__(self, allocate: Callable[[int], Any], allocate_zeros: Callable[[int], Any]) -> None:
        self._allocate = allocate
        self._allocate_zeros = allocate_zeros
        self._counters: Any = None
        self.all_counters: list[Any] = []
        self.buffer: Any = None
        self._bytes = 0
        self._views: dict[tuple[tuple[int, ...], np.dtype], Any] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Return working memory of this shape and dtype, with undefined contents, until the next primitive."""
        view = self._views.get((shape, dtype))
        if view is None:
            nbytes = int(np.prod(shape)) * dtype.itemsize
            if nbytes > self._bytes:
                self.buffer = self._allocate(nbytes)
                self._bytes = nbytes
                self._views.clear()
            view = self._views[shape, dtype] = self.buffer[:nbytes].view(dtype).reshape(shape)
        return view

    def counters(self, count: int) -> Any:
        """Return at least this many zeros, uint32, of which a kernel that changes one must make a zero again."""
        if self._counters is None or len(self._counters) < count:
            self._counters = self._allocate_zeros(count)
            self.all_counters.append(self._counters)
        return self._counters

    @property
    def held(self) -> tuple[Any, Any]:
        """Return all memory that is handed out now: who keeps an address of it keeps this too."""
        return self.buffer, self._counters

    def release(self) -> None:
        """Let go of the memory: the next use makes some of just the size that it needs."""
        self.buffer = self._counters = None
        self.all_counters = []
        self._bytes = 0
        self._views.clear()


class Uploads:
    """Host memory that is on its way to the device, kept until it has arrived.

    A chip that shares the host's page tables reads pageable memory itself, after the call that asked for the copy has
    returned: what it reads must neither be changed nor freed meanwhile, and the caller's array is free to be both.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], bool], Any]] = deque()

    def keep(self, host: Any, arrived: Callable[[], bool]) -> None:
        """Keep this memory until `arrived()` is true, and let go those before it that have arrived."""
        self._waiting.append((arrived, host))
        while self._waiting and self._waiting[0][0]():
            self._waiting.popleft()
