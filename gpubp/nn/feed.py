"""A data set on a backend's device, and a training step on its rows that was recorded to be replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubp.backends.base import Array
from gpubp.errors import ArgumentError

if TYPE_CHECKING:
    from gpubp.nn.network import Network


@dataclass(frozen=True)
class Feed:
    """A network's data set on the backend's device, and the order in which its steps visit the rows."""

    x: Array
    y: Array
    order: Array
    network: Network

    @property
    def rows(self) -> int:
        """The number of examples."""
        return int(self.x.shape[0])

    def visit(self, order: np.ndarray) -> None:
        """Set the order: (rows,) integers, each a row."""
        order = np.asarray(order)
        if order.dtype.kind not in "iu" or order.shape != (self.rows,) or order.min() < 0 or order.max() >= self.rows:
            was = f"an array of {order.dtype} of shape {order.shape}"
            raise ArgumentError("order", was, f"{self.rows} row numbers, integers from 0 to {self.rows - 1}")
        self.network.backend.upload(np.ascontiguousarray(order, np.int64), self.order)

    def require(self, start: int, rows: int) -> None:
        """Raise ArgumentError unless the feed has rows start .. start + rows − 1, at least one."""
        if not isinstance(start, int | np.integer) or not isinstance(rows, int | np.integer):
            raise ArgumentError("rows", f"{rows!r} from {start!r}", "whole numbers")
        if start < 0 or rows < 1 or start + rows > self.rows:
            raise ArgumentError("rows", f"{start} to {start + rows}", f"at least one, within the feed's {self.rows}")


@dataclass(frozen=True)
class CapturedStep:
    """A training step that was recorded once, by `Network.capture`; calling it with a first row makes the step."""

    network: Network
    feed: Feed
    rows: int
    replay: Callable[[], None]
    state: object  # the optimiser's, when it was recorded
    arrays: object  # of the network's passes, likewise

    @property
    def is_current(self) -> bool:
        """Whether the network still uses the arrays that the recorded step changes: not once an optimiser was set, and
        not after a larger batch."""
        return self.network._state is self.state and self.network._batches is self.arrays

    def __call__(self, start: int) -> None:
        """One step on the feed's rows order[start : start + self.rows], as `Network.train_rows` makes it.

        Raises ArgumentError for rows that there are not, and for a step that is not current.
        """
        network = self.network
        self.feed.require(start, self.rows)
        if not self.is_current:
            raise ArgumentError("step", "captured for another optimiser or other arrays", "captured anew")
        network._set_host_controls(start)
        self.replay()
        network.steps += 1
