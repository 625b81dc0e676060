"""Training steps: the optimiser's state, and what a step reads and writes beside the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gpubp.backends.base import Array
from gpubp.distributed.ranks import ALONE, Ranks
from gpubp.errors import StateError
from gpubp.kernels.control import HOST_CONTROLS, Control, Losses
from gpubp.nn import checks, optimizers
from gpubp.nn.batches import Batch
from gpubp.nn.examples import Examples
from gpubp.nn.feeds import Feed, RecordedStep, StreamedFeed
from gpubp.nn.network import Network, total_weight
from gpubp.nn.optimizers import Optimizer
from gpubp.registry import require_count

_SCALING_STATE = {
    "loss_scale": Control.LOSS_SCALE,
    "clean_steps": Control.CLEAN_STEPS,
}
"""What `Trainer.state` keeps of the loss scaling, and its places in `control`; besides "updates", the steps that were
not skipped."""


class Trainer:
    """Trains a network, step by step, from the weights that it has.

    Args:
        network: is changed by every step.
        optimizer: how gradients become steps: a name, a config or the optimiser itself. Its state starts fresh.
        at_once: the most rows that pass through the network together. A larger batch passes in parts, whose gradients
            are added up before the step: the same step, to roundoff, in less memory. None: any batch passes whole.
        ranks: the processes that train together. Each has the same network, optimiser and data, makes the same calls,
            and computes its share of each batch, the rows of `Ranks.share`; their gradients are added up.

    Attributes:
        optimizer: may be replaced between steps by one that differs in its numbers alone.
        steps: made so far, those that loss scaling skipped included.
        control, losses: what the kernels of a step read and write on the device, float64 (see `Control`, `Losses`).

    Raises:
        ArgumentError: `network` is something else, there is no such optimiser, or a setting of it is wrong.
    """

    def __init__(
        self,
        network: Network,
        optimizer: str | Optimizer | Mapping[str, Any] = "sgd",
        at_once: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        if not isinstance(network, Network):
            raise StateError("network", f"is a {type(network).__name__}", "be a Network")
        self.network = network
        self.optimizer = optimizers.get(optimizer)
        if at_once is not None:
            require_count("at_once", at_once)
        self.at_once = at_once
        self.ranks = ranks
        self._have_met = False
        backend = network.backend
        self._state = [backend.zeros(network.parameters.shape, network.dtype) for _ in self.optimizer.state]
        self.control = backend.zeros((len(Control),), "float64")
        self.losses = backend.zeros((len(Losses),), "float64")
        self._host_control = np.zeros(HOST_CONTROLS)
        self._from_host = self.control[:HOST_CONTROLS]
        self._set_steps(0)

    def _set_steps(self, steps: int) -> None:
        """Set the number of steps made, of which none was skipped, and the first loss scale."""
        self.steps = steps
        values = np.zeros(len(Control))
        values[Control.GRADIENT_SCALE] = 1
        values[Control.SKIPPED] = -self.optimizer.head_start
        scaling = self.network.loss_scaling
        values[Control.LOSS_SCALE] = 1 if scaling is None else scaling.initial
        self.network.backend.upload(values, self.control)

    # --- a step -----------------------------------------------------------------------------------------------------
    def step(self, x: Any, y: Any, sample_weight: Any = None) -> None:
        """Make one step on this batch.

        Waits for nothing, but for weights that lie on the device: `last_loss` reads the loss.

        Args:
            x: (B, n_0).
            y: (B, n_L), or (B,) labels where the loss takes them.
            sample_weight: (B,) of at least 0: what each example's loss and δ are multiplied by; their mean is taken
                over the weights. A weight of 2 is the example twice, one of 0 the example left out. None: all 1.

        Raises:
            ArgumentError: shapes or dtypes are wrong, or targets on the host are none that the loss takes: labels that
                are no class, a cross-entropy's rows that are no probabilities. On the device nobody looks at them:
                there they make the loss and the weights NaN. NaN and infinity pass, but not in `sample_weight`.
        """
        batches = self.network.batches
        x, y = batches.taken(x, y)
        weights = None if sample_weight is None else batches.checked_weights(sample_weight, len(x))
        self._set_host_controls(0, None if weights is None else total_weight(weights))

        def place(part: slice) -> tuple[Batch, Array, Array | None]:
            batch, target = batches.place(x[part], y[part])
            return batch, target, batches.place_weights(None if weights is None else weights[part], batch)

        self._step(len(x), place)
        self.steps += 1

    def _set_host_controls(self, offset: int, weight: float | None) -> None:
        """Set what the host says of the next step. weight: of its batch; None: its examples have none."""
        self._host_control[Control.LEARNING_RATE] = self.optimizer.rate(self.steps)
        self._host_control[Control.BATCH_OFFSET] = offset
        self._host_control[Control.STEP] = self.steps
        if weight is not None:
            self._host_control[Control.LOSS_FACTOR] = self.network.loss.factor(weight)
        self.network.backend.upload(self._host_control, self._from_host)

    def _parts(self, rows: int) -> list[slice]:
        """Return the rows that pass together, part by part, of this rank's share of a batch of this many rows."""
        own = self.ranks.share(rows)
        most = self.at_once or max(rows, 1)
        return [slice(first, min(first + most, own.stop)) for first in range(own.start, own.stop, most)]

    def _step(
        self, rows: int, place: Callable[[slice], tuple[Batch, Array, Array | None]], apart: bool = False
    ) -> None:
        """Run a step, with controls that are in place.

        Args:
            rows: of the batch.
            place: puts some rows of the batch into the arrays of a pass, and returns these, targets and weights.
            apart: leave out what the other ranks have part in.
        """
        network, control, parts = self.network, self.control, self._parts(rows)
        whole, drops = len(parts) == 1 and self.ranks.alone, network.drops
        fold = self.optimizer.is_plain_sgd and network.stored is None and whole and not drops
        divisor = None if whole else network.loss.divisor(rows)
        for part in parts:
            batch, y, weights = place(part)
            dropout = network.dropped(part.start) if drops else None
            network.forward(batch, dropout, control if drops else None)
            network.output_delta(batch, y, weights, self.losses, control, divisor)
            network.backward(batch, dropout, control, fold=fold, accumulate=part is not parts[0])
        if not parts:
            self._contribute_nothing()
        if not self.ranks.alone and not apart:
            network.backend.all_reduce(network.gradient, self.ranks)
        if not fold:
            self._update()

    def _contribute_nothing(self) -> None:
        """Make this rank's gradient and loss 0: the batch has fewer rows than there are ranks."""
        for array in (self.network.gradient, self.losses[: Losses.TOTAL]):
            self.network.backend.upload(np.zeros(array.shape, array.dtype), array)

    def _update(self) -> None:
        """Compute w ← w − η ∂L/∂w, or the optimiser's recurrence, over all parameters at once."""
        network, control, optimizer = self.network, self.control, self.optimizer
        backend, gradient, scaling = network.backend, network.gradient, network.loss_scaling
        if optimizer.clip_norm is not None or scaling is not None:
            backend.prepare_update(gradient, optimizer.clip_norm, control, scaling)
        weights = network.layout.bias_start
        backend.update(optimizer, gradient, weights, control, self._state, network.parameters, network.stored)

    # --- steps on data that lies on the device ------------------------------------------------------------------------
    def feed(self, x: Any, y: Any, sample_weight: Any = None) -> Feed:
        """Return the data set (x, y) on the backend's device, for steps on its rows, with weights as in `step`.

        Raises ArgumentError for wrong shapes, for NaN and infinity, and for targets that the loss does not take.
        """
        batches, backend = self.network.batches, self.network.backend
        x, y = batches.checked(x, y)
        weights = None if sample_weight is None else batches.checked_weights(sample_weight, len(x))
        return Feed(
            self.network,
            len(x),
            backend.asarray(x, x.dtype),
            backend.asarray(y, y.dtype),
            None if weights is None else backend.asarray(weights, weights.dtype),
            backend.asarray(np.arange(len(x)), "int64"),
            weights,
        )

    def streamed_feed(self, x: Examples, y: Any, rows: int, sample_weight: Any = None) -> StreamedFeed:
        """Return the same as `feed`, of examples that are made while the steps before theirs are computed.

        Targets and weights lie on the host; of the examples some batches at a time, and on the device too.

        rows: of a whole batch. Steps are made on these, from a multiple of it on.

        Raises ArgumentError as `feed`; NaN and infinity among the examples are found when they are made.
        """
        batches = self.network.batches
        x, y = batches.checked_examples(x), batches.checked_targets(y, values=True)
        checks.require_same_rows(x, y)
        weights = None if sample_weight is None else batches.checked_weights(sample_weight, len(x))
        return StreamedFeed(self.network, x, y, weights, rows, self.ranks)

    def step_rows(self, feed: Feed, start: int, rows: int) -> None:
        """Make one step on the feed's rows order[start : start + rows], gathered on the device.

        Raises ArgumentError for rows that the feed does not have, and for the feed of another network.
        """
        self._require_own(feed)
        feed.require(start, rows)
        self._set_host_controls(feed.placed(start, rows), feed.weight(start, rows))
        self._step_recorded(feed, rows)
        self.steps += 1

    def _step_recorded(self, feed: Feed, rows: int) -> None:
        """Run a step on the feed, as `_step`: from its second time on as the backend recorded it the first time."""
        parts = self._parts(rows)
        if not parts:  # there is no launch to record
            self._step(rows, partial(self._gather, feed))
            return
        largest = self._largest(parts)
        made_for = (self, self.optimizer, self.at_once, largest)
        recorded = feed._recorded.get(rows)
        if recorded is not None and all(x is y for x, y in zip(recorded.made_for, made_for, strict=True)):
            recorded.again()
            return
        again = self.network.backend.record(partial(self._step, rows, partial(self._gather, feed)))
        feed._recorded[rows] = RecordedStep(made_for, again)

    def _largest(self, parts: list[slice]) -> Batch:
        """Return the arrays that the largest of these parts passes in."""
        return self.network.batches.of(parts[0].stop - parts[0].start)

    def _require_own(self, feed: Feed) -> None:
        """Refuse another network's feed: its rows may have another width, or labels beyond this network's outputs."""
        if not isinstance(feed, Feed) or feed.network is not self.network:
            state = "is another network's" if isinstance(feed, Feed) else f"is a {type(feed).__name__}"
            raise StateError("feed", state, "be one that a trainer of this network made")

    def _gather(self, feed: Feed, part: slice) -> tuple[Batch, Array, Array | None]:
        """Gather the feed's examples of a part of this step's rows, as `_step` asks for them."""
        backend, batch = self.network.backend, self.network.batches.of(part.stop - part.start)
        target = batch.target[np.dtype(feed.y.dtype)]
        order = feed.order[part.start :] if part.start else feed.order  # a view takes Numba longer than a launch
        if feed.weights is None:
            backend.gather_rows((feed.x, feed.y), order, self.control, (batch.a[0], target))
            return batch, target, None
        sources = feed.x, feed.y, feed.weights
        backend.gather_rows(sources, order, self.control, (batch.a[0], target, batch.weights))
        return batch, target, batch.weights

    def capture(self, feed: Feed, rows: int) -> CapturedStep:
        """Record a step on `rows` rows of the feed, for the backend to replay with one call (a CUDA graph).

        Each replay takes other rows, and the step size of its time. Network and trainer are left as they were. Raises
        BackendError if the backend cannot record (`Backend.captures`), ArgumentError as `step_rows`, and for fewer rows
        than ranks.
        """
        self._require_own(feed)
        feed.require(0, rows)
        if rows < self.ranks.count:
            raise StateError("rows", f"are {rows} for {self.ranks.count} ranks", "be one for each rank, at least")
        network, backend = self.network, self.network.backend
        changed = [network.parameters, *self._state, self.control, self.losses]
        changed += [] if network.stored is None else [network.stored]
        # on the host: the device may have no room for them twice
        kept = [backend.asnumpy(array) for array in changed]
        self._meet()
        self._set_host_controls(0, feed.weight(0, rows))
        step = partial(self._step, rows, partial(self._gather, feed))
        try:
            # once without recording: it compiles every kernel and makes every array that they need on their way; apart
            # from the other ranks, which may keep the step that they recorded
            step(apart=True)
        finally:
            for host, array in zip(kept, changed, strict=True):
                backend.upload(host, array)
        replay = backend.capture(step)
        largest, decided_by = self._largest(self._parts(rows)), backend.decided_by
        return CapturedStep(self, feed, rows, largest, self.optimizer, self.at_once, decided_by, replay)

    def _meet(self) -> None:
        """Let all ranks add up once, before any records: they make their connections then."""
        if not self.ranks.alone and not self._have_met:
            self.network.backend.all_reduce(self.network.gradient, self.ranks)
            self._have_met = True

    # --- what came of the steps -------------------------------------------------------------------------------------
    def last_loss(self) -> float:
        """Return the loss of the last batch; of its last part alone, if it passed in parts (`at_once`) this is what
        that part adds to it. Waits for the device, and for all ranks."""
        return self.ranks.total(float(self.network.backend.asnumpy(self.losses)[Losses.BATCH]))

    def total_loss(self) -> float:
        """Return the sum of the weighted losses, since `take_total_loss`, of the examples that this rank has computed.
        Waits for the device."""
        return float(self.network.backend.asnumpy(self.losses)[Losses.TOTAL])

    def take_total_loss(self) -> float:
        """Return the sum of all ranks' `total_loss`, and let it start from 0 again."""
        total = self.ranks.total(self.total_loss())
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

    def scale_state(self, factor: float) -> None:
        """Multiply the optimiser's state by a factor: what keeps a velocity's η v when η is divided by it."""
        for slot in self._state:
            self.network.backend.scale(slot, factor)

    # --- saving -----------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, np.ndarray]:
        """Return copies of all that changes in training, on the host, by name.

        That is: weights, the optimiser's state, the number of steps, losses, and with loss scaling the scale and its
        counts. The losses are those of all ranks: all call this.
        """
        network = self.network
        slots = {
            f"optimizer.{name}": network.backend.asnumpy(slot)
            for name, slot in zip(self.optimizer.state, self._state, strict=True)
        }
        losses = network.backend.asnumpy(self.losses)
        self.ranks.add_up(losses)
        scaling = {}
        if network.loss_scaling is not None:
            control = network.backend.asnumpy(self.control)
            scaling = {name: np.array(control[place]) for name, place in _SCALING_STATE.items()}
            scaling["updates"] = np.array(self.steps - control[Control.SKIPPED])
        return {**network.weights(), **slots, "steps": np.array(self.steps, np.int64), "losses": losses, **scaling}

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied and pickled as the network, the settings and `state`: some arrays are views of others. With several
        ranks that cannot be: what is copied would train alone."""
        if not self.ranks.alone:
            raise TypeError("a trainer that several ranks share cannot be copied or pickled")
        return type(self), (self.network, self.optimizer, self.at_once), self.state()

    def __setstate__(self, state: Mapping[str, np.ndarray]) -> None:
        self.restore(state)

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
        for key in ("steps", *scaling, *(["updates"] if scaling else [])):
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
            control[Control.SKIPPED] = self.steps - float(state["updates"])
            backend.upload(control, self.control)
        losses = np.ascontiguousarray(state["losses"], np.float64)
        backend.upload(losses if self.ranks.first else np.zeros_like(losses), self.losses)


@dataclass(frozen=True)
class CapturedStep:
    """A training step that `Trainer.capture` recorded once; calling it with a first row makes the step."""

    trainer: Trainer
    feed: Feed
    rows: int
    largest: Batch
    optimizer: Optimizer
    at_once: int | None
    decided_by: tuple[Any, ...]
    replay: Callable[[], None]

    @property
    def is_current(self) -> bool:
        """True if a step would still be the recorded one: a larger batch makes new arrays, another variant or plan of
        the backend other launches, and another optimiser is another step, unless it differs in η and its schedule
        alone."""
        trainer, optimizer = self.trainer, self.trainer.optimizer
        if trainer.at_once != self.at_once or trainer.network.batches.of(self.largest.rows) is not self.largest:
            return False
        if trainer.network.backend.decided_by != self.decided_by:
            return False
        if optimizer is self.optimizer:
            return True
        return optimizer == replace(self.optimizer, learning_rate=optimizer.learning_rate, schedule=optimizer.schedule)

    def __call__(self, start: int) -> None:
        """Make one step on the feed's rows order[start : start + rows], like `Trainer.step_rows`.

        Raises ArgumentError for rows that the feed does not have, and for a step that is not current.
        """
        self.feed.require(start, self.rows)
        if not self.is_current:
            state = (
                "was captured for another optimiser, `at_once` or variant or plan of the backend, or for arrays that a "
                "larger batch has replaced"
            )
            raise StateError("step", state, "be captured anew")
        self.trainer._set_host_controls(self.feed.placed(start, self.rows), self.feed.weight(start, self.rows))
        self.replay()
        self.trainer.steps += 1


class BatchSteps:
    """Steps on batches of a feed, whole ones as fast as the backend can.

    If the backend records, a whole batch is the replay of a recorded step: the same kernels on the same numbers,
    without the host's work for each launch, which takes longer than small kernels.

    Args:
        trainer, feed: as for `Trainer.step_rows`.
        rows: of a whole batch.
    """

    def __init__(self, trainer: Trainer, feed: Feed, rows: int) -> None:
        self.trainer, self.feed, self.rows = trainer, feed, rows
        self._captured: CapturedStep | None = None
        self._optimizer: Optimizer | None = None  # of the last step

    def __call__(self, start: int) -> int:
        """Make one step on the feed's rows from `start` on, and return how many there were."""
        trainer, rows = self.trainer, min(self.rows, self.feed.rows - start)
        last, self._optimizer = self._optimizer, trainer.optimizer
        # of fewer rows than ranks, a rank without any has nothing to record: then none records, for all to do the same
        replayed = trainer.network.backend.captures and rows == self.rows and rows >= trainer.ranks.count
        if replayed and (self._captured is None or not self._captured.is_current):
            # one that was replaced just now may be replaced again: recording a step takes longer than making it
            replayed = last is None or trainer.optimizer is last
            self._captured = trainer.capture(self.feed, rows) if replayed else None
        if replayed and self._captured is not None:
            self._captured(start)
        else:
            trainer.step_rows(self.feed, start, rows)
        return rows
