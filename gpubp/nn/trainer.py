"""Training steps: the optimiser's state, and what a step reads and writes beside the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.backends.base import Array
from gpubp.errors import StateError
from gpubp.kernels.control import HOST_CONTROLS, Control, Losses
from gpubp.nn import optimizers
from gpubp.nn.batches import Batch
from gpubp.nn.network import Network
from gpubp.nn.optimizers import Optimizer

_SCALING_STATE = {
    "loss_scale": Control.LOSS_SCALE,
    "clean_steps": Control.CLEAN_STEPS,
    "updates": Control.STEP,  # the steps that were not skipped
}
"""What `Trainer.state` keeps of the loss scaling, and its places in `control`."""


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
        """Set the order: (rows,) integers, each a row. Raises ArgumentError for anything else."""
        order = np.asarray(order)
        if order.dtype.kind not in "iu" or order.shape != (self.rows,) or order.min() < 0 or order.max() >= self.rows:
            state = f"is an array of {order.dtype} of shape {order.shape}"
            expected = f"hold {self.rows} row numbers, integers from 0 to {self.rows - 1}"
            raise StateError("order", state, expected)
        self.network.backend.upload(np.ascontiguousarray(order, np.int64), self.order)

    def require(self, start: int, rows: int) -> None:
        """Raise ArgumentError unless the feed has rows start .. start + rows − 1, at least one."""
        if not isinstance(start, int | np.integer) or not isinstance(rows, int | np.integer):
            raise StateError("rows", f"are {rows!r} from {start!r}", "be whole numbers")
        if start < 0 or rows < 1 or start + rows > self.rows:
            raise StateError("rows", f"go from {start} to {start + rows}", f"be one or more of the feed's {self.rows}")


class Trainer:
    """Trains a network, step by step, from the weights that it has.

    Args:
        network: is changed by every step.
        optimizer: how gradients become steps: a name, a config or the optimiser itself. Its state starts fresh.

    Attributes:
        steps: made so far, those that loss scaling skipped included.
        control, losses: what the kernels of a step read and write on the device, float64 (see `Control`, `Losses`).

    Raises:
        ArgumentError: `network` is something else, there is no such optimiser, or a setting of it is wrong.
    """

    def __init__(self, network: Network, optimizer: str | Optimizer | Mapping[str, Any] = "sgd") -> None:
        if not isinstance(network, Network):
            raise StateError("network", f"is a {type(network).__name__}", "be a Network")
        self.network = network
        self.optimizer = optimizers.get(optimizer)
        backend = network.backend
        self._state = [backend.zeros(network.parameters.shape, network.dtype) for _ in self.optimizer.state]
        self.control = backend.zeros((len(Control),), "float64")
        self.losses = backend.zeros((len(Losses),), "float64")
        self._host_control = np.zeros(HOST_CONTROLS)
        self._set_steps(0)

    def _set_steps(self, steps: int) -> None:
        """Set the number of steps made, of which none was skipped, and the first loss scale."""
        self.steps = steps
        values = np.zeros(len(Control))
        values[Control.STEP] = steps
        if self.network.loss_scaling is not None:
            values[Control.LOSS_SCALE] = self.network.loss_scaling.initial
        self.network.backend.upload(values, self.control)

    # --- a step -----------------------------------------------------------------------------------------------------
    def step(self, x: Any, y: Any) -> None:
        """Make one step on this batch: x (B, n_0); y (B, n_L), or (B,) labels where the loss takes them.

        Waits for nothing: `last_loss` reads the loss. Raises ArgumentError for wrong shapes and dtypes, and for targets
        on the host that the loss does not take: labels that are no class, a cross-entropy's rows that are no
        probabilities. On the device nobody looks at them: there they make the loss and the weights NaN. NaN and
        infinity pass.
        """
        batch, target = self.network.batches.place(x, y)
        self._set_host_controls(0)
        self._step(batch, target)
        self.steps += 1

    def _set_host_controls(self, offset: int) -> None:
        self._host_control[Control.LEARNING_RATE] = self.optimizer.rate(self.steps)
        self._host_control[Control.BATCH_OFFSET] = offset
        self.network.backend.upload(self._host_control, self.control[:HOST_CONTROLS])

    def _step(self, batch: Batch, y: Array) -> None:
        """Run the four parts of a step, on arrays and controls that are in place."""
        network, control = self.network, self.control
        fold = self.optimizer.is_plain_sgd and network.stored is None
        network.forward(batch)
        network.output_delta(batch, y, self.losses, None if network.loss_scaling is None else control)
        network.backward(batch, control if fold else None)
        self._update(fold)

    def _update(self, fold: bool) -> None:
        """Compute w ← w − η ∂L/∂w, or the optimiser's recurrence; with `fold` only the biases are left to do."""
        network, control, optimizer = self.network, self.control, self.optimizer
        backend, gradient, scaling = network.backend, network.gradient, network.loss_scaling
        if optimizer.clip_norm is not None or scaling is not None:
            backend.squared_norm(gradient, control[Control.SQUARED_NORM : Control.SQUARED_NORM + 1])
        backend.prepare_update(optimizer.clip_norm, control, scaling)
        start = network.layout.bias_start if fold else 0
        if start < network.layout.size:
            backend.update(
                optimizer,
                gradient[start:],
                network.layout.bias_start - start,
                control,
                [slot[start:] for slot in self._state],
                network.parameters[start:],
                network.stored,
            )

    # --- steps on data that lies on the device ------------------------------------------------------------------------
    def feed(self, x: Any, y: Any) -> Feed:
        """Return the data set (x, y) on the backend's device, for steps on its rows.

        Raises ArgumentError for wrong shapes, for NaN and infinity, and for targets that the loss does not take.
        """
        x, y = self.network.batches.checked(x, y)
        backend = self.network.backend
        order = backend.asarray(np.arange(len(x)), "int64")
        return Feed(backend.asarray(x, x.dtype), backend.asarray(y, y.dtype), order, self.network)

    def step_rows(self, feed: Feed, start: int, rows: int) -> None:
        """Make one step on the feed's rows order[start : start + rows], gathered on the device.

        Raises ArgumentError for rows that the feed does not have, and for the feed of another network.
        """
        self._require_own(feed)
        feed.require(start, rows)
        batch = self.network.batches.of(rows)
        self._set_host_controls(start)
        self._step(batch, self._gather(feed, batch))
        self.steps += 1

    def _require_own(self, feed: Feed) -> None:
        """Refuse another network's feed: its rows may have another width, or labels beyond this network's outputs."""
        if not isinstance(feed, Feed) or feed.network is not self.network:
            state = "is another network's" if isinstance(feed, Feed) else f"is a {type(feed).__name__}"
            raise StateError("feed", state, "be one that a trainer of this network made")

    def _gather(self, feed: Feed, batch: Batch) -> Array:
        """Gather the feed's examples of this step into a[0], and return their targets, gathered likewise."""
        backend, target = self.network.backend, batch.target[np.dtype(feed.y.dtype)]
        backend.gather_rows(feed.x, feed.order, self.control, batch.a[0])
        backend.gather_rows(feed.y, feed.order, self.control, target)
        return target

    def capture(self, feed: Feed, rows: int) -> CapturedStep:
        """Record a step on `rows` rows of the feed, for the backend to replay with one call (a CUDA graph).

        Each replay takes other rows, and the step size of its time. Network and trainer are left as they were. Raises
        BackendError if the backend cannot record (`Backend.captures`), ArgumentError as `step_rows`.
        """
        self._require_own(feed)
        feed.require(0, rows)
        network, backend = self.network, self.network.backend
        batch = network.batches.of(rows)
        changed = [network.parameters, *self._state, self.control, self.losses]
        changed += [] if network.stored is None else [network.stored]
        # on the host: the device may have no room for them twice
        kept = [backend.asnumpy(array) for array in changed]
        self._set_host_controls(0)
        try:
            # once without recording: it compiles every kernel and makes every array that they need on their way
            self._step(batch, self._gather(feed, batch))
        finally:
            for host, array in zip(kept, changed, strict=True):
                backend.upload(host, array)
        replay = backend.capture(lambda: self._step(batch, self._gather(feed, batch)))
        return CapturedStep(self, feed, batch, replay)

    # --- what came of the steps -------------------------------------------------------------------------------------
    def last_loss(self) -> float:
        """Return the loss of the last batch. Waits for the device."""
        return float(self.network.backend.asnumpy(self.losses)[Losses.BATCH])

    def total_loss(self) -> float:
        """Return the sum of the examples' losses since `take_total_loss`. Waits for the device."""
        return float(self.network.backend.asnumpy(self.losses)[Losses.TOTAL])

    def take_total_loss(self) -> float:
        """Return `total_loss`, and let it start from 0 again."""
        total = self.total_loss()
        self.network.backend.upload(np.zeros(len(Losses)), self.losses)
        return total

    @property
    def loss_scale(self) -> float | None:
        """What δ[L] is multiplied by at present; None without loss scaling. Waits for the device."""
        if self.network.loss_scaling is None:
            return None
        return float(self.network.backend.asnumpy(self.control)[Control.LOSS_SCALE])

    @property
    def skipping(self) -> bool:
        """True if the last step was skipped at a loss scale of 1: none is smaller. Waits for the device."""
        if self.network.loss_scaling is None:
            return False
        control = self.network.backend.asnumpy(self.control)
        return bool(control[Control.SKIP] and control[Control.LOSS_SCALE] == 1)

    # --- saving -----------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, np.ndarray]:
        """Return copies of all that changes in training, on the host, by name.

        That is: weights, the optimiser's state, the number of steps, losses, and with loss scaling the scale and its
        counts.
        """
        network = self.network
        slots = {
            f"optimizer.{name}": network.backend.asnumpy(slot)
            for name, slot in zip(self.optimizer.state, self._state, strict=True)
        }
        losses = network.backend.asnumpy(self.losses)
        scaling = {}
        if network.loss_scaling is not None:
            control = network.backend.asnumpy(self.control)
            scaling = {name: np.array(control[place]) for name, place in _SCALING_STATE.items()}
        return {**network.weights(), **slots, "steps": np.array(self.steps, np.int64), "losses": losses, **scaling}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what `state` gave, with the same architecture and optimiser.

        Raises ArgumentError for a part that is missing or does not fit; then nothing has changed.
        """
        network, backend = self.network, self.network.backend
        for name, slot in zip(self.optimizer.state, self._state, strict=True):
            key = f"optimizer.{name}"
            if key not in state or state[key].shape != tuple(slot.shape) or state[key].dtype != network.dtype:
                expected = f"be of {network.dtype} and shape {tuple(slot.shape)}"
                raise StateError(key, "is missing, or of another shape or dtype", expected)
        scaling = {} if network.loss_scaling is None else _SCALING_STATE
        for key in ("steps", *scaling):
            if key not in state or np.shape(state[key]) != () or not 0 <= float(state[key]) < 2**63:
                raise StateError(key, "is missing or is no number", "be a number, as `state` gives it")
        if "losses" not in state or np.shape(state["losses"]) != (len(Losses),):
            raise StateError("losses", "is missing or has another shape", f"have shape {(len(Losses),)}")
        network.set_weights(state)
        for name, slot in zip(self.optimizer.state, self._state, strict=True):
            backend.upload(np.ascontiguousarray(state[f"optimizer.{name}"], network.dtype), slot)
        self._set_steps(int(state["steps"]))
        if scaling:
            control = backend.asnumpy(self.control)
            for name, place in scaling.items():
                control[place] = state[name]
            backend.upload(control, self.control)
        backend.upload(np.ascontiguousarray(state["losses"], np.float64), self.losses)


@dataclass(frozen=True)
class CapturedStep:
    """A training step that `Trainer.capture` recorded once; calling it with a first row makes the step."""

    trainer: Trainer
    feed: Feed
    batch: Batch
    replay: Callable[[], None]

    @property
    def is_current(self) -> bool:
        """True if the network still uses the arrays of the recorded step; a larger batch makes new ones."""
        return self.trainer.network.batches.of(self.batch.rows) is self.batch

    def __call__(self, start: int) -> None:
        """Make one step on the feed's rows order[start : start + rows], like `Trainer.step_rows`.

        Raises ArgumentError for rows that the feed does not have, and for a step that is not current.
        """
        self.feed.require(start, self.batch.rows)
        if not self.is_current:
            raise StateError("step", "was captured for arrays that a larger batch has replaced", "be captured anew")
        self.trainer._set_host_controls(start)
        self.replay()
        self.trainer.steps += 1
