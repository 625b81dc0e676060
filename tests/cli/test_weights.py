"""Weights of examples and of classes, from the training to the judgement."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import FAST, history, judged, read_csv, table, write_csv

from gpubp.data.loading import load
from gpubp.training.model import Model


def weighted_table(path="w.csv", rows=100, seed=0, weights=lambda i: i % 4):
    """Points with weights in their second column."""
    rows = [[a, weights(i), b, side] for i, (a, b, side) in enumerate(table(rows=rows, seed=seed))]
    write_csv(path, ["a", "w", "b", "side"], rows)
    return rows


def accuracy_of(result):
    return float(re.search(r"accuracy\s+([\d.]+) %", result.stdout)[1])


def test_weights_go_from_the_table_to_the_judgement(gpubp):
    weighted_table()
    shown = gpubp("train", "--out", "run", "--data", "w.csv", "--weight-column", "w", *FAST).stdout.splitlines()
    assert shown[0].endswith("80 training and 20 test examples, 2 features, 2 classes, weighted")
    assert "note: weights: column 'w'" in shown
    model = Model.load("run")
    assert model.feature_names == ("a", "b")
    assert model.origin["weight_column"] == "w"
    found = gpubp("evaluate", "run")
    assert judged(found) == (judged(found)[0], "20")
    assert "20 examples, weighted" in " ".join(found.stdout.split())
    assert accuracy_of(found) == pytest.approx(100 * float(history("run")[-1]["test_accuracy"]), abs=0.006)

    data = load("w.csv", weight_column="w", test_fraction=0)
    right = model.predict(data.x_train) == data.y_train
    whole = gpubp("evaluate", "run", "--whole")
    assert accuracy_of(whole) == pytest.approx(100 * np.average(right, weights=data.weight_train), abs=0.006)
    assert f"({right.sum()} right)" in whole.stdout
    of_left = data.y_train == 0
    recall = np.average(right[of_left], weights=data.weight_train[of_left])
    assert f"{100 * recall:.2f} %" in next(line for line in whole.stdout.splitlines() if "left" in line)


def test_weights_change_what_is_learnt(gpubp):
    """The examples of one side count a thousand times as much: nearly all is taken for that side."""
    weighted_table("w.csv", 200)
    write_csv(
        "t.csv",
        ["a", "b", "w", "side"],
        [["0", "0", 1000 if i % 2 else 1, "yes" if i % 2 else "no"] for i in range(60)],
    )
    gpubp("train", "--out", "run", "--data", "t.csv", "--weight-column", "w", "--epochs", "20", "--lr", "0.1")
    gpubp("predict", "run", "--data", "t.csv", "--out", "p.csv")
    assert {row["class"] for row in read_csv("p.csv")} == {"yes"}
    assert float(read_csv("p.csv")[0]["probability yes"]) > 0.9


def test_other_data_may_have_other_weights_or_none(gpubp, refused):
    weighted_table()
    gpubp("train", "--out", "run", "--data", "w.csv", "--weight-column", "1", *FAST)
    weighted_table("more.csv", 50, seed=5)
    assert "50 examples, weighted" in " ".join(gpubp("evaluate", "run", "--data", "more.csv").stdout.split())
    rows = weighted_table("named.csv", 50, seed=5)
    write_csv("named.csv", ["a", "heavy", "b", "side"], rows)
    found = gpubp("evaluate", "run", "--data", "named.csv", "--weight-column", "heavy")
    expected = gpubp("evaluate", "run", "--data", "more.csv").stdout.split()
    assert found.stdout.replace("named", "more").split() == expected
    unweighted = gpubp("evaluate", "run", "--data", "named.csv")
    assert "note: no weights: the column w of the training is not there" in unweighted.stderr.splitlines()
    assert "weighted" not in unweighted.stdout
    refused("evaluate", "run", "--data", "more.csv", "--weight-column", "a", message="'a' is an input of the model")
    refused("evaluate", "run", "--data", "more.csv", "--weight-column", "v", message="there is no column 'v'")


def test_predictions_leave_the_weights_out_and_do_not_need_them(gpubp):
    weighted_table()
    gpubp("train", "--out", "run", "--data", "w.csv", "--weight-column", "w", *FAST)
    gpubp("predict", "run", "--data", "w.csv", "--out", "with.csv")
    write_csv("bare.csv", ["b", "a"], [[b, a] for a, _, b, _ in weighted_table()])
    gpubp("predict", "run", "--data", "bare.csv", "--out", "without.csv")
    assert Path("with.csv").read_bytes() == Path("without.csv").read_bytes()


def test_columns_without_names(gpubp, refused):
    rows = weighted_table()
    Path("t.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    gpubp("train", "--out", "run", "--data", "t.csv", "--weight-column", "1", *FAST)
    assert Model.load("run").origin["weight_column"] == 1
    assert "20 examples, weighted" in " ".join(gpubp("evaluate", "run").stdout.split())
    gpubp("predict", "run", "--data", "t.csv", "--out", "p.csv")
    Path("u.csv").write_text("".join(",".join(map(str, (a, b, side))) + "\n" for a, _, b, side in rows))
    refused("predict", "run", "--data", "u.csv", "--out", "q.csv", message="--label or --weight-column says which")
    gpubp("predict", "run", "--data", "u.csv", "--label", "-1", "--out", "q.csv")
    assert Path("p.csv").read_bytes() == Path("q.csv").read_bytes()


def test_weights_of_an_archive(gpubp, refused):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(60, 2)), rng.integers(0, 3, 60)
    parts = {"x": x[:40], "y": x[:40].sum(axis=1) > 0, "x_test": x[40:], "y_test": x[40:].sum(axis=1) > 0}
    np.savez("t.npz", w=w[:40], w_test=w[40:], **parts)
    gpubp("train", "--out", "run", "--data", "t.npz", "--weight-column", "w", *FAST)
    assert "20 examples, weighted" in " ".join(gpubp("evaluate", "run").stdout.split())
    gpubp("predict", "run", "--data", "t.npz", "--out", "p.csv")
    np.savez("half.npz", w=w[:40], **parts)
    message = "half.npz: the examples of x_test have no weights; beside 'w' it must hold 'w_test'"
    refused("train", "--data", "half.npz", "--weight-column", "w", *FAST, message=message)
    np.savez("plain.npz", **parts)
    assert "no weights: the array 'w' of the training" in gpubp("evaluate", "run", "--data", "plain.npz").stderr
    # the weights of an archive are no inputs, so a model that was trained without them can be judged with them
    gpubp("train", "--out", "unweighted", "--data", "t.npz", *FAST)
    found = gpubp("evaluate", "unweighted", "--weight-column", "w")
    assert "the test part: 20 examples, weighted" in " ".join(found.stdout.split())


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("-1", "w.csv, line 4: the weight column 'w' is -1; a weight must be finite and at least 0"),
        ("nan", "w.csv, line 4: the weight column 'w' is 'nan'; weights must be finite numbers"),
        ("much", "w.csv, line 4: the weight column 'w' is 'much'"),
    ],
)
def test_wrong_weights_are_refused(refused, cell, message):
    weighted_table(weights=lambda i: cell if i == 2 else 1)
    refused("train", "--data", "w.csv", "--weight-column", "w", *FAST, message=message)


def test_weights_that_data_cannot_have(refused):
    refused("train", "--weight-column", "w", *FAST, message="--weight-column was 'w'; it must be left out for 'digits'")
    weighted_table(weights=lambda i: 0)
    refused("train", "--data", "w.csv", "--weight-column", "w", *FAST, message="holds nothing but 0")


def test_a_run_with_weights_is_resumed(gpubp, refused):
    weighted_table()
    options = ("--data", "w.csv", "--weight-column", "w", "--class-weight", "left=3", *FAST, "--epochs", "4")
    gpubp("train", "--out", "whole", *options)
    gpubp("train", "--out", "run", *options[:-1], "2")
    gpubp("train", "--resume", "run", "--epochs", "4", "--reschedule")
    assert history("run")[0].keys() == history("whole")[0].keys()
    assert [row["epoch"] for row in history("run")] == list("1234")
    settings = tomllib.loads(Path("run/config.toml").read_text())
    assert settings["settings"]["weight_column"] == "w"
    assert settings["settings"]["class_weight"] == "left=3"
    assert settings["resolved"]["class_weights"] == [3.0, 1.0]
    gpubp("train", "--out", "again", "--config", "run/config.toml")
    assert history("again") == history("whole")
    message = "--class-weight was 'left=2'; it must be left out, or 'left=3' as in the run that is resumed"
    refused("train", "--resume", "run", "--class-weight", "left=2", message=message)
    refused("train", "--resume", "run", "--weight-column", "b", message="--weight-column was 'b'")
    weighted_table(weights=lambda i: i % 5)
    refused("train", "--resume", "run", "--epochs", "5", message="was trained on other data than")
    refused("evaluate", "run", message="w.csv has changed since the model was trained on it")


def test_class_weights(gpubp):
    rows = [row for i, row in enumerate(table(rows=400)) if row[2] == "left" or i % 10 == 0]
    write_csv("t.csv", ["a", "b", "side"], rows)
    counts = np.array([sum(row[2] == side for row in rows) for side in ("left", "right")])
    shown = gpubp(
        "train", "--out", "run", "--data", "t.csv", "--class-weight", "balanced", "--test-fraction", "0", *FAST
    )
    expected = counts.sum() / (2 * counts)
    assert f"class weights: left {expected[0]:.4g}, right {expected[1]:.4g}" in shown.stdout.splitlines()
    assert "class weights" not in gpubp("train", "--out", "plain", "--data", "t.csv", *FAST).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--class-weight", "1,2,3"), "--class-weight has 3 numbers; it must have one for each of the 2 classes"),
        (("--class-weight", "lift=2"), "--class-weight was 'lift'; it must be by the names of the classes left, right"),
        (("--class-weight", "heavy"), "--class-weight was 'heavy'; it must be balanced, a number for each class"),
        (("--class-weight", "1,-2"), "class_weight of 1 was -2.0; it must be a finite number ≥ 0"),
        (("--class-weight", "0,0"), "--class-weight is 0 for every class"),
        (
            ("--class-weight", "2", "--label", "a"),
            ["--class-weight was given; it must be left out: ", "t.csv is regression"],
        ),
    ],
)
def test_class_weights_that_are_refused(refused, options, message):
    write_csv("t.csv", ["a", "b", "side"], table(rows=60))
    if "--label" in options:
        write_csv("t.csv", ["a", "b"], [row[:2] for row in table(rows=60)])
    refused("train", "--data", "t.csv", *FAST, *options, message=message)
