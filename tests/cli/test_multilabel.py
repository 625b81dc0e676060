"""Several labels an example, from the training to the predictions."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import FAST, history, read_csv, read_npz, write_csv

from gpubp.data.loading import load
from gpubp.training import plots
from gpubp.training.model import Model

LABELS = ("wet", "cold", "=dark")


def rows_of(rows=120, seed=0):
    """Rows of a CSV file: two numbers, and three labels that they decide."""
    x = np.random.default_rng(seed).normal(size=(rows, 2))
    truths = np.stack([x[:, 0] > 0, x[:, 1] > 0, x.sum(axis=1) > 0.5], axis=1).astype(int)
    return [
        [f"{a:.4f}", wet, f"{b:.4f}", cold, dark] for (a, b), (wet, cold, dark) in zip(x, truths.tolist(), strict=True)
    ]


def write_table(path="t.csv", **options):
    rows = rows_of(**options)
    write_csv(path, ["a", "wet", "b", "cold", "=dark"], rows)
    return rows


TRAIN = ("train", "--data", "t.csv", "--label", "wet,cold,=dark")


def test_labels_go_from_the_table_to_the_predictions(gpubp):
    rows = write_table()
    shown = gpubp(*TRAIN, "--out", "run", "--layers", "16", "--epochs", "40", "--lr", "0.02").stdout.splitlines()
    assert shown[0].endswith("96 training and 24 test examples, 2 features, 3 labels, each 0 or 1")
    assert "note: labels: columns 'wet', 'cold', '=dark'" in shown
    assert "note: task: multilabel (rows of 0 and 1; --task regression overrules)" in shown
    assert any("binary_cross_entropy" in line for line in shown)
    assert any(line.startswith("epoch 40/40") and "test label accuracy" in line for line in shown)
    assert any(line.split()[:3] == ["test", "label", "accuracy"] for line in shown)
    assert float(history("run")[-1]["test_accuracy"]) > 0.9
    model = Model.load("run")
    assert (model.task, model.class_names, model.feature_names) == ("multilabel", LABELS, ("a", "b"))
    settings = tomllib.loads(Path("run/config.toml").read_text())
    assert settings["settings"]["label"] == "wet,cold,=dark"
    assert settings["resolved"]["loss"] == "binary_cross_entropy"

    gpubp("predict", "run", "--data", "t.csv", "--out", "p.npz")
    found = read_npz("p.npz")
    data = load("t.csv", label=LABELS, test_fraction=0)
    np.testing.assert_array_equal(found["labels"], model.predict(data.x_train))
    np.testing.assert_array_equal(found["probabilities"], model.predict_proba(data.x_train))
    assert tuple(found["label_names"]) == LABELS
    gpubp("predict", "run", "--data", "t.csv", "--out", "p.csv")
    table = read_csv("p.csv")
    assert list(table[0]) == ["wet", "cold", "'=dark", "probability wet", "probability cold", "probability =dark"]
    assert [row["cold"] for row in table] == [str(each) for each in found["labels"][:, 1]]
    assert float(table[3]["probability =dark"]) == pytest.approx(float(found["probabilities"][3, 2]), rel=1e-6)
    gpubp("predict", "run", "--data", "t.csv", "--out", "raw.csv", "--raw")
    assert list(read_csv("raw.csv")[0])[2] == "=dark"
    # without labels, and with the columns in another order
    write_csv("bare.csv", ["b", "a"], [[b, a] for a, _, b, _, _ in rows])
    gpubp("predict", "run", "--data", "bare.csv", "--out", "bare-out.csv")
    assert Path("bare-out.csv").read_bytes() == Path("p.csv").read_bytes()


def test_the_curves_call_the_accuracy_what_it_is(gpubp, monkeypatch):
    told = {}
    monkeypatch.setattr(plots, "curves", lambda history, *, out, **options: told.update(options))
    write_table()
    gpubp(*TRAIN, "--out", "run", *FAST)
    assert told["accuracy"] == "label accuracy"
    gpubp("train", "--out", "digits", *FAST)
    assert told["accuracy"] == "accuracy"


def test_evaluate_tells_each_label(gpubp):
    write_table()
    gpubp(*TRAIN, "--out", "run", *FAST)
    model, data = Model.load("run"), load("t.csv", label=LABELS, test_fraction=0)
    right = model.predict(data.x_train) == data.y_train
    text = gpubp("evaluate", "run", "--whole").stdout
    shown = " ".join(text.split())
    assert f"label accuracy {100 * right.mean():.2f} % ({right.sum()} right)" in shown
    all_right = right.all(axis=1)
    assert f"all labels right {100 * all_right.mean():.2f} % ({all_right.sum()} examples)" in shown
    for label, name in enumerate(LABELS):
        is_so = data.y_train[:, label] == 1
        line = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert line.split()[1] == str(is_so.sum())
        assert line.split()[2] == f"{100 * right[is_so, label].mean():.2f}"
    test = gpubp("evaluate", "run").stdout
    assert f"{100 * float(history('run')[-1]['test_accuracy']):.2f} %" in test


def test_evaluate_takes_the_labels_of_the_training_elsewhere_too(gpubp, refused):
    rows = write_table()
    gpubp(*TRAIN, "--out", "run", *FAST)
    write_csv("o.csv", ["=dark", "a", "cold", "b", "wet"], [[d, a, c, b, w] for a, w, b, c, d in rows])
    expected = re.search(r"label accuracy.*", gpubp("evaluate", "run", "--whole").stdout)[0]
    for options in ((), ("--label", "cold,=dark,wet")):
        assert expected in gpubp("evaluate", "run", "--data", "o.csv", "--whole", *options).stdout
    refused("evaluate", "run", "--data", "o.csv", "--label", "wet", message="the label columns are wet; those of the")
    write_csv("m.csv", ["a", "b", "wet"], [[a, b, w] for a, w, b, _, _ in rows])
    refused("evaluate", "run", "--data", "m.csv", message="m.csv: the label column 'cold' is missing")


def test_columns_without_names(gpubp):
    rows = write_table()
    Path("t.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    gpubp("train", "--data", "t.csv", "--label", "1,3,4", "--out", "run", *FAST)
    assert Model.load("run").class_names == ("1", "3", "4")
    assert "24 examples" in " ".join(gpubp("evaluate", "run").stdout.split())
    gpubp("predict", "run", "--data", "t.csv", "--out", "p.csv")
    assert "probability 3" in read_csv("p.csv")[0]


def test_labels_of_an_archive_with_weights_and_focal_loss(gpubp):
    rows = rows_of()
    x, y = np.array([[a, b] for a, _, b, _, _ in rows], float), np.array([[w, c, d] for _, w, _, c, d in rows], float)
    np.savez("t.npz", x=x, y=y, w=np.arange(120) % 3)
    options = ("--task", "multilabel", "--loss", "binary_focal_cross_entropy", "--weight-column", "w")
    gpubp("train", "--data", "t.npz", "--out", "run", *options, *FAST, "--validation", "0.2", "--patience", "1")
    found = gpubp("evaluate", "run").stdout
    assert "24 examples, weighted" in " ".join(found.split())
    assert "label accuracy" in found
    gpubp("train", "--resume", "run", "--epochs", "3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--loss", "softmax_cross_entropy"), "--loss was 'softmax_cross_entropy'; it must be binary_cross_entropy or"),
        (
            ("--class-weight", "balanced"),
            ["--class-weight was given; it must be left out: ", "t.csv has several labels an example"],
        ),
        (("--label", "wet,could"), "there is no column 'could'"),
        (
            ("--label", "wet", "--task", "multilabel"),
            "the label column 'wet' has one label an example; multilabel needs",
        ),
        (("--label", "wet,a", "--task", "multilabel"), "line 2: the label 'a' is"),
    ],
)
def test_what_several_labels_cannot_have(refused, options, message):
    write_table()
    refused(*TRAIN, *FAST, *options, message=message)


def test_gradcheck_of_several_labels(gpubp):
    write_table()
    assert "agrees" in gpubp("gradcheck", "--data", "t.csv", "--label", "wet,cold,=dark", "--layers", "4").stdout
