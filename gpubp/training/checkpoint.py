"""The checkpoint of a run: all that it needs to continue, in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import files
from gpubp.data.dataset import Dataset
from gpubp.errors import ArgumentError, CheckpointError, StateError, shown
from gpubp.nn import model_file
from gpubp.registry import require_count
from gpubp.training.fingerprints import is_fingerprint
from gpubp.training.history import HistoryRow, row_of
from gpubp.training.order import BLOCKS, WHOLE

CHECKPOINT_FILE = "checkpoint.safetensors"
"""The name of the checkpoint in a run's folder."""
FORMAT = 1
"""The version of the file's layout."""
EPOCHS = ("epochs", "schedule_epochs")
"""The settings of a training that may change when it is resumed."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a run stands, and of what run.

    Attributes:
        state: `Trainer.state`.
        best_weights: `Network.weights` of the best epoch so far; empty without early stopping.
        network, training: the configurations of the network and of its training.
        settings: the caller's; anything that JSON can hold.
        data: the fingerprint of the data.
        epoch, batch: how many epochs are done, and how many batches of the next.
        history: one row for each epoch done.
        warnings: the kinds of warning that were given.
        order: the kind of `gpubp.training.order` that the run visits its rows in. A file without it, as of earlier
            versions, is of a run with the order `WHOLE`.
    """

    state: Mapping[str, np.ndarray]
    best_weights: Mapping[str, np.ndarray]
    network: Mapping[str, Any]
    training: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: str
    epoch: int
    batch: int
    history: list[HistoryRow]
    warnings: list[str]
    order: int = WHOLE

    def write(self, folder: Path) -> None:
        """Write the checkpoint into a run's folder, whole or not at all. Raises CheckpointError if that fails."""
        best = {f"best.{name}": array for name, array in self.best_weights.items()}
        model_file.write(
            folder / CHECKPOINT_FILE,
            {**self.state, **best},
            {
                "format": FORMAT,
                "network": self.network,
                "training": self.training,
                "settings": self.settings,
                "data": self.data,
                "epoch": self.epoch,
                "batch": self.batch,
                "history": [asdict(row) for row in self.history],
                "warnings": self.warnings,
                **({} if self.order == WHOLE else {"order": self.order}),
            },
        )

    @classmethod
    def read(cls, folder: str | Path) -> Checkpoint:
        """Return what `write` wrote. Raises CheckpointError if it is missing, damaged or of another format."""
        path = Path(folder) / CHECKPOINT_FILE
        if files.is_missing(path):
            raise CheckpointError(f"there is no run to resume in {shown(folder)}: it holds no {CHECKPOINT_FILE}")
        tensors, metadata = model_file.read(path)
        if metadata.pop("format", None) != FORMAT:
            raise CheckpointError(f"{path} is no checkpoint of this version of gpubp (format {FORMAT})")
        best = {name: array for name, array in tensors.items() if name.startswith("best.")}
        try:
            found = cls(
                state={name: array for name, array in tensors.items() if name not in best},
                best_weights={name.removeprefix("best."): array for name, array in best.items()},
                history=[row_of(row) for row in metadata.pop("history")],
                **metadata,
            )
            found._require_sound()
            return found
        except (KeyError, TypeError, ArgumentError) as error:
            raise CheckpointError(f"{path} is no checkpoint of this version of gpubp: {shown(error, 200)}") from error

    def _require_sound(self) -> None:
        """Raise ArgumentError for a value of another type than `write` writes, and for numbers that contradict."""
        for name in ("network", "training", "settings"):
            if not isinstance(getattr(self, name), Mapping):
                raise ArgumentError(name, getattr(self, name), "a table")
        if not isinstance(self.data, str):
            raise ArgumentError("data", self.data, "a fingerprint")
        require_count("epoch", self.epoch, 0)
        require_count("batch", self.batch, 0)
        if [row.epoch for row in self.history] != list(range(1, len(self.history) + 1)) or len(
            self.history
        ) != self.epoch:
            raise StateError("history", f"has {len(self.history)} rows", f"have one for each of {self.epoch} epochs")
        if self.order not in (WHOLE, BLOCKS):
            raise ArgumentError("order", self.order, f"{WHOLE} or {BLOCKS}")
        if not isinstance(self.warnings, list) or not all(isinstance(kind, str) for kind in self.warnings):
            raise ArgumentError("warnings", self.warnings, "a list of names")

    def require_fit(
        self, path: Path, network: Mapping[str, Any], training: Mapping[str, Any], data: Dataset, fingerprint: str
    ) -> None:
        """Raise CheckpointError unless the checkpoint is of a run like this; only `EPOCHS` may differ.

        path: for messages.
        fingerprint: of `data`.
        """
        if not is_fingerprint(self.data, data, fingerprint):
            raise CheckpointError(
                f"{path} was trained on other data than {data.name} holds now; resume on the same, "
                "which --data names if it has moved"
            )
        _require_same(path, "network", _plain(network), self.network)
        _require_same(path, "training", _plain(training), self.training)

    def scheduled_epochs(self, path: Path) -> int:
        """Return how many epochs the schedule was made for. Raises CheckpointError if it is no number of epochs."""
        found = self.training.get("schedule_epochs", self.training.get("epochs"))
        try:
            require_count("epochs", found)
        except ArgumentError as error:
            raise CheckpointError(f"{path} is damaged: its {error}") from error
        return int(found)


def _plain(config: Mapping[str, Any]) -> Any:
    """Return a configuration as it comes back from JSON: tuples are lists."""
    if isinstance(config, Mapping):
        return {key: _plain(value) for key, value in config.items()}
    return [_plain(each) for each in config] if isinstance(config, list | tuple) else config


def _require_same(path: Path, what: str, here: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise CheckpointError if a setting differs from the checkpoint's; only `EPOCHS` may."""
    for key in {**here, **saved}:
        value, before = here.get(key), saved.get(key)
        if value != before and not (what == "training" and key in EPOCHS):
            raise CheckpointError(
                f"{path} is of another {what}: its {shown(key)} is {shown(repr(before))}, and that to resume has "
                f"{shown(repr(value))}"
            )
