"""Training: the loop over epochs and batches, early stopping, and resuming.

All that is random comes from the seed: the order of an epoch's batches is a function of the seed and the epoch alone.
So a run that was stopped anywhere and resumed from its checkpoint ends with the same history and weights, bit for bit,
on the same backend, chip and number of BLAS threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpubp import files
from gpubp.backends import detection
from gpubp.data.dataset import Dataset
from gpubp.data.rows import Inputs, rows_of
from gpubp.data.splitting import split
from gpubp.distributed import nccl
from gpubp.distributed.ranks import ALONE, Ranks
from gpubp.errors import ArgumentError, CheckpointError, DataError, StateError, shown
from gpubp.nn.activations import ReLU
from gpubp.nn.examples import Examples
from gpubp.nn.feeds import Feed
from gpubp.nn.network import Evaluation, Network, total_weight
from gpubp.nn.trainer import BatchSteps, Trainer
from gpubp.training import class_weights, streaming
from gpubp.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from gpubp.training.config import TrainingConfig
from gpubp.training.diagnostics import Watch
from gpubp.training.fingerprints import fingerprint, sample_digests
from gpubp.training.history import HISTORY_FILE, HistoryRow, history_csv
from gpubp.training.judgement import Judgement
from gpubp.training.model import FINGERPRINT, RUN_FILE, SAMPLE, Model
from gpubp.training.order import WHOLE, epoch_order, kind_for

PROBE_ROWS = 4096
"""Gradient norms, dead units and training accuracy are measured on at most this many rows of the training data."""

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
"""The signals that ask a run to save and stop: Ctrl-C; and what a closed terminal, `kill`, batch systems and a limit of
CPU time send. Some of these come twice or again and again, so only Ctrl-C means more the second time."""

# What is random, by the spawn key of its seed sequence. The network's initial weights have (0,), epochs' orders 1.
_VALIDATION, _PROBE = 2, 4


# --- what a run tells while it goes on --------------------------------------------------------------------------------
class Listener:
    """Its methods are called as a run goes on; these do nothing."""

    def started(self, run: Run) -> None:
        """Called before the first batch."""

    def batch(self, run: Run) -> None:
        """Called after each batch: it must be quick."""

    def epoch(self, run: Run, row: HistoryRow) -> None:
        """Called after each epoch, once it is saved."""

    def judged(self, judgement: Judgement) -> None:
        """Called at the end of a run with a folder, with its predictions of examples that were held out."""

    def warning(self, message: str) -> None:
        """Called if something is wrong with the training, once for each kind of trouble."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run, which is saved: `folder` can be resumed.

    Attributes:
        number: of the signal.
        epoch, batch: how many epochs are done, and how many batches of the next.
    """

    def __init__(self, number: int, folder: Path, epoch: int, batch: int) -> None:
        super().__init__(f"stopped by signal {number} after epoch {epoch}, batch {batch}; saved in {folder}")
        self.number, self.folder, self.epoch, self.batch = number, folder, epoch, batch


class Aborted(KeyboardInterrupt):
    """A second Ctrl-C ended the run at once: `folder` can be resumed from the checkpoint that is there.

    Attributes:
        epoch, batch: where the checkpoint stands; what was trained since is lost.
    """

    def __init__(self, folder: Path, epoch: int, batch: int) -> None:
        super().__init__(f"ended at once; the checkpoint in {folder} is of epoch {epoch}, batch {batch}")
        self.folder, self.epoch, self.batch = folder, epoch, batch


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a run.

    Attributes:
        model: with the weights of the best epoch if the run has early stopping, else of the last.
        history: one row an epoch.
        best_epoch: the epoch that is the best on the validation part, as the config's `monitor` says; None without
            validation.
        row: the history's row of the epoch whose weights the model has.
        stopped_early, diverged: why the run ended before its last epoch.
    """

    model: Model
    history: list[HistoryRow]
    best_epoch: int | None
    row: HistoryRow
    stopped_early: bool
    diverged: bool


class Part(NamedTuple):
    """Examples to measure the network by, as it reads them; `weight` is None if all count the same."""

    inputs: np.ndarray | Examples
    targets: np.ndarray
    weight: np.ndarray | None


# --- the run ----------------------------------------------------------------------------------------------------------
def fit(
    network: Network,
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    reschedule: bool = False,
    listener: Listener | None = None,
    settings: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
    stream: bool | None = None,
) -> Result:
    """Train the network on the data's training part, from its present weights, with a fresh optimiser.

    Args:
        network: with as many inputs and outputs as the data.
        dataset: raw; inputs, and the targets of regression, are scaled here, and the scaling goes into the model. Its
            weights count in the loss that is trained, and in all that is measured.
        config: None takes the defaults.
        folder: where a checkpoint and the history are written after each epoch, and the model at the end. It must
            exist. None writes nothing.
        resume: continue from the folder's checkpoint. The number of epochs may be another one than the run began with.
        reschedule: make the schedule anew for the number of epochs that a resumed run has now. By default it ends where
            it was to end when the run began, and further epochs go on at its last learning rate.
        listener: its methods are called as the run goes on.
        settings, origin: anything JSON can hold, saved with the checkpoint and with the model. The model's origin gets
            what its data is known by besides: `FINGERPRINT` and `SAMPLE`.
        ranks: the processes that train together. Each calls this with the same network, data and settings, and computes
            its share of each batch and of what is measured; all get the result. Rank 0 alone writes.
        stream: read and scale the inputs some batches at a time while the network trains, and bring them to the device
            so, in place of all at once before: the same bits in less memory. None: if they are large, see
            `gpubp.training.streaming`.

    Raises:
        ArgumentError: the network or the class weights do not fit the data, or no example counts in some part.
        CheckpointError: the folder cannot be written; the checkpoint to resume from is missing, damaged, or of another
            network, configuration or data.
        DataError: the file that the inputs are read from changes while the network trains. With a folder, the run is
            saved as it was before the batch that could not be read, or before the epoch that could not be measured.
        Interrupted: with a folder and in the main thread, on a signal of `STOPPING` that the process does not ignore:
            the batch is finished and the position saved.
        Aborted: on SIGINT after any of these.
    """
    run = Run(
        network, dataset, config, folder=folder, listener=listener, settings=settings, origin=origin, ranks=ranks,
        stream=stream,
    )  # fmt: skip
    if resume:
        run.load(reschedule=reschedule)
    run.require_alike()
    return run.train()


class Run:
    """A training run between two batches: where it stands, and its results so far.

    Attributes:
        epoch, batch: how many epochs are done, and how many batches of the next.
        rows_of: which examples of the data's training part are trained on ("training"), and which are not
            ("validation").
        rows, batches: how many examples and batches an epoch has. The batches of a step, whose gradients are added up,
            count as one.
        order: the kind of `gpubp.training.order` that they are visited in.
        streamed: True if inputs are read while the network trains.
        class_weight: of each class in the training loss, (classes,); None if all count the same.
        rescheduled: True if the schedule was made anew when the run was loaded.
    """

    def __init__(
        self,
        network: Network,
        dataset: Dataset,
        config: TrainingConfig | None = None,
        *,
        folder: str | Path | None = None,
        listener: Listener | None = None,
        settings: Mapping[str, Any] | None = None,
        origin: Mapping[str, Any] | None = None,
        ranks: Ranks = ALONE,
        stream: bool | None = None,
    ) -> None:
        """Make a run that can be trained, or continued after `load`; see `fit`. Writes nothing."""
        config = config or TrainingConfig()
        if config.monitor == "accuracy" and dataset.task == "regression":
            raise ArgumentError("monitor", "accuracy", f"loss: {dataset.name} is regression, which has no accuracy")
        self.network, self.dataset, self.config = network, dataset, config
        self.folder = None if folder is None else Path(folder)
        self.listener = listener or Listener()
        self.ranks = ranks
        self.settings = dict(settings or {})
        self.data_fingerprint = fingerprint(dataset)
        known_by = {FINGERPRINT: self.data_fingerprint, SAMPLE: sample_digests(dataset.x_train)}
        self.model = model = Model.for_data(network, dataset, {**(origin or {}), **known_by})

        kept, set_aside = self._split()
        self.rows, self.order = len(kept), kind_for(len(kept))
        self.streamed = streaming.is_chosen(network, dataset, self.rows) if stream is None else stream
        weights, of_test = map(self._rounded, (dataset.weight_train, dataset.weight_test))
        self.parts = {
            "validation": self._part(set_aside, weights),
            "test": Part(self._inputs(dataset.x_test), model.targets(dataset.y_test), of_test),
        }
        self.rows_of = {"training": kept, "validation": set_aside}
        for name, part in self.parts.items():
            _require_weight(name, part.weight)
        self.class_weight, trained = self._trained_weights(kept, None if weights is None else weights[kept])
        # what does not count at all measures nothing
        counting = kept if weights is None else kept[weights[kept] > 0]
        probe = np.sort(self._rng(_PROBE).choice(counting, min(len(counting), PROBE_ROWS), replace=False))
        self.probe = self._part(probe, weights)._replace(inputs=model.inputs(rows_of(dataset.x_train, probe)))
        self.batches = -(-self.rows // config.step_size)

        optimizer = config.scheduled_optimizer(self.batches)
        self.trainer = Trainer(network, optimizer, at_once=config.batch_size, ranks=ranks)
        self.feed = self._fed(self._part(kept, None)._replace(weight=trained))
        self.epoch = 0
        self.batch = 0
        self.history: list[HistoryRow] = []
        self.best_weights: dict[str, np.ndarray] = {}
        self.watch = Watch()
        self.rescheduled = False
        self.signal: int | None = None
        self.saved = (0, 0)
        self._steps = BatchSteps(self.trainer, self.feed, config.step_size)

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the training part to train on, and those to validate on."""
        assert self.config.validation is not None
        rng = self._rng(_VALIDATION)
        return split(self.dataset.y_train, self.config.validation, rng, task=self.dataset.task)

    def _part(self, rows: np.ndarray, weights: np.ndarray | None) -> Part:
        """Return some examples of the training part; `weights`: of all of it."""
        inputs = self._inputs(rows_of(self.dataset.x_train, rows))
        return Part(inputs, self.model.targets(self.dataset.y_train[rows]), None if weights is None else weights[rows])

    def _fed(self, part: Part) -> Feed:
        """Return the feed of the examples to train on."""
        if isinstance(part.inputs, Examples):
            return self.trainer.streamed_feed(part.inputs, part.targets, self.config.step_size, part.weight)
        return self.trainer.feed(*part)

    def _inputs(self, x: Inputs) -> np.ndarray | Examples:
        """Return raw inputs as the network reads them, all or some at a time."""
        return self.model.examples(x) if self.streamed else self.model.inputs(x)

    def _rounded(self, weights: np.ndarray | None) -> np.ndarray | None:
        """Return weights as the network reads them."""
        with np.errstate(over="ignore"):
            return None if weights is None else weights.astype(self.network.dtype)

    def _trained_weights(
        self, kept: np.ndarray, weights: np.ndarray | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the weight of each class, and of each example to train on, its class's included; None for all 1.

        weights: of the examples to train on alone.

        Raises ArgumentError for class weights that do not fit the data, and if no example is left that counts.
        """
        given = self.config.class_weight
        _require_weight("training", weights)
        if given is None:
            return None, weights
        y = self.dataset.y_train[kept]
        of_class, weights = class_weights.applied(class_weights.checked(given), self.dataset, y, weights)
        weights = self._rounded(weights)
        _require_weight("training", weights, "class_weight times ")
        return of_class, weights

    def _rng(self, what: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.config.seed, spawn_key=(what,)))

    # --- the loop -----------------------------------------------------------------------------------------------------
    def train(self) -> Result:
        """Train until the run is finished, and return its result. Raises what `fit` raises."""
        # What overflows is seen by the watch, once; NumPy would say it at every step.
        with signals_heard(self), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self.listener.started(self)
            if not self.finished:
                self.save()  # so that a kill before the next checkpoint leaves this run, with its number of epochs
            while not self.finished:
                self._stop_if_asked()
                self.train_epoch()
            return self._finish()

    def train_epoch(self) -> None:
        """Train on the batches that are left of the epoch, then measure and save."""
        self._visit()
        while self.batch < self.batches:
            self._train_readable_batch()
            self.batch += 1
            self._tell_batch()
            if self.batch < self.batches:
                self._stop_if_asked()
        self._end_epoch()

    def _visit(self) -> None:
        """Let the feed go through the rows in the order of the epoch."""
        self.feed.visit(epoch_order(self.config.seed, self.epoch, self.rows, self.order))

    def _train_readable_batch(self) -> None:
        """Make a step on the next batch. Raise DataError, with the run saved, if its examples cannot be read now."""
        try:
            self._train_batch()
        except DataError as error:
            if self.folder is None or not self.ranks.alone:  # the others know nothing of it, and are ended
                raise
            self.save()
            raise self._resumable(error) from error

    def _resumable(self, error: DataError) -> DataError:
        """Return the error with where the run was saved last."""
        epoch, batch = self.saved
        where = f"after epoch {epoch}" + (f", batch {batch}" if batch else "")
        told = f"{error}. The run is saved {where}: with the data as it was, --resume {self.folder} continues it"
        return DataError(told)

    def _tell_batch(self) -> None:
        try:
            self.listener.batch(self)
        except OSError:
            if self.signal is None:
                if self.ranks.alone:  # the others know nothing of it, and are ended
                    self.save()
                raise
            # the terminal that this goes to has been closed, of which the signal told: the run stops for that

    def _train_batch(self) -> None:
        """Make a step on the next batch."""
        self._steps(self.batch * self.config.step_size)

    def _end_epoch(self) -> None:
        rate, skipping = self.trainer.optimizer.rate(self.trainer.steps - 1), self.trainer.skipping
        train_loss = self._reduced(self.trainer.take_total_loss(), self.rows)
        self.epoch, self.batch = self.epoch + 1, 0
        # one rank measures by the probe, which is small, and what it finds decides for all
        probed = self.ranks.from_first(self._probed() if self.ranks.first else None)
        validation, test = (self._measure_readable(part) for part in ("validation", "test"))
        row = HistoryRow(
            self.epoch, self.trainer.steps, rate,
            train_loss, probed.accuracy, validation.loss, validation.accuracy, test.loss, test.accuracy,
            sum(probed.dead), probed.gradient_norms,
        )  # fmt: skip
        self.history.append(row)
        if self.config.patience is not None and self.best_epoch == self.epoch:
            self.best_weights = self.network.weights()
        warnings = self.watch.look(train_loss, row.gradient_norms, probed.dead, probed.widths, skipping)
        self.save()
        for message in warnings:
            self.listener.warning(message)
        self.listener.epoch(self, row)

    def _probed(self) -> _Probed:
        dead, widths = self._dead_units()
        return _Probed(dead, widths, self.model.measure(*self.probe).accuracy, self._gradient_norms())

    def _measure_readable(self, part: str) -> Evaluation | _Nothing:
        """Measure a part. Raise DataError, with where the run was saved last, if its examples cannot be read now."""
        try:
            return self._measure(part)
        except DataError as error:
            if self.folder is None or not self.ranks.alone:  # the others know nothing of it, and are ended
                raise
            raise self._resumable(error) from error

    def _measure(self, part: str) -> Evaluation | _Nothing:
        """Return the evaluation of a part, of which each rank computes its share."""
        found = self.parts[part]
        if not len(found.inputs):
            return _Nothing()
        if self.ranks.alone:
            return self.model.measure(*found)
        share = self.ranks.share(len(found.inputs))
        inputs = found.inputs
        inputs = inputs.between(share.start, share.stop) if isinstance(inputs, Examples) else inputs[share]
        own = Part(inputs, found.targets[share], None if found.weight is None else found.weight[share])
        weight = float(len(own.inputs)) if own.weight is None else total_weight(own.weight)
        divisor = self.network.loss.divisor
        sums = np.zeros(3)  # of weights, losses, and what is right
        if weight:
            measured = self.model.measure(*own)
            sums[:] = weight, measured.loss * divisor(weight), weight * (measured.accuracy or 0)
        self.ranks.add_up(sums)
        weight, loss, right = sums.tolist()
        return Evaluation(loss / divisor(weight), None if self.model.task == "regression" else right / weight)

    def _gradient_norms(self) -> tuple[float, ...]:
        inputs, targets, weight = self.probe
        scale = self.trainer.loss_scale
        norms = self.network.gradients(inputs, targets, scale, sample_weight=weight)[1].norms()
        if self.network.loss.reduction == "sum":
            # of a batch as large as those that are trained on
            norms = [norm * min(self.config.step_size, self.rows) / len(inputs) for norm in norms]
        return tuple(norms)

    def _dead_units(self) -> tuple[list[int], list[int]]:
        """Return for each hidden layer how many of its units gave 0 on all rows of the probe, and how many it has."""
        widths = list(self.network.sizes[1:-1])
        kinds = self.network.activations[1:-1]
        if not any(isinstance(kind, ReLU) for kind in kinds):
            return [0] * len(widths), widths
        active = [a.any(axis=0) for a in self.network.hidden_activations(self.probe.inputs)]
        dead = [int((~units).sum()) if isinstance(kind, ReLU) else 0 for units, kind in zip(active, kinds, strict=True)]
        return dead, widths

    def judge(self) -> Judgement:
        """Return the predictions of the test part; without one those of the validation part, else of the training."""
        data = self.dataset
        if len(data.x_test):
            return Judgement.of(self.model, "the test part", data.x_test, data.y_test, data.weight_test)
        name = "validation" if len(self.rows_of["validation"]) else "training"
        rows, weight = self.rows_of[name], data.weight_train
        weights = None if weight is None else weight[rows]
        return Judgement.of(self.model, f"the {name} part", rows_of(data.x_train, rows), data.y_train[rows], weights)

    def _finish(self) -> Result:
        """Return the result, with the weights of the best epoch if the run has early stopping."""
        stopped_early, diverged, best = self.stopped_early, self.diverged, self.best_epoch
        row = self.history[-1]
        if self.best_weights and best is not None:
            self.network.set_weights(self.best_weights)
            row = self.history[best - 1]
        if self._writes:
            assert self.folder is not None
            self._write_history()
            if row.is_finite:
                self.model.save(self.folder / RUN_FILE)
        return Result(self.model, self.history, best, row, stopped_early, diverged)

    # --- where it stands ----------------------------------------------------------------------------------------------
    @property
    def best_epoch(self) -> int | None:
        """The best epoch, as `TrainingConfig.monitor` says, the first of equals; None without a validation part."""
        judged = [
            row for row in self.history if row.validation_loss is not None and not math.isnan(row.validation_loss)
        ]
        return min(judged, key=self._merit).epoch if judged else None

    def _merit(self, row: HistoryRow) -> tuple[float, ...]:
        """Return what is less for a better epoch."""
        assert row.validation_loss is not None
        if self.config.monitor == "loss":
            return (row.validation_loss,)
        assert row.validation_accuracy is not None
        return -row.validation_accuracy, row.validation_loss

    @property
    def stopped_early(self) -> bool:
        """True if as many epochs as the patience says came after the best."""
        return self.config.patience is not None and self.epoch - (self.best_epoch or 0) >= self.config.patience

    @property
    def diverged(self) -> bool:
        """True if the weights are lost: no further epoch brings them back."""
        return bool(self.history) and not self.history[-1].is_finite

    @property
    def finished(self) -> bool:
        """True if there is nothing left to train."""
        return self.epoch >= self.config.epochs or self.stopped_early or self.diverged

    def running_loss(self) -> float:
        """Return the epoch's loss so far, reduced as the loss says; of several ranks, that of this rank's examples.

        Waits for the device, and changes nothing.
        """
        total, size = self.trainer.total_loss(), self.config.step_size
        done = min(self.batch * size, self.rows)
        if self.ranks.alone:
            return self._reduced(total, done)
        weight = 0.0
        for start in range(0, done, size):
            own = self.ranks.share(min(size, done - start))
            found = self.feed.weight(start + own.start, own.stop - own.start)
            weight += own.stop - own.start if found is None else found
        return total / self.network.loss.divisor(weight) if weight else math.nan

    def _reduced(self, total: float, rows: int) -> float:
        """Return the total loss of the epoch's first rows, reduced as the loss says; NaN if none of them counts."""
        weight = self.feed.weight(0, rows)
        weight = rows if weight is None else weight
        return total / self.network.loss.divisor(weight) if weight else math.nan

    # --- checkpoints --------------------------------------------------------------------------------------------------
    def _stop_if_asked(self) -> None:
        """Save and raise Interrupted if a signal has asked any rank to stop; all call this after the same batch."""
        if self.folder is None:
            return
        number = self.ranks.largest(self.signal or 0)
        if not number:
            return
        if self.batch:
            self.save()
        self.ranks.raise_together(Interrupted(number, self.folder, self.epoch, self.batch))

    @property
    def _writes(self) -> bool:
        """True if there is a folder, which all ranks know, and this is the one that writes into it."""
        return self.folder is not None and self.ranks.first

    def save(self) -> None:
        """Write checkpoint and history into the folder, if there is one, each whole or not at all. All ranks call this.

        Raises BackendError if the ranks' weights have come to differ.
        """
        if self.folder is None:
            return
        state = self.trainer.state()
        self._require_same_state(state)
        if self._writes:
            Checkpoint(
                state=state,
                best_weights=self.best_weights,
                network=self.network.config(),
                training=self.config.config(),
                settings=self.settings,
                data=self.data_fingerprint,
                epoch=self.epoch,
                batch=self.batch,
                history=self.history,
                warnings=self.watch.given,
                order=self.order,
            ).write(self.folder)
            self._write_history()
        self.saved = (self.epoch, self.batch)

    def _write_history(self) -> None:
        assert self.folder is not None
        if self.history:
            files.write_bytes(self.folder / HISTORY_FILE, history_csv(self.history).encode())

    def load(self, *, reschedule: bool = False) -> None:
        """Continue from the folder's checkpoint; `reschedule` as for `fit`.

        Raises CheckpointError if it is missing, damaged, or of another network, configuration or data.
        """
        if self.folder is None:
            raise ArgumentError("folder", None, "the folder of the run to resume")
        found = Checkpoint.read(self.folder)
        path = self.folder / CHECKPOINT_FILE
        found.require_fit(path, self.network.config(), self.config.config(), self.dataset, self.data_fingerprint)
        if found.batch >= self.batches:
            raise CheckpointError(f"{path} is damaged: it has done {found.batch} of {self.batches} batches")
        if found.order != self.order and found.order != WHOLE:
            raise CheckpointError(f"{path} is damaged: runs on {self.rows:,} rows have no order of blocks")
        self.data_fingerprint, self.order = found.data, found.order
        if reschedule:
            self.rescheduled = True
        elif self.config.schedule_epochs is None:
            self._keep_schedule(found.scheduled_epochs(path))
        try:
            if found.best_weights:
                self.network.layout.flat(found.best_weights, self.network.dtype)
            self.trainer.restore(found.state)
        except (KeyError, ArgumentError) as error:
            raise CheckpointError(f"{path} lacks a part of its network's state: {shown(error, 200)}") from error
        if self.trainer.steps != found.epoch * self.batches + found.batch:
            raise CheckpointError(f"{path} is damaged: its steps are not those of {found.epoch} epochs")
        self.best_weights = dict(found.best_weights)
        self.epoch, self.batch, self.history = found.epoch, found.batch, found.history
        self.watch = Watch(found.warnings)
        self._visit()
        self.saved = (self.epoch, self.batch)

    def _keep_schedule(self, epochs: int) -> None:
        """Let the schedule be the one for this many epochs, which the run began with."""
        if epochs != self.config.epochs and self.config.schedule not in (None, "constant"):
            self.config = replace(self.config, schedule_epochs=epochs)
            self.trainer.optimizer = self.config.scheduled_optimizer(self.batches)

    # --- several ranks ------------------------------------------------------------------------------------------------
    def require_alike(self) -> None:
        """Raise BackendError on all ranks unless they are about to do the same. All call this before they train."""
        ranks, backend = self.ranks, self.network.backend
        if ranks.alone:
            return
        ranks.require_same({"the backend": f"{backend.name} on {backend.device}"})
        if backend.device != "cpu":
            with ranks.agreed():
                nccl.module(backend.device)
        if backend.device == "gpu":
            ranks.require_own_gpus(detection.driver().identities[0])
        ranks.require_same({
            "the data's fingerprint": self.data_fingerprint,
            **{f"the network's {name}": value for name, value in self.network.config().items()},
            **{f"the training's {name}": value for name, value in self.config.config().items()},
            "the number of epochs and batches done": (self.epoch, self.batch),
        })  # fmt: skip
        self._require_same_state(self.trainer.state())

    def _require_same_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Raise BackendError on all ranks unless their weights and the optimiser's state are the same, bit for bit."""
        if self.ranks.alone:
            return
        digest = hashlib.blake2b(digest_size=8)
        for array in state.values():
            digest.update(array.tobytes())
        self.ranks.require_same({"the digest of the weights": digest.hexdigest()})


def _require_weight(part: str, weights: np.ndarray | None, factor: str = "") -> None:
    """Raise ArgumentError if a part has examples, and none that counts, or one that counts beyond all measure."""
    if weights is None or not len(weights):
        return
    total = float(weights.sum(dtype=np.float64))
    if not 0 < total < math.inf:
        expected = f"be more than 0, and finite in {weights.dtype}"
        raise StateError(f"{factor}the weight of the {part} part", f"is {total:g} altogether", expected)


class _Probed(NamedTuple):
    """What the probe shows: dead units and width of each hidden layer, the accuracy, the norm of each layer's
    gradient."""

    dead: list[int]
    widths: list[int]
    accuracy: float | None
    gradient_norms: tuple[float, ...]


@dataclass(frozen=True)
class _Nothing:
    """The evaluation of a part that has no rows."""

    loss: None = None
    accuracy: None = None


@contextlib.contextmanager
def signals_heard(run: Run) -> Iterator[None]:
    """Let the first signal of `STOPPING` ask the run to save and stop, and a Ctrl-C after it end the run at once.

    A signal that the process ignores, as SIGHUP under nohup, is still ignored.
    """
    if run.folder is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    folder = run.folder

    def note(number: int, frame: object) -> None:
        if run.signal is None:
            run.signal = number
        elif number == signal.SIGINT:
            raise Aborted(folder, *run.saved)

    heard = [number for number in STOPPING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    usual = {number: signal.signal(number, note) for number in heard}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
