"""How a network is trained: epochs, batches, the optimiser and its schedule, validation and early stopping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from gpubp.errors import ArgumentError, unknown_name
from gpubp.nn import optimizers
from gpubp.nn.optimizers import Constant, Cosine, Exponential, Held, Optimizer, Schedule, Step, Warmup
from gpubp.registry import require_count, require_number
from gpubp.training import class_weights

EARLY_STOPPING_VALIDATION = 0.1
"""The share set aside for validation if early stopping is asked for and no share is given."""
SCHEDULES = ("constant", "step", "exponential", "cosine")
"""The names of schedules over a run's epochs."""
MONITORS = ("loss", "accuracy")
"""What can say which epoch is the best."""

_LATER = ("schedule_epochs", "accumulate", "monitor", "class_weight")
"""Settings that `config` leaves out where they are the default: checkpoints of earlier versions lack them."""


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of `fit`.

    Args:
        epochs: passes over the training data.
        batch_size: examples that pass through the network together; if the data has fewer, they are one batch. The last
            batch may be smaller.
        accumulate: batches whose gradients are added up before a step, which is that of one large batch of them all, to
            roundoff, in the memory of a small one. Steps are what epochs, schedule and history count.
        optimizer: a name, a config or the optimiser itself.
        schedule: of the learning rate over the epochs, after the warm-up: "constant"; "step": times `decay` every
            `decay_epochs`; "exponential": times `decay` an epoch; "cosine": to 0 at the end. None: the optimiser's own.
        decay: default 0.1 for "step", 0.95 for "exponential".
        decay_epochs: default a third of the schedule's epochs.
        schedule_epochs: how many epochs the schedule is made for; after them the learning rate stays at the last one.
            None: all of them. A run that is resumed for more epochs than it began with has it.
        warmup: epochs, may be a fraction, in which the learning rate rises linearly to its full value.
        validation: the share of the training data set aside for validation, stratified by class, 0 ≤ share < 1.
            None: 0.1 with early stopping, else 0.
        patience: early stopping: training ends after this many epochs without a better one, and the weights of the best
            epoch are restored. None: no early stopping.
        monitor: what says which epoch is the best: "loss", the lowest on the validation part; or "accuracy", the
            highest, and of equal accuracies the one with the lower loss. The first of equals.
        seed: of the validation split and of the batches' order; a whole number ≥ 0.
        class_weight: what the weight of each example is multiplied by in the training loss, by its class: "balanced", a
            number for each class in their order, or a mapping from their names (others have 1); see
            `class_weights.by_class`. None: 1 for all.

    Raises:
        ArgumentError: a setting is out of range, or does not go with another, such as `monitor="accuracy"` without a
            validation part.
    """

    epochs: int = 30
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str | Optimizer | Mapping[str, Any] = "adam"
    schedule: str | None = "cosine"
    decay: float | None = None
    decay_epochs: int | None = None
    schedule_epochs: int | None = None
    warmup: float = 0.0
    validation: float | None = None
    patience: int | None = None
    monitor: str = "loss"
    seed: int = 0
    class_weight: str | Sequence[float] | Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs)
        require_count("batch_size", self.batch_size)
        require_count("accumulate", self.accumulate)
        object.__setattr__(self, "optimizer", optimizers.get(self.optimizer))
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        self._require_decay()
        if self.schedule_epochs is not None:
            require_count("schedule_epochs", self.schedule_epochs)
        require_number("warmup", self.warmup, least=0)
        if self.warmup >= self.curve_epochs:
            raise ArgumentError("warmup", self.warmup, f"less than the {self.curve_epochs} epochs")
        if self.patience is not None:
            require_count("patience", self.patience)
            if self.validation is None:
                object.__setattr__(self, "validation", EARLY_STOPPING_VALIDATION)
            require_number("validation", self.validation, above=0, below=1)
        if self.validation is None:
            object.__setattr__(self, "validation", 0.0)
        require_number("validation", self.validation, least=0, below=1)
        if self.monitor not in MONITORS:
            raise unknown_name("monitor", self.monitor, MONITORS)
        if self.monitor != "loss" and not self.validation:
            hint = "--patience or --validation sets one aside"
            raise ArgumentError("monitor", self.monitor, "left out without a validation part", hint)
        require_count("seed", self.seed, 0)
        if self.class_weight is not None:
            object.__setattr__(self, "class_weight", class_weights.checked(self.class_weight))

    def _require_decay(self) -> None:
        if self.decay is not None:
            if self.schedule not in ("step", "exponential"):
                raise ArgumentError("decay", self.decay, f"left out with schedule {self.schedule!r}")
            require_number("decay", self.decay, above=0, most=1)
        if self.decay_epochs is not None:
            if self.schedule != "step":
                raise ArgumentError("decay_epochs", self.decay_epochs, f"left out with schedule {self.schedule!r}")
            require_count("decay_epochs", self.decay_epochs)

    @property
    def step_size(self) -> int:
        """How many examples a step is made on, but for the last of an epoch."""
        return self.batch_size * self.accumulate

    @property
    def curve_epochs(self) -> int:
        """How many epochs the schedule is made for."""
        return self.epochs if self.schedule_epochs is None else self.schedule_epochs

    def scheduled_optimizer(self, steps_per_epoch: int) -> Optimizer:
        """Return the optimiser with the schedule, for epochs of this many steps."""
        assert isinstance(self.optimizer, Optimizer)
        if self.schedule is None:
            return self.optimizer
        warmup, steps = round(self.warmup * steps_per_epoch), self.curve_epochs * steps_per_epoch
        schedule = self._schedule(steps_per_epoch, steps - warmup)
        if warmup:
            schedule = Warmup(warmup, schedule)
        if self.epochs > self.curve_epochs:
            schedule = Held(steps, schedule)
        return replace(self.optimizer, schedule=schedule)

    def _schedule(self, steps_per_epoch: int, steps: int) -> Schedule:
        if self.schedule == "step":
            every = self.decay_epochs or max(1, self.curve_epochs // 3)
            return Step(every * steps_per_epoch, 0.1 if self.decay is None else self.decay)
        if self.schedule == "exponential":
            return Exponential((0.95 if self.decay is None else self.decay) ** (1 / steps_per_epoch))
        if self.schedule == "cosine":
            return Cosine(max(1, steps))
        return Constant()

    def config(self) -> dict[str, Any]:
        """Return all settings, as JSON can hold them: `TrainingConfig(**config)` makes the same again."""
        assert isinstance(self.optimizer, Optimizer)
        own = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        kept = {name: value for name, (value, default) in own.items() if name not in _LATER or value != default}
        return {**kept, "optimizer": self.optimizer.config()}
