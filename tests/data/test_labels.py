"""Labels: one rule for the task in every format, classes called as they are written, missing ones refused."""

import gzip
import struct

import numpy as np
import pytest

from gpubp.data.loading import load
from gpubp.errors import DataError


def write(path, labels, kind):
    """Write a data set with these labels: a table, or an archive whose labels have this dtype."""
    if kind == "csv":
        rows = "".join(f"{i * 7 % 5},{label}\n" for i, label in enumerate(labels))
        path = path / "t.csv"
        path.write_text(f"a,label\n{rows}")
        return path
    path = path / "t.npz"
    np.savez(path, x=np.arange(len(labels))[:, None] * 7.0 % 5, y=np.array(labels).astype(kind))
    return path


def task_of(path, labels, kind):
    return load(write(path, labels, kind), test_fraction=0)


WHOLE = {
    "few": ([0, 1, 2, 1] * 5, "classification"),
    "two": ([0, 1] * 5, "classification"),
    "negative": ([-1, 1] * 5, "classification"),
    "500 prices": (range(100_000, 600_000, 1000), "regression"),
    "30 prices": (range(100, 130), "regression"),
    "50 that repeat": ([i * 100 % 5000 for i in range(100)], "classification"),
    "51 that repeat": ([i * 100 % 5100 for i in range(510)], "regression"),
    "62 that number classes": ([i % 62 for i in range(620)], "classification"),
    "100 from 1": ([i % 100 + 1 for i in range(1000)], "classification"),
    "60 once each": (range(60), "regression"),
}


@pytest.mark.parametrize("kind", ["csv", "<i8", "<i4", ">i2", "<f8", "<f4", "<U8", "S8"])
@pytest.mark.parametrize("name", WHOLE)
def test_the_values_decide_on_the_task_and_not_what_holds_them(tmp_path, name, kind):
    labels, task = WHOLE[name]
    if kind == ">i2":
        labels = [label if abs(label) < 2**15 else label // 1000 for label in labels]
    found = task_of(tmp_path, list(labels), kind)
    assert found.task == task
    other = "regression" if task == "classification" else "classification"
    different = f"{len(set(labels)):,} different whole numbers"
    assert found.notes[-1] == f"task: {task} ({different}; --task {other} overrules)"
    assert load(write(tmp_path, list(labels), kind), task=other, test_fraction=0).task == other


@pytest.mark.parametrize("kind", ["csv", "<f8", "<U8"])
def test_decimal_numbers_are_values(tmp_path, kind):
    found = task_of(tmp_path, [0.5, 1.0, 2.0, 3.0], kind)
    assert found.y_train.tolist() == [[0.5], [1.0], [2.0], [3.0]]
    assert found.notes[-1] == "task: regression (decimal numbers)"


@pytest.mark.parametrize("kind", [np.float64, np.int64, bool])
def test_rows_of_labels_are_classes_if_each_has_a_single_one(tmp_path, kind):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.ones((4, 2)), y=np.eye(3, dtype=kind)[[2, 0, 1, 2]])
    found = load(path, test_fraction=0)
    assert found.y_train.tolist() == [2, 0, 1, 2]
    assert found.notes == ("task: classification (one-hot rows)",)
    np.savez(path, x=np.ones((4, 2)), y=np.array([[1, 1, 0]] * 4, dtype=kind))
    rows_of_several = {
        np.float64: "task: regression (several values an example)",
        np.int64: "task: multilabel (rows of 0 and 1; --task regression overrules)",
        bool: "task: multilabel (rows of 0 and 1; --task regression overrules)",
    }
    assert load(path, test_fraction=0).notes == (rows_of_several[kind],)


def test_both_parts_are_judged_together(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.ones((4, 2)), y=[0, 1, 0, 1], x_test=np.ones((2, 2)), y_test=[0.5, 1.0])
    assert load(path).task == "regression"


# --- missing labels ---------------------------------------------------------------------------------------------------

MISSING = ("NA", "N/A", "NaN", "nan", "?", "None", "null", "NULL", "#N/A", "<NA>", "NaT", " ")


@pytest.mark.parametrize("word", MISSING)
@pytest.mark.parametrize("others", [["1.5", "2.5"], ["0", "1"], ["left", "right"], ["01", "02"]])
@pytest.mark.parametrize("kind", ["csv", "<U8", "S8"])
def test_a_missing_label_is_refused_by_row(tmp_path, kind, others, word):
    labels = [*others * 3, word, *others]
    place = "line 8: the label column 'label'" if kind == "csv" else "y, row 6"
    with pytest.raises(
        DataError, match=rf"t\.\w+, {place} (has the missing value|is empty).*every example needs a label"
    ):
        task_of(tmp_path, labels, kind)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_label_that_is_not_finite_is_refused_by_row(tmp_path, value):
    with pytest.raises(DataError, match="y, row 2 holds NaN or infinity"):
        task_of(tmp_path, [0.0, 1.0, value, 1.0], "<f8")
    path = tmp_path / "t.npz"
    np.savez(path, x=np.ones((2, 2)), y=[[0.0, 1.0], [value, 0.0]])
    with pytest.raises(DataError, match="y, row 1 holds NaN or infinity"):
        load(path, test_fraction=0)
    if not np.isnan(value):
        with pytest.raises(DataError, match=r"line 4: the label column 'label' has '-?inf'; it must be finite"):
            task_of(tmp_path, [0, 1, value, 1], "csv")


@pytest.mark.parametrize(
    ("odd", "advice"),
    [
        ("unknown", "mend it, or take every label for a class with --task classification"),
        (".", "mend it"),
        ("-", "mend it"),
        ("12%", "without the percent sign"),
        ('"1,5"', "with a point for decimals"),
        ("$5", "without the currency"),
        ("True", "write 1 and 0"),
    ],
)
def test_text_among_numbers_to_predict_is_refused_by_row(tmp_path, odd, advice):
    labels = [i * 1.5 for i in range(30)] + [odd]
    with pytest.raises(
        DataError, match=f"line 32: the label column 'label' has '.*' among numbers to predict; .*{advice}"
    ):
        task_of(tmp_path, labels, "csv")
    with pytest.raises(DataError, match=r"line 32: the label column 'label' has '.*'; regression needs numbers"):
        load(write(tmp_path, labels, "csv"), task="regression", test_fraction=0)
    assert load(write(tmp_path, labels, "csv"), task="classification", test_fraction=0).outputs == 31


def test_numbers_among_text_are_text(tmp_path):
    assert task_of(tmp_path, ["a", "1", "2", "1.0"], "csv").class_names == ("1", "1.0", "2", "a")
    assert task_of(tmp_path, [f"{i}a" for i in range(60)] + ["1.5", "2.5"], "csv").outputs == 62


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "<U20", "S20"])
@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        (["01234", "1234"], ("01234", "1234")),
        (["007", "7", "10"], ("007", "7", "10")),
        (["9007199254740993", "9007199254740992"], ("9007199254740992", "9007199254740993")),
        (["18446744073709551616", "18446744073709551617"], ("18446744073709551616", "18446744073709551617")),
        (["10", "9", "9.0", "+9", "1e1"], ("9", "10")),
        (["1.0", "2.0", "-0.0"], ("0", "1", "2")),
        (["-1", "+1"], ("-1", "1")),
        (["class 10", "class 9"], ("class 10", "class 9")),
        (["1_0", "10"], ("10", "1_0")),
    ],
)
def test_classes_are_called_as_they_are_written(tmp_path, kind, labels, class_names):
    found = task_of(tmp_path, labels * 2, kind)
    assert found.class_names == class_names
    assert found.task == "classification"


def test_whole_numbers_beyond_float64_stay_apart_in_archives(tmp_path):
    for dtype, labels in ((np.int64, [2**53 + 1, 2**53]), (np.uint64, [2**64 - 1, 2**64 - 2])):
        assert task_of(tmp_path, labels * 2, dtype).class_names == tuple(map(str, sorted(labels)))


def test_labels_find_the_classes_of_a_model(tmp_path):
    def indices(labels, classes, kind="csv"):
        return load(
            write(tmp_path, labels, kind), task="classification", classes=classes, test_fraction=0
        ).y_train.tolist()

    assert indices(["1.0", "2.0", "10.0"], ["1", "2", "10"]) == [0, 1, 2]  # through pandas
    assert indices([1.0, 10.0], ["1", "2", "10"], "<f8") == [0, 2]
    assert indices(["1", "2"], ["1.0", "2.0", "a"]) == [0, 1]
    assert indices(["007", "7"], ["007", "7"]) == [0, 1]
    with pytest.raises(DataError, match="line 2: the label '7' is none of the 2 classes 007, 008; did you mean '007'"):
        indices(["7", "007"], ["007", "008"])
    with pytest.raises(
        DataError, match=r"line 3.*the label 'Dog' is none of the 2 classes cat, dog; did you mean 'dog'"
    ):
        indices(["cat", "Dog"], ["cat", "dog"])


def test_a_single_class_names_the_column_and_the_option(tmp_path):
    with pytest.raises(
        DataError, match=r"every label is '0' in the label column 'label'; .*; --label names another column"
    ):
        task_of(tmp_path, [0] * 20, "csv")


@pytest.mark.parametrize("bits", ["a\ud800", "\udcffb"])
def test_text_that_is_none_is_refused_by_row(tmp_path, bits):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.ones((4, 2)), y=np.array(["a", "b", bits, "b"]))
    with pytest.raises(DataError, match="y, row 2 has text that is not valid Unicode"):
        load(path, test_fraction=0)
    np.savez(path, x=np.ones((4, 2)), y=np.array([b"a", b"b", b"\xff", b"b"]))
    with pytest.raises(DataError, match="y, row 2 has text that is not valid Unicode"):
        load(path, test_fraction=0)
    codes = np.array([97, 98, 0x7FFFFFFF, 98], np.uint32).view("<U1")
    np.savez(path, x=np.ones((4, 2)), y=codes)
    with pytest.raises(DataError, match="y, row 2 has text that is not valid Unicode"):
        load(path, test_fraction=0)


def test_the_labels_of_idx_files_follow_the_same_rule(tmp_path):
    def idx(values):
        return (
            bytes([0, 0, 0x0C, values.ndim])
            + struct.pack(f">{values.ndim}I", *values.shape)
            + values.astype(">i4").tobytes()
        )

    for labels, task in ((np.arange(620) % 62, "classification"), (np.arange(620) * 1000, "regression")):
        for part in ("train", "t10k"):
            (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.ones((620, 2, 2)))))
            (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
        assert load(tmp_path).task == task
