"""The `numpy` backend: the primitives in NumPy and its BLAS. The reference for every kernel, and the CPU's fast path.

Here the primitives take float32 and float64; `NumpyBackend.for_precision` returns the subclass for 16 bits and TF32.

Products write straight into the caller's arrays. Elementwise work goes through blocks that stay in the cache, so that
its temporaries are small whatever the batch is.

All products are SciPy's BLAS, whose α and β fold the bias and the step of SGD into them, and none is NumPy's (`matmul`,
`dot`): each library brings an OpenBLAS of its own, whose idle threads wait by spinning. Used in turn, the two take the
cores from each other, and a small step becomes many times slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy.linalg import blas

from gpubp.arrays import on_host
from gpubp.backends.base import FORMS, Array
from gpubp.backends.numpy_rounded import rounded
from gpubp.dtypes import ARITHMETIC, BFLOAT16, PLAIN, canonical
from gpubp.errors import ArgumentError, BackendError, StateError, unknown_name
from gpubp.kernels.control import LARGEST_LOSS_SCALE, Control, Losses
from gpubp.nn.activations import Activation, Identity, Softmax
from gpubp.nn.losses import Loss
from gpubp.nn.optimizers import AdamW, Optimizer
from gpubp.nn.precision import LossScaling, require_master

DTYPES = tuple(ARITHMETIC[kind].storage for kind in PLAIN)
GEMM: dict[np.dtype, Callable[..., np.ndarray]]
GEMV: dict[np.dtype, Callable[..., np.ndarray]]
GEMM, GEMV = (
    {ARITHMETIC[kind].storage: getattr(blas, f"{ARITHMETIC[kind].blas}{name}") for kind in PLAIN}
    for name in ("gemm", "gemv")
)

BLOCK = 32_768
"""Elements of a block: three float32 blocks of this size fit into a second level cache."""

WHOLE_DEPTH = 256
"""Depth up to which BLAS adds a product to its output at once. It adds a deeper one in parts, and rounds after each."""


class NumpyBackend:
    """See `gpubp.backends.base.Backend`."""

    name = "numpy"
    variants: tuple[str, ...] = ()
    variant: str | None = None
    stores_halves = True
    captures = False

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._work = {dtype: np.empty((2, BLOCK), dtype) for dtype in DTYPES}
        self._ones = {dtype: np.ones(0, dtype) for dtype in self._work}
        self._steps = {dtype: np.empty(0, dtype) for dtype in self._work}

    def for_precision(self, precision: str) -> NumpyBackend:
        """See `Backend.for_precision`: a backend that rounds, if the precision is another one than those of NumPy."""
        plain = canonical("precision", precision) in PLAIN
        return self if plain else rounded(type(self))(self.device)

    # --- arrays -----------------------------------------------------------------------------------------------------
    def asarray(self, x: Any, dtype: str | np.dtype) -> Array:
        return np.ascontiguousarray(on_host("x", x), dtype=dtype)

    def asnumpy(self, x: Array) -> np.ndarray:
        return x.copy()

    def empty(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        return np.empty(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        return np.zeros(shape, dtype)

    def upload(self, host: np.ndarray, out: Array) -> None:
        out[...] = host

    def copy(self, source: Array, out: Array) -> None:
        out[...] = source

    def cast(self, source: Array, out: Array) -> None:
        if source is not out:
            with np.errstate(over="ignore"):  # what is too large becomes infinite
                if source.dtype == np.float64 and out.dtype == BFLOAT16:
                    source = _rounded_to_odd(source)  # ml_dtypes rounds to float32 on the way
                np.copyto(out, source, casting="same_kind")

    def gather_rows(self, source: Array, order: Array, control: Array, out: Array) -> None:
        start = int(control[Control.BATCH_OFFSET])
        # mode="clip" lets NumPy write to `out` directly; the order holds valid rows only
        np.take(source, order[start : start + len(out)], axis=0, out=out, mode="clip")

    def squared_norm(self, x: Array, out: Array) -> None:
        total = 0.0
        for (part,) in _blocks(x):
            total += float(np.square(part, dtype=np.float64).sum())
        out[0] = total

    def scale(self, x: Array, factor: float) -> None:
        require_master("x", x)
        np.multiply(x, factor, out=x)

    def row_argmax(self, x: Array, out: Array) -> None:
        np.argmax(x, axis=1, out=out)

    def synchronize(self) -> None:
        pass

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        raise BackendError("backend 'numpy' cannot capture a step; backend 'cupy' can")

    # --- forward ----------------------------------------------------------------------------------------------------
    def dense_forward(
        self,
        a_prev: Array,
        w: Array,
        b: Array | None,
        activation: Activation,
        z: Array | None,
        a: Array,
        tf32: bool = False,
    ) -> None:
        if z is None:
            z = a
        if b is None:
            _product(1.0, a_prev, w, 0.0, z, b_transposed=True, tf32=tf32)
        else:
            z[...] = b
            _product(1.0, a_prev, w, 1.0, z, b_transposed=True, tf32=tf32)
        if not (isinstance(activation, Identity) and z is a):
            for part_z, part_a in _blocks(z, a):
                activation.apply(part_z, part_a)

    def softmax(self, z: Array, a: Array) -> None:
        require_master("z", z)
        Softmax().apply(z, a)

    # --- backward ---------------------------------------------------------------------------------------------------
    def output_delta(
        self,
        loss: Loss,
        activation: Activation,
        output: Array,
        saved: Array,
        y: Array,
        control: Array | None,
        losses: Array,
        delta: Array,
    ) -> None:
        require_master("output", output)
        total = 0.0
        for part_output, part_saved, part_y, part_delta in _row_blocks(output, saved, y, delta):
            total += loss.evaluate(part_output, part_y, part_delta)
            if not loss.from_logits:
                work = np.empty_like(part_delta)
                activation.multiply_derivative(part_saved, part_delta, part_delta, work)
        divisor = loss.divisor(len(output))
        scale = 1 / divisor if control is None else float(control[Control.LOSS_SCALE]) / divisor
        if scale != 1:
            np.multiply(delta, scale, out=delta)
        losses[Losses.BATCH] = total / divisor
        losses[Losses.TOTAL] += total

    def hidden_delta(
        self,
        delta_next: Array,
        w_next: Array,
        activation: Activation,
        saved: Array,
        delta: Array,
        tf32: bool = False,
    ) -> None:
        _product(1.0, delta_next, w_next, 0.0, delta, tf32=tf32)
        self.hadamard_derivative(delta, activation, saved, delta)

    def transpose_product(self, delta_next: Array, w_next: Array, product: Array, tf32: bool = False) -> None:
        _product(1.0, delta_next, w_next, 0.0, product, tf32=tf32)

    def hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        require_master("product", product)
        work = self._work[delta.dtype][0]
        for part, part_saved, part_delta in _blocks(product, saved, delta):
            activation.multiply_derivative(part_saved, part, part_delta, work[: part.size].reshape(part.shape))

    def weight_gradient(self, delta: Array, a_prev: Array, gradient: Array, tf32: bool = False) -> None:
        _product(1.0, delta, a_prev, 0.0, gradient, a_transposed=True, tf32=tf32)

    def bias_gradient(self, delta: Array, gradient: Array) -> None:
        require_master("delta", delta)
        rows = len(delta)
        if rows > self._ones[delta.dtype].size:
            self._ones[delta.dtype] = np.ones(rows, delta.dtype)
        _column_sums(delta, self._ones[delta.dtype][:rows], gradient)

    def product(
        self, form: str, a: Array, b: Array, c: Array, alpha: float = 1.0, beta: float = 0.0, tf32: bool = False
    ) -> None:
        if form not in FORMS:
            raise unknown_name("form", form, FORMS)
        _product(alpha, a, b, beta, c, a_transposed=form == "TN", b_transposed=form == "NT", tf32=tf32)

    # --- update -----------------------------------------------------------------------------------------------------
    def weight_step(self, delta: Array, a_prev: Array, control: Array, w: Array, tf32: bool = False) -> None:
        require_master("w", w)
        rate = float(control[Control.LEARNING_RATE])
        if len(delta) <= WHOLE_DEPTH:
            _product(-rate, delta, a_prev, 1.0, w, a_transposed=True, tf32=tf32)
            return
        step = self._step_like(w)
        _product(-rate, delta, a_prev, 0.0, step, a_transposed=True, tf32=tf32)
        for part, part_step in _blocks(w, step):
            np.add(part, part_step, out=part)

    def _step_like(self, w: Array) -> Array:
        """Return working memory of w's shape and dtype, made for the largest that has been asked for."""
        if w.size > self._steps[w.dtype].size:
            self._steps[w.dtype] = np.empty(w.size, w.dtype)
        return self._steps[w.dtype][: w.size].reshape(w.shape)

    def prepare_update(self, max_norm: float | None, control: Array, loss_scaling: LossScaling | None = None) -> None:
        loss_scale = 1.0
        if loss_scaling is not None:
            loss_scale = float(control[Control.LOSS_SCALE])
            if not _scale_loss(loss_scaling, control):
                return
        control[Control.STEP] += 1
        scale = 1.0
        if max_norm is not None:
            norm = float(control[Control.SQUARED_NORM]) ** 0.5 / loss_scale
            # written so that a NaN norm gives a NaN scale, which shows, and not 1
            scale = 1.0 if norm <= max_norm else max_norm / norm
        control[Control.GRADIENT_SCALE] = scale / loss_scale

    def update(
        self,
        optimizer: Optimizer,
        gradients: Array,
        decayed: int,
        control: Array,
        state: Sequence[Array],
        parameters: Array,
        stored: Array | None = None,
    ) -> None:
        values = control.tolist()
        if values[Control.SKIP]:
            return
        rate, step, scale = values[Control.LEARNING_RATE], int(values[Control.STEP]), values[Control.GRADIENT_SCALE]
        g_work, work = self._work[parameters.dtype]
        clip, decay = optimizer.clip_value, optimizer.weight_decay
        decoupled = isinstance(optimizer, AdamW)
        as_it_is = scale == 1 and clip is None and (decoupled or not decay)
        start = 0
        for g, w, *slots in _blocks(gradients, parameters, *state):
            n = g.size
            m = max(0, min(n, decayed - start))  # how many of them decay
            if decoupled:
                np.multiply(w[:m], 1 - rate * decay, out=w[:m])
            if not as_it_is:
                g = np.multiply(g, scale, out=g_work[:n])
                if clip is not None:
                    np.clip(g, -clip, clip, out=g)
                if decay and not decoupled:
                    np.multiply(w[:m], decay, out=work[:m])
                    np.add(g[:m], work[:m], out=g[:m])
            optimizer.update(g, rate, step, slots, w, work[:n])
            start += n
        if stored is not None:
            self.cast(parameters, stored)


def _rounded_to_odd(x: np.ndarray) -> np.ndarray:
    """Return float64 values as float32: what is not exact as the neighbour whose last bit is 1, so that rounding to
    fewer bits goes the same way as from float64 (Boldo & Melquiond, 2008)."""
    near = x.astype(np.float32)
    even = near.view(np.uint32) % 2 == 0
    return np.where(even & (near != x), np.nextafter(near, np.where(x > near, np.inf, -np.inf), dtype=np.float32), near)


def _scale_loss(loss_scaling: LossScaling, control: Array) -> bool:
    """Move the loss scale on by one step. Return True if the step is made."""
    finite = math.isfinite(control[Control.SQUARED_NORM])
    control[Control.SKIP] = not finite
    if not finite:
        control[Control.LOSS_SCALE] = max(1.0, control[Control.LOSS_SCALE] / 2)
        control[Control.CLEAN_STEPS] = 0
        return False
    control[Control.CLEAN_STEPS] += 1
    if control[Control.CLEAN_STEPS] >= loss_scaling.growth_interval:
        if control[Control.LOSS_SCALE] < LARGEST_LOSS_SCALE:
            control[Control.LOSS_SCALE] *= 2
        control[Control.CLEAN_STEPS] = 0
    return True


def _product(
    alpha: float,
    a: np.ndarray,
    b: np.ndarray,
    beta: float,
    out: np.ndarray,
    *,
    a_transposed: bool = False,
    b_transposed: bool = False,
    tf32: bool = False,
) -> None:
    """out ← α a b + β out, with a or b transposed as asked; all C-contiguous, of one dtype, and out apart from a and b.

    With β = 0, what `out` held does not matter, NaN included.
    """
    if tf32:
        raise ArgumentError("tf32", tf32, "False: the backend that rounds to TF32 is that of `for_precision('tf32')`")
    require_master("a", a)
    gemm = GEMM[out.dtype]
    # BLAS counts columns first: it sees aᵀ, bᵀ and outᵀ, and outᵀ = bᵀ aᵀ
    columns = out.T
    if gemm(alpha, b.T, a.T, beta, columns, b_transposed, a_transposed, True) is not columns:
        raise _not_written("out", out)


def _column_sums(x: np.ndarray, ones: np.ndarray, out: np.ndarray) -> None:
    """out ← the sum of x's rows, as the product of `ones` and x: in half the time of np.add.reduce.

    x: (B, n), ones: (B,), out: (n,); all C-contiguous, of one dtype.
    """
    # the numbers before the last are BLAS's offset and stride of `ones` and of `out`; arguments by name take longer
    if GEMV[out.dtype](1.0, x.T, ones, 0.0, out, 0, 1, 0, 1, False, True) is not out:
        raise _not_written("out", out)


def _not_written(name: str, out: np.ndarray) -> ArgumentError:
    """Return the error for an array of which SciPy gave BLAS a copy, as it has another dtype or order."""
    return StateError(name, f"is an array of {out.dtype} with strides {out.strides}", "be C-contiguous")


def _blocks(*arrays: np.ndarray) -> Iterable[Sequence[np.ndarray]]:
    """Walk through arrays of one size side by side: as they are, or in flat blocks where they are larger than BLOCK."""
    size = arrays[0].size
    if size <= BLOCK:
        return (arrays,)
    flat = [array.ravel() for array in arrays]
    return ([array[start : start + BLOCK] for array in flat] for start in range(0, size, BLOCK))


def _row_blocks(*arrays: np.ndarray) -> Iterable[Sequence[np.ndarray]]:
    """Walk likewise through arrays of as many rows, by whole rows; the first array's make blocks of about BLOCK."""
    rows, width = arrays[0].shape
    step = max(1, BLOCK // width)
    if rows <= step:
        return (arrays,)
    return ([array[start : start + step] for array in arrays] for start in range(0, rows, step))
