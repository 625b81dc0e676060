"""The order in which an epoch visits the rows: a function of the seed, the epoch and the number of rows alone.

So a run that is resumed, that reads its data piece by piece, or that several processes share, sees the same batches.
"""

from __future__ import annotations

import numpy as np

SHUFFLED_AT_ONCE = 2**16
"""Rows that are shuffled together: an epoch of no more is one permutation of all rows."""
BLOCK = 2**10
"""Consecutive rows that stay together until they are shuffled with those of other blocks: rows that a disk reads at
once."""

WHOLE, BLOCKS = 1, 2
"""The kinds of order: a permutation of all rows; blocks in random order, and the rows of some blocks at a time."""

# The spawn key of the orders' seed sequences, beside those of a run's other choices.
_SHUFFLE = 1


def kind_for(rows: int) -> int:
    """Return the kind of order that a run on this many rows begins with; earlier versions had `WHOLE` for all."""
    return WHOLE if rows <= SHUFFLED_AT_ONCE else BLOCKS


def epoch_order(seed: int, epoch: int, rows: int, kind: int | None = None) -> np.ndarray:
    """Return the row numbers (rows,) int64 in the order in which an epoch (0, 1, ...) visits them.

    In an order of `BLOCKS`, any `SHUFFLED_AT_ONCE` rows, from a multiple of that on, lie in few places of the data, so
    that they can be read from a file that does not fit into memory.

    kind: None takes that of `kind_for`.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SHUFFLE, epoch)))
    if (kind or kind_for(rows)) == WHOLE:
        return rng.permutation(rows)
    blocks = rng.permutation(-(-rows // BLOCK))
    order, filled = np.empty(rows, np.int64), 0
    for first in range(0, len(blocks), SHUFFLED_AT_ONCE // BLOCK):
        together = blocks[first : first + SHUFFLED_AT_ONCE // BLOCK, None] * BLOCK + np.arange(BLOCK)
        shuffled = rng.permutation(together[together < rows])  # the last block may be shorter
        order[filled : filled + len(shuffled)] = shuffled
        filled += len(shuffled)
    return order
