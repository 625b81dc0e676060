"""Dropout's mask, drawn where it is needed: Philox4×32-10, a random number that is a function of its place.

    counter = (row of the global batch, ⌊column / 4⌋, layer, step), key: two words from the seed

A round multiplies two words of the counter by constants, and the halves of the products change the other two (Salmon et
al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011, section 3.3). One counter gives four words, one for each of
four neighbouring columns. No state, so no order: any tile, on any device, draws the same mask. The reference is
gpubp/nn/dropout.py, the constants are in ../philox.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.kernels.control import Control
from gpubp.kernels.philox import KEY_STEPS, MULTIPLIERS, ROUNDS
from gpubp.toolchain.numba_package import cuda

STEP = int(Control.STEP)

# Words are multiplied in 64 bits, and cut to 32 at once: Numba makes 64 bits of any arithmetic of two words.
MULTIPLIER_0, MULTIPLIER_1 = map(np.uint64, MULTIPLIERS)
KEY_STEP_0, KEY_STEP_1 = map(np.uint32, KEY_STEPS)
HALF = np.uint64(32)
ONE, TWO, FOUR = np.uint64(1), np.uint64(2), np.uint64(4)

COUNTER = 2
"""The place in `drawn`, behind the four words in two pairs, of the counter's row and number of columns."""
DRAWN = 3
"""The length of `drawn`: what a thread keeps of its last draw, in registers."""
NOWHERE = np.uint64(2**32 - 1)
"""The place of no unit: a row with this many columns is more than a memory holds."""
NUMBERS = (*["uint32"] * 4, "int64")
"""The types of what a kernel takes for a mask: threshold, the key's two words, layer and first_row."""


def draw(jit: Callable) -> Any:
    """Return the device function draw(c0, c1, c2, c3, k0, k1, pairs): pairs[0] ← words 0 and 1 of this counter, word 1
    in the upper half, pairs[1] ← words 2 and 3."""

    @jit(device=True, inline="always")
    def draw_words(c0, c1, c2, c3, k0, k1, pairs):
        for _ in range(ROUNDS):
            product_0, product_1 = np.uint64(c0) * MULTIPLIER_0, np.uint64(c2) * MULTIPLIER_1
            c0 = np.uint32(np.uint32(product_1 >> HALF) ^ c1 ^ k0)
            c1 = np.uint32(product_1)
            c2 = np.uint32(np.uint32(product_0 >> HALF) ^ c3 ^ k1)
            c3 = np.uint32(product_0)
            k0, k1 = np.uint32(k0 + KEY_STEP_0), np.uint32(k1 + KEY_STEP_1)
        pairs[0] = np.uint64(c1) << HALF | np.uint64(c0)
        pairs[1] = np.uint64(c3) << HALF | np.uint64(c2)

    return draw_words


def nothing_drawn(jit: Callable) -> Any:
    """Return the device function nothing_drawn(): an array for `kept` to keep its words in."""

    @jit(device=True, inline="always")
    def empty():
        drawn = cuda.local.array(DRAWN, np.uint64)
        drawn[COUNTER] = NOWHERE
        return drawn

    return empty


def kept(jit: Callable) -> Any:
    """Return the device function kept(mask, i, j): whether dropout keeps the unit in row i and column j.

    mask: (control, threshold, key0, key1, layer, first_row, drawn). A unit is kept if its word is `threshold` or more.
    A thread that asks for neighbouring columns one by one, as `pipelined` does, draws once for four of them.
    """
    draw_words = draw(jit)

    @jit(device=True, inline="always")
    def is_kept(mask, i, j):
        control, threshold, key0, key1, layer, first_row, drawn = mask
        if threshold == 0:
            return True
        row, group = np.uint32(np.uint64(first_row) + np.uint64(i)), np.uint32(np.uint64(j) // FOUR)
        counter = np.uint64(row) << HALF | np.uint64(group)
        if drawn[COUNTER] != counter:
            step = np.uint32(np.uint64(control[STEP]))
            draw_words(row, group, layer, step, key0, key1, drawn)
            drawn[COUNTER] = counter
        pair = drawn[0] if np.uint64(j) & TWO == 0 else drawn[1]
        return np.uint32(pair >> (np.uint64(j) & ONE) * HALF) >= threshold

    return is_kept
