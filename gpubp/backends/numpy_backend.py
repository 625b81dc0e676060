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
from gpubp.backends.base import FORMS, Array, Mark
from gpubp.backends.numpy_rounded import rounded
from gpubp.distributed.ranks import Ranks
from gpubp.dtypes import ARITHMETIC, BFLOAT16, PLAIN, canonical
from gpubp.errors import ArgumentError, BackendError, StateError, unknown_name
from gpubp.kernels.control import LARGEST_LOSS_SCALE, Control, Losses
from gpubp.nn.activations import Activation, Identity, Softmax
from gpubp.nn.dropout import Dropout
from gpubp.nn.losses import Loss
from gpubp.nn.optimizers import Optimizer
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


class _Reached:
    """A mark: what was called has been done."""

    def synchronize(self) -> None:
        pass


class NumpyBackend:
    """See `gpubp.backends.base.Backend`."""

    name = "numpy"
    variants: tuple[str, ...] = ()
    variant: str | None = None
    stores_halves = True
    tensor_doubles = False
    captures = False
    rows_at_once = 4096
    whole_depth = WHOLE_DEPTH
    decided_by: tuple[Any, ...] = ()

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._work = {dtype: np.empty((2, BLOCK), dtype) for dtype in DTYPES}
        self._ones = {dtype: np.ones(0, dtype) for dtype in self._work}
        self._steps = {dtype: np.empty(0, dtype) for dtype in self._work}
        self._drawn: dict[int, tuple[Dropout, tuple[int, ...], np.ndarray]] = {}

    @property
    def provenance(self) -> dict[str, str | int]:
        """See `Backend.provenance`."""
        return {}

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

    def pinned(self, shape: Sequence[int], dtype: str | np.dtype) -> np.ndarray:
        return np.empty(shape, dtype)

    def upload_beside(self, pairs: Sequence[tuple[np.ndarray, Array]], after: Mark) -> Mark:
        for host, out in pairs:
            self.upload(host, out)
        return self.mark()

    def mark(self) -> Mark:
        return _Reached()

    def wait_for(self, mark: Mark) -> None:
        pass

    @property
    def free_memory(self) -> int | None:
        """See `Backend.free_memory`."""
        return None

    def copy(self, source: Array, out: Array) -> None:
        out[...] = source

    def cast(self, source: Array, out: Array) -> None:
        if source is not out:
            with np.errstate(over="ignore"):  # what is too large becomes infinite
                if source.dtype == np.float64 and out.dtype == BFLOAT16:
                    source = _rounded_to_odd(source)  # ml_dtypes rounds to float32 on the way
                np.copyto(out, source, casting="same_kind")

    def gather_rows(self, sources: Sequence[Array], order: Array, control: Array, out: Sequence[Array]) -> None:
        start = int(control[Control.BATCH_OFFSET])
        rows = order[start : start + len(out[0])]
        for source, gathered in zip(sources, out, strict=True):
            # mode="clip" lets NumPy write to `gathered` directly; the order holds valid rows only
            np.take(source, rows, axis=0, out=gathered, mode="clip")

    def scale(self, x: Array, factor: float) -> None:
        require_master("x", x)
        np.multiply(x, factor, out=x)

    def row_argmax(self, x: Array, out: Array) -> None:
        np.argmax(x, axis=1, out=out)

    def synchronize(self) -> None:
        pass

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        raise BackendError(f"backend {self.name!r} cannot capture a step; backend 'cupy' can")

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
        alpha: float = 1.0,
        dropout: Dropout | None = None,
        control: Array | None = None,
    ) -> None:
        if z is None:
            z = a
        if b is None:
            self._product(alpha, a_prev, w, 0.0, z, b_transposed=True, tf32=tf32)
        else:
            z[...] = b
            self._product(alpha, a_prev, w, 1.0, z, b_transposed=True, tf32=tf32)
        if not (isinstance(activation, Identity) and z is a):
            for part_z, part_a in _blocks(z, a):
                activation.apply(part_z, part_a)
        if dropout is not None:
            a[~self._mask(dropout, control, a)] = 0

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
        weights: Array | None,
        control: Array | None,
        losses: Array,
        delta: Array,
        divisor: float | None = None,
    ) -> None:
        require_master("output", output)
        total = 0.0
        arrays = (output, saved, y, delta) if weights is None else (output, saved, y, delta, weights)
        for part_output, part_saved, part_y, part_delta, *part_weights in _row_blocks(*arrays):
            total += loss.evaluate(part_output, part_y, part_delta, *part_weights)
            if not loss.from_logits:
                work = np.empty_like(part_delta)
                activation.multiply_derivative(part_saved, part_delta, part_delta, work)
                for of_rows in part_weights:
                    part_delta[of_rows == 0] = 0  # also where σ' is NaN
        factor, scale = loss_factors(loss, len(output), weights, control, divisor)
        if scale != 1:
            np.multiply(delta, scale, out=delta)
        losses[Losses.BATCH] = total * factor
        losses[Losses.TOTAL] += total

    def hidden_delta(
        self,
        delta_next: Array,
        w_next: Array,
        activation: Activation,
        saved: Array,
        delta: Array,
        tf32: bool = False,
        dropout: Dropout | None = None,
        control: Array | None = None,
    ) -> None:
        factor = 1.0 if dropout is None else dropout.factor
        self._product(factor, delta_next, w_next, 0.0, delta, tf32=tf32)
        self.hadamard_derivative(delta, activation, saved, delta)
        if dropout is not None:
            delta[~self._mask(dropout, control, delta)] = 0

    def _mask(self, dropout: Dropout, control: Array | None, x: Array) -> np.ndarray:
        """Return which elements of a layer's x (B, n_l) dropout keeps in the step that `control` says.

        The last mask of each layer is kept, as the backward pass asks for it again: drawing takes NumPy long.
        """
        asked = (*x.shape, int(_given("control", control)[Control.STEP]))
        drawn = self._drawn.get(dropout.layer)
        if drawn is None or drawn[:2] != (dropout, asked):
            drawn = self._drawn[dropout.layer] = dropout, asked, dropout.mask(*asked)
        return drawn[2]

    def transpose_product(self, delta_next: Array, w_next: Array, product: Array, tf32: bool = False) -> None:
        self._product(1.0, delta_next, w_next, 0.0, product, tf32=tf32)

    def hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        require_master("product", product)
        work = self._work[delta.dtype][0]
        for part, part_saved, part_delta in _blocks(product, saved, delta):
            activation.multiply_derivative(part_saved, part, part_delta, work[: part.size].reshape(part.shape))

    def weight_gradient(
        self,
        delta: Array,
        a_prev: Array,
        gradient: Array,
        tf32: bool = False,
        alpha: float = 1.0,
        accumulate: bool = False,
        bias_gradient: Array | None = None,
    ) -> None:
        self._product(alpha, delta, a_prev, float(accumulate), gradient, a_transposed=True, tf32=tf32)
        if bias_gradient is not None:
            self.bias_gradient(delta, bias_gradient, accumulate)

    def bias_gradient(self, delta: Array, gradient: Array, accumulate: bool = False) -> None:
        self._add_columns(1.0, delta, float(accumulate), gradient)

    def _add_columns(self, alpha: float, x: Array, beta: float, out: Array) -> None:
        """out ← α times the sum of x's rows + β out."""
        require_master("delta", x)
        rows = len(x)
        if rows > self._ones[x.dtype].size:
            self._ones[x.dtype] = np.ones(rows, x.dtype)
        _column_sums(alpha, x, self._ones[x.dtype][:rows], beta, out)

    def product(
        self, form: str, a: Array, b: Array, c: Array, alpha: float = 1.0, beta: float = 0.0, tf32: bool = False
    ) -> None:
        if form not in FORMS:
            raise unknown_name("form", form, FORMS)
        self._product(alpha, a, b, beta, c, a_transposed=form == "TN", b_transposed=form == "NT", tf32=tf32)

    def _product(
        self,
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
        """out ← α a b + β out, with a or b transposed as asked; all C-contiguous, of one dtype, and apart from `out`.

        With β = 0, what `out` held does not matter, NaN included.
        """
        if tf32:
            raise ArgumentError(
                "tf32", tf32, "False: the backend that rounds to TF32 is that of `for_precision('tf32')`"
            )
        require_master("a", a)
        gemm = GEMM[out.dtype]
        # BLAS counts columns first: it sees aᵀ, bᵀ and outᵀ, and outᵀ = bᵀ aᵀ
        columns = out.T
        if gemm(alpha, b.T, a.T, beta, columns, b_transposed, a_transposed, True) is not columns:
            raise _not_written("out", out)

    def all_reduce(self, x: Array, ranks: Ranks) -> None:
        require_master("x", x)
        ranks.add_up(x)

    # --- update -----------------------------------------------------------------------------------------------------
    def weight_step(
        self, delta: Array, a_prev: Array, control: Array, w: Array, tf32: bool = False, b: Array | None = None
    ) -> None:
        require_master("w", w)
        rate = float(control[Control.LEARNING_RATE])
        if b is not None:
            self.bias_step(delta, control, b)
        if len(delta) <= self.whole_depth:
            self._product(-rate, delta, a_prev, 1.0, w, a_transposed=True, tf32=tf32)
            return
        step = self._step_like(w)
        self._product(-rate, delta, a_prev, 0.0, step, a_transposed=True, tf32=tf32)
        for part, part_step in _blocks(w, step):
            np.add(part, part_step, out=part)

    def bias_step(self, delta: Array, control: Array, b: Array) -> None:
        """b ← b − η Σ_batch δ: what `weight_step` does beside its product."""
        step = self._step_like(b)  # BLAS would round b after each row that it adds
        self._add_columns(-float(control[Control.LEARNING_RATE]), delta, 0.0, step)
        np.add(b, step, out=b)

    def _step_like(self, w: Array) -> Array:
        """Return working memory of w's shape and dtype, made for the largest that has been asked for."""
        if w.size > self._steps[w.dtype].size:
            self._steps[w.dtype] = np.empty(w.size, w.dtype)
        return self._steps[w.dtype][: w.size].reshape(w.shape)

    def prepare_update(
        self, gradients: Array, max_norm: float | None, control: Array, loss_scaling: LossScaling | None = None
    ) -> None:
        control[Control.SQUARED_NORM] = self._squared_norm(gradients)
        loss_scale = 1.0
        if loss_scaling is not None:
            loss_scale = float(control[Control.LOSS_SCALE])
            if not _scale_loss(loss_scaling, control):
                return
        scale = 1.0
        if max_norm is not None:
            norm = float(control[Control.SQUARED_NORM]) ** 0.5 / loss_scale
            # written so that a NaN norm gives a NaN scale, which shows, and not 1
            scale = 1.0 if norm <= max_norm else max_norm / norm
        control[Control.GRADIENT_SCALE] = scale / loss_scale

    def _squared_norm(self, x: Array) -> float:
        """Return Σ x², summed in float64 in a fixed order."""
        return sum(float(np.square(part, dtype=np.float64).sum()) for (part,) in _blocks(x))

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
        rate, scale = values[Control.LEARNING_RATE], values[Control.GRADIENT_SCALE]
        step = int(values[Control.STEP] + 1 - values[Control.SKIPPED])
        g_work, work = self._work[parameters.dtype]
        clip, in_gradient, apart = optimizer.clip_value, optimizer.in_gradient, optimizer.apart
        as_it_is = scale == 1 and clip is None and not (in_gradient.l1 or in_gradient.l2)
        start = 0
        for g, w, *slots in _blocks(gradients, parameters, *state):
            n = g.size
            m = max(0, min(n, decayed - start))  # how many of them are weights
            weights, spare = w[:m], work[:m]
            if not as_it_is:
                g = np.multiply(g, scale, out=g_work[:n])
                if clip is not None:
                    np.clip(g, -clip, clip, out=g)
                if in_gradient.l2:
                    np.multiply(weights, in_gradient.l2, out=spare)
                    np.add(g[:m], spare, out=g[:m])
                if in_gradient.l1:
                    np.sign(weights, out=spare)
                    np.multiply(spare, in_gradient.l1, out=spare)
                    np.add(g[:m], spare, out=g[:m])
            if apart.l2:
                np.multiply(weights, 1 - rate * apart.l2, out=weights)
            if apart.l1:
                limit = rate * apart.l1
                np.clip(weights, -limit, limit, out=spare)
                np.subtract(weights, spare, out=weights)
            optimizer.update(g, rate, step, slots, w, work[:n])
            start += n
        if stored is not None:
            self.cast(parameters, stored)


def loss_factors(
    loss: Loss, rows: int, weights: Array | None, control: Array | None, divisor: float | None
) -> tuple[float, float]:
    """Return what `output_delta`, of these arguments, multiplies the sum of the examples' losses by, and δ^L."""
    if weights is None:
        factor = 1 / (loss.divisor(rows) if divisor is None else divisor)
    else:
        factor = float(_given("control", control)[Control.LOSS_FACTOR])
    return factor, factor if control is None else float(control[Control.LOSS_SCALE]) * factor


def _given(argument: str, x: Array | None) -> Array:
    """Return an argument that another one asks for. Raises ArgumentError if it is None."""
    if x is None:
        raise StateError(argument, "is None", "be given with weights and with dropout")
    return x


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
        control[Control.SKIPPED] += 1
        return False
    control[Control.CLEAN_STEPS] += 1
    if control[Control.CLEAN_STEPS] >= loss_scaling.growth_interval:
        if control[Control.LOSS_SCALE] < LARGEST_LOSS_SCALE:
            control[Control.LOSS_SCALE] *= 2
        control[Control.CLEAN_STEPS] = 0
    return True


def _column_sums(alpha: float, x: np.ndarray, ones: np.ndarray, beta: float, out: np.ndarray) -> None:
    """out ← α times the sum of x's rows + β out, as a product of `ones` and x: in half the time of np.add.reduce.

    x: (B, n), ones: (B,), out: (n,); all C-contiguous, of one dtype.
    """
    # the numbers before the last are BLAS's offset and stride of `ones` and of `out`; arguments by name take longer
    if GEMV[out.dtype](alpha, x.T, ones, beta, out, 0, 1, 0, 1, False, True) is not out:
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
