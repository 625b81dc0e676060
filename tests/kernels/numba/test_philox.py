"""The words that the kernels in Python draw, against the reference; tests/nn/test_dropout.py has the published ones."""

import numpy as np

from gpubp.emulator import cuda
from gpubp.kernels.numba import philox
from gpubp.nn import dropout


def test_words_are_those_of_the_reference():
    draw_words = philox.draw(cuda.jit)

    @cuda.jit("void(uint32[:, ::1], uint32, uint32, uint64[:, ::1])")
    def draw(counters, k0, k1, pairs):
        i = cuda.grid(1)
        if i < counters.shape[0]:
            draw_words(counters[i, 0], counters[i, 1], counters[i, 2], counters[i, 3], k0, k1, pairs[i])

    counters = np.random.default_rng(0).integers(0, 2**32, (200, 4), np.uint32)
    counters[:2] = [[0], [2**32 - 1]]
    for key in ((0, 0), (0xFFFFFFFF, 0x80000000)):
        pairs = np.zeros((200, 2), np.uint64)
        draw[4, 64](counters, *map(np.uint32, key), pairs)
        words = np.stack([pairs[:, 0], pairs[:, 0] >> 32, pairs[:, 1], pairs[:, 1] >> 32]).astype(np.uint32)
        np.testing.assert_array_equal(words, dropout.philox(counters.T, key))
