"""Whether a run reads its inputs while it trains, because they are large."""

from __future__ import annotations

import numpy as np

from gpubp.data.dataset import Dataset
from gpubp.data.spool import SHARE_OF_MEMORY
from gpubp.memory import usable_memory
from gpubp.nn.network import Network

SHARE_OF_DEVICE = 3 / 4
"""Training examples that take more than this share of the memory that a GPU has free are streamed. The rest is for the
passes' arrays, which grow with the batch."""


def is_chosen(network: Network, dataset: Dataset, rows: int) -> bool:
    """Return whether a run streams of which nobody has said: its scaled inputs take more than `SHARE_OF_MEMORY`, or
    more than `SHARE_OF_DEVICE`. rows: of the training part, to train on."""
    memory, free = usable_memory(), network.backend.free_memory
    scaled = (len(dataset.x_train) + len(dataset.x_test)) * _row_bytes(network, network.dtype)
    return (0 < SHARE_OF_MEMORY * memory < scaled) or (
        free is not None and rows * _row_bytes(network, network.precision.storage) > SHARE_OF_DEVICE * free
    )


def _row_bytes(network: Network, kind: str) -> int:
    """Return the bytes of an example's inputs, of this dtype, of its targets, its weight and its place in the order.

    kind: on the host inputs are scaled to the master dtype; the device stores them in the storage's.
    """
    inputs, master = (np.dtype(each).itemsize for each in (kind, network.dtype))
    targets = 8 if network.loss.takes_labels else master * network.sizes[-1]
    return inputs * network.sizes[0] + targets + master + 8
