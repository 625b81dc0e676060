"""The algorithm: a fully connected network, its forward pass and its backpropagation, once, for every backend.

Layers are numbered as in the books: a[0] is the input x, layer l = 1 .. L has weights w[l] (n_l, n_{l-1}), bias b[l]
(n_l,), pre-activation z[l], activation a[l] and delta[l] = ∂L/∂z[l], each (B, n_l). Rows are examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.backends.base import Array, Backend
from gpubp.errors import ArgumentError
from gpubp.kernels.control import HOST_CONTROLS, Control, Losses
from gpubp.nn import architecture, initializers, losses, model_file, optimizers
from gpubp.nn import checks as inputs
from gpubp.nn.activations import Activation, Identity, Softmax
from gpubp.nn.checks import require_same_rows
from gpubp.nn.feed import CapturedStep, Feed
from gpubp.nn.initializers import Initializer
from gpubp.nn.layout import Layout
from gpubp.nn.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from gpubp.nn.optimizers import SGD, Optimizer
from gpubp.nn.precision import LossScaling, widened
from gpubp.registry import require_count

CHUNK = 4096
"""Rows: predictions and evaluations of more run in parts of this size."""

_SCALING_STATE = {
    "loss_scale": Control.LOSS_SCALE,
    "clean_steps": Control.CLEAN_STEPS,
    "updates": Control.STEP,  # the steps that were not skipped
}
"""What `Network.state` keeps of the loss scaling, and its places in `control`."""


@dataclass(frozen=True)
class Gradients:
    """∂L/∂w[l] and ∂L/∂b[l] on the host, indexed by layer as the network's; entry 0 is None, b is None without bias."""

    w: list[np.ndarray | None]
    b: list[np.ndarray | None]

    def norms(self) -> list[float]:
        """The Euclidean norm of each layer's gradient, weights and bias together, layers 1 to L."""
        return [
            float(np.sqrt(sum(np.sum(np.square(part, dtype=np.float64)) for part in layer if part is not None)))
            for layer in zip(self.w[1:], self.b[1:], strict=True)
        ]


@dataclass(frozen=True)
class Evaluation:
    """The loss over a data set (mean or sum over the examples, as the loss says), and the accuracy, if it has one."""

    loss: float
    accuracy: float | None


@dataclass  # not frozen: made in every step, and a frozen one takes three times as long
class _Batch:
    """The arrays of a pass over `rows` examples, indexed by layer."""

    rows: int
    a: list[Array]
    z: list[Array | None]
    delta: list[Array]
    saved: list[Array]  # what σ' of the layer reads: a[l] or z[l]
    target: dict[np.dtype, Array]  # y by its dtype: rows (B, n_L), or labels (B,)


class Network:
    """A fully connected network.

    sizes: the widths n_0, ..., n_L, at least two.
    hidden_activation: one for all hidden layers, or a sequence with one for each.
    output_activation: None takes the one that the loss fixes, else identity.
    initializer: None takes each layer's by its activation (He for rectifiers, Glorot for the others).
    dtype: "float32" or "float64".
    precision: None computes in `dtype` throughout. For float32 there are also "bf16" and "fp16" (weights, activations
        and deltas are stored and multiplied in 16 bits, sums are float32, and the optimiser updates float32 weights),
        and "tf32" (products round their operands to 11 bits). Not for backend "numba" and GPUs before sm_80.
    loss_scaling: for "fp16": a `LossScaling`, or its fields; None takes the default.
    backend, device: see `gpubp.backends.get`.
    seed: a whole number ≥ 0; the same seed gives the same weights on every backend.
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
        dtype = architecture.checked_dtype(dtype)
        self.precision_name, self.precision = architecture.checked_precision(precision, dtype)
        self.loss_scaling = architecture.checked_loss_scaling(loss_scaling, self.precision)
        self._tf32 = self.precision.tf32
        require_count("seed", seed, 0)
        self.seed = int(seed)
        self.backend = architecture.made_backend(backend, device).for_precision(precision or dtype)

        self._make_parameters()
        self.control = self.backend.zeros((len(Control),), "float64")
        self._scale_control = None if self.loss_scaling is None else self.control
        self.losses = self.backend.zeros((len(Losses),), "float64")
        self._host_control = np.zeros(HOST_CONTROLS)
        self._capacity = 0
        self.optimizer = SGD()

    # --- parameters -------------------------------------------------------------------------------------------------
    def _make_parameters(self) -> None:
        """Initial weights, drawn on the host in float64, so that every backend starts from the same bits; w[l] and b[l]
        are views of one flat array."""
        self.layout = Layout.of(self.sizes, self.bias, self.dtype)
        try:
            host = np.zeros(self.layout.size, self.dtype)
        except (MemoryError, ValueError):
            gib = self.layout.size * np.dtype(self.dtype).itemsize / 2**30
            raise ArgumentError("sizes", self.sizes, f"small enough: the weights would take {gib:,.0f} GiB") from None
        generator = np.random.default_rng(np.random.SeedSequence(self.seed).spawn(1)[0])
        for w, activation in zip(self.layout.layers(host)[0][1:], self.activations[1:], strict=True):
            initializer = self.initializer or initializers.default_for(activation)
            n, n_prev = w.shape
            w[...] = initializer.draw(n, n_prev, generator)
        self.parameters = self.backend.zeros(host.shape, self.dtype)
        self.backend.upload(host, self.parameters)
        self.w, self.b = self.layout.layers(self.parameters)
        self._stored: Array = None
        if self.precision.stores_copy:
            # what the products read: the weights rounded, which `update` writes anew
            self._stored = self.backend.empty(host.shape, self.precision.storage)
            self.w, _ = self.layout.layers(self._stored)
            self.backend.cast(self.parameters, self._stored)
        self._gradients: Array = None  # made when first needed

    @property
    def dtype(self) -> str:
        """The dtype of the weights that the optimiser updates, and of gradients."""
        return self.precision.master

    @property
    def parameter_count(self) -> int:
        """Weights and biases."""
        return self.layout.count

    # --- the arrays of a pass ---------------------------------------------------------------------------------------
    def _batch(self, rows: int) -> _Batch:
        """The arrays for a batch of this size: the leading rows of those for the largest batch so far."""
        if rows > self._capacity:
            self._make_arrays(rows)
        batch = self._batches.get(rows)
        if batch is None:
            batch = self._batches[rows] = self._leading_rows(rows)
        return batch

    def _make_arrays(self, rows: int) -> None:
        def new(width: int) -> Array:
            return self.backend.empty((rows, width), self.precision.storage)

        self._a = [new(n) for n in self.sizes]
        self._delta = [None, *(new(n) for n in self.sizes[1:])]
        self._z = [None] + [new(n) if self._keeps_z(layer) else None for layer, n in enumerate(self.sizes[1:], start=1)]
        self._target = {np.dtype(self.dtype): self.backend.empty((rows, self.sizes[-1]), self.dtype)}
        if self.loss.takes_labels:
            self._target[np.dtype(np.int64)] = self.backend.empty((rows,), "int64")
        self._capacity = rows
        self._batches: dict[int, _Batch] = {}

    def _keeps_z(self, layer: int) -> bool:
        activation = self.activations[layer]
        return activation.reads == "z" or (isinstance(activation, Softmax) and not self.loss.from_logits)

    def _leading_rows(self, rows: int) -> _Batch:
        a, z, delta = ([None if x is None else x[:rows] for x in arrays] for arrays in (self._a, self._z, self._delta))
        saved = [None] + [
            z[layer] if self.activations[layer].reads == "z" else a[layer] for layer in range(1, self.depth + 1)
        ]
        target = {dtype: y[:rows] for dtype, y in self._target.items()}
        return _Batch(rows, a, z, delta, saved, target)

    # --- forward pass -----------------------------------------------------------------------------------------------
    def _forward(self, batch: _Batch) -> None:
        """z[l] = a[l-1] w[l]ᵀ + b[l] ; a[l] = σ(z[l]). For a loss from logits, a[L] holds z[L]."""
        backend, a, z, tf32 = self.backend, batch.a, batch.z, self._tf32
        for l in range(1, self.depth):
            backend.dense_forward(a[l - 1], self.w[l], self.b[l], self.activations[l], z[l], a[l], tf32)
        L = self.depth
        sigma = self.activations[L]
        if self.loss.from_logits:
            backend.dense_forward(a[L - 1], self.w[L], self.b[L], Identity(), None, a[L], tf32)
        elif isinstance(sigma, Softmax):
            backend.dense_forward(a[L - 1], self.w[L], self.b[L], Identity(), None, z[L], tf32)
            backend.softmax(z[L], a[L])
        else:
            backend.dense_forward(a[L - 1], self.w[L], self.b[L], sigma, z[L], a[L], tf32)

    def _output_delta(self, batch: _Batch, y: Array) -> None:
        """δ[L] = ∂L/∂a ⊙ σ'(z[L]), times the loss scale where there is one, and the loss."""
        L, a, saved, delta = self.depth, batch.a, batch.saved, batch.delta
        self.backend.output_delta(
            self.loss, self.activations[L], a[L], saved[L], y, self._scale_control, self.losses, delta[L]
        )

    # --- backpropagation --------------------------------------------------------------------------------------------
    def _backward(self, batch: _Batch, fold: bool) -> None:
        """From δ[L], layer by layer: the deltas, and the gradients of weights and bias.

        With `fold`, the step of plain SGD is made in the product of the weight gradient; the delta of the layer below
        has used the old weights by then.
        """
        backend, a, delta, tf32 = self.backend, batch.a, batch.delta, self._tf32
        dw, db = self._gradient_layers()
        for l in range(self.depth, 0, -1):
            if l > 1:
                # δ[l-1] = (δ[l] w[l]) ⊙ σ'(z[l-1])
                sigma, saved = self.activations[l - 1], batch.saved[l - 1]
                backend.hidden_delta(delta[l], self.w[l], sigma, saved, delta[l - 1], tf32)
            if fold:
                # w[l] ← w[l] − η δ[l]ᵀ a[l-1]
                backend.weight_step(delta[l], a[l - 1], self.control, self.w[l], tf32)
            else:
                # ∂L/∂w[l] = δ[l]ᵀ a[l-1]
                backend.weight_gradient(delta[l], a[l - 1], dw[l], tf32)
            if self.bias:
                # ∂L/∂b[l] = Σ_batch δ[l]
                backend.bias_gradient(delta[l], db[l])

    def _gradient_layers(self) -> tuple[list[Array], list[Array]]:
        if self._gradients is None:
            self._gradients = self.backend.zeros(self.parameters.shape, self.precision.master)
            self._gradient_views = self.layout.layers(self._gradients)
        return self._gradient_views

    # --- update -----------------------------------------------------------------------------------------------------
    @property
    def optimizer(self) -> Optimizer:
        """How gradients become steps. Setting it makes fresh state and sets `steps` to 0."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: str | Optimizer | Mapping[str, Any]) -> None:
        self._optimizer = optimizers.get(optimizer)
        self._state = [self.backend.zeros(self.parameters.shape, self.precision.master) for _ in self._optimizer.state]
        self._set_steps(0)

    def _set_steps(self, steps: int) -> None:
        """The number of steps made, of which none was skipped, and the first loss scale."""
        self.steps = steps
        values = np.zeros(len(Control))
        values[Control.STEP] = steps
        if self.loss_scaling is not None:
            values[Control.LOSS_SCALE] = self.loss_scaling.initial
        self.backend.upload(values, self.control)

    def _update(self, fold: bool) -> None:
        """w ← w − η ∂L/∂w, or the optimiser's recurrence; with `fold` only the biases are left to do."""
        backend, control, optimizer, scaling = self.backend, self.control, self._optimizer, self.loss_scaling
        if optimizer.clip_norm is not None or scaling is not None:
            backend.squared_norm(self._gradients, control[Control.SQUARED_NORM : Control.SQUARED_NORM + 1])
        backend.prepare_update(optimizer.clip_norm, control, scaling)
        start = self.layout.bias_start if fold else 0
        if start < self.parameters.shape[0]:
            backend.update(
                optimizer,
                self._gradients[start:],
                self.layout.bias_start - start,
                control,
                [slot[start:] for slot in self._state],
                self.parameters[start:],
                self._stored,
            )

    # --- training steps ---------------------------------------------------------------------------------------------
    def train_step(self, x: Any, y: Any) -> None:
        """One step of the optimiser on this batch: x (B, n_0); y (B, n_L), or (B,) labels where the loss takes them.

        Waits for nothing: `last_loss` reads the loss. Shapes, dtypes and the labels of an array on the host are
        checked; that numbers are finite is not.
        """
        batch = self._load(x)
        target = self._load_target(y, batch)
        self._set_host_controls(0)
        self._step(batch, target)
        self.steps += 1

    def feed(self, x: Any, y: Any) -> Feed:
        """Put a data set on the backend's device, for this network's `train_rows`. Its values are looked at, once."""
        x, y = self._checked_input(x, finite=True), self._checked_target(y, values=True)
        require_same_rows(x, y)
        order = self.backend.asarray(np.arange(len(x)), "int64")
        return Feed(self.backend.asarray(x, x.dtype), self.backend.asarray(y, y.dtype), order, self)

    def train_rows(self, feed: Feed, start: int, rows: int) -> None:
        """One step on the feed's rows order[start : start + rows], gathered on the device."""
        self._require_own(feed)
        feed.require(start, rows)
        batch = self._batch(rows)
        self._set_host_controls(start)
        self._step(batch, self._gather(feed, batch))
        self.steps += 1

    def _require_own(self, feed: Feed) -> None:
        """A feed of another network may have rows of another width, or labels beyond this one's outputs."""
        if not isinstance(feed, Feed) or feed.network is not self:
            was = "another network's" if isinstance(feed, Feed) else f"a {type(feed).__name__}"
            raise ArgumentError("feed", was, "one that this network's `feed` made")

    def capture(self, feed: Feed, rows: int) -> CapturedStep:
        """Record a step on `rows` rows of the feed, for the backend to replay with one call (a CUDA graph).

        Each replay takes other rows and the step size of its time. The network is left as it was. Raises BackendError
        where the backend cannot record (`Backend.captures`).
        """
        self._require_own(feed)
        feed.require(0, rows)
        batch = self._batch(rows)
        changed = [self.parameters, *self._state, self.control, self.losses]
        changed += [] if self._stored is None else [self._stored]
        # on the host: the device may have no room for them twice
        kept = [self.backend.asnumpy(array) for array in changed]
        self._set_host_controls(0)
        # once without recording: it compiles every kernel and makes every array that they need on their way
        self._step(batch, self._gather(feed, batch))
        for host, array in zip(kept, changed, strict=True):
            self.backend.upload(host, array)
        replay = self.backend.capture(lambda: self._step(batch, self._gather(feed, batch)))
        return CapturedStep(self, feed, rows, replay, self._state, self._batches)

    def _gather(self, feed: Feed, batch: _Batch) -> Array:
        """a[0] ← the feed's examples of this step; the targets, gathered likewise."""
        target = batch.target[np.dtype(feed.y.dtype)]
        self.backend.gather_rows(feed.x, feed.order, self.control, batch.a[0])
        self.backend.gather_rows(feed.y, feed.order, self.control, target)
        return target

    def _set_host_controls(self, offset: int) -> None:
        self._host_control[Control.LEARNING_RATE] = self._optimizer.rate(self.steps)
        self._host_control[Control.BATCH_OFFSET] = offset
        self.backend.upload(self._host_control, self.control[:HOST_CONTROLS])

    def _step(self, batch: _Batch, y: Array) -> None:
        """The four parts of a step, on arrays and controls that are in place."""
        fold = self._optimizer.is_plain_sgd and self._stored is None
        self._forward(batch)
        self._output_delta(batch, y)
        self._backward(batch, fold)
        self._update(fold)

    @property
    def skipping(self) -> bool:
        """Whether the last step was skipped at a loss scale of 1: none is smaller. Waits for the device."""
        if self.loss_scaling is None:
            return False
        control = self.backend.asnumpy(self.control)
        return bool(control[Control.SKIP] and control[Control.LOSS_SCALE] == 1)

    def last_loss(self) -> float:
        """The loss of the last batch. Waits for the device."""
        return float(self.backend.asnumpy(self.losses)[Losses.BATCH])

    def total_loss(self) -> float:
        """The sum of the examples' losses, each before its step, since `take_total_loss`. Waits for the device."""
        return float(self.backend.asnumpy(self.losses)[Losses.TOTAL])

    def take_total_loss(self) -> float:
        """`total_loss`, which then starts from 0 again."""
        total = self.total_loss()
        self.backend.upload(np.zeros(len(Losses)), self.losses)
        return total

    # --- gradients --------------------------------------------------------------------------------------------------
    def gradients(self, x: Any, y: Any) -> tuple[float, Gradients]:
        """The loss of this batch and all its gradients, without an update."""
        batch = self._load(self._checked_input(x, finite=True))
        target = self._load_target(self._checked_target(y, values=True), batch)
        kept = self.backend.asnumpy(self.losses)
        self._forward(batch)
        gradients = self._unscaled_gradients(batch, target)
        loss = self.last_loss()
        self.backend.upload(kept, self.losses)
        dw, db = self.layout.layers(gradients)
        return loss, Gradients([None, *(part.copy() for part in dw[1:])], [None if p is None else p.copy() for p in db])

    def _unscaled_gradients(self, batch: _Batch, y: Array) -> np.ndarray:
        """All gradients in one flat array on the host. Where the loss is scaled: by the largest power of two up to the
        present scale that lets them be finite, if one does."""
        kept = self.backend.asnumpy(self.control)
        control = kept.copy()
        while True:
            self._output_delta(batch, y)
            self._backward(batch, fold=False)
            gradients = self.backend.asnumpy(self._gradients)
            if self.loss_scaling is None:
                return gradients
            scale = control[Control.LOSS_SCALE]
            if scale == 1 or np.isfinite(gradients).all():
                self.backend.upload(kept, self.control)
                return (gradients / scale).astype(gradients.dtype)
            control[Control.LOSS_SCALE] = max(1.0, scale / 2)
            self.backend.upload(control, self.control)

    # --- predictions ------------------------------------------------------------------------------------------------
    @property
    def classifies(self) -> bool:
        """Whether predictions are classes: with softmax cross-entropy, and with binary cross-entropy."""
        return isinstance(self.loss, SoftmaxCrossEntropy | BinaryCrossEntropy)

    def predict_proba(self, x: Any) -> np.ndarray:
        """The output activations a[L], (B, n_L): probabilities for the losses that classify."""
        return self._outputs(x, self._activate_output)

    def predict(self, x: Any) -> np.ndarray:
        """Class numbers (B,) int64 with softmax cross-entropy; 0 or 1, (B, n_L) int64, with binary cross-entropy
        ((B,) where n_L = 1); else the values a[L], (B, n_L)."""
        if not self.classifies:
            return self.predict_proba(x)
        classes = self._outputs(x, self._classify)
        return classes[:, 0] if classes.shape[1:] == (1,) else classes

    def hidden_activations(self, x: Any) -> list[np.ndarray]:
        """a[1] .. a[L-1] for x: for diagnostics, on as many rows as fit into memory."""
        batch = self._load(self._checked_input(x, finite=True))
        self._forward(batch)
        return [self._on_the_host(a) for a in batch.a[1:-1]]

    def evaluate(self, x: Any, y: Any) -> Evaluation:
        """The loss over (x, y), and the accuracy for losses that classify: the share of right classes, with binary
        cross-entropy over all outputs. Any number of rows."""
        x, y = self._checked_input(x, finite=True), self._checked_target(y, values=True)
        require_same_rows(x, y)
        kept = self.backend.asnumpy(self.losses)
        self.take_total_loss()
        classes = []
        for start in range(0, len(x), CHUNK):
            part = slice(start, start + CHUNK)
            batch = self._load(x[part])
            target = self._load_target(y[part], batch)
            self._forward(batch)
            self._output_delta(batch, target)
            if self.classifies:
                classes.append(self._classify(batch))
        loss = self.take_total_loss() / self.loss.divisor(len(x))
        self.backend.upload(kept, self.losses)
        return Evaluation(loss, self._accuracy(np.concatenate(classes), y) if classes else None)

    def score(self, x: Any, y: Any) -> float:
        """Accuracy for losses that classify, else the coefficient of determination R² over all outputs."""
        accuracy = self.evaluate(x, y).accuracy
        if accuracy is not None:
            return accuracy
        y = self._checked_target(y).astype(np.float64)
        residual = np.sum((self.predict_proba(x) - y) ** 2)
        total = np.sum((y - y.mean(axis=0)) ** 2)
        return float(1 - residual / total) if total > 0 else float(residual == 0)

    @staticmethod
    def _accuracy(classes: np.ndarray, y: np.ndarray) -> float:
        if classes.ndim == 1:
            truth = y if y.ndim == 1 else y.argmax(axis=1)
        else:
            truth = y > 0.5
        return float(np.mean(classes == truth))

    def _outputs(self, x: Any, read: Any) -> np.ndarray:
        x = self._checked_input(x, finite=True)
        parts = []
        for start in range(0, len(x), CHUNK):
            batch = self._load(x[start : start + CHUNK])
            self._forward(batch)
            parts.append(read(batch))
        return np.concatenate(parts)

    def _classify(self, batch: _Batch) -> np.ndarray:
        """The classes that the logits in a[L] say: (B,) the largest one's, or (B, n_L) 1 where a probability is > ½."""
        if isinstance(self.loss, BinaryCrossEntropy):
            return (self._on_the_host(batch.a[-1]) > 0).astype(np.int64)
        labels = batch.target[np.dtype(np.int64)]
        self.backend.row_argmax(batch.a[-1], labels)
        return self.backend.asnumpy(labels)

    def _activate_output(self, batch: _Batch) -> np.ndarray:
        """a[L] on the host; for a loss from logits, the activation that `_forward` left out."""
        if isinstance(self.loss, SoftmaxCrossEntropy):
            # into the place of targets, which is of the master dtype: in 16 bits a row would not sum to 1
            probabilities = batch.target[np.dtype(self.dtype)]
            self.backend.softmax(batch.a[-1], probabilities)
            return self.backend.asnumpy(probabilities)
        output = self._on_the_host(batch.a[-1])
        if self.loss.from_logits:
            # there, of the logits that classes are read from: once more in 16 bits, p > ½ could miss a small z > 0
            self.activations[-1].apply(output, output)
        return output

    def _on_the_host(self, x: Array) -> np.ndarray:
        """A copy of x for the user, in the master dtype."""
        return widened(self.backend.asnumpy(x))

    # --- what comes in ----------------------------------------------------------------------------------------------
    def _load(self, x: Any) -> _Batch:
        """The arrays of a pass, with these inputs from the host, or in the backend's own array, as a[0]."""
        if self._is_device_array(x):
            inputs.require_examples_on_device(x, self.sizes[0], self.dtype, self.precision.storage)
        else:
            x = self._checked_input(x)
        batch = self._batch(int(x.shape[0]))
        if self._on_host:
            # x is only read, and no longer than the pass: a copy would cost up to a sixth of a small step
            return _Batch(batch.rows, [x, *batch.a[1:]], batch.z, batch.delta, batch.saved, batch.target)
        self._fill(x, batch.a[0])
        return batch

    def _load_target(self, y: Any, batch: _Batch) -> Array:
        """The batch's targets or labels likewise."""
        if self._is_device_array(y):
            inputs.require_targets_on_device(y, self.loss, self.sizes[-1], self.dtype)
        else:
            y = self._checked_target(y)
        require_same_rows(batch.a[0], y)
        if self._on_host:
            return y
        target = batch.target[np.dtype(y.dtype)]
        self._fill(y, target)
        return target

    @property
    def _on_host(self) -> bool:
        """Whether the backend's arrays are NumPy's, so that the caller's need no copy."""
        return isinstance(self.parameters, np.ndarray)

    def _is_device_array(self, x: Any) -> bool:
        return not isinstance(x, np.ndarray) and type(x) is type(self.parameters)

    def _fill(self, source: Any, out: Array) -> None:
        if self._is_device_array(source):
            move = self.backend.copy if source.dtype == out.dtype else self.backend.cast
            move(source, out)
        else:
            self.backend.upload(source, out)

    def _checked_input(self, x: Any, finite: bool = False) -> np.ndarray:
        return inputs.checked_examples(x, self.sizes[0], self.precision.storage, finite)

    def _checked_target(self, y: Any, values: bool = False) -> np.ndarray:
        return inputs.checked_targets(y, self.loss, self.sizes[-1], self.dtype, values)

    # --- saving -----------------------------------------------------------------------------------------------------
    def config(self) -> dict[str, Any]:
        """All that `from_config` needs to make a network of this architecture; JSON can hold it."""
        return {
            "sizes": list(self.sizes),
            "hidden_activation": [activation.config() for activation in self.activations[1:-1]],
            "output_activation": self.activations[-1].config(),
            "loss": self.loss.config(),
            "initializer": None if self.initializer is None else self.initializer.config(),
            "bias": self.bias,
            "dtype": self.dtype,
            **({} if self.precision_name is None else {"precision": self.precision_name}),
            **({} if self.loss_scaling is None else {"loss_scaling": self.loss_scaling.config()}),
            "seed": self.seed,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], backend: str | Backend = "auto", device: str | None = None
    ) -> Network:
        """A fresh network of the architecture that `config()` said."""
        return cls(**config, backend=backend, device=device)

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of all weights and biases on the host, by names such as "layer1.weight" and "layer1.bias"; in mixed
        precision, those that the optimiser updates."""
        return self.layout.named(self.backend.asnumpy(self.parameters))

    def set_weights(self, named: Mapping[str, np.ndarray]) -> None:
        """Take all weights and biases from arrays named and shaped as `weights` gives them."""
        self.backend.upload(self.layout.flat(named, self.dtype), self.parameters)
        if self._stored is not None:
            self.backend.cast(self.parameters, self._stored)

    def state(self) -> dict[str, np.ndarray]:
        """All that changes in training, on the host: weights, the optimiser's state, steps made, losses, and where the
        loss is scaled the scale with its counts."""
        slots = {
            f"optimizer.{name}": self.backend.asnumpy(slot)
            for name, slot in zip(self._optimizer.state, self._state, strict=True)
        }
        losses = self.backend.asnumpy(self.losses)
        scaling = {}
        if self.loss_scaling is not None:
            control = self.backend.asnumpy(self.control)
            scaling = {name: np.array(control[place]) for name, place in _SCALING_STATE.items()}
        return {**self.weights(), **slots, "steps": np.array(self.steps, np.int64), "losses": losses, **scaling}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what `state` gave, with the same architecture and optimiser."""
        for name, slot in zip(self._optimizer.state, self._state, strict=True):
            key = f"optimizer.{name}"
            if key not in state or state[key].shape != tuple(slot.shape):
                raise ArgumentError(key, "missing or of another shape", f"of shape {tuple(slot.shape)}")
        scaling = {} if self.loss_scaling is None else _SCALING_STATE
        for key in ("steps", *scaling):
            if key not in state:
                raise ArgumentError(key, "missing", "a number, as `state` gives it")
        self.set_weights(state)
        for name, slot in zip(self._optimizer.state, self._state, strict=True):
            self.backend.upload(np.ascontiguousarray(state[f"optimizer.{name}"], self.precision.master), slot)
        self._set_steps(int(state["steps"]))
        if scaling:
            control = self.backend.asnumpy(self.control)
            for name, place in scaling.items():
                control[place] = state[name]
            self.backend.upload(control, self.control)
        self.backend.upload(state["losses"], self.losses)

    def save(
        self,
        path: str | Path,
        tensors: Mapping[str, np.ndarray] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write weights and configuration to a safetensors file, whole or not at all; extra tensors and metadata
        (anything that JSON can hold) ride along."""
        model_file.write(path, {**self.weights(), **(tensors or {})}, {**(metadata or {}), "network": self.config()})

    @classmethod
    def load(cls, path: str | Path, backend: str | Backend = "auto", device: str | None = None) -> Network:
        """Read what `save` wrote. Runs no code from the file. Raises CheckpointError for any other file."""
        tensors, metadata = model_file.read(path)
        return model_file.network_from(path, tensors, metadata, backend, device)
