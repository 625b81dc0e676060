"""The algorithm: a fully connected network, its forward pass and its backpropagation, once, for every backend.

Layers are numbered as in the books: a[0] is the input x, layer l = 1 .. L has weights w[l] (n_l, n_{l-1}), bias b[l]
(n_l,), pre-activation z[l], activation a[l] and delta[l] = ∂L/∂z[l], each (B, n_l). Rows are examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import backends
from gpubp.backends.base import Array, Backend
from gpubp.errors import ArgumentError, CheckpointError, GpubpError, StateError, shown
from gpubp.kernels.control import Control, Losses
from gpubp.nn import architecture, initializers, losses, model_file
from gpubp.nn.activations import Activation, Identity, Softmax
from gpubp.nn.batches import Batch, Batches
from gpubp.nn.dropout import Dropout
from gpubp.nn.initializers import Initializer
from gpubp.nn.layout import Layout
from gpubp.nn.losses import Loss
from gpubp.nn.precision import LossScaling, widened
from gpubp.nn.state_dict import layers_of
from gpubp.registry import require_count, require_number

_IDENTITY = Identity()

_DROPOUT = 5
"""The spawn key of the masks of dropout, beside those of the initial weights (0) and of a run's choices."""


@dataclass(frozen=True)
class Gradients:
    """∂L/∂w[l] and ∂L/∂b[l] on the host, indexed by layer like the network's `w` and `b`, of their shapes.

    Entry 0 is None, and so is every entry of `b` in a network without bias.
    """

    w: list[np.ndarray | None]
    b: list[np.ndarray | None]

    def norms(self) -> list[float]:
        """Return the Euclidean norm of each layer's gradient, weights and bias together, for layers 1 to L."""
        return [
            float(np.sqrt(sum(np.sum(np.square(part, dtype=np.float64)) for part in layer if part is not None)))
            for layer in zip(self.w[1:], self.b[1:], strict=True)
        ]


@dataclass(frozen=True)
class Evaluation:
    """The result of `Network.evaluate`.

    Attributes:
        loss: over all examples; their mean or sum, as the loss says, weighted if they have weights.
        accuracy: the share of right classes; None for a loss that does not classify.
    """

    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class _Backward:
    """What `output_delta` and `backward` need after `forward`; `control` is on the host."""

    batch: Batch
    y: Array
    weights: Array | None
    dropout: Sequence[Dropout | None] | None
    control: np.ndarray


def total_weight(weights: np.ndarray) -> float:
    """Return the sum of examples' weights, added in float64."""
    return float(weights.sum(dtype=np.float64))


class Network:
    """A fully connected network; `gpubp.Trainer` trains it.

    Methods take arrays of any library for x and y: NumPy's, what NumPy makes an array of, and arrays on a device, such
    as those of CuPy, Numba and PyTorch.

    Args:
        sizes: the widths n_0, ..., n_L, at least two.
        hidden_activation: one for all hidden layers, or a sequence with one for each. Like the following three, each is
            a name, a config such as {"name": "elu", "alpha": 0.5}, or the object itself.
        output_activation: None takes the one that the loss requires, else identity.
        loss: of a batch; see `gpubp.nn.losses`.
        initializer: None takes each layer's by its activation (He for rectifiers, Glorot for the others).
        bias: False makes layers without a bias.
        dropout: the share of a hidden layer's units that each training step drops, 0 ≤ share < 1: one for all hidden
            layers, or a sequence with one for each. Predictions and evaluations use all units. See `gpubp.nn.dropout`.
        dtype: "float32" or "float64".
        precision: None computes in `dtype` throughout. For float32 there are also "bf16" and "fp16" (weights,
            activations and deltas are stored and multiplied in 16 bits, sums are float32, and the optimiser updates
            float32 weights), and "tf32" (products round their operands to 11 bits). Backend "numba" and GPUs before
            sm_80 have none of the three.
        loss_scaling: for "fp16": a `LossScaling`, or its fields; None takes the default.
        backend, device: see `gpubp.backends.get`.
        seed: a whole number ≥ 0; the same seed gives the same weights on every backend.

    Attributes:
        parameters: all weights and biases in one flat array of `layout`, on the backend's device.
        w, b: w[l] (n_l, n_{l-1}) and b[l] (n_l,) by layer, as the passes read them: views of `parameters`, or for w of
            `stored` if it is not None. Entry 0 is None, and so is every b[l] without bias.
        dropout, drops: the rate of each hidden layer; True if one of them is not 0.
        stored: `parameters` rounded to 16 bits, which products read in their place; None if they read `parameters`.

    Raises:
        ArgumentError: an argument is wrong.
        BackendError: the named backend cannot run here.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        hidden_activation: str
        | Activation
        | Mapping[str, Any]
        | Sequence[str | Activation | Mapping[str, Any]] = "relu",
        output_activation: str | Activation | Mapping[str, Any] | None = None,
        loss: str | Loss | Mapping[str, Any] = "softmax_cross_entropy",
        initializer: str | Initializer | Mapping[str, Any] | None = None,
        bias: bool = True,
        dropout: float | Sequence[float] = 0.0,
        dtype: str | np.dtype | type[np.floating] = "float32",
        precision: str | None = None,
        loss_scaling: LossScaling | Mapping[str, Any] | None = None,
        backend: str | Backend = "auto",
        device: str | None = None,
        seed: int = 0,
    ) -> None:
        self.sizes = architecture.checked_sizes(sizes)
        self.depth = len(self.sizes) - 1
        self.loss = losses.get(loss)
        # the input passes as it is: a[0] = x
        self.activations: list[Activation] = [
            Identity(),
            *architecture.hidden_activations(hidden_activation, self.depth - 1),
            architecture.output_activation(output_activation, self.loss),
        ]
        self.initializer = None if initializer is None else initializers.get(initializer)
        if not isinstance(bias, bool | np.bool_):
            raise ArgumentError("bias", bias, "True or False")
        self.bias = bool(bias)
        self.dropout = architecture.checked_dropout(dropout, self.depth - 1)
        dtype = architecture.checked_dtype(dtype)
        self.precision_name, self.precision = architecture.checked_precision(precision, dtype)
        self.loss_scaling = architecture.checked_loss_scaling(loss_scaling, self.precision)
        self._tf32 = self.precision.tf32
        require_count("seed", seed, 0)
        self.seed = int(seed)
        # of layers 0 to L, without and with dropout: α of what reads a layer's outputs
        self._keep_all: list[Dropout | None] = [None] * (self.depth + 1)
        self._kept = [1.0] * (self.depth + 1)
        self.drops = any(self.dropout)
        self._scaled = [1.0 if drop is None else drop.factor for drop in self.dropped()]
        self.backend = architecture.made_backend(backend, device).for_precision(precision or dtype)

        self._make_parameters()
        self.batches = Batches(self.backend, self.sizes, self.activations, self.loss, self.precision)
        self._evaluated = self.backend.zeros((len(Losses),), "float64")
        self._control = self.backend.zeros((len(Control),), "float64")

    # --- parameters -------------------------------------------------------------------------------------------------
    def _make_parameters(self) -> None:
        """Draw the initial weights on the host in float64, so that every backend starts from the same bits."""
        self.layout = Layout.of(self.sizes, self.bias, self.dtype)
        try:
            host = np.zeros(self.layout.size, self.dtype)
        except (MemoryError, ValueError):
            gib = self.layout.size * np.dtype(self.dtype).itemsize / 2**30
            raise StateError("sizes", f"would take {gib:,.0f} GiB of weights", "fit into memory") from None
        generator = np.random.default_rng(np.random.SeedSequence(self.seed).spawn(1)[0])
        for w, activation in zip(self.layout.layers(host)[0][1:], self.activations[1:], strict=True):
            initializer = self.initializer or initializers.default_for(activation)
            n, n_prev = w.shape
            w[...] = initializer.draw(n, n_prev, generator)
        self.parameters = self.backend.zeros(host.shape, self.dtype)
        self.backend.upload(host, self.parameters)
        self.w, self.b = self.layout.layers(self.parameters)
        self.stored: Array = None
        if self.precision.stores_copy:
            self.stored = self.backend.empty(host.shape, self.precision.storage)
            self.w, _ = self.layout.layers(self.stored)
            self.backend.cast(self.parameters, self.stored)

    @property
    def dtype(self) -> str:
        """The dtype of `parameters` and of gradients, "float32" or "float64"."""
        return self.precision.master

    @property
    def parameter_count(self) -> int:
        """The number of weights and biases."""
        return self.layout.count

    @cached_property
    def gradient(self) -> Array:
        """∂L/∂w and ∂L/∂b of every layer, from the last `backward`: a flat array like `parameters`."""
        return self.backend.zeros(self.parameters.shape, self.dtype)

    @cached_property
    def _layer_gradients(self) -> tuple[list[Array], list[Array]]:
        return self.layout.layers(self.gradient)

    # --- dropout ----------------------------------------------------------------------------------------------------
    @cached_property
    def _dropout_key(self) -> tuple[int, int]:
        """What the masks of dropout are drawn by, beside the step and the place: two words of the seed's own."""
        low, high = np.random.SeedSequence(self.seed, spawn_key=(_DROPOUT,)).generate_state(2, np.uint32)
        return int(low), int(high)

    def dropped(self, first_row: int = 0) -> list[Dropout | None]:
        """Return the dropout of each layer from 0 to L in a training step; None for a layer that keeps all units.

        first_row: the row of the global batch that is row 0 of the arrays.
        """
        hidden = [
            Dropout(rate, self._dropout_key, layer, first_row) if rate else None
            for layer, rate in enumerate(self.dropout, 1)
        ]
        return [None, *hidden, None]

    # --- forward pass -----------------------------------------------------------------------------------------------
    def forward(
        self, batch: Batch, dropout: Sequence[Dropout | None] | None = None, control: Array | None = None
    ) -> None:
        """Compute z[l] = α a[l-1] w[l]ᵀ + b[l] ; a[l] = σ(z[l]) for all layers. With a loss from logits, a[L] is z[L].

        Args:
            dropout: of each layer, as `dropped` gives it. a[l] is then mask ⊙ σ(z[l]), and α = 1 / (1 − p) of the layer
                below. None: all units take part, and α = 1.
            control: with the step whose masks dropout draws.
        """
        backend, a, z, tf32 = self.backend, batch.a, batch.z, self._tf32
        dropout, alpha = (dropout, self._scaled) if dropout else (self._keep_all, self._kept)
        for l in range(1, self.depth):
            sigma, drop = self.activations[l], dropout[l]
            backend.dense_forward(a[l - 1], self.w[l], self.b[l], sigma, z[l], a[l], tf32, alpha[l - 1], drop, control)
        L = self.depth
        below, w, b, sigma = a[L - 1], self.w[L], self.b[L], self.activations[L]
        if self.loss.from_logits:
            backend.dense_forward(below, w, b, _IDENTITY, None, a[L], tf32, alpha[L - 1])
        elif isinstance(sigma, Softmax):
            backend.dense_forward(below, w, b, _IDENTITY, None, z[L], tf32, alpha[L - 1])
            backend.softmax(z[L], a[L])
        else:
            backend.dense_forward(below, w, b, sigma, z[L], a[L], tf32, alpha[L - 1])

    # --- backpropagation --------------------------------------------------------------------------------------------
    def output_delta(
        self,
        batch: Batch,
        y: Array,
        weights: Array | None,
        losses: Array,
        control: Array,
        divisor: float | None = None,
    ) -> None:
        """Compute δ[L] = ∂L/∂a ⊙ σ'(z[L]) after `forward`, and the loss of the batch.

        Args:
            y: the targets, as `Batches.place` gives them.
            weights: of the examples, as `Batches.place_weights` gives them.
            losses: where the loss goes (see `Losses`).
            control: with the loss scale that δ[L] is multiplied by, and with what weighted sums are.
            divisor: of the loss without weights; None: the batch's own.
        """
        L, a, saved, delta = self.depth, batch.a, batch.saved, batch.delta
        sigma = self.activations[L]
        read = control if self.loss_scaling is not None or weights is not None else None
        self.backend.output_delta(self.loss, sigma, a[L], saved[L], y, weights, read, losses, delta[L], divisor)

    def backward(
        self,
        batch: Batch,
        dropout: Sequence[Dropout | None] | None = None,
        control: Array | None = None,
        *,
        fold: bool = False,
        accumulate: bool = False,
    ) -> None:
        """Compute δ[l] and the gradients of weights and bias, layer by layer, after `output_delta`.

        Args:
            dropout, control: as `forward` had them.
            fold: make the step of plain SGD within the product of the weight gradient, with the learning rate in
                `control`; the δ of the layer below has used the old weights by then.
            accumulate: add to the gradients that are there.
        """
        backend, a, delta, tf32 = self.backend, batch.a, batch.delta, self._tf32
        dropout, alpha = (dropout, self._scaled) if dropout else (self._keep_all, self._kept)
        dw, db = self._layer_gradients
        for l in range(self.depth, 0, -1):
            if l > 1:
                # δ[l-1] = (δ[l] w[l]) ⊙ σ'(z[l-1])
                sigma, saved, drop = self.activations[l - 1], batch.saved[l - 1], dropout[l - 1]
                step = None if drop is None else control
                backend.hidden_delta(delta[l], self.w[l], sigma, saved, delta[l - 1], tf32, drop, step)
            if fold:
                # w[l] ← w[l] − η δ[l]ᵀ a[l-1] ; b[l] ← b[l] − η Σ_batch δ[l]
                backend.weight_step(delta[l], a[l - 1], control, self.w[l], tf32, self.b[l])
            else:
                # ∂L/∂w[l] = α δ[l]ᵀ a[l-1] ; ∂L/∂b[l] = Σ_batch δ[l]
                backend.weight_gradient(delta[l], a[l - 1], dw[l], tf32, alpha[l - 1], accumulate, db[l])

    # --- gradients --------------------------------------------------------------------------------------------------
    def gradients(
        self,
        x: Any,
        y: Any,
        loss_scale: float | None = None,
        *,
        sample_weight: Any = None,
        dropout_step: int | None = None,
    ) -> tuple[float, Gradients]:
        """Return the loss of the batch (x, y) and all its gradients, without an update.

        Args:
            loss_scale: with loss scaling, the first scale to try, such as `Trainer.loss_scale`; None takes the initial
                one. It is halved until the gradients are finite, if they can be.
            sample_weight: (B,) of at least 0; None: all examples count the same.
            dropout_step: drop the units that this step of a trainer drops, counted from 0; None: keep all.

        Raises ArgumentError for arrays that `Trainer.step` refuses, and for NaN and infinity.
        """
        if loss_scale is not None:
            if self.loss_scaling is None:
                raise ArgumentError("loss_scale", loss_scale, "left out: this network does not scale its loss")
            require_number("loss_scale", loss_scale, least=1)
        work = self._forward_for_gradients(x, y, sample_weight, dropout_step)
        gradients = self._unscaled_gradients(work, loss_scale)
        loss = float(self.backend.asnumpy(self._evaluated)[Losses.BATCH])
        dw, db = self.layout.layers(gradients)
        return loss, Gradients([None, *(part.copy() for part in dw[1:])], [None if p is None else p.copy() for p in db])

    def batch_loss(self, x: Any, y: Any, *, sample_weight: Any = None, dropout_step: int | None = None) -> float:
        """Return the loss of the batch (x, y) whose gradients `gradients` returns, with the same arguments."""
        work = self._forward_for_gradients(x, y, sample_weight, dropout_step)
        self._scaled_delta(work, 1.0)
        return float(self.backend.asnumpy(self._evaluated)[Losses.BATCH])

    def _forward_for_gradients(self, x: Any, y: Any, sample_weight: Any, dropout_step: int | None) -> _Backward:
        x, y = self.batches.checked(x, y)
        weights = None if sample_weight is None else self.batches.checked_weights(sample_weight, len(x))
        control = np.zeros(len(Control))
        control[Control.LOSS_FACTOR] = 1 if weights is None else self.loss.factor(total_weight(weights))
        batch, target = self.batches.place(x, y)
        dropout = self._forward_of_step(batch, dropout_step)
        if dropout_step is not None:
            control[Control.STEP] = dropout_step
        return _Backward(batch, target, self.batches.place_weights(weights, batch), dropout, control)

    def _forward_of_step(
        self, batch: Batch, dropout_step: int | None, first_row: int = 0
    ) -> Sequence[Dropout | None] | None:
        """Compute `forward` as the training step of this number does, from 0; None: outside of training. Return the
        dropout that it took."""
        if dropout_step is None:
            self.forward(batch)
            return None
        require_count("dropout_step", dropout_step, 0)
        control = np.zeros(len(Control))
        control[Control.STEP] = dropout_step
        self.backend.upload(control, self._control)
        dropout = self.dropped(first_row)
        self.forward(batch, dropout, self._control)
        return dropout

    def _unscaled_gradients(self, work: _Backward, loss_scale: float | None) -> np.ndarray:
        """Return all gradients in one flat array on the host, after `forward`."""
        scaling = self.loss_scaling
        if scaling is None:
            return self._scaled_gradients(work, 1.0)
        # of float64: it may be beyond float32, in which the gradients are
        scale = np.float64(scaling.initial if loss_scale is None else loss_scale)
        while True:
            gradients = self._scaled_gradients(work, scale)
            if scale == 1 or np.isfinite(gradients).all():
                return (gradients / scale).astype(gradients.dtype)
            scale = np.maximum(1.0, scale / 2)

    def _scaled_gradients(self, work: _Backward, scale: float) -> np.ndarray:
        self._scaled_delta(work, scale)
        self.backward(work.batch, work.dropout, self._control)
        return self.backend.asnumpy(self.gradient)

    def _scaled_delta(self, work: _Backward, scale: float) -> None:
        work.control[Control.LOSS_SCALE] = scale
        self.backend.upload(work.control, self._control)
        self.output_delta(work.batch, work.y, work.weights, self._evaluated, self._control)

    # --- predictions ------------------------------------------------------------------------------------------------
    @property
    def classifies(self) -> bool:
        """True if predictions are classes: with the cross-entropies, of softmax and binary, focal or not."""
        return self.loss.from_logits

    def predict_proba(self, x: Any, dropout_step: int | None = None) -> np.ndarray:
        """Return the output activations a[L], (B, n_L): probabilities for the losses that classify.

        dropout_step: drop the units that this training step drops, counted from 0: predictions of many steps are a
            sample of what dropout leaves open (Gal & Ghahramani, "Dropout as a Bayesian Approximation", 2016). None:
            keep all.
        """
        return self._outputs(x, self._activate_output, dropout_step)

    def predict(self, x: Any) -> np.ndarray:
        """Return classes for the losses that classify, else the values a[L], (B, n_L).

        With a cross-entropy of softmax: class numbers (B,) int64. With a binary one: 0 or 1, (B, n_L) int64, or (B,) if
        n_L = 1.
        """
        if not self.classifies:
            return self.predict_proba(x)
        classes = self._outputs(x, self._classify)
        return classes[:, 0] if classes.shape[1:] == (1,) else classes

    def hidden_activations(self, x: Any, dropout_step: int | None = None) -> list[np.ndarray]:
        """Return a[1] .. a[L-1] for x, each (B, n_l): for diagnostics, on as many rows as fit into memory.

        dropout_step: as for `predict_proba`; what is dropped is 0, and what is kept is not divided by 1 − p.
        """
        batch = self.batches.place_examples(self.batches.checked_examples(x))
        self._forward_of_step(batch, dropout_step)
        return [self._on_the_host(a) for a in batch.a[1:-1]]

    def evaluate(self, x: Any, y: Any, sample_weight: Any = None) -> Evaluation:
        """Return the loss over (x, y), and the accuracy for losses that classify; any number of rows.

        The accuracy is the share of right classes, with a binary cross-entropy over all outputs.

        sample_weight: (B,) of at least 0, and more than 0 in some row; None: all examples count the same.
        """
        x, y = self.batches.checked(x, y)
        weights = None if sample_weight is None else self._some_weight(sample_weight, len(x))
        self.backend.upload(np.zeros(len(Losses)), self._evaluated)
        # the loss is divided once, at the end
        self.backend.upload(np.ones(len(Control)), self._control)
        classes = []
        chunk = self.backend.rows_at_once
        for start in range(0, len(x), chunk):
            part = slice(start, start + chunk)
            batch, target = self.batches.place(x[part], y[part])
            weighted = self.batches.place_weights(None if weights is None else weights[part], batch)
            self.forward(batch)
            self.output_delta(batch, target, weighted, self._evaluated, self._control)
            if self.classifies:
                classes.append(self._classify(batch))
        weight = len(x) if weights is None else total_weight(weights)
        loss = float(self.backend.asnumpy(self._evaluated)[Losses.TOTAL]) / self.loss.divisor(weight)
        return Evaluation(loss, self._accuracy(np.concatenate(classes), y, weights) if classes else None)

    def _some_weight(self, sample_weight: Any, rows: int) -> np.ndarray:
        """Return checked weights that are not all 0: there is no mean over nothing. Raises ArgumentError."""
        weights = self.batches.checked_weights(sample_weight, rows)
        if not weights.any():
            raise StateError("sample_weight", "is 0 in every row", "be more than 0 in some row")
        return weights

    def score(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy for losses that classify, else the coefficient of determination R² over all outputs.

        sample_weight: as for `evaluate`.
        """
        accuracy = self.evaluate(x, y, sample_weight).accuracy
        if accuracy is not None:
            return accuracy
        y = self.batches.checked_targets(y).astype(np.float64)
        weights = np.ones(len(y)) if sample_weight is None else self._some_weight(sample_weight, len(y))
        weights = weights.astype(np.float64)[:, None]
        residual = np.sum(weights * (self.predict_proba(x) - y) ** 2)
        total = np.sum(weights * (y - np.sum(weights * y, axis=0) / np.sum(weights)) ** 2)
        return float(1 - residual / total) if total > 0 else float(residual == 0)

    @staticmethod
    def _accuracy(classes: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> float:
        if classes.ndim == 1:
            truth = y if y.ndim == 1 else y.argmax(axis=1)
        else:
            truth = y > 0.5
        right = classes == truth
        if weights is None:
            return float(np.mean(right))
        return float(np.average(right.reshape(len(right), -1).mean(axis=1), weights=weights.astype(np.float64)))

    def _outputs(self, x: Any, read: Callable[[Batch], np.ndarray], dropout_step: int | None = None) -> np.ndarray:
        x = self.batches.checked_examples(x)
        parts = []
        chunk = self.backend.rows_at_once
        for start in range(0, len(x), chunk):
            batch = self.batches.place_examples(x[start : start + chunk])
            self._forward_of_step(batch, dropout_step, start)
            parts.append(read(batch))
        return np.concatenate(parts)

    def _classify(self, batch: Batch) -> np.ndarray:
        """Return the classes by the logits in a[L]: (B,) the number of the largest, or (B, n_L) 1 if p > ½, else 0."""
        if self.loss.output_activation == "sigmoid":
            return (self._on_the_host(batch.a[-1]) > 0).astype(np.int64)
        labels = batch.target[np.dtype(np.int64)]
        self.backend.row_argmax(batch.a[-1], labels)
        return self.backend.asnumpy(labels)

    def _activate_output(self, batch: Batch) -> np.ndarray:
        """Return a[L] on the host; for a loss from logits, with the activation that `forward` left out."""
        if self.loss.output_activation == "softmax":
            # into the place of targets, which is of the master dtype: in 16 bits a row would not sum to 1
            probabilities = batch.target[np.dtype(self.dtype)]
            self.backend.softmax(batch.a[-1], probabilities)
            return self.backend.asnumpy(probabilities)
        output = self._on_the_host(batch.a[-1])
        if self.loss.from_logits:
            # on the host, from the logits that `predict` reads: rounded to 16 bits, p > ½ could miss a small z > 0
            self.activations[-1].apply(output, output)
        return output

    def _on_the_host(self, x: Array) -> np.ndarray:
        """Return a copy of x for the user, in the master dtype."""
        return widened(self.backend.asnumpy(x))

    def sum_squared_weights(self, control: Array) -> None:
        """Compute control[SQUARED_NORM] ← Σ w² over the weights of all layers, not the biases. Wait for nothing.

        control: (len(Control),) float64, of the caller's own; its GRADIENT_SCALE becomes 1.
        """
        self.backend.prepare_update(self.parameters[: self.layout.bias_start], None, control)

    # --- saving -----------------------------------------------------------------------------------------------------
    def config(self) -> dict[str, Any]:
        """Return all that `from_config` needs to make a network of this architecture; JSON can hold it."""
        return {
            "sizes": list(self.sizes),
            "hidden_activation": [activation.config() for activation in self.activations[1:-1]],
            "output_activation": self.activations[-1].config(),
            "loss": self.loss.config(),
            "initializer": None if self.initializer is None else self.initializer.config(),
            "bias": self.bias,
            **({"dropout": list(self.dropout)} if any(self.dropout) else {}),
            "dtype": self.dtype,
            **({} if self.precision_name is None else {"precision": self.precision_name}),
            **({} if self.loss_scaling is None else {"loss_scaling": self.loss_scaling.config()}),
            "seed": self.seed,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], backend: str | Backend = "auto", device: str | None = None
    ) -> Network:
        """Return a fresh network of the architecture that `config()` gave."""
        return cls(**config, backend=backend, device=device)

    @classmethod
    def from_torch(cls, state_dict: Mapping[str, Any], **settings: Any) -> Network:
        """Return the network with the weights of a PyTorch model of Linear layers, `model.state_dict()`.

        A state dict does not say what stands between the layers: `hidden_activation`, `loss` and the rest do.

        Args:
            state_dict: a weight, and perhaps a bias, for each layer, in order; tensors of PyTorch, or arrays.
            settings: those of `Network`, but for `sizes` and `bias`, which the tensors have. `dtype` is theirs unless
                it is given.

        Raises:
            ArgumentError: an entry belongs to no Linear layer, or does not fit the one before; a setting is wrong.
            BackendError: the named backend cannot run here.
        """
        for name in ("sizes", "bias"):
            if name in settings:
                raise StateError(name, "was given", "be left out: the state dict has it")
        layers = layers_of(state_dict)
        settings.setdefault("dtype", "float32" if settings.get("precision") else layers.dtype)
        network = cls(layers.sizes, bias=layers.bias, **settings)
        network.set_weights(layers.weights)
        return network

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied and pickled as configuration and weights: the arrays of the layers are views of one."""
        return type(self).from_config, (self.config(), self.backend), self.weights()

    def __setstate__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.set_weights(weights)

    def weights(self) -> dict[str, np.ndarray]:
        """Return copies of all weights and biases on the host, by names such as "layer1.weight" and "layer1.bias"; in
        mixed precision, those that the optimiser updates."""
        return self.layout.named(self.backend.asnumpy(self.parameters))

    def set_weights(self, named: Mapping[str, np.ndarray]) -> None:
        """Take all weights and biases from arrays named and shaped as `weights` gives them.

        Raises ArgumentError for one that is missing or does not fit; then nothing has changed.
        """
        self.backend.upload(self.layout.flat(named, self.dtype), self.parameters)
        if self.stored is not None:
            self.backend.cast(self.parameters, self.stored)

    def save(
        self,
        path: str | Path,
        tensors: Mapping[str, np.ndarray] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write weights and configuration to a safetensors file, whole or not at all.

        Extra tensors, and metadata that JSON can hold, go into the file too. Raises CheckpointError if it cannot be
        written.
        """
        model_file.write(path, {**self.weights(), **(tensors or {})}, {**(metadata or {}), "network": self.config()})

    @classmethod
    def load(cls, path: str | Path, backend: str | Backend = "auto", device: str | None = None) -> Network:
        """Return the network in a file that `save` wrote. Runs no code from the file.

        Raises CheckpointError for any other file, BackendError if the named backend cannot run here.
        """
        tensors, metadata = model_file.read(path)
        return cls.from_parts(path, tensors, metadata, backend, device)

    @classmethod
    def from_parts(
        cls,
        path: str | Path,
        tensors: Mapping[str, np.ndarray],
        metadata: Mapping[str, Any],
        backend: str | Backend = "auto",
        device: str | None = None,
    ) -> Network:
        """Return the network that the contents of a file describe; `path` is for messages. Errors as in `load`."""
        if isinstance(backend, str):
            backend, device = backends.get(backend, device), None  # first: what is wrong with it is said as such
        config = metadata.get("network")
        if not isinstance(config, dict):
            raise CheckpointError(f"{path} holds no network")
        architecture.require_backend_for(config.get("precision"), backend)
        try:
            architecture.require_weights(config.get("sizes"), tensors)
            network = cls.from_config(config, backend, device)
            network.set_weights(tensors)
        except (GpubpError, TypeError) as error:
            raise CheckpointError(
                f"{path} does not describe a network of this version of gpubp: {shown(error, 200)}"
            ) from error
        return network
