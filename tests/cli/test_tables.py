"""Tables as people have them, from the training to the predictions."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from command_line import FAST, history, table, write_csv, write_lines

from gpubp.training.model import Model


def accuracy_of(result):
    return next(line for line in result.stdout.splitlines() if "accuracy" in line).split("accuracy")[1].strip()


def test_columns_without_names_match_by_position(gpubp, refused):
    rows = table(rows=100)
    write_lines("last.csv", rows)
    write_lines("first.csv", [[side, a, b] for a, b, side in rows])
    write_csv("named.csv", ["", "a", "b", "label"], [[i, *row] for i, row in enumerate(rows)])
    write_lines("wide.csv", [["1", *row] for row in rows])
    gpubp("train", "--out", "run", "--data", "last.csv", "--test-fraction", "0", "--epochs", "20")
    expected = accuracy_of(gpubp("evaluate", "run", "--data", "last.csv", "--whole"))
    assert float(expected.split()[0]) > 85
    assert accuracy_of(gpubp("evaluate", "run", "--data", "first.csv", "--label", "0", "--whole")) == expected
    assert accuracy_of(gpubp("evaluate", "run", "--data", "named.csv", "--whole")) == expected
    refused("evaluate", "run", "--data", "wide.csv", message=["wide.csv: it has 3 features", "the model reads 2"])
    gpubp("predict", "run", "--data", "last.csv", "--out", "last-out.csv")
    gpubp("predict", "run", "--data", "first.csv", "--label", "0", "--out", "first-out.csv")
    assert Path("last-out.csv").read_text() == Path("first-out.csv").read_text()


def test_how_a_table_is_written_is_kept_with_the_model(gpubp, refused, tmp_path):
    rows = [["1,5".replace(",", ""), b, side.replace("left", "zurück")] for _, b, side in table(rows=60)]
    write_lines("t.csv", rows, ":", "latin-1")
    options = ("--header", "no", "--delimiter", ":", "--encoding", "latin-1")
    refused("train", "--data", "t.csv", message=["t.csv: it is not UTF-8 text", "--encoding"])
    gpubp("train", "--out", "run", "--data", "t.csv", *options, *FAST)
    gpubp("train", "--resume", "run", "--epochs", "3")
    assert 'header = "no"' in Path("run/config.toml").read_text()
    assert "12 examples" in " ".join(gpubp("evaluate", "run").stdout.split())
    assert "12 examples" in " ".join(gpubp("evaluate", "run", "--data", "t.csv", "--header", "no").stdout.split())
    assert "60 predictions" in gpubp("predict", "run", "--data", "t.csv", "--out", "p.csv").stdout
    gpubp("gradcheck", "--data", "t.csv", *options)
    write_lines("other.csv", rows, ";")
    changed = ("--delimiter", "semicolon", "--encoding", "utf-8")
    # The same values are the same data: its test part.
    assert "12 examples" in " ".join(gpubp("evaluate", "run", "--data", "other.csv", *changed).stdout.split())
    assert "60 predictions" in gpubp("predict", "run", "--data", "other.csv", *changed, "--out", "q.csv").stdout


def test_what_was_guessed_is_said(gpubp):
    write_csv("t.csv", ["", "a", "b", "side"], [[i, *row] for i, row in enumerate(table(rows=60))])
    notes = [
        "note: first line taken as header",
        "note: label: column 'side' (the last)",
        "note: left out the unnamed first column, an index of the rows (--keep-index takes it)",
    ]
    shown = gpubp("train", "--out", "run", "--data", "t.csv", *FAST).stdout.splitlines()
    assert shown[1:5] == [*notes, "note: task: classification (2 different texts)"]
    assert gpubp("gradcheck", "--data", "t.csv").stderr.splitlines() == shown[1:5]
    notes[1] = "note: label: column 'side'"
    assert gpubp("evaluate", "run").stderr.splitlines() == notes
    notes[1] = "note: left out the label: column 'side'"
    assert gpubp("predict", "run", "--data", "t.csv", "--out", "p.csv").stderr.splitlines() == notes
    assert "note" not in gpubp("train", "--out", "kept", *FAST).output


def test_an_index_of_the_rows_is_no_input_unless_asked_for(gpubp):
    rows = [[i, 1, ("left", "right")[i > 50]] for i in range(100)]
    write_csv("t.csv", ["", "a", "side"], rows)
    gpubp("train", "--out", "run", "--data", "t.csv", *FAST)
    assert Model.load("run").feature_names == ("a",)
    gpubp("train", "--out", "kept", "--data", "t.csv", "--keep-index", *FAST)
    assert Model.load("kept").feature_names == ("Unnamed: 0", "a")
    gpubp("evaluate", "kept")


def test_an_input_that_moves_for_the_first_time_is_ignored_and_named(gpubp):
    x = np.random.default_rng(0).normal(size=(300, 3))
    y = x[:, 0] + x[:, 1] > 0
    x[:, 2] = 7
    rows = [[*map(str, row), label] for row, label in zip(x.tolist(), y.tolist(), strict=True)]
    write_csv("still.csv", ["a", "b", "c", "label"], rows)
    write_csv("moved.csv", ["a", "b", "c", "label"], [[a, b, 255, label] for a, b, _, label in rows])
    gpubp("train", "--out", "run", "--data", "still.csv", "--layers", "8", "--epochs", "20")
    still, moved = (gpubp("evaluate", "run", "--data", f"{name}.csv", "--whole") for name in ("still", "moved"))
    assert accuracy_of(still) == accuracy_of(moved)
    warning = "warning: input 'c', which was constant in training, moved in 300 of 300 rows here; what moved is ignored"
    assert warning in moved.stderr.splitlines()
    assert "warning" not in still.stderr
    assert warning in gpubp("predict", "run", "--data", "moved.csv", "--out", "p.csv").stderr.splitlines()
    np.savez("parts.npz", x=x, y=y, x_test=x * [1, 1, 2], y_test=y)
    assert (
        "the test part: input 2, which was constant"
        in gpubp("train", "--out", "r", "--data", "parts.npz", *FAST).stderr
    )


@pytest.mark.parametrize(("link", "target"), [("t.csv", "cache/5d41"), ("link", "t.csv")])
def test_every_verb_takes_a_link_whose_target_is_called_otherwise(gpubp, link, target):
    Path("cache").mkdir()
    write_csv(target, ["a", "b", "side"], table(rows=60))
    Path(link).symlink_to(target)
    gpubp("train", "--out", "run", "--data", link, *FAST)
    gpubp("evaluate", "run")
    gpubp("evaluate", "run", "--data", link)
    gpubp("predict", "run", "--data", link, "--out", "p.csv")
    gpubp("gradcheck", "--data", link)


@pytest.mark.parametrize("data", ["a\udcff.csv", "a\0b.csv", "x" * 256 + ".csv", "x" * 256, "pipe.csv", "/dev/zero"])
def test_data_that_is_no_file_leaves_no_folder(refused, trained, data):
    os.mkfifo("pipe.csv")
    message = "/dev/zero" if data == "/dev/zero" else "regular file" if data == "pipe.csv" else "called"
    refused("train", "--data", data, message=message)
    refused("gradcheck", "--data", data, message=message)
    refused("evaluate", trained, "--data", data, message=message)
    refused("predict", trained, "--data", data, "--out", "p.csv", message=message)


def test_how_a_table_is_written_is_refused_for_what_is_none(refused, trained):
    for verb in (("train",), ("gradcheck",), ("evaluate", trained), ("predict", trained, "--out", "p.csv")):
        message = ["--header was 'no'", "left out for 'digits': only a table"]
        refused(*verb, "--data", "digits", "--header", "no", message=message)
    refused("train", "--data", "t.csv", "--header", "perhaps", message=["--header was 'perhaps'", "auto, yes, no"])
    refused("train", "--data", "t.csv", "--encoding", "utf-99", message="--encoding was 'utf-99'")
    refused("train", "--data", "t.csv", "--delimiter", "dash", message="--delimiter was 'dash'")


def test_a_damaged_archive_and_damaged_images(refused, tmp_path):
    np.savez("data.npz", x=np.ones((9, 2)), y=np.arange(9))
    (tmp_path / "data.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:-40])
    refused("train", "--data", "data.npz", message="data.npz")
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\0" * 40)[:-8])
    refused("train", "--data", "images", message="train-images")


def test_a_loss_for_classes_and_values_to_predict(refused, tmp_path):
    np.savez("data.npz", x=np.ones((20, 2)), y=np.linspace(0, 1, 20))
    refused("train", "--data", "data.npz", "--loss", "softmax_cross_entropy", message="--loss was")


def test_a_batch_larger_than_the_data_is_one_batch(gpubp):
    gpubp("train", "--out", "run", "--layers", "8", "--epochs", "1", "--batch-size", "100000")
    assert history("run")[0]["steps"] == "1"


def test_a_traceback_is_there_on_request(gpubp, monkeypatch):
    monkeypatch.setenv("GPUBP_DEBUG", "1")
    with pytest.raises(ValueError, match="--layers"):
        gpubp("train", "--layers", "x")
