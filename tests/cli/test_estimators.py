"""Models that go between the command line and scikit-learn's estimators."""

import csv

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning

from gpubp.data import load
from gpubp.sklearn import MLPClassifier
from gpubp.training.model import Model

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}")


def test_gpubp_predict_reads_a_saved_estimator(tmp_path, gpubp):
    rng = np.random.default_rng(0)
    x, classes = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
    frame = pd.DataFrame(x, columns=["u", "v", "w"])
    estimator = MLPClassifier(backend="numpy", random_state=0, hidden_layer_sizes=(6,), max_iter=2).fit(
        frame, np.array(["a", "b", "c"])[classes]
    )
    estimator.save(tmp_path / "m.safetensors")
    frame[["w", "u", "v"]].to_csv(tmp_path / "x.csv", index=False)  # found by their names
    gpubp("predict", tmp_path / "m.safetensors", "--data", tmp_path / "x.csv", "--out", tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == list(estimator.predict(frame))
    found = np.array([[float(row[f"probability {name}"]) for name in "abc"] for row in rows])
    np.testing.assert_allclose(found, estimator.predict_proba(frame), rtol=1e-6)


def test_a_run_of_gpubp_train_is_loaded_by_its_folder(trained):
    digits = load("digits")
    estimator = MLPClassifier.load(trained, backend="numpy")
    expected = Model.load(trained, "numpy").evaluate(digits.x_test, digits.y_test).accuracy
    assert estimator.score(digits.x_test, digits.y_test.astype(str)) == pytest.approx(expected)
