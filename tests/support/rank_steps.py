"""Steps of one trainer by as many ranks as start this program: `rank_steps.py FOLDER BACKEND DEVICE`."""

import sys
from pathlib import Path

import numpy as np
from trainings import dataset

from gpubp import backends
from gpubp.distributed.ranks import ALONE, joined
from gpubp.nn.network import Network
from gpubp.nn.trainer import BatchSteps, Trainer


def weights(backend, ranks=ALONE):
    """The weights after steps on 16, 16 and 7 rows, on 16 with new arrays on one rank, which it alone records a step
    for, and on 2 rows, which are fewer than 3 ranks."""
    data = dataset()
    network = Network([6, 5, 3], backend=backend)
    trainer = Trainer(network, {"name": "sgd", "learning_rate": 0.5, "clip_norm": 0.3}, ranks=ranks)
    feed = trainer.feed(data.x_train, data.y_train)
    whole, few = BatchSteps(trainer, feed, 16), BatchSteps(trainer, feed, 2)
    for start in (0, 16, 32):
        whole(start)
    if ranks.first:
        network.predict(data.x_train)
    whole(0)
    for start in (4, 6):
        few(start)
    return {**network.weights(), "loss": np.array([trainer.last_loss(), trainer.take_total_loss()])}


def main(folder, backend, device):
    with joined() as ranks:
        np.savez(Path(folder) / f"{ranks.number}.npz", **weights(backends.get(backend, device), ranks))


if __name__ == "__main__":
    main(*sys.argv[1:])
