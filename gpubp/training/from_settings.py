"""From the settings of a run to its data, its network and its training. All raise ArgumentError for a wrong setting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpubp import files
from gpubp.data import loading
from gpubp.data.dataset import Dataset
from gpubp.data.table import TableFormat
from gpubp.errors import ArgumentError, DataError, shown
from gpubp.nn import optimizers
from gpubp.nn.losses import BinaryCrossEntropy
from gpubp.nn.network import Network
from gpubp.nn.optimizers import Optimizer
from gpubp.registry import require_count
from gpubp.training.config import TrainingConfig
from gpubp.training.model import Model
from gpubp.training.settings import TABLE, Settings, tidy_name

# The test part is random; its spawn key, beside those of `loop`.
_TEST_SPLIT = 3


def load_data(settings: Settings) -> Dataset:
    """Return the data that the settings name. If it has no test part, one is split off by the seed."""
    return loading.load(
        settings.data,
        task=settings.task,
        label=settings.label,
        table=table_format(settings.chosen()),
        test_fraction=settings.test_fraction,
        seed=split_seed(settings.seed),
    )


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
    classifies = dataset.task == "classification"
    loss = settings.loss or ("softmax_cross_entropy" if classifies else "mean_squared_error")
    loss = tidy_name(loss)
    single = classifies and dataset.outputs == 2 and loss == BinaryCrossEntropy.name
    activations = settings.names("activation")
    widths = settings.hidden_widths()
    return Network(
        [dataset.features, *widths, 1 if single else dataset.outputs],
        hidden_activation=activations[0] if len(activations) == 1 else activations,
        output_activation=None if settings.output_activation is None else tidy_name(settings.output_activation),
        loss={"name": loss, "reduction": settings.reduction},
        initializer=None if settings.initializer is None else tidy_name(settings.initializer),
        bias=settings.bias,
        dtype=settings.dtype,
        precision=None if settings.precision is None else tidy_name(settings.precision),
        backend=settings.backend,
        device=settings.device,
        seed=settings.seed,
    )


def first_batch(settings: Settings, dataset: Dataset, rows: int) -> tuple[Network, np.ndarray, np.ndarray]:
    """Return a fresh network, and the first examples (x, y) of the training data as it reads them."""
    network = make_network(settings, dataset)
    model = Model.for_data(network, dataset)
    return network, model.inputs(dataset.x_train[:rows]), model.targets(dataset.y_train[:rows])


def training_config(settings: Settings) -> TrainingConfig:
    """Return the settings of `fit`."""
    return TrainingConfig(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        optimizer=make_optimizer(settings),
        schedule=tidy_name(settings.schedule),
        decay=settings.decay,
        decay_epochs=settings.decay_epochs,
        warmup=settings.warmup,
        validation=settings.validation,
        patience=settings.patience,
        seed=settings.seed,
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
