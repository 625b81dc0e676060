"""From the settings of a run to its data, its network and its training. All raise ArgumentError for a wrong setting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from gpubp import files
from gpubp.data import loading
from gpubp.data.dataset import Dataset
from gpubp.data.loading import Whole
from gpubp.data.preparation import InputRules
from gpubp.data.table import TableFormat
from gpubp.errors import ArgumentError, DataError, StateError, shown
from gpubp.nn import optimizers
from gpubp.nn.losses import LOSSES, Loss
from gpubp.nn.network import Network
from gpubp.nn.optimizers import Optimizer
from gpubp.registry import require_count
from gpubp.training import class_weights
from gpubp.training.config import TrainingConfig
from gpubp.training.model import JUDGES_EACH, Model
from gpubp.training.settings import RULES, TABLE, Settings, tidy_name

LOSS_PARAMETERS = ("label_smoothing", "gamma", "quantile")
"""The settings that are numbers of some losses."""

# The test part is random; its spawn key, beside those of `loop`.
_TEST_SPLIT = 3


DEFAULT_LOSS = {
    "classification": "softmax_cross_entropy",
    "multilabel": "binary_cross_entropy",
    "regression": "mean_squared_error",
}
"""The loss of each task, if none is named."""


def load_data(settings: Settings) -> Dataset:
    """Return the data that the settings name. If it has no test part, one is split off by the seed."""
    seed = split_seed(settings.seed)
    return loading.load(**_what_to_load(settings), test_fraction=settings.test_fraction, seed=seed)


def load_whole(settings: Settings) -> Whole:
    """Return the data that the settings name, not split yet."""
    return loading.load_whole(**_what_to_load(settings))


def look(settings: Settings) -> Dataset:
    """Return all data that the settings name, to show what it is taken for."""
    return loading.look(**_what_to_load(settings))


def _what_to_load(settings: Settings) -> dict[str, Any]:
    """Return the arguments of `loading.load` that these settings are. Raises ArgumentError for data that is to be
    streamed, and comes with the program."""
    if settings.stream and settings.data == loading.BUNDLED:
        raise StateError("stream", "was given", f"be left out for {settings.data}: they come with gpubp, and are small")
    return {
        "spec": settings.data,
        "task": settings.task,
        "label": settings.label,
        "weight_column": settings.weight_column,
        "table": table_format(settings.chosen()),
        "stream": settings.stream,
        "rules": InputRules(**{name: getattr(settings, name) for name in RULES}),
    }


def table_format(*values: Mapping[str, Any]) -> TableFormat:
    """Return how a table is written, from settings by name; the first of several that has one decides."""
    return TableFormat(
        **{name: each[name] for each in reversed(values) for name in TABLE if each.get(name) is not None}
    )


def split_seed(seed: int) -> np.random.SeedSequence:
    """Return the seed of the test part that is split off, in a run of this seed. Raises ArgumentError."""
    require_count("seed", seed, 0)
    return np.random.SeedSequence(seed, spawn_key=(_TEST_SPLIT,))


def make_network(settings: Settings, dataset: Dataset) -> Network:
    """Return a network of the settings' architecture for this data, with its initial weights."""
    loss = tidy_name(settings.loss or DEFAULT_LOSS[dataset.task])
    single = dataset.task == "classification" and dataset.outputs == 2 and loss in JUDGES_EACH
    activations = settings.names("activation")
    widths = settings.hidden_widths()
    return Network(
        [dataset.features, *widths, 1 if single else dataset.outputs],
        hidden_activation=activations[0] if len(activations) == 1 else activations,
        output_activation=None if settings.output_activation is None else tidy_name(settings.output_activation),
        loss={"name": loss, "reduction": settings.reduction, **_loss_parameters(settings, loss)},
        initializer=None if settings.initializer is None else tidy_name(settings.initializer),
        bias=settings.bias,
        dropout=settings.dropout_rates(),
        dtype=settings.dtype,
        precision=None if settings.precision is None else tidy_name(settings.precision),
        backend=settings.backend,
        device=settings.device,
        seed=settings.seed,
    )


def _loss_parameters(settings: Settings, loss: str) -> dict[str, float]:
    """Return the loss's own numbers that were given. Raises ArgumentError for one that this loss does not have."""
    given = {name: getattr(settings, name) for name in LOSS_PARAMETERS if getattr(settings, name) is not None}
    having = {name: [each for each, kind in LOSSES.items() if name in _fields(kind)] for name in given}
    for name, value in given.items():
        if loss in LOSSES and loss not in having[name]:
            hint = f"take --loss {' or '.join(having[name])}"
            raise ArgumentError(name, value, f"left out with loss {loss!r}", hint)
    return given


def _fields(kind: type[Loss]) -> list[str]:
    return [each.name for each in fields(kind)]


def first_batch(
    settings: Settings, dataset: Dataset, rows: int
) -> tuple[Network, np.ndarray, np.ndarray, np.ndarray | None]:
    """Return a fresh network, and the first training examples as it reads them: x, y and their weights."""
    network = make_network(settings, dataset)
    model = Model.for_data(network, dataset)
    weights = dataset.weight_train
    if settings.class_weight is not None:
        given = class_weights.parsed(settings.class_weight)
        _, weights = class_weights.applied(given, dataset, dataset.y_train, weights)
    x, y = model.inputs(dataset.x_train[:rows]), model.targets(dataset.y_train[:rows])
    return network, x, y, None if weights is None else weights[:rows]


def training_config(settings: Settings) -> TrainingConfig:
    """Return the settings of `fit`."""
    return TrainingConfig(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        accumulate=1 if settings.accumulate is None else settings.accumulate,
        optimizer=make_optimizer(settings),
        schedule=tidy_name(settings.schedule),
        decay=settings.decay,
        decay_epochs=settings.decay_epochs,
        warmup=settings.warmup,
        validation=settings.validation,
        patience=settings.patience,
        monitor="loss" if settings.monitor is None else tidy_name(settings.monitor),
        seed=settings.seed,
        class_weight=None if settings.class_weight is None else class_weights.parsed(settings.class_weight),
    )


def make_optimizer(settings: Settings) -> Optimizer:
    """Return the optimiser that the settings name; what they leave open is its own default."""
    name = tidy_name(settings.optimizer)
    if settings.momentum is not None and name in optimizers.OPTIMIZERS and name not in ("momentum", "nesterov"):
        raise ArgumentError(
            "--momentum", settings.momentum, f"left out with optimizer {name!r}", "take --optimizer momentum"
        )
    wanted = {
        "learning_rate": settings.lr,
        "momentum": settings.momentum,
        "weight_decay": settings.weight_decay,
        "l1": settings.l1,
        "l2": settings.l2,
        "decoupled": settings.decoupled,
        "clip_norm": settings.clip_norm,
        "clip_value": settings.clip_value,
    }
    return optimizers.get({"name": name, **{key: value for key, value in wanted.items() if value is not None}})


def require_present(spec: str) -> None:
    """Raise DataError if what a run or a model was trained on, as `lasting` names it, is gone."""
    if spec not in loading.NAMES and files.is_missing(spec) and not loading.is_there(spec):
        raise DataError(
            f"{shown(spec, 200)}, the data of the training, is gone; if it has moved, --data names its place"
        )


def lasting(spec: str) -> str:
    """Return a data set's name, or its path as it is valid in every folder that a later command runs in.

    A link stays one: its name, and not that of the file it leads to, may say what kind of file it is.
    """
    return spec if spec in loading.NAMES or not loading.is_there(spec) else os.path.abspath(spec)
