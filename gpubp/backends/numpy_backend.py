"""The `numpy` backend: the primitives in NumPy and its BLAS. The reference for every kernel, and the CPU's fast path.

Products write straight into the caller's arrays. Elementwise work goes through blocks that stay in the cache, so that
its temporaries are small whatever the batch is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.linalg.blas import dgemm, sgemm

from gpubp.activations import Activation, Identity, Softmax
from gpubp.backends.base import Array, Control, Losses
from gpubp.losses import Loss
from gpubp.optimizers import AdamW, Optimizer

BLOCK = 16_384
"""Elements of a block: three float32 blocks of this size fit into a first or second level cache."""


class NumpyBackend:
    """See `gpubp.backends.base.Backend`."""

    name = "numpy"
    variants: tuple[str, ...] = ()
    variant: str | None = None

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._work = {np.dtype(name): np.empty((2, BLOCK), name) for name in ("float32", "float64")}

    # --- arrays -----------------------------------------------------------------------------------------------------
    def asarray(self, x: Any, dtype: str | np.dtype) -> Array:
        return np.ascontiguousarray(x, dtype=dtype)

    def asnumpy(self, x: Array) -> np.ndarray:
        return x.copy()

    def empty(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        return np.empty(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        return np.zeros(shape, dtype)

    def upload(self, host: np.ndarray, out: Array) -> None:
        np.copyto(out, host)

    def copy(self, source: Array, out: Array) -> None:
        np.copyto(out, source)

    def cast(self, source: Array, out: Array) -> None:
        np.copyto(out, source, casting="same_kind")

    def gather_rows(self, source: Array, order: Array, control: Array, out: Array) -> None:
        start = int(control[Control.BATCH_OFFSET])
        # mode="clip" lets NumPy write to `out` directly; the order holds valid rows only
        np.take(source, order[start : start + len(out)], axis=0, out=out, mode="clip")

    def squared_norm(self, x: Array, out: Array) -> None:
        total = 0.0
        for part in _blocks(x):
            total += float(np.square(part, dtype=np.float64).sum())
        out[0] = total

    def scale(self, x: Array, factor: float) -> None:
        np.multiply(x, factor, out=x)

    def row_argmax(self, x: Array, out: Array) -> None:
        np.argmax(x, axis=1, out=out)

    def synchronize(self) -> None:
        pass

    # --- forward ----------------------------------------------------------------------------------------------------
    def dense_forward(
        self, a_prev: Array, w: Array, b: Array | None, activation: Activation, z: Array | None, a: Array
    ) -> None:
        product = a if z is None else z
        np.matmul(a_prev, w.T, out=product)
        if b is not None:
            np.add(product, b, out=product)
        if not (isinstance(activation, Identity) and product is a):
            for part_z, part_a in _blocks(product, a):
                activation.apply(part_z, part_a)

    def softmax(self, z: Array, a: Array) -> None:
        Softmax().apply(z, a)

    # --- backward ---------------------------------------------------------------------------------------------------
    def output_delta(
        self, loss: Loss, activation: Activation, output: Array, saved: Array, y: Array, losses: Array, delta: Array
    ) -> None:
        rows, width = output.shape
        total = 0.0
        step = max(1, BLOCK // width)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            total += loss.evaluate(output[part], y[part], delta[part])
            if not loss.from_logits:
                work = np.empty_like(delta[part])
                activation.multiply_derivative(saved[part], delta[part], delta[part], work)
        divisor = loss.divisor(rows)
        if divisor != 1:
            np.multiply(delta, 1 / divisor, out=delta)
        losses[Losses.BATCH] = total / divisor
        losses[Losses.TOTAL] += total

    def hidden_delta(
        self, delta_next: Array, w_next: Array, activation: Activation, saved: Array, delta: Array
    ) -> None:
        np.matmul(delta_next, w_next, out=delta)
        self.hadamard_derivative(delta, activation, saved, delta)

    def transpose_product(self, delta_next: Array, w_next: Array, product: Array) -> None:
        np.matmul(delta_next, w_next, out=product)

    def hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        work = self._work[delta.dtype][0]
        for part, part_saved, part_delta in _blocks(product, saved, delta):
            activation.multiply_derivative(part_saved, part, part_delta, work[: part.size])

    def weight_gradient(self, delta: Array, a_prev: Array, gradient: Array) -> None:
        np.matmul(delta.T, a_prev, out=gradient)

    def bias_gradient(self, delta: Array, gradient: Array) -> None:
        np.add.reduce(delta, axis=0, out=gradient)

    # --- update -----------------------------------------------------------------------------------------------------
    def weight_step(self, delta: Array, a_prev: Array, control: Array, w: Array) -> None:
        # BLAS counts columns first: it sees wᵀ, a_prevᵀ and δᵀ, and wᵀ ← wᵀ − η a_prevᵀ δ
        gemm: Callable[..., np.ndarray] = sgemm if w.dtype == np.float32 else dgemm
        gemm(-control[Control.LEARNING_RATE], a_prev.T, delta.T, 1.0, w.T, trans_b=True, overwrite_c=True)

    def prepare_update(self, max_norm: float | None, control: Array) -> None:
        control[Control.STEP] += 1
        scale = 1.0
        if max_norm is not None:
            norm = float(control[Control.SQUARED_NORM]) ** 0.5
            # written so that a NaN norm gives a NaN scale, which shows, and not 1
            scale = 1.0 if norm <= max_norm else max_norm / norm
        control[Control.GRADIENT_SCALE] = scale

    def update(
        self,
        optimizer: Optimizer,
        gradients: Array,
        decayed: int,
        control: Array,
        state: Sequence[Array],
        parameters: Array,
    ) -> None:
        rate = float(control[Control.LEARNING_RATE])
        step = int(control[Control.STEP])
        scale = float(control[Control.GRADIENT_SCALE])
        g_work, work = self._work[parameters.dtype]
        decay = optimizer.weight_decay
        start = 0
        for g, w, *slots in _blocks(gradients, parameters, *state):
            n = g.size
            scaled = g_work[:n]
            np.multiply(g, scale, out=scaled)
            if optimizer.clip_value is not None:
                np.clip(scaled, -optimizer.clip_value, optimizer.clip_value, out=scaled)
            if decay and start < decayed:
                m = min(n, decayed - start)
                if isinstance(optimizer, AdamW):
                    np.multiply(w[:m], 1 - rate * decay, out=w[:m])
                else:
                    np.multiply(w[:m], decay, out=work[:m])
                    np.add(scaled[:m], work[:m], out=scaled[:m])
            optimizer.update(scaled, rate, step, slots, w, work[:n])
            start += n


def _blocks(*arrays: np.ndarray) -> Iterator[Any]:
    """Walk through arrays of one size in flat blocks of at most BLOCK elements, side by side."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, BLOCK):
        parts = [array[start : start + BLOCK] for array in flat]
        yield parts[0] if len(parts) == 1 else parts
