"""A training by several ranks, of which one ends in a way of its own: `stopping.py FOLDER RANK HOW`."""

import os
import signal
import sys

from trainings import dataset

from gpubp.distributed.ranks import joined
from gpubp.errors import CheckpointError
from gpubp.nn.network import Network
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import Listener, fit

CONFIG = TrainingConfig(epochs=5, batch_size=16)

HOW = {
    "raises": lambda: 1 / 0,
    "refuses": lambda: fail(CheckpointError("the disk is full")),
    "exits": lambda: sys.exit(7),
    "vanishes": lambda: os._exit(7),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hears a signal": lambda: os.kill(os.getpid(), signal.SIGTERM),
}


def fail(error):
    raise error


class Ends(Listener):
    """Ends one rank after the first batch of the third epoch."""

    def __init__(self, number, how):
        self.number, self.how = number, how

    def batch(self, run):
        if (run.epoch, run.batch, run.ranks.number) == (2, 1, self.number):
            HOW[self.how]()


def main(folder, number, how):
    with joined() as ranks:
        network = Network([6, 10, 3], backend="numpy")
        fit(network, dataset(), CONFIG, folder=folder, ranks=ranks, listener=Ends(int(number), how))
    print("came to the end")


if __name__ == "__main__":
    main(*sys.argv[1:])
