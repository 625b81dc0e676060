"""The protocol that every backend meets: the algorithm's primitives and a few array functions.

`network.py` uses an array library through this page alone. Of an array it uses four things that NumPy, CuPy, Numba's
device arrays and the emulated device all offer: `shape`, `dtype`, slices of leading rows (`a[:n]`, `flat[i:j]`) and
`reshape`, both as views.

Conventions, for every method:

- Rows are examples. B is the batch size, n_l the width of layer l. Every array is C-contiguous.
- Results go into arrays that the caller made; the parameter that is written stands last. Inputs never alias outputs,
  except for what `update`, `weight_step` and `scale` change in place.
- Arrays have one of two dtypes, by their role (see `gpubp.nn.precision.Precision`): weights, activations and deltas the
  storage dtype; biases, gradients, parameters, the optimiser's state and targets the master dtype. The two differ if
  storage has 16 bits: then all is computed in float32 and rounded when it is stored, to nearest and without saturation.
- `tf32` on a product: its float32 operands are rounded to TF32 first (`gpubp.nn.precision.round_to_tf32`).
- Nothing waits for the device, except `asnumpy` and `synchronize`.
- What changes from step to step is read from `control`, a small float64 array on the device (see
  `gpubp.kernels.control.Control`), so that a step can be captured once and replayed with other values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpubp.nn.precision import LossScaling

if TYPE_CHECKING:
    from gpubp.nn.activations import Activation
    from gpubp.nn.losses import Loss
    from gpubp.nn.optimizers import Optimizer

Array = Any
"""An array of the backend's own library."""

FORMS = ("NT", "NN", "TN")
"""The forms of a product: see kernels/cuda/forms.cuh or kernels/numba/forms.py."""


class Backend(Protocol):
    """One array library and one implementation of every primitive."""

    name: str
    device: str
    variants: tuple[str, ...]
    """The rungs of the ladder that products come in, simplest first; empty if there is one way only."""
    variant: str | None
    """The rung that products take; None: the plan decides."""
    stores_halves: bool
    """True if the primitives that are no products take 16-bit arrays, whatever the device multiplies."""
    captures: bool
    """True if `capture` can record."""

    def for_precision(self, precision: str) -> Backend:
        """Return the backend that computes in this kind of arithmetic: this one, or one on the same device.

        Args:
            precision: a long or short name of `gpubp.dtypes.ARITHMETIC`.

        Raises:
            ArgumentError: the name is unknown, or the device cannot compute so.
        """

    # --- arrays -----------------------------------------------------------------------------------------------------
    def asarray(self, x: Any, dtype: str | np.dtype) -> Array:
        """Return x as an array of this backend with this dtype; without a copy if x is one already."""

    def asnumpy(self, x: Array) -> np.ndarray:
        """Return a copy of x on the host. Waits for the device."""

    def empty(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        """Return an array of this shape with undefined contents."""

    def zeros(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        """Return an array of this shape, all zeros."""

    def upload(self, host: np.ndarray, out: Array) -> None:
        """out ← host, of the same shape and dtype, without an allocation on the device."""

    def copy(self, source: Array, out: Array) -> None:
        """out ← source, of the same shape and dtype."""

    def cast(self, source: Array, out: Array) -> None:
        """out ← source rounded to out's dtype; same shape."""

    def gather_rows(self, source: Array, order: Array, control: Array, out: Array) -> None:
        """out[i] ← source[order[o + i]] for every row of out, with o = control[BATCH_OFFSET].

        source: (N, ...) of out's dtype, order: (N,) int64, out: (B, ...) with B ≤ N − o.
        """

    def squared_norm(self, x: Array, out: Array) -> None:
        """out[0] ← Σ x², summed in float64 in a fixed order; out: (1,) float64. x has any shape."""

    def scale(self, x: Array, factor: float) -> None:
        """x ← factor · x."""

    def row_argmax(self, x: Array, out: Array) -> None:
        """out[i] ← the first j of the largest x[i, j]; a NaN counts as the largest, as in NumPy.

        x: (B, n), out: (B,) int64.
        """

    def synchronize(self) -> None:
        """Wait until the device is done; raise what went wrong on it."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the primitives that `work` calls, instead of running them. Return what runs all of them again.

        `work` has run before, with the same arrays, so that nothing is compiled or allocated while it is recorded; it
        copies nothing from or to the host.

        Raises:
            BackendError: the backend cannot record.
        """

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
        """z = a_prev wᵀ + b ; a = σ(z).

        a_prev: (B, n_{l-1}), w: (n_l, n_{l-1}), b: (n_l,) or None, a: (B, n_l);
        z: (B, n_l) if the caller keeps it (σ' reads it), else None. σ is elementwise: softmax has a method.
        """

    def softmax(self, z: Array, a: Array) -> None:
        """a[i] = exp(z[i] − max z[i]) / Σ exp(z[i] − max z[i]); z, a: (B, n), a in z's or the master dtype."""

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
        """δ^L = ∂L/∂a ⊙ σ'(z), and the loss: losses[BATCH] ← L, losses[TOTAL] ← losses[TOTAL] + Σ of the examples'.

        output: (B, n_L), what the loss reads: the logits z for a loss from logits, else a.
        saved: (B, n_L), what σ' reads (a or z, as the activation says); for a loss from logits, z again.
        y: (B, n_L) of the master dtype, or (B,) int64 labels if the loss takes labels. A label that is no class makes
            the loss and its row of delta NaN; with a cross-entropy, so does a number outside 0 to 1 in its own place.
        control: δ^L is multiplied by control[LOSS_SCALE] before it is rounded; the loss is not. None: no scale.
        losses: (2,) float64 (see `gpubp.kernels.control.Losses`), delta: (B, n_L).
        """

    def hidden_delta(
        self,
        delta_next: Array,
        w_next: Array,
        activation: Activation,
        saved: Array,
        delta: Array,
        tf32: bool = False,
    ) -> None:
        """δ^l = (δ^{l+1} w^{l+1}) ⊙ σ'(z^l).

        delta_next: (B, n_{l+1}), w_next: (n_{l+1}, n_l), saved: (B, n_l), a or z as the activation says;
        delta: (B, n_l).
        """

    def transpose_product(self, delta_next: Array, w_next: Array, product: Array, tf32: bool = False) -> None:
        """product = δ^{l+1} w^{l+1}, the first half of `hidden_delta`."""

    def hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        """delta = product ⊙ σ'(z^l), the second half of `hidden_delta`."""

    def weight_gradient(self, delta: Array, a_prev: Array, gradient: Array, tf32: bool = False) -> None:
        """∂L/∂w = δᵀ a_prev; delta: (B, n_l), a_prev: (B, n_{l-1}), gradient: (n_l, n_{l-1})."""

    def bias_gradient(self, delta: Array, gradient: Array) -> None:
        """∂L/∂b = Σ_batch δ, a column sum; delta: (B, n_l), gradient: (n_l,)."""

    def product(
        self, form: str, a: Array, b: Array, c: Array, alpha: float = 1.0, beta: float = 0.0, tf32: bool = False
    ) -> None:
        """c ← α A B + β c, the general product; c: (M, N) of the master dtype, not read where β = 0.

        form: "NT": a is (M, K), b (N, K); "NN": a is (M, K), b (K, N); "TN": a is (K, M), b (K, N).
        """

    # --- update -----------------------------------------------------------------------------------------------------
    def weight_step(self, delta: Array, a_prev: Array, control: Array, w: Array, tf32: bool = False) -> None:
        """w ← w − η δᵀ a_prev with η = control[LEARNING_RATE]: the weight gradient and plain SGD in one product.

        Raises:
            ArgumentError: w has 16 bits: the step would be rounded away.
        """

    def prepare_update(self, max_norm: float | None, control: Array, loss_scaling: LossScaling | None = None) -> None:
        """Count the update, and set the gradient's scale: STEP ← STEP + 1 and

        GRADIENT_SCALE ← min(1, max_norm / √SQUARED_NORM), or 1 if max_norm is None.

        With loss scaling, SQUARED_NORM is that of the scaled gradient, and the norm is √SQUARED_NORM / LOSS_SCALE.
        If it is finite, GRADIENT_SCALE is divided by LOSS_SCALE, SKIP ← 0 and CLEAN_STEPS ← CLEAN_STEPS + 1; at
        `growth_interval` of them LOSS_SCALE is doubled, and they start from 0. If it is not, SKIP ← 1,
        LOSS_SCALE ← max(1, LOSS_SCALE / 2), CLEAN_STEPS ← 0, and STEP stays.
        """

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
        """Make one step of the optimiser's recurrence over all parameters at once; none if SKIP is set.

        gradients, parameters and each array of state: (P,), the first `decayed` of them subject to weight decay;
        reads LEARNING_RATE, STEP, GRADIENT_SCALE and SKIP. Gradients are scaled, then clipped by value, then used.
        stored: (P,) of the storage dtype, the new parameters rounded to it, in the same pass; None if nobody reads such
        a copy.
        """
