"""Several labels an example: columns of a table, or rows of 0 and 1."""

import numpy as np
import pytest
from data_files import inputs_of, write_csv, write_npz

from gpubp.data.dataset import Dataset
from gpubp.data.loading import load, load_inputs
from gpubp.errors import DataError

TRUTH = [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 1, 1]]
ROWS = [(i, truth[0], i / 2, truth[1], truth[2]) for i, truth in enumerate(TRUTH)]
HEADER = "a,wet,b,cold,dark"


def table(path, rows=ROWS, header=HEADER, name="t.csv"):
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    return write_csv(path / name, (header + "\n" if header else "") + text)


@pytest.mark.parametrize(
    "label", ["wet,cold,dark", " wet, cold,dark", ["wet", "cold", "dark"], "1,3,-1", [1, "cold", 4]]
)
def test_several_columns_are_several_labels(tmp_path, label):
    found = load(table(tmp_path), label=label, test_fraction=0)
    assert found.task == "multilabel"
    assert found.class_names == found.label == ("wet", "cold", "dark")
    assert found.feature_names == ("a", "b")
    np.testing.assert_array_equal(found.y_train, TRUTH)
    assert found.y_train.dtype == np.float64
    assert found.outputs == 3
    assert "labels: columns 'wet', 'cold', 'dark'" in found.notes
    assert found.notes[-1] == "task: multilabel (rows of 0 and 1; --task regression overrules)"
    assert found.describe().endswith("2 features, 3 labels, each 0 or 1")


def test_the_columns_come_in_the_order_in_which_they_are_named(tmp_path):
    found = load(table(tmp_path), label="dark,wet", test_fraction=0, task="multilabel")
    assert found.class_names == ("dark", "wet")
    np.testing.assert_array_equal(found.y_train, np.array(TRUTH)[:, [2, 0]])
    assert found.feature_names == ("a", "b", "cold")


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("True", "False"), (" TRUE ", "0"), ("1e0", "-0")])
def test_how_a_cell_may_say_whether_there_is_a_label(tmp_path, yes, no):
    rows = [(a, yes if wet else no, b, cold, yes if dark else no) for a, wet, b, cold, dark in ROWS]
    found = load(table(tmp_path, rows), label="wet,cold,dark", test_fraction=0)
    assert found.task == "multilabel"
    np.testing.assert_array_equal(found.y_train, TRUTH)


@pytest.mark.parametrize(
    ("cell", "task", "message"),
    [
        ("yes", None, "line 4: the label column 'cold' is 'yes'; several label columns must hold 0 and 1, or numbers"),
        ("", None, "line 4: the label column 'cold' is empty; .* \\(a value is missing"),
        ("2", "multilabel", "line 4: the label 'cold' is 2; with several labels an example each must be 0 or 1"),
        ("0.5", "multilabel", "line 4: the label 'cold' is 0.5;"),
        ("-1", "multilabel", "line 4: the label 'cold' is -1;"),
        ("inf", "multilabel", "line 4: the label column 'cold' is 'inf'"),
    ],
)
def test_a_wrong_cell_is_named_by_line_and_column(tmp_path, cell, task, message):
    rows = [list(row) for row in ROWS]
    rows[2][3] = cell
    with pytest.raises(DataError, match=message):
        load(table(tmp_path, rows), label="wet,cold,dark", task=task)


def test_true_is_no_input(tmp_path):
    with pytest.raises(DataError, match="line 4: the column 'b' is 'true'; inputs must be finite numbers"):
        load(table(tmp_path, [*ROWS[:2], (1, 1, "true", 0, 1)]), label="wet,cold")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("wet,could", "there is no column 'could' among a, wet, b, cold, dark; did you mean 'cold'?"),
        ("wet,wet", "the label column 'wet' is named twice"),
        ("wet,1", "the label column 'wet' is named twice"),
        ("wet,", "there is no column ''"),
        ([], "--label names no column"),
        ("wet,7", "there is no column 7"),
    ],
)
def test_columns_that_cannot_be_labels(tmp_path, label, message):
    with pytest.raises(DataError, match=message):
        load(table(tmp_path), label=label)


def test_a_column_whose_name_has_a_comma(tmp_path):
    header = 'a,"wet,cold",wet,cold'
    rows = [(i, "xy"[i % 2], wet, cold) for i, (wet, cold, _) in enumerate(TRUTH)]
    found = load(table(tmp_path, rows, header), label="wet,cold", test_fraction=0)
    assert (found.task, found.label, found.class_names) == ("classification", "wet,cold", ("x", "y"))
    header, rows = 'a,b,"wet,cold",dark', [(i, 2 * i, *truth[:2]) for i, truth in enumerate(TRUTH)]
    found = load(table(tmp_path, rows, header), label='"wet,cold",dark', test_fraction=0)
    assert found.class_names == ("wet,cold", "dark")


def test_columns_without_names_are_called_by_position(tmp_path):
    found = load(table(tmp_path, header=""), label="1,3,4", test_fraction=0)
    assert (found.class_names, found.label) == (("1", "3", "4"), (1, 3, 4))
    np.testing.assert_array_equal(found.y_train, TRUTH)


def test_several_columns_of_other_numbers_are_values(tmp_path):
    found = load(table(tmp_path), label="a,b", test_fraction=0)
    assert (found.task, found.label, found.class_names) == ("regression", ("a", "b"), ())
    np.testing.assert_array_equal(found.y_train, [[i, i / 2] for i in range(6)])
    found = load(table(tmp_path), label="wet,cold", task="regression", test_fraction=0)
    np.testing.assert_array_equal(found.y_train, np.array(TRUTH)[:, :2])


def test_columns_with_a_single_one_in_each_row_are_classes_unless_told(tmp_path):
    rows = [(i, *np.eye(3, dtype=int)[i % 3]) for i in range(6)]
    found = load(table(tmp_path, rows, "a,red,green,blue"), label="red,green,blue", test_fraction=0)
    assert (found.task, found.class_names) == ("classification", ("red", "green", "blue"))
    assert found.y_train.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.notes[-1] == "task: classification (one-hot rows)"
    found = load(table(tmp_path, rows, "a,red,green,blue"), label="red,green,blue", task="multilabel", test_fraction=0)
    np.testing.assert_array_equal(found.y_train, np.eye(3)[[0, 1, 2, 0, 1, 2]])


def test_one_column_is_not_several(tmp_path):
    for label in ("wet", ["wet"]):
        with pytest.raises(
            DataError, match="the label column 'wet' has one label an example; multilabel needs several"
        ):
            load(table(tmp_path), label=label, task="multilabel")


def test_weights_beside_several_labels(tmp_path):
    found = load(table(tmp_path), label="wet,cold", weight_column="dark", test_fraction=0)
    assert found.weight_train.tolist() == [truth[2] for truth in TRUTH]
    assert found.feature_names == ("a", "b")
    with pytest.raises(DataError, match="'cold' cannot have both labels and weights"):
        load(table(tmp_path), label="wet,cold", weight_column="cold")


# --- of an existing model ---------------------------------------------------------------------------------------------
NAMED = {
    "task": "multilabel", "classes": ("wet", "cold"), "feature_names": ("a", "b"), "features": 2,
    "model_label": ("wet", "cold"),
}  # fmt: skip


@pytest.mark.parametrize("label", [None, "wet,cold", "cold,wet"])
def test_a_model_finds_its_labels_again_by_name(tmp_path, label):
    rows = [(cold, b, wet, a) for a, wet, b, cold, _ in ROWS]
    found = load(table(tmp_path, rows, "cold,b,wet,a"), label=label, test_fraction=0, **NAMED)
    assert found.class_names == ("wet", "cold")
    np.testing.assert_array_equal(found.y_train, np.array(TRUTH)[:, :2])
    np.testing.assert_array_equal(found.x_train, [[row[0], row[2]] for row in ROWS])


@pytest.mark.parametrize(
    ("header", "label", "message"),
    [
        ("a,wet,b,could,dark", None, "the label column 'cold' is missing; the labels of the model are wet, cold"),
        (HEADER, "wet,dark", "the label columns are wet, dark; those of the model are wet, cold"),
        (HEADER, "wet", "the label columns are wet; those of the model are wet, cold"),
    ],
)
def test_a_table_without_the_models_labels(tmp_path, header, label, message):
    with pytest.raises(DataError, match=message):
        load(table(tmp_path, header=header), label=label, **NAMED)


@pytest.mark.parametrize("header", ["a,b,wet,cold", "wet,a,b", "b,a"])
def test_predictions_need_no_labels(tmp_path, header):
    columns = dict(zip(HEADER.split(","), zip(*ROWS, strict=True), strict=True))
    rows = list(zip(*(columns[name] for name in header.split(",")), strict=True))
    x, _ = load_inputs(table(tmp_path, rows, header), feature_names=("a", "b"), features=2, model_label=("wet", "cold"))
    np.testing.assert_array_equal(x, [[row[0], row[2]] for row in ROWS])


def test_columns_without_names_are_where_they_were_in_training(tmp_path):
    model = {"features": 2, "model_label": (1, 4), "model_weight": 3}
    path = table(tmp_path, header="")
    found = load(path, task="multilabel", classes=("1", "4"), test_fraction=0, **model)
    np.testing.assert_array_equal(found.y_train, np.array(TRUTH)[:, [0, 2]])
    assert found.weight_train.tolist() == [truth[1] for truth in TRUTH]
    x = [[row[0], row[2]] for row in ROWS]
    np.testing.assert_array_equal(found.x_train, x)
    np.testing.assert_array_equal(inputs_of(path, **model), x)
    np.testing.assert_array_equal(inputs_of(table(tmp_path, x, ""), **model), x)
    unweighted = [(a, wet, b, dark) for a, wet, b, _, dark in ROWS]
    found = load(table(tmp_path, unweighted, ""), task="multilabel", classes=("1", "4"), test_fraction=0, **model)
    np.testing.assert_array_equal(found.y_train, np.array(TRUTH)[:, [0, 2]])
    np.testing.assert_array_equal(found.x_train, x)
    with pytest.raises(DataError, match="it has 3 columns beside weights; the model reads 2 and has 2 labels"):
        load(table(tmp_path, [row[:3] for row in ROWS], ""), task="multilabel", **model)


# --- archives ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [np.int8, bool, np.float32])
def test_rows_of_an_archive(tmp_path, kind):
    path = write_npz(tmp_path / "t.npz", x=np.ones((6, 2)), y=np.array(TRUTH, kind))
    found = load(path, task="multilabel", test_fraction=0.5)
    assert found.class_names == ("0", "1", "2")
    assert found.y_train.shape == found.y_test.shape == (3, 3)
    guessed = load(path, test_fraction=0)
    assert guessed.task == ("regression" if kind == np.float32 else "multilabel")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"y": np.array(TRUTH) * 2},
            "y, row 0: the label '0' is 2; with several labels an example each must be 0 or 1",
        ),
        ({"y": np.arange(6) % 2}, "y of shape \\(6,\\) has one label an example; multilabel needs several columns"),
        ({"y": np.array(list("ababab"))}, "y has one label an example; multilabel needs several columns"),
        ({"y": np.zeros((6, 2, 2), int)}, "y of shape \\(6, 2, 2\\) has one label"),
        (
            {"y": np.array(TRUTH), "x_test": np.ones((2, 2)), "y_test": np.ones((2, 4), int)},
            "y_test has 4 labels an example; y has 3",
        ),
    ],
)
def test_archives_that_are_not_several_labels(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load(write_npz(tmp_path / "t.npz", x=np.ones((6, 2)), **arrays), task="multilabel")


def test_an_archive_with_other_labels_than_the_model(tmp_path):
    path = write_npz(tmp_path / "t.npz", x=np.ones((6, 2)), y=np.array(TRUTH))
    with pytest.raises(DataError, match="y has 3 labels an example; the model has 2"):
        load(path, task="multilabel", classes=("a", "b"))


# --- arrays -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("a", "b")}, "2 label names for 3 labels"),
        ({"y_train": np.array(TRUTH) / 2}, "y_train holds values from 0 to 0.5; each must be 0 or 1"),
        ({"y_test": np.array([1.0] * 6)}, "y_test has shape \\(6,\\); it must be \\(examples, labels\\)"),
        ({"y_train": np.full((6, 3), np.nan)}, "NaN"),
    ],
)
def test_arrays_that_make_no_data_set(change, message):
    parts = {"x_train": np.ones((6, 2)), "y_train": TRUTH, "x_test": np.ones((6, 2)), "y_test": TRUTH}
    with pytest.raises(DataError, match=message):
        Dataset(**{**parts, "task": "multilabel", "class_names": ("a", "b", "c"), **change})
