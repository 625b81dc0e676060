"""`gpubp evaluate`."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import FAST, history, judged, table, write_csv

from gpubp.training.model import Model


def test_evaluate_judges_the_test_part(gpubp, trained):
    rows = history(trained)
    for arguments in ([trained], [trained / "model.safetensors", "--data", "digits"]):
        text = gpubp("evaluate", *arguments).stdout
        assert "digits, the test part" in text
        assert f"{100 * float(rows[-1]['test_accuracy']):.2f} %" in text
        assert "recall" in text


def test_evaluate_splits_a_table_as_training_did(gpubp):
    """The rows that were trained on must not be judged; other data is judged whole."""
    write_csv("points.csv", ["a", "b", "side"], table(rows=100))
    gpubp("train", "--out", "run", "--data", "points.csv", *FAST, "--seed", "3", "--test-fraction", "0.3")
    # A long path is folded, and the words after it.
    text = " ".join(gpubp("evaluate", "run").stdout.split())
    assert "30 examples" in text
    accuracy = float(history("run")[-1]["test_accuracy"])
    assert f"{100 * accuracy:.2f} %" in text
    write_csv("more.csv", ["a", "b", "side"], table(rows=50, seed=5))
    assert "50 examples" in " ".join(gpubp("evaluate", "run", "--data", "more.csv").stdout.split())


def warned(result):
    """The warnings of a result, without what it notes besides."""
    lines = result.stderr.splitlines()
    return "".join(line.removeprefix("warning: ") for line in lines if line.startswith("warning: "))


def spelled(path):
    """Other names of a file: the first of each way."""
    os.symlink(path, "symlink.csv")
    os.link(path, "hardlink.csv")
    shutil.copy(path, "copy.csv")
    return {
        "relative": path, "with a dot": f"./{path}", "absolute": os.path.abspath(path),
        "around": f"../{Path.cwd().name}/{path}", "a symlink": "symlink.csv",
        "a hard link": "hardlink.csv", "a copy": "copy.csv",
    }  # fmt: skip


def test_evaluate_knows_the_data_of_the_training_by_whatever_name(gpubp):
    """A copy, too: its training rows must not be judged."""
    write_csv("points.csv", ["a", "b", "side"], table(rows=100))
    gpubp("train", "--out", "run", "--data", "points.csv", "--seed", "3", "--test-fraction", "0.3", *FAST)
    for name in spelled("points.csv").values():
        found = gpubp("evaluate", "run", "--data", name)
        assert judged(found)[1] == "30", name
        assert judged(found)[0].endswith("the test part")
        assert warned(found) == ""


def test_evaluate_refuses_the_data_of_the_training_once_it_has_changed(gpubp, refused):
    """A row more redraws the split, and rows that were trained on would be judged as if they were new."""
    rows = table(rows=100)
    changes = {
        "a row more": [*rows, *table(rows=1, seed=1)],
        "a row less": rows[:-1],
        "another order": rows[::-1],
        "another value": [["9.5", *rows[0][1:]], *rows[1:]],
        "another label": [[*rows[0][:2], "left" if rows[0][2] == "right" else "right"], *rows[1:]],
        "too few": [rows[0]],
    }
    write_csv("points.csv", ["a", "b", "side"], rows)
    gpubp("train", "--out", "run", "--data", "points.csv", *FAST)
    names = [name for spelling, name in spelled("points.csv").items() if spelling != "a copy"]
    for change, changed in changes.items():
        write_csv("points.csv", ["a", "b", "side"], changed)
        some = names if change == "a row more" else names[:1]
        for arguments in ([], *(["--data", name] for name in some)):
            refused("evaluate", "run", *arguments, message=[".csv has changed since", "--whole", "--data"])
        found = gpubp("evaluate", "run", "--whole")
        assert judged(found)[1] == str(len(changed)), change
        assert judged(found)[0].endswith("all rows")
        # in another place it is other data, with rows of the training in it
        write_csv("other.csv", ["a", "b", "side"], changed)
        found = gpubp("evaluate", "run", "--data", "other.csv")
        assert judged(found)[1] == str(len(changed))
        warning = "% of the rows that the model was trained on are in "
        assert warning in warned(found) or change == "too few"
    write_csv("other.csv", ["a", "b", "side"], [*rows[:50], *table(rows=500, seed=1)])
    share = int(re.match(r"about (\d+) %", warned(gpubp("evaluate", "run", "--data", "other.csv")))[1])
    assert 30 <= share <= 70
    write_csv("other.csv", ["a", "b", "side"], table(rows=500, seed=1))
    assert warned(gpubp("evaluate", "run", "--data", "other.csv")) == ""


def test_evaluate_the_whole_of_data_with_a_test_part(gpubp, trained):
    assert judged(gpubp("evaluate", trained, "--whole")) == ("digits, all rows", "1,797")


def test_evaluate_says_that_nothing_was_held_out(gpubp):
    write_csv("points.csv", ["a", "b", "side"], table(rows=60))
    gpubp("train", "--out", "run", "--data", "points.csv", "--test-fraction", "0", *FAST)
    found = gpubp("evaluate", "run")
    assert warned(found).startswith("no rows were held out from training")
    assert judged(found)[0].endswith("the training part")
    assert judged(found)[1] == "60"


def test_evaluate_a_model_of_an_earlier_version(gpubp):
    """It has no fingerprint: the split is made again, and what that may miss is said."""
    write_csv("points.csv", ["a", "b", "side"], table(rows=100))
    gpubp("train", "--out", "run", "--data", "points.csv", *FAST)
    model = Model.load("run")
    origin = {name: value for name, value in model.origin.items() if name != "fingerprint"}
    replace(model, origin=origin).save("run/model.safetensors")
    for arguments in ([], ["--data", "points.csv"]):
        found = gpubp("evaluate", "run", *arguments)
        assert warned(found).startswith("an earlier version wrote this model, without a fingerprint")
        assert judged(found)[1] == "20"


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": 5}, {"test_fraction": "0.2"}, {"test_fraction": 2}, {"seed": -1}, {"seed": "x"}, {"fingerprint": 3},
        {"sample": 3}, {"sample": [[]]}, {"sample": {"a": 1}}, {"label": [0]}, {"header": 1}, {"keep_index": "yes"},
        {"label": ["a", [0]]}, {"label": {"a": 0}}, {"weight_column": ["w", "v"]}, {"weight_column": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_evaluate_a_model_whose_origin_no_run_wrote(refused, trained, wrong):
    model = Model.load(trained)
    replace(model, origin={**model.origin, **wrong}).save("wrong.safetensors")
    message = f"the model's origin is none that a run wrote: its {next(iter(wrong))} is "
    refused("evaluate", "wrong.safetensors", message=message)
    refused("evaluate", "wrong.safetensors", "--data", "digits", message=message)
    refused("predict", "wrong.safetensors", "--data", "digits", "--out", "p.csv", message=message)


def test_evaluate_takes_the_label_column_of_the_training_elsewhere_too(gpubp):
    def write(name, seed):
        write_csv(name, ["side", "a", "b"], [[side, a, b] for a, b, side in table(rows=50, seed=seed)])

    write("points.csv", 0)
    write("others.csv", 1)
    gpubp("train", "--out", "run", "--data", "points.csv", "--label", "side", *FAST)
    assert judged(gpubp("evaluate", "run", "--data", "others.csv"))[1] == "50"


def test_evaluate_finds_a_tables_columns_by_name(gpubp):
    rows = table(rows=60)
    write_csv("points.csv", ["a", "b", "label"], rows)
    gpubp("train", "--out", "run", "--data", "points.csv", "--test-fraction", "0", *FAST)
    accuracy = float(history("run")[-1]["train_accuracy"])
    write_csv("turned.csv", ["label", "b", "note", "a"], [[side, b, 7, a] for a, b, side in rows])
    assert f"{100 * accuracy:.2f} %" in gpubp("evaluate", "run", "--data", "turned.csv").stdout


def test_evaluate_other_numbers_of_features_or_values(refused, gpubp):
    x = np.random.default_rng(0).normal(size=(40, 3))
    for name, features, values in (("data", x, x[:, 0]), ("wide", np.hstack([x, x]), x[:, 0]), ("many", x, x[:, :2])):
        np.savez(f"{name}.npz", x=features, y=values)
    gpubp("train", "--out", "run", "--data", "data.npz", *FAST)
    refused("evaluate", "run", "--data", "wide.npz", message=["wide.npz", "6 features", "reads 3"])
    refused("evaluate", "run", "--data", "many.npz", message=["many.npz", "2 values", "predicts 1"])


def test_evaluate_values(gpubp):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    np.savez("data.npz", x=x, y=np.stack([1000 + 50 * x[:, 0], x[:, 1] - x[:, 2]], axis=1))
    gpubp("train", "--out", "run", "--data", "data.npz", "--layers", "none", "--epochs", "40", "--lr", "0.02")
    text = gpubp("evaluate", "run").stdout
    assert "root mean square error" in text
    assert "R²" in text
    lines = [line.split() for line in text.splitlines()]
    scores = [float(line[3]) for line in lines if len(line) == 4 and line[0] in "12"]
    assert len(scores) == 2
    assert min(scores) > 0.999


def test_evaluate_needs_a_model(refused, tmp_path, trained):
    refused("evaluate", "missing.safetensors", message="missing.safetensors")
    (tmp_path / "empty").mkdir()
    refused("evaluate", "empty", message="empty/model.safetensors")
    data = (trained / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-100])
    refused("evaluate", "cut.safetensors", message=["cut.safetensors", "damaged"])


def test_data_of_other_classes_or_features(refused, trained):
    write_csv("points.csv", ["a", "b", "side"], table())
    refused("evaluate", trained, "--data", "points.csv", message="points.csv")
    np.savez("points.npz", x=np.ones((3, 5)))
    refused("predict", trained, "--data", "points.npz", "--out", "p.csv", message=["5", "64"])


def test_a_bare_network_is_no_model(refused, tmp_path):
    from gpubp import Network

    Network([64, 10]).save(tmp_path / "bare.safetensors")
    refused("evaluate", "bare.safetensors", message="without its data's scaling")
