"""Weights of classes: what an option may say, and what it comes to for data."""

import numpy as np
import pytest

from gpubp.data.dataset import Dataset
from gpubp.errors import ArgumentError
from gpubp.training.class_weights import by_class, checked, parsed
from gpubp.training.config import TrainingConfig


def pets(labels, names=("cat", "dog", "eel"), **options):
    x = np.arange(len(labels), dtype=float)[:, None]
    return Dataset(x, np.array(labels), x[:0], np.zeros(0, int), class_names=names, name="pets", **options)


def weights_of(given, data, weights=None):
    return by_class(checked(given), data, data.y_train, weights).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("balanced", "balanced"),
        (" Balanced ", "balanced"),
        ("1,2,5", (1.0, 2.0, 5.0)),
        (" 0, 1e-3 ", (0.0, 0.001)),
        ("cat=2,dog=1", {"cat": 2.0, "dog": 1.0}),
        (" cat = 2 , a=b=0.5", {"cat": 2.0, "a=b": 0.5}),
        ('"one, two=3",b=1', {"one, two": 3.0, "b": 1.0}),
        ("=3,b=1", {"": 3.0, "b": 1.0}),
    ],
)
def test_what_an_option_says(text, expected):
    assert parsed(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "balance", "1,two", "1,cat=2", "cat=2,cat=3", "cat=", "cat=two", "1,,2", "1;2"),
        *("1,2\n3", "1\r2", "1" * 200_000),
    ],
)
def test_text_that_says_no_class_weights(text):
    with pytest.raises(ArgumentError, match=r"class_weight was .*; it must be balanced, a number for each"):
        parsed(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, -1], "class_weight of 1 was -1.0; it must be a finite number ≥ 0"),
        ([1, float("nan")], "class_weight of 1 was nan"),
        ({"cat": float("inf")}, "class_weight of cat was inf"),
        ({"cat": "2"}, "class_weight of cat was '2'"),
        ([0, 0.0], "class_weight is 0 for every class"),
        ([], "class_weight is empty"),
        ({}, "class_weight is empty"),
        ("heavy", "class_weight was 'heavy'"),
        (3, "class_weight was 3"),
        ([[1, 2]], "class_weight was \\[\\[1, 2\\]\\]"),
    ],
)
def test_values_that_are_no_class_weights(given, message):
    given = [float(each) for each in given] if given == [1, -1] else given
    for use in (checked, lambda value: TrainingConfig(class_weight=value)):
        with pytest.raises(ArgumentError, match=message):
            use(given)
    if isinstance(given, list) and given and np.ndim(given) == 1:
        with pytest.raises(ArgumentError):
            parsed(",".join(map(str, given)))


def test_balanced_classes_count_the_same():
    """n / (classes · count), as scikit-learn's `compute_class_weight` has it."""
    labels = [0] * 6 + [1] * 3 + [2]
    found = weights_of("balanced", pets(labels))
    assert found == pytest.approx([10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1)])
    assert np.array(found) @ np.bincount(labels) == pytest.approx(10)


def test_balanced_takes_an_example_of_weight_two_for_two():
    labels, weights = [0, 0, 1, 2, 2, 2], np.array([2.0, 1, 3, 0, 1, 1])
    twice = np.repeat(labels, weights.astype(int))
    assert weights_of("balanced", pets(labels), weights) == pytest.approx(weights_of("balanced", pets(twice)))


def test_a_class_without_examples_does_not_count_among_the_balanced():
    assert weights_of("balanced", pets([0, 0, 2])) == pytest.approx([0.75, 0, 1.5])
    weights = np.array([1.0, 1, 0])
    assert weights_of("balanced", pets([0, 1, 2]), weights) == [1, 1, 0]


@pytest.mark.parametrize("given", [(1, 2, 5), [1, 2.0, np.float32(5)], np.array([1, 2, 5])])
def test_numbers_are_in_the_order_of_the_classes(given):
    assert weights_of(given, pets([0, 1, 2])) == [1, 2, 5]


def test_a_class_that_is_not_named_has_one():
    assert weights_of({"eel": 4, "cat": 0}, pets([0, 1, 2])) == [0, 1, 4]
    assert weights_of({0: 2}, pets([0, 1], names=("0", "1"))) == [2, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, 2), "class_weight has 2 numbers; it must have one for each of the 3 classes, cat, dog, eel"),
        (
            {"dgo": 1},
            "class_weight was 'dgo'; it must be by the names of the classes cat, dog, eel; did you mean 'dog'?",
        ),
    ],
)
def test_weights_of_other_classes(given, message):
    with pytest.raises(ArgumentError, match=message):
        weights_of(given, pets([0, 1, 2]))


@pytest.mark.parametrize("given", ["balanced", (1, 2), {"a": 2}])
def test_only_classes_have_weights(given):
    x = np.ones((4, 1))
    values = Dataset(x, np.ones(4), x[:0], [], task="regression", name="prices")
    with pytest.raises(ArgumentError, match="class_weight was given; it must be left out: prices is reg"):
        weights_of(given, values)
    labels = Dataset(x, np.eye(2)[[0, 1, 1, 0]], x[:0], np.ones((0, 2)), task="multilabel", class_names=("a", "b"))
    with pytest.raises(ArgumentError, match="left out: data has several labels an example"):
        weights_of(given, labels)


def test_the_configuration_keeps_them_and_leaves_out_what_is_not_there():
    assert "class_weight" not in TrainingConfig().config()
    for given in ("balanced", [1, 2.5], {"cat": 3}):
        config = TrainingConfig(class_weight=given)
        assert TrainingConfig(**config.config()) == config
    assert TrainingConfig(class_weight=[1, 2]).config()["class_weight"] == (1.0, 2.0)
