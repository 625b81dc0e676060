"""A network's data set on the backend's device, whole or some batches at a time, in the order of its steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpubp.backends.base import Array, Mark
from gpubp.distributed.ranks import Ranks
from gpubp.errors import StateError
from gpubp.nn.examples import Examples
from gpubp.nn.network import Network, total_weight

WINDOW_BYTES = 2**23
"""Bytes of examples in a window of a streamed feed, or one batch if that has more. There is room for four windows: two
on the host, two on the device; one each if a window holds all examples."""
LEAST_WINDOWS = 8
"""Windows of an epoch, if it has as many batches: for the first one the device has to wait."""


class Feed:
    """A network's data set, and the order in which its steps visit the rows.

    Attributes:
        network: that it is for.
        rows: the number of examples.
        x, y, weights, order: the arrays on the backend's device that a step gathers its rows from; weights are None if
            there are none.
    """

    def __init__(
        self,
        network: Network,
        rows: int,
        x: Array,
        y: Array,
        weights: Array | None,
        order: Array,
        host_weights: np.ndarray | None,
    ) -> None:
        self.network, self.rows = network, rows
        self.x, self.y, self.weights, self.order = x, y, weights, order
        self._host_weights = host_weights
        self._host_order = np.arange(0 if host_weights is None else rows)  # for the sums of weights alone
        self._recorded: dict[int, RecordedStep] = {}

    def weight(self, start: int, rows: int) -> float | None:
        """Return the sum of the weights of the rows order[start : start + rows]; None if they have none."""
        if self._host_weights is None:
            return None
        return total_weight(self._host_weights[self._host_order[start : start + rows]])

    def visit(self, order: np.ndarray) -> None:
        """Set the order: (rows,) integers, each a row. Raises ArgumentError for anything else.

        A streamed feed keeps the array, which stays as it is until the next order.
        """
        order = np.asarray(order)
        if order.dtype.kind not in "iu" or order.shape != (self.rows,) or order.min() < 0 or order.max() >= self.rows:
            state = f"is an array of {order.dtype} of shape {order.shape}"
            expected = f"hold {self.rows} row numbers, integers from 0 to {self.rows - 1}"
            raise StateError("order", state, expected)
        self._take(order)

    def _take(self, order: np.ndarray) -> None:
        order = np.ascontiguousarray(order, np.int64)
        if self._host_weights is not None:
            self._host_order[...] = order
        self.network.backend.upload(order, self.order)

    def require(self, start: int, rows: int) -> None:
        """Raise ArgumentError unless the feed has rows start .. start + rows − 1, at least one."""
        if not isinstance(start, int | np.integer) or not isinstance(rows, int | np.integer):
            raise StateError("rows", f"are {rows!r} from {start!r}", "be whole numbers")
        if start < 0 or rows < 1 or start + rows > self.rows:
            raise StateError("rows", f"go from {start} to {start + rows}", f"be one or more of the feed's {self.rows}")

    def placed(self, start: int, rows: int) -> int:
        """Return where in `order` on the device the rows start .. start + rows − 1 begin that a step is about to read.

        A streamed feed puts them there first; see `StreamedFeed.placed`.
        """
        return start


class RecordedStep(NamedTuple):
    """A step on a feed as a backend recorded it, and what it was made for: trainer, optimiser, `at_once` and arrays."""

    made_for: tuple[Any, ...]
    again: Callable[[], None]


@dataclass
class _Window:
    """Some batches that follow each other: read on the host (`read` is done), then sent to the device (`arrived`)."""

    number: int
    read: Future[int]  # gives the number of its rows
    place_is_free: Mark
    arrived: Mark | None = None


class StreamedFeed(Feed):
    """A feed whose examples are made while the steps before theirs are computed, a window of batches at a time.

    While the steps of a window run, a thread reads the next one into pinned memory, from which it is copied to the
    device beside the steps. Its place there is that of the window before: each of the two places holds a window of
    examples, targets and weights in the order of the steps, so `order` on the device just counts.

    Args:
        x, y, weights: as `Trainer.streamed_feed` has checked them.
        step: rows of a whole batch; if there are fewer, they are one batch.
        ranks: the processes that train together; each reads its own share of every batch.
    """

    def __init__(
        self, network: Network, x: Examples, y: np.ndarray, weights: np.ndarray | None, step: int, ranks: Ranks
    ) -> None:
        backend, rows = network.backend, len(x)
        self._step, self._ranks = min(step, rows), ranks
        dtype = np.dtype(network.precision.storage)
        at_most = max(1, WINDOW_BYTES // (dtype.itemsize * x.shape[1] * self._step))
        self.window = self._step * min(at_most, max(1, -(-rows // self._step) // LEAST_WINDOWS))
        self._sources: list[tuple[Any, np.dtype, tuple[int, ...]]]
        self._sources = [(x, dtype, x.shape[1:]), (y, y.dtype, y.shape[1:])]
        if weights is not None:
            self._sources.append((weights, weights.dtype, ()))
        places = 2 if rows > self.window else 1
        self._hosts = [
            [backend.pinned((self.window, *row), kind) for _, kind, row in self._sources] for _ in range(places)
        ]
        self._device = [backend.zeros((places * self.window, *row), kind) for _, kind, row in self._sources]
        order = backend.asarray(np.arange(places * self.window), "int64")
        placed_weights = None if weights is None else self._device[2]
        super().__init__(network, rows, self._device[0], self._device[1], placed_weights, order, weights)
        self._host_order = np.arange(rows)
        self._reader = ThreadPoolExecutor(1, "gpubp-feed")
        self._sent: list[Mark | None] = [None, None]
        self._here: int | None = None
        self._next: _Window | None = None

    def _take(self, order: np.ndarray) -> None:
        self._forget()
        self._host_order = order  # no copy: of large data it is large

    def placed(self, start: int, rows: int) -> int:
        """See `Feed.placed`. Wait for the window if it has not been read yet.

        Raises ArgumentError for rows that reach into a second window, and what reading the examples raises: nothing has
        changed then, and the same rows can be asked for again.
        """
        number, offset = divmod(start, self.window)
        if offset + rows > self.window:
            expected = f"be whole batches of {self._step}, which lie in one window of {self.window}"
            raise StateError("rows", f"go from {start} to {start + rows}", expected)
        if number != self._here:
            self._turn_to(number)
        elif self._next is not None and self._next.arrived is None and _has_been_read(self._next):
            self._send(self._next)
        return number % 2 * self.window + offset

    def _turn_to(self, number: int) -> None:
        """Let the next steps read this window, and begin to read the one behind it."""
        backend = self.network.backend
        behind_steps = backend.mark()
        if self._next is None or self._next.number != number:
            self._forget()
            self._next = self._begun(number, behind_steps)
        window = self._next
        try:
            if window.arrived is None:
                self._send(window)
        except BaseException:
            self._forget()
            raise
        assert window.arrived is not None
        backend.wait_for(window.arrived)
        self._here, self._next = number, None
        if (number + 1) * self.window < self.rows:
            self._next = self._begun(number + 1, behind_steps)

    def _begun(self, number: int, place_is_free: Mark) -> _Window:
        """Begin to read a window. place_is_free: behind the steps on the window whose place it takes."""
        sent = self._sent[number % 2]
        if sent is not None:
            sent.synchronize()  # what is in the host's memory has been copied from there
        return _Window(number, self._reader.submit(self._read, number), place_is_free)

    def _read(self, number: int) -> int:
        """Read a window into its place on the host, in the reader's thread; return how many rows it has."""
        rows = self._host_order[number * self.window : (number + 1) * self.window]
        own = self._own(len(rows))
        read = rows[own]
        if len(read):  # some rank may have none
            for host, (source, _, _) in zip(self._hosts[number % 2], self._sources, strict=True):
                host[own] = source[read]
        return len(rows)

    def _own(self, rows: int) -> Any:
        """Return which of a window's rows this rank computes with."""
        if self._ranks.alone:
            return slice(0, rows)
        shares = []
        for start in range(0, rows, self._step):
            share = self._ranks.share(min(self._step, rows - start))
            shares.append(np.arange(start + share.start, start + share.stop))
        return np.concatenate(shares)

    def _send(self, window: _Window) -> None:
        """Copy a window to the device, once it has been read. Raises what reading raised."""
        rows, place = window.read.result(), window.number % 2
        first = place * self.window
        pairs = [
            (host[:rows], device[first : first + rows])
            for host, device in zip(self._hosts[place], self._device, strict=True)
        ]
        window.arrived = self._sent[place] = self.network.backend.upload_beside(pairs, window.place_is_free)

    def _forget(self) -> None:
        """Forget what has been read. What is being read comes before all that is read from here on."""
        if self._next is not None:
            self._next.read.cancel()
        self._here = self._next = None


def _has_been_read(window: _Window) -> bool:
    return window.read.done() and window.read.exception() is None
