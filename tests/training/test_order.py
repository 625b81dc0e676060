"""The order of an epoch: a permutation by the seed and the epoch alone, of large data in blocks."""

import hashlib

import numpy as np
import pytest

from gpubp.training import order
from gpubp.training.order import BLOCK, BLOCKS, SHUFFLED_AT_ONCE, WHOLE, epoch_order, kind_for


@pytest.mark.parametrize("rows", [1, 50, BLOCK + 1, SHUFFLED_AT_ONCE])
def test_data_of_one_shuffle_has_a_plain_permutation(rows):
    """The order of all data in earlier versions, whose checkpoints and figures stay as they are."""
    rng = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(1, 2)))
    assert kind_for(rows) == WHOLE
    np.testing.assert_array_equal(epoch_order(3, 2, rows), rng.permutation(rows))


def test_larger_data_has_that_order_if_its_run_began_with_it():
    rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(1, 0)))
    rows = SHUFFLED_AT_ONCE + 1
    assert kind_for(rows) == BLOCKS
    np.testing.assert_array_equal(epoch_order(0, 0, rows, WHOLE), rng.permutation(rows))


@pytest.mark.parametrize("rows", [SHUFFLED_AT_ONCE + 1, 2 * SHUFFLED_AT_ONCE, 3 * SHUFFLED_AT_ONCE - 7, 200_001])
def test_large_data_is_visited_once_and_from_few_places_at_a_time(rows):
    found = epoch_order(7, 1, rows)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(np.sort(found), np.arange(rows))
    for first in range(0, rows, SHUFFLED_AT_ONCE):
        blocks = np.unique(found[first : first + SHUFFLED_AT_ONCE] // BLOCK)
        assert len(blocks) <= 2 * SHUFFLED_AT_ONCE // BLOCK
    assert np.abs(np.corrcoef(found[: SHUFFLED_AT_ONCE // 2], np.arange(SHUFFLED_AT_ONCE // 2))[0, 1]) < 0.05


def test_orders_differ_by_seed_and_epoch_and_are_the_same_each_time():
    rows = SHUFFLED_AT_ONCE + 5
    found = [epoch_order(seed, epoch, rows).tobytes() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len(set(found)) == 3
    assert found[0] == epoch_order(0, 0, rows).tobytes()


def test_the_order_of_blocks_stays_what_it_is():
    """A run that is resumed by another version, or with another NumPy, must see the same batches."""
    digest = hashlib.blake2b(epoch_order(5, 4, 150_000).tobytes(), digest_size=8).hexdigest()
    assert digest == "841537fb842165b7"


def test_rows_of_a_block_part_when_blocks_are_shuffled_together(monkeypatch):
    monkeypatch.setattr(order, "SHUFFLED_AT_ONCE", 8)
    monkeypatch.setattr(order, "BLOCK", 2)
    parted = 0
    for epoch in range(50):
        blocks = (epoch_order(0, epoch, 11)[:8] // 2).tolist()
        assert len(set(blocks)) <= 5  # four, and a fifth if one of them is the last, of one row
        parted += any(blocks[i] in blocks[i + 2 :] for i in range(6))
    assert parted >= 45
