"""Folds: what each is trained and judged on."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gpubp.data.loading import load_whole
from gpubp.data.preparation import InputRules
from gpubp.data.splitting import folds
from gpubp.errors import ArgumentError, DataError
from gpubp.training.cross_validation import check_folds, mean_and_spread, parts_of, train_fold
from gpubp.training.settings import Settings

SETTINGS = Settings(layers="4", epochs=2, backend="numpy")
SETTINGS_3 = replace(SETTINGS, seed=3)


@pytest.fixture
def table(tmp_path):
    """A table with text, a gap and weights; each row has a category of its own."""
    path = tmp_path / "t.csv"
    rows = "".join(f"c{i},{i if i else ''},{i % 3},{1 + i % 2}\n" for i in range(24))
    path.write_text("city,n,label,w\n" + rows)
    return path


def test_text_and_gaps_are_fitted_in_each_fold_without_its_test_rows(table):
    whole = load_whole(table, rules=InputRules("mean"), weight_column="w", label="label")
    tested = []
    for part in parts_of(whole, 4, seed=3):
        city, number = part.preparation.columns
        other = len(city.categories)
        assert other == len(part.x_train) == 18
        assert part.x_test[:, other].all()
        assert not part.x_train[:, other].any()
        fitted = part.x_train[:, other + 1]
        assert number.fill == pytest.approx(fitted[fitted > 0].mean())
        assert np.bincount(part.y_test).tolist() == [2, 2, 2]
        assert len(part.weight_test) == 6
        tested += part.x_test[:, other + 1].tolist()
    assert len(tested) == 24
    again = [part.y_test.tolist() for part in parts_of(whole, 4, seed=3)]
    assert again == [part.y_test.tolist() for part in parts_of(whole, 4, seed=3)]


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("classification", ["loss", "accuracy"]),
        ("regression", ["loss", "root mean square error", "mean absolute error", "R²"]),
    ],
)
def test_the_figures_of_a_fold(table, task, names):
    whole = load_whole(table, rules=InputRules("mean"), task=task, label="label")
    fold = train_fold(next(parts_of(whole, 3, 0)), SETTINGS)
    assert (fold.examples, list(fold.figures), fold.diverged) == (8, names, False)
    assert all(map(math.isfinite, fold.figures.values()))


def test_a_fold_in_which_nothing_counts_is_found_before_any_training(table):
    whole = load_whole(table, rules=InputRules("mean"), weight_column="w", label="label")
    tests = [rows for _, rows in folds(whole.y, 4, np.random.default_rng(np.random.SeedSequence(3, spawn_key=(5,))))]
    for fold in (2, 3):
        weight = np.ones(24)
        weight[tests[fold]] = 0
        with pytest.raises(DataError, match=f"fold {fold + 1} of 4: .*weight_test holds nothing but 0"):
            check_folds(replace(whole, weight=weight), 4, SETTINGS_3)
    tiny = np.ones(24)
    tiny[tests[2]] = 1e-300
    with pytest.raises(ArgumentError, match="the weight of the test part is 0 altogether"):
        check_folds(replace(whole, weight=tiny), 4, SETTINGS_3)
    check_folds(whole, 4, SETTINGS_3)


def test_several_outputs_have_figures_each(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 2))
    np.savez(tmp_path / "t.npz", x=x, y=x * [1, 100])
    figures = train_fold(next(parts_of(load_whole(tmp_path / "t.npz"), 2, 0)), SETTINGS).figures
    assert len(figures) == 7
    assert figures["root mean square error of output 2"] > 10 * figures["root mean square error of output 1"]


def test_mean_and_spread():
    assert mean_and_spread([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))
    assert all(map(math.isnan, mean_and_spread([1.0, math.nan])))
