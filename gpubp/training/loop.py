"""Training: the loop over epochs and batches, its history, early stopping, checkpoints and resuming.

All that is random comes from the seed: the order of an epoch's batches is a function of the seed and the epoch alone.
So a run that was stopped anywhere and resumed from its checkpoint ends with the same history and weights, bit for bit,
on the same backend, chip and number of BLAS threads.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import files
from gpubp.data.dataset import Dataset
from gpubp.data.splitting import split
from gpubp.errors import ArgumentError, CheckpointError, unknown_name
from gpubp.nn import model_file, optimizers
from gpubp.nn.activations import ReLU
from gpubp.nn.network import Evaluation, Network
from gpubp.nn.optimizers import Constant, Cosine, Exponential, Optimizer, Schedule, Step, Warmup
from gpubp.nn.trainer import CapturedStep, Trainer
from gpubp.registry import require_count, require_number
from gpubp.training.diagnostics import Watch
from gpubp.training.model import RUN_FILE, Model

CHECKPOINT_FILE = "checkpoint.safetensors"
HISTORY_FILE = "history.csv"
FORMAT = 1
"""The version of the checkpoint's layout."""
PROBE_ROWS = 4096
"""Gradient norms, dead units and training accuracy are measured on at most this many rows of the training data."""
EARLY_STOPPING_VALIDATION = 0.1
"""The share set aside for validation where early stopping is asked for and no share is given."""
SCHEDULES = ("constant", "step", "exponential", "cosine")

# What is random, by the spawn key of its seed sequence. The network's initial weights have (0,).
_SHUFFLE, _VALIDATION, _PROBE = 1, 2, 4


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    epochs: passes over the training data.
    batch_size: examples a step; more than there are means one batch of all. The last batch may be smaller.
    optimizer: a name, a config or the optimiser itself.
    schedule: of the learning rate over the epochs, after the warm-up: "constant"; "step": times `decay` every
        `decay_epochs`; "exponential": times `decay` an epoch; "cosine": to 0 at the end. None: the optimiser's own.
    decay: default 0.1 for "step", 0.95 for "exponential".
    decay_epochs: default a third of the epochs.
    warmup: epochs, may be a fraction, in which the learning rate rises linearly to its full value.
    validation: the share of the training data set aside for validation, stratified by class, 0 ≤ share < 1.
        None: 0.1 with early stopping, else 0.
    patience: early stopping: training ends after this many epochs without a lower validation loss, and the weights of
        the best epoch are restored. None: no early stopping.
    seed: of the validation split and of the batches' order; a whole number ≥ 0.
    """

    epochs: int = 30
    batch_size: int = 32
    optimizer: str | Optimizer | Mapping[str, Any] = "adam"
    schedule: str | None = "cosine"
    decay: float | None = None
    decay_epochs: int | None = None
    warmup: float = 0.0
    validation: float | None = None
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs)
        require_count("batch_size", self.batch_size)
        object.__setattr__(self, "optimizer", optimizers.get(self.optimizer))
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        self._require_decay()
        require_number("warmup", self.warmup, least=0)
        if self.warmup >= self.epochs:
            raise ArgumentError("warmup", self.warmup, f"less than the {self.epochs} epochs")
        if self.patience is not None:
            require_count("patience", self.patience)
            if self.validation is None:
                object.__setattr__(self, "validation", EARLY_STOPPING_VALIDATION)
            require_number("validation", self.validation, above=0, below=1)
        if self.validation is None:
            object.__setattr__(self, "validation", 0.0)
        require_number("validation", self.validation, least=0, below=1)
        require_count("seed", self.seed, 0)

    def _require_decay(self) -> None:
        if self.decay is not None:
            if self.schedule not in ("step", "exponential"):
                raise ArgumentError("decay", self.decay, f"left out with schedule {self.schedule!r}")
            require_number("decay", self.decay, above=0, most=1)
        if self.decay_epochs is not None:
            if self.schedule != "step":
                raise ArgumentError("decay_epochs", self.decay_epochs, f"left out with schedule {self.schedule!r}")
            require_count("decay_epochs", self.decay_epochs)

    def scheduled_optimizer(self, steps_per_epoch: int) -> Optimizer:
        """The optimiser with the schedule in updates, for epochs of this many."""
        assert isinstance(self.optimizer, Optimizer)
        if self.schedule is None:
            return self.optimizer
        warmup = round(self.warmup * steps_per_epoch)
        schedule = self._schedule(steps_per_epoch, self.epochs * steps_per_epoch - warmup)
        return replace(self.optimizer, schedule=Warmup(warmup, schedule) if warmup else schedule)

    def _schedule(self, steps_per_epoch: int, steps: int) -> Schedule:
        if self.schedule == "step":
            every = self.decay_epochs or max(1, self.epochs // 3)
            return Step(every * steps_per_epoch, 0.1 if self.decay is None else self.decay)
        if self.schedule == "exponential":
            return Exponential((0.95 if self.decay is None else self.decay) ** (1 / steps_per_epoch))
        if self.schedule == "cosine":
            return Cosine(max(1, steps))
        return Constant()

    def config(self) -> dict[str, Any]:
        """All settings, as JSON can hold them: `TrainingConfig(**config)` makes the same again."""
        assert isinstance(self.optimizer, Optimizer)
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**own, "optimizer": self.optimizer.config()}


# --- history ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class HistoryRow:
    """What an epoch came to. Nothing here depends on the machine's speed, so that runs can be compared bit for bit.

    epoch: 1, 2, ...; steps: updates made so far; learning_rate: of the epoch's last update.
    train_loss: mean over the epoch's examples, each as it was before its update (for reduction "sum": the sum).
    train_accuracy: at the epoch's end, on at most `PROBE_ROWS` rows; an accuracy is None for regression.
    validation_*, test_*: at the epoch's end; None where there is no such part. The test part decides nothing.
    gradient_norms: of each layer, first to last, at the epoch's end, on the same rows as train_accuracy.
    dead_units: how many units of hidden ReLU layers gave 0 on all those rows.
    """

    epoch: int
    steps: int
    learning_rate: float
    train_loss: float
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    dead_units: int
    gradient_norms: tuple[float, ...]

    @property
    def is_finite(self) -> bool:
        """Whether the weights can still be of use."""
        return not math.isnan(self.train_loss) and all(math.isfinite(norm) for norm in self.gradient_norms)


def history_csv(history: list[HistoryRow]) -> str:
    """The history as CSV: a column for each field, and one for each layer's gradient norm. Numbers are exact."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [each.name for each in fields(HistoryRow)][:-1]
    layers = len(history[0].gradient_norms) if history else 0
    writer.writerow(names + [f"gradient_norm_{layer}" for layer in range(1, layers + 1)])
    for row in history:
        writer.writerow([*(getattr(row, name) for name in names), *row.gradient_norms])
    return text.getvalue()


# --- what a run tells while it goes on --------------------------------------------------------------------------------
class Listener:
    """Is told how a run goes on; this one does nothing with it."""

    def started(self, run: Run) -> None:
        """The first batch is about to be trained on."""

    def batch(self, run: Run) -> None:
        """A batch is done. Called for each: it must be quick."""

    def epoch(self, run: Run, row: HistoryRow) -> None:
        """An epoch is done and saved."""

    def warning(self, message: str) -> None:
        """Something is wrong with the training; said once."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run, which is saved: `folder` can be resumed.

    number: the signal's; epoch, batch: how many are done, the batches of the epoch after.
    """

    def __init__(self, number: int, folder: Path, epoch: int, batch: int) -> None:
        super().__init__(f"stopped by signal {number} after epoch {epoch}, batch {batch}; saved in {folder}")
        self.number, self.folder, self.epoch, self.batch = number, folder, epoch, batch


@dataclass(frozen=True, eq=False)
class Result:
    """What a run came to.

    model: with the weights of the best epoch where early stopping was asked for, else of the last.
    history: one row an epoch.
    best_epoch: the epoch with the lowest validation loss; None without validation.
    row: the history's row of the epoch whose weights the model has.
    stopped_early, diverged: why it ended before its last epoch.
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
    listener: Listener | None = None,
    settings: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Result:
    """Train the network on the data's training part, from its present weights, with a fresh optimiser.

    Args:
        network: of the data's features and outputs.
        dataset: raw; inputs, and the targets of regression, are scaled here, and the scaling goes into the model.
        config: None takes the defaults.
        folder: where a checkpoint and the history are written after each epoch, and the model at the end. It must
            exist. None writes nothing.
        resume: continue from the folder's checkpoint.
        listener: is told how it goes on.
        settings, origin: anything JSON can hold, saved with the checkpoint and with the model.

    Raises:
        ArgumentError: the network does not fit the data.
        CheckpointError: the folder cannot be written; the checkpoint to resume from is missing, damaged, or of another
            network, configuration or data.
        Interrupted: with a folder and in the main thread, on SIGINT or SIGTERM: the batch is finished and the position
            saved. A second signal ends at once.
    """
    run = Run(network, dataset, config, folder=folder, listener=listener, settings=settings, origin=origin)
    if resume:
        run.load()
    return run.train()


class Run:
    """A training run between two batches: where it stands, and what it has come to.

    epoch: how many are done; batch: how many of the next epoch are done.
    rows, batches: an epoch's examples and batches.
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
        self.model = model = Model.for_data(network, dataset, origin)
        self.data_fingerprint = fingerprint(dataset)

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
        self.signal: int | None = None
        self._captured: CapturedStep | None = None

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the training part to train on, and to validate on."""
        assert self.config.validation is not None
        rng = self._rng(_VALIDATION)
        return split(self.dataset.y_train, self.config.validation, rng, task=self.dataset.task)

    def _rng(self, what: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.config.seed, spawn_key=(what,)))

    # --- the loop -----------------------------------------------------------------------------------------------------
    def train(self) -> Result:
        """Train until the run is finished; a run that is finished already only comes to its result."""
        # What overflows is seen by the watch, once; NumPy would say it at every step.
        with _signals(self), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self.listener.started(self)
            if self.epoch == 0 and self.batch == 0:
                self.save()  # so that a kill in the first epoch, too, leaves a run to resume
            while not self.finished:
                self.train_epoch()
        return self._finish()

    def train_epoch(self) -> None:
        """Train on the batches of the epoch that are left, then take stock."""
        self.feed.visit(epoch_order(self.config.seed, self.epoch, self.rows))
        while self.batch < self.batches:
            self._train_batch()
            self.batch += 1
            self.listener.batch(self)
            if self.signal is not None and self.batch < self.batches:
                self._stop()
        self._end_epoch()
        if self.signal is not None and not self.finished:
            self._stop()

    def _train_batch(self) -> None:
        """One step on the next batch. A whole one is a recorded step replayed, where the backend records: the same
        kernels on the same numbers, without the host's work for each launch, which takes longer than small kernels."""
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
        """For each hidden layer, how many of its units gave 0 on all rows of the probe, and how many it has."""
        widths = list(self.network.sizes[1:-1])
        kinds = self.network.activations[1:-1]
        if not any(isinstance(kind, ReLU) for kind in kinds):
            return [0] * len(widths), widths
        active = [a.any(axis=0) for a in self.network.hidden_activations(self.probe[0])]
        dead = [int((~units).sum()) if isinstance(kind, ReLU) else 0 for units, kind in zip(active, kinds, strict=True)]
        return dead, widths

    def _finish(self) -> Result:
        """The result; the weights of the best epoch are restored where early stopping was asked for."""
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
        """Whether the validation loss has not fallen for so many epochs as the patience says."""
        return self.config.patience is not None and self.epoch - (self.best_epoch or 0) >= self.config.patience

    @property
    def diverged(self) -> bool:
        """Whether the weights are lost: no further epoch brings them back."""
        return bool(self.history) and not self.history[-1].is_finite

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.epoch >= self.config.epochs or self.stopped_early or self.diverged

    def running_loss(self) -> float:
        """The epoch's loss so far, reduced as the loss says. Waits for the device, and changes nothing."""
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
        """Write checkpoint and history, each whole or not at all."""
        if self.folder is None:
            return
        best = {f"best.{name}": array for name, array in self.best_weights.items()}
        model_file.write(
            self.folder / CHECKPOINT_FILE,
            {**self.trainer.state(), **best},
            {
                "format": FORMAT,
                "network": self.network.config(),
                "training": self.config.config(),
                "settings": self.settings,
                "data": self.data_fingerprint,
                "epoch": self.epoch,
                "batch": self.batch,
                "history": [asdict(row) for row in self.history],
                "warnings": self.watch.given,
            },
        )
        self._write_history()

    def _write_history(self) -> None:
        assert self.folder is not None
        if self.history:
            files.write_bytes(self.folder / HISTORY_FILE, history_csv(self.history).encode())

    def load(self) -> None:
        """Continue from the folder's checkpoint."""
        if self.folder is None:
            raise ArgumentError("folder", None, "the folder of the run to resume")
        path = self.folder / CHECKPOINT_FILE
        tensors, metadata = read_checkpoint(self.folder)
        for what, here in (("network", self.network.config()), ("training", self.config.config())):
            _require_same(path, what, _plain(here), metadata[what])
        if metadata["data"] != self.data_fingerprint:
            raise CheckpointError(f"{path} was trained on other data; resume with the same")
        try:
            self.trainer.restore(tensors)
        except (KeyError, ArgumentError) as error:
            raise CheckpointError(f"{path} lacks a part of its network's state: {error}") from error
        self.best_weights = {name[5:]: array for name, array in tensors.items() if name.startswith("best.")}
        self.epoch, self.batch = metadata["epoch"], metadata["batch"]
        self.history = [
            HistoryRow(**{**row, "gradient_norms": tuple(row["gradient_norms"])}) for row in metadata["history"]
        ]
        self.watch = Watch(metadata["warnings"])


def read_checkpoint(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and the metadata of a run's checkpoint, as `Run.save` wrote them; CheckpointError without them."""
    path = Path(folder) / CHECKPOINT_FILE
    if not os.path.isfile(path):
        raise CheckpointError(f"there is no run to resume in {folder}: it holds no {CHECKPOINT_FILE}")
    tensors, metadata = model_file.read(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this version of gpubp (format {FORMAT})")
    return tensors, metadata


def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The order in which an epoch (0, 1, ...) visits the rows: a function of its arguments alone."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SHUFFLE, epoch))).permutation(rows)


def fingerprint(dataset: Dataset) -> str:
    """A hash of all inputs and targets: equal for equal data."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Nothing:
    """The evaluation of a part that has no rows."""

    loss: None = None
    accuracy: None = None


def _plain(config: Mapping[str, Any]) -> Any:
    """A configuration as it is after a way through JSON: tuples are lists."""
    if isinstance(config, Mapping):
        return {key: _plain(value) for key, value in config.items()}
    return [_plain(each) for each in config] if isinstance(config, list | tuple) else config


def _require_same(path: Path, what: str, here: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a setting differs from the checkpoint's; only the number of epochs may."""
    for key in {**here, **saved}:
        value, before = here.get(key), saved.get(key)
        if value != before and (what, key) != ("training", "epochs"):
            raise CheckpointError(
                f"{path} is of another {what}: its {key} is {before!r}, and that to resume has {value!r}"
            )


@contextlib.contextmanager
def _signals(run: Run) -> Iterator[None]:
    """Take Ctrl-C and SIGTERM as a wish to save and stop; the second one has its usual effect."""
    if run.folder is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_back() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        run.signal = number
        give_back()

    usual = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        give_back()
