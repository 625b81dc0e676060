"""The protocol that every backend meets: the algorithm's primitives and a few array functions.

`network.py` uses an array library through this page alone. Of an array it uses four things that NumPy, CuPy, Numba's
device arrays and the emulated device all offer: `shape`, `dtype`, slices of rows (`a[i:j]`) and `reshape`, both as
views.

Conventions, for every method:

- Rows are examples. B is the batch size, n_l the width of layer l. Every array is C-contiguous.
- Results go into arrays that the caller made; the parameter that is written stands last. Inputs never alias outputs,
  except for what `update`, `weight_step` and `scale` change in place.
- Arrays have one of two dtypes, by their role (see `gpubp.nn.precision.Precision`): weights, activations and deltas the
  storage dtype; biases, gradients, parameters, the optimiser's state and targets the master dtype. The two differ if
  storage has 16 bits: then all is computed in float32 and rounded when it is stored, to nearest and without saturation.
- `tf32` on a product: its float32 operands are rounded to TF32 first (`gpubp.nn.precision.round_to_tf32`; on the rung
  `wgmma` ties go to even: `gpubp.backends.tensor_maps`).
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
    from gpubp.distributed.ranks import Ranks
    from gpubp.nn.activations import Activation
    from gpubp.nn.dropout import Dropout
    from gpubp.nn.losses import Loss
    from gpubp.nn.optimizers import Optimizer

Array = Any
"""An array of the backend's own library."""

FORMS = ("NT", "NN", "TN")
"""The forms of a product: see kernels/cuda/forms.cuh or kernels/numba/forms.py."""


class Mark(Protocol):
    """A point in a backend's work; CuPy and Numba call it an event."""

    def synchronize(self) -> None:
        """Wait until the device has reached it."""


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
    tensor_doubles: bool
    """True if products of float64 may run on tensor cores."""
    captures: bool
    """True if `capture` can record."""
    rows_at_once: int
    """Rows that predictions and evaluations of more pass in parts of."""

    @property
    def provenance(self) -> dict[str, str | int]:
        """What the bits of its results depend on besides the numbers that go in, by name: of a GPU the chip and how
        plans are chosen; of a CPU the library of its products. Of NumPy, which is known by its version, nothing."""

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

    def pinned(self, shape: Sequence[int], dtype: str | np.dtype) -> np.ndarray:
        """Return an array on the host with undefined contents, from which `upload_beside` copies while the device
        computes: its memory is page-locked."""

    def upload_beside(self, pairs: Sequence[tuple[np.ndarray, Array]], after: Mark) -> Mark:
        """out ← host for each pair (host, out), of the same shape and dtype, beside the primitives that are called from
        here on, once what came before `after` is done. Return a mark behind the copies.

        The caller leaves the hosts' arrays, which `pinned` made, as they are until that mark is reached.
        """

    def mark(self) -> Mark:
        """Return a mark behind all primitives that have been called."""

    def wait_for(self, mark: Mark) -> None:
        """Let the primitives that are called from here on run behind a mark."""

    @property
    def free_memory(self) -> int | None:
        """The bytes that the device has left for arrays; None if its memory is the host's."""

    def copy(self, source: Array, out: Array) -> None:
        """out ← source, of the same shape and dtype."""

    def cast(self, source: Array, out: Array) -> None:
        """out ← source rounded to out's dtype; same shape."""

    def gather_rows(self, sources: Sequence[Array], order: Array, control: Array, out: Sequence[Array]) -> None:
        """out[s][i] ← sources[s][order[o + i]] for every row i, of one to three arrays s; o = control[BATCH_OFFSET].

        sources: (N, ...) each, of its out's dtype, order: (M,) int64 row numbers, out: (B, ...) each, B ≤ M − o.
        """

    def scale(self, x: Array, factor: float) -> None:
        """x ← factor · x."""

    def row_argmax(self, x: Array, out: Array) -> None:
        """out[i] ← the first j of the largest x[i, j]; a NaN counts as the largest, as in NumPy.

        x: (B, n), out: (B,) int64.
        """

    def synchronize(self) -> None:
        """Wait until the device is done; raise what went wrong on it."""

    @property
    def decided_by(self) -> tuple[Any, ...]:
        """What a caller may change that launches depend on, besides their arguments. A step that was recorded is to be
        recorded anew if this is no longer equal to what it was."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run `work`, which only calls primitives. Return what runs all of them again, with the same arguments.

        A backend with kernels then goes through their launches, without the checks and decisions before them: these
        hold for arrays that stay as they are. If what products are decided by has changed, it runs `work` again.
        """

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
        alpha: float = 1.0,
        dropout: Dropout | None = None,
        control: Array | None = None,
    ) -> None:
        """z = α a_prev wᵀ + b ; a = σ(z), and with dropout a = mask ⊙ σ(z).

        a_prev: (B, n_{l-1}), w: (n_l, n_{l-1}), b: (n_l,) or None, a: (B, n_l);
        z: (B, n_l) if the caller keeps it (σ' reads it), else None. σ is elementwise: softmax has a method.
        alpha: 1 / (1 − p) of the layer below, whose units a_prev has without it.
        dropout: of this layer: the mask of 0 and 1 is drawn for the step control[STEP] (see
            `gpubp.nn.dropout`). control is read with it alone.
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
        weights: Array | None,
        control: Array | None,
        losses: Array,
        delta: Array,
        divisor: float | None = None,
    ) -> None:
        """δ^L = ∂L/∂a ⊙ σ'(z), and the loss: losses[BATCH] ← L, losses[TOTAL] ← losses[TOTAL] + Σ of the examples'.

        output: (B, n_L), what the loss reads: the logits z for a loss from logits, else a.
        saved: (B, n_L), what σ' reads (a or z, as the activation says); for a loss from logits, z again.
        y: (B, n_L) of the master dtype, or (B,) int64 labels if the loss takes labels. A label that is no class makes
            the loss and its row of delta NaN; with a cross-entropy, so does a number outside 0 to 1 in its own place
            (with a focal one of softmax in its row).
        weights: (B,) of the master dtype, ≥ 0: what a row's δ^L and loss are multiplied by. A row of weight 0 gives 0,
            whatever it holds. Sums are multiplied by control[LOSS_FACTOR] then. None: each row weighs 1.
        control: δ^L is multiplied by control[LOSS_SCALE] before it is rounded; the loss is not. None: no scale.
        losses: (2,) float64 (see `gpubp.kernels.control.Losses`), delta: (B, n_L).
        divisor: what sums are divided by without weights; None: B, or 1, as the loss's reduction says.
        """

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
        """δ^l = (δ^{l+1} w^{l+1}) ⊙ σ'(z^l), and with dropout ⊙ mask / (1 − p) besides.

        delta_next: (B, n_{l+1}), w_next: (n_{l+1}, n_l), saved: (B, n_l), a or z as the activation says;
        delta: (B, n_l).
        dropout, control: as `dense_forward` had them, so that the same mask is drawn.
        """

    def transpose_product(self, delta_next: Array, w_next: Array, product: Array, tf32: bool = False) -> None:
        """product = δ^{l+1} w^{l+1}, the first half of `hidden_delta`."""

    def hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        """delta = product ⊙ σ'(z^l), the second half of `hidden_delta`."""

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
        """∂L/∂w = α δᵀ a_prev, and beside it ∂L/∂b = Σ_batch δ.

        delta: (B, n_l), a_prev: (B, n_{l-1}), gradient: (n_l, n_{l-1}), bias_gradient: (n_l,), or None without a bias.
        alpha: as in `dense_forward`. accumulate: add to what both gradients hold, in place of writing over it.
        """

    def bias_gradient(self, delta: Array, gradient: Array, accumulate: bool = False) -> None:
        """∂L/∂b = Σ_batch δ, a column sum, by itself; delta: (B, n_l), gradient: (n_l,).

        accumulate: add to what `gradient` holds, in place of writing over it.
        """

    def product(
        self, form: str, a: Array, b: Array, c: Array, alpha: float = 1.0, beta: float = 0.0, tf32: bool = False
    ) -> None:
        """c ← α A B + β c, the general product; c: (M, N) of the master dtype, not read where β = 0.

        form: "NT": a is (M, K), b (N, K); "NN": a is (M, K), b (K, N); "TN": a is (K, M), b (K, N).
        """

    def all_reduce(self, x: Array, ranks: Ranks) -> None:
        """x ← Σ over all ranks of x, in place: MPI adds up arrays of the host, NCCL those of GPUs.

        x: of the master dtype, of the same shape on each rank. All ranks get the same bits, and the same in each run
        with as many.

        Raises:
            BackendError: NCCL is missing.
        """

    # --- update -----------------------------------------------------------------------------------------------------
    def weight_step(
        self, delta: Array, a_prev: Array, control: Array, w: Array, tf32: bool = False, b: Array | None = None
    ) -> None:
        """w ← w − η δᵀ a_prev with η = control[LEARNING_RATE]: the weight gradient and plain SGD in one product; and
        beside it b ← b − η Σ_batch δ, of a layer with a bias.

        Raises:
            ArgumentError: w has 16 bits: the step would be rounded away.
        """

    def prepare_update(
        self, gradients: Array, max_norm: float | None, control: Array, loss_scaling: LossScaling | None = None
    ) -> None:
        """SQUARED_NORM ← Σ g², summed in float64 in a fixed order, and from it the gradient's scale:

        GRADIENT_SCALE ← min(1, max_norm / √SQUARED_NORM), or 1 if max_norm is None.

        With loss scaling, SQUARED_NORM is that of the scaled gradient, and the norm is √SQUARED_NORM / LOSS_SCALE.
        If it is finite, GRADIENT_SCALE is divided by LOSS_SCALE, SKIP ← 0 and CLEAN_STEPS ← CLEAN_STEPS + 1; at
        `growth_interval` of them LOSS_SCALE is doubled, and they start from 0. If it is not, SKIP ← 1,
        SKIPPED ← SKIPPED + 1, LOSS_SCALE ← max(1, LOSS_SCALE / 2), CLEAN_STEPS ← 0, and GRADIENT_SCALE stays.

        gradients: of the master dtype and any shape. Without clipping and loss scaling a step does without: its
        GRADIENT_SCALE is 1 from the start.
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

        gradients, parameters and each array of state: (P,), the first `decayed` of them (the weights) subject to weight
        decay and penalties; reads LEARNING_RATE, STEP, SKIPPED, GRADIENT_SCALE and SKIP. Gradients are scaled, then
        clipped by value, then get `optimizer.in_gradient` added: λ₁ sign(w) + λ₂ w. Then `optimizer.apart` shrinks the
        weights: w ← sign(w') max(|w'| − η λ₁, 0) with w' = (1 − η λ₂) w; then the recurrence follows.
        stored: (P,) of the storage dtype, the new parameters rounded to it, in the same pass; None if nobody reads such
        a copy.
        """
