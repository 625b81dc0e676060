"""`gpubp predict`."""

from pathlib import Path

import numpy as np
import pytest
from command_line import FAST, read_csv, read_npz, table, write_csv

from gpubp.training.model import Model


def test_predictions_as_csv_and_npz(gpubp, trained):
    from gpubp.data.loading import load

    digits = load("digits")
    assert "359 predictions" in gpubp("predict", trained, "--data", "digits", "--out", "p.csv").stdout
    gpubp("predict", trained, "--data", "digits", "--out", "p.npz")
    arrays = read_npz("p.npz")
    assert arrays["probabilities"].shape == (359, 10)
    np.testing.assert_allclose(arrays["probabilities"].sum(axis=1), 1, rtol=1e-5)
    assert list(arrays["class_names"]) == list("0123456789")
    model = Model.load(trained)
    np.testing.assert_array_equal(arrays["classes"].astype(int), model.predict(digits.x_test))
    rows = read_csv("p.csv")
    assert [row["class"] for row in rows] == list(arrays["classes"])
    assert float(rows[0]["probability 3"]) == pytest.approx(float(arrays["probabilities"][0, 3]), rel=1e-6)


def test_predictions_for_a_table_without_labels(gpubp):
    write_csv("points.csv", ["a", "b", "side"], table(rows=300))
    gpubp("train", "--out", "run", "--data", "points.csv", "--layers", "8", "--epochs", "40")
    fresh = table(rows=50, seed=9)
    write_csv("fresh.csv", ["b", "note", "a"], [[b, "7", a] for a, b, _ in fresh])
    gpubp("predict", "run", "--data", "fresh.csv", "--out", "p.csv")
    found = [row["class"] for row in read_csv("p.csv")]
    right = sum(name == side for name, (_, _, side) in zip(found, fresh, strict=True))
    assert right >= 45


def test_predictions_of_values(gpubp):
    x = np.random.default_rng(0).normal(size=(100, 2))
    np.savez("data.npz", x=x, y=1000 + 50 * x[:, 0])
    gpubp("train", "--out", "run", "--data", "data.npz", "--layers", "none", "--epochs", "60", "--lr", "0.05")
    np.savez("fresh.npz", x=np.array([[0.0, 0.0], [1.0, 0.0]]))
    gpubp("predict", "run", "--data", "fresh.npz", "--out", "p.npz")
    np.testing.assert_allclose(read_npz("p.npz")["values"], [[1000], [1050]], atol=5)
    gpubp("predict", "run", "--data", "fresh.npz", "--out", "p.csv")
    assert read_csv("p.csv")[0].keys() == {"value 1"}


def test_predictions_that_cannot_be_written(refused, trained, tmp_path):
    (tmp_path / "file").write_text("precious")
    refused("predict", trained, "--data", "digits", "--out", "p.txt", message="--out was 'p.txt'")
    message = ["--out was 'file/p.csv'", "in a folder that exists"]
    refused("predict", trained, "--data", "digits", "--out", "file/p.csv", message=message)
    # before the work: what is missing besides is not even looked for
    refused("predict", "none", "--data", "none", "--out", "missing/p.csv", message="--out was 'missing/p.csv'")


def test_predictions_replace_a_file_only_with_force(refused, gpubp, trained):
    for name in ("p.csv", "p.npz"):
        Path(name).write_text("precious")
        message = f"--out was '{name}'; it must be a new file; --force replaces this one"
        # before the work: the model is not even looked for
        refused("predict", "no-model", "--data", "digits", "--out", name, message=message)
        gpubp("predict", trained, "--data", "digits", "--out", name, "--force")
        assert Path(name).stat().st_size > 1000
    Path("folder.csv").mkdir()
    message = "--out was 'folder.csv'; it must be a new file"
    refused("predict", trained, "--data", "digits", "--out", "folder.csv", "--force", message=message)


FORMULAS = (
    '=HYPERLINK("http://evil","click")',
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "-",
)
NO_FORMULAS = ("-1", "+1", "-.5e-3", "3", "a=b", "e-mail", "x@y", "'quoted", " = 1", "")


def test_class_names_reach_a_spreadsheet_as_text(gpubp):
    """Names that begin like a formula get an apostrophe, except numbers; --raw keeps them."""
    names = [*FORMULAS, *NO_FORMULAS]
    names.remove("")  # no label is missing
    rng = np.random.default_rng(0)
    np.savez(
        "data.npz",
        x=np.repeat(np.eye(len(names)), 6, axis=0) + 1e-3 * rng.normal(size=(6 * len(names), len(names))),
        y=np.repeat(names, 6),
    )
    gpubp("train", "--out", "run", "--data", "data.npz", "--layers", "32", "--epochs", "60", "--lr", "0.02")
    gpubp("predict", "run", "--data", "data.npz", "--out", "quoted.csv")
    gpubp("predict", "run", "--data", "data.npz", "--out", "raw.csv", "--raw")
    gpubp("predict", "run", "--data", "data.npz", "--out", "p.npz")
    quoted, raw = ([row["class"] for row in read_csv(name)] for name in ("quoted.csv", "raw.csv"))
    assert raw == read_npz("p.npz")["classes"].tolist()
    assert set(raw) == set(names)
    assert quoted == [f"'{name}" if name in FORMULAS else name for name in raw]
    # the other cells of the file begin with a digit or a letter, or are numbers
    assert all(name[:1].isalpha() for name in read_csv("quoted.csv")[0])


def test_negative_values_are_numbers_and_stay_so(gpubp):
    x = np.random.default_rng(0).normal(size=(60, 2))
    np.savez("data.npz", x=x, y=-100 + x[:, 0])
    gpubp("train", "--out", "run", "--data", "data.npz", *FAST)
    gpubp("predict", "run", "--data", "data.npz", "--out", "p.csv")
    assert all(float(row["value 1"]) < 0 for row in read_csv("p.csv"))


def test_predictions_never_replace_their_data(refused, gpubp):
    write_csv("points.csv", ["a", "b", "label"], table(rows=60))
    gpubp("train", "--out", "run", "--data", "points.csv", *FAST)
    message = "--out was 'points.csv'; it must be another file than the data"
    for force in ([], ["--force"]):
        refused("predict", "run", "--data", "./points.csv", "--out", "points.csv", *force, message=message)
