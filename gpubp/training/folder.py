"""Runs with a folder: from a user's settings to a trained model, its history, its configuration and its curves."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from gpubp import files
from gpubp.data import loading
from gpubp.data.dataset import Dataset
from gpubp.errors import ArgumentError, CheckpointError, DataError
from gpubp.nn import optimizers
from gpubp.nn.losses import BinaryCrossEntropy
from gpubp.nn.network import Network
from gpubp.nn.optimizers import Optimizer
from gpubp.training import plots
from gpubp.training.loop import (
    CHECKPOINT_FILE,
    HISTORY_FILE,
    Listener,
    Result,
    Run,
    TrainingConfig,
    read_checkpoint,
)
from gpubp.training.model import RUN_FILE, Model
from gpubp.training.settings import Settings, tidy_name

CONFIG_FILE = "config.toml"
CURVES_FILE = "curves.png"
FILES = (RUN_FILE, HISTORY_FILE, CURVES_FILE, CONFIG_FILE, CHECKPOINT_FILE)
"""What a finished run's folder holds."""

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What a file system says that has no locks, as on some clusters: there one can train all the same."""

# What is random here, by the spawn key of its seed sequence, beside what `training` draws.
_TEST_SPLIT = 3


def start(settings: Settings, out: str | Path | None, listener: Listener) -> tuple[Result, Path]:
    """Train as the settings say, in a new folder: `out`, or runs/DATA-TIME. Nothing is written before all is checked.

    Raises ArgumentError, DataError, BackendError, CheckpointError for what is wrong; Interrupted as `training.fit`.
    """
    folder = _default_folder(settings) if out is None else Path(out)
    _check_new(folder)
    run = _make_run(settings, folder, listener)
    _make_folder(folder)
    with _alone_in(folder):
        _check_new(folder)  # again: another process may have trained here meanwhile
        _write_config(run)
        return _train(run), folder


def resume(folder: str | Path, given: Mapping[str, Any], listener: Listener) -> tuple[Result, Path]:
    """Continue the run in a folder. given: settings that were asked for now; they must be those of the run, but for
    `epochs`, which may be more, and `backend` and `device`."""
    folder = Path(folder)
    _, metadata = read_checkpoint(folder)
    saved = Settings.from_mapping(metadata["settings"], str(folder / CHECKPOINT_FILE))
    run = _make_run(_merged(saved, given, metadata["epoch"]), folder, listener)
    with _alone_in(folder):
        run.load()
        _remove_leftovers(folder)
        _write_config(run)
        return _train(run), folder


def _train(run: Run) -> Result:
    result = run.train()
    assert run.folder is not None
    picture = io.BytesIO()
    plots.curves(
        result.history,
        title=f"{run.dataset.name}: {plots.architecture(run.network)}",
        out=picture,
        loss=run.network.loss.name.replace("_", " "),
        chosen_epoch=result.row.epoch if result.row is not result.history[-1] else None,
    )
    files.write_bytes(run.folder / CURVES_FILE, picture.getvalue())
    return result


# --- from settings to a run -------------------------------------------------------------------------------------------
def _make_run(settings: Settings, folder: Path, listener: Listener) -> Run:
    config = training_config(settings)
    settings = replace(settings, data=_lasting(settings.data))
    dataset = load_data(settings)
    network = make_network(settings, dataset)
    # A run that is resumed continues on what it began on, whatever "auto" would choose then.
    settings = replace(settings, backend=network.backend.name, device=network.backend.device)
    origin = {name: getattr(settings, name) for name in ("data", "task", "label", "test_fraction", "seed")}
    return Run(network, dataset, config, folder=folder, listener=listener, settings=settings.chosen(), origin=origin)


def load_data(settings: Settings) -> Dataset:
    """The data that the settings name. Where it has no test part, one is split off by the seed."""
    return loading.load(
        settings.data,
        task=settings.task,
        label=settings.label,
        test_fraction=settings.test_fraction,
        seed=_split_seed(settings.seed),
    )


def _split_seed(seed: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(_TEST_SPLIT,))


def make_network(settings: Settings, dataset: Dataset) -> Network:
    """A network of the settings' architecture for this data, with its initial weights."""
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


def first_batch(settings: Settings, rows: int) -> tuple[Network, np.ndarray, np.ndarray]:
    """A fresh network, and the first examples of the training data as it reads them."""
    dataset = load_data(settings)
    network = make_network(settings, dataset)
    model = Model.for_data(network, dataset)
    return network, model.inputs(dataset.x_train[:rows]), model.targets(dataset.y_train[:rows])


def training_config(settings: Settings) -> TrainingConfig:
    """How the settings say to train."""
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
    """The optimiser that the settings name, with what they say of it; the rest is its own default."""
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


def _merged(saved: Settings, given: Mapping[str, Any], epochs_done: int) -> Settings:
    """The run's settings with what may change; ArgumentError where something else was given than the run has."""
    for name, value in given.items():
        before = getattr(saved, name)
        if name == "data":
            value = _lasting(value)
        if name not in ("epochs", "backend", "device") and value != before:
            was = "its default" if before is None else repr(before)
            raise ArgumentError(_option(name), value, f"left out, or {was} as in the run that is resumed")
    merged = replace(saved, **{name: given[name] for name in ("epochs", "backend", "device") if name in given})
    if "backend" in given and "device" not in given:
        merged = replace(merged, device=None)
    if merged.epochs < epochs_done:
        raise ArgumentError("--epochs", merged.epochs, f"at least {epochs_done}: so many the run has done already")
    return merged


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _lasting(spec: str) -> str:
    """A data set's name, or its path from wherever a later command is run."""
    return spec if spec in loading.NAMES or not os.path.exists(spec) else str(Path(spec).resolve())


# --- the folder -------------------------------------------------------------------------------------------------------
def _default_folder(settings: Settings) -> Path:
    name = f"{Path(settings.data).stem or 'data'}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path("runs") / name
    number = 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


def _check_new(folder: Path) -> None:
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise CheckpointError(f"cannot look into {folder}: {error.strerror}") from error
    if taken:
        raise ArgumentError("--out", str(folder), "a new or an empty folder", "--resume continues a run")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {folder}: {error.strerror}") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time train in a folder. However the process ends, the lock ends with it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"cannot open the folder {folder}: {error.strerror}") from error
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CheckpointError(f"another process is training in {folder}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise CheckpointError(f"cannot lock the folder {folder}: {error.strerror}") from error


def _write_config(run: Run) -> None:
    """Write what was chosen, and what came of the choices that were left open."""
    assert run.folder is not None
    network = run.network
    contents = {
        "settings": run.settings,
        "resolved": {
            "sizes": list(network.sizes),
            "activations": [activation.name for activation in network.activations[1:]],
            "loss": network.loss.name,
            "parameters": network.parameter_count,
            "training_examples": run.rows,
            "validation_examples": len(run.parts["validation"][0]),
            "test_examples": len(run.parts["test"][0]),
            "optimizer": _without_none(run.trainer.optimizer.config()),
        },
        "versions": {
            "gpubp": version("gpubp"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    files.write_bytes(run.folder / CONFIG_FILE, tomli_w.dumps(contents).encode())


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _remove_leftovers(folder: Path) -> None:
    """Remove the half-written files that a killed process left behind."""
    for name in FILES:
        for path in folder.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


# --- using a model ----------------------------------------------------------------------------------------------------
def load_for(model: Model, spec: str | None, label: str | None) -> tuple[str, np.ndarray, np.ndarray]:
    """Raw inputs and targets to judge a model by, and what they are.

    None, or the source of the model's training data: the part that was held out from training. Other data: its test
    part if it comes in two parts, else all of it.
    """
    origin = model.origin
    spec = origin.get("data") if spec is None else _lasting(spec)
    if spec is None:
        raise ArgumentError("--data", None, "given: the model does not say what it was trained on")
    trained_on = spec == origin.get("data")
    found = loading.load(
        spec,
        task=model.task,
        label=label or (origin.get("label") if trained_on else None),
        test_fraction=origin.get("test_fraction", 0.0) if trained_on else 0.0,
        seed=_split_seed(origin.get("seed", 0)),
        classes=model.class_names or None,
        feature_names=model.feature_names,
    )
    name, x, y = found.name, found.x_train, found.y_train
    if len(found.x_test):
        name, x, y = f"{found.name}, the test part", found.x_test, found.y_test
    _require_features(model, found.name, x)
    outputs = model.network.sizes[-1]
    if model.task == "regression" and found.outputs != outputs:
        raise DataError(f"{found.name}: it has {found.outputs} values an example; the model predicts {outputs}")
    return name, x, y


def _require_features(model: Model, name: str, x: np.ndarray) -> None:
    """Raise DataError unless raw inputs have as many features as the model reads."""
    if x.shape[1] != model.network.sizes[0]:
        raise DataError(f"{name}: it has {x.shape[1]} features an example; the model reads {model.network.sizes[0]}")


def predict(model: Model, spec: str, label: str | None, out: Path) -> int:
    """Write predictions for a data set's inputs to a .csv or .npz file, which cannot be the data's; return how many."""
    if out.suffix.lower() not in (".csv", ".npz"):
        raise ArgumentError("--out", str(out), "a file that ends in .csv or .npz")
    if os.path.exists(spec) and os.path.exists(out) and os.path.samefile(spec, out):
        raise ArgumentError("--out", str(out), "another file than the data")
    x = loading.load_inputs(spec, label=label, feature_names=model.feature_names)
    _require_features(model, spec, x)
    _write_predictions(model, x, out)
    return len(x)


def _write_predictions(model: Model, x: np.ndarray, path: Path) -> None:
    """Write predictions for raw inputs, whole or not at all.

    Classification: `class` (names) and a probability for each class. Regression: the values.
    """
    if model.task == "classification":
        probabilities = model.predict_proba(x)
        classes = np.array(model.class_names)[probabilities.argmax(axis=1)]
        arrays = {"classes": classes, "probabilities": probabilities, "class_names": np.array(model.class_names)}
        header = ["class", *(f"probability {name}" for name in model.class_names)]
        rows: Sequence[Any] = [[name, *row] for name, row in zip(classes, probabilities.tolist(), strict=True)]
    else:
        values = model.predict(x)
        arrays = {"values": values}
        header = [f"value {number}" for number in range(1, values.shape[1] + 1)]
        rows = values.tolist()
    files.write_bytes(path, _npz(arrays) if path.suffix.lower() == ".npz" else _csv(header, rows))


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **dict(arrays))  # type: ignore[arg-type]
    return file.getvalue()


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
