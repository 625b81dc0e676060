"""The `cpu` backend: the fastest BLAS that is installed, and one compiled pass for everything else.

A subclass of the `numpy` backend, whose arrays and results it has, to roundoff. Products go to the library that
`gpubp.backends.blas` chose. What follows a product is one pass over memory, by Numba where that is installed (see
`gpubp.backends.cpu_passes`): the bias and σ, σ' of a hidden δ, an output's δ with its loss, an update. A pass over
`SHARED` elements or more is shared among threads. Without Numba, and for the few functions that it has no pass for
(focal losses, softmax with another loss than cross-entropy), NumPy does it, in blocks.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from gpubp.backends import blas
from gpubp.backends.base import Array
from gpubp.backends.numpy_backend import NumpyBackend, loss_factors
from gpubp.backends.team import PART, Team
from gpubp.dtypes import FLOAT32, FLOAT64
from gpubp.kernels.control import Control, Losses
from gpubp.nn.activations import ACTIVATIONS, Activation, Identity
from gpubp.nn.dropout import Dropout
from gpubp.nn.losses import LOSSES, Loss, SoftmaxCrossEntropy
from gpubp.nn.optimizers import OPTIMIZERS, Adam, Momentum, Optimizer, RMSProp
from gpubp.nn.precision import require_master

SHARED = 2 * PART
"""Elements from which on a pass is shared: sleeping threads take tens of microseconds to begin."""

WHOLE_DEPTH = 1024
"""Depth up to which a step of SGD is added to the weights within the product: BLAS adds it in parts of some hundred,
and rounds the weights after each. The product of a deeper one takes so long that adding it by itself does not count."""

COLUMNS = 256
"""Columns that a thread adds up at a time."""

ALIGNMENT = 64
"""Bytes that the memory of arrays starts on multiples of: a cache line, and the widest vector."""


OutputPass = Callable[..., float]
"""A pass from outputs to their δ, which returns the sum of the loss."""

BATCH, TOTAL, LEARNING_RATE = int(Losses.BATCH), int(Losses.TOTAL), int(Control.LEARNING_RATE)


@functools.cache
def has_numba() -> bool:
    """True if Numba is installed."""
    return importlib.util.find_spec("numba") is not None


class CpuBackend(NumpyBackend):
    """See `gpubp.backends.base.Backend`.

    Raises:
        ArgumentError, BackendError: see `gpubp.backends.blas.chosen`.
    """

    name = "cpu"
    rows_at_once = 512  # whose activations, of some hundred units, stay in a core's cache
    whole_depth = WHOLE_DEPTH

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self.blas = blas.chosen().blas
        self._team = Team(self.blas.threads)
        self._gemm = tuple(self.blas.gemm[dtype] for dtype in (FLOAT32, FLOAT64))
        self._sigmas: dict[Activation, Any] = {}
        self._last_output: tuple[Loss | None, Activation | None, OutputPass | None] = None, None, None

    def __reduce__(self) -> tuple[type[CpuBackend], tuple[str]]:
        """Be copied and pickled as what makes another one: compiled passes and libraries are of a process."""
        return type(self), (self.device,)

    @functools.cached_property
    def _passes(self) -> Any:
        """The compiled passes; None without Numba. Loaded when they are first needed: Numba takes long to import."""
        return importlib.import_module("gpubp.backends.cpu_passes") if has_numba() else None

    @property
    def provenance(self) -> dict[str, str | int]:
        """See `Backend.provenance`: the library of products, its threads, and what compiles the passes."""
        passes = f"Numba {metadata.version('numba')}" if has_numba() else "NumPy"
        return {"blas": self.blas.title, "threads": self.blas.threads, "passes": passes}

    # --- arrays -----------------------------------------------------------------------------------------------------
    def empty(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        dtype = np.dtype(dtype)
        memory = np.empty(math.prod(shape) * dtype.itemsize + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        return memory[start : start + memory.size - ALIGNMENT].view(dtype).reshape(tuple(shape))

    def zeros(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        made = self.empty(shape, dtype)
        made[...] = 0
        return made

    def gather_rows(self, sources: Sequence[Array], order: Array, control: Array, out: Sequence[Array]) -> None:
        start, count = int(control[Control.BATCH_OFFSET]), len(out[0])
        rows = order[start : start + count]
        for source, gathered in zip(sources, out, strict=True):
            self._gather(source, rows, gathered)

    def _gather(self, source: Array, rows: Array, out: Array) -> None:
        def part(start: int, stop: int) -> None:
            # mode="clip" lets NumPy write to `out` directly; the order holds valid rows only
            np.take(source, rows[start:stop], axis=0, out=out[start:stop], mode="clip")

        self._team.run(part, len(out), out.size // len(out))

    def _squared_norm(self, x: Array) -> float:
        passes, flat = self._passes, x.reshape(-1)
        if passes is None:
            return super()._squared_norm(x)
        return sum(self._team.run(lambda start, stop: passes.squared_norm(flat[start:stop]), flat.size))

    # --- products ---------------------------------------------------------------------------------------------------
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
        if tf32 or (self._passes is None and self.blas.name == "scipy"):
            super()._product(alpha, a, b, beta, out, a_transposed=a_transposed, b_transposed=b_transposed, tf32=tf32)
            return
        require_master("a", a)
        if self._passes is None:
            blas.multiply(self.blas, a_transposed, b_transposed, alpha, a, b, beta, out)
        else:
            self._passes.multiply(self._gemm, a_transposed, b_transposed, alpha, a, b, beta, out)

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
        if z is a:
            z = None
        sigma = self._sigma(activation)
        if sigma is None or tf32:
            super().dense_forward(a_prev, w, b, activation, z, a, tf32, alpha, dropout, control)
            return
        if a.size < SHARED:
            require_master("a", a)
            self._passes.dense_forward(self._gemm, alpha, a_prev, w, b, sigma, z, a)
        else:
            self._product(alpha, a_prev, w, 0.0, a if z is None else z, b_transposed=True)
            if z is not None or b is not None or not isinstance(activation, Identity):
                self._activate(b, activation, z, a)
        if dropout is not None:
            a[~self._mask(dropout, control, a)] = 0

    def _activate(self, b: Array | None, activation: Activation, z: Array | None, a: Array) -> None:
        """z ← z + b ; a ← σ(z). z: None if a holds it and nobody keeps it."""
        passes, sigma = self._passes, self._sigma(activation)

        def part(start: int, stop: int) -> None:
            passes.activate(sigma, b, None if z is None else z[start:stop], a[start:stop])

        self._team.run(part, *a.shape)

    def softmax(self, z: Array, a: Array) -> None:
        passes = self._passes
        if passes is None:
            super().softmax(z, a)
            return
        require_master("z", z)
        self._team.run(
            lambda start, stop: passes.softmax(z[start:stop], a[start:stop], a[start:stop].reshape(-1)), *z.shape
        )

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
        make = self._output_pass(loss, activation)
        if make is None:
            super().output_delta(loss, activation, output, saved, y, weights, control, losses, delta, divisor)
            return
        require_master("output", output)
        factor, scale = loss_factors(loss, len(output), weights, control, divisor)
        if delta.size <= PART:
            total = make(output, saved, y, weights, scale, delta)
        else:

            def part(start: int, stop: int) -> float:
                rows = slice(start, stop)
                of_rows = None if weights is None else weights[rows]
                return make(output[rows], saved[rows], y[rows], of_rows, scale, delta[rows])

            total = sum(self._team.run(part, *delta.shape))
        losses[BATCH] = total * factor
        losses[TOTAL] += total

    def _output_pass(self, loss: Loss, activation: Activation) -> OutputPass | None:
        """Return the pass of this loss after this activation; None if there is none."""
        last_loss, last_activation, made = self._last_output
        if loss is not last_loss or activation is not last_activation:
            made = None if self._passes is None else _output_pass(self._passes, loss, activation)
            self._last_output = loss, activation, made
        return made

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
        passes, sigma = self._passes, self._sigma(activation)
        if sigma is None or tf32 or delta.size >= SHARED:
            super().hidden_delta(delta_next, w_next, activation, saved, delta, tf32, dropout, control)
            return
        require_master("delta", delta)
        factor = 1.0 if dropout is None else dropout.factor
        passes.hidden_delta(self._gemm, factor, delta_next, w_next, sigma, saved, delta)
        if dropout is not None:
            delta[~self._mask(dropout, control, delta)] = 0

    def hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        passes, sigma = self._passes, self._sigma(activation)
        if sigma is None:
            super().hadamard_derivative(product, activation, saved, delta)
            return
        require_master("product", product)

        def part(start: int, stop: int) -> None:
            of_rows = None if product is delta else product[start:stop]
            passes.multiply_derivative(sigma, saved[start:stop], of_rows, delta[start:stop])

        self._team.run(part, *delta.shape)

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
        if self._in_one_call(delta, tf32):
            self._over_the_batch(alpha, delta, a_prev, float(accumulate), gradient, 1.0, bias_gradient)
        else:
            super().weight_gradient(delta, a_prev, gradient, tf32, alpha, accumulate, bias_gradient)

    def _add_columns(self, alpha: float, x: Array, beta: float, out: Array) -> None:
        passes = self._passes
        if passes is None:
            super()._add_columns(alpha, x, beta, out)
            return
        require_master("delta", x)
        rows, width = x.shape
        sums = self._step_like(out)

        def part(start: int, stop: int) -> None:
            passes.add_columns(alpha, x, beta, sums, start * COLUMNS, min(stop * COLUMNS, width), out)

        self._team.run(part, -(-width // COLUMNS), rows * COLUMNS)

    # --- update -----------------------------------------------------------------------------------------------------
    def weight_step(
        self, delta: Array, a_prev: Array, control: Array, w: Array, tf32: bool = False, b: Array | None = None
    ) -> None:
        if self._in_one_call(delta, tf32) and len(delta) <= self.whole_depth:
            step = -control.item(LEARNING_RATE)
            self._over_the_batch(step, delta, a_prev, 1.0, w, step, b)
        else:
            super().weight_step(delta, a_prev, control, w, tf32, b)

    def bias_step(self, delta: Array, control: Array, b: Array) -> None:
        self._add_columns(-float(control[Control.LEARNING_RATE]), delta, 1.0, b)

    def _in_one_call(self, delta: Array, tf32: bool) -> bool:
        """True if what reads δ is compiled, and short enough for one thread."""
        return self._passes is not None and not tf32 and delta.size < SHARED

    def _over_the_batch(
        self, alpha: float, delta: Array, a_prev: Array, beta: float, out: Array, of_sums: float, column: Array | None
    ) -> None:
        """out ← α δᵀ a_prev + β out ; column ← of_sums Σ_batch δ + β column."""
        require_master("out", out)
        sums = self._steps[out.dtype]
        if column is not None and column.size > sums.size:
            sums = self._steps[out.dtype] = self.empty((column.size,), out.dtype)
        self._passes.over_the_batch(self._gemm, alpha, delta, a_prev, beta, out, of_sums, sums, column)

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
        passes = self._passes
        if passes is None or not _is_ours(optimizer, OPTIMIZERS):
            super().update(optimizer, gradients, decayed, control, state, parameters, stored)
            return
        values = control.tolist()
        if values[Control.SKIP]:
            return
        rate = values[Control.LEARNING_RATE]
        rule, rates = (
            passes.RULES[optimizer.name](*_numbers(optimizer)),
            _rates(passes, optimizer, rate, int(values[Control.STEP] + 1 - values[Control.SKIPPED])),
        )
        scale, clip = values[Control.GRADIENT_SCALE], optimizer.clip_value
        of_bias = passes.Gradient(scale, math.inf if clip is None else clip, 0.0, 0.0, 1.0, 0.0)
        added, apart = optimizer.in_gradient, optimizer.apart
        of_weights = of_bias._replace(l1=added.l1, l2=added.l2, keep=1 - rate * apart.l2, shrink=rate * apart.l1)
        first, second = (*state, gradients, gradients)[:2]
        for gradient, begin, end in ((of_weights, 0, decayed), (of_bias, decayed, len(parameters))):

            def part(start: int, stop: int, gradient: Any = gradient, begin: int = begin) -> None:
                of_part = slice(begin + start, begin + stop)
                arrays = gradients[of_part], parameters[of_part], first[of_part], second[of_part]
                passes.update(rule, rates, gradient, *arrays)

            self._team.run(part, end - begin)
        if stored is not None:
            self.cast(parameters, stored)

    # --- what is made once ------------------------------------------------------------------------------------------
    def _sigma(self, activation: Activation) -> Any:
        """Return what an activation is to the passes; None if there are none, or none for it."""
        sigma = self._sigmas.get(activation)
        if sigma is None and self._passes is not None:
            sigma = self._sigmas[activation] = _sigma(self._passes, activation)
        return sigma


def _output_pass(passes: Any, loss: Loss, activation: Activation) -> OutputPass | None:
    """Return the pass (output, saved, y, weights, scale, delta) of a loss after an activation, if it is compiled."""
    if not _is_ours(loss, LOSSES):
        return None
    if isinstance(loss, SoftmaxCrossEntropy):
        smoothing = loss.label_smoothing

        def softmax(output: Array, saved: Array, y: Array, weights: Array | None, scale: float, delta: Array) -> float:
            return passes.output_delta_softmax(output, y, weights, scale, smoothing, delta, delta.reshape(-1))

        return softmax
    # the derivative of a loss from logits has σ' in it
    sigma = _sigma(passes, Identity() if loss.from_logits else activation)
    if loss.name not in passes.ELEMENTWISE_LOSSES or sigma is None:
        return None
    return functools.partial(passes.output_delta, passes.ELEMENTWISE_LOSSES[loss.name](loss.parameter), sigma)


def _sigma(passes: Any, activation: Activation) -> Any:
    """Return an activation as the passes know it; None for softmax, and for one that somebody else has defined."""
    known = activation.name in passes.SIGMAS and _is_ours(activation, ACTIVATIONS)
    return passes.SIGMAS[activation.name](activation.parameter) if known else None


def _is_ours(described: Any, table: Mapping[str, type]) -> bool:
    """True if this is what the table has by its name, and no subclass of it."""
    return type(described) is table.get(described.name)


def _numbers(optimizer: Optimizer) -> tuple[float, float, float]:
    """Return μ or ρ or β₁, then β₂, then ε; 0 for what the optimiser does not have."""
    match optimizer:
        case Adam():
            return optimizer.beta1, optimizer.beta2, optimizer.epsilon
        case RMSProp():
            return optimizer.decay, 0.0, optimizer.epsilon
        case Momentum():
            return optimizer.momentum, 0.0, 0.0
    return 0.0, 0.0, 0.0


def _rates(passes: Any, optimizer: Optimizer, rate: float, t: int) -> Any:
    if not isinstance(optimizer, Adam):
        return passes.Rates(rate, rate, 1.0)
    return passes.Rates(rate, rate / (1 - optimizer.beta1**t), 1 / (1 - optimizer.beta2**t))
