"""A trained network with all that its use on raw data needs: the scaling of its inputs, its classes, its task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.arrays import on_host
from gpubp.backends.base import Backend
from gpubp.data.dataset import TASKS, Dataset
from gpubp.data.preparation import Preparation
from gpubp.data.rows import Inputs, Rows, rows_of
from gpubp.data.scaler import Scaler
from gpubp.errors import ArgumentError, CheckpointError, GpubpError, StateError, shown, unknown_name
from gpubp.nn import model_file
from gpubp.nn.examples import Examples
from gpubp.nn.losses import LOSSES
from gpubp.nn.network import Evaluation, Network

RUN_FILE = "model.safetensors"
"""The name of the model in a run's folder."""
JUDGES_EACH = tuple(name for name, kind in LOSSES.items() if kind.output_activation == "sigmoid")
"""The losses by which each output is the probability of a label of its own."""
PARTS_AT_ONCE = 16
"""Raw inputs are scaled in parts of this many times the rows that pass through the network together."""
FINGERPRINT, SAMPLE = "fingerprint", "sample"
"""The entries of a model's origin that its data, and rows of it, are known by; a run makes them."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network, and the maps from raw data to its arrays and back.

    Attributes:
        network: reads scaled inputs, and gives class scores, probabilities of labels, or scaled values.
        task: "classification", "multilabel" or "regression".
        scaler: of the inputs, fitted on the training data.
        target_scaler: of the values to predict; None for classification and multilabel.
        class_names: the name of each class, in the order of the indices, or of each label; empty for regression.
        feature_names: the name of each input; empty where the data has none.
        origin: where the training data came from; free for the caller to fill, JSON can hold it.
        preparation: how the columns of a table become the inputs; None if they are the inputs as they are.
    """

    network: Network
    task: str
    scaler: Scaler
    target_scaler: Scaler | None = None
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    preparation: Preparation | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise unknown_name("task", self.task, TASKS)
        if (self.task == "regression") != (self.target_scaler is not None):
            state = "is missing" if self.target_scaler is None else "is given"
            raise StateError("target_scaler", state, "be given for regression, and for nothing else")
        inputs, outputs = self.network.sizes[0], self.network.sizes[-1]
        if self.task == "classification" and len(self.class_names) < 2:
            state = "names one class" if self.class_names else "is empty"
            raise StateError("class_names", state, "name two or more")
        for name in ("class_names", "feature_names"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise StateError(name, "has a name twice", "have each once")
        if self.feature_names and len(self.feature_names) != inputs:
            raise StateError("feature_names", f"has {len(self.feature_names)} entries", f"have {inputs}, the inputs")
        if self.preparation is not None and self.preparation.inputs != inputs:
            raise StateError("preparation", f"makes {self.preparation.inputs} inputs", f"make {inputs}, as the network")
        if len(self.scaler.offset) != inputs:
            raise StateError("scaler", f"has {len(self.scaler.offset)} columns", f"have {inputs}, as the network")
        described = len(self.class_names) if self.target_scaler is None else len(self.target_scaler.offset)
        one_for_two = self.task == "classification" and (described, outputs) == (2, 1) and self._judges_each
        if described != outputs and not one_for_two:
            name = "class_names" if self.target_scaler is None else "target_scaler"
            raise StateError(name, f"has {described} entries", f"have {outputs}, the outputs of the network")

    @property
    def _judges_each(self) -> bool:
        return self.network.loss.name in JUDGES_EACH

    @classmethod
    def for_data(cls, network: Network, dataset: Dataset, origin: Mapping[str, Any] | None = None) -> Model:
        """Return the model of a network for this data: scalers are fitted on its training part, without the examples of
        weight 0; the others count the same there, whatever their weight.

        Raises ArgumentError if the network's sizes or its loss do not fit the data.
        """
        _check_fit(network, dataset)
        regression = dataset.task == "regression"
        x, y = dataset.x_train, dataset.y_train
        if dataset.weight_train is not None:
            counting = np.flatnonzero(dataset.weight_train > 0)
            x, y = rows_of(x, counting), y[counting]
        return cls(
            network,
            dataset.task,
            Scaler.fit(x, dataset.value_range),
            Scaler.fit(y, bounded=False) if regression else None,
            dataset.class_names,
            dataset.feature_names,
            origin or {},
            dataset.preparation,
        )

    # --- raw data to the network's arrays and back --------------------------------------------------------------------
    def inputs(self, x: Inputs) -> np.ndarray:
        """Return raw inputs (B, features) scaled: what the network reads, in its dtype."""
        return self.scaler.apply(x, self.network.dtype)

    def examples(self, x: Inputs) -> Examples:
        """Return the same as `inputs`, of which some rows at a time are scaled when they are asked for."""
        return Examples(len(x), x.shape[1], lambda key: self.inputs(x[key]))

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Return class indices (B,), labels (B, labels) of 0 and 1, or values (B, outputs) as the network's loss takes
        them.

        The cross-entropies of softmax take the indices. Other losses get one-hot rows (B, classes), or a column of 0
        and 1 if the network has a single output. Values are scaled.
        """
        network, y = self.network, on_host("y", y)
        if self.task == "multilabel":
            return np.ascontiguousarray(y, network.dtype)
        if self.target_scaler is not None:
            return self.target_scaler.apply(y, network.dtype)
        if network.loss.takes_labels:
            return np.ascontiguousarray(y, np.int64)
        if network.sizes[-1] == 1:
            return y[:, None].astype(network.dtype)
        return np.eye(network.sizes[-1], dtype=network.dtype)[y]

    def predict(self, x: Inputs) -> np.ndarray:
        """Return predictions for raw inputs: class indices (B,) int64; for each label whether it is likelier than not,
        1 or 0, (B, labels) int64; or values (B, outputs) float64 in the data's own units."""
        outputs = self._outputs(x)
        return self.values(outputs) if self.task == "regression" else self.classes_of(outputs)

    def predict_proba(self, x: Inputs) -> np.ndarray:
        """Return a number for each class, (B, classes), or each label, for raw inputs. Raises ArgumentError for
        regression.

        It is a probability if the loss is a cross-entropy, else the output itself. The probabilities of labels are each
        for itself: they do not sum to 1. One output for two classes gives two columns, 1 − p and p.
        """
        if self.task == "regression":
            expected = "classification or multilabel: there are no probabilities of values"
            raise ArgumentError("task", self.task, expected)
        outputs = self._outputs(x)
        if self.task == "multilabel":
            return outputs
        return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs

    def _outputs(self, x: Inputs) -> np.ndarray:
        """Return the network's outputs for raw inputs (B, features), which are scaled in parts."""
        if not isinstance(x, Rows):
            x = np.asarray(on_host("x", x))
        step = PARTS_AT_ONCE * self.network.backend.rows_at_once  # the same products as of all at once
        if x.ndim != 2 or len(x) <= step:
            return self.network.predict_proba(self.inputs(x))
        parts = [self.network.predict_proba(self.inputs(x[at : at + step])) for at in range(0, len(x), step)]
        return np.concatenate(parts)

    def values(self, outputs: np.ndarray) -> np.ndarray:
        """Return a regression network's outputs (B, outputs) in the data's own units."""
        assert self.target_scaler is not None, "only regression has values"
        return self.target_scaler.invert(outputs)

    def classes_of(self, outputs: np.ndarray) -> np.ndarray:
        """Return the classes, or the labels, by a network's outputs (B, outputs), as `predict` does."""
        if self.task == "multilabel":
            return (outputs > 0.5).astype(np.int64)
        if outputs.shape[1] == 1:
            return (outputs[:, 0] > 0.5).astype(np.int64)
        return outputs.argmax(axis=1)

    def warnings(self, x: Inputs) -> tuple[str, ...]:
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

    def reordered(self, order: np.ndarray) -> Model:
        """Return the same classifier with its classes in another order, in a network of its own.

        order: (classes,) int: which of the classes is now the first, the second, ...
        """
        network = Network.from_config(self.network.config(), self.network.backend)
        named = self.network.weights()
        for name in (f"layer{network.depth}.weight", f"layer{network.depth}.bias"):
            if name not in named:
                continue
            if network.sizes[-1] == len(order):
                named[name] = named[name][order]
            elif order[0] > 0:
                named[name] = -named[name]  # the one output is of the second class: 1 − sigmoid(z) = sigmoid(−z)
        network.set_weights(named)
        return replace(self, network=network, class_names=tuple(self.class_names[each] for each in order))

    # --- how good it is -----------------------------------------------------------------------------------------------
    def evaluate(self, x: Inputs, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Evaluation:
        """Return the loss for raw inputs and targets, and the accuracy: for classification the share of right classes,
        for multilabel the share of right labels, over all labels of all examples.

        sample_weight: (B,) of at least 0, which both are weighted by; None: all examples count the same.
        """
        return self.measure(self.inputs(x), self.targets(y), sample_weight)

    def measure(
        self, inputs: np.ndarray | Examples, targets: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> Evaluation:
        """Return what `evaluate` does, for inputs and targets that are scaled already."""
        found = self.network.evaluate(inputs, targets, sample_weight)
        if self.task != "classification" or self.network.loss.takes_labels:
            return found
        # Other losses judge each output by itself; a class is one decision.
        right = self.classes_of(self.network.predict_proba(inputs)) == self.classes_of(targets)
        return Evaluation(found.loss, float(np.average(right, weights=sample_weight)))

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
            # nothing for none, as in the models of earlier versions
            **({} if self.preparation is None else {"preparation": self.preparation.config()}),
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
                Preparation.from_config(metadata["preparation"]) if "preparation" in metadata else None,
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
    if dataset.task == "multilabel" and network.loss.name not in JUDGES_EACH:
        expected = f"{' or '.join(JUDGES_EACH)}, which judge each output by itself: {dataset.name} has several labels"
        raise ArgumentError("loss", network.loss.name, f"{expected} an example")
    if network.sizes[0] != dataset.features:
        raise ArgumentError(
            "sizes", network.sizes, f"of {dataset.features} inputs first, the features of {dataset.name}"
        )
    outputs = {dataset.outputs}
    if dataset.task == "classification" and dataset.outputs == 2 and network.loss.name in JUDGES_EACH:
        outputs.add(1)
    if network.sizes[-1] not in outputs:
        raise ArgumentError("sizes", network.sizes, f"of {dataset.outputs} outputs last, the outputs of {dataset.name}")
