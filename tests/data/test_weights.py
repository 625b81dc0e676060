"""Weights of examples: a column of a table, which is no input, or an array of an archive; and wrong ones."""

import numpy as np
import pytest
from data_files import inputs_of, write_csv, write_npz

from gpubp.data.dataset import Dataset
from gpubp.data.loading import load, load_inputs
from gpubp.errors import ArgumentError, DataError

HEADER = "a,w,b,label\n"
ROWS = [(i, (i * 3) % 5, 10 * i, "no" if i % 2 else "yes") for i in range(20)]


def table(path, rows=ROWS, header=HEADER):
    return write_csv(path / "t.csv", header + "".join(",".join(map(str, row)) + "\n" for row in rows))


def together(found):
    """Each example's first input with its weight, of both parts."""
    x, w = np.concatenate([found.x_train, found.x_test]), np.concatenate([found.weight_train, found.weight_test])
    return dict(zip(x[:, 0].tolist(), w.tolist(), strict=True))


@pytest.mark.parametrize("weight", ["w", 1, "1", -3])
def test_a_column_of_weights_goes_with_its_rows_and_is_no_input(tmp_path, weight):
    found = load(table(tmp_path), weight_column=weight, test_fraction=0.25, seed=3)
    assert found.feature_names == ("a", "b")
    assert (len(found.weight_train), len(found.weight_test)) == (15, 5)
    assert together(found) == {float(i): float(i * 3 % 5) for i in range(20)}
    assert found.weight_column == "w"
    assert "weights: column 'w'" in found.notes
    assert found.describe().endswith("2 features, 2 classes, weighted")


def test_without_a_weight_column_there_are_no_weights(tmp_path):
    found = load(table(tmp_path))
    assert (found.weight_train, found.weight_test, found.weight_column) == (None, None, None)
    assert found.feature_names == ("a", "w", "b")


def test_the_last_column_that_has_no_weights_is_the_label(tmp_path):
    rows = [(a, b, side, w) for a, w, b, side in ROWS]
    found = load(table(tmp_path, rows, ""), weight_column=-1)
    assert found.class_names == ("no", "yes")
    assert found.weight_column == 3
    assert "label: column 2 (the last that is no input)" in found.notes


@pytest.mark.parametrize(
    ("row", "cell", "message"),
    [
        (3, "-1", "t.csv, line 5: the weight column 'w' is -1; a weight must be finite and at least 0"),
        (0, "inf", "t.csv, line 2: the weight column 'w' is 'inf'; weights must be finite numbers"),
        (4, "nan", "line 6: the weight column 'w' is 'nan'; weights must be finite numbers \\(a value is missing"),
        (4, "", "line 6: the weight column 'w' is empty; weights must be finite numbers"),
        (19, "heavy", "line 21: the weight column 'w' is 'heavy'"),
        (2, "1_0", "line 4: the weight column 'w' is '1_0'"),
    ],
)
def test_a_wrong_weight_is_named_by_its_line(tmp_path, row, cell, message):
    rows = [list(each) for each in ROWS]
    rows[row][1] = cell
    with pytest.raises(DataError, match=message):
        load(table(tmp_path, rows), weight_column="w")


def test_a_wrong_input_is_still_said_to_be_an_input(tmp_path):
    rows = [*ROWS, (1, 2, "x", "no")]
    with pytest.raises(DataError, match="line 22: the column 'b' is 'x'; inputs must be finite numbers"):
        load(table(tmp_path, rows), weight_column="w")


def test_some_weight_must_count(tmp_path):
    path = table(tmp_path, [(a, 0, b, side) for a, _, b, side in ROWS])
    with pytest.raises(DataError, match="the weight column 'w' holds nothing but 0; some example must count"):
        load(path, weight_column="w")


def test_a_test_part_that_does_not_count_is_refused(tmp_path):
    path = table(tmp_path, [(a, int(a == 0), b, side) for a, _, b, side in ROWS])
    with pytest.raises(DataError, match=r"weight_(test|train) holds nothing but 0"):
        load(path, weight_column="w", seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_column": "v"}, "there is no column 'v' among a, w, b, label"),
        ({"weight_column": "4"}, "there is no column 4; there are 4"),
        ({"weight_column": "label", "label": "label"}, "the column 'label' cannot have both labels and weights"),
        ({"weight_column": "w", "feature_names": ("a", "w"), "features": 2}, "'w' is an input of the model, and no we"),
    ],
)
def test_a_column_that_cannot_have_the_weights(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        load(table(tmp_path), **options)


def test_a_table_of_label_and_weight_has_no_inputs(tmp_path):
    path = write_csv(tmp_path / "t.csv", "w,label\n1,yes\n2,no\n")
    with pytest.raises(DataError, match="it has the label column and the weight column only"):
        load(path, weight_column="w")


def test_the_name_of_the_weights_shows_that_the_first_line_is_a_header(tmp_path):
    path = write_csv(tmp_path / "t.csv", "1990,w,side\n" + "".join(f"{i % 3},{i},{'ab'[i % 2]}\n" for i in range(1, 9)))
    assert load(path, weight_column="w", test_fraction=0).feature_names == ("1990",)


# --- of an existing model ---------------------------------------------------------------------------------------------
NAMED = {"feature_names": ("a", "b"), "features": 2, "model_label": "label", "model_weight": "w"}


def test_a_model_finds_its_weights_again_by_name(tmp_path):
    found = load(table(tmp_path, [(b, w, a, s) for a, w, b, s in ROWS], "b,w,a,label\n"), test_fraction=0, **NAMED)
    assert together(found) == {float(i): float(i * 3 % 5) for i in range(20)}


def test_a_table_without_the_models_weights_is_taken_and_that_is_said(tmp_path):
    found = load(table(tmp_path, [(a, b, s) for a, _, b, s in ROWS], "a,b,label\n"), **NAMED)
    assert found.weight_train is None
    assert "no weights: the column w of the training is not there" in found.notes


@pytest.mark.parametrize("header", ["a,w,b,label\n", "a,b,label\n", "a,b\n", "a,b,w\n"])
def test_predictions_need_no_weights(tmp_path, header):
    columns = dict(zip(HEADER.strip().split(","), zip(*ROWS, strict=True), strict=True))
    # what stands in the weights does not matter
    columns["w"] = ["" for _ in ROWS]
    rows = list(zip(*(columns[name] for name in header.strip().split(",")), strict=True))
    x, notes = load_inputs(table(tmp_path, rows, header), **NAMED)
    np.testing.assert_array_equal(x, [[a, b] for a, _, b, _ in ROWS])
    assert not [note for note in notes if note.startswith("no weights")]


@pytest.mark.parametrize("weight", [0, 1, 2, 3])
@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_columns_without_names_are_where_they_were_in_training(tmp_path, label, weight):
    """Wherever the label and the weights stand, and whether the weights are there or not."""
    if label == weight:
        return
    rows = [[100 * i, 3 * i + 1] for i in range(8)]
    both = [row.copy() for row in rows]
    for place in sorted((label, weight)):
        for i, row in enumerate(both):
            row.insert(place, i + 1 if place == weight else f"{'ab'[i % 2]}")
    model = {"features": 2, "model_label": label, "model_weight": weight}
    path = table(tmp_path, both, "")
    found = load(path, test_fraction=0, **model)
    np.testing.assert_array_equal(found.x_train, rows)
    assert found.weight_train.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found.y_train.tolist() == [0, 1] * 4
    np.testing.assert_array_equal(inputs_of(path, **model), rows)

    unweighted = table(tmp_path, [[cell for i, cell in enumerate(row) if i != weight] for row in both], "")
    found = load(unweighted, test_fraction=0, **model)
    np.testing.assert_array_equal(found.x_train, rows)
    assert found.weight_train is None
    # one column too many may be the label or the weight: nobody can know
    with pytest.raises(DataError, match="it has 3 columns and the model reads 2; --label or --weight-column says"):
        load_inputs(unweighted, **model)
    place = label - (weight < label)
    np.testing.assert_array_equal(inputs_of(unweighted, label=place, **model), rows)
    np.testing.assert_array_equal(inputs_of(table(tmp_path, rows, ""), **model), rows)


# --- archives ---------------------------------------------------------------------------------------------------------
X, Y, W = np.arange(20.0).reshape(10, 2), np.arange(10) % 2, np.arange(10) / 4


def test_an_array_has_the_weights(tmp_path):
    found = load(write_npz(tmp_path / "t.npz", x=X, y=Y, weight=W), weight_column="weight", test_fraction=0.3)
    assert together(found) == {2.0 * i: i / 4 for i in range(10)}
    assert found.weight_column == "weight"


@pytest.mark.parametrize("name", ["w", "w_train", "W"])
@pytest.mark.parametrize("test_name", ["w_test", "test_w"])
@pytest.mark.parametrize("kind", ["float32", "int64", "bool"])
def test_weights_of_a_test_part(tmp_path, name, test_name, kind):
    arrays = {name: (W > 1).astype(kind), test_name: np.array([[1], [0]], kind)}
    path = write_npz(tmp_path / "t.npz", x=X, y=Y, x_test=X[:2], y_test=Y[:2], **arrays)
    found = load(path, weight_column=name)
    assert found.weight_train.tolist() == (W > 1).tolist()
    assert found.weight_test.tolist() == [1, 0]
    assert found.weight_train.dtype == "float64"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"v": W}, "there is no array 'w' with weights; it holds x, y, v"),
        (
            {"w": W, "x_test": X, "y_test": Y},
            "the examples of x_test have no weights; beside 'w' it must hold 'w_test'",
        ),
        ({"w": W[:9]}, "the weights 'w' has 9 weights for 10 examples"),
        ({"w": np.ones((10, 2))}, "the weights 'w' has shape \\(10, 2\\); it must be"),
        ({"w": np.where(W == 1, np.nan, W)}, "the weights 'w', row 4 is nan; a weight must be finite and at least 0"),
        ({"w": W - 0.5}, "the weights 'w', row 0 is -0.5"),
        ({"w": W * 0}, "the weights 'w' holds nothing but 0"),
        ({"w": np.array(list("abcdefghij"))}, "weights must be real numbers"),
        ({"w": W, "x_test": X, "y_test": Y, "w_test": W[:3]}, "the weights 'w_test' has 3 weights for 10 examples"),
    ],
)
def test_archives_with_wrong_weights(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load(write_npz(tmp_path / "t.npz", x=X, y=Y, **arrays), weight_column="w")


def test_an_archive_without_the_models_weights_is_taken_and_that_is_said(tmp_path):
    found = load(write_npz(tmp_path / "t.npz", x=X, y=Y), model_weight="w")
    assert found.weight_train is None
    assert "no weights: the array 'w' of the training is not there" in found.notes
    found = load(write_npz(tmp_path / "t.npz", x=X, y=Y, w=W), model_weight="w")
    assert together(found) == {2.0 * i: i / 4 for i in range(10)}
    np.testing.assert_array_equal(inputs_of(write_npz(tmp_path / "t.npz", x=X), model_weight="w"), X)


def test_data_that_can_have_no_weights(tmp_path):
    with pytest.raises(ArgumentError, match="weight_column was 'w'; it must be left out for 'digits': only a table"):
        load("digits", weight_column="w")
    with pytest.raises(ArgumentError, match="weight_column was 2; it must be the name of an array"):
        load(write_npz(tmp_path / "t.npz", x=X, y=Y), weight_column=2)


# --- arrays -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (W, None, "weight_train and weight_test must come together"),
        (W[:9], W, "weight_train is float64 of shape \\(9,\\); it must be numbers of shape \\(10,\\)"),
        (W[:, None], W, "weight_train is float64 of shape \\(10, 1\\)"),
        (W, W - 1, "weight_test holds -1 in row 0; a weight must be finite and at least 0"),
        (np.where(W == 2, np.inf, W), W, "weight_train holds inf in row 8"),
        (W, W * 0, "weight_test holds nothing but 0; some example must count"),
        (W.astype(str), W, "weight_train is <U"),
    ],
)
def test_weights_that_make_no_data_set(train, test, message):
    with pytest.raises(DataError, match=message):
        Dataset(X, Y, X, Y, class_names=("a", "b"), weight_train=train, weight_test=test)


def test_a_part_without_examples_has_no_weights_to_count():
    found = Dataset(X, Y, X[:0], Y[:0], class_names=("a", "b"), weight_train=[1] * 10, weight_test=[])
    assert found.weight_train.dtype == found.weight_test.dtype == np.float64
