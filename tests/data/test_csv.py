"""Tables: what they give as data, and every kind of bad input."""

import csv

import numpy as np
import pytest
from data_files import IRIS, write_csv

from gpubp.data.loading import load
from gpubp.errors import ArgumentError, DataError


def test_csv_gives_names_classes_and_values(iris):
    found = load(iris, test_fraction=0)
    assert found.task == "classification"
    assert found.feature_names == ("sepal", "petal")
    assert found.class_names == ("setosa", "versicolor", "virginica")
    assert found.y_train.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.x_train[2].tolist() == [6.4, 4.5]
    assert found.x_train.dtype == np.float64


@pytest.mark.parametrize("label", ["petal", 1, "1", -2])
def test_csv_label_by_name_or_by_index(tmp_path, label):
    path = write_csv(tmp_path / "t.csv", "a,petal,b\n1,2.5,3\n4,5.5,6\n")
    found = load(path, label=label, test_fraction=0)
    assert found.y_train.tolist() == [[2.5], [5.5]]
    assert found.feature_names == ("a", "b")


@pytest.mark.parametrize("label", [0, "0", -3, "-3"])
def test_a_label_that_is_a_number_is_a_position(tmp_path, label):
    path = write_csv(tmp_path / "t.csv", "1,0,label\n5.5,6,7\n8.5,9,1\n")
    found = load(path, label=label, test_fraction=0)
    assert found.y_train.tolist() == [[5.5], [8.5]]
    assert found.feature_names == ("0", "label")
    if label in (0, "0"):
        assert "label: column '1' (a number is a position; the column named 0 is at 1)" in found.notes


@pytest.mark.parametrize("name", ["label", "class", "Target", "y"])
def test_the_label_column_is_known_by_its_usual_names(tmp_path, name):
    path = write_csv(tmp_path / "t.csv", f"{name},a\nq,1\nr,2\n")
    assert load(path, test_fraction=0).class_names == ("q", "r")


def test_a_csv_without_a_header_has_columns_by_position(tmp_path):
    path = write_csv(tmp_path / "t.csv", "5.1,1.4,setosa\n6.4,4.5,versicolor\n")
    found = load(path, test_fraction=0)
    assert found.feature_names == ()
    assert found.label == 2
    assert found.x_train.tolist() == [[5.1, 1.4], [6.4, 4.5]]


def test_a_header_of_numbers_is_told_by_its_label_column(tmp_path):
    path = write_csv(tmp_path / "t.csv", "0,1,label\n5.1,1.4,cat\n6.4,4.5,dog\n")
    found = load(path, test_fraction=0)
    assert found.class_names == ("cat", "dog")
    assert len(found.x_train) == 2


def test_a_header_of_text_above_text_is_told_by_the_label_that_was_named(tmp_path):
    path = write_csv(tmp_path / "t.csv", "0,1,kind\n5.1,1.4,cat\n6.4,4.5,dog\n")
    found = load(path, label="kind", test_fraction=0)
    assert found.class_names == ("cat", "dog")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_dialects(tmp_path, delimiter, bom, end):
    text = bom + IRIS.replace(",", delimiter).replace("\n", end) + end + end
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    found = load(path, test_fraction=0)
    assert found.feature_names == ("sepal", "petal")
    assert len(found.x_train) == 6


def test_csv_quotes_and_spaces(tmp_path):
    path = write_csv(tmp_path / "t.csv", 'a , "b, c",label\n 1 ,"2", big cat\n3,4,"dog, small"\n')
    found = load(path, test_fraction=0)
    assert found.class_names == ("big cat", "dog, small")
    assert found.x_train.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["0", "1", "2", "1"], "classification"),
        (["0.0", "1.0", "2.0", "1.0"], "classification"),
        (["0.5", "1", "2", "1"], "regression"),
        (["a", "1", "2", "1"], "classification"),
        ([str(i) for i in range(60)], "regression"),
        ([str(i % 50) for i in range(60)], "classification"),
        (["1e300", "2", "3", "4"], "regression"),
    ],
)
def test_csv_labels_say_the_task(tmp_path, labels, task):
    path = write_csv(tmp_path / "t.csv", "a,label\n" + "".join(f"1,{label}\n" for label in labels))
    assert load(path, test_fraction=0).task == task


def test_whole_number_classes_are_in_numeric_order(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n1,10\n2,9\n3,9.0\n")
    found = load(path, test_fraction=0)
    assert found.class_names == ("9", "10")
    assert found.y_train.tolist() == [1, 0, 0]


def test_regression_on_whole_numbers_when_asked(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n1,10\n2,9\n")
    assert load(path, task="regression", test_fraction=0).y_train.tolist() == [[10.0], [9.0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        ("a,b,label\n", "no rows below the header"),
        ("a,a,label\n1,2,x\n", "names 'a' twice"),
        ("a,b,label\n1,2,x\n1,2\n", "line 3: it has 2 cells and the first line has 3"),
        ("a,b,label\n1,2,x\n\n1,2,3,y\n", "line 4: it has 4 cells"),
        ("a,b,label\n1,2,x\n1,,y\n", "line 3: the column 'b' is empty"),
        ("a,b,label\n1,2,x\n1,?,y\n", "line 3: the column 'b' is '\\?'; inputs must be finite numbers"),
        ("a,b,label\n1,nan,x\n1,2,y\n", "line 2: the column 'b' is 'nan'"),
        ("a,b,label\n1,2,x\n-inf,2,y\n", "line 3: the column 'a' is '-inf'"),
        ("a,b,label\n1,1e999,x\n1,2,y\n", "line 2: the column 'b' is '1e999'"),
        ("a,b,label\n1,2,x\n1,2,\n", "line 3: the label column 'label' is empty"),
        ("a,b,label\n1,2,nan\n1,2,3\n", "line 2: the label column 'label' has the missing value 'nan'"),
        ("a,b,label\n1,2,x\n1,2,x\n", "every label is 'x'"),
        ("label\n1\n2\n", "label column only"),
        ('a,b,label\n1,2,"x\n1,2,y\n', "line 3: "),
        ("a,b,label\n1,2,x\n1,2\0,y\n", "line 3: "),
        ('a,label\n"1\n",x\n2\n', "line 4: it has 1 cells"),
    ],
)
def test_bad_csv_is_an_error_with_its_line(tmp_path, text, message):
    path = write_csv(tmp_path / "t.csv", text)
    with pytest.raises(DataError, match=message) as caught:
        load(path, test_fraction=0)
    assert "t.csv" in str(caught.value)


def test_a_csv_cell_over_the_size_limit_is_an_error(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n" + "1" * (csv.field_size_limit() + 1) + ",x\n")
    with pytest.raises(DataError, match="line 2: field larger than field limit"):
        load(path)


def test_csv_that_is_not_text_is_an_error(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,label\n1,\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8 text"):
        load(path)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("specis", "no column 'specis' among sepal, petal, species; did you mean 'species'"),
        (3, "no column 3; there are 3"),
        (-4, "no column -4"),
        ("zzz", "no column 'zzz' among sepal, petal, species$"),
    ],
)
def test_a_label_column_that_is_not_there_is_an_error(iris, label, message):
    with pytest.raises(DataError, match=message):
        load(iris, label=label)


@pytest.mark.parametrize("label", ["petal\nspecies", "species\rx", "x" * 200_000])
def test_a_label_that_is_no_line_of_columns_is_an_error(iris, label):
    with pytest.raises(ArgumentError, match=r"label was '.*it must be a column, or several with commas between them"):
        load(iris, label=label)


def test_a_column_whose_name_has_a_comma_and_a_line_break_is_a_label(tmp_path):
    path = write_csv(tmp_path / "t.csv", 'a,"kind, of\nleaf"\n1,x\n2,y\n3,x\n4,y\n')
    assert load(path, label="kind, of\nleaf").class_names == ("x", "y")


def test_regression_on_text_is_an_error(iris):
    with pytest.raises(DataError, match="'species' has 'setosa'; regression needs numbers"):
        load(iris, task="regression")


def test_classification_on_fractions_is_an_error(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n1,0.5\n2,1\n")
    with pytest.raises(DataError, match="class labels must be whole numbers"):
        load(path, task="classification")


def test_classification_on_numbers_too_large_for_64_bits_is_an_error(tmp_path):
    path = write_csv(tmp_path / "t.csv", "a,label\n1,1e300\n2,1\n")
    with pytest.raises(DataError, match="class labels must be whole numbers"):
        load(path, task="classification")
