"""Damaged models and checkpoints, with valid checksums too: refused in one short line, or sound from end to end."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from damage import damaged_bytes, damaged_tree, fuzz

from gpubp import Network
from gpubp.data.dataset import Dataset
from gpubp.data.preparation import InputColumn, Preparation
from gpubp.errors import ArgumentError, DataError
from gpubp.nn import model_file
from gpubp.terminal import PlainConsole
from gpubp.training import TrainingConfig
from gpubp.training.checkpoint import CHECKPOINT_FILE
from gpubp.training.display import evaluation_table
from gpubp.training.loop import Run, fit
from gpubp.training.model import RUN_FILE, Model
from gpubp.training.predictions import load_for

X = np.random.default_rng(0).normal(size=(12, 3))
CLASSES = Dataset(
    X, np.arange(12) % 2, X, np.arange(12) % 2, class_names=("left", "right"), feature_names=("a", "b", "c")
)
PREPARED = Preparation((InputColumn("a", "category", ("x",)), InputColumn("b", fill=0.5)), "mean")
CLASSES = replace(CLASSES, preparation=PREPARED, feature_names=PREPARED.input_names())
VALUES = Dataset(X, X[:, :2], X, X[:, :2], task="regression")
CONFIG = TrainingConfig(epochs=2, batch_size=5, patience=2, validation=0.25)


def network(task):
    loss = "softmax_cross_entropy" if task == "classification" else "huber"
    return Network([3, 4, 2], hidden_activation="leaky_relu", loss=loss, backend="numpy")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of two finished runs, by task."""
    folders = {}
    for data in (CLASSES, VALUES):
        folders[data.task] = tmp_path_factory.mktemp(data.task)
        fit(
            network(data.task),
            data,
            CONFIG,
            folder=folders[data.task],
            settings={"epochs": 2},
            origin={"data": "x.csv"},
        )
    return folders


def signed(rng, path, out):
    """Write a file whose contents are damaged and whose checksum fits them."""
    tensors, metadata = model_file.read(path)
    for _ in range(rng.randint(1, 2)):
        if rng.random() < 0.6:
            damaged = damaged_tree(rng, metadata) if rng.random() < 0.1 else _inside(rng, metadata)
            metadata = damaged if isinstance(damaged, dict) and damaged else {"network": damaged}
        else:
            tensors = _damaged_tensors(rng, tensors)
    model_file.write(out, tensors, metadata)


def _inside(rng, metadata):
    key = rng.choice(list(metadata))
    return {**metadata, key: damaged_tree(rng, metadata[key])}


def _damaged_tensors(rng, tensors):
    found, name = dict(tensors), rng.choice(list(tensors))
    array = found[name]
    match rng.randrange(7):
        case 0:
            del found[name]
        case 1:
            found[name] = array.reshape(-1)[: rng.randrange(array.size + 1)]
        case 2:
            found[name] = array[None]
        case 3:
            with np.errstate(all="ignore"):
                found[name] = array.astype(rng.choice(("int8", "uint64", "float16", "float64", "bool")))
        case 4:
            array = np.array(array, "float64")
            array.reshape(-1)[-1:] = rng.choice((np.nan, np.inf, -np.inf, -1, 0, 1e300, 1e-300))
            found[name] = array
        case 5:
            found[rng.choice(("best.x", "input.scale", "target.offset", "steps", "x\x1b"))] = found.pop(name)
        case 6:
            found[name] = np.tile(array, 2)
    return found


def use_model(model):
    """Judge and predict, into a terminal and into files."""
    with contextlib.suppress(DataError, ArgumentError):  # other data than that in x.csv
        load_for(model, None, None)
    y = CLASSES.y_test if model.task == "classification" else VALUES.y_test
    if model.network.sizes[0] != X.shape[1] or model.network.sizes[-1] != 2:
        return
    out = io.StringIO()
    with np.errstate(over="ignore", invalid="ignore"):
        PlainConsole(file=out, width=100).print(evaluation_table(model, "x.csv", X, y))
    assert all(line.isprintable() for line in out.getvalue().splitlines())
    assert model.predict(X).shape[0] == len(X)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_damaged_model(runs, tmp_path, task, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("a,b,c,y\n" + "".join(f"{a},{b},{c},left\n" for a, b, c in X.tolist()))

    def attempt(rng):
        file = tmp_path / RUN_FILE
        if rng.random() < 0.3:
            file.write_bytes(damaged_bytes(rng, *((folder / RUN_FILE).read_bytes() for folder in runs.values())))
        else:
            signed(rng, runs[task] / RUN_FILE, file)
        use_model(Model.load(tmp_path, backend="numpy"))

    fuzz(attempt)


@pytest.mark.parametrize("data", [CLASSES, VALUES], ids=lambda data: data.task)
def test_a_damaged_checkpoint(runs, tmp_path, data):
    def attempt(rng):
        file = tmp_path / CHECKPOINT_FILE
        if rng.random() < 0.3:
            file.write_bytes(damaged_bytes(rng, *((folder / CHECKPOINT_FILE).read_bytes() for folder in runs.values())))
        else:
            signed(rng, runs[data.task] / CHECKPOINT_FILE, file)
        run = Run(network(data.task), data, CONFIG, folder=tmp_path)
        run.load()
        with np.errstate(all="ignore"):
            run.train()

    fuzz(attempt, share=0.5)
