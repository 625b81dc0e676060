"""The split: each class by its share, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubp.data.loading import load
from gpubp.data.splitting import folds, split
from gpubp.errors import ArgumentError, DataError


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=200),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_stratified_split_gives_each_class_its_share(labels, fraction, seed):
    y = np.array(labels)
    if max(np.bincount(y)) < 2:
        with pytest.raises(DataError, match="too few"):
            split(y, fraction, np.random.default_rng(seed))
        return
    larger, smaller = split(y, fraction, np.random.default_rng(seed))
    assert sorted([*larger, *smaller]) == list(range(len(y)))
    assert len(smaller) >= 1
    for label, count in zip(*np.unique(y, return_counts=True), strict=True):
        taken = int((y[smaller] == label).sum())
        assert taken <= count - 1
        assert abs(taken - min(count * fraction, count - 1)) <= 1


def test_the_split_has_the_fraction_asked_for():
    y = np.arange(1000) % 7
    assert len(split(y, 0.2, np.random.default_rng(0))[1]) == 200
    assert len(split(np.zeros(1000), 0.2, np.random.default_rng(0), task="regression")[1]) == 200


def test_the_split_follows_the_seed():
    y = np.arange(100) % 5
    first, second, other = (split(y, 0.2, np.random.default_rng(seed))[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_a_fraction_of_zero_sets_nothing_aside():
    larger, smaller = split(np.array([0, 1]), 0, np.random.default_rng(0))
    assert larger.tolist() == [0, 1]
    assert smaller.size == 0


@pytest.mark.parametrize(("task", "y"), [("classification", [0, 1, 2]), ("regression", [0.5])])
def test_too_few_examples_for_two_parts_are_an_error(tmp_path, task, y):
    with pytest.raises(DataError, match="too few"):
        split(np.array(y), 0.2, np.random.default_rng(0), task=task)
    path = tmp_path / "set.npz"
    np.savez(path, x=np.ones((len(y), 1)), y=np.array(y))
    with pytest.raises(DataError, match=r"set\.npz: .*too few"):
        load(path, task=task)


@pytest.mark.parametrize("fraction", [1, -0.5, float("nan"), None])
def test_a_fraction_out_of_range_is_an_error(fraction):
    with pytest.raises(ArgumentError, match="fraction was"):
        split(np.array([0, 1]), fraction, np.random.default_rng(0))


# --- folds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_each_row_is_in_one_fold_and_each_class_in_all(task):
    y = np.repeat([0, 1, 2], [50, 21, 4])
    found = folds(y, 5, np.random.default_rng(0), task=task)
    assert sorted(np.concatenate([test for _, test in found]).tolist()) == list(range(75))
    for rows, test in found:
        assert len(test) == 15
        assert sorted([*rows, *test]) == list(range(75))
        assert (np.diff(rows) > 0).all()
        if task == "classification":
            counts = np.bincount(y[test], minlength=3)
            assert (np.abs(counts - np.array([10, 4.2, 0.8])) < 1).all()
    other = folds(y, 5, np.random.default_rng(1), task=task)
    assert any((a[1] != b[1]).any() for a, b in zip(found, other, strict=True))


def test_folds_that_cannot_be():
    with pytest.raises(ArgumentError, match="count was 1"):
        folds(np.zeros(9), 1, np.random.default_rng(0))
    with pytest.raises(DataError, match="3 examples are too few for 4 folds"):
        folds(np.zeros(3), 4, np.random.default_rng(0))
