"""Dropout: which units of a layer take part in a training step, drawn anew wherever they are asked for.

The mask lies in no memory. It is a function of the seed, the step, the layer and the place in the global batch, so
every backend draws the same one, whatever its tiles are and however a batch is spread over parts and devices.

Inverted dropout (Srivastava et al., "Dropout", 2014, section 10): a unit is kept with probability 1 − p, and what it
gives is divided by 1 − p. What is stored is σ(z) times the mask of 0 and 1, so that σ' can be taken from it; the factor
1 / (1 − p) goes to whoever reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpubp.kernels.philox import KEY_STEPS, MULTIPLIERS, ROUNDS, WORD

WORDS = 4
"""Random words that one counter gives: four neighbouring columns share it."""


@dataclass(frozen=True)
class Dropout:
    """Dropout of one layer's units, from one row of the global batch on.

    Attributes:
        rate: p, the probability that a unit is dropped, 0 < p < 1; drawn to 2⁻³².
        key: two words, from the network's seed.
        layer: the number of the layer, from 1.
        first_row: the row of the global batch that is row 0 of the arrays.
    """

    rate: float
    key: tuple[int, int]
    layer: int
    first_row: int = 0

    @property
    def threshold(self) -> int:
        """A unit whose random word is smaller is dropped."""
        return min(round(self.rate * 2**32), WORD)

    @property
    def factor(self) -> float:
        """What the outputs of the kept units are multiplied by: 1 / (1 − p)."""
        return 1 / (1 - self.rate)

    def mask(self, rows: int, width: int, step: int) -> np.ndarray:
        """Return which units are kept in a step: (rows, width), bool.

        The word of the unit in row i and column j is number j mod 4 of Philox at (row, ⌊j/4⌋, layer, step).
        """
        counters = np.arange(self.first_row, self.first_row + rows)[:, None], np.arange(-(-width // WORDS))
        words = philox((*counters, self.layer, step), self.key)
        return np.stack(words, axis=-1).reshape(rows, -1)[:, :width] >= self.threshold


def philox(counter: Sequence[np.ndarray | int], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Return four random words, uint32, for each counter.

    Philox4×32-10: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011, section 3.3. In each
    round, two words of the counter are multiplied by constants, and the halves of the products change the other words.

    Args:
        counter: four words, numbers or arrays that broadcast together; of more than 32 bits, the lower ones are taken.
        key: two words.
    """
    low, half = np.uint64(WORD), np.uint64(32)
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word).astype(np.uint64) & low for word in counter))
    pair = (2, *[1] * c0.ndim)
    multipliers = np.array(MULTIPLIERS, np.uint64).reshape(pair)
    steps, keys = np.array(KEY_STEPS, np.uint64).reshape(pair), np.array(key, np.uint64).reshape(pair)
    multiplied, others = np.stack([c0, c2]), np.stack([c1, c3])
    for _ in range(ROUNDS):
        products = (multiplied * multipliers)[::-1]  # of words 2 and 0
        multiplied = (products >> half) ^ others ^ keys
        others = products & low
        keys = (keys + steps) & low
    words = multiplied[0], others[0], multiplied[1], others[1]
    return tuple(word.astype(np.uint32) for word in words)
