"""The order of execution as a seed: what the scheduler takes where any choice is right.

Without a seed threads take turns in one fixed order. With one, every choice is drawn: which blocks run in one wave,
which waves are there together and which of them runs next; which warps go first, which group of a warp's threads, and
for how long; in which order the threads of one instruction store and add. A launch's order depends on the seed and on
how many launches the observer has seen before, and on nothing else.

Threads of a warp that are together stay together: an order that takes them apart where their program does not would let
no warp instruction meet all its threads.
"""

from __future__ import annotations

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.state import Active, Array
from gpubp.errors import ArgumentError

TOGETHER = 3
"""Waves that take turns."""
LONGEST = 10
"""log2 of the longest turn, in blocks of straight-line code; shorter ones are as likely by their logarithm."""
LANE_ORDERS = 8
"""Orders of the lanes that a wave chooses from."""


class Shuffled(Active):
    """Lanes that execute now, in an order of their own: the lanes of a warp one after the other, as are those of each
    half and quarter, since such are the units of memory traffic."""

    __slots__ = ("_rank",)

    def __init__(self, mask: Array, rank: Array) -> None:
        super().__init__(mask)
        self.whole = False  # nobody may take lanes for positions
        self._rank = rank

    @property
    def lanes(self) -> Array:
        """Return the numbers of the active lanes, in this order."""
        if self._lanes is None:
            lanes = np.flatnonzero(self.mask)
            self._lanes = lanes[np.argsort(self._rank[lanes])]
        return self._lanes

    def within(self, mask: Array) -> Active:
        """Return some of these lanes, in the same order."""
        return Shuffled(mask, self._rank)


class Choices:
    """The choices of one observer: the same seed, the same choices.

    Raises:
        ArgumentError: the seed is no whole number ≥ 0.
    """

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ArgumentError("order", seed, "a whole number ≥ 0")
        self.seed = int(seed)
        self._launches = 0
        self._rng = np.random.default_rng([self.seed, 0])

    def begin_launch(self) -> None:
        """Begin the choices of the next launch."""
        self._launches += 1
        self._rng = np.random.default_rng([self.seed, self._launches])

    # -- of a launch --------------------------------------------------------------------------------------------------

    def blocks_per_wave(self, most: int) -> int:
        """Return how many blocks run in a wave, few as likely as many."""
        return int(most ** self._rng.random() + 0.5)

    def ranges(self, blocks: int, most: int) -> list[range]:
        """Return the blocks of a grid in the order in which they start, at most `most` in a wave."""
        found = []
        first = 0
        while first < blocks:
            size = int(self._rng.integers(max(1, most // 2), most + 1))
            found.append(range(first, min(blocks, first + size)))
            first += size
        return [found[i] for i in self._rng.permutation(len(found))]

    def starts(self, waiting: int) -> bool:
        """Return True if a new wave begins now, and none of those that wait goes on."""
        return waiting < TOGETHER and bool(self._rng.integers(2))

    def below(self, number: int) -> int:
        """Return any of the numbers from 0 to before `number`."""
        return int(self._rng.integers(number))

    def turn(self) -> int:
        """Return how many blocks of straight-line code a turn takes."""
        return int(2 ** (LONGEST * self._rng.random()))

    # -- of a wave ----------------------------------------------------------------------------------------------------

    def lane_orders(self, lanes: int) -> list[Array]:
        """Return some orders of the lanes, each as a rank by lane."""
        lane = np.arange(lanes)
        orders = []
        for _ in range(LANE_ORDERS):
            warps = self._rng.permutation(lanes // WARP)
            orders.append(warps[lane // WARP] * WARP + (lane % WARP ^ self._rng.integers(WARP)))
        return orders

    def gangs(self, lanes: int, padded: int) -> Array:
        """Return the number of the gang of each lane: warps that run together, by the warp or by whole blocks."""
        unit = padded if self._rng.integers(2) else WARP
        gang = self._rng.integers(2 ** self._rng.integers(3), size=lanes // unit)
        return np.repeat(gang, unit)

    def shuffled(self, numbers: list[int]) -> list[int]:
        """Return numbers in any order."""
        return [numbers[i] for i in self._rng.permutation(len(numbers))]

    def one_of(self, numbers: Array) -> int:
        """Return one of the numbers in an array."""
        found = np.unique(numbers)
        return int(found[self.below(found.size)])
