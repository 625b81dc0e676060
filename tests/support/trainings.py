"""Trainings by as many ranks as start this program: `trainings.py FOLDER CASE ...`; each leaves its weights there.

The file of a case and a rank has the weights, the history's numbers, and the number of optimiser's steps. The inputs of
a case called "streamed ..." are read while it trains.
"""

import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np

from gpubp import backends
from gpubp.data.dataset import Dataset
from gpubp.distributed.ranks import joined
from gpubp.nn.network import Network
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import fit


def dataset(rows=50, weighted=False, task="classification"):
    """Rows of three classes, or two values, which are a function of the inputs and noise."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, 6))
    values = np.stack([x[:, 0] - x[:, 1], x[:, 2] * x[:, 3]], axis=1) + 0.1 * rng.normal(size=(rows, 2))
    y = np.digitize(values[:, 0], [-0.7, 0.7]) if task == "classification" else values
    weights = rng.integers(0, 4, rows).astype(float) if weighted else None
    train, test = slice(0, rows - 11), slice(rows - 11, rows)
    return Dataset(
        x[train], y[train], x[test], y[test], task=task,
        class_names=("low", "middle", "high") if task == "classification" else (),
        weight_train=None if weights is None else weights[train],
        weight_test=None if weights is None else weights[test],
    )  # fmt: skip


SGD = {"name": "sgd", "learning_rate": 0.1}
CLIPPED = {**SGD, "clip_norm": 0.5}
ADAM_CLIPPED = {"name": "adam", "learning_rate": 0.01, "clip_norm": 0.5}

# Name: settings of the data, of the network and of the training. 39 rows: batches of 16 end in one of 7, those of 3 are
# smaller than 4 ranks, and one of 38 leaves a batch of one row.
CASES = {
    "sgd": ({}, {}, {"optimizer": SGD}),
    "clipped": ({}, {}, {"optimizer": CLIPPED}),
    "adam": ({}, {}, {"optimizer": {"name": "adam", "learning_rate": 0.01}}),
    "adam clipped": ({}, {}, {"optimizer": ADAM_CLIPPED}),
    "small batches": ({}, {}, {"optimizer": CLIPPED, "batch_size": 3}),
    "one row": ({}, {}, {"optimizer": ADAM_CLIPPED, "batch_size": 38}),
    "weights": ({"weighted": True}, {}, {"optimizer": CLIPPED}),
    "dropout": ({}, {"dropout": 0.3}, {"optimizer": SGD}),
    "accumulated": ({}, {}, {"optimizer": CLIPPED, "batch_size": 4, "accumulate": 4}),
    "stopped early": ({}, {}, {"optimizer": ADAM_CLIPPED, "validation": 0.3, "patience": 1, "epochs": 20}),
    "values": ({"task": "regression"}, {"loss": "mean_squared_error"}, {"optimizer": ADAM_CLIPPED}),
    "sum": ({}, {"loss": {"name": "softmax_cross_entropy", "reduction": "sum"}}, {"optimizer": CLIPPED}),
    "half precision": ({}, {"precision": "fp16"}, {"optimizer": CLIPPED}),
}


def train(case, ranks, backend, dtype):
    of_data, of_network, of_training = CASES[case.removeprefix("streamed ")]
    data = dataset(**of_data)
    outputs = 3 if data.task == "classification" else 2
    network = Network([6, 10, 7, outputs], dtype=dtype, backend=backend, **of_network)
    config = TrainingConfig(**{"epochs": 3, "batch_size": 16, **of_training})
    result = fit(network, data, config, ranks=ranks, stream=case.startswith("streamed "))
    numbers = [[np.nan if x is None else x for x in astuple(row)[:-1]] for row in result.history]
    norms = [row.gradient_norms for row in result.history]
    return {**network.weights(), "history": np.array(numbers, float), "norms": np.array(norms)}


def main(folder, backend, device, dtype, *cases):
    with joined() as ranks:
        made = backends.get(backend, device)
        for case in cases:
            np.savez(Path(folder) / f"{case} {ranks.number}.npz", **train(case, ranks, made, dtype))


if __name__ == "__main__":
    main(*sys.argv[1:])
