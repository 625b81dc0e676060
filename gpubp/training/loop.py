"""Training: the loop over epochs and batches, early stopping, and resuming.

All that is random comes from the seed: the order of an epoch's batches is a function of the seed and the epoch alone.
So a run that was stopped anywhere and resumed from its checkpoint ends with the same history and weights, bit for bit,
on the same backend, chip and number of BLAS threads.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import files
from gpubp.data.dataset import Dataset
from gpubp.data.splitting import split
from gpubp.errors import ArgumentError, CheckpointError, shown
from gpubp.nn.activations import ReLU
from gpubp.nn.network import Evaluation, Network
from gpubp.nn.trainer import CapturedStep, Trainer
from gpubp.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from gpubp.training.config import TrainingConfig
from gpubp.training.diagnostics import Watch
from gpubp.training.fingerprints import fingerprint, sample_digests
from gpubp.training.history import HISTORY_FILE, HistoryRow, history_csv
from gpubp.training.model import FINGERPRINT, RUN_FILE, SAMPLE, Model

PROBE_ROWS = 4096
"""Gradient norms, dead units and training accuracy are measured on at most this many rows of the training data."""

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
"""The signals that ask a run to save and stop: Ctrl-C; and what a closed terminal, `kill`, batch systems and a limit of
CPU time send. Some of these come twice or again and again, so only Ctrl-C means more the second time."""

# What is random, by the spawn key of its seed sequence. The network's initial weights have (0,).
_SHUFFLE, _VALIDATION, _PROBE = 1, 2, 4


# --- what a run tells while it goes on --------------------------------------------------------------------------------
class Listener:
    """Its methods are called as a run goes on; these do nothing."""

    def started(self, run: Run) -> None:
        """Called before the first batch."""

    def batch(self, run: Run) -> None:
        """Called after each batch: it must be quick."""

    def epoch(self, run: Run, row: HistoryRow) -> None:
        """Called after each epoch, once it is saved."""

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
        best_epoch: the epoch with the lowest validation loss; None without validation.
        row: the history's row of the epoch whose weights the model has.
        stopped_early, diverged: why the run ended before its last epoch.
    """

    model: Model
    history: list[HistoryRow]
    best_epoch: int | None
    row: HistoryRow
    stopped_early: bool
    diverged: bool


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
) -> Result:
    """Train the network on the data's training part, from its present weights, with a fresh optimiser.

    Args:
        network: with as many inputs and outputs as the data.
        dataset: raw; inputs, and the targets of regression, are scaled here, and the scaling goes into the model.
        config: None takes the defaults.
        folder: where a checkpoint and the history are written after each epoch, and the model at the end. It must
            exist. None writes nothing.
        resume: continue from the folder's checkpoint. The number of epochs may be another one than the run began with.
        reschedule: make the schedule anew for the number of epochs that a resumed run has now. By default it ends where
            it was to end when the run began, and further epochs go on at its last learning rate.
        listener: its methods are called as the run goes on.
        settings, origin: anything JSON can hold, saved with the checkpoint and with the model. The model's origin gets
            what its data is known by besides: `FINGERPRINT` and `SAMPLE`.

    Raises:
        ArgumentError: the network does not fit the data.
        CheckpointError: the folder cannot be written; the checkpoint to resume from is missing, damaged, or of another
            network, configuration or data.
        Interrupted: with a folder and in the main thread, on a signal of `STOPPING` that the process does not ignore:
            the batch is finished and the position saved.
        Aborted: on SIGINT after any of these.
    """
    run = Run(network, dataset, config, folder=folder, listener=listener, settings=settings, origin=origin)
    if resume:
        run.load(reschedule=reschedule)
    return run.train()


class Run:
    """A training run between two batches: where it stands, and its results so far.

    Attributes:
        epoch, batch: how many epochs are done, and how many batches of the next.
        rows, batches: how many examples and batches an epoch has.
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
    ) -> None:
        """Make a run that can be trained, or continued after `load`; see `fit`. Writes nothing."""
        config = config or TrainingConfig()
        self.network, self.dataset, self.config = network, dataset, config
        self.folder = None if folder is None else Path(folder)
        self.listener = listener or Listener()
        self.settings = dict(settings or {})
        self.data_fingerprint = fingerprint(dataset)
        known_by = {FINGERPRINT: self.data_fingerprint, SAMPLE: sample_digests(dataset.x_train)}
        self.model = model = Model.for_data(network, dataset, {**(origin or {}), **known_by})

        kept, set_aside = self._split()
        inputs, targets = model.inputs(dataset.x_train), model.targets(dataset.y_train)
        self.parts = {
            "validation": (inputs[set_aside], targets[set_aside]),
            "test": (model.inputs(dataset.x_test), model.targets(dataset.y_test)),
        }
        probe = np.sort(self._rng(_PROBE).choice(kept, min(len(kept), PROBE_ROWS), replace=False))
        self.probe = inputs[probe], targets[probe]
        self.rows = len(kept)
        self.batches = -(-self.rows // config.batch_size)

        self.trainer = Trainer(network, config.scheduled_optimizer(self.batches))
        self.feed = self.trainer.feed(inputs[kept], targets[kept])
        self.epoch = 0
        self.batch = 0
        self.history: list[HistoryRow] = []
        self.best_weights: dict[str, np.ndarray] = {}
        self.watch = Watch()
        self.rescheduled = False
        self.signal: int | None = None
        self.saved = (0, 0)
        self._captured: CapturedStep | None = None

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the training part to train on, and those to validate on."""
        assert self.config.validation is not None
        rng = self._rng(_VALIDATION)
        return split(self.dataset.y_train, self.config.validation, rng, task=self.dataset.task)

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
                if self.signal is not None:
                    self._stop()
                self.train_epoch()
            return self._finish()

    def train_epoch(self) -> None:
        """Train on the batches that are left of the epoch, then measure and save."""
        self.feed.visit(epoch_order(self.config.seed, self.epoch, self.rows))
        while self.batch < self.batches:
            self._train_batch()
            self.batch += 1
            self._tell_batch()
            if self.signal is not None and self.batch < self.batches:
                self._stop()
        self._end_epoch()

    def _tell_batch(self) -> None:
        try:
            self.listener.batch(self)
        except OSError:
            if self.signal is None:
                self.save()
                raise
            # the terminal that this goes to has been closed, of which the signal told: the run stops for that

    def _train_batch(self) -> None:
        """Make a step on the next batch.

        If the backend records, a whole batch is the replay of a recorded step: the same kernels on the same numbers,
        without the host's work for each launch, which takes longer than small kernels.
        """
        start = self.batch * self.config.batch_size
        rows = min(self.config.batch_size, self.rows - start)
        if not self.network.backend.captures or rows < self.config.batch_size:
            self.trainer.step_rows(self.feed, start, rows)
            return
        if self._captured is None or not self._captured.is_current:
            self._captured = self.trainer.capture(self.feed, rows)
        self._captured(start)

    def _end_epoch(self) -> None:
        rate, skipping = self.trainer.optimizer.rate(self.trainer.steps - 1), self.trainer.skipping
        train_loss = self.trainer.take_total_loss() / self.network.loss.divisor(self.rows)
        self.epoch, self.batch = self.epoch + 1, 0
        dead, widths = self._dead_units()
        train = self.model.measure(*self.probe)
        validation, test = (self._measure(part) for part in ("validation", "test"))
        row = HistoryRow(
            self.epoch, self.trainer.steps, rate,
            train_loss, train.accuracy, validation.loss, validation.accuracy, test.loss, test.accuracy,
            sum(dead), self._gradient_norms(),
        )  # fmt: skip
        self.history.append(row)
        if self.config.patience is not None and self.best_epoch == self.epoch:
            self.best_weights = self.network.weights()
        warnings = self.watch.look(train_loss, row.gradient_norms, dead, widths, skipping)
        self.save()
        for message in warnings:
            self.listener.warning(message)
        self.listener.epoch(self, row)

    def _measure(self, part: str) -> Evaluation | _Nothing:
        inputs, targets = self.parts[part]
        return self.model.measure(inputs, targets) if len(inputs) else _Nothing()

    def _gradient_norms(self) -> tuple[float, ...]:
        norms = self.network.gradients(*self.probe, self.trainer.loss_scale)[1].norms()
        if self.network.loss.reduction == "sum":
            # of a batch as large as those that are trained on
            norms = [norm * min(self.config.batch_size, self.rows) / len(self.probe[0]) for norm in norms]
        return tuple(norms)

    def _dead_units(self) -> tuple[list[int], list[int]]:
        """Return for each hidden layer how many of its units gave 0 on all rows of the probe, and how many it has."""
        widths = list(self.network.sizes[1:-1])
        kinds = self.network.activations[1:-1]
        if not any(isinstance(kind, ReLU) for kind in kinds):
            return [0] * len(widths), widths
        active = [a.any(axis=0) for a in self.network.hidden_activations(self.probe[0])]
        dead = [int((~units).sum()) if isinstance(kind, ReLU) else 0 for units, kind in zip(active, kinds, strict=True)]
        return dead, widths

    def _finish(self) -> Result:
        """Return the result, with the weights of the best epoch if the run has early stopping."""
        stopped_early, diverged, best = self.stopped_early, self.diverged, self.best_epoch
        row = self.history[-1]
        if self.best_weights and best is not None:
            self.network.set_weights(self.best_weights)
            row = self.history[best - 1]
        if self.folder is not None:
            self._write_history()
            if row.is_finite:
                self.model.save(self.folder / RUN_FILE)
        return Result(self.model, self.history, best, row, stopped_early, diverged)

    # --- where it stands ----------------------------------------------------------------------------------------------
    @property
    def best_epoch(self) -> int | None:
        """The epoch with the lowest validation loss, the first of equals; None without a validation part."""
        losses = [(row.validation_loss, row.epoch) for row in self.history if row.validation_loss is not None]
        numbers = [pair for pair in losses if not math.isnan(pair[0])]
        return min(numbers)[1] if numbers else None

    @property
    def stopped_early(self) -> bool:
        """True if the validation loss has not fallen for as many epochs as the patience says."""
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
        """Return the epoch's loss so far, reduced as the loss says. Waits for the device, and changes nothing."""
        seen = min(self.batch * self.config.batch_size, self.rows)
        return self.trainer.total_loss() / self.network.loss.divisor(seen) if seen else math.nan

    # --- checkpoints --------------------------------------------------------------------------------------------------
    def _stop(self) -> None:
        assert self.signal is not None
        assert self.folder is not None
        if self.batch:
            self.save()
        raise Interrupted(self.signal, self.folder, self.epoch, self.batch)

    def save(self) -> None:
        """Write checkpoint and history into the folder, if there is one, each whole or not at all."""
        if self.folder is None:
            return
        Checkpoint(
            state=self.trainer.state(),
            best_weights=self.best_weights,
            network=self.network.config(),
            training=self.config.config(),
            settings=self.settings,
            data=self.data_fingerprint,
            epoch=self.epoch,
            batch=self.batch,
            history=self.history,
            warnings=self.watch.given,
        ).write(self.folder)
        self.saved = (self.epoch, self.batch)
        self._write_history()

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
        self.data_fingerprint = found.data
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
        self.saved = (self.epoch, self.batch)

    def _keep_schedule(self, epochs: int) -> None:
        """Let the schedule be the one for this many epochs, which the run began with."""
        if epochs != self.config.epochs and self.config.schedule not in (None, "constant"):
            self.config = replace(self.config, schedule_epochs=epochs)
            self.trainer.optimizer = self.config.scheduled_optimizer(self.batches)


def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """Return the order in which an epoch (0, 1, ...) visits the rows: a function of its arguments alone."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SHUFFLE, epoch))).permutation(rows)


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
