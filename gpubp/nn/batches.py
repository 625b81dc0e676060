"""The arrays that a network's passes read and write, and putting a batch of examples into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.arrays import dtype_of, lies_on_device
from gpubp.backends.base import Array, Backend
from gpubp.nn import checks
from gpubp.nn.activations import Activation, Softmax
from gpubp.nn.examples import Examples
from gpubp.nn.losses import Loss
from gpubp.nn.precision import Precision


@dataclass  # not frozen: made in every step, and a frozen one takes three times as long
class Batch:
    """The arrays of a pass over `rows` examples, indexed by layer."""

    rows: int
    a: list[Array]
    z: list[Array | None]
    delta: list[Array]
    saved: list[Array]  # what σ' of the layer reads: a[l] or z[l]
    target: dict[np.dtype, Array]  # room for y, by its dtype: rows (B, n_L), or labels (B,)
    weights: Array  # room for the examples' weights, (B,) of the master dtype


class Batches:
    """The arrays of all passes of a network: made for the largest batch so far, whose leading rows smaller ones use."""

    def __init__(
        self,
        backend: Backend,
        sizes: Sequence[int],
        activations: Sequence[Activation],
        loss: Loss,
        precision: Precision,
    ) -> None:
        self.backend, self.sizes, self.activations = backend, sizes, activations
        self.loss, self.precision = loss, precision
        self._array = type(backend.empty((1,), precision.storage))
        self._rows = 0
        self._made: dict[int, Batch] = {}

    def of(self, rows: int) -> Batch:
        """Return the arrays for this many rows: the same object each time, until a larger batch makes new arrays."""
        batch = self._made.get(rows)
        if batch is None:
            if rows > self._rows:
                self._make_arrays(rows)
            batch = self._made[rows] = self._leading_rows(rows)
        return batch

    def _make_arrays(self, rows: int) -> None:
        def new(width: int) -> Array:
            return self.backend.empty((rows, width), self.precision.storage)

        layers = range(1, len(self.sizes))
        self._a = [new(n) for n in self.sizes]
        self._delta = [None, *(new(self.sizes[layer]) for layer in layers)]
        self._z = [None, *(new(self.sizes[layer]) if self._keeps_z(layer) else None for layer in layers)]
        self._target = {
            np.dtype(self.precision.master): self.backend.empty((rows, self.sizes[-1]), self.precision.master)
        }
        if self.loss.takes_labels:
            self._target[np.dtype(np.int64)] = self.backend.empty((rows,), "int64")
        self._weights = self.backend.empty((rows,), self.precision.master)
        self._rows = rows
        self._made = {}

    def _keeps_z(self, layer: int) -> bool:
        activation = self.activations[layer]
        return activation.reads == "z" or (isinstance(activation, Softmax) and not self.loss.from_logits)

    def _leading_rows(self, rows: int) -> Batch:
        a, z, delta = ([None if x is None else x[:rows] for x in arrays] for arrays in (self._a, self._z, self._delta))
        saved = [None] + [
            z[layer] if self.activations[layer].reads == "z" else a[layer] for layer in range(1, len(self.sizes))
        ]
        target = {dtype: y[:rows] for dtype, y in self._target.items()}
        return Batch(rows, a, z, delta, saved, target, self._weights[:rows])

    # --- what comes in ----------------------------------------------------------------------------------------------
    def checked(self, x: Any, y: Any) -> tuple[Any, np.ndarray]:
        """Return a data set on the host as the passes read it: x (B, n_0), an array or `Examples`; y (B, n_L), or (B,)
        int64 labels where the loss takes them.

        Raises ArgumentError for other shapes, for NaN and infinity, and for targets that the loss does not take.
        """
        x, y = self.checked_examples(x), self.checked_targets(y, values=True)
        checks.require_same_rows(x, y)
        return x, y

    def checked_examples(self, x: Any, finite: bool = True) -> Any:
        """Return x (B, n_0) as the passes read it. Raises ArgumentError; `finite`: for NaN and infinity too.

        `Examples` stay such: their values are checked when they are made.
        """

        def checked(some: Any) -> np.ndarray:
            return checks.checked_examples(some, self.sizes[0], self.precision.storage, finite)

        if isinstance(x, Examples):
            checks.require_examples_shape(x.shape, self.sizes[0])
            return x.then(checked)
        return checked(self._on_host(x))

    def checked_targets(self, y: Any, values: bool = False) -> np.ndarray:
        """Return y as the loss reads it. Raises ArgumentError; `values`: for numbers that the loss refuses too."""
        return checks.checked_targets(self._on_host(y), self.loss, self.sizes[-1], self.precision.master, values)

    def taken(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return a batch as `place` takes it, x (B, n_0) and y: the backend's own arrays, or arrays on the host.

        x and y come from the host, or lie on the backend's device as arrays of any library. Raises ArgumentError for
        wrong shapes and dtypes, and for targets on the host that the loss does not take (on the device, they make δ
        NaN); NaN and infinity pass.
        """
        x, y = self._taken_examples(x), self._taken(y)
        if self._is_own(y):
            checks.require_targets_on_device(y, self.loss, self.sizes[-1], self.precision.master)
        else:
            y = self.checked_targets(y)
        checks.require_same_rows(x, y)
        return x, y

    def place(self, x: Any, y: Any) -> tuple[Batch, Array]:
        """Return the arrays of a pass with x as a[0], and the targets; both on the backend's device.

        x, y: as `taken` gives them, or slices of that.
        """
        batch = self._place(x)
        if self._array is np.ndarray:
            return batch, y
        target = batch.target[np.dtype(y.dtype)]
        self._fill(y, target)
        return batch, target

    def place_examples(self, x: Any) -> Batch:
        """Return the arrays of a pass with x as a[0]; x as for `taken`. Raises ArgumentError for another x."""
        return self._place(self._taken_examples(x))

    def checked_weights(self, weights: Any, rows: int) -> np.ndarray:
        """Return the weights of `rows` examples (B,) on the host. Raise ArgumentError."""
        return checks.checked_weights(self._on_host(weights), rows, self.precision.master)

    def place_weights(self, weights: np.ndarray | None, batch: Batch) -> Array | None:
        """Return checked weights on the backend's device; None if there are none."""
        if weights is None or self._array is np.ndarray:
            return weights
        self.backend.upload(weights, batch.weights)
        return batch.weights

    def _taken_examples(self, x: Any) -> Any:
        x = self._taken(x)
        if not self._is_own(x):
            return self.checked_examples(x, finite=False)
        checks.require_examples_on_device(x, self.sizes[0], self.precision.master, self.precision.storage)
        return x

    def _place(self, x: Any) -> Batch:
        batch = self.of(int(x.shape[0]))
        if self._array is np.ndarray:
            # x is only read, and no longer than the pass: a copy would cost up to a sixth of a small step
            return Batch(batch.rows, [x, *batch.a[1:]], batch.z, batch.delta, batch.saved, batch.target, batch.weights)
        self._fill(x, batch.a[0])
        return batch

    def _taken(self, x: Any) -> Any:
        """Return another library's array on the backend's device as the backend's own; anything else as it is."""
        if self._array is np.ndarray or self._is_own(x) or not lies_on_device(x):
            return x
        return self.backend.asarray(x, dtype_of(x))

    def _on_host(self, x: Any) -> Any:
        """Return the values of an array on the backend's device; anything else as it is.

        Through the backend, whose stream waits for what the array's library has yet to do.
        """
        if self._array is np.ndarray or not lies_on_device(x):
            return x
        return self.backend.asnumpy(self.backend.asarray(x, dtype_of(x)))

    def _is_own(self, x: Any) -> bool:
        """True if x is an array of the backend's on a device."""
        return type(x) is self._array and self._array is not np.ndarray

    def _fill(self, source: Any, out: Array) -> None:
        if self._is_own(source):
            move = self.backend.copy if source.dtype == out.dtype else self.backend.cast
            move(source, out)
        else:
            self.backend.upload(source, out)
