"""A trained network with all that its use on raw data needs: the scaling of its inputs, its classes, its task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.arrays import on_host
from gpubp.backends.base import Backend
from gpubp.data.dataset import TASKS, Dataset
from gpubp.data.scaler import Scaler
from gpubp.errors import ArgumentError, CheckpointError, GpubpError, StateError, shown, unknown_name
from gpubp.nn import model_file
from gpubp.nn.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from gpubp.nn.network import Evaluation, Network

RUN_FILE = "model.safetensors"
"""The name of the model in a run's folder."""
FINGERPRINT, SAMPLE = "fingerprint", "sample"
"""The entries of a model's origin that its data, and rows of it, are known by; a run makes them."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network, and the maps from raw data to its arrays and back.

    Attributes:
        network: reads scaled inputs, and gives class scores or scaled values.
        task: "classification" or "regression".
        scaler: of the inputs, fitted on the training data.
        target_scaler: of the values to predict; None for classification.
        class_names: the name of each class, in the order of the indices; empty for regression.
        feature_names: the name of each input column; empty where the data has none.
        origin: where the training data came from; free for the caller to fill, JSON can hold it.
    """

    network: Network
    task: str
    scaler: Scaler
    target_scaler: Scaler | None = None
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise unknown_name("task", self.task, TASKS)
        if (self.task == "regression") != (self.target_scaler is not None):
            state = "is missing" if self.target_scaler is None else "is given"
            raise StateError("target_scaler", state, "be given for regression, and for nothing else")
        inputs, outputs = self.network.sizes[0], self.network.sizes[-1]
        for name in ("class_names", "feature_names"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise StateError(name, "has a name twice", "have each once")
        if self.feature_names and len(self.feature_names) != inputs:
            raise StateError("feature_names", f"has {len(self.feature_names)} entries", f"have {inputs}, the inputs")
        if len(self.scaler.offset) != inputs:
            raise StateError("scaler", f"has {len(self.scaler.offset)} columns", f"have {inputs}, as the network")
        described = len(self.class_names) if self.target_scaler is None else len(self.target_scaler.offset)
        one_for_two = self.target_scaler is None and (described, outputs) == (2, 1)
        if described != outputs and not one_for_two:
            name = "class_names" if self.target_scaler is None else "target_scaler"
            raise StateError(name, f"has {described} entries", f"have {outputs}, the outputs of the network")

    @classmethod
    def for_data(cls, network: Network, dataset: Dataset, origin: Mapping[str, Any] | None = None) -> Model:
        """Return the model of a network for this data: scalers are fitted on its training part.

        Raises ArgumentError if the network's sizes or its loss do not fit the data.
        """
        _check_fit(network, dataset)
        regression = dataset.task == "regression"
        return cls(
            network,
            dataset.task,
            Scaler.fit(dataset.x_train, dataset.value_range),
            Scaler.fit(dataset.y_train, bounded=False) if regression else None,
            dataset.class_names,
            dataset.feature_names,
            origin or {},
        )

    # --- raw data to the network's arrays and back --------------------------------------------------------------------
    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Return raw inputs (B, features) scaled: what the network reads, in its dtype."""
        return self.scaler.apply(x, self.network.dtype)

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Return class indices (B,) or values (B, outputs) as the network's loss takes them.

        Softmax cross-entropy takes the indices. Other losses get one-hot rows (B, classes), or a column of 0 and 1
        if the network has a single output. Values are scaled.
        """
        network, y = self.network, on_host("y", y)
        if self.target_scaler is not None:
            return self.target_scaler.apply(y, network.dtype)
        if network.loss.takes_labels:
            return np.ascontiguousarray(y, np.int64)
        if network.sizes[-1] == 1:
            return y[:, None].astype(network.dtype)
        return np.eye(network.sizes[-1], dtype=network.dtype)[y]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class indices (B,) int64, or values (B, outputs) float64 in the data's own units, for raw inputs."""
        if self.task == "classification":
            return self._classes(self.network.predict_proba(self.inputs(x)))
        return self.values(self.network.predict_proba(self.inputs(x)))

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Return a number for each class, (B, classes), for raw inputs. Raises ArgumentError for regression.

        It is a probability if the loss is a cross-entropy, else the output itself. One output gives two columns, 1 − p
        and p.
        """
        if self.task != "classification":
            raise ArgumentError("task", self.task, "classification: there are no probabilities of values")
        outputs = self.network.predict_proba(self.inputs(x))
        return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs

    def values(self, outputs: np.ndarray) -> np.ndarray:
        """Return a regression network's outputs (B, outputs) in the data's own units."""
        assert self.target_scaler is not None, "only regression has values"
        return self.target_scaler.invert(outputs)

    @staticmethod
    def _classes(outputs: np.ndarray) -> np.ndarray:
        if outputs.shape[1] == 1:
            return (outputs[:, 0] > 0.5).astype(np.int64)
        return outputs.argmax(axis=1)

    def warnings(self, x: np.ndarray) -> tuple[str, ...]:
        """Return what is to be said of raw inputs (B, features) that leave what training knew, a sentence each."""
        rows = self.scaler.rows_beyond(x)
        if not rows.any():
            return ()
        assert self.scaler.limit is not None
        constant = self.scaler.limit == 0
        return (
            *self._warn(rows * constant, len(x), "constant in training", "ignored"),
            *self._warn(rows * ~constant, len(x), "never so far out in training", "bounded"),
        )

    def _warn(self, rows: np.ndarray, of: int, was: str, fate: str) -> tuple[str, ...]:
        moved = np.flatnonzero(rows)
        if not len(moved):
            return ()
        names = [f"'{shown(self.feature_names[i], 30)}'" if self.feature_names else str(i) for i in moved[:5]]
        listed = ", ".join(names) + (", ..." if len(moved) > 5 else "")
        which = f"input {listed}, which was" if len(moved) == 1 else f"{len(moved):,} inputs ({listed}), which were"
        return (f"{which} {was}, moved in {rows.max():,} of {of:,} rows here; what moved is {fate}",)

    # --- how good it is -----------------------------------------------------------------------------------------------
    def evaluate(self, x: np.ndarray, y: np.ndarray) -> Evaluation:
        """Return the loss, and for classification the share of right classes, for raw inputs and targets."""
        return self.measure(self.inputs(x), self.targets(y))

    def measure(self, inputs: np.ndarray, targets: np.ndarray) -> Evaluation:
        """Return what `evaluate` does, for arrays that are scaled already."""
        found = self.network.evaluate(inputs, targets)
        if self.task == "regression" or isinstance(self.network.loss, SoftmaxCrossEntropy):
            return found
        # Other losses judge each output by itself; a class is one decision.
        right = self._classes(self.network.predict_proba(inputs)) == self._classes(targets)
        return Evaluation(found.loss, float(right.mean()))

    # --- saving -------------------------------------------------------------------------------------------------------
    def tensors(self) -> dict[str, np.ndarray]:
        """Return the scalers' arrays, named for a file."""
        scalers = {"input": self.scaler, "target": self.target_scaler}
        return {
            f"{name}.{key}": array
            for name, scaler in scalers.items()
            if scaler is not None
            for key, array in scaler.arrays().items()
        }

    def metadata(self) -> dict[str, Any]:
        """Return everything else, as JSON can hold it."""
        return {
            "task": self.task,
            "class_names": list(self.class_names),
            "feature_names": list(self.feature_names),
            "origin": dict(self.origin),
        }

    def save(self, path: str | Path) -> None:
        """Write the model to a safetensors file, whole or not at all. Raises CheckpointError if that fails."""
        self.network.save(path, self.tensors(), {"model": self.metadata()})

    @classmethod
    def load(cls, path: str | Path, backend: str | Backend = "auto", device: str | None = None) -> Model:
        """Return the model in a file that `save` wrote, or in a run's folder. Runs no code from the file.

        Raises CheckpointError if the file is missing, damaged or something else.
        """
        path = Path(path)
        if os.path.isdir(path):
            path = path / RUN_FILE
        tensors, metadata = model_file.read(path)
        if "model" not in metadata:
            raise CheckpointError(
                f"{path} holds a network without its data's scaling and classes; it must be a file that a run wrote"
            )
        network = Network.from_parts(path, tensors, metadata, backend, device)
        return cls.from_parts(path, network, tensors, metadata["model"])

    @classmethod
    def from_parts(
        cls, path: Path, network: Network, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> Model:
        """Return the model that `tensors` and `metadata` describe; `path` is for messages. Raises CheckpointError."""
        try:
            scalers = [
                Scaler(tensors[f"{name}.offset"], tensors[f"{name}.scale"], tensors.get(f"{name}.limit"))
                if f"{name}.offset" in tensors
                else None
                for name in ("input", "target")
            ]
            if scalers[0] is None:
                raise KeyError("input.offset")
            if not isinstance(metadata["origin"], Mapping):
                raise TypeError("origin is no table")
            for key in ("class_names", "feature_names"):
                if not isinstance(metadata[key], list) or not all(isinstance(name, str) for name in metadata[key]):
                    raise TypeError(f"{key} is no list of texts")
            for name, array in network.weights().items():
                if not np.isfinite(array).all():
                    raise StateError(name, "holds NaN or infinity", "be finite: the training diverged")
            return cls(
                network,
                metadata["task"],
                scalers[0],
                scalers[1],
                tuple(metadata["class_names"]),
                tuple(metadata["feature_names"]),
                metadata["origin"],
            )
        except (KeyError, TypeError, GpubpError) as error:
            told = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise CheckpointError(
                f"{path} does not describe a model of this version of gpubp: {shown(told, 200)}"
            ) from error


def _check_fit(network: Network, dataset: Dataset) -> None:
    if dataset.task == "regression" and network.classifies:
        raise ArgumentError(
            "loss", network.loss.name, f"one for values, such as mean_squared_error: {dataset.name} is regression"
        )
    if network.sizes[0] != dataset.features:
        raise ArgumentError(
            "sizes", network.sizes, f"of {dataset.features} inputs first, the features of {dataset.name}"
        )
    outputs = {dataset.outputs}
    if dataset.task == "classification" and dataset.outputs == 2 and isinstance(network.loss, BinaryCrossEntropy):
        outputs.add(1)
    if network.sizes[-1] not in outputs:
        raise ArgumentError("sizes", network.sizes, f"of {dataset.outputs} outputs last, the outputs of {dataset.name}")
