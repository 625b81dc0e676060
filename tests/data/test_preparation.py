"""Columns as they come: categories, truths, missing values, and numbers as people write them."""

import json

import numpy as np
import pytest
from data_files import inputs_of, write_csv

from gpubp.data.loading import load, load_inputs, load_whole, look
from gpubp.data.preparation import InputColumn, InputRules, Preparation, RawColumns
from gpubp.data.table import TableFormat
from gpubp.errors import ArgumentError, DataError

NAN = float("nan")


@pytest.fixture
def read(tmp_path):
    """Return a function that loads this text as a table, all of it to train on."""

    def read(text, function=load, **options):
        path = write_csv(tmp_path / "t.csv", text)
        if function is load:
            options = {"test_fraction": 0, "rules": InputRules("mean"), **options}
        return function(path, **options)

    return read


def kinds(found):
    return {column.name: column.kind for column in found.columns if column.role == "input"}


# --- categories -------------------------------------------------------------------------------------------------------


def test_a_text_column_has_an_input_for_each_category_and_one_for_others(read):
    found = read("city,a,label\nRome,1.5,x\nBern,2,y\nRome,3,x\n", rules=None)
    assert found.feature_names == ("city=Bern", "city=Rome", "city (other)", "a")
    assert found.x_train.tolist() == [[0, 1, 0, 1.5], [1, 0, 0, 2], [0, 1, 0, 3]]
    assert found.preparation.columns[0] == InputColumn("city", "category", ("Bern", "Rome"))
    new = inputs_of(_table(read, "city,a\nOslo,1\nrome,2\nRome,3\n"), preparation=found.preparation)
    assert new.tolist() == [[0, 0, 1, 1], [0, 0, 1, 2], [0, 1, 0, 3]]


def _table(read, text):
    """Return the path of a table of this text."""
    return read(text, function=lambda path: path)


def test_the_most_frequent_categories_have_inputs_and_the_first_of_equally_frequent_ones(read):
    text = "city,label\n" + "".join(f"{city},{i % 2}\n" for i, city in enumerate("ddccbbbae"))
    found = read(text, rules=InputRules(max_categories=2))
    assert found.preparation.columns[0].categories == ("b", "c")
    assert found.x_train.sum(axis=0).tolist() == [3, 2, 4]
    assert len(read(text).preparation.columns[0].categories) == 5


def test_up_to_32_categories_have_inputs_of_their_own(read):
    found = read("city,label\n" + "".join(f"c{i:02},{i % 2}\n" for i in range(40)), rules=None)
    assert found.preparation.columns[0].categories == tuple(f"c{i:02}" for i in range(32))
    assert found.x_train.shape == (40, 33)
    assert found.x_train[:, -1].tolist() == [0] * 32 + [1] * 8


def test_categories_and_fills_are_those_of_the_training_part_without_its_examples_of_weight_0(read):
    rows = "".join(f"c{i},{i},{i % 2},{int(i != 7)}\n" for i in range(20))
    options = {"weight_column": "w", "test_fraction": 0.3, "seed": 1}
    found = read("city,n,label,w\n" + rows + "c0,,1,1\n" * 4, **options)
    counting = found.weight_train > 0
    city, number = found.preparation.columns
    there = found.x_train[counting]
    assert not there[:, len(city.categories)].any()  # none of these is "other"
    assert there[:, : len(city.categories)].any(axis=0).all()  # and each category occurs
    names = [f"city={category}" for category in city.categories]
    assert list(found.feature_names) == [*names, "city (other)", "n", "n (missing)"]
    n, is_missing = there[:, -2], there[:, -1] == 1
    assert number.fill == pytest.approx(n[~is_missing].mean())
    assert set(n[is_missing]) == {number.fill}
    assert found.x_test[:, len(city.categories)].any()


def test_a_column_of_numbers_is_categories_if_asked(read):
    text = "zip,day,label\n01234,2024-01-31,x\n99,2024-02-28,y\n1234,2024-01-31,x\n"
    for categories in ("zip,day", ["zip", 1], "0,1"):
        found = read(text, rules=InputRules(categories=categories))
        assert [column.categories for column in found.preparation.columns] == [
            ("01234", "1234", "99"),
            ("2024-01-31", "2024-02-28"),
        ]


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ("zpi", "there is no column 'zpi' among zip, label; did you mean 'zip'"),
        (5, "there is no column 5"),
        ("label", "--categories names the column 'label', which is no input but label"),
    ],
)
def test_categories_that_are_no_inputs(read, categories, message):
    with pytest.raises(DataError, match=message):
        read("zip,label\n1,x\n2,y\n", rules=InputRules(categories=categories))


def test_a_column_is_judged_by_all_its_cells_and_not_by_the_first_ones(read):
    gap = "".join(f",{i},{i % 2}\n" for i in range(150))
    numbers = read("a,b,label\n" + gap + "1.5,0,1\n2.5,0,0\n")
    assert kinds(numbers) == {"a": "number", "b": "number"}
    assert numbers.x_train[-2:].tolist() == [[1.5, 0, 0], [2.5, 0, 0]]
    assert kinds(read("a,b,label\n" + gap + "blue,0,1\n")) == {"a": "category", "b": "number"}
    assert kinds(read("a,b,label\n" + gap + "true,0,1\n")) == {"a": "boolean", "b": "number"}


def test_names_of_inputs_are_different_whatever_columns_are_called(read):
    text = "a,a=x,a (other),label\nx,1,1,u\ny,2,2,v\n"
    names = read(text).feature_names
    assert len(set(names)) == len(names) == 5
    unnamed = read("x,1.5,u\ny,2.5,v\nx,3.5,u\n").feature_names
    assert unnamed == ("0=x", "0=y", "0 (other)", "1")


# --- mixtures, dates, truths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "line", "message"),
    [
        (["1", "2", "blue", "red"], 4, "is 'blue'.*text throughout"),
        (["blue", "red", "green", "7"], 5, "is '7'; most others are text, such as 'blue'.*--categories b takes"),
        (["blue", "1", "2", "3"], 2, "is 'blue'"),
        (["1", "2", "3", "true"], 5, "is 'true'.*write 1 and 0 for true and false"),
        (["true", "0", "false", "1"], 2, "is 'true'"),
        (["1", "2", "2024-01-31", "3"], 4, "write a date as numbers, such as the days since the first one"),
        (["2024-01-31", "2024-02-01", "", "x"], 2, "'2024-01-31'.*write a date as numbers"),
        (["31 Jan 2024", "1 Feb 2024"], 2, "write a date as numbers"),
        (["Jan 31, 2024", "Feb 1, 2024"], 2, "write a date as numbers"),
        (["12:30", "13:45"], 2, "write a time as a number"),
        (["$5", "$6"], 2, "without the currency"),
        (["5 %", "6 %"], 2, "--percent reads it"),
        (["1,5", "2,5"], 2, "--decimal comma reads it"),
        (["1,234", "2,345"], 2, "--decimal comma reads it, or --thousands comma, whichever it is"),
        (["1.234,5", "2.345,5"], 2, "--thousands reads it"),
        (["blue", "inf", "red"], 3, "is 'inf'"),
    ],
)
def test_a_column_that_is_neither_numbers_nor_text_names_the_first_odd_cell(read, column, line, message):
    text = "a;b;label\n" + "".join(f"{i};{cell};{'xy'[i % 2]}\n" for i, cell in enumerate(column))
    with pytest.raises(
        DataError, match=f"line {line}: the column 'b' {message}|line {line}: the column 'b' .*{message}"
    ):
        read(text, table=TableFormat(delimiter=";", header="yes"))


def test_true_and_false_are_1_and_0(read):
    found = read("a,b,label\ntrue,x,u\nFALSE,y,v\nTrue,z,u\n")
    assert kinds(found) == {"a": "boolean", "b": "category"}
    assert found.x_train[:, 0].tolist() == [1, 0, 1]
    again = _table(read, "a,b\n1,x\n0,y\nfalse,y\n")
    assert inputs_of(again, preparation=found.preparation)[:, 0].tolist() == [1, 0, 0]
    with pytest.raises(DataError, match="line 3: the column 'a' is '2'; inputs must be true or false, as in training"):
        inputs_of(_table(read, "a,b\n1,x\n2,y\n"), preparation=found.preparation)
    assert kinds(read("a,label\ntrue,u\nfalse,v\nperhaps,u\n")) == {"a": "category"}


# --- missing values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("missing", "fill"), [("mean", 4), ("median", 2), ("zero", 0)])
def test_a_missing_number_is_filled_and_marked(read, missing, fill):
    found = read("a,b,label\n1,5,x\n,6,y\n2,7,x\n9,8,y\n", rules=InputRules(missing))
    assert found.feature_names == ("a", "a (missing)", "b")
    assert found.x_train.tolist() == [[1, 0, 5], [fill, 1, 6], [2, 0, 7], [9, 0, 8]]
    assert next(column.fill for column in found.preparation.columns) == fill


@pytest.mark.parametrize("word", ["", "NA", "?", "nan", "None", "null", "#N/A"])
def test_what_stands_for_a_missing_value(read, word):
    found = read(f"a,b,c,label\n1,x,true,u\n{word},{word},{word},v\n3,y,false,u\n")
    assert kinds(found) == {"a": "number", "b": "category", "c": "boolean"}
    assert found.x_train[1].tolist() == [2, 1, 0, 0, 0, 1, 0.5, 1]
    assert [column.missing for column in found.columns] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("row", "column"), [(",x,true", "a"), ("1,NA,true", "b"), ("1,x,?", "c"), ("nan,x,true", "a"), ("1,,true", "b")]
)
def test_a_missing_value_is_an_error_unless_asked(read, row, column):
    text = f"a,b,c,label\n1,x,true,u\n2,y,false,v\n{row},u\n"
    with pytest.raises(DataError, match=f"line 4: the column '{column}' .*--missing mean, median or zero") as caught:
        read(text, rules=None)
    assert "is it the label" not in str(caught.value)
    fitted = read(text.replace(row, "1,x,true"), rules=None).preparation
    with pytest.raises(DataError, match=f"line 4: the column '{column}'"):
        inputs_of(_table(read, text), preparation=fitted)


def test_a_gap_where_training_had_none_is_filled_as_in_training_and_has_no_indicator(read):
    fitted = read("a,b,label\n1,x,u\n3,y,v\n").preparation
    assert fitted.input_names() == ("a", "b=x", "b=y", "b (other)")
    path = _table(read, "a,b\n,x\n5,?\n")
    assert inputs_of(path, preparation=fitted).tolist() == [[2, 1, 0, 0], [5, 0, 0, 0]]
    note = "filled gaps where training had none, so that no input says where they are: a, b"
    assert note in load_inputs(path, preparation=fitted)[1]
    assert note not in load_inputs(_table(read, "a,b\n4,x\n"), preparation=fitted)[1]
    whole = read("a,b,label\n1,x,u\n3,y,v\n,x,u\n", function=load_whole, rules=InputRules("mean"))
    rows = np.arange(3)
    assert note.replace("a, b", "a") in whole.parts(rows[:2], rows[2:]).notes
    assert not any("filled" in each for each in whole.parts(rows[1:], rows[:1]).notes)


def test_a_column_without_any_value(read):
    found = read("a,b,label\n,1,x\n,2,y\n")
    assert found.x_train.tolist() == [[0, 1, 1], [0, 1, 2]]
    assert found.columns[0].values == "none"


def test_missing_labels_and_weights_are_still_errors(read):
    with pytest.raises(DataError, match="line 3: the label column 'label' is empty; every example needs a label"):
        read("a,label\n1,x\n2,\n")
    with pytest.raises(
        DataError, match=r"line 3: the weight column 'w' is empty; weights must be finite.*leave the line"
    ):
        read("a,w,label\n1,1,x\n2,,y\n", weight_column="w")
    with pytest.raises(DataError, match=r"line 3: the label column 'l' is 'NA'.*leave the line out"):
        read("a,k,l\n1,1,0\n2,1,NA\n", label="k,l")


def test_the_mean_of_numbers_whose_sum_is_none(read):
    found = read("a,label\n1e308,x\n1.5e308,y\n,x\n")
    assert found.preparation.columns[0].fill == pytest.approx(1.25e308)
    found = read("a,label\n1e308,x\n1.5e308,y\n,x\n", rules=InputRules(missing="median"))
    assert found.preparation.columns[0].fill == pytest.approx(1.25e308)


# --- numbers as people write them -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "cells"),
    [
        ({"decimal": "comma"}, ["1234,5", "-0,25", "7", "1e3"]),
        ({"decimal": ",", "thousands": "."}, ["1.234,5", "-,25", "7", "1.000"]),
        ({"thousands": "comma"}, ["1,234.5", "-0.25", "7.", "1,000"]),
        ({"thousands": "space"}, ["1 234.5", "-.25", "7", "1\u202f000"]),
        ({"thousands": "apostrophe"}, ["1'234.5", "-0.25", "7", "1’000"]),
        ({"thousands": "underscore"}, ["1_234.5", "-0.25", "7", "1_000"]),
        ({"percent": True}, ["1234.5%", "-0.25 %", "7", "1000 %"]),
        ({"decimal": "comma", "thousands": "point", "percent": True}, ["1.234,5 %", "-0,25%", "7 %", "1.000"]),
    ],
)
def test_numbers_as_they_are_written(read, options, cells):
    rows = "".join(f"{cell}|{cell}|{cell}\n" for cell in cells)
    table = TableFormat(header="yes", delimiter="|", **options)
    found = read("a|w|label\n" + rows.replace("-", ""), table=table, rules=None, task="regression", weight_column="w")
    expected = [1234.5, 0.25, 7, 1000]
    assert found.x_train[:, 0].tolist() == expected
    assert found.y_train[:, 0].tolist() == expected
    assert found.weight_train.tolist() == expected
    assert read("a|w|label\n" + rows, table=table, rules=None, task="regression").x_train[1].tolist() == [-0.25, -0.25]


@pytest.mark.parametrize(
    ("options", "cell"),
    [
        ({"decimal": "comma"}, "1.5"),
        ({"decimal": "comma"}, "1.234,5"),
        ({"thousands": "comma"}, "1,23"),
        ({"thousands": "comma"}, "1,2345"),
        ({"thousands": "comma"}, "12,34,567"),
        ({"decimal": "comma", "thousands": "point"}, "1.5"),
        ({"decimal": "comma", "thousands": "point"}, "1,234.5"),
        ({"percent": True}, "5 %%"),
        ({"percent": True}, "%"),
    ],
)
def test_a_number_that_is_written_in_another_way_is_none(read, options, cell):
    with pytest.raises(DataError, match=f"line 3: the column 'a' is '{cell}'"):
        read(f"a|label\n7|x\n{cell}|y\n8|x\n", table=TableFormat(header="yes", delimiter="|", **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decimal": "dot"}, "decimal was 'dot'; it must be one of point, comma"),
        ({"thousands": ";"}, "thousands was ';'; it must be one of comma, point, space"),
        ({"decimal": "comma", "thousands": "comma"}, "thousands was ','; it must be another character"),
        ({"thousands": "point"}, "thousands was '.'; it must be another character than that of the decimals"),
    ],
)
def test_ways_to_write_numbers_that_cannot_be(options, message):
    with pytest.raises(ArgumentError, match=message):
        TableFormat(**options)


# --- what each column is taken for, and what is kept ------------------------------------------------------------------


def test_what_each_column_is_taken_for(read):
    text = ",city,age,ok,w,kind\n" + "".join(
        f"{i},{'Rome' if i else ''},{i},{'true' if i < 2 else 'false'},1,{'ab'[i % 2]}\n" for i in range(4)
    )
    found = read(text, function=look, weight_column="w")
    told = [(c.name, c.role, c.kind, c.values, c.missing, c.inputs) for c in found.columns]
    assert told == [
        ("Unnamed: 0", "left out", "", "", 0, 0),
        ("city", "input", "category", "1: Rome", 1, 3),
        ("age", "input", "number", "0 to 3", 0, 1),
        ("ok", "input", "boolean", "true in 50 %", 0, 1),
        ("w", "weight", "", "", 0, 0),
        ("kind", "label", "classes", "a, b", 0, 0),
    ]
    assert found.describe().endswith("t.csv: 4 examples, 5 features, 2 classes, weighted")


def test_text_that_is_another_in_each_row_is_noted(read):
    text = "id,a,label\n" + "".join(f"n{i},{i % 7},{i % 2}\n" for i in range(30))
    note = "the input 'id' is another text in each row: if it names them, leave it out (--drop)"
    assert note in read(text).notes
    assert not any("counts the rows" in each for each in read(text).notes)
    assert not any("another text" in each for each in read(text.replace("n7,", "n6,")).notes)


def test_numbers_alone_need_no_preparation_unless_gaps_are_to_come(read):
    text = "a,b,label\n1,2,x\n3,4,y\n"
    assert read(text, rules=None).preparation is None
    fitted = read(text).preparation
    assert inputs_of(_table(read, "b,a\n,1\n4,\n"), preparation=fitted).tolist() == [[1, 3], [2, 4]]


def test_a_row_of_empty_cells_is_left_out_and_that_is_said(read):
    found = read("a,b,label\n1,2,x\n,,\n\n , ,\n3,4,y\n")
    assert found.x_train.tolist() == [[1, 2], [3, 4]]
    assert "left out the rows in which all cells are empty: 2" in found.notes
    assert not any("empty" in note for note in read("a,b,label\n1,2,x\n\n3,4,y\n").notes)


def test_a_preparation_survives_json(read):
    fitted = read("a,city,ok,label\n1,Rome,true,x\n,,false,y\n3,\u00dcrzig,,x\n").preparation
    assert Preparation.from_config(json.loads(json.dumps(fitted.config()))) == fitted
    assert fitted.config()["columns"][1] == {
        "name": "city", "kind": "category", "categories": ["Rome", "Ürzig"], "fill": None, "indicator": True
    }  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "date"},
        {"name": 3},
        {"categories": [1]},
        {"categories": ["x", "x"]},
        {"fill": 1.0},
        {"kind": "number", "categories": [], "fill": NAN},
        {"kind": "number", "categories": [], "fill": "1"},
        {"kind": "number", "categories": [], "fill": True},
        {"kind": "number", "categories": [], "fill": 10**400},
        {"indicator": 1},
        {"kind": "number", "fill": None},
    ],
)
def test_a_column_that_no_preparation_has(changed):
    column = {"name": "a", "kind": "category", "categories": ["x"], "fill": None, "indicator": False}
    with pytest.raises((ArgumentError, DataError), match=r"^preparation: |^fill was"):
        InputColumn(**{**column, **changed})


def test_rules_that_cannot_be():
    with pytest.raises(ArgumentError, match=r"missing was 'men'; it must be one of error, mean.*did you mean 'mean'"):
        InputRules("men")
    with pytest.raises(ArgumentError, match="max_categories was 0; it must be a whole number ≥ 1"):
        InputRules(max_categories=0)


def test_only_a_table_has_rules(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((4, 2)), y=[0, 1, 0, 1])
    for spec in ("digits", tmp_path / "a.npz"):
        with pytest.raises(ArgumentError, match=r"missing was 'mean'; it must be left out for .*: only a table"):
            load(spec, rules=InputRules("mean"))


def test_values_that_are_missing_where_none_may_be_are_refused_by_the_preparation_too():
    fitted = Preparation((InputColumn("a"),))
    with pytest.raises(DataError, match="row 1 of column a has no value"):
        fitted.apply(RawColumns(np.array([[1.0], [NAN]]), ("number",)))


# --- columns that are left out ----------------------------------------------------------------------------------------
TEXT = "id,a,label,b\nn1,1,x,5\nn2,2,y,6\nn3,3,x,7\n"


@pytest.mark.parametrize("drop", ["id", 0, "0", ["id"]])
def test_a_column_can_be_left_out(read, drop):
    found = read(TEXT, table=TableFormat(drop=drop))
    assert found.feature_names == ("a", "b")
    assert [(column.name, column.role) for column in found.columns] == [
        *(("id", "left out"), ("a", "input"), ("label", "label"), ("b", "input"))
    ]
    assert read(TEXT, table=TableFormat(drop="id,b")).feature_names == ("a",)
    assert read(TEXT, table=TableFormat(drop="id,label")).label == "b"


def test_columns_that_are_left_out_stay_so_for_a_model_and_may_be_missing(read):
    lines = TEXT.partition("\n")[2]
    table = TableFormat(drop=0, header="no")
    fitted = read(lines, table=table, label=2).preparation
    model = {"preparation": fitted, "table": table, "model_label": 2}
    assert inputs_of(_table(read, lines), label=2, **model).tolist() == [[1, 5], [2, 6], [3, 7]]
    assert inputs_of(_table(read, "n1,1,5\nn2,2,6\n"), **model).tolist() == [[1, 5], [2, 6]]
    named = {"preparation": read(TEXT, table=TableFormat(drop="id")).preparation, "table": TableFormat(drop="id")}
    assert inputs_of(_table(read, "b,a\n5,1\n"), **named).tolist() == [[1, 5]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": TableFormat(drop="ix")}, "there is no column 'ix' among id, a, label, b"),
        ({"table": TableFormat(drop=7)}, "there is no column 7"),
        ({"table": TableFormat(drop="label"), "label": "label"}, "'label' cannot have the labels and be left out"),
        ({"table": TableFormat(drop="b"), "weight_column": "b"}, "'b' cannot have the weights and be left out"),
        (
            {"table": TableFormat(drop="id"), "rules": InputRules(categories="id")},
            "'id', which is no input but left out",
        ),
    ],
)
def test_columns_that_cannot_be_left_out(read, options, message):
    with pytest.raises(DataError, match=message):
        read(TEXT, **options)


def test_columns_in_another_order_than_the_models_are_told_as_what_they_are(read):
    first = read("city,a,b,y\nRome,1,7,0\nBern,2,8,1\n")
    again = read(
        "b,a,city,y\n7,1,Rome,0\n8,2,Bern,1\n", feature_names=first.preparation.names, preparation=first.preparation
    )
    told = {column.name: column for column in first.columns}
    assert [column.name for column in again.columns] == ["b", "a", "city", "y"]
    assert list(again.columns) == [told[name] for name in ("b", "a", "city", "y")]
