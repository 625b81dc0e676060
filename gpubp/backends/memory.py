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
    """

    def __init__(self, allocate: Callable[[int], Any]) -> None:
        self._allocate = allocate
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

    def release(self) -> None:
        """Let go of the buffer: the next use makes one of just the size that it needs."""
        self.buffer = None
        self._bytes = 0
        self._views.clear()


class Uploads:
    """Host memory that is on its way to the device, kept until it has arrived.

    A chip that shares the host's page tables reads pageable memory itself, after the call that asked for the copy has
    returned: what it reads must neither be changed nor freed meanwhile, and the caller's array is free to be both.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], bool], np.ndarray]] = deque()

    def keep(self, host: np.ndarray, arrived: Callable[[], bool]) -> None:
        """Keep this array until `arrived()` is true, and let go those before it that have arrived."""
        self._waiting.append((arrived, host))
        while self._waiting and self._waiting[0][0]():
            self._waiting.popleft()
