"""The harness of the fuzz tests: it repeats itself by seed, does damage, and lets no breach of the rules pass."""

import time
from random import Random

import pytest
from damage import bounded, damaged_bytes, damaged_text, damaged_tree, fuzz, message_fault

from gpubp.errors import DataError

GOOD = {"name": "relu", "sizes": [4, 3], "inner": {"x": 1.5}}


@pytest.mark.parametrize(
    "damage",
    [
        lambda rng: damaged_bytes(rng, b"0123456789" * 4, b"abcdef"),
        lambda rng: damaged_text(rng, 'lr = 0.1\nname = "adam"\n'),
        lambda rng: repr(damaged_tree(rng, GOOD)),
    ],
)
def test_a_seed_repeats_its_damage_and_seeds_differ(damage):
    found = [damage(Random(seed)) for seed in range(200)]
    assert found == [damage(Random(seed)) for seed in range(200)]
    assert len(set(found)) > 100


def test_damage_leaves_the_original_as_it_was():
    for seed in range(200):
        damaged_tree(Random(seed), GOOD)
    assert GOOD == {"name": "relu", "sizes": [4, 3], "inner": {"x": 1.5}}


def test_success_and_a_plain_error_pass():
    def attempt(rng):
        if rng.random() < 0.5:
            raise DataError("x.csv: there are no rows")

    fuzz(attempt)


def test_an_error_of_another_kind_names_the_seed():
    def attempt(rng):
        raise KeyError("input.offset")

    with pytest.raises(AssertionError, match=r"seed \d+ .*KeyError"):
        fuzz(attempt)


class Raw(DataError):
    """An error whose message is what it was given."""

    def __init__(self, message):
        Exception.__init__(self, message)


@pytest.mark.parametrize("message", ["", "x" * 401, "red \x1b[31m", "two\nlines", "\ud800"])
def test_a_message_that_is_no_good_fails(message):
    def attempt(rng):
        raise Raw(message)

    assert message_fault(message)
    with pytest.raises(AssertionError, match="a message"):
        fuzz(attempt)


def test_what_runs_without_end_fails(monkeypatch):
    def attempt(rng):
        while True:
            pass

    monkeypatch.setattr("damage.SECONDS", 0.05)
    with pytest.raises(AssertionError, match="TooLong"):
        fuzz(attempt)


def test_what_waits_without_end_fails(monkeypatch):
    monkeypatch.setattr("damage.PATIENCE", 0.05)
    with pytest.raises(AssertionError, match="TooLong"):
        fuzz(lambda rng: time.sleep(60))


def test_what_takes_all_memory_fails():
    with pytest.raises(MemoryError), bounded():
        bytearray(2**32)
