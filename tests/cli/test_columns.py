"""Tables with text, truths and gaps, from the training to the predictions; cross-validation; what is shown of them."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import FAST, read_csv, table, write_csv

from gpubp.nn import model_file
from gpubp.training.model import Model

README = Path(__file__).resolve().parents[2] / "README.md"
HEADER = ["city", "ok", "age", "side"]


def visits(rows=120, seed=0):
    """Rows with text, truths and gaps that decide a class."""
    draw = random.Random(seed)
    for _ in range(rows):
        city, ok, age = draw.choice(["Rome", "Oslo", "Bern"]), draw.random() < 0.5, draw.randint(20, 80)
        side = "left" if (city == "Rome") == ok else "right"
        yield [city if draw.random() < 0.9 else "", str(ok).lower(), age if draw.random() < 0.9 else "NA", side]


@pytest.fixture
def run(gpubp):
    """A run on a table with text and gaps, t.csv."""
    write_csv("t.csv", HEADER, visits())
    return gpubp("train", "--out", "run", "--data", "t.csv", "--missing", "median", "--layers", "16", "--lr", "0.02")


def accuracy_of(result):
    return float(re.search(r"accuracy +([\d.]+) %", result.stdout)[1])


def test_a_model_knows_the_columns_of_its_table_by_name_with_or_without_the_label(gpubp, refused, run):
    rows = list(visits())
    assert gpubp("evaluate", "run", "--data", "t.csv").stdout == gpubp("evaluate", "run").stdout
    whole = accuracy_of(gpubp("evaluate", "run", "--data", "t.csv", "--whole"))
    assert whole > 80
    write_csv("turned.csv", ["side", "x", "age", "ok", "city"], [[d, "?", c, b, a] for a, b, c, d in rows])
    assert accuracy_of(gpubp("evaluate", "run", "--data", "turned.csv", "--whole")) == whole
    write_csv("bare.csv", HEADER[:3], [row[:3] for row in rows])
    for name in ("t", "turned", "bare"):
        gpubp("predict", "run", "--data", f"{name}.csv", "--out", f"{name}-out.csv")
    assert Path("t-out.csv").read_text() == Path("turned-out.csv").read_text() == Path("bare-out.csv").read_text()
    assert len(read_csv("t-out.csv")) == 120
    write_csv("other.csv", [*HEADER[:3], "id"], [[*row[:3], "left"] for row in rows])
    message = "the label column 'side' of the training is missing; --label names another"
    for name in ("bare.csv", "other.csv"):
        refused("evaluate", "run", "--data", name, message=message)
    write_csv("narrow.csv", ["city", "ok"], [row[:2] for row in rows])
    refused("predict", "run", "--data", "narrow.csv", "--out", "p.csv", message="the column 'age' is missing")
    write_csv("none.csv", rows[0][:3], [row[:3] for row in rows[1:]])
    message = "the model reads city, ok, age by name"
    refused("predict", "run", "--data", "none.csv", "--header", "no", "--out", "p.csv", message=message)


def test_columns_without_names_are_known_by_position(gpubp):
    rows = list(visits())
    Path("t.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    gpubp("train", "--out", "run", "--data", "t.csv", "--missing", "mean", "--header", "no", *FAST)
    Path("bare.csv").write_text("".join(",".join(map(str, row[:3])) + "\n" for row in rows))
    gpubp("predict", "run", "--data", "t.csv", "--out", "a.csv")
    gpubp("predict", "run", "--data", "bare.csv", "--out", "b.csv")
    assert Path("a.csv").read_text() == Path("b.csv").read_text()
    gpubp("evaluate", "run")


def test_a_category_that_training_never_saw_is_other_and_that_is_said(gpubp, run):
    write_csv("new.csv", HEADER[:3], [["Lima", "true", 30], ["Rome", "true", ""]])
    shown = gpubp("predict", "run", "--data", "new.csv", "--out", "p.csv").stderr
    warning = "input 'city (other)', which was constant in training, moved in 1 of 2 rows here; what moved is ignored"
    assert f"warning: {warning}" in shown.splitlines()
    write_csv("again.csv", HEADER[:3], [["Quito", "true", 30], ["Rome", "true", ""]])
    gpubp("predict", "run", "--data", "again.csv", "--out", "q.csv")
    assert Path("p.csv").read_text() == Path("q.csv").read_text()


def test_the_model_file_says_in_plain_words_what_columns_become(run):
    _, metadata = model_file.read("run/model.safetensors")
    found = metadata["model"]["preparation"]
    assert found["missing"] == "median"
    city, ok, age = found["columns"]
    assert city == {
        "name": "city", "kind": "category", "categories": ["Bern", "Oslo", "Rome"], "fill": None, "indicator": True
    }  # fmt: skip
    assert (ok["kind"], ok["indicator"]) == ("boolean", False)
    assert (age["kind"], age["indicator"]) == ("number", True)
    assert 30 < age["fill"] < 70
    model = Model.load("run")
    assert model.feature_names == (
        *("city=Bern", "city=Oslo", "city=Rome", "city (other)", "city (missing)"),
        *("ok", "age", "age (missing)"),
    )
    assert model.preparation.config() == found


def test_a_model_of_numbers_is_written_as_by_earlier_versions(gpubp, refused):
    write_csv("t.csv", ["a", "b", "side"], table())
    gpubp("train", "--out", "run", "--data", "t.csv", *FAST)
    tensors, metadata = model_file.read("run/model.safetensors")
    assert metadata["model"].keys() == {"task", "class_names", "feature_names", "origin"}
    write_csv("text.csv", ["a", "b"], [["1", "blue"]])
    message = "text.csv, line 2: the column 'b' is 'blue'; inputs must be finite numbers"
    refused("predict", "run", "--data", "text.csv", "--out", "p.csv", message=message)
    write_csv("gap.csv", ["a", "b"], [["1", ""]])
    refused("predict", "run", "--data", "gap.csv", "--out", "p.csv", message="the column 'b' is empty")
    for damage in ({"missing": "mean"}, {"missing": "mean", "columns": []}, {"missing": 3, "columns": [{"name": "a"}]}):
        metadata["model"]["preparation"] = damage
        model_file.write("run/model.safetensors", tensors, metadata)
        refused("evaluate", "run", message="does not describe a model of this version")


def test_a_run_on_text_and_gaps_is_resumed_as_if_it_had_not_stopped(gpubp, run):
    gpubp("train", "--out", "part", "--data", "t.csv", "--missing", "median", "--layers", "16", "--epochs", "7")
    gpubp("train", "--resume", "part", "--epochs", "9", "--reschedule")
    gpubp("train", "--config", "part/config.toml", "--out", "again", "--epochs", "7")
    gpubp("train", "--resume", "again", "--epochs", "9", "--reschedule")
    assert Path("part/history.csv").read_bytes() == Path("again/history.csv").read_bytes()
    assert Path("part/model.safetensors").read_bytes() == Path("again/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("column", "options", "message"),
    [
        (["1", "", "3"], (), ["line 3: the column 'b' is empty", "--missing mean, median or zero"]),
        (["1", "x", "3"], (), ["line 3: the column 'b' is 'x'", "--categories b"]),
        (["2024-01-31"] * 3, (), ["line 2: the column 'b' is '2024-01-31'", "write a date as numbers"]),
        (["1", "2", "3"], ("--missing", "men"), ["--missing was 'men'", "mean"]),
        (["1", "2", "3"], ("--max-categories", "0"), ["--max-categories was 0"]),
        (["1", "2", "3"], ("--categories", "c"), ["there is no column 'c'"]),
        (["1", "2", "3"], ("--decimal", "x"), ["--decimal was 'x'"]),
        (["1", "2", "3"], ("--thousands", "point"), ["--thousands was '.'"]),
    ],
)
def test_what_a_training_refuses(refused, column, options, message):
    write_csv("t.csv", ["a", "b", "label"], [[i, cell, i % 2] for i, cell in enumerate(column)])
    refused("train", "--data", "t.csv", *options, message=message)
    refused("train", "--data", "t.csv", *options, "--cv", "2", message=message)


def test_how_numbers_are_written_is_kept_with_the_model(gpubp):
    rows = [[a.replace(".", ","), f"{i} %", side] for i, (a, _, side) in enumerate(table())]
    Path("t.csv").write_text("a;b;side\n" + "".join(";".join(row) + "\n" for row in rows))
    gpubp("train", "--out", "run", "--data", "t.csv", "--decimal", "comma", "--percent", *FAST)
    gpubp("evaluate", "run")
    gpubp("predict", "run", "--data", "t.csv", "--out", "p.csv")
    write_csv("plain.csv", ["a", "b", "side"], [[a, i, side] for i, (a, _, side) in enumerate(table())])
    gpubp("predict", "run", "--data", "plain.csv", "--decimal", "point", "--out", "q.csv")
    assert Path("p.csv").read_text() == Path("q.csv").read_text()


# --- what is shown ----------------------------------------------------------------------------------------------------
COLUMNS = [
    ["city", "category", "3:", "Bern,", "Oslo,", "Rome", "5"],
    ["ok", "boolean", "true", "in", "%", "1"],
    ["age", "number", "20", "to", "80", "2"],
    ["side", "label:", "classes", "left,", "right"],
]


def told(text):
    """The lines of a table of columns: its words but for numbers that depend on the draw."""
    lines = [line.split() for line in text.splitlines()]
    start = lines.index(["column", "taken", "for", "values", "missing", "inputs"])
    rows = lines[start + 2 : start + 6]
    assert [row[0] for row in rows] == HEADER
    assert 5 < int(rows[0][-2]) < 25
    assert 5 < int(rows[2][-2]) < 25
    rows[0].pop(-2)
    rows[2].pop(-2)
    rows[1] = [word for word in rows[1] if word not in rows[1][4:5]]
    return rows


def test_what_each_column_is_taken_for_stands_at_the_start_and_in_info(gpubp, run):
    assert told(run.stdout) == COLUMNS
    shown = gpubp("info", "--data", "t.csv")
    assert told(shown.stdout) == COLUMNS
    assert shown.stdout.startswith("t.csv: 120 examples, 8 features, 2 classes\n")
    assert "note: columns with missing values: 2; to train on them, say by --missing" in shown.stderr
    assert "columns with missing values" not in gpubp("info", "--data", "t.csv", "--missing", "zero").stderr
    found = json.loads(gpubp("info", "--data", "t.csv", "--json").stdout)
    assert found["data"].startswith("t.csv: 120 examples")
    assert [column["kind"] for column in found["columns"]] == ["category", "boolean", "number", "classes"]
    assert "note: label: column 'ok'" in gpubp("info", "--data", "t.csv", "--label", "ok").stderr


def test_info_of_data_without_columns(gpubp, refused):
    shown = gpubp("info", "--data", "digits")
    assert shown.stdout == "digits: 1,438 training and 359 test examples, 64 features (8×8), 10 classes\n"
    assert json.loads(gpubp("info", "--data", "digits", "--json").stdout)["columns"] == []
    refused("info", "--label", "x", message="--label was given; it must be left out without --data")
    refused("info", "--data", "digits", "--missing", "mean", message="--missing was 'mean'; it must be left out")
    refused("info", "--data", "none.csv", message="no data set and no file is called 'none.csv'")


def test_many_columns_that_are_alike_share_a_line(gpubp):
    names = [f"p{i}" for i in range(60)]
    rows = [[*map(str, np.arange(i, i + 60)), ["x", "y"][i % 2], i % 2] for i in range(9)]
    write_csv("t.csv", [*names, "c", "label"], rows)
    lines = [line.split() for line in gpubp("info", "--data", "t.csv").stdout.splitlines()]
    assert ["p0", "…", "p59", "number", "60", "columns", "60"] in lines
    assert ["c", "category", "2:", "x,", "y", "3"] in lines


def test_after_training_classes_are_told_apart_in_a_table(gpubp, run):
    after = run.stdout.partition("the test part: 24 examples\n")[2]
    lines = [line.split() for line in after.splitlines()]
    matrix = lines.index(["is", "\\", "taken", "for", "left", "right"])
    left, right = ([int(word.replace("·", "0")) for word in lines[matrix + place][1:]] for place in (2, 3))
    assert sum(left) + sum(right) == 24
    recall = 100 * left[0] / sum(left)
    precision = 100 * left[0] / (left[0] + right[0])
    assert ["left", str(sum(left)), f"{recall:.2f}", "%", f"{precision:.2f}", "%"] in lines
    assert Path("run/predictions.png").read_bytes() == b"predictions"
    assert "is \\ taken for" in gpubp("evaluate", "run").stdout


def test_after_a_regression_its_errors_are_shown(gpubp):
    x = np.random.default_rng(0).normal(size=(100, 2))
    write_csv("t.csv", ["a", "b", "price"], np.hstack([x[:, :1], x, x.sum(1, keepdims=True)])[:, 1:].tolist())
    for options, part in (((), "test part: 20"), (("--test-fraction", "0"), "training part: 100")):
        shown = gpubp("train", "--out", f"run{len(options)}", "--data", "t.csv", *options, *FAST).stdout
        after = shown.partition(f"the {part} examples\n")[2]
        assert after.split()[:9] == ["output", "root", "mean", "square", "error", "mean", "absolute", "error", "R²"]
        assert len(after.split()) > 12


# --- cross-validation -------------------------------------------------------------------------------------------------
def test_cross_validation_tests_each_row_once_and_keeps_nothing(gpubp, refused):
    write_csv("t.csv", HEADER, visits())
    before = sorted(map(str, Path().iterdir()))
    shown = gpubp("train", "--data", "t.csv", "--missing", "mean", "--cv", "5", *FAST).stdout
    assert sorted(map(str, Path().iterdir())) == before
    lines = [line.split() for line in shown.splitlines()]
    start = lines.index(["fold", "examples", "loss", "accuracy"])
    rows = lines[start + 2 : start + 7]
    assert [row[:2] for row in rows] == [[str(i), "24"] for i in range(1, 6)]
    losses = [float(row[2]) for row in rows]
    mean, spread = lines[start + 8], lines[start + 9]
    assert float(mean[1]) == pytest.approx(np.mean(losses), abs=1e-4)
    assert float(spread[1]) == pytest.approx(np.std(losses, ddof=1), rel=0.02, abs=2e-4)
    again = gpubp("train", "--data", "t.csv", "--missing", "mean", "--cv", "5", *FAST).stdout
    assert again == shown
    refused("train", "--cv", "1", message="--cv was 1; it must be a whole number ≥ 2")
    refused("train", "--cv", "5", "--out", "x", message="--cv and --out exclude each other")
    refused("train", "--cv", "5", "--find-lr", message="--cv and --find-lr exclude each other")
    refused("train", "--cv", "5", "--test-fraction", "0.1", message="--cv and --test-fraction exclude each other")
    Path("c.toml").write_text("test_fraction = 0.3\n")
    refused("train", "--cv", "5", "--config", "c.toml", message="--cv and test_fraction in c.toml exclude each other")
    refused("train", "--cv", "500", "--data", "t.csv", "--missing", "zero", message="120 examples are too few for 500")


def test_cross_validation_leaves_a_test_part_of_the_datas_own_out(gpubp):
    x = np.random.default_rng(0).normal(size=(30, 2))
    np.savez("t.npz", x=x, y=x[:, 0], x_test=x[:5], y_test=x[:5, 0])
    shown = gpubp("train", "--data", "t.npz", "--cv", "3", *FAST)
    assert "note: the test part of 5 examples takes no part" in shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert [row[1] for row in rows if row and row[0] in "123"] == ["10", "10", "10"]


# --- the README -------------------------------------------------------------------------------------------------------
def test_the_readmes_table_is_what_info_shows(gpubp, monkeypatch):
    text = README.read_text(encoding="utf-8")
    example = re.search(r"```python\n(# visits\.py\n.*?)```", text, re.DOTALL)[1]
    exec(compile(example, "visits.py", "exec"), {})
    expected = re.search(r"```text\n( column.*?)```", text, re.DOTALL)[1]
    monkeypatch.setenv("COLUMNS", "96")
    shown = [line.rstrip() for line in gpubp("info", "--data", "visits.csv").stdout.splitlines()[1:] if line.strip()]
    assert shown == [line.rstrip() for line in expected.splitlines()]
